//! All parts together: [`Agent::start`].

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use detect::{
    fold::{self, Fold},
    matcher::{RuleIndex, RuleSet, Swap},
};
use model::{
    ActionFailure, ActionRecord, CommandOutcome, FilterPlan, NodeAction, NodeCommand, NodeId, NodeStatus,
    ProcessKey, Reaction, Target, Timestamp,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::link::AgentLink;

use crate::{
    aside::is_reader,
    bpffs::LeaveAtEnd,
    clock::Clock,
    contain::{Contain, ContainConfig, Guard, Lineage, OpenError, ProtectedList},
    contain_folder,
    edge::{Authority, Draft, Edge, EdgeCounts, EdgeParts, Holder, ReactionBounds, Reactor},
    house::{House, LossWatch, ProbeLosses, Shared, lock},
    mask::Masker,
    probe::{HeldProcess, ProbeConfig, ProbeError, Probes, StopFlag, continue_process, unpin},
    record::Body,
    reporter::Reporter,
    spool::{Spool, SpoolError},
    spool_folder,
    tree::{Limits, ProcessTree, Procfs},
    uplink::{Commands, Uplink},
    workload::Workloads,
};

/// Drafts that wait for the reporter (I11). Each is a finding with its context.
const MAX_DRAFTS: usize = 128;

/// A process that stands held for so long has lost its record: judging takes well below a millisecond, and the rings are emptied
/// every 50 ms.
const HELD_TOO_LONG: Duration = Duration::from_millis(500);

/// Held processes without a record are looked for this often.
const LOOK_FOR_HELD: Duration = Duration::from_millis(250);

/// Held processes without a record that are judged between two looks at the rings: /proc is read for each.
const HELD_AT_ONCE: usize = 64;

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
    /// What its controller says must be left alone; `None` on a host that is in no cluster.
    pub guard: Option<Guard>,
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
    /// How often it may.
    pub bounds: ReactionBounds,
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
            guard: None,
            masker,
            spool_limit: 256 << 20,
            status_every: Duration::from_secs(5),
            drain_limit: Duration::from_secs(3),
            authority: Authority::React,
            bounds: ReactionBounds::default(),
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
        allow_many_files();
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
            guard: config.guard.clone(),
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
        notes.extend(contain.notes());

        let bpffs = LeaveAtEnd::default();
        let mut probes = Probes::load(&config.probes, &plan(&config.rules.current().1, &config.authority))?;
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
            guard: config.guard.clone(),
            authority: Arc::new(RwLock::new(config.authority)),
            blind: AtomicBool::new(false),
            notes: Mutex::new(notes),
            of_rules: Mutex::default(),
        });
        let fold = Arc::new(Mutex::new(Fold::new(fold::Limits::NODE)));
        let news = Arc::new(Notify::new());
        let edge = Edge::new(EdgeParts {
            node: config.node.clone(),
            epoch,
            clock,
            tree,
            rules: config.rules.follow(),
            fold: Arc::clone(&fold),
            reactor: Arc::clone(&contain) as Arc<dyn Reactor>,
            holder: Box::new(HeldByProbes(Arc::clone(&shared))),
            authority: Arc::clone(&shared.authority),
            bounds: config.bounds,
            drafts: drafts.clone(),
            counts: Arc::clone(&shared.counts),
        });

        let stop = StopFlag::new()?;
        let mut threads = Threads::default();
        threads.bpffs = Some(bpffs);
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
        let (flag, of_reader, pins) = (stop.clone(), Arc::clone(&shared), config.probes.pins);
        threads.stop = Some(stop);
        threads.reader = Some(spawn("hemostat-read", move || {
            let _at_the_end = HoldsNobody { shared: Arc::clone(&of_reader), pins };
            // On a busy machine the time until this thread gets a core is most of the time until an attack stands still. It works in
            // short bursts, so a higher weight takes nothing from others for long.
            if let Err(error) = rustix::process::setpriority_process(None, READER_NICE) {
                tracing::warn!(%error, "the reader runs at ordinary priority");
            }
            let mut judge = Judge { edge, shared: Arc::clone(&of_reader), next_look: Instant::now() };
            judge.judge(held);
            let ended = reader.run_with(
                &flag,
                &mut judge,
                |judge, record| {
                    // What our own readers open is no more an event than what we open ourselves.
                    let acts = matches!(record.body, Body::Act(_));
                    if !(acts && is_reader(record.task.key.pid, record.task.parent)) {
                        judge.edge.take_in(record);
                    }
                },
                Judge::look_for_held,
            );
            if let Err(error) = ended {
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
        let authority = self.authority();
        lock(&self.shared.probes).apply_plan(&plan(&rules, &authority))?;
        self.shared.rules.replace(rules);
        Ok(())
    }

    /// Puts other rules in force, and says which of them may act. Authority that is taken away is gone before this does anything else.
    ///
    /// # Errors
    /// As [`AgentHandle::set_rules`]; the authority is changed in any case.
    pub fn set_rules_with(&self, rules: Arc<RuleSet>, authority: Authority) -> Result<(), ProbeError> {
        *self.shared.authority.write().unwrap_or_else(PoisonError::into_inner) = authority;
        self.set_rules(rules)
    }

    /// What is wrong with the rules, as whoever reads them found it: it stands in the node's status until something else is said.
    pub fn say_of_rules(&self, problems: Vec<String>) {
        *lock(&self.shared.of_rules) = problems;
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<RuleSet> {
        self.shared.rules.current().1
    }

    /// Whether the node may act by itself.
    #[must_use]
    pub fn authority(&self) -> Authority {
        self.shared.authority.read().unwrap_or_else(PoisonError::into_inner).clone()
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
    /// After the last thread: none needs what is pinned.
    bpffs: Option<LeaveAtEnd>,
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

    fn stands(&self, process: ProcessKey) -> bool {
        self.holds(process)
    }
}

/// A tree of processes is held by one descriptor each while it is contained; service managers give 1,024 unless they are asked.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = Rlimit { current: now.maximum, maximum: now.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "the limit on open files stays: large trees may not be contained");
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

/// What the kernel needs: nobody is held for a rule that may not act.
fn plan(rules: &RuleSet, authority: &Authority) -> FilterPlan {
    let mut plan = rules.plan().clone();
    let holds = (0..rules.len() as u32)
        .filter_map(|index| rules.rule(RuleIndex(index)))
        .any(|rule| rule.reaction == Reaction::Stop && authority.permits(rule));
    if !holds {
        plan.hold.clear();
    }
    plan
}

/// The edge on the reader's thread, with an eye on processes that stand held though nobody judges them.
struct Judge {
    edge: Edge,
    shared: Arc<Shared>,
    next_look: Instant,
}

impl Judge {
    /// Between looks at the rings. A record may be lost or not understood: its process must not stand for ever.
    fn look_for_held(&mut self) {
        self.edge.try_again(Clock::boot_now());
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_FOR_HELD;
        let since = Clock::boot_now().0.saturating_sub(HELD_TOO_LONG.as_nanos() as u64);
        let mut held = lock(&self.shared.probes).held();
        held.retain(|process| process.at.0 <= since);
        held.sort_unstable_by_key(|process| process.at);
        if held.len() > HELD_AT_ONCE {
            held.truncate(HELD_AT_ONCE);
            self.next_look = now;
        }
        if !held.is_empty() {
            tracing::warn!(
                processes = held.len(),
                "held processes whose record did not come are judged by /proc"
            );
            self.judge(held);
        }
    }

    fn judge(&mut self, held: Vec<HeldProcess>) {
        let contained = self.shared.contain.in_force();
        for process in held {
            let stands =
                contained.iter().any(|record| record.target == Target::Process { process: process.key });
            if stands {
                let _ = lock(&self.shared.probes).judged(process.key);
            } else {
                self.edge.judge_held(process.key, process.at);
            }
        }
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
struct HoldsNobody {
    shared: Arc<Shared>,
    pins: PathBuf,
}

impl Drop for HoldsNobody {
    fn drop(&mut self) {
        let mut probes = lock(&self.shared.probes);
        if let Err(error) = probes.apply_plan(&FilterPlan::default()) {
            tracing::error!(%error, "the kernel side still holds programs at exec though nobody judges them any more");
        }
        let contained = self.shared.contain.in_force();
        for process in probes.held() {
            if !contained.iter().any(|record| record.target == Target::Process { process: process.key }) {
                continue_process(process.key);
            }
            if let Err(error) = probes.judged(process.key) {
                tracing::warn!(%error, pid = process.key.pid.0, "a judged process stays on the list of held ones");
            }
        }
        // Only who comes after a crash needs it: an uninstall after this leaves no trace.
        if probes.held().is_empty()
            && let Err(error) = unpin(&self.pins)
        {
            tracing::warn!(%error, "the map of held processes stays pinned");
        }
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
