//! Out: what the core knows becomes Incidents, ResponseActions, Approvals and Events. Level-based: for each incident that something
//! happened to, here or there, the objects are brought to what the core says now; however often that was, it is done once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crds::{
    Holds,
    approval::{Approval, ApprovalStatus, State as Asked},
    incident::Incident as ShownIncident,
};
use futures_util::{StreamExt as _, stream};
use kube::{Resource, ResourceExt as _, api::DynamicObject, runtime::events::Recorder};
use model::{Attribution, IncidentId, Timestamp};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    captures::Captures,
    follow::{Due, Known},
    object::{labels, with_meta},
    people::{Heard, parsed},
    reach::{Failure, Reach},
    show::{
        action_plan, approval_name, approval_spec, approval_summary, condition, incident_spec,
        incident_status, object_name,
    },
};
use crate::{
    api::{ActionView, IncidentList, Story},
    config::Clock,
    core::{Ask, Asker, Merged},
    crash::CrashPoints,
    health::{HealthBoard, Part},
};

/// The annotation that tells an action's name as the core has it.
pub(crate) const ACTION: &str = "hemostat.dev/action";
/// Incidents that are written at the same time.
const AT_ONCE: usize = 8;
/// Shortest and longest pause before something that failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// An incident's first effects come so soon after it is known.
const SETTLE: Duration = Duration::from_millis(50);
/// Longer nothing is kept from being shown by effects.
const SHOWN_LATE: Duration = Duration::from_millis(500);
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
    /// Where the objects of actions are that are not where their incident is.
    pub(crate) action_places: Mutex<HashMap<String, String>>,
    /// Names of the actions whose objects were seen.
    pub(crate) shown: Mutex<BTreeSet<String>>,
    /// What was told of incidents that need a person ([`super::narratives`]).
    pub(crate) told: Mutex<HashMap<IncidentId, u64>>,
    /// Actions in force whose effect is not there any more, with what is found instead ([`super::vigil`]).
    pub(crate) gone: Mutex<BTreeMap<model::ActionId, String>>,
    /// What undos need, in the API server.
    pub(crate) captures: Captures,
    /// Of each kind: what its definition drops.
    pub(crate) skewed: Mutex<BTreeMap<String, String>>,
    /// When the Secrets were last looked through.
    pub(crate) swept: Mutex<Option<Instant>>,
    /// Where a test makes it die.
    pub(crate) crash: Arc<dyn CrashPoints>,
    /// When this controller began.
    pub(crate) started: Timestamp,
    /// One writer for each incident at a time.
    pub(crate) locks: Vec<tokio::sync::Mutex<()>>,
    /// One writer for each action at a time ([`super::actions`]), and the number of the newest story that was written with it.
    pub(crate) pens: Vec<tokio::sync::Mutex<u64>>,
    /// Effects that are being written down ([`super::journal`]).
    pub(crate) effects: watch::Sender<usize>,
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
            self.effects_first().await;
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

    /// Effects are written down before anything is shown: they wait for the API server, which does one as slowly as the other, and what
    /// people see may be late. Not for long: there may always be effects (I11).
    async fn effects_first(&self) {
        tokio::time::sleep(SETTLE).await;
        let mut effects = self.effects.subscribe();
        let none = effects.wait_for(|effects| *effects == 0);
        let _late = tokio::time::timeout(SHOWN_LATE, none).await;
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
        self.look_for_skew();
        if let Err(failure) = self.sweep().await
            && !failure.is_away()
        {
            tracing::warn!(%failure, "what is kept for undos and of narratives could not be looked through");
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
            self.show_action(&story, &record.id, &namespace).await?;
        }
        self.show_approvals(&story, &namespace).await?;
        self.show_narrative(&story, &namespace).await
    }

    /// The namespace of an incident's objects: that of its pod, if that was known when the incident was first shown.
    pub(crate) fn place_of(&self, story: &Story) -> String {
        let incident = &story.view.incident;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get(&incident.id) {
            return known.clone();
        }
        // An action may stand there before its incident does.
        let id = incident.id.as_str();
        let stands = [&self.incidents, &self.actions]
            .iter()
            .find_map(|known| known.of(id).first().and_then(|object| object.namespace()));
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
        let api = self.reach.in_namespace::<ShownIncident>(namespace);
        let followed = self.incidents.get(Some(namespace), &name);
        // One that lost its label is not followed, and stands there all the same.
        let stands = match &followed {
            Some(_) => None,
            None => self.reach.read(api.get_opt(&name)).await?,
        };
        let known = followed.as_deref().or(stands.as_ref()).and_then(parsed::<ShownIncident>);
        if followed.is_none() || known.is_none() {
            let spec = match &known {
                // Neither ever changes, whatever is known of it now.
                Some(known) => json!({"title": known.spec.title, "firstEvent": known.spec.first_event}),
                None => json!(incident_spec(incident)),
            };
            let object = with_meta::<ShownIncident>(
                &name,
                namespace,
                &labels(incident.id.as_str(), None),
                &json!({}),
                &json!({"spec": spec}),
            );
            self.reach.apply(&api, &name, &object).await?;
        }
        if known.is_none() {
            self.tell(story, "IncidentOpened", &incident.title, &name, namespace).await;
        }
        let generation = known.as_ref().and_then(|known| known.metadata.generation).unwrap_or(1);
        let before = known.as_ref().and_then(|known| known.status.clone());
        let survivor = story.view.merged_into.as_ref().map(|into| {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let stands = || self.incidents.of(into.as_str()).first().and_then(|object| object.namespace());
            let place = places.get(into).cloned().or_else(stands).unwrap_or_else(|| self.home.clone());
            format!("{place}/{}", object_name(into.as_str()))
        });
        let place = (namespace, survivor);
        let gone = self.gone_of(&incident.actions);
        let status = incident_status(story, place, generation, before.as_ref(), &gone, (self.clock)());
        if before.as_ref() != Some(&status) {
            self.put_status::<ShownIncident>(namespace, &name, &status).await?;
        }
        Ok(())
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

    /// What nodes did by themselves and no incident tells of.
    async fn show_loose(&self) -> Result<(), Failure> {
        let Ok(json) = self.asker.ask(Ask::Loose).await else { return Ok(()) };
        let loose: Vec<ActionView> = serde_json::from_slice(&json).unwrap_or_default();
        for ActionView { node, record } in loose {
            let plan = action_plan(&record, &node, None, None);
            let about = json!({"app.kubernetes.io/managed-by": "hemostat"});
            let place = self.place_of_action(&record, &self.home);
            let _written = self.put_action((&record, &node), plan, about, &place, None).await?;
        }
        Ok(())
    }

    pub(crate) async fn put_status<K>(
        &self,
        namespace: &str,
        name: &str,
        status: &impl Serialize,
    ) -> Result<DynamicObject, Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let object = with_meta::<K>(name, namespace, &json!({}), &json!({}), &json!({"status": status}));
        let stands = self.reach.apply_status(&self.reach.in_namespace::<K>(namespace), name, &object).await?;
        self.note_dropped::<K>(&object["status"], stands.data.get("status"));
        Ok(stands)
    }
}
