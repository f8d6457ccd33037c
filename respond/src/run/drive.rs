//! An action's way from Planned to Verified: the next thing to do, and what to do when nobody answers.

use model::{ActionState, AuditKind, CommandKey, NodeCommand, Phase as NodePhase, RollbackState, Timestamp};

use super::{
    AWAY_LIMIT, Answer, Block, Change, Cleanup, Effect, MAX_RESOLVES, RESOLVE, Run,
    state::{ActionRun, Consent, Pending, Phase, StepState},
    system, whole_run,
};
use crate::action::describe;
use crds::VerifyPolicy;

impl Run {
    /// Whatever each action can do next by itself.
    pub(super) fn drive_actions(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        for index in 0..self.actions.len() {
            let action = &self.actions[index];
            // a step that has begun comes to its end when the run stops: what contains is not left half way
            let forward = matches!(self.phase, Phase::Forward | Phase::Stopped) && !action.wanted_back;
            match (action.state, action.pending) {
                (ActionState::Planned | ActionState::Prepared, _) if !forward => {
                    self.abandon(index, now, out);
                }
                (ActionState::Planned, Pending::Nothing) => self.capture(index, now, out),
                (ActionState::Prepared, Pending::Nothing) => self.begin_apply(index, now, out),
                // taken over while nobody knew how far it had come: held where it is in force, else undone
                (ActionState::Applying, Pending::Nothing) if self.actions[index].cleanup.is_none() => {
                    self.verify(index, self.actions[index].looks + 1, now, out);
                }
                (ActionState::Applied, Pending::Nothing) if !action.wanted_back && self.looks(index) => {
                    self.verify(index, 1, now, out);
                }
                (ActionState::Verified, Pending::Nothing) if self.is_to_be_watched(index) => {
                    self.begin_watch(index, now, out);
                }
                // nothing more is to be adjusted
                (ActionState::Verified, Pending::Watch { .. }) if self.phase == Phase::RollingBack => {
                    let action = self.actions[index].id.clone();
                    self.record(Change::Quiet { action }, now, out);
                }
                _ => {}
            }
        }
    }

    fn looks(&self, index: usize) -> bool {
        let step = self.actions[index].step;
        step.is_some_and(|step| self.plan.steps[step].verify.policy != VerifyPolicy::Skip)
    }

    fn abandon(&mut self, index: usize, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        self.record(Change::Failed { action, because: "the run stopped before it".into() }, now, out);
    }

    fn capture(&mut self, index: usize, now: Timestamp, out: &mut Vec<Effect>) {
        let (action, deadline) = (self.actions[index].id.clone(), self.step_deadline(index));
        self.record(Change::Capturing { action, deadline }, now, out);
        self.send(index, out);
    }

    pub(super) fn begin_apply(&mut self, index: usize, now: Timestamp, out: &mut Vec<Effect>) {
        let (action, deadline) = (self.actions[index].id.clone(), self.step_deadline(index));
        self.record(Change::Applying { action: action.clone(), deadline }, now, out);
        let what = describe(self.actions[index].action(), self.actions[index].target());
        out.push(self.audit(AuditKind::Intent, system(), Some(action), what));
        self.send(index, out);
    }

    /// Asks the node whether the effect is there.
    pub(super) fn verify(&mut self, index: usize, attempt: u32, now: Timestamp, out: &mut Vec<Effect>) {
        let action = &self.actions[index];
        let id = action.id.clone();
        // an uncertain effect is asked about even when the step's own time is over
        let deadline = match action.state {
            ActionState::Applying => now.plus(RESOLVE),
            _ => self.step_deadline(index).max(now.plus(RESOLVE)),
        };
        self.record(Change::Verifying { action: id, attempt, deadline }, now, out);
        self.send(index, out);
    }

    /// Time in which no controller looked after the run is none of the step's.
    pub(super) fn step_deadline(&self, index: usize) -> Timestamp {
        let action = &self.actions[index];
        let timeout = action.step.map_or(RESOLVE, |step| self.plan.steps[step].timeout);
        self.taken_up.map_or(action.planned, |since| action.planned.max(since)).plus(timeout)
    }

    /// Sends the command that the action waits for. Sent again, it is the same command.
    pub(super) fn send(&self, index: usize, out: &mut Vec<Effect>) {
        let action = &self.actions[index];
        let rollback = action.rollback.clone().unwrap_or(RollbackState::Nothing);
        let (phase, deadline) = match action.pending {
            Pending::Capture { deadline } => (NodePhase::Capture, deadline),
            Pending::Apply { deadline } => (NodePhase::Apply { rollback }, deadline),
            Pending::Verify { deadline } => (NodePhase::Verify { rollback }, deadline),
            Pending::Revert { deadline } => {
                (NodePhase::Revert { rollback, on_drift: action.on_drift }, deadline)
            }
            Pending::ReadBack { .. } | Pending::Later { .. } | Pending::Watch { .. } | Pending::Nothing => {
                return;
            }
        };
        out.push(Effect::Send(Box::new(NodeCommand {
            key: key(action, &phase),
            action_id: action.id.clone(),
            incident: self.start.incident.clone(),
            node: action.place(&self.start.node),
            deadline,
            action: action.work.action.clone(),
            target: action.work.target.clone(),
            phase,
        })));
    }

    /// What follows from time having passed.
    pub(super) fn deadlines(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.expire_approvals(now, out);
        for index in 0..self.actions.len() {
            let pending = self.actions[index].pending;
            if pending.due().is_none_or(|due| due > now) || self.held(index, now) {
                continue;
            }
            let action = &self.actions[index];
            let id = action.id.clone();
            match pending {
                Pending::Nothing => {}
                Pending::Capture { .. } => {
                    self.fail(index, "the node did not answer in time", now, out);
                }
                Pending::ReadBack { .. } => {
                    self.fail(index, "its rollback state was not read back in time", now, out);
                }
                // it may be in force or not: ask
                Pending::Apply { .. } => self.verify(index, action.looks + 1, now, out),
                Pending::Verify { .. }
                    if action.looks < MAX_RESOLVES && action.state == ActionState::Applying =>
                {
                    self.verify(index, action.looks + 1, now, out);
                }
                Pending::Verify { .. } => {
                    let found = "the node did not answer: it may be in force".to_owned();
                    self.unverified(index, found, now, out);
                }
                Pending::Later { .. } if action.state == ActionState::Reverting => {
                    self.begin_revert(index, now, out);
                }
                Pending::Later { .. } => self.verify(index, action.looks + 1, now, out),
                Pending::Watch { .. } => self.record(Change::Quiet { action: id }, now, out),
                Pending::Revert { .. } => {
                    let because = "the node did not answer".to_owned();
                    self.revert_failed(id, because, Block::Silence, now, out);
                }
            }
        }
    }

    /// While the node is away, an effect that may be in force is neither given up nor asked about; a person was told when the
    /// node was lost.
    pub(super) fn held(&self, index: usize, now: Timestamp) -> bool {
        let uncertain = match self.actions[index].pending {
            Pending::Apply { .. } | Pending::Verify { .. } | Pending::Revert { .. } => true,
            // who is away has no eyes either
            Pending::Later { .. } | Pending::Watch { .. } => true,
            Pending::Capture { .. } | Pending::ReadBack { .. } | Pending::Nothing => false,
        };
        uncertain && self.away_since(index).is_some_and(|since| now.since(since) < AWAY_LIMIT)
    }

    /// Since when the node of an action is away.
    pub(super) fn away_since(&self, index: usize) -> Option<Timestamp> {
        self.away.get(&self.actions[index].place(&self.start.node)).copied()
    }

    fn expire_approvals(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let expired =
            |consent: &Consent| matches!(consent, Consent::Asked(request) if request.expires <= now);
        if self.phase != Phase::Forward {
            return;
        }
        if expired(&self.whole) {
            self.decide(whole_run(), Answer::Expired, system(), String::new(), now, out);
        }
        for index in 0..self.steps.len() {
            if self.steps[index].state == StepState::Asking && expired(&self.steps[index].consent) {
                let step = self.plan.steps[index].name.clone();
                self.decide(step, Answer::Expired, system(), String::new(), now, out);
            }
        }
    }

    pub(super) fn fail(&mut self, index: usize, because: &str, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        self.record(Change::Failed { action: action.clone(), because: because.into() }, now, out);
        out.push(self.audit(AuditKind::Outcome, system(), Some(action), format!("failed: {because}")));
    }

    pub(super) fn unverified(&mut self, index: usize, found: String, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        let what = format!("effect not seen: {found}");
        self.record(Change::Unverified { action: action.clone(), found }, now, out);
        out.push(self.audit(AuditKind::Outcome, system(), Some(action), what.clone()));
        out.push(Effect::Notify(what));
    }

    /// The apply failed; what has an undo is undone to be sure.
    pub(super) fn apply_failed(
        &mut self,
        index: usize,
        because: String,
        cleanup: Cleanup,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let cleanup = if self.actions[index].has_undo() { cleanup } else { Cleanup::Unneeded };
        let action = self.actions[index].id.clone();
        let what = format!("failed: {because}");
        self.record(Change::ApplyFailed { action: action.clone(), because, cleanup }, now, out);
        out.push(self.audit(AuditKind::Outcome, system(), Some(action), what));
    }
}

/// The same key means the same effect, done once. Looks and undos have one each time; captures and applies have one for all.
pub(super) fn key(action: &ActionRun, phase: &NodePhase) -> CommandKey {
    let name = phase.name();
    CommandKey::new(match phase {
        NodePhase::Capture | NodePhase::Apply { .. } => format!("{}/{name}", action.id),
        NodePhase::Verify { .. } => format!("{}/{name}/{}.{}", action.id, action.applies, action.looks),
        NodePhase::Revert { .. } => format!("{}/{name}/{}", action.id, action.reverts),
    })
}
