//! What a controller is started with.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use detect::{correlation, incident::GroupingConfig};
use model::{Level, Timestamp};

use crate::{
    attribute::Pods,
    audit::SEGMENT_BYTES,
    crash::{CrashPoints, NeverCrash},
    ledger::Ledger,
    witness::Witness,
};

pub use crate::files::{read_file, rules_below};

/// Where the present comes from. The only clock that the controller reads; tests pass their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The wall clock.
#[must_use]
pub fn wall_clock() -> Clock {
    Arc::new(|| {
        // Before 1970 is a clock that was never set: the epoch is as good as any answer.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    })
}

/// Time that passes, suspend included, whatever the wall clock is set to. Tests pass their own.
pub type Steady = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The kernel's clock since the boot.
#[must_use]
pub fn boot_clock() -> Steady {
    Arc::new(|| {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    })
}

/// What a controller is started with.
#[derive(Clone)]
pub struct ControllerConfig {
    /// The journal database (redb): incidents, runs, what is needed for every rollback.
    pub journal: PathBuf,
    /// The audit log.
    pub audit_log: PathBuf,
    /// The key of its chain, made (mode 0600) where there is none. Keep it apart from the log.
    pub audit_key: PathBuf,
    /// Copy of the log's length and last hash. Keep it apart from the log.
    pub audit_anchor: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Folders and files with playbooks and policies (`*.yaml`, `*.yml`), read in this order.
    pub playbooks: Vec<PathBuf>,
    /// Folders and files with rules, whose correlations run here.
    pub rules: Vec<PathBuf>,
    /// Bounds of the correlations' state.
    pub correlation: correlation::Limits,
    /// How findings become incidents.
    pub grouping: GroupingConfig,
    /// A group of findings is shown and responded to once one of them has this level.
    pub open_at: Level,
    /// The collector that traces of incidents are sent to (OTLP over gRPC, for example `http://127.0.0.1:4317`); none where absent.
    pub traces: Option<String>,
    /// The limits.
    pub limits: Limits,
    /// Where the present comes from.
    pub clock: Clock,
    /// Tells a wall clock that was set from time that passed.
    pub steady: Steady,
    /// Where a test makes it die.
    pub crash: Arc<dyn CrashPoints>,
    /// What is known of pods; `None` without a cluster.
    pub pods: Option<Pods>,
    /// The namespace that it runs in, which is never touched; `None` without a cluster.
    pub own_namespace: Option<String>,
    /// Who writes an effect down elsewhere before it is commanded, where there is somebody.
    pub witness: Option<Witness>,
    /// Who keeps what nodes reported elsewhere before it is acknowledged, where there is somebody.
    pub ledger: Option<Ledger>,
    /// Feeds of threat intelligence, read again when they change.
    pub feeds: Vec<crate::intel::FeedSource>,
    /// What those feeds say; exchanged while it is used.
    pub intelligence: Arc<enrich::Intelligence>,
    /// The data classification policy.
    pub classes: Arc<enrich::Classes>,
    /// Whether this controller leads for certain, where there is an election: what it takes in otherwise is stored and not acknowledged, so
    /// that nodes tell it to whoever leads.
    pub leads: Option<Leads>,
}

/// Whether this controller leads for certain.
pub type Leads = Arc<dyn Fn() -> bool + Send + Sync>;

impl ControllerConfig {
    /// Everything in `state` (kept over restarts) and the socket in `run`, with the defaults for the rest.
    #[must_use]
    pub fn in_folders(state: &Path, run: &Path) -> Self {
        Self {
            journal: state.join("journal.redb"),
            audit_log: state.join("audit/audit.jsonl"),
            audit_key: state.join("keys/audit.key"),
            audit_anchor: state.join("audit.anchor"),
            socket: run.join("controller.sock"),
            playbooks: Vec::new(),
            rules: Vec::new(),
            correlation: correlation_limits(),
            grouping: GroupingConfig::default(),
            open_at: Level::Medium,
            traces: None,
            limits: Limits::default(),
            clock: wall_clock(),
            steady: boot_clock(),
            crash: Arc::new(NeverCrash),
            pods: None,
            own_namespace: None,
            witness: None,
            ledger: None,
            feeds: Vec::new(),
            intelligence: Arc::default(),
            classes: Arc::default(),
            leads: None,
        }
    }
}

/// A node that was cut off for an hour still counts; 20,000 groups are some megabytes for each correlation.
fn correlation_limits() -> correlation::Limits {
    correlation::Limits { catch_up: Duration::from_secs(3600), groups: 20_000, ..Default::default() }
}

impl std::fmt::Debug for ControllerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerConfig")
            .field("journal", &self.journal)
            .field("audit_log", &self.audit_log)
            .field("socket", &self.socket)
            .field("playbooks", &self.playbooks)
            .finish_non_exhaustive()
    }
}

/// Limits (I11). What happens at each is said beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages and requests that wait for the core. At the limit agents and clients wait.
    pub inbox: usize,
    /// Messages that become durable together.
    pub batch: usize,
    /// Incidents kept. At the limit the oldest that is over and has nothing in force is forgotten; if there is none, the limit
    /// is passed and that is reported.
    pub incidents: usize,
    /// Finding ids remembered to recognise a repeated delivery; the oldest are forgotten first.
    pub seen: u64,
    /// Findings held in memory with their incidents, over all incidents; the least recently used incidents are read again when
    /// they are needed.
    pub cached_findings: usize,
    /// Runs of one playbook for one incident. At the limit no more are begun, and a person is told.
    pub runs_per_playbook: usize,
    /// Commands and answers that wait for one node. At the limit the oldest are dropped: the run repeats them.
    pub node_queue: usize,
    /// Reactions of nodes that are remembered without an incident; the oldest are forgotten first.
    pub orphans: usize,
    /// Findings that correlations look at, remembered as their evidence and for their repetitions, each with its event; the longest
    /// unseen are forgotten first, and counted if they were still wanted.
    pub fed: usize,
    /// A file of the audit log that is longer, in bytes, is full: another is begun. None is ever removed.
    pub audit_segment: u64,
    /// How long a request on the control socket waits for the core.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inbox: 1024,
            batch: 64,
            incidents: 10_000,
            seen: 262_144,
            cached_findings: 4096,
            runs_per_playbook: 8,
            node_queue: 1024,
            orphans: 1024,
            fed: 16_384,
            audit_segment: SEGMENT_BYTES,
            request: Duration::from_secs(10),
        }
    }
}
