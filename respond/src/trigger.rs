//! Which playbook answers an incident, and which of its findings it answers.

use std::sync::Arc;

use model::{Finding, Incident, NodeId, RuleRef};

use crate::{
    expression::{EvaluationError, Variables},
    facts::Facts,
    plan::Plan,
};

/// A playbook that answers an incident.
#[derive(Debug)]
pub struct Choice<'a> {
    /// Which.
    pub plan: &'a Arc<Plan>,
    /// The finding that its steps act on: the weightiest that fits, the earliest among equals.
    pub finding: &'a Finding,
}

/// What came of looking.
#[derive(Debug)]
pub struct Search<'a> {
    /// The playbook, if one answers.
    pub choice: Option<Choice<'a>>,
    /// Triggers that could not be evaluated; each is to be told to a person.
    pub faults: Vec<(&'a Arc<Plan>, EvaluationError)>,
}

/// The playbook that answers `incident`: of those that fit, one that names the rule before one that names the technique before one
/// that names neither, and by name among equals.
#[must_use]
pub fn choose<'a>(
    plans: impl IntoIterator<Item = &'a Arc<Plan>>,
    incident: &'a Incident,
    node: &NodeId,
) -> Search<'a> {
    let mut faults = Vec::new();
    let mut best: Option<(u8, Choice<'a>)> = None;
    for plan in plans {
        let finding = match plan.answers(incident, node) {
            Ok(Some(finding)) => finding,
            Ok(None) => continue,
            Err(error) => {
                faults.push((plan, error));
                continue;
            }
        };
        let rank = plan.rank();
        let better = best
            .as_ref()
            .is_none_or(|(known, choice)| (*known, choice.plan.name.as_str()) > (rank, plan.name.as_str()));
        if better {
            best = Some((rank, Choice { plan, finding }));
        }
    }
    Search { choice: best.map(|(_, choice)| choice), faults }
}

impl Plan {
    /// The finding that this playbook would answer.
    ///
    /// # Errors
    /// When `when` could not be evaluated on any finding and held on none.
    pub fn answers<'a>(
        &self,
        incident: &'a Incident,
        node: &NodeId,
    ) -> Result<Option<&'a Finding>, EvaluationError> {
        let mut fitting: Vec<&Finding> = incident
            .findings
            .iter()
            .filter(|finding| self.may_answer(&finding.rule))
            .filter(|finding| finding.event.id.node == *node)
            .collect();
        fitting.sort_by_key(|finding| (std::cmp::Reverse(finding.rule.level), finding.first));
        let Some(when) = &self.trigger_when else { return Ok(fitting.first().copied()) };
        let mut fault = None;
        for finding in fitting {
            match when.holds(&Variables::of(&Facts::of(incident, finding, node))) {
                Ok(true) => return Ok(Some(finding)),
                Ok(false) => {}
                Err(error) => fault = Some(error),
            }
        }
        fault.map_or(Ok(None), Err)
    }

    /// Whether this playbook answers some finding of this rule: all of its trigger but `when`, which depends on the finding.
    #[must_use]
    pub fn may_answer(&self, rule: &RuleRef) -> bool {
        let trigger = &self.spec.trigger;
        (trigger.rules.is_empty() || trigger.rules.contains(&rule.id))
            && (trigger.techniques.is_empty() || names_technique(&trigger.techniques, &rule.techniques))
            && trigger.minimum_level.is_none_or(|least| rule.level >= least)
    }

    fn rank(&self) -> u8 {
        match (self.spec.trigger.rules.is_empty(), self.spec.trigger.techniques.is_empty()) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }
}

/// Whether one of `found` is one of `wanted` or a sub-technique of one.
pub(crate) fn names_technique(wanted: &[String], found: &[String]) -> bool {
    found.iter().any(|id| {
        wanted.iter().any(|wanted| {
            id.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    })
}
