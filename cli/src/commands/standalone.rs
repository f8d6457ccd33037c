//! `hemostat standalone`: agent and controller in one process, joined by a link within it. The same crates as in a cluster.

mod reactions;
mod rules;

use std::{
    io::IsTerminal as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent::{Agent, AgentConfig, AgentHandle, StartError, edge::Authority, mask::Masker, probe::Halt};
use anyhow::{Context, Result};
use controller::{
    Controller, ControllerConfig, ControllerHandle, Plans,
    ingest::{self, IngestConfig, IngestHandle, SourceSpec, Start, Zone},
    intel::FeedSource,
    wall_clock,
};
use detect::matcher::{RuleSet, Swap};
use model::NodeId;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tracing_subscriber::EnvFilter;
use wire::link::AgentLink;

pub(crate) use self::reactions::Reactions;
use self::rules::{Read, RuleFolders};
use crate::{
    Shared,
    exit::{Ended, Exit},
};

/// Messages that wait in each direction between agent and controller (I11).
const LINK_CAPACITY: usize = 256;

/// Where playbooks are looked for when no path is given; there need be none.
const DEFAULT_PLAYBOOKS: &str = "playbooks";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rule files and folders (Sigma).
    #[arg(long, default_value = "rules")]
    rules: Vec<PathBuf>,
    /// Playbook and policy files and folders.
    #[arg(long, default_value = DEFAULT_PLAYBOOKS)]
    playbooks: Vec<PathBuf>,
    /// State folder: journal, audit log, spool, evidence, quarantined files. Made with mode 0700.
    #[arg(long, env = "HEMOSTAT_STATE", default_value = "/var/lib/hemostat")]
    state: PathBuf,
    /// This node's name.
    #[arg(long, env = "HEMOSTAT_NODE", value_parser = super::node_name)]
    node: Option<String>,
    /// More rules for what is masked before it leaves the agent (docs/agent.md).
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// What the node does at once when a rule asks for it: `auto` lets those rules act that a playbook in mode Auto could answer; with
    /// `off` it waits for the playbooks, which act as their modes say.
    #[arg(long, value_enum, default_value_t)]
    reactions: Reactions,
    /// Size of the spool in MB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    spool_mb: u64,
    /// What to read beside the kernel, as FORMAT=PLACE: kubernetes-audit, auth (syslog), journal (`journalctl -o json`), okta, keycloak,
    /// entra, hubble, vpc-flow, ocsf, cloudtrail, gcp-flow, security-events or netflow. A place is a log's path, a folder with a slash at its
    /// end, https://ADDRESS:PORT/PATH,OPTIONS to be posted to, udp://ADDRESS:PORT,from=NETWORK for flow exporters, or grpcs://HOST:PORT,OPTIONS
    /// or unix:/PATH for Hubble (docs/sources.md). May be given several times.
    #[arg(long = "source", value_name = "FORMAT=PLACE")]
    sources: Vec<SourceSpec>,
    /// Sources of which nothing is remembered are read from their beginning, not from now on.
    #[arg(long)]
    sources_from_beginning: bool,
    /// A feed of threat intelligence, as FORMAT=PATH[,confidence=N][,age=PERIOD][,name=NAME][,private]: plain, csv, misp or stix. Read again
    /// when the file changes. May be given several times.
    #[arg(long = "feed", value_name = "FORMAT=PATH")]
    feeds: Vec<FeedSource>,
    /// Send each incident's trace to this OpenTelemetry collector (OTLP over gRPC), for example http://127.0.0.1:4317. Off without it.
    #[arg(long, value_name = "URL")]
    traces: Option<String>,
    /// Zone of log lines that name none (RFC 3164), for example Europe/Berlin, +01:00 or UTC; this machine's where nothing is said.
    #[arg(long, value_name = "ZONE")]
    source_zone: Option<Zone>,
    /// Log lines as JSON.
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(shared: &Shared, options: Options) -> Result<Exit> {
    start_log(options.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hemostat-async")
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(watch(shared, options))
}

/// What is logged is chosen by `HEMOSTAT_LOG` (tracing's filter syntax); `info` without it.
pub(crate) fn start_log(json: bool) {
    let wish = std::env::var("HEMOSTAT_LOG").ok().filter(|wish| !wish.is_empty());
    let (filter, broken) = match wish.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new("info"), Some(error)),
        None => (EnvFilter::new("info"), None),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    if json {
        log.json().init()
    } else {
        log.with_target(false).init()
    }
    if let Some(error) = broken {
        tracing::warn!(%error, "HEMOSTAT_LOG is not understood: info is logged");
    }
}

async fn watch(shared: &Shared, options: Options) -> Result<Exit> {
    if !rustix::process::geteuid().is_root() {
        return Err(Ended::with(
            Exit::Forbidden,
            "watching a host loads eBPF programs, which needs root: run it with sudo",
        ));
    }
    let mut signals = Signals::new()?;
    Controller::look_at_socket(&shared.socket).await.context("start the controller")?;
    there_are_playbooks(&options.playbooks)?;
    let (mut folders, Read { set, problems, .. }) = RuleFolders::open(&options.rules)?;
    make_private(&options.state)?;
    let rules = Arc::new(Swap::new(Arc::new(set)));
    let masker = masker(options.mask.as_deref())?;
    let node = NodeId::new(options.node.clone().unwrap_or_else(agent::host_name));

    let controller = Controller::start(ControllerConfig {
        socket: shared.socket.clone(),
        playbooks: options.playbooks.clone(),
        rules: options.rules.clone(),
        feeds: options.feeds.clone(),
        traces: options.traces.clone(),
        ..ControllerConfig::in_folders(&options.state, &options.state)
    })
    .await
    .context("start the controller")?;
    for problem in controller.health().problems {
        tracing::warn!(part = problem.part, "{}", problem.what);
    }
    let sources = match follow_sources(&options, &rules, &controller) {
        Ok(sources) => sources,
        Err(error) => {
            controller.shutdown().await;
            return Err(error);
        }
    };
    let (agent_end, controller_end) = wire::link::in_process(node.clone(), LINK_CAPACITY);
    controller.attach(controller_end);
    let mut plans = controller.plans();
    plans.mark_unchanged();
    let authority = authority(&controller, &rules.current().1, &options);
    let config = AgentConfig {
        authority,
        spool_limit: options.spool_mb << 20,
        ..AgentConfig::new(node.clone(), options.state.join("node"), Arc::clone(&rules), masker)
    };
    let agent = match begin(config, agent_end, &mut signals.terminate, &mut signals.interrupt).await {
        Ok(Begun::Watching(agent)) => *agent,
        Ok(Begun::Told) => {
            end_sources(sources, controller).await?;
            return Ok(Exit::Good);
        }
        Err(error) => {
            controller.shutdown().await;
            return Err(error);
        }
    };
    agent.say_of_rules(problems);
    let status = agent.status();
    let live = status.hooks.iter().filter(|hook| crate::render::is_live(&hook.state)).count();
    tracing::info!(%node, hooks = live, rules = status.rules, socket = %shared.socket.display(), "watching this host");
    for degraded in &status.degraded {
        tracing::warn!("degraded: {degraded}");
    }
    let why = until_told(agent, &controller, plans, &mut signals, &mut folders, &options).await;
    end_sources(sources, controller).await?;
    match why {
        None => Ok(Exit::Good),
        Some(blind) => {
            Err(Ended::with(Exit::Bad, format!("the agent sees nothing any more and has ended: {blind}")))
        }
    }
}

/// How the start of an agent ended.
pub(crate) enum Begun {
    /// It watches.
    Watching(Box<AgentHandle>),
    /// A signal came first; nothing is attached.
    Told,
}

/// Starts the agent, and gives it up at a signal: loading the programs is plain computing, of seconds on a busy machine.
pub(crate) async fn begin(
    config: AgentConfig,
    link: AgentLink,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> Result<Begun> {
    tracing::info!("attaching the hooks to the kernel: a second or so, longer on a busy machine");
    let halt = config.probes.halt.clone();
    let mut starting = tokio::task::spawn_blocking(move || Agent::start(config, link));
    let started = tokio::select! {
        started = &mut starting => started.context("start the agent")?,
        _ = terminate.recv() => return give_up(&halt, starting).await,
        _ = interrupt.recv() => return give_up(&halt, starting).await,
    };
    let agent = started.map_err(|error| anyhow::Error::new(error).context("start the agent"))?;
    Ok(Begun::Watching(Box::new(agent)))
}

async fn give_up(halt: &Halt, starting: JoinHandle<Result<AgentHandle, StartError>>) -> Result<Begun> {
    tracing::info!(
        "told to end: the start is given up; containments stay in force (hemostat release lifts them)"
    );
    halt.tell();
    match starting.await.context("give up the start")? {
        // It was through already.
        Ok(agent) => agent.shutdown().await,
        Err(error) => tracing::debug!(%error, "the start is given up"),
    }
    Ok(Begun::Told)
}

/// Sources end first, so that what was read is remembered as read; those that a broken controller keeps waiting end after it.
async fn end_sources(mut sources: IngestHandle, controller: ControllerHandle) -> Result<()> {
    let sources = tokio::task::spawn_blocking(move || {
        sources.stop();
        sources
    })
    .await
    .context("stop the sources")?;
    controller.shutdown().await;
    sources.join();
    Ok(())
}

/// What was named must be there, as with rules: at the start that is a mistake in the command.
fn there_are_playbooks(paths: &[PathBuf]) -> Result<()> {
    for path in paths.iter().filter(|path| path.as_os_str() != DEFAULT_PLAYBOOKS) {
        if !path.try_exists().with_context(|| format!("look at {}", path.display()))? {
            return Err(Ended::with(
                Exit::Bad,
                format!(
                    "there is no playbooks folder {}: make it, or say with --playbooks where playbooks are; those that come with Hemostat are \
                     in the folder playbooks of its source",
                    path.display()
                ),
            ));
        }
    }
    Ok(())
}

fn follow_sources(
    options: &Options,
    rules: &Arc<Swap>,
    controller: &ControllerHandle,
) -> Result<IngestHandle> {
    let config = IngestConfig {
        sources: options.sources.clone(),
        state: options.state.join("sources"),
        start: if options.sources_from_beginning { Start::Beginning } else { Start::Now },
        rules: Arc::clone(rules),
        clock: wall_clock(),
        poll: IngestConfig::POLL,
        zone: options.source_zone.clone().unwrap_or_else(Zone::of_this_machine),
    };
    ingest::start(&config, &controller.attacher()).context("follow the sources")
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("listen for SIGHUP")?,
        })
    }
}

/// Serves until a signal or the agent's own end; gives why it ended by itself, if it did.
async fn until_told(
    mut agent: AgentHandle,
    controller: &ControllerHandle,
    mut plans: watch::Receiver<Plans>,
    signals: &mut Signals,
    folders: &mut RuleFolders,
    options: &Options,
) -> Option<String> {
    let mut paused = controller.paused();
    if *paused.borrow_and_update() {
        follow(&agent, controller, options);
    }
    let why = loop {
        tokio::select! {
            Ok(()) = paused.changed() => follow(&agent, controller, options),
            Ok(()) = plans.changed() => follow(&agent, controller, options),
            _ = signals.terminate.recv() => break None,
            _ = signals.interrupt.recv() => break None,
            _ = signals.hangup.recv() => {
                reload(&agent, controller, folders, options).await;
                plans.mark_unchanged();
            }
            blind = agent.failed() => break Some(blind),
        }
    };
    let standing = agent.contain().in_force();
    tracing::info!(
        containments = standing.len(),
        "stopping; containments stay in force (hemostat release lifts them)"
    );
    agent.shutdown().await;
    why
}

/// `hemostat pause` is meant for the node's own reactions, too, and so is what becomes of the playbooks; what is in force stays.
fn follow(agent: &AgentHandle, controller: &ControllerHandle, options: &Options) {
    let rules = agent.rules();
    let authority = authority(controller, &rules, options);
    match agent.set_rules_with(rules, authority) {
        Ok(()) if *controller.paused().borrow() => {
            tracing::warn!("automatic response is paused: nodes only observe")
        }
        Ok(()) => tracing::info!("what the node may do by itself follows the playbooks"),
        Err(error) => tracing::error!(%error, "the rules before stay in force"),
    }
}

/// Which rules may have the node react; none while everything automatic is paused.
fn authority(controller: &ControllerHandle, rules: &RuleSet, options: &Options) -> Authority {
    match *controller.paused().borrow() {
        true => Authority::Observe,
        false => options.reactions.authority(rules, &controller.plans().borrow()),
    }
}

/// SIGHUP: rules and playbooks are read again. What is broken is named, here and in the node's status, and keeps what it held. Which rules
/// may act follows the playbooks in any case.
async fn reload(
    agent: &AgentHandle,
    controller: &ControllerHandle,
    folders: &mut RuleFolders,
    options: &Options,
) {
    // The playbooks first: they say which of the rules may act.
    match controller.reload().await {
        Ok(playbooks) => {
            tracing::info!(
                playbooks = playbooks.loaded.len(),
                broken = playbooks.broken.len(),
                "playbooks read again"
            );
        }
        Err(error) => tracing::error!(%error, "the playbooks before stay in force"),
    }
    let Read { set, mut problems, .. } = folders.read();
    let (count, authority) = (set.len(), authority(controller, &set, options));
    match agent.set_rules_with(Arc::new(set), authority) {
        Ok(()) => tracing::info!(rules = count, problems = problems.len(), "rules read again"),
        Err(error) => {
            tracing::error!(%error, "the rules before stay in force");
            problems.push(format!(
                "the kernel side does not take the rules: {error}; those before stay in force"
            ));
        }
    }
    agent.say_of_rules(problems);
}

pub(crate) fn masker(file: Option<&Path>) -> Result<Masker> {
    let text = file
        .map(|path| {
            std::fs::read_to_string(path).with_context(|| format!("read the mask rules {}", path.display()))
        })
        .transpose()?;
    let name = file.map(|path| path.display().to_string()).unwrap_or_default();
    Masker::new(text.as_deref().map(|text| (name.as_str(), text))).context("read the mask rules")
}

/// The state folder holds evidence and keys: nobody else may look.
pub(crate) fn make_private(folder: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("make the state folder {}", folder.display()))
}
