//! Out: what the core knows becomes Incidents, ResponseActions, Approvals and Events. Level-based: for each incident that something
//! happened to, here or there, the objects are brought to what the core says now; however often that was, it is done once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crds::{
    Condition, Holds,
    approval::{Approval, ApprovalStatus, State as Asked},
    incident::Incident as ShownIncident,
    response_action::{Ending, FINALIZER, ResponseAction},
};
use futures_util::{StreamExt as _, stream};
use kube::{Resource, ResourceExt as _, runtime::events::Recorder};
use model::{ActionRecord, Attribution, IncidentId, NodeId, RunId, Timestamp};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    follow::{Due, Known},
    object::{labels, with_meta},
    people::{Heard, parsed},
    reach::{Failure, Reach},
    show::{
        action_name, action_plan, action_status, approval_name, approval_spec, approval_summary, condition,
        incident_spec, incident_status, is_settled, object_name, record_of,
    },
};
use crate::{
    api::{ActionView, IncidentList, Story},
    config::Clock,
    core::{Ask, Asker, Change, Merged},
    crash::CrashPoints,
    health::{HealthBoard, Part},
};

/// The annotation that tells an action's name as the core has it.
pub(crate) const ACTION: &str = "hemostat.dev/action";
/// Incidents that are written at the same time.
const AT_ONCE: usize = 8;
/// Shortest and longest pause before something that failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// What nobody tells of is looked at this often.
const LOOK: Duration = Duration::from_secs(2);

/// What the mirror needs.
pub(crate) struct Mirror {
    pub(crate) reach: Reach,
    pub(crate) asker: Asker,
    pub(crate) health: HealthBoard,
    pub(crate) clock: Clock,
    /// Our own namespace: for what is in no pod that is known.
    pub(crate) home: String,
    /// Who the API server knows us as.
    pub(crate) me: String,
    pub(crate) incidents: Known,
    pub(crate) actions: Known,
    pub(crate) approvals: Known,
    pub(crate) playbooks: Known,
    pub(crate) due: Due,
    pub(crate) recorder: Recorder,
    /// Where an incident's objects are: it never moves.
    pub(crate) places: Mutex<HashMap<IncidentId, String>>,
    /// Names of the actions whose objects were seen.
    pub(crate) shown: Mutex<BTreeSet<String>>,
    /// Where a test makes it die.
    pub(crate) crash: Arc<dyn CrashPoints>,
    /// When this controller began.
    pub(crate) started: Timestamp,
    /// One writer for each incident at a time.
    pub(crate) locks: Vec<tokio::sync::Mutex<()>>,
}

impl Mirror {
    /// Locks for incidents; two that share one wait for each other.
    pub(crate) const LOCKS: usize = 64;

    /// Works until `stop`.
    pub(crate) async fn run(self: Arc<Self>, mut revision: watch::Receiver<u64>, stop: CancellationToken) {
        for known in [&self.incidents, &self.actions, &self.approvals, &self.playbooks] {
            tokio::select! {
                () = stop.cancelled() => return,
                () = known.ready() => {}
            }
        }
        let mut seen = 0;
        let mut failed: BTreeMap<String, (Instant, Duration)> = BTreeMap::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = revision.changed() => if changed.is_err() { return },
                () = self.due.come() => {}
                _ = look.tick() => {
                    self.look_around().await;
                }
            }
            if let Some(now_seen) = self.news(seen).await {
                seen = now_seen;
            }
            if self.reach.away_since().is_some() {
                // All of it waits: as many names as there are incidents, each once.
                continue;
            }
            let now = Instant::now();
            let ripe: Vec<String> =
                failed.iter().filter(|(_, (at, _))| *at <= now).map(|(id, _)| id.clone()).collect();
            let mut names = self.due.take();
            // What failed waits for its time, also when it changes meanwhile.
            names.retain(|name| !failed.contains_key(name));
            names.extend(ripe);
            let this = &self;
            let results: Vec<(String, Result<(), Failure>)> = stream::iter(names)
                .map(|name| async move {
                    let result = this.one(&name).await;
                    (name, result)
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for (name, result) in results {
                match result {
                    Ok(()) => {
                        failed.remove(&name);
                    }
                    Err(failure) if failure.is_away() => self.due.add(name),
                    Err(failure) => {
                        let pause = failed.get(&name).map_or(PAUSE.0, |(_, pause)| (*pause * 2).min(PAUSE.1));
                        tracing::warn!(incident = name, %failure, ?pause, "an incident could not be shown");
                        if !matches!(failure, Failure::Conflict(_)) {
                            self.refused(&failure);
                        }
                        failed.insert(name, (Instant::now() + pause, pause));
                    }
                }
            }
            if failed.is_empty() {
                self.health.restored(Part::Cluster);
            }
        }
    }

    /// Something is not written in the API server and will not be by itself.
    pub(crate) fn refused(&self, failure: &Failure) {
        self.health.degraded(Part::Cluster, format!("not everything is in the API server: {failure}"));
    }

    /// Incidents that changed in the core.
    async fn news(&self, since: u64) -> Option<u64> {
        let asked = Ask::Incidents { since, limit: usize::MAX, merged: Merged::Shown };
        let list: IncidentList =
            self.asker.ask(asked).await.ok().and_then(|json| serde_json::from_slice(&json).ok())?;
        for incident in &list.incidents {
            self.due.add(incident.id.as_str());
        }
        Some(list.revision)
    }

    /// What no change tells of: whether the API server is back, nodes' own actions without an incident, actions that nobody knows.
    async fn look_around(&self) {
        if self.reach.away_since().is_some() {
            // Its answer brings everything back to life.
            let _answer = self.reach.read(self.reach.client.apiserver_version()).await;
            return;
        }
        if let Err(failure) = self.show_loose().await
            && !failure.is_away()
        {
            tracing::warn!(%failure, "actions without an incident could not be shown");
        }
        if let Err(failure) = self.look_for_orphans().await
            && !failure.is_away()
        {
            tracing::warn!(%failure, "actions that nobody knows could not be dealt with");
        }
    }

    pub(crate) async fn lock(&self, incident: &IncidentId) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hash = DefaultHasher::new();
        incident.hash(&mut hash);
        self.locks[usize::try_from(hash.finish() % self.locks.len() as u64).unwrap_or(0)].lock().await
    }

    pub(crate) async fn story(&self, id: &IncidentId) -> Result<Story, Failure> {
        let json = self.asker.ask(Ask::Story(id.clone())).await.map_err(|error| match error.kind {
            crate::api::ApiErrorKind::Unknown => Failure::Missing(error.message),
            _ => Failure::Conflict(error.message),
        })?;
        serde_json::from_slice(&json).map_err(|error| Failure::Conflict(error.to_string()))
    }

    /// Brings one incident's objects to what the core says.
    async fn one(&self, name: &str) -> Result<(), Failure> {
        let id = IncidentId::new(name);
        let _alone = self.lock(&id).await;
        let mut story = match self.story(&id).await {
            Ok(story) => story,
            // Forgotten by the core, or never known to it: what is in force of it is looked for among the orphans.
            Err(Failure::Missing(_)) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        if self.hear(&story).await? == Heard::Something {
            story = self.story(&id).await?;
        }
        let namespace = self.place_of(&story);
        match self.show_incident(&story, &namespace).await {
            Err(Failure::Refused { code: 403, because })
                if namespace != self.home && because.contains("namespace") =>
            {
                // It is being deleted: what happened in it is kept all the same.
                self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(id, self.home.clone());
                return Err(Failure::Conflict(because));
            }
            other => other?,
        }
        for record in &story.view.incident.actions {
            self.show_action(&story, record, &namespace).await?;
        }
        self.show_approvals(&story, &namespace).await
    }

    /// The namespace of an incident's objects: that of its pod, if that was known when the incident was first shown.
    pub(crate) fn place_of(&self, story: &Story) -> String {
        let incident = &story.view.incident;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get(&incident.id) {
            return known.clone();
        }
        let stands = self.incidents.of(incident.id.as_str()).first().and_then(|object| object.namespace());
        let of_pod = incident.pods.iter().find_map(|pod| match &pod.attribution {
            Attribution::Resolved { pod, .. } => Some(pod.namespace.clone()),
            _ => None,
        });
        let place = stands.or(of_pod).unwrap_or_else(|| self.home.clone());
        places.insert(incident.id.clone(), place.clone());
        place
    }

    pub(crate) async fn show_incident(&self, story: &Story, namespace: &str) -> Result<(), Failure> {
        let incident = &story.view.incident;
        let name = object_name(incident.id.as_str());
        let known =
            self.incidents.get(Some(namespace), &name).and_then(|object| parsed::<ShownIncident>(&object));
        let spec = match &known {
            // Neither ever changes.
            Some(known) => json!({"title": known.spec.title, "firstEvent": known.spec.first_event}),
            None => json!(incident_spec(incident)),
        };
        if known.is_none() {
            let object = with_meta::<ShownIncident>(
                &name,
                namespace,
                &labels(incident.id.as_str(), None),
                &json!({}),
                &json!({"spec": spec}),
            );
            self.reach.apply(&self.reach.in_namespace::<ShownIncident>(namespace), &name, &object).await?;
            self.tell(story, "IncidentOpened", &incident.title, &name, namespace).await;
        }
        let generation = known.as_ref().and_then(|known| known.metadata.generation).unwrap_or(1);
        let before = known.as_ref().and_then(|known| known.status.clone());
        let conditions: &[Condition] = before.as_ref().map_or(&[], |status| &status.conditions);
        let status = incident_status(story, namespace, generation, conditions, (self.clock)());
        if before.as_ref() != Some(&status) {
            self.put_status::<ShownIncident>(namespace, &name, &status).await?;
        }
        Ok(())
    }

    pub(crate) async fn show_action(
        &self,
        story: &Story,
        record: &ActionRecord,
        namespace: &str,
    ) -> Result<(), Failure> {
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
        self.put_action(record, plan, about, namespace, Some(story)).await
    }

    async fn put_action(
        &self,
        record: &ActionRecord,
        plan: crds::response_action::Plan,
        labels: serde_json::Value,
        namespace: &str,
        story: Option<&Story>,
    ) -> Result<(), Failure> {
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
            return Ok(());
        }
        if known.is_none() || (held != holds && !(going && holds)) {
            let plan = known.as_ref().map_or(plan, |known| known.spec.plan.clone());
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
            if going && !holds {
                // It was only kept by that, and is gone now.
                return Ok(());
            }
        }
        let generation = known.as_ref().and_then(|known| known.metadata.generation).unwrap_or(1);
        let before = known.as_ref().and_then(|known| known.status.clone());
        let conditions: Vec<Condition> =
            before.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        let mut status = action_status(record, generation, &conditions, (self.clock)());
        if let Some(before) = &before {
            // What was captured never changes (I4); what the object holds is what was read back.
            status.capture = before.capture.clone().or(status.capture);
        }
        if before.as_ref() != Some(&status) {
            self.put_status::<ResponseAction>(namespace, &name, &status).await?;
            if let Some(story) = story
                && before.as_ref().map(|before| before.state) != Some(record.state)
                && let Some(reason) = event_of(record)
            {
                let what = format!(
                    "{} on {}: {:?}. {}",
                    record.action.name(),
                    record.target,
                    record.state,
                    record.detail
                );
                self.tell(story, reason, &what, &object_name(story.view.incident.id.as_str()), namespace)
                    .await;
            }
        }
        Ok(())
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

    async fn show_approvals(&self, story: &Story, namespace: &str) -> Result<(), Failure> {
        let incident = &story.view.incident;
        let now = (self.clock)();
        let mut asked = Vec::new();
        for run in &incident.runs {
            let of_run = story.runs.iter().find(|known| known.run == run.id);
            for request in &run.waiting {
                let name = approval_name(run, request);
                asked.push(name.clone());
                let known =
                    self.approvals.get(Some(namespace), &name).and_then(|object| parsed::<Approval>(&object));
                if known.as_ref().is_some_and(|known| known.status.is_some()) {
                    continue;
                }
                let author = self.author_of(run.playbook.as_str());
                let spec = approval_spec(incident, run, of_run, request, &self.me, author.as_deref());
                if known.is_none() {
                    let about = labels(incident.id.as_str(), Some(run.playbook.as_str()));
                    let object =
                        with_meta::<Approval>(&name, namespace, &about, &json!({}), &json!({"spec": spec}));
                    self.reach.apply(&self.reach.in_namespace::<Approval>(namespace), &name, &object).await?;
                    let what = format!("{} waits for a yes: {}", spec.request.would, spec.request.because);
                    self.tell(story, "ApprovalNeeded", &what, &object_name(incident.id.as_str()), namespace)
                        .await;
                }
                let conditions =
                    vec![condition("Decided", Holds::Unknown, "Waiting", "nobody answered yet", now, 1)];
                let status = ApprovalStatus {
                    observed_generation: 1,
                    state: Asked::Pending,
                    summary: approval_summary(&spec, now),
                    over: None,
                    conditions,
                };
                self.put_status::<Approval>(namespace, &name, &status).await?;
            }
        }
        for object in self.approvals.of(incident.id.as_str()) {
            let Some(approval) = parsed::<Approval>(&object) else { continue };
            let pending = approval.status.as_ref().is_some_and(|status| status.state == Asked::Pending);
            if !pending || approval.spec.decision.is_some() || asked.contains(&approval.name_any()) {
                continue;
            }
            let request = &approval.spec.request;
            // As long as a whole second is left out, a question may seem to lapse a second early.
            let lapsed = now >= request.expires.0;
            let (state, reason, message) = if lapsed {
                (Asked::Expired, "Expired", "nobody answered in time: no")
            } else {
                (Asked::Withdrawn, "Withdrawn", "it is no longer asked")
            };
            self.end_approval(&approval, state, Holds::False, reason, message).await?;
        }
        Ok(())
    }

    /// Who wrote a playbook, where its annotation says so (deploy/admission binds it to its writer).
    fn author_of(&self, playbook: &str) -> Option<String> {
        let object = self.playbooks.get(None, playbook)?;
        object.annotations().get("hemostat.dev/author").filter(|author| !author.is_empty()).cloned()
    }

    fn lock_shown(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What nodes did by themselves and no incident tells of.
    async fn show_loose(&self) -> Result<(), Failure> {
        let Ok(json) = self.asker.ask(Ask::Loose).await else { return Ok(()) };
        let loose: Vec<ActionView> = serde_json::from_slice(&json).unwrap_or_default();
        for ActionView { node, record } in loose {
            let plan = action_plan(&record, &node, None, None);
            let about = json!({"app.kubernetes.io/managed-by": "hemostat"});
            self.put_action(&record, plan, about, &self.home, None).await?;
        }
        Ok(())
    }

    /// Actions in the API server that the core does not know, as after a loss of its volume: they are flagged, and undone if somebody
    /// wants that.
    async fn look_for_orphans(&self) -> Result<(), Failure> {
        for object in self.actions.all() {
            let Some(action) = parsed::<ResponseAction>(&object) else { continue };
            let Some(status) = &action.status else { continue };
            let over = matches!(
                status.state,
                model::ActionState::Reverted | model::ActionState::Vacuous | model::ActionState::Failed
            );
            if over || !action.finalizers().iter().any(|name| name == FINALIZER) {
                continue;
            }
            let Some(id) = action.annotations().get(ACTION).map(|id| model::ActionId::new(id.clone())) else {
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
                    self.places
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(incident.clone(), namespace.clone());
                    let about = labels(incident.as_str(), None);
                    self.relabel(&action, &namespace, &about, &[FINALIZER]).await?;
                    self.due.add(incident.as_str());
                }
                continue;
            }
            if action.spec.end.as_ref().is_some_and(|end| end.how == Ending::Accept) {
                // Nobody else lifts its finalizer, and it would keep its namespace from going.
                self.relabel(&action, &namespace, &json!(action.labels()), &[]).await?;
                continue;
            }
            if let Some((by, because)) = self.wants_back(&action).await? {
                let Some((node, record)) = record_of(&action, id.clone()) else {
                    self.flag(&action, "its object does not hold what an undo needs: lift it on its node with `hemostat release`").await?;
                    continue;
                };
                tracing::warn!(action = %id, "an action that the journal does not know is taken in, to be undone");
                let adopt = Change::Adopt { node, record: Box::new(record) };
                self.wish_or_tell(adopt, &by).await?;
                self.wish_or_tell(Change::RollbackAction { id: id.to_string(), because }, &by).await?;
                continue;
            }
            self.flag(
                &action,
                "the controller's journal does not know it: set spec.end to undo or to accept it",
            )
            .await?;
        }
        Ok(())
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
        let mut object = with_meta::<ResponseAction>(
            &name,
            namespace,
            about,
            &annotations,
            &json!({"spec": {"plan": action.spec.plan}}),
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
        self.put_status::<ResponseAction>(&namespace, &action.name_any(), &status).await
    }

    pub(crate) async fn put_status<K>(
        &self,
        namespace: &str,
        name: &str,
        status: &impl Serialize,
    ) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let object = with_meta::<K>(name, namespace, &json!({}), &json!({}), &json!({"status": status}));
        self.reach.apply_status(&self.reach.in_namespace::<K>(namespace), name, &object).await.map(drop)
    }
}

/// Whether an action that is over already when it is first heard of is worth an object: one that was done is.
fn record_matters(record: &ActionRecord) -> bool {
    record.applied.is_some() || record.run.is_some()
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
