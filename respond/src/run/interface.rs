//! What goes into a run and what comes out of it.

use model::{
    ActionId, ActionRecord, Actor, ApprovalRequest, AuditKind, CommandOutcome, NodeCommand, NodeId, OnDrift,
    StepName,
};

use super::{
    journal::{RollbackScope, Transition},
    watch::Sight,
};

/// Something that happened and that a run must know.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The answer to [`Effect::ReadBack`]: what stands in storage at that position, `None` if nothing readable does.
    ReadBack {
        /// As asked.
        seq: u64,
        /// As found.
        found: Option<Box<Transition>>,
    },
    /// A node answered. Answers to commands of other runs and repeated answers do no harm.
    Outcome(Box<CommandOutcome>),
    /// A person said yes. See [`super::Run::may_decide`].
    Approve {
        /// To which step, or [`super::whole_run`].
        step: StepName,
        /// Who.
        by: Actor,
        /// Groups that they certainly belong to, as far as these matter.
        groups: Vec<String>,
    },
    /// A person said no.
    Deny {
        /// To which step, or [`super::whole_run`].
        step: StepName,
        /// Who.
        by: Actor,
        /// Groups that they certainly belong to, as far as these matter.
        groups: Vec<String>,
        /// Why.
        because: String,
    },
    /// Undo. See [`super::Run::may_roll_back`].
    Rollback {
        /// How much.
        scope: RollbackScope,
        /// Who.
        by: Actor,
        /// Why.
        because: String,
        /// What is done where a target changed since.
        on_drift: OnDrift,
    },
    /// A sensor saw something. Of no account unless the run watches for it; see [`super::Run::heeds`].
    Sight(Box<Sight>),
    /// The node acted by itself about the run's incident, or what became of such an act.
    Reaction(Box<ActionRecord>),
    /// The node lifted the action by itself (`hemostat release` on the node).
    Released {
        /// Which.
        action: ActionId,
        /// Who.
        by: Actor,
    },
    /// A node's link broke.
    NodeLost(NodeId),
    /// A node is there again.
    NodeBack(NodeId),
    /// Whatever has not begun waits for a person (`hemostat pause`), as if the gate had asked.
    Hold {
        /// Why.
        because: String,
    },
    /// The wall clock was set by so many nanoseconds, which is no time that has passed. To come before anything else that has the new time.
    ClockSet {
        /// Forward where positive.
        by: i64,
    },
    /// Time passed; see [`super::Run::next_deadline`].
    Tick,
}

/// Something that must be done. The effects of one call are done strictly in their order: an effect may begin only once
/// every [`Effect::Journal`] before it is durable.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every effect is a transition, and none is kept")]
pub enum Effect {
    /// Store durably.
    Journal(Transition),
    /// Read the entry at this position back from storage and hand it in as [`Input::ReadBack`] (I4).
    ReadBack {
        /// Position in the run's journal.
        seq: u64,
    },
    /// Send to the node. A command that cannot be sent now may be dropped: it is repeated on [`Input::NodeBack`].
    Send(Box<NodeCommand>),
    /// Ask a person.
    AskApproval(ApprovalRequest),
    /// Append to the audit log.
    Audit(AuditFact),
    /// Tell a person.
    Notify(String),
}

/// A fact for the audit log; time, incident and run are the run's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFact {
    /// What kind.
    pub kind: AuditKind,
    /// Who.
    pub actor: Actor,
    /// For which action.
    pub action: Option<ActionId>,
    /// In one line.
    pub what: String,
}

/// Why a person's wish cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing waits under this name.
    #[error("nothing waits for an approval under `{0}`")]
    NotWaiting(StepName),
    /// Only people approve, and only those that the policy names.
    #[error("{who} may not approve this: {because}")]
    NotAllowed {
        /// Who tried.
        who: Actor,
        /// Why not.
        because: String,
    },
    /// The run has no such action.
    #[error("the run has no action {0}")]
    NoSuchAction(ActionId),
    /// There is nothing that could be undone.
    #[error("nothing to undo: {0}")]
    NothingToUndo(String),
}
