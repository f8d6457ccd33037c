//! What follows from a node's answer.

use model::{
    ActionFailure, ActionId, ActionRecord, ActionState, Actor, AuditKind, CommandOutcome, Effect as Seen,
    NodeId, OnDrift, Outputs, PhaseDone, RollbackState, Timestamp,
};

use super::{
    Block, Change, Cleanup, Effect, MAX_OUTPUTS, Run, Transition,
    drive::key,
    state::{ActionRun, Pending, Phase},
    system,
};

/// Times that an effect found missing after a restart is begun again.
const MAX_APPLIES: u32 = 3;

impl Run {
    pub(super) fn outcome(&mut self, outcome: &CommandOutcome, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(index) = self.index(&outcome.action_id) else { return };
        let action = &self.actions[index];
        let rollback = RollbackState::Nothing;
        let answers = |phase: &model::Phase| key(action, phase) == outcome.key;
        if action.asked_before_set
            && outcome.result == Err(ActionFailure::Expired)
            && action.pending.due().is_some_and(|due| now < due)
        {
            // The command was on its way while the clock was set: the same again, with the deadline as it is now.
            self.actions[index].asked_before_set = false;
            self.send(index, out);
            return;
        }
        match action.state {
            ActionState::Planned
                if matches!(action.pending, Pending::Capture { .. }) && answers(&model::Phase::Capture) =>
            {
                self.captured(index, outcome, now, out);
            }
            // also when the run has begun to doubt and asks: the answer is better than the question
            ActionState::Applying
                if action.cleanup.is_none()
                    && answers(&model::Phase::Apply { rollback: rollback.clone() }) =>
            {
                self.applied(index, outcome, now, out);
            }
            ActionState::Applying | ActionState::Applied
                if matches!(action.pending, Pending::Verify { .. })
                    && answers(&model::Phase::Verify { rollback: rollback.clone() }) =>
            {
                self.looked(index, outcome, now, out);
            }
            ActionState::Reverting if answers(&model::Phase::Revert { rollback, on_drift: OnDrift::Ask }) => {
                self.undone(index, outcome, now, out);
            }
            _ => {}
        }
    }

    fn captured(&mut self, index: usize, outcome: &CommandOutcome, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        match &outcome.result {
            Ok(PhaseDone::Captured { rollback }) => {
                self.record(Change::Captured { action, rollback: rollback.clone() }, now, out);
                out.push(Effect::ReadBack { seq: self.seq });
            }
            Ok(other) => self.fail(index, &odd("capture", other), now, out),
            Err(gone @ ActionFailure::TargetGone { .. }) => self.vacuous(index, &gone.to_string(), now, out),
            Err(failure) => self.fail(index, &failure.to_string(), now, out),
        }
    }

    /// I4: what was read back must be what was captured.
    pub(super) fn read_back(
        &mut self,
        seq: u64,
        found: Option<&Transition>,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let waiting = |pending| matches!(pending, Pending::ReadBack { seq: wanted, .. } if wanted == seq);
        let Some(index) = self.actions.iter().position(|action| waiting(action.pending)) else { return };
        let action = &self.actions[index];
        let same = match found {
            Some(Transition { run, seq: at, change: Change::Captured { action: id, rollback }, .. }) => {
                *run == self.start.run
                    && *at == seq
                    && *id == action.id
                    && Some(rollback) == action.rollback.as_ref()
            }
            _ => false,
        };
        if same {
            let action = action.id.clone();
            self.record(Change::Prepared { action }, now, out);
        } else {
            out.push(Effect::Notify("the journal does not give back what was written to it".into()));
            self.fail(index, "its rollback state could not be read back from the journal", now, out);
        }
    }

    fn applied(&mut self, index: usize, outcome: &CommandOutcome, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        match &outcome.result {
            Ok(PhaseDone::Applied { outputs }) => {
                let outputs = bounded(outputs);
                self.record(Change::Applied { action: action.clone(), at: outcome.at, outputs }, now, out);
                let actor = self.node_actor(&action);
                out.push(self.audit(AuditKind::Outcome, actor, Some(action), "applied".into()));
            }
            Ok(other) => self.apply_failed(index, odd("apply", other), Cleanup::Needed, now, out),
            Err(gone @ ActionFailure::TargetGone { .. }) => self.vacuous(index, &gone.to_string(), now, out),
            Err(failure @ ActionFailure::Io { .. }) => {
                self.apply_failed(index, failure.to_string(), Cleanup::Needed, now, out);
            }
            Err(failure) => self.apply_failed(index, failure.to_string(), Cleanup::Unneeded, now, out),
        }
    }

    fn looked(&mut self, index: usize, outcome: &CommandOutcome, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        let found = match &outcome.result {
            Ok(PhaseDone::Verified { effect: Seen::InForce }) => {
                self.record(Change::Verified { action: action.clone() }, now, out);
                let actor = self.node_actor(&action);
                out.push(self.audit(AuditKind::Outcome, actor, Some(action), "effect seen".into()));
                return;
            }
            Ok(PhaseDone::Verified { effect: Seen::Missing { found } }) => found.clone(),
            Ok(other) => odd("verify", other),
            Err(gone @ ActionFailure::TargetGone { .. }) => {
                return self.vacuous(index, &gone.to_string(), now, out);
            }
            Err(failure) => failure.to_string(),
        };
        if self.actions[index].state == ActionState::Applying {
            return self.never_applied(index, found, now, out);
        }
        let verify = self.actions[index].step.map(|step| self.plan.steps[step].verify).unwrap_or_default();
        if self.actions[index].looks < verify.attempts {
            let again = now.plus(verify.interval.0);
            self.record(Change::Missing { action, found, again }, now, out);
        } else {
            self.unverified(index, found, now, out);
        }
    }

    /// The effect of an apply that nobody answered for is not there.
    fn never_applied(&mut self, index: usize, found: String, now: Timestamp, out: &mut Vec<Effect>) {
        let action = &self.actions[index];
        let time_left = action.step.is_some() && now < self.step_deadline(index);
        let go_on = matches!(self.phase, Phase::Forward | Phase::Stopped) && !action.wanted_back;
        if go_on && time_left && action.applies < MAX_APPLIES {
            self.begin_apply(index, now, out);
        } else {
            let because =
                format!("the node did not say that it was done, and its effect is not there: {found}");
            self.apply_failed(index, because, Cleanup::Needed, now, out);
        }
    }

    fn undone(&mut self, index: usize, outcome: &CommandOutcome, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        match &outcome.result {
            Ok(PhaseDone::Reverted { detail }) => {
                let what = format!("reverted: {detail}");
                self.record(Change::Reverted { action: action.clone(), detail: detail.clone() }, now, out);
                let actor = self.node_actor(&action);
                out.push(self.audit(AuditKind::Outcome, actor, Some(action), what));
            }
            Ok(PhaseDone::Drifted { difference }) => {
                self.revert_blocked(action, difference.clone(), Block::Drift, now, out);
            }
            Ok(other) => self.revert_blocked(action, odd("revert", other), Block::Failure, now, out),
            Err(gone @ ActionFailure::TargetGone { .. }) => match self.actions[index].cleanup.clone() {
                Some(because) => self.fail(index, &format!("{because}; {gone}"), now, out),
                None => self.vacuous(index, &gone.to_string(), now, out),
            },
            Err(changed @ ActionFailure::TargetChanged { .. }) => {
                self.revert_blocked(action, changed.to_string(), Block::Drift, now, out);
            }
            Err(failure @ (ActionFailure::Io { .. } | ActionFailure::Expired)) => {
                self.revert_failed(action, failure.to_string(), Block::Failure, now, out);
            }
            Err(failure) => self.revert_blocked(action, failure.to_string(), Block::Failure, now, out),
        }
    }

    fn vacuous(&mut self, index: usize, because: &str, now: Timestamp, out: &mut Vec<Effect>) {
        let action = self.actions[index].id.clone();
        self.record(Change::Vacuous { action: action.clone(), because: because.into() }, now, out);
        let actor = self.node_actor(&action);
        out.push(self.audit(AuditKind::Outcome, actor, Some(action), because.into()));
    }

    pub(super) fn adopt_reaction(&mut self, record: ActionRecord, now: Timestamp, out: &mut Vec<Effect>) {
        if let Some(index) = self.index(&record.id) {
            if record.state == ActionState::Reverted && self.actions[index].in_force() {
                let by = self.node_actor(&record.id);
                self.released(&record.id, &by, now, out);
            }
            return;
        }
        // One that is being applied comes from a controller that was lost: it is looked at next.
        let in_force = matches!(
            record.state,
            ActionState::Applying
                | ActionState::Applied
                | ActionState::Verified
                | ActionState::Unverified
                | ActionState::RevertBlocked
        );
        if in_force && record.rollback.is_some() {
            self.record(Change::Adopted { record: Box::new(record) }, now, out);
        }
    }

    pub(super) fn released(&mut self, action: &ActionId, by: &Actor, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(index) = self.index(action) else { return };
        let known = self.actions[index].in_force() || self.actions[index].state == ActionState::Reverting;
        if known {
            let detail = format!("lifted on the node by {by}");
            self.record(Change::Reverted { action: action.clone(), detail: detail.clone() }, now, out);
            out.push(self.audit(AuditKind::Human, by.clone(), Some(action.clone()), detail));
        }
    }

    pub(super) fn node_lost(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        if self.away.contains_key(&node) {
            return;
        }
        let waits =
            |action: &ActionRun| action.pending != Pending::Nothing && action.place(&self.start.node) == node;
        if self.actions.iter().any(waits) {
            let who =
                if node == NodeId::cluster() { "the API server".into() } else { format!("node {node}") };
            out.push(Effect::Notify(format!("{who} is away while the run waits for it")));
        }
        self.away.insert(node, now);
    }

    /// A run that waits for nothing has nothing to write down.
    pub(super) fn clock_set(&mut self, by: i64, now: Timestamp, out: &mut Vec<Effect>) {
        if by != 0 && self.next_deadline().is_some() {
            self.record(Change::ClockSet { by }, now, out);
            // What is on its way names a deadline of the clock before.
            for index in 0..self.actions.len() {
                self.send(index, out);
            }
        }
    }

    pub(super) fn node_back(&mut self, node: &NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        self.away.remove(node);
        self.resume(Some(node), now, out);
        let silent: Vec<ActionId> = self
            .actions
            .iter()
            .filter(|action| {
                action.block == Some(Block::Silence)
                    && action.state == ActionState::RevertBlocked
                    && action.place(&self.start.node) == *node
            })
            .map(|action| action.id.clone())
            .collect();
        for action in silent {
            let (scope, because) = (super::RollbackScope::Action(action), "the node is back".to_owned());
            let reactions = super::Reactions::Undone;
            let on_drift = OnDrift::Ask;
            let change = Change::RollbackBegan { scope, by: system(), because, reactions, on_drift };
            self.record(change, now, out);
        }
    }

    /// Asks again for everything that was asked of a node, or of anybody, and not answered.
    pub(super) fn resume(&mut self, node: Option<&NodeId>, now: Timestamp, out: &mut Vec<Effect>) {
        for index in 0..self.actions.len() {
            let action = &self.actions[index];
            if node.is_some_and(|node| action.place(&self.start.node) != *node) {
                continue;
            }
            match action.pending {
                Pending::Nothing | Pending::Later { .. } => {}
                Pending::Watch { until } if until <= now => self.begin_watch(index, now, out),
                Pending::Watch { .. } => {}
                Pending::ReadBack { seq, .. } => out.push(Effect::ReadBack { seq }),
                // it may be in force, in part or not at all: look before anything else
                Pending::Apply { .. } => self.verify(index, action.looks + 1, now, out),
                Pending::Verify { deadline } if deadline <= now => {
                    self.verify(index, action.looks.max(1), now, out);
                }
                Pending::Revert { deadline } if deadline <= now => {
                    let (action, attempt) = (action.id.clone(), action.reverts);
                    let deadline = now.plus(super::REVERT);
                    self.record(Change::Reverting { action, attempt, deadline }, now, out);
                    self.send(index, out);
                }
                Pending::Capture { .. } | Pending::Verify { .. } | Pending::Revert { .. } => {
                    self.send(index, out)
                }
            }
        }
    }

    fn node_actor(&self, action: &ActionId) -> Actor {
        let place = self.place(action).unwrap_or_else(|| self.start.node.clone());
        if place == NodeId::cluster() { system() } else { Actor::new(format!("system:agent/{place}")) }
    }
}

fn odd(asked: &str, answer: &PhaseDone) -> String {
    let answer = match answer {
        PhaseDone::Captured { .. } => "captured",
        PhaseDone::Applied { .. } => "applied",
        PhaseDone::Verified { .. } => "verified",
        PhaseDone::Reverted { .. } => "reverted",
        PhaseDone::Drifted { .. } => "drifted",
    };
    format!("the node answered `{answer}` to `{asked}`")
}

fn bounded(outputs: &Outputs) -> Outputs {
    let size = serde_json::to_string(outputs).map_or(usize::MAX, |text| text.len());
    if size <= MAX_OUTPUTS {
        return outputs.clone();
    }
    let note = format!("{size} bytes of outputs were left out; at most {MAX_OUTPUTS} are kept");
    Outputs::from([("left_out".to_owned(), serde_json::Value::String(note))])
}
