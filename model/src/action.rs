//! What is done about an incident, and how it is undone.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Account, ActionId, CgroupId, ClusterAction, ClusterState, IncidentId, ObjectRef, Pid, ProcessKey, RunId,
    StepName, Timestamp,
};

/// An action on a node, with its parameters; the API server is one more node. Its target is separate ([`Target`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", content = "with")]
pub enum NodeAction {
    /// Stopped in the kernel at the hook, before the program's first instruction. Made by the agent when a rule asks for
    /// it; the undo is SIGCONT.
    #[serde(rename = "node.stop")]
    Stop,
    /// Freeze a process subtree or a whole cgroup (cgroup v2 freezer; SIGSTOP where there is none).
    #[serde(rename = "node.freeze")]
    Freeze(FreezeScope),
    /// SIGKILL through a pidfd, start time checked. Cannot be undone.
    #[serde(rename = "node.kill")]
    Kill(KillScope),
    /// Cut a cgroup off the network: both directions, TCP and UDP, IPv4 and IPv6, established connections too.
    #[serde(rename = "node.net-quarantine")]
    NetQuarantine(NetQuarantine),
    /// Refuse traffic of a cgroup to one destination.
    #[serde(rename = "node.block-destination")]
    BlockDestination(BlockDestination),
    /// Reset established sockets. Cannot be undone: peers must connect again.
    #[serde(rename = "node.destroy-sockets")]
    DestroySockets,
    /// Move a file into the quarantine store with owner, mode, xattrs, times and hash.
    #[serde(rename = "node.quarantine-file")]
    QuarantineFile,
    /// Copy what is needed to judge the case; changes nothing.
    #[serde(rename = "node.capture-evidence")]
    CaptureEvidence(CaptureEvidence),
    /// Done in the API server, or by the controller itself.
    #[serde(untagged)]
    Cluster(ClusterAction),
}

impl NodeAction {
    /// The name that playbooks use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stop => "node.stop",
            Self::Freeze(_) => "node.freeze",
            Self::Kill(_) => "node.kill",
            Self::NetQuarantine(_) => "node.net-quarantine",
            Self::BlockDestination(_) => "node.block-destination",
            Self::DestroySockets => "node.destroy-sockets",
            Self::QuarantineFile => "node.quarantine-file",
            Self::CaptureEvidence(_) => "node.capture-evidence",
            Self::Cluster(action) => action.name(),
        }
    }

    /// How well it can be undone (I5).
    #[must_use]
    pub fn undo(&self) -> UndoClass {
        match self {
            Self::Stop
            | Self::Freeze(_)
            | Self::NetQuarantine(_)
            | Self::BlockDestination(_)
            | Self::QuarantineFile => UndoClass::Exact,
            Self::Kill(_) => UndoClass::Irreversible { residual: "the processes are gone".into() },
            Self::DestroySockets => UndoClass::Irreversible {
                residual: "open connections are lost; peers must connect again".into(),
            },
            Self::CaptureEvidence(_) => UndoClass::Nothing,
            Self::Cluster(action) => action.undo(),
        }
    }
}

/// How well an action can be undone (I5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum UndoClass {
    /// Revert restores exactly what was.
    Exact,
    /// It changed nothing, so there is nothing to undo.
    Nothing,
    /// Revert restores what was changed, and something else stays lost. Needs an approval or a standing approval in policy.
    Compensable {
        /// What, in a person's words.
        residual: String,
    },
    /// What stays lost after it. Needs an approval or a standing approval in policy.
    Irreversible {
        /// In a person's words.
        residual: String,
    },
}

impl UndoClass {
    /// What stays lost, whatever is undone.
    #[must_use]
    pub fn residual(&self) -> Option<&str> {
        match self {
            Self::Exact | Self::Nothing => None,
            Self::Compensable { residual } | Self::Irreversible { residual } => Some(residual),
        }
    }

    /// Whether there is an undo.
    #[must_use]
    pub fn has_undo(&self) -> bool {
        matches!(self, Self::Exact | Self::Compensable { .. })
    }
}

/// What to freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum FreezeScope {
    /// The target process and its descendants, moved into a cgroup of their own below theirs.
    #[default]
    Subtree,
    /// Everything in the target's cgroup.
    Cgroup,
}

/// What to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum KillScope {
    /// The target process only.
    Process,
    /// The target process and its descendants.
    #[default]
    Subtree,
}

/// Parameters of a network quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct NetQuarantine {
    /// Peers that stay reachable, for example a forensic collector.
    pub allow: Vec<IpNet>,
}

/// Parameters of a destination block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlockDestination {
    /// Whom.
    pub destination: IpNet,
    /// Only this port; all ports when absent.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Parameters of an evidence capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CaptureEvidence {
    /// How much process memory to copy.
    pub memory: MemoryCapture,
}

/// Whether evidence includes process memory (it holds secrets).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryCapture {
    /// None.
    #[default]
    None,
    /// All writable private mappings, up to the agent's limit.
    Private,
}

/// The one certain thing that an action touches (I9).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case")]
pub enum Target {
    /// A process, by pid and start time.
    Process {
        /// Which.
        process: ProcessKey,
    },
    /// A cgroup, by id and path; both must agree when the action is done.
    Cgroup {
        /// Inode number of the directory.
        id: CgroupId,
        /// Path below the cgroup2 mount.
        path: String,
    },
    /// A file, by path and identity; all must agree when the action is done.
    File {
        /// Absolute path in the initial mount namespace.
        path: String,
        /// Inode number.
        inode: u64,
        /// Device (`st_dev` as stat(2) gives it).
        device: u64,
    },
    /// An object of the API server, by name and uid.
    Object(ObjectRef),
    /// An account of the API server.
    Account(Account),
    /// A place where people are told, by the name that the controller's configuration gives it.
    Channel {
        /// Which.
        name: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { process } => {
                let (seconds, rest) = (process.start.0 / 1_000_000_000, process.start.0 % 1_000_000_000);
                write!(f, "pid {} (started {seconds}.{:03} s after boot)", process.pid, rest / 1_000_000)
            }
            Self::Cgroup { path, .. } => write!(f, "cgroup {path}"),
            Self::File { path, .. } => write!(f, "file {path}"),
            Self::Object(object) => object.fmt(f),
            Self::Account(account) => account.fmt(f),
            Self::Channel { name } => write!(f, "channel {name}"),
        }
    }
}

/// What must be known to undo an action exactly. Written durably and read back before the action (I4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum RollbackState {
    /// Processes stopped by the kernel.
    Stop {
        /// Each, with what it was before.
        processes: Vec<StoppedProcess>,
    },
    /// Processes moved and frozen.
    Freeze {
        /// The cgroup made for them, below the mount; `None` when the whole cgroup is frozen in place or SIGSTOP was used.
        jail: Option<String>,
        /// Each process and the cgroup that it came from.
        members: Vec<MovedProcess>,
        /// `cgroup.freeze` of the cgroup before, where it is frozen in place.
        was_frozen: Frozen,
        /// Path of the cgroup frozen in place.
        in_place: Option<String>,
        /// Its inode number: another cgroup that has come to stand at the path is not touched.
        #[serde(default)]
        in_place_id: Option<CgroupId>,
        /// Processes stopped by SIGSTOP, with what they were before: until the freezer holds them, and on where there is none.
        stopped: Vec<StoppedProcess>,
    },
    /// Pinned eBPF links and the entry of the quarantine map.
    Network {
        /// Pin folder in bpffs, unique to the action.
        pins: String,
        /// cgroup path below the mount.
        cgroup: String,
    },
    /// A file that will be moved.
    File(Box<FileState>),
    /// Objects of the API server.
    Cluster(Box<ClusterState>),
    /// The action changes nothing, or cannot be undone.
    Nothing,
}

/// A process and whether it had been stopped by somebody else before us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedProcess {
    /// Which.
    pub process: ProcessKey,
    /// It was stopped already, so the undo leaves it stopped.
    pub was_stopped: Frozen,
}

/// A process and the cgroup that it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedProcess {
    /// Which.
    pub process: ProcessKey,
    /// cgroup path below the mount.
    pub from: String,
}

/// Whether something stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frozen {
    /// Running.
    #[default]
    No,
    /// Standing still.
    Yes,
}

/// Everything of a file that a move through the quarantine store must give back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Absolute path.
    pub path: String,
    /// Where it will be kept.
    pub stored: String,
    /// SHA-256 of the content, hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// st_mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Inode number.
    pub inode: u64,
    /// Device.
    pub device: u64,
    /// Last access, (s, ns).
    pub accessed: (i64, i64),
    /// Last modification, (s, ns).
    pub modified: (i64, i64),
    /// Extended attributes (ACLs and capabilities included): name, value in hex.
    pub xattrs: Vec<(String, String)>,
    /// Hard links; above 1 the other names keep the content reachable, and that is said.
    pub links: u64,
    /// Inode flags as `lsattr` shows them (immutable, append-only), 0 where the filesystem has none.
    #[serde(default)]
    pub flags: u32,
}

/// Where an action is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ActionState {
    /// Decided, nothing captured.
    Planned,
    /// Rollback state stored and read back (I4).
    Prepared,
    /// The effect may have begun.
    Applying,
    /// The node said that it is done.
    Applied,
    /// Its effect was observed.
    Verified,
    /// Its effect could not be observed; still to be rolled back.
    Unverified,
    /// It could not be done; nothing of it is in force.
    Failed,
    /// The undo may have begun.
    Reverting,
    /// Exactly as before.
    Reverted,
    /// The target changed meanwhile: a person decides.
    RevertBlocked,
    /// The target is gone, so there is nothing to undo.
    Vacuous,
}

/// One action of one run, as the journal and the user see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// Which.
    pub id: ActionId,
    /// For which incident; `None` while the node acts on its own authority and no incident exists yet.
    pub incident: Option<IncidentId>,
    /// Of which run; `None` for a node's own reaction.
    pub run: Option<RunId>,
    /// Of which step; `None` for a node's own reaction.
    pub step: Option<StepName>,
    /// What.
    pub action: NodeAction,
    /// To what.
    pub target: Target,
    /// Where it is in its life.
    pub state: ActionState,
    /// What is needed to undo it.
    pub rollback: Option<RollbackState>,
    /// When it was planned.
    pub planned: Timestamp,
    /// When its effect was there, by the node's clock.
    pub applied: Option<Timestamp>,
    /// Last word on it: why it failed, what drifted, where the evidence lies.
    pub detail: String,
}

impl ActionRecord {
    /// What is told of it in an incident's history and in Events.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{} on {}: {:?}. {}", self.action.name(), self.target, self.state, self.detail)
    }
}

/// Something an action gives to later steps (`steps.NAME.outputs.KEY` in CEL).
pub type Outputs = std::collections::BTreeMap<String, serde_json::Value>;

/// Why an action was not done, in classes that the run's state machine tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum ActionFailure {
    /// The target is gone: vacuous, not an error.
    #[error("{target} is gone")]
    TargetGone {
        /// Which.
        target: String,
    },
    /// What stands there is not what was meant: a reused pid, another inode (I9).
    #[error("{target} is not what was meant: expected {expected}, found {found}")]
    TargetChanged {
        /// Which.
        target: String,
        /// As captured.
        expected: String,
        /// As found.
        found: String,
    },
    /// Protected: never to be touched (I6).
    #[error("{target} is protected: {because}")]
    Protected {
        /// Which.
        target: String,
        /// By what.
        because: String,
    },
    /// Whose it is is not certainly known, so that nothing is done to it without being told to (I9); trying again may help.
    #[error("{target} is not certainly known: {because}")]
    Unattributed {
        /// Which.
        target: String,
        /// What is not known.
        because: String,
    },
    /// This kernel or machine cannot do it.
    #[error("{operation} cannot be done here: {because}")]
    Unsupported {
        /// What was tried.
        operation: String,
        /// Why not.
        because: String,
    },
    /// An operation failed; trying again may help.
    #[error("{operation} on {object} failed: {because}")]
    Io {
        /// What was tried.
        operation: String,
        /// On what.
        object: String,
        /// The system's word.
        because: String,
    },
    /// The deadline of the command had passed before it was begun.
    #[error("the deadline passed before it was begun")]
    Expired,
}

impl ActionFailure {
    /// For an error of the operating system.
    #[must_use]
    pub fn io(operation: &str, object: impl fmt::Display, source: &std::io::Error) -> Self {
        Self::Io { operation: operation.into(), object: object.to_string(), because: source.to_string() }
    }
}

/// Pids that are never touched by themselves.
pub const INIT_PID: Pid = Pid(1);
