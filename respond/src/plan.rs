//! A playbook, compiled: every name resolved, every expression parsed, steps in levels.

use std::{collections::BTreeSet, time::Duration};

use crds::{
    Approval, BlastRadius, Mode, Observe, OnFailure, Parameters, Playbook, PlaybookSpec, Step, TargetKind,
    Verify,
    source::{Located, Problem, Severity},
};
use model::{PlaybookName, StepName, short_hash};

use crate::{
    action::ActionKind,
    check::{self, Look},
    expression::Expression,
};

/// A step that names no timeout gets this.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// No step may take longer.
pub const MAXIMUM_TIMEOUT: Duration = Duration::from_secs(600);

/// A playbook that can be run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) name: PlaybookName,
    pub(crate) spec: PlaybookSpec,
    pub(crate) digest: String,
    pub(crate) trigger_when: Option<Expression>,
    pub(crate) steps: Vec<PlanStep>,
    pub(crate) levels: Vec<Vec<usize>>,
}

/// A step, compiled.
#[derive(Debug, Clone)]
pub(crate) struct PlanStep {
    pub(crate) name: StepName,
    pub(crate) needs: Vec<usize>,
    pub(crate) when: Option<Expression>,
    /// The step's own action, then its alternatives.
    pub(crate) ways: Vec<Way>,
    pub(crate) verify: Verify,
    pub(crate) observe: Option<Observe>,
    pub(crate) timeout: Duration,
    pub(crate) on_failure: OnFailure,
    pub(crate) approval: Approval,
}

/// One way to do a step.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) kind: ActionKind,
    pub(crate) target: TargetKind,
    pub(crate) select: Option<Expression>,
    pub(crate) with: Parameters,
    pub(crate) allow_from: Option<Expression>,
    pub(crate) destination_from: Option<Expression>,
    pub(crate) port_from: Option<Expression>,
    pub(crate) image_from: Option<Expression>,
    pub(crate) message_from: Option<Expression>,
}

/// What a check found.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The plan, if there is no error.
    pub plan: Option<Plan>,
    /// Everything that is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

impl Plan {
    /// Checks and compiles a playbook. `standing` are the actions for which a policy has a standing approval of this playbook.
    #[must_use]
    pub fn check(playbook: &Located<Playbook>, standing: &BTreeSet<String>) -> Checked {
        Self::look(playbook, standing, Look::Whole)
    }

    fn look(playbook: &Located<Playbook>, standing: &BTreeSet<String>, look: Look) -> Checked {
        let name = playbook.value.metadata.name.clone().unwrap_or_default();
        let (parts, mut problems) = check::check(&playbook.value.spec, &playbook.places, standing, look);
        problems.sort();
        problems.dedup();
        let broken = problems.iter().any(|problem| problem.severity == Severity::Error);
        let plan = parts.filter(|_| !broken).map(|parts| Self::from_parts(name, &playbook.value.spec, parts));
        Checked { plan, problems }
    }

    /// The plan of a specification that has been checked before, for example one from a journal: what an earlier version took is not
    /// refused for what its conditions compare.
    ///
    /// # Errors
    /// The problems, where it cannot be run after all.
    pub fn of(name: &PlaybookName, spec: &PlaybookSpec) -> Result<Self, Vec<Problem>> {
        if spec.steps.is_empty() {
            return Ok(Self::reactions_only());
        }
        let located = Located::nowhere(Playbook::new(name.as_str(), spec.clone()), name.as_str());
        let checked = Self::look(&located, &BTreeSet::new(), Look::Begun);
        checked.plan.ok_or(checked.problems)
    }

    /// A plan without steps: a run of it holds nothing but the node's own reactions, so that they can be rolled back like any
    /// other action where no playbook answers an incident.
    #[must_use]
    pub fn reactions_only() -> Self {
        let spec = PlaybookSpec {
            description: "What the node did by itself".into(),
            mode: Mode::Auto,
            trigger: crds::Trigger::default(),
            blast_radius: BlastRadius::default(),
            maximum_duration: PlaybookSpec::default_maximum_duration(),
            steps: Vec::new(),
        };
        let parts = Parts { trigger_when: None, steps: Vec::new(), levels: Vec::new() };
        Self::from_parts("node-reactions".into(), &spec, parts)
    }

    /// The same in another mode.
    #[must_use]
    pub fn in_mode(&self, mode: Mode) -> Self {
        let mut other = self.clone();
        other.spec.mode = mode;
        other
    }

    fn from_parts(name: String, spec: &PlaybookSpec, parts: Parts) -> Self {
        let text = serde_json::to_string(spec).unwrap_or_default();
        Self {
            name: PlaybookName::new(name),
            spec: spec.clone(),
            digest: short_hash([text.as_str()], 16),
            trigger_when: parts.trigger_when,
            steps: parts.steps,
            levels: parts.levels,
        }
    }

    /// The playbook's name.
    #[must_use]
    pub fn name(&self) -> &PlaybookName {
        &self.name
    }

    /// The playbook as it was read.
    #[must_use]
    pub fn spec(&self) -> &PlaybookSpec {
        &self.spec
    }

    /// Changes when anything in the playbook changes.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Names of the steps that can begin together, level by level.
    #[must_use]
    pub fn levels(&self) -> Vec<Vec<&StepName>> {
        self.levels.iter().map(|level| level.iter().map(|&step| &self.steps[step].name).collect()).collect()
    }

    pub(crate) fn position(&self, step: &StepName) -> Option<usize> {
        self.steps.iter().position(|candidate| candidate.name == *step)
    }
}

/// What the check makes of a specification.
pub(crate) struct Parts {
    pub(crate) trigger_when: Option<Expression>,
    pub(crate) steps: Vec<PlanStep>,
    pub(crate) levels: Vec<Vec<usize>>,
}

/// A step's own action or one of its alternatives, as written.
pub(crate) struct Written<'a> {
    /// Path in the document.
    pub(crate) path: String,
    pub(crate) action: &'a str,
    pub(crate) target: Option<&'a crds::TargetSpec>,
    pub(crate) with: &'a Parameters,
    pub(crate) from: &'a crds::ParametersFrom,
}

/// All ways of a step, as written.
pub(crate) fn written<'a>(step: &'a Step, path: &str) -> Vec<Written<'a>> {
    let own = Written {
        path: path.to_owned(),
        action: &step.action.0,
        target: step.target.as_ref(),
        with: &step.with,
        from: &step.with_from,
    };
    let mut all = vec![own];
    for (index, way) in step.alternatives.iter().enumerate() {
        all.push(Written {
            path: format!("{path}.alternatives[{index}]"),
            action: &way.action.0,
            target: way.target.as_ref(),
            with: &way.with,
            from: &way.with_from,
        });
    }
    all
}

impl Way {
    /// Everything of it that is evaluated.
    pub(crate) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let all = [
            &self.select,
            &self.allow_from,
            &self.destination_from,
            &self.port_from,
            &self.image_from,
            &self.message_from,
        ];
        all.into_iter().flatten()
    }

    /// It depends on what earlier steps found.
    pub(crate) fn needs_outputs(&self) -> bool {
        self.expressions().any(|expression| !expression.steps().is_empty())
    }

    /// Something stays lost, whatever is undone: a person is asked.
    pub(crate) fn irreversible(&self) -> bool {
        self.kind.undo().residual().is_some()
    }
}
