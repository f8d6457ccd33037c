//! An incident for triage.

use std::time::Duration;

use crds::{
    Condition, Holds, cut,
    incident::{IncidentSpec, IncidentStatus, Run, Severity, Summary},
};
use model::{ActionId, ActionState, Entity, Incident, IncidentState, NodeId, Timestamp, UndoClass};

use super::{bounded, condition, moment};
use crate::{api::Story, core::is_in_force};

/// What an incident is called, written once.
pub(crate) fn incident_spec(incident: &Incident) -> IncidentSpec {
    let title = if incident.title.is_empty() { "without a title" } else { &incident.title };
    IncidentSpec {
        title: bounded(title, 256),
        first_event: moment(incident.first_event),
        verdict: None,
        assignee: None,
        closed: None,
    }
}

/// How an incident stands. `before` gives the times of its conditions' changes, `gone` are actions in force whose effect somebody undid, with
/// what is found instead.
pub(crate) fn incident_status(
    story: &Story,
    (namespace, survivor): (&str, Option<String>),
    generation: i64,
    before: Option<&IncidentStatus>,
    gone: &[(ActionId, String)],
    now: Timestamp,
) -> IncidentStatus {
    let incident = &story.view.incident;
    let node = node_of(story);
    let target = target_of(incident);
    let conditions: &[Condition] = before.map_or(&[], |status| &status.conditions);
    let mut status = IncidentStatus {
        observed_generation: generation,
        state: incident.state.into(),
        severity: Severity::from(incident.severity),
        confidence: None,
        target: bounded(&target, 512),
        node: node.as_ref().map(|node| bounded(node.as_str(), 253)),
        techniques: incident.techniques.iter().take(64).map(|id| bounded(id, 16)).collect(),
        rules: rules_of(incident),
        findings: u32::try_from(incident.findings.len() as u64 + incident.findings_dropped)
            .unwrap_or(u32::MAX),
        runs: runs_of(incident),
        contained: incident.contained.map(moment),
        merged_into: survivor,
        summary: summary_of(incident, &target, node.as_ref(), namespace),
        conditions: conditions_of(story, generation, conditions, gone, now),
    };
    if status.summary.needs != "Approval" && !gone.is_empty() {
        status.summary.needs = "Drift".into();
    }
    if let Some(before) = before.filter(|_| status.findings == 0 && status.merged_into.is_none()) {
        // Taken over from a controller that was lost with its findings: what it had said of them is still true.
        status.findings = before.findings;
        status.rules.clone_from(&before.rules);
        status.techniques.clone_from(&before.techniques);
        status.target.clone_from(&before.target);
        status.node = status.node.or_else(|| before.node.clone());
        status.contained = status.contained.or(before.contained);
        status.summary.target.clone_from(&before.summary.target);
        status.summary.technique.clone_from(&before.summary.technique);
    }
    status
}

fn rules_of(incident: &Incident) -> Vec<String> {
    let mut rules: Vec<String> = Vec::new();
    for finding in &incident.findings {
        let id = bounded(&finding.rule.id, 128);
        if rules.len() < 64 && !id.is_empty() && !rules.contains(&id) {
            rules.push(id);
        }
    }
    rules
}

fn runs_of(incident: &Incident) -> Vec<Run> {
    let newest = incident.runs.len().saturating_sub(16);
    let shown = |run: &model::RunSummary| Run {
        name: bounded(run.id.as_str(), 253),
        playbook: bounded(run.playbook.as_str(), 253),
        state: run.state.into(),
        because: bounded(&run.decision.reasons.join("; "), 1024),
    };
    incident.runs[newest..].iter().map(shown).collect()
}

fn summary_of(incident: &Incident, target: &str, node: Option<&NodeId>, namespace: &str) -> Summary {
    let in_force = incident.actions.iter().filter(|action| is_in_force(action)).count();
    let meant = incident.actions.iter().filter(|action| action.action.undo() != UndoClass::Nothing).count();
    let own = format!("{namespace}/");
    let target = target.strip_prefix(&own).unwrap_or(target);
    let technique = match incident.techniques.as_slice() {
        [] => String::new(),
        [one] => cut(one, 14),
        [first, more @ ..] => cut(&format!("{first}+{}", more.len()), 14),
    };
    Summary {
        target: cut(target, Summary::TARGET),
        needs: needs_of(incident).into(),
        playbook: incident
            .runs
            .first()
            .map(|run| cut(run.playbook.as_str(), Summary::PLAYBOOK))
            .unwrap_or_default(),
        actions: if meant == 0 { String::new() } else { format!("{}/{}", in_force.min(99), meant.min(99)) },
        time_to_contain: incident
            .contained
            .map(|at| short(at.since(incident.first_event)))
            .unwrap_or_default(),
        technique,
        node: node.map(|node| cut(node.as_str(), Summary::NODE)).unwrap_or_default(),
        ticket: String::new(),
    }
}

/// What waits for a person, the most urgent first.
pub(crate) fn needs_of(incident: &Incident) -> &'static str {
    let blocked = incident.actions.iter().any(|action| action.state == ActionState::RevertBlocked);
    if incident.runs.iter().any(|run| !run.waiting.is_empty()) {
        "Approval"
    } else if blocked {
        "Drift"
    } else if incident.verdict.is_none() && incident.state == IncidentState::Remediated {
        "Verdict"
    } else {
        ""
    }
}

fn conditions_of(
    story: &Story,
    generation: i64,
    before: &[Condition],
    gone: &[(ActionId, String)],
    now: Timestamp,
) -> Vec<Condition> {
    let incident = &story.view.incident;
    let mut all = before.to_vec();
    let mut say = |kind: &str, status, reason: &str, message: String| {
        Condition::set(&mut all, condition(kind, status, reason, message, now, generation));
    };
    match incident.contained {
        Some(_) if !gone.is_empty() => {
            let told = gone.iter().map(|(id, found)| format!("{id}: {found}")).collect::<Vec<_>>().join("; ");
            say("Contained", Holds::False, "Gone", format!("somebody else undid what contains: {told}"));
        }
        Some(at) => {
            let after = short(at.since(incident.first_event));
            say(
                "Contained",
                Holds::True,
                "InForce",
                format!("every containment was in force {after} after the first event"),
            );
        }
        None => say(
            "Contained",
            Holds::False,
            "NotInForce",
            "nothing, or not everything, holds the attack".into(),
        ),
    }
    let lost: Vec<&str> = incident
        .actions
        .iter()
        .filter(|action| {
            matches!(action.state, ActionState::Applied | ActionState::Verified | ActionState::Unverified)
        })
        .filter(|action| {
            matches!(action.action.undo(), UndoClass::Irreversible { .. } | UndoClass::Compensable { .. })
        })
        .map(|action| action.id.as_str())
        .collect();
    if lost.is_empty() {
        say("Reversible", Holds::True, "StateCaptured", "what was done can be undone exactly".into());
    } else {
        say("Reversible", Holds::False, "NotExactly", format!("not exactly: {}", lost.join(", ")));
    }
    let waiting: Vec<String> = incident
        .runs
        .iter()
        .flat_map(|run| run.waiting.iter().map(move |request| format!("{} of {}", request.step, run.id)))
        .collect();
    if waiting.is_empty() {
        say("Escalated", Holds::False, "NobodyAsked", String::new());
    } else {
        say("Escalated", Holds::True, "PersonAsked", format!("waits for a yes: {}", waiting.join(", ")));
    }
    match (&story.view.merged_into, incident.state) {
        (Some(into), _) => say("Resolved", Holds::True, "Merged", format!("its story goes on in {into}")),
        (None, IncidentState::Closed) => say("Resolved", Holds::True, "Closed", "a person closed it".into()),
        (None, IncidentState::Remediated) => {
            say("Resolved", Holds::True, "Remediated", "the playbooks came to their end".into())
        }
        (None, IncidentState::RolledBack) => {
            say("Resolved", Holds::True, "RolledBack", "everything that could be undone is undone".into())
        }
        (None, _) => say("Resolved", Holds::False, "Open", String::new()),
    }
    all
}

/// What it is about: the pod where it is known, else the first thing that its findings name.
fn target_of(incident: &Incident) -> String {
    incident
        .pod_path()
        .unwrap_or_else(|| incident.entities.first().map(ToString::to_string).unwrap_or_default())
}

fn node_of(story: &Story) -> Option<NodeId> {
    let incident = &story.view.incident;
    let of_finding = incident.findings.first().map(|finding| finding.event.id.node.clone());
    let of_entity = || {
        incident.entities.iter().find_map(|entity| match entity {
            Entity::Node { node } | Entity::Process { node, .. } => Some(node.clone()),
            _ => None,
        })
    };
    of_finding.or_else(of_entity)
}

/// A length of time in at most five characters.
pub(super) fn short(time: Duration) -> String {
    let (ms, s) = (time.as_millis(), time.as_secs());
    match s {
        0 if ms < 1000 => format!("{ms}ms"),
        0..10 => format!("{}.{}s", s, ms % 1000 / 100),
        10..60 => format!("{s}s"),
        60..600 if s % 60 < 10 => format!("{}m{}s", s / 60, s % 60),
        60..600 => format!("{}m{:02}s", s / 60, s % 60),
        600..3600 => format!("{}m", s / 60),
        3600..86_400 => format!("{}h", s / 3600),
        _ => format!("{}d", (s / 86_400).min(9999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_fits_its_column() {
        let shown = |ms| short(Duration::from_millis(ms));
        assert_eq!(shown(12), "12ms");
        assert_eq!(shown(1_840), "1.8s");
        assert_eq!(shown(42_000), "42s");
        assert_eq!(shown(190_000), "3m10s");
        assert_eq!(shown(3_000_000), "50m");
        for ms in [0, 999, 1000, 9_999, 59_999, 60_000, 599_999, 600_000, 86_399_000, u64::MAX] {
            assert!(shown(ms).len() <= 5, "{}", shown(ms));
        }
    }
}
