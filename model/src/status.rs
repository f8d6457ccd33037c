//! What a node says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AgentEpoch, NodeId, Timestamp};

/// Event class: the unit of switching, accounting and budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the activity of the same name")]
pub enum EventClass {
    Exec,
    Fork,
    Exit,
    Credentials,
    Namespaces,
    FileOpen,
    FileDelete,
    FileRename,
    FileLink,
    FileMode,
    FileOwner,
    Connect,
    Accept,
    Bind,
    Listen,
    SocketClose,
    Dns,
    Module,
    Bpf,
    Ptrace,
    Memfd,
    Mount,
    ProcessVmWrite,
    IoUring,
}

impl EventClass {
    /// All, in order.
    pub const ALL: [Self; 24] = [
        Self::Exec,
        Self::Fork,
        Self::Exit,
        Self::Credentials,
        Self::Namespaces,
        Self::FileOpen,
        Self::FileDelete,
        Self::FileRename,
        Self::FileLink,
        Self::FileMode,
        Self::FileOwner,
        Self::Connect,
        Self::Accept,
        Self::Bind,
        Self::Listen,
        Self::SocketClose,
        Self::Dns,
        Self::Module,
        Self::Bpf,
        Self::Ptrace,
        Self::Memfd,
        Self::Mount,
        Self::ProcessVmWrite,
        Self::IoUring,
    ];
}

/// What became of the records of one class (I2): `seen = submitted + filtered + lost`, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClassCount {
    /// The hook ran for a switched-on class.
    pub seen: u64,
    /// Handed to user space.
    pub submitted: u64,
    /// Dropped because no loaded rule could match (I1).
    pub filtered: u64,
    /// The ring was full.
    pub lost_ring: u64,
    /// The cgroup's budget was used up.
    pub lost_budget: u64,
    /// The kernel could not read what the record needs.
    pub lost_read: u64,
}

impl ClassCount {
    /// All losses together.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_ring + self.lost_budget + self.lost_read
    }
}

/// Events lost in a span of time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LossWindow {
    /// From.
    pub from: Timestamp,
    /// To.
    pub to: Timestamp,
    /// How many, by class; empty means none.
    pub lost: BTreeMap<EventClass, u64>,
}

/// One hook as it really is on this kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Program name in the object.
    pub hook: String,
    /// Classes that it feeds.
    pub classes: Vec<EventClass>,
    /// What it is attached to, or why it is not.
    pub state: HookState,
}

/// Whether a hook is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HookState {
    /// Attached in its best form.
    Attached {
        /// For example `tp_btf/sched_process_exec`.
        to: String,
    },
    /// Attached in a lesser form.
    Fallback {
        /// The lesser form.
        to: String,
        /// Why the best form is not to be had.
        because: String,
    },
    /// No loaded rule needs it.
    NotNeeded,
    /// Not attached, and nothing is missed: on this kernel there can be no such event.
    NothingToSee {
        /// Why there can be none.
        because: String,
    },
    /// Not attached: these classes are not seen.
    Failed {
        /// Why.
        because: String,
    },
}

/// A node's own report, sent at start and every few seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which node.
    pub node: NodeId,
    /// Which start of the agent.
    pub epoch: AgentEpoch,
    /// When the report was made.
    pub at: Timestamp,
    /// Kernel release.
    pub kernel: String,
    /// Rules loaded.
    pub rules: u64,
    /// Titles of the rules for which programs are held in the kernel at their exec until they are judged. At most
    /// [`NodeStatus::MAX_HOLDING`].
    #[serde(default)]
    pub holding: Vec<String>,
    /// Which rules of its controller it has loaded; none where it has its own from folders.
    #[serde(default)]
    pub loaded: Option<crate::RulesVersion>,
    /// Every hook of the object.
    pub hooks: Vec<HookStatus>,
    /// Accounting since the start, by class.
    pub counts: BTreeMap<EventClass, ClassCount>,
    /// Findings made since the start.
    pub findings: u64,
    /// Containments in force on the node.
    pub containments: u64,
    /// What is degraded, in a person's words; empty when nothing is.
    pub degraded: Vec<String>,
}

impl NodeStatus {
    /// Rules named as holding (I11).
    pub const MAX_HOLDING: usize = 64;
}
