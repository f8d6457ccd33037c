//! What an agent and its controller say to each other. `wire` carries it over gRPC or within one process.

use serde::{Deserialize, Serialize};

use crate::{
    ActionFailure, ActionId, ActionRecord, AgentEpoch, CommandKey, Finding, IncidentId, Moments, NodeAction,
    NodeId, NodeStatus, Outputs, RollbackState, Seq, Target, Timestamp,
};

/// Agent → controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "up", rename_all = "snake_case")]
pub enum Up {
    /// First word of a connection.
    Hello {
        /// Who speaks; over gRPC it must equal the certificate's identity.
        node: NodeId,
        /// Which start.
        epoch: AgentEpoch,
    },
    /// Delivered at least once and in order: kept in the spool until acknowledged.
    Report {
        /// Position in the spool, growing over all epochs.
        seq: Seq,
        /// What.
        report: Box<Report>,
    },
    /// Best effort, newest wins.
    Status(Box<NodeStatus>),
    /// Answer to a command; repeated until the command is.
    Outcome(Box<CommandOutcome>),
}

/// What must not be lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// A rule matched.
    Finding(Finding),
    /// The same cause as an earlier finding, again: only the count moves.
    Repeat {
        /// Which finding.
        finding: crate::FindingId,
        /// Its count now.
        count: u64,
        /// Time of the last one.
        last: Timestamp,
        /// Those that came since it was last told, as far as they are kept.
        #[serde(default, skip_serializing_if = "Moments::is_empty")]
        moments: Moments,
    },
    /// The node acted on its own authority, or a containment was lifted locally.
    Reaction(ActionRecord),
}

/// Controller → agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "down", rename_all = "snake_case")]
pub enum Down {
    /// Everything up to this position is stored by the controller and may leave the spool.
    Ack {
        /// Inclusive.
        upto: Seq,
    },
    /// Do one phase of one action.
    Command(Box<NodeCommand>),
    /// Part of the rules that the node is to load.
    Rules(Box<RulesPart>),
    /// What the node leaves alone, whatever its rules ask for.
    Guard(Box<crate::NodeGuard>),
}

/// A piece of a [`RuleBundle`] as JSON: bundles may be longer than a frame. Parts come in order; a part of another digest begins
/// anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesPart {
    /// Of which bundle.
    pub digest: String,
    /// From 0.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// The bytes.
    pub data: Vec<u8>,
}

impl RulesPart {
    /// Bytes of one part.
    pub const SIZE: usize = 1 << 20;
    /// Parts of one bundle, at most (I11).
    pub const MAX_PARTS: u32 = 64;
}

/// The rules that a controller gives its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleBundle {
    /// What it was made of; a node that has loaded it says so in its status.
    pub version: RulesVersion,
    /// Files of Sigma rules, in order of their names.
    pub files: Vec<RuleFile>,
    /// Ids of rules that are left out.
    pub left_out: Vec<String>,
    /// Ids of the rules that may let a node act at once: those that a playbook in mode Auto could answer.
    pub may_act: Vec<String>,
}

/// One file of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFile {
    /// Its name, for messages.
    pub name: String,
    /// Sigma documents.
    pub text: String,
}

/// Which rules are meant or loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RulesVersion {
    /// SHA-256 of the files and of what may act, in hex.
    pub digest: String,
    /// Of which RuleSets, in which generation of each.
    pub sets: Vec<RuleSetVersion>,
}

/// One RuleSet in one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSetVersion {
    /// Its name.
    pub name: String,
    /// Which generation of its spec.
    pub generation: i64,
    /// SHA-256 of its files, in hex: what it refers to may change without its spec.
    pub digest: String,
}

/// One phase of one action on one node. Idempotent by key and phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeCommand {
    /// The same key means the same effect, done once.
    pub key: CommandKey,
    /// For which action.
    pub action_id: ActionId,
    /// For which incident.
    pub incident: IncidentId,
    /// On which node; another refuses it.
    pub node: NodeId,
    /// Not begun after this.
    pub deadline: Timestamp,
    /// What.
    pub action: NodeAction,
    /// To what.
    pub target: Target,
    /// Which phase of it.
    pub phase: Phase,
}

/// The four phases of every action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Read what is needed to undo it; changes nothing.
    Capture,
    /// Do it.
    Apply {
        /// As captured and stored (I4).
        rollback: RollbackState,
    },
    /// Observe the effect.
    Verify {
        /// As captured and stored.
        rollback: RollbackState,
    },
    /// Undo it.
    Revert {
        /// As captured and stored.
        rollback: RollbackState,
        /// What is done where the target changed since.
        #[serde(default)]
        on_drift: OnDrift,
    },
}

/// What an undo does where somebody else changed the target since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum OnDrift {
    /// Nothing: a person decides.
    #[default]
    Ask,
    /// What was captured is restored all the same; a person decided so. A node's actions do not know it: theirs stay blocked.
    Overwrite,
}

impl Phase {
    /// Its name, for keys, logs and tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Apply { .. } => "apply",
            Self::Verify { .. } => "verify",
            Self::Revert { .. } => "revert",
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandOutcome {
    /// The command's key.
    pub key: CommandKey,
    /// For which action.
    pub action_id: ActionId,
    /// Name of the phase.
    pub phase: String,
    /// When it was done, by the node's clock.
    pub at: Timestamp,
    /// What came of it.
    pub result: Result<PhaseDone, ActionFailure>,
}

/// A phase came to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "done", rename_all = "snake_case")]
pub enum PhaseDone {
    /// What is needed to undo it.
    Captured {
        /// To be stored before `Apply`.
        rollback: RollbackState,
    },
    /// In force.
    Applied {
        /// For later steps.
        outputs: Outputs,
    },
    /// The effect was looked at.
    Verified {
        /// What was seen.
        effect: Effect,
    },
    /// Exactly as before.
    Reverted {
        /// What was restored, in one line.
        detail: String,
    },
    /// The target changed since the capture: not undone; a person decides.
    Drifted {
        /// Captured, found and wanted, for a person.
        difference: String,
    },
}

/// Whether an effect is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// Seen.
    InForce,
    /// Looked for and not there.
    Missing {
        /// What was seen instead.
        found: String,
    },
}
