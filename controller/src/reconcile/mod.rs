//! The controller in a cluster: one of several leads (by a [`lease`]), takes playbooks, policies and rules from the API server, shows
//! what it knows there, hears what people answer, and keeps the journal of effects there, too. The core stays the one engine; all of
//! this feeds it and mirrors it. docs/kubernetes.md tells how it hangs together.

mod actions;
mod again;
mod captures;
mod endpoint;
mod equipment;
mod fence;
mod follow;
mod gather;
mod guard;
mod inputs;
mod joined;
mod journal;
mod keys;
mod leading;
pub mod lease;
mod logs;
mod mirror;
mod narratives;
mod nodes;
mod object;
mod orphans;
mod people;
mod probes;
mod reach;
mod reports;
mod rules;
mod serving;
mod show;
mod skew;
mod steady;
mod succession;
mod tell;
mod unread;
mod vigil;

use std::{io, net::SocketAddr, time::Duration};

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::link::LinkError;

pub use self::endpoint::ServiceConfig;
pub use self::keys::{AUDIENCE, AUTHORITY_NAME, AuthorityError};
use self::{
    lease::{Election, LeaseConfig},
    probes::{Probed, Stage},
};
use crate::{
    ControllerConfig, StartError,
    ingest::{IngestError, SourceSpec},
};

/// What a controller in a cluster is started with.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Our own namespace: Lease, authority, and the objects of what is in no pod that is known.
    pub namespace: String,
    /// Who we are in the election: unique to this process.
    pub identity: String,
    /// Where agents connect.
    pub links: SocketAddr,
    /// Where probes and metrics are served.
    pub probes: SocketAddr,
    /// Service account of the agents: `namespace/name`.
    pub agents: String,
    /// The Service that sends agents to whoever leads, where there is one.
    pub service: Option<ServiceConfig>,
    /// How long an agent's certificate is valid.
    pub certificate_life: Duration,
    /// The election.
    pub lease: LeaseConfig,
    /// Logs that are followed here: the API server's audit log, an identity provider's.
    pub sources: Vec<SourceSpec>,
    /// Where people are told.
    pub channels: Vec<act::Channel>,
    /// What looks for known vulnerabilities in images.
    pub scanner: Option<act::Scanner>,
}

/// Why a controller in a cluster ended.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server does not say who we are.
    #[error("the API server does not say who we are: {because}")]
    Identity {
        /// Why not.
        because: String,
    },
    /// There is no authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] wire::identity::IdentityError),
    /// Agents cannot be listened for.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// The probes' address is taken.
    #[error("cannot serve probes on {address}: {source}")]
    Probes {
        /// Which.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The controller itself does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A log cannot be followed.
    #[error(transparent)]
    Source(#[from] IngestError),
    /// Another one leads: this one has stopped, and a restart stands by.
    #[error("{to} leads now")]
    Deposed {
        /// Who.
        to: String,
    },
    /// The lease could not be renewed for so long that another one may lead: this one has stopped, and nodes look for another.
    #[error("the lease ran out {after:?} ago and could not be renewed")]
    Unled {
        /// How long it was waited for.
        after: Duration,
    },
}

/// Runs a controller in a cluster until `stop`, or until another one leads.
///
/// # Errors
/// Says what cannot be used. An API server that is away is waited for.
pub async fn run(
    client: Client,
    config: ClusterConfig,
    controller: ControllerConfig,
    stop: CancellationToken,
) -> Result<(), ClusterError> {
    let client = steady::steady(client);
    let (stage, watched) = watch::channel(Stage::Starting);
    let (inside, of_inside) = watch::channel(None);
    let end_probes = CancellationToken::new();
    let probed = Probed { stage: watched, inside: of_inside };
    let (address, probes) = probes::serve(config.probes, probed, end_probes.clone())
        .await
        .map_err(|source| ClusterError::Probes { address: config.probes, source })?;
    tracing::info!(%address, "probes are served");
    let mut election = Election::run(client.clone(), config.lease.clone());
    let won = tokio::select! {
        () = stop.cancelled() => false,
        won = election.won(|| {
            stage.send_replace(Stage::StandingBy);
        }) => won,
    };
    let ended = if won {
        stage.send_replace(Stage::Loading);
        leading::lead(&client, &config, controller, &mut election, &stage, &inside, &stop).await
    } else {
        Ok(())
    };
    // Everything has stopped by now: another one may begin.
    election.resign().await;
    end_probes.cancel();
    if let Err(error) = probes.await {
        tracing::error!(%error, "the probes' task ended badly");
    }
    ended
}
