//! What is kept of an incident for the measures: made of the incident's stored row alone, kept longer than it, and all that the measures are
//! made from, so that a restart changes no figure.

use model::{
    ActionRecord, ActionState, GateOutcome, Incident, IncidentId, IncidentState, Level, NodeAction,
    Timestamp, Verdict,
};
use respond::run::whole_run;
use serde::{Deserialize, Serialize};

use crate::store::{IncidentRow, Visibility};

/// Playbooks of one incident that are told apart (I11).
const MAX_PLAYBOOKS: usize = 16;

/// What is kept of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) id: IncidentId,
    pub(crate) severity: Level,
    /// Time of the first event.
    pub(crate) first_event: Timestamp,
    /// When the incident was made: when it was detected.
    pub(crate) opened: Timestamp,
    /// When it was contained.
    pub(crate) contained: Option<Timestamp>,
    /// When its playbook first came to its end.
    pub(crate) remediated: Option<Timestamp>,
    /// Whether nothing more happens to it by itself.
    pub(crate) over: bool,
    /// When a person first had anything to do with it.
    pub(crate) person: Option<Timestamp>,
    pub(crate) verdict: Option<Verdict>,
    /// Findings.
    pub(crate) alerts: u64,
    /// Playbooks that answered it, not in shadow.
    pub(crate) playbooks: Vec<String>,
    /// What became of the question that was asked about a whole run; nothing where none was asked.
    pub(crate) asked: Option<Asked>,
    /// Actions that changed something without a person having been asked, and those of them that were undone.
    pub(crate) automatic: u32,
    pub(crate) undone: u32,
    /// Whether something that contains came into force without a person having been asked, also where it was undone before the rest did.
    pub(crate) contained_alone: bool,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asked {
    /// Nobody has answered yet, or nobody did in time.
    Open,
    /// Yes.
    Agreed,
    /// No.
    Refused,
}

impl Facts {
    /// Of an incident as it is stored, with what was kept of it before; nothing where it is none that people see.
    pub(crate) fn of(row: &IncidentRow, before: Option<&Self>) -> Option<Self> {
        if row.visibility == Visibility::Dormant || row.merged_into.is_some() {
            return None;
        }
        let incident = &row.incident;
        let kept = if incident.findings.is_empty() { row.stored as usize } else { incident.findings.len() };
        let at_end = incident.state == IncidentState::Remediated;
        let changes = |record: &&ActionRecord| alone(incident, record) && changed(record);
        let automatic = incident.actions.iter().filter(changes);
        let mut playbooks: Vec<String> = incident
            .runs
            .iter()
            .filter(|run| run.decision.outcome != GateOutcome::Shadow)
            .map(|run| run.playbook.to_string())
            .collect();
        playbooks.sort();
        playbooks.dedup();
        playbooks.truncate(MAX_PLAYBOOKS);
        Some(Self {
            id: incident.id.clone(),
            severity: incident.severity,
            first_event: incident.first_event,
            opened: incident.opened,
            contained: incident.contained,
            remediated: before.and_then(|before| before.remediated).or(at_end.then_some(incident.updated)),
            over: is_over(incident),
            person: before.and_then(|before| before.person).or_else(|| first_person(incident)),
            verdict: incident.verdict,
            alerts: kept as u64 + incident.findings_dropped,
            playbooks,
            asked: asked(incident).or_else(|| before.and_then(|before| before.asked)),
            automatic: count(automatic.clone().count()),
            undone: count(automatic.filter(|record| record.state == ActionState::Reverted).count()),
            contained_alone: incident
                .actions
                .iter()
                .any(|record| alone(incident, record) && contains(record)),
        })
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn is_over(incident: &Incident) -> bool {
    matches!(
        incident.state,
        IncidentState::Remediated | IncidentState::RolledBack | IncidentState::Failed | IncidentState::Closed
    ) || incident.verdict.is_some()
}

/// Whether an action was made without asking: by the node itself, or by a run that might act.
fn alone(incident: &Incident, record: &ActionRecord) -> bool {
    match &record.run {
        None => true,
        Some(run) => incident
            .runs
            .iter()
            .any(|known| known.id == *run && known.decision.outcome == GateOutcome::Automatic),
    }
}

/// Whether an action came into force.
fn changed(record: &ActionRecord) -> bool {
    record.applied.is_some() && record.action.undo() != model::UndoClass::Nothing
}

fn contains(record: &ActionRecord) -> bool {
    changed(record) && (record.action.undo().has_undo() || matches!(record.action, NodeAction::Kill(_)))
}

/// The timeline has whoever did something; only people are called so.
fn first_person(incident: &Incident) -> Option<Timestamp> {
    let deeds = incident.timeline.iter().filter(|entry| entry.actor.as_str().starts_with("user:"));
    deeds.map(|entry| entry.at).min()
}

fn asked(incident: &Incident) -> Option<Asked> {
    let whole = whole_run();
    let mut found = None;
    for run in incident.runs.iter().filter(|run| run.decision.outcome == GateOutcome::Approval) {
        let said = |word: &str| {
            let line = format!("{word} {whole} of {}", run.id);
            incident
                .timeline
                .iter()
                .any(|entry| entry.actor.as_str().starts_with("user:") && entry.what.starts_with(&line))
        };
        let of_run = if said("denied") {
            Asked::Refused
        } else if said("approved") {
            Asked::Agreed
        } else {
            Asked::Open
        };
        found = match (found, of_run) {
            (Some(Asked::Refused), _) | (_, Asked::Refused) => Some(Asked::Refused),
            (Some(Asked::Agreed), _) | (_, Asked::Agreed) => Some(Asked::Agreed),
            _ => Some(Asked::Open),
        };
    }
    found
}
