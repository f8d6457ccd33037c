//! One run of one playbook: a state machine without clock, file or socket.
//!
//! Every decision is a [`Transition`], journalled before the effect that it permits; the state is the fold of the transitions
//! ([`Run::replay`]), so a controller that was killed anywhere goes on where it was ([`Run::recover`], I7). No action is applied
//! before its rollback state was journalled and read back (I4).

mod answers;
mod drive;
mod forward;
mod interface;
mod journal;
mod rollback;
mod shadow;
mod state;
mod view;
mod watch;

use std::{sync::Arc, time::Duration};

pub use interface::*;
pub use journal::*;
use model::{Actor, AuditKind, GateOutcome, RunState, Timestamp};
pub use shadow::StepPreview;
use state::Phase;
pub use state::Run;
pub use watch::{Happened, Sight};

use crate::plan::Plan;

/// How long the answer to a question about an uncertain effect is waited for.
const RESOLVE: Duration = Duration::from_secs(10);
/// Questions about an uncertain effect without an answer, at most.
const MAX_RESOLVES: u32 = 3;
/// How long the answer to an undo is waited for.
const REVERT: Duration = Duration::from_secs(30);
/// Undos begun for one action, at most, until a person asks again.
const MAX_REVERTS: u32 = 5;
/// A node that is away longer than this is no longer waited for.
const AWAY_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Bytes of one action's outputs as JSON, at most (I11).
const MAX_OUTPUTS: usize = 64 * 1024;

/// A run that cannot be restored from its journal.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No entry, or the first is not the beginning.
    #[error("the journal does not begin with the beginning of a run")]
    NoBeginning,
    /// An entry is missing, doubled or of another run.
    #[error("entry {found} of run {run} follows entry {after}")]
    Gap {
        /// Position found.
        found: u64,
        /// Of which run.
        run: model::RunId,
        /// Position before.
        after: u64,
    },
    /// The playbook in the journal cannot be run by this version.
    #[error("the playbook in the journal cannot be run: {0}")]
    Playbook(String),
}

impl Run {
    /// Begins a run. Its first effects are the journal's first entries.
    ///
    /// # Errors
    /// When the playbook in `start` cannot be run; [`crate::gate::decide`] gives one that can.
    pub fn begin(start: RunStart, now: Timestamp) -> Result<(Self, Vec<Effect>), ReplayError> {
        let first = Transition {
            run: start.run.clone(),
            seq: 1,
            at: now,
            change: Change::Began { start: Box::new(start) },
        };
        let mut run = Self::from_first(&first)?;
        let mut out = vec![Effect::Journal(first)];
        let decision = &run.start.decision;
        let what = format!("{:?}: {}", decision.outcome, decision.reasons.join("; "));
        out.push(run.audit(AuditKind::Decision, system(), None, what));
        if decision.outcome == GateOutcome::Shadow {
            run.shadow(now, &mut out);
            return Ok((run, out));
        }
        for record in run.start.reactions.clone() {
            run.adopt_reaction(record, now, &mut out);
        }
        run.advance(now, &mut out);
        Ok((run, out))
    }

    /// The run that these transitions tell of, in order and from the first.
    ///
    /// # Errors
    /// When they are not the gapless journal of one run.
    pub fn replay(transitions: &[Transition]) -> Result<Self, ReplayError> {
        let (first, rest) = transitions.split_first().ok_or(ReplayError::NoBeginning)?;
        let mut run = Self::from_first(first)?;
        for transition in rest {
            if transition.seq != run.seq + 1 || transition.run != run.start.run {
                return Err(ReplayError::Gap {
                    found: transition.seq,
                    run: transition.run.clone(),
                    after: run.seq,
                });
            }
            run.apply(transition);
        }
        Ok(run)
    }

    fn from_first(first: &Transition) -> Result<Self, ReplayError> {
        let Change::Began { start } = &first.change else { return Err(ReplayError::NoBeginning) };
        if first.seq != 1 {
            return Err(ReplayError::NoBeginning);
        }
        let plan = Plan::of(&start.playbook, &start.spec).map_err(|problems| {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            ReplayError::Playbook(all.join("; "))
        })?;
        Ok(Self::new(Arc::new(plan), start.clone(), first.at))
    }

    /// Takes in what happened and gives what must be done, in order.
    #[must_use]
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.phase == Phase::Over(RunState::Shadow) {
            return out;
        }
        match input {
            Input::ReadBack { seq, found } => self.read_back(seq, found.as_deref(), now, &mut out),
            Input::Outcome(outcome) => self.outcome(&outcome, now, &mut out),
            Input::Approve { step, by, groups } => self.approve(step, by, &groups, now, &mut out),
            Input::Deny { step, by, groups, because } => {
                self.deny(step, (by, &groups), because, now, &mut out);
            }
            Input::Rollback { scope, by, because, on_drift } => {
                self.ask_rollback(scope, (by, because), on_drift, now, &mut out);
            }
            Input::Sight(sight) => self.observe(&sight, now, &mut out),
            Input::Reaction(record) => self.adopt_reaction(*record, now, &mut out),
            Input::Released { action, by } => self.released(&action, &by, now, &mut out),
            Input::NodeLost(node) => self.node_lost(node, now, &mut out),
            Input::NodeBack(node) => self.node_back(&node, now, &mut out),
            Input::Hold { because } => self.hold(because, now, &mut out),
            Input::ClockSet { by } => self.clock_set(by, now, &mut out),
            Input::Tick => {}
        }
        self.deadlines(now, &mut out);
        self.advance(now, &mut out);
        out
    }

    /// After [`Run::replay`]: asks again for what was asked and not answered, and goes on.
    #[must_use]
    pub fn recover(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.start.decision.outcome == GateOutcome::Shadow {
            if self.phase != Phase::Over(RunState::Shadow) {
                self.shadow(now, &mut out);
            }
            return out;
        }
        // the crash may have come before all of them were taken over
        for record in self.start.reactions.clone() {
            self.adopt_reaction(record, now, &mut out);
        }
        self.taken_up = Some(now);
        for index in 0..self.actions.len() {
            let deadline = self.step_deadline(index);
            self.actions[index].pending.wait_until(deadline);
        }
        self.resume(None, now, &mut out);
        out.extend(self.waiting().into_iter().map(Effect::AskApproval));
        self.deadlines(now, &mut out);
        self.advance(now, &mut out);
        out
    }

    /// Does all that can be done now. Each round journals something or is the last.
    fn advance(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        loop {
            let before = self.seq;
            self.drive_actions(now, out);
            self.settle_steps(now, out);
            self.answer_failures(now, out);
            if self.phase == Phase::Forward {
                self.begin_steps(now, out);
            } else {
                self.drop_steps(now, out);
            }
            self.answer_failures(now, out);
            self.roll_back(now, out);
            self.finish(now, out);
            if self.seq == before {
                return;
            }
        }
    }

    fn record(&mut self, change: Change, now: Timestamp, out: &mut Vec<Effect>) {
        let transition = Transition { run: self.start.run.clone(), seq: self.seq + 1, at: now, change };
        self.apply(&transition);
        out.push(Effect::Journal(transition));
    }

    #[expect(clippy::unused_self, reason = "reads as what the run does")]
    fn audit(&self, kind: AuditKind, actor: Actor, action: Option<model::ActionId>, what: String) -> Effect {
        Effect::Audit(AuditFact { kind, actor, action, what })
    }
}

/// Who decides where no person does.
fn system() -> Actor {
    Actor::new("system:controller")
}

#[cfg(test)]
mod tests;
