//! What a run writes down. Folding the transitions of a run, in order, gives the run (I7).

use std::collections::BTreeMap;

use crds::{PlaybookSpec, Protected, Radius, Sign};
use model::{
    ActionId, ActionRecord, Actor, ApprovalRequest, GateDecision, IncidentId, NodeAction, NodeId, OnDrift,
    Outputs, PlaybookName, RollbackState, RunId, RunState, StepName, Target, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::facts::Facts;

/// One entry of a run's journal. It is durable before any effect that follows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Of which run.
    pub run: RunId,
    /// From 1, without gaps.
    pub seq: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What.
    pub change: Change,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// The first entry: everything that the run is decided from.
    Began {
        /// What was known and allowed.
        start: Box<RunStart>,
    },
    /// What the node did by itself about the incident belongs to the run from now on, so that it can be undone with it.
    Adopted {
        /// As the node reported it.
        record: Box<ActionRecord>,
    },
    /// Shadow: what would have been done (I8).
    Would {
        /// Which step.
        step: StepName,
        /// In one line.
        what: String,
    },
    /// A person is asked. The step's action and target are those that will be carried out.
    Asked {
        /// What is asked; [`whole_run`] when it is about all steps.
        request: ApprovalRequest,
        /// Which alternative; 0 is the step's own action.
        alternative: u32,
        /// What was asked for; `None` for the whole run.
        work: Option<Work>,
    },
    /// The answer.
    Decided {
        /// Which step, or [`whole_run`].
        step: StepName,
        /// What was said.
        answer: Answer,
        /// By whom.
        by: Actor,
        /// Why.
        because: String,
    },
    /// An action exists.
    Planned {
        /// Which.
        action: ActionId,
        /// Of which step.
        step: StepName,
        /// Which alternative; 0 is the step's own action.
        alternative: u32,
        /// What to what.
        work: Work,
    },
    /// The node is asked what is needed to undo it.
    Capturing {
        /// Which.
        action: ActionId,
        /// Not waited for longer than this.
        deadline: Timestamp,
    },
    /// What is needed to undo it. It counts only once it was read back (I4).
    Captured {
        /// Which.
        action: ActionId,
        /// What the node captured.
        rollback: RollbackState,
    },
    /// The capture was read back from the journal and is the same (I4).
    Prepared {
        /// Which.
        action: ActionId,
    },
    /// The effect may have begun.
    Applying {
        /// Which.
        action: ActionId,
        /// Not waited for longer than this.
        deadline: Timestamp,
    },
    /// The node could not do it.
    ApplyFailed {
        /// Which.
        action: ActionId,
        /// Why.
        because: String,
        /// Whether part of it may be in force, so that it is undone.
        cleanup: Cleanup,
    },
    /// In force.
    Applied {
        /// Which.
        action: ActionId,
        /// By the node's clock.
        at: Timestamp,
        /// For later steps.
        outputs: Outputs,
    },
    /// The node is asked whether the effect is there.
    Verifying {
        /// Which.
        action: ActionId,
        /// From 1.
        attempt: u32,
        /// Not waited for longer than this.
        deadline: Timestamp,
    },
    /// The effect was looked for and not seen; looked for again later.
    Missing {
        /// Which.
        action: ActionId,
        /// What was seen instead.
        found: String,
        /// When it is looked for again.
        again: Timestamp,
    },
    /// The effect was seen.
    Verified {
        /// Which.
        action: ActionId,
    },
    /// The effect could not be seen; it may be in force and is still to be rolled back.
    Unverified {
        /// Which.
        action: ActionId,
        /// What was seen instead.
        found: String,
    },
    /// Its effect was seen, and the sensors are watched for signs that the attack goes on.
    Watching {
        /// Which.
        action: ActionId,
        /// Until then.
        until: Timestamp,
    },
    /// A sign was observed: the effect is there and the attack goes on.
    Observed {
        /// Which.
        action: ActionId,
        /// Of what kind.
        sign: Sign,
        /// By the sensor's clock.
        at: Timestamp,
        /// What was seen, in one line.
        what: String,
    },
    /// The time of watching passed without a sign.
    Quiet {
        /// Which.
        action: ActionId,
    },
    /// It was not done; nothing of it is in force.
    Failed {
        /// Which.
        action: ActionId,
        /// Why.
        because: String,
    },
    /// The target is gone: nothing to do, nothing to undo.
    Vacuous {
        /// Which.
        action: ActionId,
        /// What was seen.
        because: String,
    },
    /// The step's next alternative is tried.
    NextAlternative {
        /// Which step.
        step: StepName,
        /// Which alternative, from 1.
        alternative: u32,
        /// Why the one before was not enough.
        because: String,
    },
    /// A step came to an end.
    StepEnded {
        /// Which.
        step: StepName,
        /// How.
        end: StepEnd,
        /// Why, in one line.
        because: String,
    },
    /// What has not begun waits for a person.
    Held {
        /// Why.
        because: String,
    },
    /// No further step begins.
    Stopped {
        /// Why.
        because: String,
    },
    /// What was done is to be undone.
    RollbackBegan {
        /// How much.
        scope: RollbackScope,
        /// By whom.
        by: Actor,
        /// Why.
        because: String,
        /// Whether the node's own reactions are undone too.
        reactions: Reactions,
        /// What is done where a target changed since.
        #[serde(default)]
        on_drift: OnDrift,
    },
    /// The undo may have begun.
    Reverting {
        /// Which.
        action: ActionId,
        /// From 1.
        attempt: u32,
        /// Not waited for longer than this.
        deadline: Timestamp,
    },
    /// The undo failed; it is tried again later.
    RevertDelayed {
        /// Which.
        action: ActionId,
        /// Why.
        because: String,
        /// When it is tried again.
        again: Timestamp,
    },
    /// Exactly as before.
    Reverted {
        /// Which.
        action: ActionId,
        /// What was restored.
        detail: String,
    },
    /// Not undone: a person decides.
    RevertBlocked {
        /// Which.
        action: ActionId,
        /// Captured, found and wanted; or why nobody answers.
        difference: String,
        /// What would unblock it.
        block: Block,
    },
    /// The wall clock was set: what the run waits for is as far away as it was.
    ClockSet {
        /// By how much, in nanoseconds.
        by: i64,
    },
    /// The run came to an end.
    Ended {
        /// Which one.
        state: RunState,
        /// Why, in one line.
        because: String,
    },
}

/// An action with its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What.
    pub action: NodeAction,
    /// To what.
    pub target: Target,
}

/// Everything that a run is decided from: the playbook as it was, what the gate allowed, what was known. A later change of a
/// file or policy does not reach into a run that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    /// Which run.
    pub run: RunId,
    /// For which incident.
    pub incident: IncidentId,
    /// On which node.
    pub node: NodeId,
    /// Name of the playbook.
    pub playbook: PlaybookName,
    /// The playbook itself.
    pub spec: PlaybookSpec,
    /// The gate's word.
    pub decision: GateDecision,
    /// What policies allow and forbid.
    pub grants: Grants,
    /// What CEL expressions see of the incident.
    pub facts: Facts,
    /// What the node already did by itself about this incident; undone with the incident.
    pub reactions: Vec<ActionRecord>,
}

/// What policies allow and forbid, joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grants {
    /// Irreversible actions that need no asking: name of the action, and who answers for it.
    pub standing: BTreeMap<String, String>,
    /// Who may say yes; everybody with access when empty.
    pub approvers: Vec<String>,
    /// An approval that nobody gave is denied after this, in milliseconds.
    pub approval_timeout_ms: u64,
    /// The widest thing that one action may touch.
    pub widest: Radius,
    /// What is never touched, besides what is protected always.
    pub protected: Protected,
}

/// A person's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Yes.
    Approved,
    /// No.
    Denied,
    /// Nobody answered in time.
    Expired,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepEnd {
    /// Done.
    Done,
    /// Its `when` was false, or the run ended before it.
    Skipped,
    /// A step that it needs did not come to a good end.
    Unreached,
    /// A person said no, or nobody said yes in time.
    Denied,
    /// Failed for good; the step's `onFailure` follows.
    Failed,
    /// Its action was rolled back before the step was done.
    Undone,
}

/// Whether part of a failed action may be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    /// Nothing was begun.
    Unneeded,
    /// Undo it to be sure.
    Needed,
}

/// How much is rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "scope", content = "of", rename_all = "snake_case")]
pub enum RollbackScope {
    /// One action.
    Action(ActionId),
    /// Everything the run did. An incident is rolled back by doing this to each of its runs, newest first.
    Run,
}

/// Whether the node's own reactions are undone too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reactions {
    /// They stay: a playbook that failed is no reason to let the attacker go.
    Stay,
    /// A person wants everything as it was.
    Undone,
}

/// Why a revert is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// The target changed since the capture.
    Drift,
    /// The node did not answer; tried again when it is back.
    Silence,
    /// It failed too often.
    Failure,
}

/// The step name that stands for all steps of a run in an approval. No step may be called so.
#[must_use]
pub fn whole_run() -> StepName {
    StepName::new("run")
}
