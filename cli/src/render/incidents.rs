//! The triage table.

use controller::api::IncidentSummary;
use model::{IncidentState, Level, Timestamp};

use super::{Column, Fit, Table, Window, age, span};

/// One line for each incident, in the order given.
pub(crate) fn incidents_table(incidents: &[IncidentSummary], now: Timestamp, window: Window) -> String {
    if incidents.is_empty() {
        return "No incidents.\n".into();
    }
    let mut table = Table::new(vec![
        Column { heading: "NAME", fit: Fit::Keep },
        Column { heading: "SEV", fit: Fit::Keep },
        Column { heading: "STATE", fit: Fit::Keep },
        Column { heading: "NEEDS", fit: Fit::Keep },
        Column { heading: "TARGET", fit: Fit::Shrink(13) },
        Column { heading: "PLAYBOOK", fit: Fit::Drop(7) },
        Column { heading: "ACTS", fit: Fit::Drop(8) },
        Column { heading: "TTC", fit: Fit::Drop(6) },
        Column { heading: "AGE", fit: Fit::Drop(1) },
        Column { heading: "FINDINGS", fit: Fit::Drop(9) },
        Column { heading: "TITLE", fit: Fit::Shrink(12) },
    ]);
    for incident in incidents {
        table.row([
            incident.id.to_string(),
            level(incident.severity).into(),
            state(incident.state).into(),
            needs(incident),
            incident.target.clone(),
            if incident.playbooks.is_empty() { "–".into() } else { incident.playbooks.join(",") },
            format!("{}/{}", incident.actions_in_force, incident.actions),
            incident.contained.map_or_else(|| "–".into(), |at| span(at.since(incident.first_event))),
            age(incident.opened, now),
            incident.findings.to_string(),
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

/// What a person has to do.
fn needs(incident: &IncidentSummary) -> String {
    match incident.waiting {
        0 if incident.state == IncidentState::Failed => "Look".into(),
        0 => "–".into(),
        1 => "Approval".into(),
        many => format!("{many} approvals"),
    }
}
