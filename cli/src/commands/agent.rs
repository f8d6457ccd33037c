//! `hemostat agent`: one node of a cluster. Its rules come from its controller, and are kept for the time when there is none.

mod identity;
mod rules;

use std::{path::PathBuf, sync::Arc, time::Duration};

use ::agent::{AgentConfig, AgentHandle, contain::Guard, host_name};
use anyhow::{Context, Result};
use detect::matcher::{RuleSet, Swap};
use model::{Down, NodeId, RulesVersion, Up};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use wire::{
    identity::Credentials,
    link::{AgentLink, ConnectConfig, connect},
};

use self::{identity::Keys, rules::Rules};
use super::standalone::{Begun, begin, make_private, masker, start_log};
use crate::{
    exit::{Ended, Exit},
    render::is_live,
};

/// Messages that wait in each direction (I11).
const CAPACITY: usize = 256;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The controller.
    #[arg(long, env = "HEMOSTAT_CONTROLLER", value_name = "HOST:PORT")]
    controller: String,
    /// A service account token for the audience `hemostat`, bound to this node or to the pod that the agent runs in. It is read again
    /// whenever a certificate is needed.
    #[arg(
        long,
        env = "HEMOSTAT_TOKEN_FILE",
        default_value = "/var/run/secrets/hemostat/token",
        value_name = "FILE"
    )]
    token_file: PathBuf,
    /// Certificate of the authority that the controller's certificate must be from (ConfigMap `hemostat-ca`).
    #[arg(
        long,
        env = "HEMOSTAT_CA_FILE",
        default_value = "/var/run/secrets/hemostat/ca.crt",
        value_name = "FILE"
    )]
    ca_file: PathBuf,
    /// This node's name, as the API server has it.
    #[arg(long, env = "HEMOSTAT_NODE", value_parser = super::node_name)]
    node: Option<String>,
    /// State folder: spool, containments, evidence, certificate, rules. Made with mode 0700.
    #[arg(long, env = "HEMOSTAT_STATE", default_value = "/var/lib/hemostat")]
    state: PathBuf,
    /// More rules for what is masked before it leaves the agent (docs/agent.md).
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// What the node does at once when a rule asks for it: `auto` lets those rules act that the controller names; with `off` it
    /// waits for the controller's commands.
    #[arg(long, value_enum, default_value_t)]
    reactions: super::standalone::Reactions,
    /// Size of the spool in MB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    spool_mb: u64,
    /// Log lines as JSON.
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(options: Options) -> Result<Exit> {
    start_log(options.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hemostat-async")
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(watch_node(options))
}

async fn watch_node(options: Options) -> Result<Exit> {
    if !rustix::process::geteuid().is_root() {
        return Err(Ended::with(
            Exit::Forbidden,
            "watching a host loads eBPF programs, which needs root: run it with sudo",
        ));
    }
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        signal(SignalKind::interrupt()).context("listen for SIGINT")?,
    );
    make_private(&options.state)?;
    let node = NodeId::new(options.node.clone().unwrap_or_else(host_name));
    let stop = CancellationToken::new();
    let keys = Keys::new(&options.controller, &options.state, &options.ca_file, &options.token_file, &node)?;
    let credentials = keys.credentials();
    // Beside the agent: a node without a controller watches by the rules that it has.
    let keeping = tokio::spawn(keys.keep(stop.clone()));
    let mut rules = Rules::load(&options.state, options.reactions);
    let guard = Guard::load(options.state.join("pods.json"));

    let swap = Arc::new(Swap::new(Arc::clone(&rules.set)));
    // Which controllers lead no more is remembered: none of them commands this node again.
    let leadership = options.state.join("leadership");
    let fence = wire::fence::Fence::open(&leadership)
        .with_context(|| format!("read {}, which tells the latest leadership", leadership.display()))?;
    let (link, connection) = connect(ConnectConfig {
        longest_pause: Duration::from_secs(10),
        fence: Some(Arc::new(fence)),
        ..ConnectConfig::new(options.controller.clone(), node.clone(), Credentials::clone(&credentials))
    });
    let (parts, mut news) = mpsc::channel(1);
    let (version, versions) = watch::channel(rules.version.clone());
    let (link, between) = between(link, parts, versions, guard.clone());
    let config = AgentConfig {
        authority: rules.authority.clone(),
        guard: Some(guard),
        spool_limit: options.spool_mb << 20,
        ..AgentConfig::new(
            node.clone(),
            options.state.join("node"),
            Arc::clone(&swap),
            masker(options.mask.as_deref())?,
        )
    };
    let mut agent = match begin(config, link, &mut terminate, &mut interrupt).await? {
        Begun::Watching(agent) => *agent,
        Begun::Told => {
            connection.close().await;
            stop.cancel();
            for task in [between, keeping] {
                if let Err(error) = task.await {
                    tracing::error!(%error, "a task of the agent ended badly");
                }
            }
            return Ok(Exit::Good);
        }
    };
    let status = agent.status();
    let live = status.hooks.iter().filter(|hook| is_live(&hook.state)).count();
    tracing::info!(%node, hooks = live, rules = status.rules, controller = options.controller, "watching this node");
    let why = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            blind = agent.failed() => break Some(blind),
            Some(part) = news.recv() => {
                if rules.take(part) == rules::Taken::Whole {
                    put_in_force(&agent, &mut rules, &version).await;
                }
            }
        }
    };
    tracing::info!(
        containments = agent.contain().in_force().len(),
        "stopping; containments stay in force (hemostat release lifts them)"
    );
    agent.shutdown().await;
    connection.close().await;
    stop.cancel();
    for task in [between, keeping] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the agent ended badly");
        }
    }
    match why {
        None => Ok(Exit::Good),
        Some(blind) => {
            Err(Ended::with(Exit::Bad, format!("the agent sees nothing any more and has ended: {blind}")))
        }
    }
}

/// Compiles what came and puts it in force; what cannot be compiled is named, and the rules before stay where nothing came.
async fn put_in_force(agent: &AgentHandle, rules: &mut Rules, version: &watch::Sender<RulesVersion>) {
    let Some(bundle) = rules.complete() else { return };
    let (bundle, set): (_, Arc<RuleSet>) = match tokio::task::spawn_blocking(move || {
        let set = rules::compile(&bundle);
        (bundle, set)
    })
    .await
    {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "the rules before stay in force");
            return;
        }
    };
    let authority = rules.authority_of(&bundle);
    match agent.set_rules_with(Arc::clone(&set), authority.clone()) {
        Ok(()) => {
            tracing::info!(
                rules = set.len(),
                digest = bundle.version.digest,
                "the controller's rules are in force"
            );
            rules.store(&bundle);
            version.send_replace(bundle.version);
        }
        Err(error) => tracing::error!(%error, "the rules before stay in force"),
    }
}

/// Between the link and the agent: rules go to whoever compiles them, what is left alone is taken at once, and the status says which rules
/// are loaded.
fn between(
    outer: AgentLink,
    parts: mpsc::Sender<model::RulesPart>,
    versions: watch::Receiver<RulesVersion>,
    guard: Guard,
) -> (AgentLink, JoinHandle<()>) {
    let (up, mut from_agent) = mpsc::channel::<Up>(CAPACITY);
    let (to_agent, down) = mpsc::channel::<Down>(CAPACITY);
    let AgentLink { up: outer_up, down: mut outer_down } = outer;
    let task = tokio::spawn(async move {
        let upwards = async move {
            while let Some(mut said) = from_agent.recv().await {
                if let Up::Status(status) = &mut said {
                    status.loaded = Some(versions.borrow().clone());
                }
                if outer_up.send(said).await.is_err() {
                    return;
                }
            }
        };
        let downwards = async move {
            while let Some(told) = outer_down.recv().await {
                let taken = match told {
                    Down::Rules(part) => parts.send(*part).await.is_ok(),
                    // In force before anything that is said after it.
                    Down::Guard(said) => {
                        let guard = guard.clone();
                        tokio::task::spawn_blocking(move || guard.take(*said)).await.is_ok()
                    }
                    other => to_agent.send(other).await.is_ok(),
                };
                if !taken {
                    return;
                }
            }
        };
        // The agent's end is the end of both; commands may still be on their way while it drains.
        tokio::join!(upwards, downwards);
    });
    (AgentLink { up, down }, task)
}
