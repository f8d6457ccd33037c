//! ResponseActions: one object for each action, brought to what the core says of it now.
//!
//! Two write them: the mirror, whenever something changed, and the journal of effects, which must not wait for all else that is to be shown
//! of an incident. So each action has a pen of its own, and who takes it writes nothing that is older than what was written before.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::PoisonError,
};

use crds::{
    Condition,
    approval::Approval,
    response_action::{Ending, FINALIZER, ResponseAction},
};
use kube::{ResourceExt as _, api::DynamicObject};
use model::{ActionId, ActionRecord, ActionState, NodeId};
use serde_json::json;

use super::{
    captures::Kept,
    follow::{INCIDENT_LABEL, label_of},
    mirror::{ACTION, Mirror},
    object::{PLAYBOOK, labels, with_meta},
    people::parsed,
    reach::Failure,
    show::{action_name, action_plan, action_status, is_settled, object_name},
};
use crate::api::Story;

/// Pens for actions; two that share one wait for each other.
pub(crate) const PENS: usize = 256;

/// Which pen an action has.
pub(crate) fn pen_of(action: &ActionId) -> usize {
    let mut hash = DefaultHasher::new();
    action.hash(&mut hash);
    usize::try_from(hash.finish() % PENS as u64).unwrap_or(0)
}

impl Mirror {
    /// Brings an action's object to what `story` says of it, or to what a newer one says if that was written already. Gives what the API
    /// server stored, where something was written.
    pub(crate) async fn show_action(
        &self,
        story: &Story,
        id: &ActionId,
        namespace: &str,
    ) -> Result<Option<DynamicObject>, Failure> {
        let mut pen = self.pens[pen_of(id)].lock().await;
        let newer;
        let story = if story.number < *pen {
            newer = self.story(&story.view.incident.id).await?;
            &newer
        } else {
            story
        };
        *pen = story.number.max(*pen);
        // Without it the incident has become part of another meanwhile, and the action with it.
        let Some(record) = story.view.incident.actions.iter().find(|record| record.id == *id) else {
            return Ok(None);
        };
        let run = record.run.as_ref().and_then(|run| story.runs.iter().find(|known| known.run == *run));
        let summary = record
            .run
            .as_ref()
            .and_then(|run| story.view.incident.runs.iter().find(|known| known.id == *run));
        let node = story.nodes.get(&record.id).cloned().unwrap_or_else(|| NodeId::new("unknown"));
        let approval = run
            .and_then(|run| self.yes_to(run.run.as_str(), record.step.as_ref().map(model::StepName::as_str)));
        let plan = action_plan(record, &node, run, approval);
        let about = labels(story.view.incident.id.as_str(), summary.map(|run| run.playbook.as_str()));
        let namespace = self.place_of_action(record, namespace);
        self.put_action((record, &node), plan, about, &namespace, Some(story)).await
    }

    /// Where an action's object is: it never moves, also when its incident goes on in another that is elsewhere.
    pub(crate) fn place_of_action(&self, record: &ActionRecord, namespace: &str) -> String {
        let name = action_name(&record.id);
        if self.actions.get(Some(namespace), &name).is_some() {
            return namespace.to_owned();
        }
        let mut places = self.action_places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(&name) {
            return place.clone();
        }
        // Looked for once: beyond that it is where it was put.
        let found =
            self.actions.all().iter().find(|one| one.name_any() == name).and_then(|one| one.namespace());
        let place = found.unwrap_or_else(|| namespace.to_owned());
        places.insert(name, place.clone());
        place
    }

    /// Writes an action's object; who calls it has the pen, or writes of what no incident tells of.
    pub(crate) async fn put_action(
        &self,
        (record, node): (&ActionRecord, &NodeId),
        plan: crds::response_action::Plan,
        mut labels: serde_json::Value,
        namespace: &str,
        story: Option<&Story>,
    ) -> Result<Option<DynamicObject>, Failure> {
        let name = action_name(&record.id);
        let known =
            self.actions.get(Some(namespace), &name).and_then(|object| parsed::<ResponseAction>(&object));
        let accepted = known
            .as_ref()
            .and_then(|known| known.spec.end.as_ref())
            .is_some_and(|end| end.how == Ending::Accept);
        let holds = !(is_settled(record) || accepted);
        let held =
            known.as_ref().is_some_and(|known| known.finalizers().iter().any(|name| name == FINALIZER));
        let going = known.as_ref().is_some_and(|known| known.metadata.deletion_timestamp.is_some());
        if known.is_some() {
            self.lock_shown().insert(name.clone());
        } else if !holds
            && (!record_matters(record) || record.planned < self.started || self.lock_shown().contains(&name))
        {
            // Over, and its object is gone or was never made: somebody deleted it, and it need not come back.
            return self.let_go(record).await.map(|()| None);
        }
        if holds
            && !matches!(record.state, ActionState::Planned | ActionState::Prepared)
            && let Some(kept) = Kept::of(record, node).filter(|kept| !self.captures.is_kept(&kept.id))
        {
            // Begun while the API server was away, or by an earlier version.
            self.captures.keep(&kept).await?;
        }
        let stands = self.actions.get(Some(namespace), &name);
        // Of a merged incident's the label tells where its story goes on; the playbook stays.
        let moved = stands.as_ref().is_some_and(|object| {
            labels[INCIDENT_LABEL].as_str().is_some_and(|incident| label_of(object) != Some(incident))
        });
        if let Some(playbook) = stands.as_ref().and_then(|object| object.labels().get(PLAYBOOK)) {
            labels[PLAYBOOK] = playbook.clone().into();
        }
        if known.is_none() || moved || (held != holds && !(going && holds)) {
            // As it stands there: a field that only another version knows must not be lost.
            let plan = stands
                .and_then(|object| object.data.pointer("/spec/plan").cloned())
                .unwrap_or_else(|| json!(plan));
            let finalizers: &[&str] = if holds { &[FINALIZER] } else { &[] };
            let annotations = json!({ ACTION: record.id });
            let mut object = with_meta::<ResponseAction>(
                &name,
                namespace,
                &labels,
                &annotations,
                &json!({"spec": {"plan": plan}}),
            );
            object["metadata"]["finalizers"] = json!(finalizers);
            self.reach.apply(&self.reach.in_namespace::<ResponseAction>(namespace), &name, &object).await?;
            if !holds {
                self.let_go(record).await?;
            }
            if going && !holds {
                // It was only kept by that, and is gone now.
                return Ok(None);
            }
        }
        let generation = known.as_ref().and_then(|known| known.metadata.generation).unwrap_or(1);
        let before = known.as_ref().and_then(|known| known.status.clone());
        let conditions: Vec<Condition> =
            before.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        let gone = self.gone().get(&record.id).cloned();
        let mut status = action_status(record, generation, &conditions, gone.as_deref(), (self.clock)());
        if let Some(before) = &before {
            // What was captured never changes (I4); what the object holds is what was read back.
            status.capture = before.capture.clone().or(status.capture);
        }
        if before.as_ref() != Some(&status) {
            let written = self.put_status::<ResponseAction>(namespace, &name, &status).await?;
            if let Some(story) = story
                && before.as_ref().map(|before| before.state) != Some(record.state)
                && let Some(reason) = event_of(record)
            {
                self.tell(
                    story,
                    reason,
                    &record.told(),
                    &object_name(story.view.incident.id.as_str()),
                    namespace,
                )
                .await;
            }
            return Ok(Some(written));
        }
        Ok(None)
    }

    /// What was kept for the undo of an action that is over, or accepted.
    async fn let_go(&self, record: &ActionRecord) -> Result<(), Failure> {
        match self.captures.is_kept(&record.id) {
            true => self.captures.forget(&record.id).await,
            false => Ok(()),
        }
    }

    /// The Approval by which a step was allowed.
    fn yes_to(&self, run: &str, step: Option<&str>) -> Option<String> {
        let yes = |approval: &Approval| {
            let request = &approval.spec.request;
            let of_step = request.step.is_none() || request.step.as_deref() == step;
            let said = approval
                .spec
                .decision
                .as_ref()
                .is_some_and(|said| said.answer == crds::approval::Answer::Approve);
            request.run == run && of_step && said
        };
        let all = self.approvals.all();
        let mut found: Vec<Approval> =
            all.iter().filter_map(|object| parsed::<Approval>(object)).filter(yes).collect();
        found.sort_by_key(|approval| approval.spec.request.step.is_none());
        found.first().map(|approval| approval.name_any())
    }

    fn lock_shown(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an action that is over already when it is first heard of is worth an object: one that was done is, and one that a node refused.
fn record_matters(record: &ActionRecord) -> bool {
    record.applied.is_some() || record.run.is_some() || record.state == ActionState::Failed
}

/// What an Event calls a state that people should hear of.
fn event_of(record: &ActionRecord) -> Option<&'static str> {
    use model::ActionState::{Applied, Failed, RevertBlocked, Reverted, Unverified, Verified};
    Some(match record.state {
        Applied | Verified => "ActionApplied",
        Unverified => "ActionUnverified",
        Failed => "ActionFailed",
        Reverted => "ActionReverted",
        RevertBlocked => "RevertBlocked",
        _ => return None,
    })
}
