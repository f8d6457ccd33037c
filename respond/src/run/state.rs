//! The run's state, and the only place where it changes: [`Run::apply`].

use std::{collections::BTreeMap, sync::Arc};

use model::{
    ActionId, ActionState, ApprovalRequest, NodeAction, NodeId, OnDrift, Outputs, RollbackState, RunState,
    Target, Timestamp,
};

use super::journal::{
    Answer, Block, Change, Cleanup, Reactions, RollbackScope, RunStart, StepEnd, Transition, Work, whole_run,
};
use crate::{action::Purpose, plan::Plan};
use crds::{Approval, Sign};

/// One run of one playbook.
#[derive(Debug, Clone)]
pub struct Run {
    pub(super) plan: Arc<Plan>,
    pub(super) start: Box<RunStart>,
    pub(super) began: Timestamp,
    /// Position of the last transition.
    pub(super) seq: u64,
    pub(super) phase: Phase,
    /// For all steps together.
    pub(super) whole: Consent,
    /// Why what has not begun waits for a person, although the gate let it act.
    pub(super) held: Option<String>,
    pub(super) steps: Vec<StepRun>,
    pub(super) actions: Vec<ActionRun>,
    /// Effects begun so far; gives the order of the undo.
    pub(super) begun: u32,
    pub(super) contained: Option<Timestamp>,
    /// Whether a rollback of the whole run covers the node's own reactions.
    pub(super) reactions: Reactions,
    pub(super) ended_because: String,
    /// When the controller that lives now began to look after it, if another one had begun it.
    pub(super) taken_up: Option<Timestamp>,
    /// Since when a node is away. Known only while the controller lives.
    pub(super) away: BTreeMap<NodeId, Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Steps begin.
    Forward,
    /// No further step begins; those that have begun come to their end, and what is in force stays.
    Stopped,
    /// What was done is undone.
    RollingBack,
    /// At its end.
    Over(RunState),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Consent {
    /// Nobody was asked.
    None,
    Asked(ApprovalRequest),
    Given,
    Refused,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct StepRun {
    pub(super) state: StepState,
    /// 0 is the step's own action.
    pub(super) alternative: u32,
    pub(super) consent: Consent,
    /// What a person was asked for; exactly this is done.
    pub(super) agreed: Option<Work>,
    pub(super) because: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepState {
    Waiting,
    Asking,
    /// Its action, by position.
    Working(usize),
    Ended(StepEnd),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ActionRun {
    pub(super) id: ActionId,
    /// `None`: the node did it by itself.
    pub(super) step: Option<usize>,
    pub(super) work: Work,
    pub(super) state: ActionState,
    pub(super) rollback: Option<RollbackState>,
    pub(super) planned: Timestamp,
    pub(super) applied: Option<Timestamp>,
    /// When its effect was begun, in order.
    pub(super) order: Option<u32>,
    pub(super) outputs: Outputs,
    pub(super) detail: String,
    pub(super) pending: Pending,
    /// The clock was set while it was pending: the node may find the command late by mistake, once.
    pub(super) asked_before_set: bool,
    /// Looks at the effect so far.
    pub(super) looks: u32,
    /// Undos begun so far.
    pub(super) reverts: u32,
    /// Times that the effect was begun; more than once only after a restart found it missing.
    pub(super) applies: u32,
    /// The apply failed and what is in force of it must go.
    pub(super) cleanup: Option<String>,
    /// To be undone.
    pub(super) wanted_back: bool,
    /// What its undo does where the target changed since.
    pub(super) on_drift: OnDrift,
    pub(super) block: Option<Block>,
    /// What came of watching whether the attack goes on.
    pub(super) watch: Watch,
}

/// Whether the attack goes on although the effect was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Watch {
    /// Nobody has watched yet.
    NotYet,
    /// It is watched for.
    On,
    /// No sign came.
    Quiet,
    /// One came.
    Seen(Sign, String),
}

/// What an action waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    Nothing,
    Capture {
        deadline: Timestamp,
    },
    ReadBack {
        seq: u64,
        deadline: Timestamp,
    },
    Apply {
        deadline: Timestamp,
    },
    Verify {
        deadline: Timestamp,
    },
    Revert {
        deadline: Timestamp,
    },
    /// Looked at or undone again then.
    Later {
        at: Timestamp,
    },
    /// Signs are watched for.
    Watch {
        until: Timestamp,
    },
}

impl Pending {
    /// The same, as far away as before the wall clock was set.
    fn shift(&mut self, by: i64) {
        match self {
            Self::Nothing => {}
            Self::Capture { deadline }
            | Self::ReadBack { deadline, .. }
            | Self::Apply { deadline }
            | Self::Verify { deadline }
            | Self::Revert { deadline }
            | Self::Later { at: deadline }
            | Self::Watch { until: deadline } => *deadline = shifted(*deadline, by),
        }
    }

    /// What was asked and not answered may be answered until `at`.
    pub(super) fn wait_until(&mut self, at: Timestamp) {
        if let Self::Capture { deadline } | Self::ReadBack { deadline, .. } = self {
            *deadline = at.max(*deadline);
        }
    }

    /// When it is time to do something about it.
    pub(super) fn due(self) -> Option<Timestamp> {
        match self {
            Self::Nothing => None,
            Self::Capture { deadline }
            | Self::ReadBack { deadline, .. }
            | Self::Apply { deadline }
            | Self::Verify { deadline }
            | Self::Revert { deadline } => Some(deadline),
            Self::Later { at } | Self::Watch { until: at } => Some(at),
        }
    }
}

/// A moment by a clock that was set.
fn shifted(at: Timestamp, by: i64) -> Timestamp {
    Timestamp(at.0.saturating_add(by))
}

impl ActionRun {
    pub(super) fn new(id: ActionId, step: Option<usize>, work: Work, planned: Timestamp) -> Self {
        Self {
            id,
            step,
            work,
            state: ActionState::Planned,
            rollback: None,
            planned,
            applied: None,
            order: None,
            outputs: Outputs::new(),
            detail: String::new(),
            pending: Pending::Nothing,
            asked_before_set: false,
            looks: 0,
            reverts: 0,
            applies: 0,
            cleanup: None,
            wanted_back: false,
            on_drift: OnDrift::Ask,
            block: None,
            watch: Watch::NotYet,
        }
    }

    pub(super) fn action(&self) -> &NodeAction {
        &self.work.action
    }

    pub(super) fn target(&self) -> &Target {
        &self.work.target
    }

    /// Its effect is, or may be, in force.
    pub(super) fn in_force(&self) -> bool {
        matches!(
            self.state,
            ActionState::Applied
                | ActionState::Verified
                | ActionState::Unverified
                | ActionState::RevertBlocked
        )
    }

    /// What it changes can be put back (I5).
    pub(super) fn has_undo(&self) -> bool {
        self.work.action.undo().has_undo()
    }

    /// On which node it is done; the API server is one more.
    pub(super) fn place(&self, node: &NodeId) -> NodeId {
        match self.work.action {
            NodeAction::Cluster(_) => NodeId::cluster(),
            _ => node.clone(),
        }
    }
}

impl Run {
    /// A run with nothing done yet. The plan is that of `start`.
    pub(super) fn new(plan: Arc<Plan>, start: Box<RunStart>, began: Timestamp) -> Self {
        let waiting = StepRun {
            state: StepState::Waiting,
            alternative: 0,
            consent: Consent::None,
            agreed: None,
            because: String::new(),
        };
        let steps = vec![waiting; plan.steps.len()];
        Self {
            plan,
            start,
            began,
            seq: 1,
            phase: Phase::Forward,
            whole: Consent::None,
            held: None,
            steps,
            actions: Vec::new(),
            begun: 0,
            contained: None,
            reactions: Reactions::Stay,
            ended_because: String::new(),
            taken_up: None,
            away: BTreeMap::new(),
        }
    }

    /// Folds one transition into the state. Deterministic: the same transitions give the same run (I7).
    pub(super) fn apply(&mut self, transition: &Transition) {
        self.seq = transition.seq;
        let at = transition.at;
        match &transition.change {
            Change::Began { .. } | Change::Would { .. } => {}
            Change::Adopted { record } => self.adopt(record),
            Change::Asked { request, work, .. } => self.asked(request, work.as_ref()),
            Change::Decided { step, answer, because, .. } => self.decided(step, *answer, because),
            Change::Planned { action, step, work, .. } => {
                let Some(index) = self.plan.position(step) else { return };
                self.steps[index].state = StepState::Working(self.actions.len());
                self.actions.push(ActionRun::new(action.clone(), Some(index), work.clone(), at));
            }
            Change::NextAlternative { step, alternative, because } => {
                let Some(index) = self.plan.position(step) else { return };
                let step = &mut self.steps[index];
                (step.state, step.alternative) = (StepState::Waiting, *alternative);
                (step.consent, step.agreed) = (Consent::None, None);
                step.because.clone_from(because);
            }
            Change::StepEnded { step, end, because } => {
                let Some(index) = self.plan.position(step) else { return };
                self.steps[index].state = StepState::Ended(*end);
                self.steps[index].because.clone_from(because);
                self.note_containment(at);
            }
            Change::ClockSet { by } => self.shift(*by),
            Change::Held { because } => self.held = Some(because.clone()),
            Change::Stopped { because } => {
                self.phase = Phase::Stopped;
                self.ended_because.clone_from(because);
            }
            Change::RollbackBegan { scope, because, reactions, on_drift, .. } => {
                self.rollback_began(scope, because, *reactions, *on_drift);
            }
            Change::Ended { state, because } => {
                self.phase = Phase::Over(*state);
                if !because.is_empty() {
                    self.ended_because.clone_from(because);
                }
            }
            of_action => {
                self.apply_to_action(of_action, transition.seq, at);
                match of_action {
                    Change::Watching { .. } => self.note_containment(at),
                    // Who said that it is contained was wrong.
                    Change::Observed { action, .. } if self.contains(action) => self.contained = None,
                    _ => {}
                }
            }
        }
    }

    /// Moves everything that a deadline is, or is counted from, with the wall clock.
    fn shift(&mut self, by: i64) {
        self.began = shifted(self.began, by);
        self.taken_up = self.taken_up.map(|at| shifted(at, by));
        for consent in
            std::iter::once(&mut self.whole).chain(self.steps.iter_mut().map(|step| &mut step.consent))
        {
            if let Consent::Asked(request) = consent {
                request.expires = shifted(request.expires, by);
            }
        }
        for action in &mut self.actions {
            action.planned = shifted(action.planned, by);
            action.pending.shift(by);
            action.asked_before_set = action.pending != Pending::Nothing;
        }
        for since in self.away.values_mut() {
            *since = shifted(*since, by);
        }
    }

    fn apply_to_action(&mut self, change: &Change, seq: u64, at: Timestamp) {
        let Some(index) = of_action(change).and_then(|id| self.index(id)) else { return };
        let begun = self.begun;
        let action = &mut self.actions[index];
        match change {
            Change::Capturing { deadline, .. } => action.pending = Pending::Capture { deadline: *deadline },
            Change::Captured { rollback, .. } => {
                action.rollback = Some(rollback.clone());
                let deadline = action.pending.due().unwrap_or(at);
                action.pending = Pending::ReadBack { seq, deadline };
            }
            Change::Prepared { .. } => action.settle(ActionState::Prepared, ""),
            Change::Applying { deadline, .. } => {
                action.state = ActionState::Applying;
                action.pending = Pending::Apply { deadline: *deadline };
                action.applies += 1;
                if action.order.is_none() {
                    action.order = Some(begun);
                    self.begun += 1;
                }
            }
            Change::ApplyFailed { because, cleanup: Cleanup::Unneeded, .. } => {
                action.settle(ActionState::Failed, because);
            }
            Change::ApplyFailed { because, cleanup: Cleanup::Needed, .. } => {
                action.pending = Pending::Nothing;
                action.cleanup = Some(because.clone());
                action.detail.clone_from(because);
            }
            Change::Applied { at, outputs, .. } => {
                action.settle(ActionState::Applied, "");
                action.applied = Some(*at);
                action.outputs.clone_from(outputs);
                action.looks = 0;
            }
            Change::Verifying { attempt, deadline, .. } => {
                action.looks = *attempt;
                action.pending = Pending::Verify { deadline: *deadline };
            }
            Change::Missing { found, again, .. } => {
                action.pending = Pending::Later { at: *again };
                action.detail.clone_from(found);
            }
            Change::Verified { .. } => {
                action.settle(ActionState::Verified, "");
                action.applied = action.applied.or(Some(at));
            }
            Change::Watching { until, .. } => {
                action.watch = Watch::On;
                action.pending = Pending::Watch { until: *until };
            }
            Change::Observed { sign, what, .. } => {
                action.watch = Watch::Seen(*sign, what.clone());
                action.pending = Pending::Nothing;
            }
            Change::Quiet { .. } => {
                action.watch = Watch::Quiet;
                action.pending = Pending::Nothing;
            }
            Change::Unverified { found, .. } => action.settle(ActionState::Unverified, found),
            Change::Failed { because, .. } => action.settle(ActionState::Failed, because),
            Change::Vacuous { because, .. } => action.settle(ActionState::Vacuous, because),
            Change::Reverting { attempt, deadline, .. } => {
                action.state = ActionState::Reverting;
                action.reverts = *attempt;
                action.pending = Pending::Revert { deadline: *deadline };
            }
            Change::RevertDelayed { because, again, .. } => {
                action.pending = Pending::Later { at: *again };
                action.detail.clone_from(because);
            }
            Change::Reverted { detail, .. } => match action.cleanup.take() {
                Some(because) => action.settle(ActionState::Failed, &format!("{because}; {detail}")),
                None => action.settle(ActionState::Reverted, detail),
            },
            Change::RevertBlocked { difference, block, .. } => {
                action.settle(ActionState::RevertBlocked, difference);
                action.block = Some(*block);
                action.cleanup = None;
                action.wanted_back = false;
            }
            _ => {}
        }
    }

    fn adopt(&mut self, record: &model::ActionRecord) {
        let work = Work { action: record.action.clone(), target: record.target.clone() };
        let mut action = ActionRun::new(record.id.clone(), None, work, record.planned);
        action.state = record.state;
        action.rollback.clone_from(&record.rollback);
        action.applied = record.applied;
        action.detail.clone_from(&record.detail);
        action.order = Some(self.begun);
        self.begun += 1;
        self.actions.push(action);
    }

    fn asked(&mut self, request: &ApprovalRequest, work: Option<&Work>) {
        let consent = Consent::Asked(request.clone());
        if request.step == whole_run() {
            self.whole = consent;
        } else if let Some(index) = self.plan.position(&request.step) {
            let step = &mut self.steps[index];
            (step.state, step.consent, step.agreed) = (StepState::Asking, consent, work.cloned());
        }
    }

    fn decided(&mut self, step: &model::StepName, answer: Answer, because: &str) {
        let consent = if answer == Answer::Approved { Consent::Given } else { Consent::Refused };
        if *step == whole_run() {
            self.whole = consent;
            self.ended_because = because.into();
        } else if let Some(index) = self.plan.position(step) {
            self.steps[index].consent = consent;
            self.steps[index].state = StepState::Waiting;
            self.steps[index].because = because.into();
        }
    }

    fn rollback_began(
        &mut self,
        scope: &RollbackScope,
        because: &str,
        reactions: Reactions,
        on_drift: OnDrift,
    ) {
        match scope {
            RollbackScope::Action(id) => {
                if let Some(index) = self.index(id) {
                    self.actions[index].want_back(on_drift);
                }
            }
            RollbackScope::Run => {
                self.phase = Phase::RollingBack;
                self.reactions = reactions;
                self.ended_because = because.into();
                let covered = |action: &ActionRun| action.step.is_some() || reactions == Reactions::Undone;
                for action in self.actions.iter_mut().filter(|action| covered(action)) {
                    action.want_back(on_drift);
                }
            }
        }
    }

    /// The moment when every step that contains was in force, and no sign says that it does not hold. What the playbook leaves to a person in
    /// any case comes on top of that.
    fn note_containment(&mut self, at: Timestamp) {
        let left_to_people = |index: usize| {
            let begun =
                matches!(self.steps[index].state, StepState::Working(_) | StepState::Ended(StepEnd::Done));
            self.plan.steps[index].approval == Approval::Required && !begun
        };
        let steps =
            || (0..self.steps.len()).filter(|&index| self.is_containment(index) && !left_to_people(index));
        let fine = |index: usize| match self.steps[index].state {
            StepState::Ended(StepEnd::Skipped) => true,
            StepState::Ended(StepEnd::Done) => !self.goes_on(index),
            StepState::Working(action) => self.actions[action].watch == Watch::On,
            _ => false,
        };
        let some = steps().any(|index| self.steps[index].state != StepState::Ended(StepEnd::Skipped));
        if self.contained.is_none() && some && steps().all(fine) {
            self.contained = Some(at);
        }
    }

    fn is_containment(&self, step: usize) -> bool {
        self.plan.steps[step].ways.first().is_some_and(|way| way.kind.purpose() == Purpose::Contain)
    }

    fn contains(&self, action: &ActionId) -> bool {
        let step = self.index(action).and_then(|index| self.actions[index].step);
        step.is_some_and(|step| self.is_containment(step))
    }

    /// Whether a sign followed the last thing that a step did.
    fn goes_on(&self, step: usize) -> bool {
        let last = self.actions.iter().rev().find(|action| action.step == Some(step));
        last.is_some_and(|action| matches!(action.watch, Watch::Seen(..)))
    }

    pub(super) fn index(&self, id: &ActionId) -> Option<usize> {
        self.actions.iter().position(|action| action.id == *id)
    }
}

impl ActionRun {
    fn settle(&mut self, state: ActionState, detail: &str) {
        self.state = state;
        self.pending = Pending::Nothing;
        if !detail.is_empty() {
            detail.clone_into(&mut self.detail);
        }
    }

    fn want_back(&mut self, on_drift: OnDrift) {
        self.wanted_back = self.has_undo();
        self.on_drift = on_drift;
        self.block = None;
    }
}

fn of_action(change: &Change) -> Option<&ActionId> {
    match change {
        Change::Capturing { action, .. }
        | Change::Captured { action, .. }
        | Change::Prepared { action }
        | Change::Applying { action, .. }
        | Change::ApplyFailed { action, .. }
        | Change::Applied { action, .. }
        | Change::Verifying { action, .. }
        | Change::Missing { action, .. }
        | Change::Verified { action }
        | Change::Unverified { action, .. }
        | Change::Watching { action, .. }
        | Change::Observed { action, .. }
        | Change::Quiet { action }
        | Change::Failed { action, .. }
        | Change::Vacuous { action, .. }
        | Change::Reverting { action, .. }
        | Change::RevertDelayed { action, .. }
        | Change::Reverted { action, .. }
        | Change::RevertBlocked { action, .. } => Some(action),
        _ => None,
    }
}
