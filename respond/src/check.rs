//! Everything that is wrong with a playbook, at once, each with its place.

mod graph;
mod ways;

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    Approval, Cel, Mode, PlaybookSpec, Step, nearest,
    source::{Places, Problem},
};
use model::StepName;

use crate::{
    action::Purpose,
    expression::{self, Expression, Scope},
    plan::{DEFAULT_TIMEOUT, MAXIMUM_TIMEOUT, Parts, PlanStep, written},
    run::whole_run,
};

/// How closely a specification is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything: it is about to be used.
    Whole,
    /// A run of it has begun.
    Begun,
}

/// The parts of the plan, as far as they could be made, and every problem.
pub(crate) fn check(
    spec: &PlaybookSpec,
    places: &Places,
    standing: &BTreeSet<String>,
    look: Look,
) -> (Option<Parts>, Vec<Problem>) {
    let mut check = Check { spec, places, standing, look, problems: Vec::new() };
    let trigger_when = check.trigger();
    check.names();
    check.durations();
    let needs = graph::needs(&mut check);
    let levels = graph::levels(&mut check, &needs);
    let ancestors = graph::ancestors(&needs);
    let mut steps = Vec::new();
    for (index, step) in spec.steps.iter().enumerate() {
        let path = format!("spec.steps[{index}]");
        let when = step
            .when
            .as_ref()
            .and_then(|cel| check.condition(cel, &format!("{path}.when"), &ancestors[index]));
        let ways = ways::ways(&mut check, step, &path, &ancestors[index]);
        check.order(index, step, &path, &ancestors[index]);
        steps.push(PlanStep {
            name: StepName::new(&step.name),
            needs: needs[index].clone(),
            when,
            ways,
            verify: step.verify,
            observe: step.observe.clone(),
            timeout: step.timeout.map_or(DEFAULT_TIMEOUT, |period| period.0),
            on_failure: step.on_failure,
            approval: step.approval,
        });
    }
    let parts = levels.map(|levels| Parts { trigger_when, steps, levels });
    (parts, check.problems)
}

pub(super) struct Check<'a> {
    pub(super) spec: &'a PlaybookSpec,
    pub(super) places: &'a Places,
    standing: &'a BTreeSet<String>,
    look: Look,
    problems: Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn error(&mut self, path: &str, message: String) {
        self.problems.push(Problem::error(self.places.of(path), message));
    }

    pub(super) fn error_with(&mut self, path: &str, message: String, help: Option<String>) {
        let mut problem = Problem::error(self.places.of(path), message);
        problem.help = help;
        self.problems.push(problem);
    }

    fn warning(&mut self, path: &str, message: String, help: &str) {
        self.problems.push(Problem::warning(self.places.of(path), message).help(help));
    }

    fn trigger(&mut self) -> Option<Expression> {
        let trigger = &self.spec.trigger;
        if trigger.rules.is_empty()
            && trigger.techniques.is_empty()
            && trigger.minimum_level.is_none()
            && trigger.when.is_none()
        {
            let message = "the trigger is empty: give at least one of rules, techniques, minimumLevel, when";
            self.error("spec.trigger", message.into());
        }
        for (index, technique) in trigger.techniques.iter().enumerate() {
            if !is_technique(technique) {
                let message = format!("`{technique}` is no ATT&CK technique id; expected T1059 or T1059.004");
                self.error(&format!("spec.trigger.techniques[{index}]"), message);
            }
        }
        let when = trigger.when.as_ref()?;
        self.compile(when, "spec.trigger.when", Scope::Trigger, expression::Purpose::Condition)
    }

    fn names(&mut self) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, step) in self.spec.steps.iter().enumerate() {
            let path = format!("spec.steps[{index}].name");
            let mut letters = step.name.chars();
            let sound = letters.next().is_some_and(|c| c.is_ascii_lowercase())
                && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && step.name.len() <= 40;
            if !sound {
                let message = format!(
                    "`{}` is no name for a step: lower-case letters, digits and underscores, a letter first, at most 40",
                    step.name
                );
                self.error(&path, message);
            }
            if step.name == whole_run().as_str() {
                self.error(
                    &path,
                    "no step may be called `run`: approvals use it for all steps together".into(),
                );
            }
            if let Some(first) = seen.get(step.name.as_str()) {
                let place = self.places.of(&format!("spec.steps[{first}].name"));
                self.error(&path, format!("step `{}` is there twice; the first is at {place}", step.name));
            }
            seen.entry(&step.name).or_insert(index);
        }
    }

    fn durations(&mut self) {
        for (index, step) in self.spec.steps.iter().enumerate() {
            let path = format!("spec.steps[{index}].timeout");
            let timeout = step.timeout.map_or(DEFAULT_TIMEOUT, |period| period.0);
            if timeout > MAXIMUM_TIMEOUT || timeout.is_zero() {
                let most = crds::Period(MAXIMUM_TIMEOUT);
                self.error(&path, format!("a timeout is more than nothing and at most {most}"));
            }
            let looks = step.verify.interval.0.saturating_mul(step.verify.attempts.saturating_sub(1));
            if looks >= timeout {
                let message =
                    format!("verify looks for longer than the step's timeout of {}", crds::Period(timeout));
                self.warning(
                    &format!("spec.steps[{index}].verify"),
                    message,
                    "raise timeout or lower attempts",
                );
            }
            self.observation(index, step);
            let asks = step.approval == Approval::Required || self.spec.mode == Mode::Approve;
            if asks && self.spec.maximum_duration.0 < std::time::Duration::from_secs(60) {
                let message = format!(
                    "waits for a person, and the playbook begins no step after {}",
                    self.spec.maximum_duration
                );
                self.warning(&format!("spec.steps[{index}]"), message, "raise spec.maximumDuration");
            }
        }
        if self.spec.maximum_duration.0.is_zero() {
            self.error("spec.maximumDuration", "must be more than nothing".into());
        }
    }

    fn observation(&mut self, index: usize, step: &Step) {
        let Some(observe) = &step.observe else { return };
        let path = format!("spec.steps[{index}].observe");
        if observe.period.0 > MAXIMUM_TIMEOUT || observe.period.0.is_zero() {
            let most = crds::Period(MAXIMUM_TIMEOUT);
            self.error(&format!("{path}.for"), format!("watched for more than nothing and at most {most}"));
        }
        if observe.against.is_empty() {
            let message = "names no sign: give Connections, Return or Spread";
            self.error(&format!("{path}.against"), message.into());
        }
        let twice = |at: usize| observe.against[..at].contains(&observe.against[at]);
        for at in (0..observe.against.len()).filter(|&at| twice(at)) {
            let message = format!("{} is there twice", observe.against[at]);
            self.error(&format!("{path}.against[{at}]"), message);
        }
        if step.verify.policy == crds::VerifyPolicy::Skip {
            let message = "is watched from the seen effect on, and `verify.policy: Skip` looks for none";
            self.error(&path, message.into());
        }
    }

    /// Irreversible steps come after containment and evidence (design §7).
    fn order(&mut self, index: usize, step: &Step, path: &str, ancestors: &BTreeSet<usize>) {
        let purpose = |step: &Step| {
            written(step, "").iter().filter_map(|way| crate::action::ActionKind::named(way.action)).next()
        };
        let before = |wanted: Purpose| {
            ancestors
                .iter()
                .filter(|&&ancestor| ancestor != index)
                .filter_map(|&ancestor| purpose(&self.spec.steps[ancestor]))
                .any(|kind| kind.purpose() == wanted)
        };
        let (contained, evidence) = (before(Purpose::Contain), before(Purpose::Evidence));
        for way in written(step, path) {
            let Some(kind) = crate::action::ActionKind::named(way.action) else { continue };
            if kind.undo().residual().is_none() {
                continue;
            }
            let at = format!("{}.action", way.path);
            if !contained && kind.purpose() == Purpose::Eradicate {
                let message = format!("{} cannot be undone and comes before any containment", kind.name());
                let help = "let it need a step that contains, for example node.freeze";
                self.error_with(&at, message, Some(help.into()));
            }
            if !evidence && kind == crate::action::ActionKind::Kill {
                let message = format!("{} destroys evidence that no step before it has kept", kind.name());
                self.warning(&at, message, "let it need a step with node.capture-evidence");
            }
            if step.approval != Approval::Required && !self.standing.contains(kind.name()) {
                let message =
                    format!("{} cannot be undone: each run will wait here for a person", kind.name());
                let help = "say `approval: Required`, or give it a standing approval in a ResponsePolicy";
                self.warning(&at, message, help);
            }
        }
    }

    fn condition(&mut self, cel: &Cel, path: &str, ancestors: &BTreeSet<usize>) -> Option<Expression> {
        self.asking(cel, path, ancestors, expression::Purpose::Condition)
    }

    /// A step's expression that gives a value.
    pub(super) fn cel(&mut self, cel: &Cel, path: &str, ancestors: &BTreeSet<usize>) -> Option<Expression> {
        self.asking(cel, path, ancestors, expression::Purpose::Value)
    }

    /// A step's expression: compiled, and asking only about steps that are done before.
    fn asking(
        &mut self,
        cel: &Cel,
        path: &str,
        ancestors: &BTreeSet<usize>,
        purpose: expression::Purpose,
    ) -> Option<Expression> {
        let expression = self.compile(cel, path, Scope::Step, purpose)?;
        for used in expression.uses() {
            let place = self.places.within(path, used.line, used.column);
            let names = self.spec.steps.iter().map(|step| step.name.as_str());
            let Some(index) = self.spec.steps.iter().position(|step| step.name == used.step) else {
                let problem = Problem::error(place, format!("there is no step `{}`", used.step))
                    .meant(nearest(&used.step, names));
                self.problems.push(problem);
                continue;
            };
            if !ancestors.contains(&index) {
                let message = format!(
                    "step `{}` need not be done before this one, so it cannot be asked about",
                    used.step
                );
                let help = format!("add `{}` to needs", used.step);
                self.problems.push(Problem::error(place, message).help(help));
            }
        }
        Some(expression)
    }

    fn compile(
        &mut self,
        cel: &Cel,
        path: &str,
        scope: Scope,
        purpose: expression::Purpose,
    ) -> Option<Expression> {
        let purpose = match self.look {
            Look::Whole => purpose,
            Look::Begun => expression::Purpose::Continuation,
        };
        match Expression::compile(&cel.0, scope, purpose) {
            Ok(expression) => Some(expression),
            Err(faults) => {
                for fault in faults {
                    let place = self.places.within(path, fault.line, fault.column);
                    let mut problem = Problem::error(place, fault.message);
                    problem.help = fault.help;
                    self.problems.push(problem);
                }
                None
            }
        }
    }
}

fn is_technique(text: &str) -> bool {
    let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_digit());
    text.strip_prefix('T').is_some_and(|rest| match rest.split_once('.') {
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
        None => digits(rest, 4),
    })
}

#[cfg(test)]
mod tests;
