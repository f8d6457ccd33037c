//! What an incident's state is, from its runs and actions.

use model::{
    ActionRecord, ActionState, Incident, IncidentId, IncidentState, NodeAction, RunState, Timestamp,
};

use super::{Core, incidents::is_in_force, ingest::controller, turn::Turn};
use crate::store::{IncidentRow, Rest, StoreError};

impl Core {
    /// Brings the state of an incident and the moment of its containment up to date.
    pub(super) fn settle(&mut self, id: &IncidentId, turn: &mut Turn) -> Result<(), StoreError> {
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(()) };
        let pending = whole
            .row
            .incident
            .runs
            .iter()
            .filter_map(|run| self.state.runs.get(&run.id))
            .any(|run| run.contained().is_none() && !run.is_over() && plans_containment(run));
        let incident = &mut whole.row.incident;
        let before = (incident.state, incident.contained);
        if incident.contained.is_none() && !pending {
            incident.contained = contained_at(&incident.actions);
        }
        if incident.state != IncidentState::Closed {
            incident.state = match (state_of(incident), whole.row.rest) {
                // Something came after all that: nothing is at rest before a person, or a run, has dealt with it.
                (state, Rest::Disturbed) if is_rest(state) => IncidentState::Open,
                (state, _) => state,
            };
        }
        if before == (incident.state, incident.contained) {
            return Ok(());
        }
        if let (None, Some(at)) = (before.1, incident.contained) {
            let after = at.since(incident.first_event);
            let what = format!("contained {:.1} ms after the first event", after.as_secs_f64() * 1e3);
            tracing::info!(incident = %id, ms = after.as_secs_f64() * 1e3, "contained");
            whole.tell(at, &controller(), what);
        }
        whole.touch(turn.now);
        Ok(())
    }
}

/// Whether nothing more comes of it by itself; what comes then is news.
pub(super) fn is_rest(state: IncidentState) -> bool {
    matches!(state, IncidentState::Remediated | IncidentState::Failed | IncidentState::RolledBack)
}

/// Whether a person had the last word on it: what comes then is another incident.
pub(super) fn is_final(row: &IncidentRow) -> bool {
    row.incident.verdict.is_some() || row.incident.state == IncidentState::Closed
}

/// When the last containment came into force, if all are.
fn contained_at(actions: &[ActionRecord]) -> Option<Timestamp> {
    let mut latest = None;
    for record in actions.iter().filter(|record| contains(&record.action)) {
        match record.state {
            ActionState::Applied | ActionState::Verified => latest = latest.max(record.applied),
            // Not done, and nothing of it is left to hold.
            ActionState::Failed | ActionState::Vacuous => {}
            _ => return None,
        }
    }
    latest
}

/// Whether containment is among what the run means to do.
fn plans_containment(run: &respond::run::Run) -> bool {
    use respond::action::{ActionKind, Purpose};
    let contains =
        |name: &str| ActionKind::named(name).is_some_and(|kind| kind.purpose() == Purpose::Contain);
    run.start().spec.steps.iter().any(|step| contains(&step.action.0))
}

/// Whether an action holds an attack, and is not only evidence or an end.
fn contains(action: &NodeAction) -> bool {
    action.undo().has_undo() || matches!(action, NodeAction::Kill(_))
}

fn state_of(incident: &Incident) -> IncidentState {
    let runs = || incident.runs.iter();
    let is = |wanted: RunState| runs().any(|run| run.state == wanted);
    if runs().any(|run| !run.waiting.is_empty()) {
        return IncidentState::NeedsApproval;
    }
    let held = incident.contained.is_some()
        && incident.actions.iter().any(|a| contains(&a.action) && (is_in_force(a) || is_kill(a)));
    if is(RunState::Running) || is(RunState::Waiting) || is(RunState::RollingBack) {
        return if held && !is(RunState::RollingBack) {
            IncidentState::Contained
        } else {
            IncidentState::Responding
        };
    }
    let in_force = incident.actions.iter().any(is_in_force);
    let undone = incident.actions.iter().any(|a| a.state == ActionState::Reverted);
    if is(RunState::Failed) {
        IncidentState::Failed
    } else if !in_force && (is(RunState::RolledBack) || (undone && runs().next().is_none())) {
        IncidentState::RolledBack
    } else if is(RunState::Succeeded) && runs().any(|run| !is_adoption(run)) {
        IncidentState::Remediated
    } else if held {
        IncidentState::Contained
    } else {
        IncidentState::Open
    }
}

fn is_kill(record: &ActionRecord) -> bool {
    matches!(record.action, NodeAction::Kill(_))
        && matches!(record.state, ActionState::Applied | ActionState::Verified)
}

/// A run that only holds the node's own reactions remedies nothing.
fn is_adoption(run: &model::RunSummary) -> bool {
    run.playbook == *respond::plan::Plan::reactions_only().name()
}
