//! Shadow: what would be done is recorded, and nothing else happens (I8).

use model::{AuditKind, RunState, StepName, Timestamp, UndoClass};

use super::{Change, Effect, Run, system};
use crate::{action::describe, expression::Variables, target};

/// A step as it would be done from what was known when the run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPreview {
    /// Its name.
    pub step: StepName,
    /// Its action.
    pub action: &'static str,
    /// Steps that come before it.
    pub needs: Vec<StepName>,
    /// What it would do, and to what.
    pub would: String,
    /// How well it can be undone (I5).
    pub undo: UndoClass,
    /// Whose standing approval it has, where it needs one.
    pub standing: Option<String>,
}

impl Run {
    /// What each step would do, in an order in which they could go.
    #[must_use]
    pub fn preview(&self) -> Vec<StepPreview> {
        let order: Vec<usize> = self.plan.levels.concat();
        let preview = |index: usize| {
            let step = &self.plan.steps[index];
            let way = step.ways.first()?;
            Some(StepPreview {
                step: step.name.clone(),
                action: way.kind.name(),
                needs: step.needs.iter().map(|need| self.plan.steps[*need].name.clone()).collect(),
                would: self.would(index),
                undo: way.kind.undo(),
                standing: self.start.grants.standing.get(way.kind.name()).cloned(),
            })
        };
        order.into_iter().filter_map(preview).collect()
    }

    pub(super) fn shadow(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        // after a crash, those that are in the journal already (its first entry is the beginning) are not repeated
        let known = usize::try_from(self.seq - 1).unwrap_or(usize::MAX);
        let order: Vec<usize> = self.plan.levels.concat();
        for index in order.into_iter().skip(known) {
            let step = self.plan.steps[index].name.clone();
            let what = self.would(index);
            out.push(self.audit(AuditKind::Decision, system(), None, format!("would: step {step}: {what}")));
            self.record(Change::Would { step, what }, now, out);
        }
        let because = self.start.decision.reasons.join("; ");
        self.record(Change::Ended { state: RunState::Shadow, because }, now, out);
    }

    fn would(&self, index: usize) -> String {
        let step = &self.plan.steps[index];
        let Some(way) = step.ways.first() else { return "nothing".into() };
        let variables = Variables::of(&self.start.facts);
        let condition = match &step.when {
            None => String::new(),
            Some(when) if !when.steps().is_empty() => format!(" if {}", when.text()),
            Some(when) => match when.holds(&variables) {
                Ok(true) => String::new(),
                Ok(false) => return format!("nothing: when {} is false", when.text()),
                Err(error) => return format!("fail: {error}"),
            },
        };
        if way.needs_outputs() {
            return format!("{} on what earlier steps find{condition}", way.kind.name());
        }
        let limits = &self.plan.spec.blast_radius;
        match target::resolve(way, &self.start.facts, &variables, limits, &self.start.grants) {
            Ok(work) => format!("{}{condition}", describe(&work.action, &work.target)),
            Err(unfit) => format!("not be done: {unfit}"),
        }
    }
}
