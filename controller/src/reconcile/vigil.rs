//! What is done in the API server can be undone there by anybody who may: a controller that puts back what is in Git, an operator in a hurry, an
//! attacker with the right. So what contains is looked at again and again for as long as it is in force, and where it is not there any more, its
//! objects, the incident's and an Event say so. Nothing is done about it by itself: two who put it back in turn help nobody.
//!
//! Bounded (I11): [`AT_A_TIME`] actions a look, in turns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use act::Executor;
use model::{ActionId, ActionState, Effect, IncidentId, NodeAction, UndoClass};
use respond::action::{ActionKind, Purpose};
use tokio_util::sync::CancellationToken;

use super::{mirror::Mirror, show::object_name};
use crate::{api::ActionView, core::Ask};

/// Between two looks. What is missing twice in a row is gone: in between it may be what is being undone.
const LOOK: Duration = Duration::from_secs(10);
/// Actions that are looked at in one.
const AT_A_TIME: usize = 128;
/// How long one look at one action may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until `stop`.
pub(crate) async fn keep(mirror: Arc<Mirror>, executor: Arc<Executor>, stop: CancellationToken) {
    let mut missed = BTreeSet::new();
    let mut from = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if mirror.reach.away_since().is_some() {
            continue;
        }
        let all = mirror.in_force().await;
        mirror.gone().retain(|id, _| all.iter().any(|one| one.record.id == *id));
        missed.retain(|id| all.iter().any(|one| one.record.id == *id));
        if from >= all.len() {
            from = 0;
        }
        for view in all.iter().skip(from).take(AT_A_TIME) {
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = missing(&executor, view) => found,
            };
            mirror.note(view, found, &mut missed).await;
        }
        from += AT_A_TIME;
    }
}

/// What is found instead of the effect; `Err` where nothing certain can be said: the target is gone with all that could be done to it, or the
/// API server does not answer.
async fn missing(executor: &Executor, view: &ActionView) -> Result<Option<String>, ()> {
    match tokio::time::timeout(PATIENCE, executor.look(&view.record)).await {
        Ok(Ok(Effect::InForce)) => Ok(None),
        Ok(Ok(Effect::Missing { found })) => Ok(Some(found)),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

impl Mirror {
    /// Of an incident's actions those whose effect is not there any more, with what is found instead.
    pub(crate) fn gone_of(&self, actions: &[model::ActionRecord]) -> Vec<(ActionId, String)> {
        let gone = self.gone();
        let found = actions.iter().filter_map(|one| Some((one.id.clone(), gone.get(&one.id)?.clone())));
        found.collect()
    }

    pub(crate) fn gone(&self) -> std::sync::MutexGuard<'_, BTreeMap<ActionId, String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What contains, was seen, and can be looked at in the API server.
    async fn in_force(&self) -> Vec<ActionView> {
        let Ok(json) = self.asker.ask(Ask::Actions { all: false }).await else { return Vec::new() };
        let mut all: Vec<ActionView> = serde_json::from_slice(&json).unwrap_or_default();
        all.retain(|ActionView { record, .. }| {
            let contains = ActionKind::named(record.action.name())
                .is_some_and(|kind| kind.purpose() == Purpose::Contain);
            matches!(record.action, NodeAction::Cluster(_))
                && contains
                && record.state == ActionState::Verified
                && record.action.undo() == UndoClass::Exact
        });
        all
    }

    async fn note(
        &self,
        view: &ActionView,
        found: Result<Option<String>, ()>,
        missed: &mut BTreeSet<ActionId>,
    ) {
        let record = &view.record;
        let (Ok(found), Some(incident)) = (found, &record.incident) else { return };
        let Some(found) = found else {
            missed.remove(&record.id);
            if self.gone().remove(&record.id).is_some() {
                self.due.add(incident.as_str());
            }
            return;
        };
        if missed.insert(record.id.clone()) {
            return;
        }
        let found = crds::cut(&found, 512);
        let known = self.gone().insert(record.id.clone(), found.clone());
        if known.is_some() {
            return;
        }
        tracing::warn!(action = %record.id, %incident, found, "somebody else undid what contains");
        self.due.add(incident.as_str());
        self.tell_gone(incident, &format!("{} on {}: {found}", record.action.name(), record.target)).await;
    }

    async fn tell_gone(&self, incident: &IncidentId, what: &str) {
        let Ok(story) = self.story(incident).await else { return };
        let place = self.place_of(&story);
        let what = format!("somebody else undid what contains: {what}");
        self.tell(&story, "ContainmentGone", &what, &object_name(incident.as_str()), &place).await;
    }
}
