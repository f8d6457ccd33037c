//! All parts together: [`Agent::start`].

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use detect::matcher::{RuleSet, Swap};
use model::{
    ActionFailure, ActionRecord, CommandOutcome, FilterPlan, NodeAction, NodeCommand, NodeId, NodeStatus,
    ProcessKey, Target, Timestamp,
};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::link::AgentLink;

use crate::{
    clock::Clock,
    contain::{Contain, ContainConfig, Lineage, OpenError, ProtectedList},
    contain_folder,
    edge::{Authority, Draft, Edge, EdgeCounts, EdgeParts, Holder, Reactor},
    finding::Fold,
    house::{House, LossWatch, ProbeLosses, Shared, lock},
    mask::Masker,
    probe::{ProbeConfig, ProbeError, Probes, StopFlag},
    reporter::Reporter,
    spool::{Spool, SpoolError},
    spool_folder,
    tree::{Limits, NS_PER_TICK, ProcSource, ProcessTree, Procfs},
    uplink::{Commands, Uplink},
    workload::Workloads,
};

/// Drafts that wait for the reporter (I11). Each is a finding with its context.
const MAX_DRAFTS: usize = 128;

/// Nice value of the reader thread.
const READER_NICE: i32 = -15;

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// This node.
    pub node: NodeId,
    /// State folder; made with mode 0700.
    pub state: PathBuf,
    /// The rules in force; changed through [`AgentHandle::set_rules`].
    pub rules: Arc<Swap>,
    /// The kernel side.
    pub probes: ProbeConfig,
    /// What is never contained.
    pub protected: ProtectedList,
    /// What is masked.
    pub masker: Masker,
    /// Size of the spool in bytes.
    pub spool_limit: u64,
    /// The node reports its status this often.
    pub status_every: Duration,
    /// How long a shutdown waits for acknowledgements.
    pub drain_limit: Duration,
    /// Whether the node may act on its own authority.
    pub authority: Authority,
    /// What the process tree may hold.
    pub tree: Limits,
}

impl AgentConfig {
    /// The usual configuration.
    #[must_use]
    pub fn new(node: NodeId, state: PathBuf, rules: Arc<Swap>, masker: Masker) -> Self {
        Self {
            node,
            state,
            rules,
            probes: ProbeConfig::default(),
            protected: ProtectedList::default(),
            masker,
            spool_limit: 256 << 20,
            status_every: Duration::from_secs(5),
            drain_limit: Duration::from_secs(3),
            authority: Authority::React,
            tree: Limits::default(),
        }
    }
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder cannot be used.
    #[error("cannot use the state folder {path}: {source}")]
    State {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// cgroup2 cannot be used.
    #[error("cannot open cgroup v2: {0}")]
    Cgroups(#[source] io::Error),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Containment cannot be used.
    #[error(transparent)]
    Contain(#[from] OpenError),
    /// The kernel side cannot be used.
    #[error(transparent)]
    Probes(#[from] ProbeError),
    /// A thread could not be started.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// Which.
        name: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Starts agents.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts an agent on this machine. It blocks for some tenths of a second (the kernel's type information is read, programs are
    /// verified) and needs a tokio runtime around it for the uplink: on an async worker call it through `spawn_blocking`.
    ///
    /// # Errors
    /// Says which part cannot start; nothing is left running or attached then.
    pub fn start(config: AgentConfig, link: AgentLink) -> Result<AgentHandle, StartError> {
        make_private(&config.state)?;
        let clock = Arc::new(Clock::new());
        let spool = Spool::open(&spool_folder(&config.state), config.spool_limit)?;
        let epoch = spool.epoch();
        let mut notes = spool.notes().to_vec();
        let workloads = Workloads::open().map_err(StartError::Cgroups)?;
        let tree = ProcessTree::new(config.tree, Box::new(Procfs::new()), Box::new(workloads));
        let tree = Arc::new(Mutex::new(tree));

        let contain = Arc::new(Contain::open(ContainConfig {
            protected: config.protected.clone(),
            lineage: Some(Arc::new(TreeLineage(Arc::clone(&tree)))),
            mask: Arc::new(config.masker.clone()),
            ..ContainConfig::new(config.node.clone(), contain_folder(&config.state))
        })?);
        let recovered = contain.recover(clock.now());
        notes.extend(recovered.iter().filter_map(|recovered| {
            let failure = recovered.failure.as_ref()?;
            Some(format!(
                "containment {} of an earlier start is not as it should be: {failure}",
                recovered.record.id
            ))
        }));

        let mut probes = Probes::load(&config.probes, config.rules.current().1.plan())?;
        let reader = probes.reader()?;
        // Listed after the hooks are attached: what starts from now on comes as a record.
        let exact: Vec<ProcessKey> = match probes.processes() {
            Ok(tasks) => tasks.iter().map(|task| task.key).collect(),
            Err(error) => {
                tracing::warn!(%error, "start times of running processes are known in ticks only");
                Vec::new()
            }
        };
        let found = lock(&tree).bootstrap(&exact);
        let held = probes.held();
        tracing::info!(node = %config.node, %epoch, processes = found, held = held.len(), "the agent starts");

        let (drafts, drafts_in) = sync_channel(MAX_DRAFTS);
        let (to_uplink, others) = mpsc::channel(8);
        let shared = Arc::new(Shared {
            node: config.node.clone(),
            epoch,
            clock: Arc::clone(&clock),
            probes: Mutex::new(probes),
            tree: Arc::clone(&tree),
            contain: Arc::clone(&contain),
            spool: Arc::new(Mutex::new(spool)),
            counts: Arc::new(EdgeCounts::default()),
            losses: Mutex::new(LossWatch::default()),
            rules: Arc::clone(&config.rules),
            blind: AtomicBool::new(false),
            notes: Mutex::new(notes),
        });
        let fold = Arc::new(Mutex::new(Fold::default()));
        let news = Arc::new(Notify::new());
        let mut edge = Edge::new(EdgeParts {
            node: config.node.clone(),
            epoch,
            clock,
            tree,
            rules: config.rules.follow(),
            fold: Arc::clone(&fold),
            reactor: Arc::clone(&contain) as Arc<dyn Reactor>,
            holder: Box::new(HeldByProbes(Arc::clone(&shared))),
            authority: config.authority,
            drafts: drafts.clone(),
            counts: Arc::clone(&shared.counts),
        });

        let stop = StopFlag::new()?;
        let mut threads = Threads::default();
        let reporter = Reporter {
            drafts: drafts_in,
            fold,
            masker: config.masker.clone(),
            spool: Arc::clone(&shared.spool),
            news: Arc::clone(&news),
            losses: Box::new(ProbeLosses(Arc::clone(&shared))),
        };
        threads.reporter = Some(spawn("hemostat-report", move || reporter.run())?);
        for record in recovered.into_iter().map(|recovered| recovered.record) {
            let _ = drafts.try_send(Draft::Reaction(Box::new(record)));
        }
        let (house_stop, house_stopped) = sync_channel(1);
        let house = House {
            shared: Arc::clone(&shared),
            status_every: config.status_every,
            to_uplink,
            drafts,
            stop: house_stopped,
        };
        threads.house_stop = Some(house_stop);
        threads.house = Some(spawn("hemostat-house", move || house.run())?);

        let (blind, failed) = watch::channel(None);
        let (flag, of_reader) = (stop.clone(), Arc::clone(&shared));
        threads.stop = Some(stop);
        threads.reader = Some(spawn("hemostat-read", move || {
            let _at_the_end = HoldsNobody(Arc::clone(&of_reader));
            // On a busy machine the time until this thread gets a core is most of the time until an attack stands still. It works in
            // short bursts, so a higher weight takes nothing from others for long.
            if let Err(error) = rustix::process::setpriority_process(None, READER_NICE) {
                tracing::warn!(%error, "the reader runs at ordinary priority");
            }
            let contained = of_reader.contain.in_force();
            for process in held {
                let stands =
                    contained.iter().any(|record| record.target == Target::Process { process: process.key });
                if stands {
                    let _ = lock(&of_reader.probes).judged(process.key);
                } else {
                    edge.judge_held(process.key, process.at);
                }
            }
            if let Err(error) = reader.run(&flag, |record| edge.take_in(record)) {
                tracing::error!(%error, "the reader has ended: nothing is seen any more");
                of_reader.blind.store(true, Ordering::Relaxed);
                blind.send_replace(Some(error.to_string()));
            }
        })?);

        let drain = CancellationToken::new();
        let uplink = Uplink {
            node: config.node,
            epoch,
            link,
            spool: Arc::clone(&shared.spool),
            news,
            commands: Arc::new(Carrier(Arc::clone(&shared))),
            others,
            drain: drain.clone(),
            drain_limit: config.drain_limit,
        };
        let uplink = tokio::spawn(uplink.run());
        Ok(AgentHandle { shared, threads, drain, uplink, failed })
    }
}

/// A running agent. Dropping it stops reading; [`AgentHandle::shutdown`] also delivers what was found.
pub struct AgentHandle {
    shared: Arc<Shared>,
    threads: Threads,
    drain: CancellationToken,
    uplink: tokio::task::JoinHandle<()>,
    failed: watch::Receiver<Option<String>>,
}

impl AgentHandle {
    /// The node's own report, as of now.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.shared.status()
    }

    /// Containment on this node.
    #[must_use]
    pub fn contain(&self) -> &Arc<Contain> {
        &self.shared.contain
    }

    /// Puts other rules in force: first what they need from the kernel, then they themselves, so that no event is dropped that a rule of
    /// the new set matches (I1). Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`ProbeError`] if the kernel side does not take the plan; the rules before stay in force.
    pub fn set_rules(&self, rules: Arc<RuleSet>) -> Result<(), ProbeError> {
        lock(&self.shared.probes).apply_plan(rules.plan())?;
        self.shared.rules.replace(rules);
        Ok(())
    }

    /// Waits until the agent is blind though nobody asked it to stop, and says why.
    pub async fn failed(&mut self) -> String {
        match self.failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The reader ended as it was asked to.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops reading, takes in what stands in the rings, stores and sends what was found, waits for acknowledgements up to the drain
    /// limit, and ends. Containments stay in force.
    pub async fn shutdown(self) {
        let Self { shared, threads, drain, uplink, .. } = self;
        if let Err(error) = tokio::task::spawn_blocking(move || drop(threads)).await {
            tracing::error!(%error, "a thread of the agent ended badly");
        }
        drain.cancel();
        if let Err(error) = uplink.await {
            tracing::error!(%error, "the uplink ended badly");
        }
        if let Err(error) = lock(&shared.spool).sync() {
            tracing::error!(%error, "the spool could not be made durable at the end");
        }
        tracing::info!("the agent has ended");
    }
}

/// The plain threads, ended and joined in the order in which data flows.
#[derive(Default)]
struct Threads {
    stop: Option<StopFlag>,
    reader: Option<JoinHandle<()>>,
    house_stop: Option<SyncSender<()>>,
    house: Option<JoinHandle<()>>,
    reporter: Option<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(stop) = &self.stop {
            stop.stop();
        }
        join("hemostat-read", self.reader.take());
        drop(self.house_stop.take());
        join("hemostat-house", self.house.take());
        // Its senders are gone with the two others.
        join("hemostat-report", self.reporter.take());
    }
}

fn join(name: &str, thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!(name, "a thread of the agent ended badly");
    }
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    thread::Builder::new().name(name.into()).spawn(work).map_err(|source| StartError::Thread { name, source })
}

fn make_private(folder: &PathBuf) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| StartError::State { path: folder.clone(), source })
}

impl Reactor for Contain {
    fn react(
        &self,
        action: NodeAction,
        target: Target,
        now: Timestamp,
    ) -> Result<ActionRecord, ActionFailure> {
        Self::react(self, action, target, now)
    }
}

/// The agent's process tree, for containment.
struct TreeLineage(Arc<Mutex<ProcessTree>>);

impl Lineage for TreeLineage {
    fn descendants(&self, of: ProcessKey) -> Vec<ProcessKey> {
        lock(&self.0).descendants(of)
    }
}

/// Commands to containment.
struct Carrier(Arc<Shared>);

impl Commands for Carrier {
    fn carry_out(&self, command: &NodeCommand) -> CommandOutcome {
        self.0.contain.handle(command, self.0.clock.now())
    }
}

/// The probes' memory of held processes.
struct HeldByProbes(Arc<Shared>);

impl Holder for HeldByProbes {
    fn let_go(&mut self, process: ProcessKey) {
        continue_process(process);
        self.taken_over(process);
    }

    fn taken_over(&mut self, process: ProcessKey) {
        if let Err(error) = lock(&self.0.probes).judged(process) {
            tracing::warn!(%error, pid = process.pid.0, "a judged process stays on the list of held ones");
        }
    }
}

/// However the reader ends, also by a panic: the kernel holds nobody from then on, and whom it holds goes on, since there is nobody left
/// to judge.
struct HoldsNobody(Arc<Shared>);

impl Drop for HoldsNobody {
    fn drop(&mut self) {
        let mut probes = lock(&self.0.probes);
        if let Err(error) = probes.apply_plan(&FilterPlan::default()) {
            tracing::error!(%error, "the kernel side still holds programs at exec though nobody judges them any more");
        }
        let contained = self.0.contain.in_force();
        for process in probes.held() {
            if !contained.iter().any(|record| record.target == Target::Process { process: process.key }) {
                continue_process(process.key);
            }
            if let Err(error) = probes.judged(process.key) {
                tracing::warn!(%error, pid = process.key.pid.0, "a judged process stays on the list of held ones");
            }
        }
    }
}

/// SIGCONT to exactly this process: the pidfd is opened before its start time is compared, so the pid cannot be another's by then.
fn continue_process(process: ProcessKey) {
    let Some(pid) = i32::try_from(process.pid.0).ok().and_then(rustix::process::Pid::from_raw) else {
        return;
    };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return }; // it has ended
    let coarse = ProcessKey { start: model::BootNs(process.start.0 / NS_PER_TICK * NS_PER_TICK), ..process };
    if !Procfs::new().is_alive(coarse) {
        return;
    }
    if let Err(error) = pidfd_send_signal(&pidfd, Signal::CONT) {
        tracing::warn!(%error, pid = process.pid.0, "a process that was held could not be continued");
    }
}

impl crate::contain::Mask for Masker {
    fn environment<'a>(&self, name: &str, value: &'a str) -> std::borrow::Cow<'a, str> {
        Self::environment(self, name, value)
    }

    fn arguments(&self, arguments: &[String]) -> Vec<String> {
        Self::arguments(self, arguments)
    }
}
