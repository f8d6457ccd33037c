//! The undo: in reverse order of application, one at a time, and the end of the run.

use std::time::Duration;

use model::{ActionId, ActionState, Actor, AuditKind, OnDrift, RunState, Timestamp, UndoClass};

use super::{
    Block, Change, Effect, MAX_REVERTS, REVERT, Reactions, Refusal, RollbackScope, Run, StepEnd,
    state::{ActionRun, Consent, Phase, StepState},
    system,
};
use crate::action::describe;

impl Run {
    /// Whether there is something that `scope` would undo.
    ///
    /// # Errors
    /// Why not, for the person.
    pub fn may_roll_back(&self, scope: &RollbackScope) -> Result<(), Refusal> {
        match scope {
            RollbackScope::Action(id) => {
                let index = self.index(id).ok_or_else(|| Refusal::NoSuchAction(id.clone()))?;
                let action = &self.actions[index];
                match action.work.action.undo() {
                    UndoClass::Irreversible { residual } => {
                        Err(Refusal::NothingToUndo(format!("{id} cannot be undone: {residual}")))
                    }
                    UndoClass::Nothing => Err(Refusal::NothingToUndo(format!("{id} changed nothing"))),
                    UndoClass::Exact | UndoClass::Compensable { .. }
                        if undoable(action) || under_way(action) =>
                    {
                        Ok(())
                    }
                    UndoClass::Exact | UndoClass::Compensable { .. } => {
                        Err(Refusal::NothingToUndo(format!("{id} is {:?}", action.state)))
                    }
                }
            }
            RollbackScope::Run => {
                let over = matches!(self.phase, Phase::Over(_));
                let any = self.actions.iter().any(|action| undoable(action) || under_way(action));
                if any || !over {
                    Ok(())
                } else {
                    Err(Refusal::NothingToUndo("nothing of the run that could be undone is in force".into()))
                }
            }
        }
    }

    pub(super) fn ask_rollback(
        &mut self,
        scope: RollbackScope,
        (by, because): (Actor, String),
        on_drift: OnDrift,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        if self.may_roll_back(&scope).is_err() {
            return;
        }
        let what = match &scope {
            RollbackScope::Action(action) => format!("rollback of {action}: {because}"),
            RollbackScope::Run => format!("rollback of the run: {because}"),
        };
        let what = match on_drift {
            OnDrift::Ask => what,
            OnDrift::Overwrite => format!("{what} (what others changed since is overwritten)"),
        };
        let reactions = Reactions::Undone;
        let change = Change::RollbackBegan { scope, by: by.clone(), because, reactions, on_drift };
        self.record(change, now, out);
        out.push(self.audit(AuditKind::Human, by, None, what));
    }

    /// Begins the next undo, if one is to be begun and none is under way. An effect that is still uncertain is waited for, so
    /// that the order holds.
    pub(super) fn roll_back(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if self.actions.iter().any(|action| action.state == ActionState::Reverting) {
            return;
        }
        let uncertain =
            |action: &ActionRun| action.state == ActionState::Applying && action.cleanup.is_none();
        if self.phase == Phase::RollingBack && self.actions.iter().any(uncertain) {
            return;
        }
        let next = (0..self.actions.len())
            .filter(|&index| {
                let action = &self.actions[index];
                let failed = action.state == ActionState::Applying && action.cleanup.is_some();
                failed || (action.wanted_back && undoable(action))
            })
            .max_by_key(|&index| self.actions[index].order);
        if let Some(index) = next {
            self.begin_revert(index, now, out);
        }
    }

    pub(super) fn begin_revert(&mut self, index: usize, now: Timestamp, out: &mut Vec<Effect>) {
        let action = &self.actions[index];
        let (id, attempt) = (action.id.clone(), action.reverts + 1);
        let what = format!("undo of {}", describe(action.action(), action.target()));
        self.record(Change::Reverting { action: id.clone(), attempt, deadline: now.plus(REVERT) }, now, out);
        out.push(self.audit(AuditKind::Intent, system(), Some(id), what));
        self.send(index, out);
    }

    /// Tries again later, or leaves it to a person.
    pub(super) fn revert_failed(
        &mut self,
        action: ActionId,
        because: String,
        block: Block,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let reverts = self.index(&action).map_or(MAX_REVERTS, |index| self.actions[index].reverts);
        if reverts.is_multiple_of(MAX_REVERTS) {
            let difference = format!("tried {MAX_REVERTS} times: {because}");
            return self.revert_blocked(action, difference, block, now, out);
        }
        let wait = Duration::from_secs(1 << (reverts % MAX_REVERTS));
        self.record(Change::RevertDelayed { action, because, again: now.plus(wait) }, now, out);
    }

    pub(super) fn revert_blocked(
        &mut self,
        action: ActionId,
        difference: String,
        block: Block,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let what = format!("{action} is not undone: {difference}");
        self.record(Change::RevertBlocked { action: action.clone(), difference, block }, now, out);
        out.push(self.audit(AuditKind::Outcome, system(), Some(action), what.clone()));
        out.push(Effect::Notify(what));
    }

    /// Ends the run when nothing is left to do.
    pub(super) fn finish(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let busy = self.actions.iter().any(|action| !at_rest(action));
        match self.phase {
            Phase::Over(_) => {}
            _ if busy => {}
            Phase::Forward if self.whole == Consent::Refused && self.held.is_some() => {
                // Something was done before it was held: that stays, and comes to its end.
                let because = "a person said no to what had not begun".into();
                self.record(Change::Stopped { because }, now, out);
            }
            Phase::Forward if self.whole == Consent::Refused => {
                let because = self.ended_because.clone();
                self.end(RunState::Denied, because, now, out);
            }
            Phase::Forward if self.all_ended() => self.end_forward(now, out),
            Phase::Stopped if self.all_ended() => {
                let because = self.ended_because.clone();
                self.end(RunState::Failed, because, now, out);
            }
            Phase::RollingBack if self.all_ended() => {
                let open = self.actions.iter().any(|action| action.wanted_back && undoable(action));
                let blocked = self.actions.iter().filter(|a| a.state == ActionState::RevertBlocked).count();
                if open {
                } else if blocked > 0 {
                    let because = format!("{blocked} actions could not be undone; {}", self.ended_because);
                    self.end(RunState::Failed, because, now, out);
                } else {
                    let because = self.ended_because.clone();
                    self.end(RunState::RolledBack, because, now, out);
                }
            }
            Phase::Forward | Phase::Stopped | Phase::RollingBack => {}
        }
    }

    fn all_ended(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.state, StepState::Ended(_)))
    }

    fn end_forward(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let with = |end: StepEnd| {
            let names: Vec<&str> = (0..self.steps.len())
                .filter(|&index| self.steps[index].state == StepState::Ended(end))
                .map(|index| self.plan.steps[index].name.as_str())
                .collect();
            names.join(", ")
        };
        let mut notes = Vec::new();
        for (end, text) in
            [(StepEnd::Failed, "failed"), (StepEnd::Denied, "refused"), (StepEnd::Unreached, "not reached")]
        {
            let names = with(end);
            if !names.is_empty() {
                notes.push(format!("{text}: {names}"));
            }
        }
        let nothing_done = self.actions.iter().all(|action| action.step.is_none());
        let refused = !with(StepEnd::Denied).is_empty();
        let state = if nothing_done && refused { RunState::Denied } else { RunState::Succeeded };
        self.end(state, notes.join("; "), now, out);
    }

    fn end(&mut self, state: RunState, because: String, now: Timestamp, out: &mut Vec<Effect>) {
        let what = format!("run ended: {state:?} {because}");
        self.record(Change::Ended { state, because }, now, out);
        let left: Vec<String> = self
            .actions
            .iter()
            .filter(|action| action.in_force())
            .filter_map(|action| match action.work.action.undo() {
                UndoClass::Irreversible { residual } => Some(format!("{}: {residual}", action.id)),
                _ => None,
            })
            .collect();
        out.push(self.audit(AuditKind::Outcome, system(), None, what.trim_end().to_owned()));
        if matches!(state, RunState::RolledBack | RunState::Failed) && !left.is_empty() {
            out.push(Effect::Notify(format!("not to be undone: {}", left.join("; "))));
        }
    }
}

/// Its effect is, or may be, in force, and it has an inverse.
fn undoable(action: &ActionRun) -> bool {
    action.in_force() && action.has_undo()
}

/// Not yet in force, and may come to be.
fn under_way(action: &ActionRun) -> bool {
    matches!(
        action.state,
        ActionState::Planned | ActionState::Prepared | ActionState::Applying | ActionState::Reverting
    )
}

/// Nothing is waited for.
fn at_rest(action: &ActionRun) -> bool {
    action.pending == super::state::Pending::Nothing && !under_way(action)
}
