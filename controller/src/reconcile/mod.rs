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
mod journal;
mod keys;
pub mod lease;
mod logs;
mod mirror;
mod narratives;
mod object;
mod orphans;
mod people;
mod probes;
mod reach;
mod reports;
mod rules;
mod show;
mod skew;
mod steady;
mod succession;
mod tell;
mod vigil;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client,
    api::PostParams,
    runtime::events::{Recorder, Reporter},
};
use model::{Account, Down, RuleBundle};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::{
    identity::{Authority, Credentials, LiveCredentials, Subject},
    link::{ControllerLink, LinkError, ListenConfig, Listener, listen},
};

pub use self::endpoint::ServiceConfig;
pub use self::keys::{AUDIENCE, AUTHORITY_NAME, AuthorityError};
use self::{
    equipment::{Equipment, Scans},
    follow::{Due, Which, follow, label_of},
    guard::{Guards, InForce},
    inputs::Inputs,
    keys::TokenDesk,
    lease::{Election, LeaseConfig},
    mirror::Mirror,
    probes::{Probed, Stage},
    reach::{Failure, Reach},
};
use crate::{
    Controller, ControllerConfig, ControllerHandle, StartError,
    artifact::Artifacts,
    attribute::{self, Pods},
    crash::CrashPoints,
    ingest::{IngestError, IngestHandle, SourceSpec},
    ledger::Ledger,
    start::Inside,
    witness::Witness,
};

/// How long the controller's own certificate is valid; a new one is made at half of it.
const OWN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long a new leader waits for the former one to let go of the journal.
const HAND_OVER: Duration = Duration::from_secs(60);

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
        lead(&client, &config, controller, &mut election, &stage, &inside, &stop).await
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

async fn lead(
    client: &Client,
    config: &ClusterConfig,
    mut controller: ControllerConfig,
    election: &mut Election,
    stage: &watch::Sender<Stage>,
    inside: &watch::Sender<Option<(crate::health::HealthBoard, Arc<crate::metrics::Metrics>)>>,
    stop: &CancellationToken,
) -> Result<(), ClusterError> {
    let reach = Reach::new(client.clone(), election.until.clone());
    let me = patiently(stop, || who_am_i(&reach)).await;
    let Some(me) = me else { return Ok(()) };
    let me = me.map_err(|because| ClusterError::Identity { because })?;
    let clock = controller.clock.clone();
    let authority = Arc::new(keys::authority(&reach, &config.namespace, &clock).await?);
    let own = LiveCredentials::new(
        authority.issue(&Subject::Controller, clock(), OWN_LIFE)?,
        authority.certificate().to_owned(),
    );
    let (witness, told) = Witness::new();
    controller.witness = Some(witness);
    let (ledger, to_keep) = Ledger::new();
    controller.ledger = Some(ledger);
    let pods = Pods::new(Default::default(), clock.clone());
    controller.pods = Some(pods.clone());
    controller.own_namespace = Some(config.namespace.clone());
    let certain = election.until.clone();
    let leads: crate::config::Leads =
        Arc::new(move || certain.borrow().is_some_and(|until| std::time::Instant::now() < until));
    controller.leads = Some(Arc::clone(&leads));
    // Before anything is done by the journal that is here: whether it is that of the last leader.
    let term = election.term.borrow().clone();
    let before = term.as_ref().and_then(|term| term.journal_before.as_deref());
    let journal = succession::take_up(&controller, before)?;
    let stands_there = election.tell_journal(&journal);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        to = election.lost() => return Err(ClusterError::Deposed { to }),
        () = stands_there => {}
    }
    let crash = Arc::clone(&controller.crash);
    let marks = Arc::new(controller.classes.annotations());
    let state = controller.journal.parent().unwrap_or(std::path::Path::new(".")).to_owned();
    let Some(handle) = take_over(controller, stop).await? else { return Ok(()) };
    let parts = handle.inside();
    inside.send_replace(Some((parts.health.clone(), Arc::clone(&parts.metrics))));

    parts.tasks.spawn(attribute::watch(
        pods.clone(),
        client.clone(),
        attribute::WatchConfig { marks, ..attribute::WatchConfig::default() },
        parts.stop.clone(),
    ));
    let executor = Arc::new(act::Executor::new(
        client.clone(),
        act::ActConfig {
            evidence: state.join("evidence"),
            sent: state.join("sent"),
            channels: config.channels.clone(),
            own: act::Own {
                namespace: config.namespace.clone(),
                accounts: vec![Account::of_user(&account_of(&config.agents))],
            },
            scanner: config.scanner.clone(),
            leads,
            clock: clock.clone(),
        },
    ));
    let attacher = handle.attacher();
    let attach: act::Attach = Arc::new(move |link| attacher.attach(link));
    parts.tasks.spawn(act::serve(Arc::clone(&executor), attach, parts.stop.clone()));
    let (bundle, bundles) = watch::channel(Arc::new(RuleBundle::default()));
    let (scoped, policies) = watch::channel(None);
    let guards =
        Guards { pods: pods.clone(), home: config.namespace.as_str().into(), policies, clock: clock.clone() };
    let (ready, mut is_ready) = watch::channel(false);
    let mirror =
        start_reconcilers(&reach, config, &parts, me, told, (bundle, scoped), ready, (&clock, &state, crash));
    let epoch = term.as_ref().map_or(0, |term| term.epoch);
    let reports = reports::Reports::new(reach.clone(), config.namespace.clone(), parts.health.clone(), epoch);
    parts.tasks.spawn(reports.keep(to_keep, parts.inbox.clone(), parts.stop.clone()));
    let heard = tokio::select! {
        () = again::hear_once(&reach, config, &mirror, &mut is_ready, &parts, (&state, &journal)) => None,
        () = stop.cancelled() => Some(Ok(())),
        to = election.lost() => Some(Err(ClusterError::Deposed { to })),
    };
    if let Some(ended) = heard {
        drop(parts);
        handle.shutdown().await;
        return ended;
    }
    // What it shows is what the core knows: only now it does.
    parts.tasks.spawn(vigil::keep(Arc::clone(&mirror), executor, parts.stop.clone()));
    parts.tasks.spawn(mirror.run(parts.revision.clone(), parts.stop.clone()));
    let desk = TokenDesk {
        reach: reach.clone(),
        authority: Arc::clone(&authority),
        account: account_of(&config.agents),
        life: config.certificate_life,
        clock: clock.clone(),
    };
    let listening = ListenConfig {
        registrar: Some(Arc::new(desk)),
        epoch,
        ..ListenConfig::new(config.links, Credentials::Live(own.clone()))
    };
    let listener = match listen(listening).await {
        Ok(listener) => listener,
        Err(error) => {
            handle.shutdown().await;
            return Err(error.into());
        }
    };
    tracing::info!(address = %listener.address, "agents are listened for");
    if let Some(service) = config.service.clone() {
        parts.tasks.spawn(endpoint::lead(reach.clone(), config.clone(), service, parts.stop.clone()));
    }
    let logs = match logs::follow(config, &state, &handle, bundles.clone(), &clock) {
        Ok(logs) => logs,
        Err(error) => {
            listener.close().await;
            handle.shutdown().await;
            return Err(error.into());
        }
    };
    // The core ends with the last of those who could ask it something.
    drop(parts);
    let serving = Serving { handle, logs, listener, bundles, guards, authority, own, clock };
    let ended = serving.until(election, stage, &mut is_ready, stop).await;
    inside.send_replace(None);
    ended
}

/// A leader at work.
struct Serving {
    handle: ControllerHandle,
    logs: IngestHandle,
    listener: Listener,
    bundles: watch::Receiver<Arc<RuleBundle>>,
    guards: Guards,
    authority: Arc<Authority>,
    own: LiveCredentials,
    clock: crate::Clock,
}

impl Serving {
    async fn until(
        mut self,
        election: &mut Election,
        stage: &watch::Sender<Stage>,
        ready: &mut watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<(), ClusterError> {
        let links = CancellationToken::new();
        let mut renew = tokio::time::interval(OWN_LIFE / 2);
        renew.tick().await;
        let mut waits = true;
        let patience = election.config.authority;
        let outlived = fence::outlived(election.until.clone(), patience);
        tokio::pin!(outlived);
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = &mut outlived => break Err(ClusterError::Unled { after: patience }),
                to = election.lost() => break Err(ClusterError::Deposed { to }),
                _ = ready.wait_for(|ready| *ready), if waits => {
                    waits = false;
                    stage.send_replace(Stage::Serving);
                }
                _ = renew.tick() => {
                    match self.authority.issue(&Subject::Controller, (self.clock)(), OWN_LIFE) {
                        Ok(own) => self.own.replace(own, self.authority.certificate().to_owned()),
                        Err(error) => tracing::error!(%error, "the controller's own certificate could not be renewed"),
                    }
                }
                link = self.listener.accept() => match link {
                    Some(link) => self.take(link, &links),
                    None => break Ok(()),
                }
            }
        };
        stage.send_replace(Stage::StandingBy);
        links.cancel();
        self.listener.close().await;
        // They end first, so that what was read is remembered as read; those that a broken controller keeps waiting end after it.
        let mut logs = self.logs;
        let logs = tokio::task::spawn_blocking(move || {
            logs.stop();
            logs
        })
        .await;
        self.handle.shutdown().await;
        match logs {
            Ok(logs) => logs.join(),
            Err(error) => tracing::error!(%error, "a log's follower ended badly"),
        }
        ended
    }

    /// A node's link goes to the core; beside it, the node is told what it leaves alone and given its rules, now and whenever they change.
    fn take(&self, link: ControllerLink, stop: &CancellationToken) {
        let (down, node, bundles, stop) =
            (link.down.clone(), link.node.clone(), self.bundles.clone(), stop.clone());
        let guards = self.guards.clone();
        self.handle.attach(link);
        self.handle.inside().tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = guards.give(&node, &down) => {}
                () = give_rules(&down, bundles) => tracing::debug!(%node, "the node is given no more rules"),
            }
        });
    }
}

/// Until the link ends.
async fn give_rules(down: &mpsc::Sender<Down>, mut bundles: watch::Receiver<Arc<RuleBundle>>) {
    loop {
        let bundle = Arc::clone(&bundles.borrow_and_update());
        if !bundle.version.digest.is_empty() {
            for part in rules::parts(&bundle) {
                if down.send(Down::Rules(Box::new(part))).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            changed = bundles.changed() => if changed.is_err() { return },
            () = down.closed() => return,
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the one place where the parts are joined")]
fn start_reconcilers(
    reach: &Reach,
    config: &ClusterConfig,
    parts: &Inside,
    me: String,
    told: mpsc::Receiver<Box<model::NodeCommand>>,
    (bundle, policies_in_force): (watch::Sender<Arc<RuleBundle>>, watch::Sender<InForce>),
    ready: watch::Sender<bool>,
    (clock, state, crash): (&crate::Clock, &std::path::Path, Arc<dyn CrashPoints>),
) -> Arc<Mirror> {
    let (tasks, stop) = (&parts.tasks, &parts.stop);
    let (came_in, came_out) = (Due::default(), Due::default());
    let any = |_: &kube::api::DynamicObject| Some(String::from("all"));
    let of_incident = |object: &kube::api::DynamicObject| label_of(object).map(str::to_owned);
    let playbooks = follow::<crds::Playbook>(
        (reach.everywhere::<crds::Playbook>(), Which::All),
        tasks,
        stop,
        &came_in,
        any,
    );
    let policies = follow::<crds::ResponsePolicy>(
        (reach.everywhere::<crds::ResponsePolicy>(), Which::All),
        tasks,
        stop,
        &came_in,
        any,
    );
    let rule_sets = follow::<crds::rule_set::RuleSet>(
        (reach.everywhere::<crds::rule_set::RuleSet>(), Which::All),
        tasks,
        stop,
        &came_in,
        any,
    );
    let incidents = follow::<crds::incident::Incident>(
        (reach.everywhere::<crds::incident::Incident>(), Which::OfIncidents),
        tasks,
        stop,
        &came_out,
        of_incident,
    );
    let actions = follow::<crds::response_action::ResponseAction>(
        (reach.everywhere::<crds::response_action::ResponseAction>(), Which::All),
        tasks,
        stop,
        &came_out,
        of_incident,
    );
    let approvals = follow::<crds::approval::Approval>(
        (reach.everywhere::<crds::approval::Approval>(), Which::OfIncidents),
        tasks,
        stop,
        &came_out,
        of_incident,
    );
    let reporter =
        Reporter { controller: "hemostat.dev/controller".into(), instance: Some(config.identity.clone()) };
    let recorder = Recorder::new(reach.client.clone(), reporter);
    let artifacts = Artifacts::new(state.join("artifacts"));
    tasks.spawn(Arc::clone(&artifacts).run(stop.clone()));
    let inputs = Inputs {
        reach: reach.clone(),
        artifacts,
        asker: parts.asker.clone(),
        clock: clock.clone(),
        home: config.namespace.clone(),
        playbooks: playbooks.clone(),
        policies,
        rule_sets,
        actions: actions.clone(),
        due: came_in,
        recorder: recorder.clone(),
        bundle,
        policies_in_force,
        ready,
        paused: parts.paused.clone(),
        in_use: parts.plans.clone(),
        equipment: Equipment {
            channels: config.channels.iter().map(|channel| channel.name.clone()).collect(),
            scanner: if config.scanner.is_some() { Scans::Yes } else { Scans::No },
        },
    };
    tasks.spawn(inputs.run(stop.clone()));
    let mirror = Arc::new(Mirror {
        reach: reach.clone(),
        asker: parts.asker.clone(),
        health: parts.health.clone(),
        clock: clock.clone(),
        home: config.namespace.clone(),
        me,
        incidents,
        actions,
        approvals,
        playbooks,
        due: came_out,
        recorder,
        places: std::sync::Mutex::default(),
        action_places: std::sync::Mutex::default(),
        captures: captures::Captures::new(reach.clone(), config.namespace.clone()),
        swept: std::sync::Mutex::default(),
        skewed: std::sync::Mutex::default(),
        shown: std::sync::Mutex::default(),
        told: std::sync::Mutex::default(),
        gone: std::sync::Mutex::default(),
        crash,
        started: clock(),
        locks: (0..Mirror::LOCKS).map(|_| tokio::sync::Mutex::new(())).collect(),
        pens: (0..actions::PENS).map(|_| tokio::sync::Mutex::new(0)).collect(),
        effects: watch::Sender::new(0),
    });
    tasks.spawn(fence::watch(reach.lease(), parts.inbox.clone(), parts.health.clone(), stop.clone()));
    journal::keep(&mirror, told, parts.inbox.clone(), tasks, stop);
    mirror
}

/// Starts the core, as soon as a former leader on the same volume has let go of the journal.
async fn take_over(
    config: ControllerConfig,
    stop: &CancellationToken,
) -> Result<Option<ControllerHandle>, StartError> {
    let until = tokio::time::Instant::now() + HAND_OVER;
    loop {
        match Controller::start(config.clone()).await {
            Ok(handle) => return Ok(Some(handle)),
            Err(StartError::Store(error)) if tokio::time::Instant::now() < until => {
                tracing::warn!(%error, "the journal cannot be taken over yet");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Who the API server knows us as: nobody may decide in this name.
async fn who_am_i(reach: &Reach) -> Result<String, Failure> {
    let reviews: Api<SelfSubjectReview> = Api::all(reach.client.clone());
    let review = reach.read(reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await?;
    let name = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    name.ok_or_else(|| Failure::Missing("name in the API server's answer".into()))
}

/// Again and again while the API server is away; `None` when it is time to stop.
async fn patiently<T, F>(stop: &CancellationToken, mut ask: impl FnMut() -> F) -> Option<Result<T, String>>
where
    F: Future<Output = Result<T, Failure>>,
{
    loop {
        match ask().await {
            Ok(value) => return Some(Ok(value)),
            Err(failure) if failure.is_away() => {
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
            Err(failure) => return Some(Err(failure.to_string())),
        }
    }
}

/// `namespace/name` as the API server knows it.
fn account_of(agents: &str) -> String {
    format!("system:serviceaccount:{}", agents.replace('/', ":"))
}
