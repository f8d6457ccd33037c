//! An incident that needs a person is told beside its object, as one document that whoever may read the incident can read
//! (`kubectl hemostat show --narrative`). The document stays true until the incident needs nobody any more.
//!
//! Bounded (I11): [`MOST_BYTES`] a document; it is written anew when something was asked, answered, done or undone, and when there are twice as
//! many findings, never because they repeat; [`KEPT`] in the cluster, the oldest go first.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::PoisonError,
};

use crds::narrative::{MOST_BYTES, Narrative, NarrativeSpec};
use kube::{
    Resource as _, ResourceExt as _,
    api::{DeleteParams, ListParams, Preconditions},
};
use model::{Incident, IncidentState};
use narrate::{Desk, Document, Question, answers};
use serde_json::json;

use super::{
    follow::INCIDENT_LABEL,
    mirror::Mirror,
    object::{labels, with_meta},
    reach::Failure,
    show::{approval_name, moment, needs_of, object_name},
};
use crate::{api::Story, core::Ask};

/// Narratives in the cluster, at most.
const KEPT: usize = 512;
/// Objects that are listed at a time.
const PAGE: u32 = 500;
/// Under which health tells that narratives cannot be written.
const SKEWED: &str = "Narrative";

impl Mirror {
    /// Writes down the narrative of an incident that needs a person, and keeps it true.
    pub(crate) async fn show_narrative(&self, story: &Story, namespace: &str) -> Result<(), Failure> {
        let incident = &story.view.incident;
        if story.view.merged_into.is_some() {
            return Ok(());
        }
        let told = self.told().get(&incident.id).copied();
        if needs_of(incident).is_empty() && told.is_none() {
            return Ok(());
        }
        let news = gist(incident);
        if told == Some(news) {
            return Ok(());
        }
        let name = object_name(incident.id.as_str());
        // Just made, and not heard of yet: word of it brings us here again.
        let Some(uid) = self.incidents.get(Some(namespace), &name).and_then(|object| object.uid()) else {
            return Ok(());
        };
        let Some(spec) = self.narrative_of(incident, namespace, &name).await? else { return Ok(()) };
        let about = labels(incident.id.as_str(), None);
        let mut object = with_meta::<Narrative>(&name, namespace, &about, &json!({}), &json!({"spec": spec}));
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": crds::incident::Incident::api_version(&()), "kind": crds::incident::Incident::kind(&()),
            "name": name, "uid": uid,
        }]);
        let written =
            self.reach.apply(&self.reach.in_namespace::<Narrative>(namespace), &name, &object).await;
        let mut skewed = self.skewed.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(_) => {
                skewed.remove(SKEWED);
            }
            // Nothing that holds an attack depends on it: it is told, and the incident is shown.
            Err(failure @ (Failure::Missing(_) | Failure::Refused { .. })) => {
                let what = format!(
                    "narratives cannot be kept, so that `kubectl hemostat show --narrative` has nothing to show: {failure}; apply deploy/crds and the chart's rights"
                );
                skewed.insert(SKEWED.into(), what);
            }
            Err(failure) => return Err(failure),
        }
        drop(skewed);
        let mut all = self.told();
        match is_over(incident) {
            true => drop(all.remove(&incident.id)),
            false => drop(all.insert(incident.id.clone(), news)),
        }
        Ok(())
    }

    /// Removes the oldest beyond [`KEPT`].
    pub(crate) async fn sweep_narratives(&self) -> Result<(), Failure> {
        let api = self.reach.everywhere::<Narrative>();
        let mut params = ListParams::default().labels(INCIDENT_LABEL).limit(PAGE);
        let mut all = Vec::new();
        loop {
            // Metadata alone: the documents need not travel.
            let page = match self.reach.read(api.list_metadata(&params)).await {
                Err(Failure::Missing(_) | Failure::Refused { .. }) => return Ok(()),
                other => other?,
            };
            all.extend(page.items.into_iter().map(|one| one.metadata));
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => params = params.continue_token(&more),
                None => break,
            }
        }
        all.sort_by(|a, b| b.creation_timestamp.cmp(&a.creation_timestamp));
        for old in all.split_off(KEPT.min(all.len())) {
            let (Some(name), Some(namespace)) = (old.name, old.namespace) else { continue };
            let very = DeleteParams {
                preconditions: Some(Preconditions { uid: old.uid, resource_version: None }),
                ..DeleteParams::default()
            };
            let api = self.reach.in_namespace::<Narrative>(&namespace);
            match self.reach.write(api.delete(&name, &very)).await {
                Ok(_) | Err(Failure::Missing(_) | Failure::Conflict(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn narrative_of(
        &self,
        incident: &Incident,
        namespace: &str,
        name: &str,
    ) -> Result<Option<NarrativeSpec>, Failure> {
        let asked = Ask::Narrative(incident.id.to_string());
        let conflict = |why: String| Failure::Conflict(why);
        let json = self.asker.ask(asked).await.map_err(|error| conflict(error.message))?;
        let mut document: Document =
            serde_json::from_slice(&json).map_err(|error| conflict(error.to_string()))?;
        let questions: Vec<Question> = incident
            .runs
            .iter()
            .flat_map(|run| {
                run.waiting.iter().map(|request| Question {
                    run: run.id.clone(),
                    step: request.step.clone(),
                    approval: approval_name(run, request),
                })
            })
            .collect();
        let desk = Desk::Cluster { namespace, incident: name, questions: &questions };
        document.answers = answers(incident, document.told, &desk);
        let told = moment(document.told);
        let Some(document) = document.json_within(MOST_BYTES) else {
            tracing::warn!(incident = %incident.id, "what is asked of it is too long to be kept as a narrative");
            return Ok(None);
        };
        let questions = u32::try_from(questions.len()).unwrap_or(u32::MAX);
        Ok(Some(NarrativeSpec { incident: name.to_owned(), told, questions, document }))
    }

    fn told(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<model::IncidentId, u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes another document of it.
fn gist(incident: &Incident) -> u64 {
    let mut hash = DefaultHasher::new();
    (incident.state, incident.verdict.is_some()).hash(&mut hash);
    incident.findings.len().checked_ilog2().hash(&mut hash);
    for run in &incident.runs {
        (run.id.as_str(), run.state).hash(&mut hash);
        for request in &run.waiting {
            (request.step.as_str(), request.expires.0).hash(&mut hash);
        }
    }
    for action in &incident.actions {
        (action.id.as_str(), action.state).hash(&mut hash);
    }
    hash.finish()
}

/// Nobody is asked anything about it any more.
fn is_over(incident: &Incident) -> bool {
    let ended = matches!(
        incident.state,
        IncidentState::Closed | IncidentState::RolledBack | IncidentState::Remediated
    );
    ended && needs_of(incident).is_empty()
}
