//! The triage table.

use model::{ActionState, Incident, IncidentState, Level, Target, Timestamp};

use super::{Column, Fit, Table, Window, age, span};

/// One line for each incident, newest first as given.
pub(crate) fn incidents_table(incidents: &[Incident], now: Timestamp, window: Window) -> String {
    if incidents.is_empty() {
        return "No incidents.\n".into();
    }
    let mut table = Table::new(vec![
        Column { heading: "NAME", fit: Fit::Keep },
        Column { heading: "SEV", fit: Fit::Keep },
        Column { heading: "STATE", fit: Fit::Keep },
        Column { heading: "NEEDS", fit: Fit::Shrink(8) },
        Column { heading: "TARGET", fit: Fit::Shrink(12) },
        Column { heading: "PLAYBOOK", fit: Fit::Shrink(8) },
        Column { heading: "ACTS", fit: Fit::Drop(2) },
        Column { heading: "TTC", fit: Fit::Drop(1) },
        Column { heading: "AGE", fit: Fit::Keep },
        Column { heading: "TITLE", fit: Fit::Drop(9) },
    ]);
    for incident in incidents {
        table.row([
            incident.id.to_string(),
            level(incident.severity).into(),
            state(incident.state).into(),
            needs(incident, now),
            target(incident),
            incident.runs.last().map_or_else(|| "–".into(), |run| run.playbook.to_string()),
            acts(incident),
            incident.contained.map_or_else(|| "–".into(), |at| span(at.since(incident.first_event))),
            age(incident.opened, now),
            incident.title.clone(),
        ]);
    }
    table.render(window)
}

pub(crate) fn level(level: Level) -> &'static str {
    match level {
        Level::Informational => "Info",
        Level::Low => "Low",
        Level::Medium => "Medium",
        Level::High => "High",
        Level::Critical => "Critical",
    }
}

pub(crate) fn state(state: IncidentState) -> &'static str {
    match state {
        IncidentState::Open => "Open",
        IncidentState::Responding => "Responding",
        IncidentState::Contained => "Contained",
        IncidentState::NeedsApproval => "NeedsApproval",
        IncidentState::Remediated => "Remediated",
        IncidentState::Failed => "Failed",
        IncidentState::RolledBack => "RolledBack",
        IncidentState::Closed => "Closed",
    }
}

/// What a person has to do, and how long there is for it.
fn needs(incident: &Incident, now: Timestamp) -> String {
    let next = incident.runs.iter().flat_map(|run| &run.waiting).min_by_key(|request| request.expires);
    match next {
        Some(request) => format!("Approval/{}", age(now, request.expires)),
        None if incident.actions.iter().any(|action| action.state == ActionState::RevertBlocked) => "Decision".into(),
        None => "–".into(),
    }
}

/// The process or cgroup that it is about, as short as it can be said.
fn target(incident: &Incident) -> String {
    let acted_on = incident.actions.iter().map(|action| match &action.target {
        Target::Process { process } => format!("pid {}", process.pid),
        Target::Cgroup { path, .. } => path.rsplit('/').next().unwrap_or(path).to_owned(),
        Target::File { path, .. } => path.clone(),
    });
    let seen = incident.findings.first().map(|finding| {
        let process = &finding.event.process;
        let name = process.exe.rsplit('/').next().unwrap_or(&process.exe);
        format!("{name}[{}]", process.key.pid)
    });
    seen.or_else(|| acted_on.into_iter().next()).unwrap_or_else(|| "–".into())
}

/// Actions in force or done, of all.
fn acts(incident: &Incident) -> String {
    let done = incident
        .actions
        .iter()
        .filter(|action| matches!(action.state, ActionState::Applied | ActionState::Verified | ActionState::Unverified))
        .count();
    format!("{done}/{}", incident.actions.len())
}
