//! Actions in the API server that the core does not know, as after a leader was lost with its journal: they are taken in by what was kept
//! of them ([`super::captures`]), into their incident, and go on to a certain end. What cannot be believed is said, and left as it is.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use crds::{
    Condition, Holds,
    incident::{Incident as ShownIncident, Severity},
    response_action::{Ending, FINALIZER, ResponseAction},
};
use kube::ResourceExt as _;
use model::{ActionId, ActionRecord, ActionState, Actor, IncidentId, Level, NodeId, OnDrift, RunId};
use serde_json::json;

use super::{
    captures::Kept,
    mirror::{ACTION, Mirror},
    object::{labels, with_meta},
    people::{WantedBack, parsed},
    reach::Failure,
    show::{action_name, condition, is_settled_state, object_name},
};
use crate::core::{Ask, Change, Shelter, controller};

/// All Secrets are looked at this often for those that no action needs.
const SWEEP: Duration = Duration::from_secs(3600);

impl Mirror {
    /// Takes in, undoes or flags what the core does not know.
    pub(crate) async fn look_for_orphans(&self) -> Result<(), Failure> {
        for object in self.actions.all() {
            let Some(action) = parsed::<ResponseAction>(&object) else { continue };
            let settled = action.status.as_ref().is_some_and(|status| is_settled_state(status.state));
            if !action.finalizers().iter().any(|name| name == FINALIZER) {
                continue;
            }
            let Some(id) = action.annotations().get(ACTION).map(|id| ActionId::new(id.clone())) else {
                continue;
            };
            if action.name_any() != action_name(&id) {
                // An annotation can be changed, a name cannot: it speaks of another action than its own.
                continue;
            }
            let known: Option<IncidentId> = match self
                .asker
                .ask(Ask::Owner(id.clone(), action.spec.plan.run.clone().map(RunId::new)))
                .await
            {
                Ok(json) => serde_json::from_slice(&json).unwrap_or_default(),
                Err(_) => return Ok(()),
            };
            let namespace = action.namespace().unwrap_or_default();
            if let Some(incident) = known {
                if super::follow::label_of(&object) != Some(incident.as_str()) && incident.as_str() != "-" {
                    let about = labels(incident.as_str(), self.playbook_of(&action));
                    self.relabel(&action, &namespace, &about, &[FINALIZER]).await?;
                    self.due.add(incident.as_str());
                }
                continue;
            }
            if settled || action.spec.end.as_ref().is_some_and(|end| end.how == Ending::Accept) {
                // Nobody else lifts its finalizer, and it would keep its namespace from going.
                self.relabel(&action, &namespace, &json!(action.labels()), &[]).await?;
                self.captures.forget(&id).await?;
                continue;
            }
            self.take_in(&action, &id).await?;
        }
        Ok(())
    }

    async fn take_in(&self, action: &ResponseAction, id: &ActionId) -> Result<(), Failure> {
        let status = action.status.as_ref();
        let told = status.and_then(|status| status.capture.as_ref()).map(|capture| capture.digest.as_str());
        let kept = match self.captures.believed(id, told).await? {
            Ok(kept) => kept,
            Err(because) => return self.without_capture(action, &because).await,
        };
        let state = status.map_or(ActionState::Planned, |status| status.state);
        let ((node, record), undo) = as_it_stands(kept, state);
        tracing::warn!(action = %id, state = ?record.state, "an action that the journal does not know is taken in");
        let adopt = Change::Adopt { node, record: Box::new(record), shelter: self.shelter_of(action) };
        self.wish_as(adopt, controller()).await?;
        let (by, because, on_drift) = match (self.wants_back(action).await?, undo) {
            (Some(WantedBack { by, because, on_drift }), _) => {
                (Actor::new(format!("user:{by}")), because, on_drift)
            }
            (None, Some(because)) => (controller(), because.to_owned(), OnDrift::Ask),
            (None, None) => return Ok(()),
        };
        self.wish_as(Change::RollbackAction { id: id.to_string(), because, on_drift }, by).await
    }

    /// Nothing can be undone by what is not there: either there was no effect yet, or a person has to look.
    async fn without_capture(&self, action: &ResponseAction, because: &str) -> Result<(), Failure> {
        let plan = &action.spec.plan;
        let state = action.status.as_ref().map_or(ActionState::Planned, |status| status.state);
        // In the API server nothing is begun before its capture is kept there; and what has no undo keeps none.
        let begun = !matches!(state, ActionState::Planned | ActionState::Prepared);
        if plan.node.is_none() && !begun {
            let Some(mut status) = action.status.clone() else {
                return self.relabel_as_it_is(action, &[]).await;
            };
            status.state = ActionState::Failed;
            status.detail = "the controller that planned it was lost before it began it".into();
            let namespace = action.namespace().unwrap_or_default();
            self.put_status::<ResponseAction>(&namespace, &action.name_any(), &status).await?;
            return self.relabel_as_it_is(action, &[]).await;
        }
        let what = match &plan.node {
            Some(node) => format!(
                "the controller's journal does not know it, and {because}: see whether it is in force on {node} and lift it there with \
                 `hemostat release`, then accept it here (spec.end.how: Accept)"
            ),
            None => format!(
                "the controller's journal does not know it, and {because}: undo it by hand, then accept it here (spec.end.how: Accept)"
            ),
        };
        self.flag(action, &what).await
    }

    /// The incident that an action belongs to, as the API server has it.
    fn shelter_of(&self, action: &ResponseAction) -> Option<Box<Shelter>> {
        let mut id = action.spec.plan.incident.clone()?;
        let mut found = None;
        // A merged incident's story goes on in another.
        for _ in 0..8 {
            let all = self.incidents.all();
            let object = all.iter().find(|one| one.name_any() == object_name(&id))?;
            let shown = parsed::<ShownIncident>(object)?;
            let into = shown.status.as_ref().and_then(|status| status.merged_into.clone());
            found = Some((id.clone(), shown));
            match into {
                Some(into) => id = into.rsplit_once('/').map_or(into.clone(), |(_, name)| name.to_owned()),
                None => break,
            }
        }
        let (id, shown) = found?;
        let id = IncidentId::new(id);
        if let Some(namespace) = shown.namespace() {
            self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), namespace);
        }
        Some(Box::new(Shelter {
            id,
            title: shown.spec.title.clone(),
            severity: shown.status.as_ref().map_or(Level::High, |status| level(status.severity)),
            first_event: shown.spec.first_event.0,
        }))
    }

    fn playbook_of<'a>(&self, action: &'a ResponseAction) -> Option<&'a str> {
        action.labels().get(super::object::PLAYBOOK).map(String::as_str)
    }

    async fn relabel_as_it_is(&self, action: &ResponseAction, finalizers: &[&str]) -> Result<(), Failure> {
        let namespace = action.namespace().unwrap_or_default();
        self.relabel(action, &namespace, &json!(action.labels()), finalizers).await
    }

    async fn relabel(
        &self,
        action: &ResponseAction,
        namespace: &str,
        about: &serde_json::Value,
        finalizers: &[&str],
    ) -> Result<(), Failure> {
        let name = action.name_any();
        let annotations = json!({ ACTION: action.annotations().get(ACTION) });
        let plan = self
            .actions
            .get(Some(namespace), &name)
            .and_then(|object| object.data.pointer("/spec/plan").cloned())
            .unwrap_or_else(|| json!(action.spec.plan));
        let mut object = with_meta::<ResponseAction>(
            &name,
            namespace,
            about,
            &annotations,
            &json!({"spec": {"plan": plan}}),
        );
        object["metadata"]["finalizers"] = json!(finalizers);
        self.reach
            .apply(&self.reach.in_namespace::<ResponseAction>(namespace), &name, &object)
            .await
            .map(drop)
    }

    async fn flag(&self, action: &ResponseAction, message: &str) -> Result<(), Failure> {
        let Some(mut status) = action.status.clone() else { return Ok(()) };
        let generation = action.metadata.generation.unwrap_or(0);
        let said = condition("Orphaned", Holds::True, "NotInTheJournal", message, (self.clock)(), generation);
        let before = status.conditions.clone();
        Condition::set(&mut status.conditions, said);
        if before == status.conditions {
            return Ok(());
        }
        self.refused(&Failure::Missing(format!("{} in the journal: {message}", action.name_any())));
        let namespace = action.namespace().unwrap_or_default();
        self.put_status::<ResponseAction>(&namespace, &action.name_any(), &status).await.map(drop)
    }

    /// Removes what was kept of actions that are over: of an effect that ended while nobody could write.
    pub(crate) async fn sweep(&self) -> Result<(), Failure> {
        let due = {
            let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            let due = swept.is_none_or(|at: Instant| at.elapsed() >= SWEEP);
            if due {
                *swept = Some(Instant::now());
            }
            due
        };
        if !due {
            return Ok(());
        }
        let held: std::collections::BTreeSet<String> = self
            .actions
            .all()
            .iter()
            .filter(|object| object.finalizers().iter().any(|name| name == FINALIZER))
            .filter_map(|object| object.annotations().get(ACTION).cloned())
            .collect();
        let mut swept = self.captures.sweep(|id| held.contains(id)).await.map(drop);
        if swept.is_ok() {
            swept = self.sweep_narratives().await;
        }
        if swept.is_err() {
            *self.swept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        swept
    }
}

/// What an action is to its new keeper, and whether and why it is undone at once. One that may have been begun is looked at first: the run
/// that takes it in holds it where all of it is in force, and undoes it exactly where only part of it is, or nothing.
fn as_it_stands(kept: Kept, state: ActionState) -> ((NodeId, ActionRecord), Option<&'static str>) {
    let (state, undo) = match state {
        ActionState::Planned | ActionState::Prepared | ActionState::Applying => (ActionState::Applying, None),
        ActionState::Reverting => {
            (ActionState::Unverified, Some("its undo had begun when the controller was lost"))
        }
        other => (other, None),
    };
    let record = ActionRecord {
        id: kept.id,
        incident: None,
        run: None,
        step: None,
        action: kept.action,
        target: kept.target,
        state,
        rollback: Some(kept.rollback),
        planned: kept.planned,
        applied: (!matches!(state, ActionState::Applying)).then_some(kept.planned),
        detail: "taken over from a controller that was lost".into(),
    };
    ((kept.node, record), undo)
}

fn level(severity: Severity) -> Level {
    match severity {
        Severity::Info => Level::Informational,
        Severity::Low => Level::Low,
        Severity::Medium => Level::Medium,
        Severity::High => Level::High,
        Severity::Critical => Level::Critical,
    }
}
