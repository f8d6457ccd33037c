//! What nodes did by themselves and no finding tells of: where it belongs, and how it can be undone all the same.

use detect::incident::Key;
use model::{
    ActionId, ActionRecord, Entity, Incident, IncidentId, Level, NodeId, Target, Timestamp, short_hash,
};

use super::{
    Core, Shelter,
    incidents::{begun, is_in_force},
    ingest::controller,
    turn::Turn,
};
use crate::{
    api::{ApiError, ApiErrorKind},
    store::{StoreError, Visibility},
};

impl Core {
    /// The incident that has the target of a reaction among what its findings have in common.
    pub(super) fn incident_about(&self, node: &NodeId, record: &ActionRecord) -> Option<IncidentId> {
        let node = node.clone();
        let key = match &record.target {
            Target::Process { process } => Key::Process { node, process: *process },
            Target::Cgroup { id, .. } => Key::Cgroup { node, cgroup: *id },
            Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => {
                return None;
            }
        };
        let at = record.applied.unwrap_or(record.planned);
        self.state.correlator.about(&[key], at).filter(|id| self.state.incidents.contains(id))
    }

    /// Takes in the reactions that came before the finding that tells of their process.
    pub(super) fn take_in(
        &mut self,
        node: &NodeId,
        incident: &IncidentId,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let orphans: Vec<ActionRecord> = self
            .state
            .adopted
            .values()
            .filter(|a| a.incident.is_none() && a.node == *node)
            .filter(|a| self.incident_about(node, &a.record).as_ref() == Some(incident))
            .map(|a| a.record.clone())
            .collect();
        for record in orphans {
            self.reaction(node, record, Some(incident), turn)?;
        }
        Ok(())
    }

    /// Gives a reaction without an incident one, so that it can be undone like any other action: the incident that it turns
    /// out to belong to, or one of its own.
    pub(super) fn shelter(&mut self, action: &ActionId, turn: &mut Turn) -> Result<IncidentId, ApiError> {
        let Some((node, record)) = self.state.adopted.get(action).map(|a| (a.node.clone(), a.record.clone()))
        else {
            return Err(ApiError::new(ApiErrorKind::Unknown, format!("there is no action {action}")));
        };
        if !is_in_force(&record) {
            let message = format!("nothing to undo: {action} is {:?}", record.state);
            return Err(ApiError::new(ApiErrorKind::Conflict, message));
        }
        if let Some(id) = self.incident_about(&node, &record) {
            return self
                .reaction(&node, record, Some(&id), turn)
                .map(|()| id)
                .map_err(|error| self.store_failed(&error));
        }
        let id = IncidentId::new(format!("inc-{}", short_hash(["reaction", action.as_str()], 5)));
        if !self.state.incidents.contains(&id) {
            let incident = alone(&id, &node, &record, turn.now);
            let whole = self.state.incidents.open(incident, Visibility::Open);
            whole.tell(
                turn.now,
                &controller(),
                format!("{action} was done by {node} itself; no finding tells why"),
            );
            tracing::info!(incident = %id, %action, "an incident was opened for a reaction without a finding");
        }
        self.reaction(&node, record, Some(&id), turn).map_err(|error| self.store_failed(&error))?;
        Ok(id)
    }
}

impl Core {
    /// The incident that somebody else knew: opened again where it is not known here, so that its story goes on under its name.
    pub(super) fn shelter_again(&mut self, shelter: Shelter, turn: &mut Turn) -> IncidentId {
        let Shelter { id, title, severity, first_event } = shelter;
        let id = self.root(&id);
        if !self.state.incidents.contains(&id) {
            let incident = begun(&id, &title, severity, first_event, turn.now);
            let whole = self.state.incidents.open(incident, Visibility::Open);
            let what = "the controller that knew more of it was lost: what it had in force is taken over";
            whole.tell(turn.now, &controller(), what);
            tracing::warn!(incident = %id, "an incident of a lost controller is taken over");
        }
        id
    }
}

/// An incident of nothing but a reaction.
fn alone(id: &IncidentId, node: &NodeId, record: &ActionRecord, now: Timestamp) -> Incident {
    let target = match &record.target {
        Target::Process { process } => Some(Entity::Process { node: node.clone(), process: *process }),
        Target::Cgroup { id, path } => {
            Some(Entity::Cgroup { node: node.clone(), cgroup: *id, path: path.clone() })
        }
        Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => None,
    };
    let title = format!("{} by the node itself, without a finding", record.action.name());
    // What made the node act was a rule that may act at once.
    let incident = begun(id, &title, Level::High, record.planned, now);
    let entities = target.into_iter().chain([Entity::Node { node: node.clone() }]).collect();
    Incident { entities, ..incident }
}
