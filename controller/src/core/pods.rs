//! Which pods an incident is about, and who opened sessions in them: asked when a finding comes, and for a bounded time again until it is
//! known. What stays unknown says why, and nothing is done in the cluster on its account (I9).

use std::{collections::BTreeMap, time::Duration};

use detect::incident::key_of_address;
use model::{
    AttributedPod, Attribution, Entity, ExecSession, Finding, FindingId, Incident, IncidentId, PodFacts,
    Timestamp, Unresolved, Workload,
};

use super::{Core, ingest::controller, turn::Turn};
use crate::{
    attribute::{DETAIL_WAIT, POD_WAIT, Pods},
    store::{ReadBack, StoreError, Table},
};

/// Findings that are asked for again; beyond, a further one is asked for once (I11).
const MAX_WAITING: usize = 1024;

/// How soon is asked again at first, and at the latest: the longer it was waited in vain, the less soon. What is asked for 15 s is asked
/// some 25 times.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Where those that wait are kept over a restart.
const KEY: &[u8] = b"attributing";

/// Findings of which not all is known yet, by incident; since when.
pub(super) type Attributing = BTreeMap<(IncidentId, FindingId), Timestamp>;

impl Core {
    /// Asks for the pod of a finding that has just come into its incident.
    pub(super) fn attribute(
        &mut self,
        id: &IncidentId,
        finding: &Finding,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let Some(pods) = self.config.pods.clone() else { return Ok(()) };
        let most = most_waiting(&finding.event.process.workload);
        if self.ask(&pods, id, finding, turn.now, turn)? == Known::Partly
            && self.state.attributing.len() < most
        {
            self.state.attributing.insert((id.clone(), finding.id.clone()), turn.now);
            self.state.ask_again = self.state.ask_again.min(turn.now.plus(AGAIN.0));
            self.keep_attributing(turn);
        }
        Ok(())
    }

    /// Asks again for those of which not all is known.
    pub(super) fn attribute_again(&mut self, turn: &mut Turn) {
        let Some(pods) = self.config.pods.clone() else { return };
        if turn.now < self.state.ask_again {
            return;
        }
        let waiting: Vec<_> = self.state.attributing.iter().map(|(key, at)| (key.clone(), *at)).collect();
        let before = waiting.len();
        for ((id, finding_id), since) in waiting {
            let found = self.state.incidents.get(&self.state.store, &id);
            let finding = found.map(|whole| {
                whole.and_then(|w| w.row.incident.findings.iter().find(|f| f.id == finding_id).cloned())
            });
            let known = match finding {
                Ok(Some(finding)) => self.ask(&pods, &id, &finding, since, turn),
                // The incident was merged or forgotten.
                Ok(None) => Ok(Known::Wholly),
                Err(error) => Err(error),
            };
            match known {
                Ok(Known::Wholly) => drop(self.state.attributing.remove(&(id, finding_id))),
                Ok(Known::Partly) => {}
                Err(error) => drop(self.store_failed(&error)),
            }
        }
        if self.state.attributing.len() != before {
            self.keep_attributing(turn);
        }
        let soonest =
            self.state.attributing.values().map(|since| turn.now.plus(pause(turn.now.since(*since))));
        self.state.ask_again = soonest.min().unwrap_or(Timestamp(i64::MIN));
    }

    /// When is asked again.
    pub(super) fn next_attribution(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.state.attributing.is_empty()).then(|| self.state.ask_again.max(now))
    }

    fn ask(
        &mut self,
        pods: &Pods,
        id: &IncidentId,
        finding: &Finding,
        since: Timestamp,
        turn: &mut Turn,
    ) -> Result<Known, StoreError> {
        let process = &finding.event.process;
        let waited = turn.now.since(since);
        let id = &self.learn_names(id, finding, turn)?;
        let Workload::Container { pod_uid: Some(uid), container_id, .. } = &*process.workload else {
            // Whose an address is counts only where somebody acted from it.
            let origin = finding.event.record().and_then(|record| record.origin);
            let late = origin.and_then(key_of_address).is_some()
                && waited < POD_WAIT
                && self.aliases(finding).is_empty();
            return Ok(if late { Known::Partly } else { Known::Wholly });
        };
        let attribution = match pods.find(&finding.event.id.node, uid, container_id) {
            Attribution::Waiting if waited >= POD_WAIT => {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                Attribution::Unresolved { because: Unresolved::Unknown { uid: uid.clone(), waited_ms } }
            }
            other => other,
        };
        let sessions = pods.sessions_of(finding);
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(Known::Wholly) };
        let incident = &mut whole.row.incident;
        let mut lines = Vec::new();
        let known = known(&attribution, waited, sessions.is_empty());
        if let Some(line) = put(incident, uid, container_id, finding, attribution, since) {
            lines.push(line);
        }
        for session in sessions {
            let new = incident.sessions.iter().all(|known| known.audit_id != session.audit_id);
            if new && incident.sessions.len() < Incident::MAX_SESSIONS {
                let who = Entity::Principal { who: session.user.clone() };
                if !incident.entities.contains(&who) {
                    incident.entities.push(who);
                }
                let from = session.origin.map(|from| format!(" from {from}")).unwrap_or_default();
                lines.push(format!(
                    "kubectl exec in {} by {}{from}: {}",
                    session.pod, session.user, session.command
                ));
                incident.sessions.push(session);
            }
        }
        for line in lines {
            whole.tell(turn.now, &controller(), line);
        }
        Ok(known)
    }

    /// What is asked for about `from` is about `into` from now on.
    pub(super) fn attribute_in(&mut self, from: &IncidentId, into: &IncidentId, turn: &mut Turn) {
        let all = &mut self.state.attributing;
        let moved: Vec<_> = all.keys().filter(|(id, _)| id == from).cloned().collect();
        if moved.is_empty() {
            return;
        }
        for key in moved {
            if let Some(since) = all.remove(&key) {
                all.insert((into.clone(), key.1), since);
            }
        }
        self.keep_attributing(turn);
    }

    fn keep_attributing(&self, turn: &mut Turn) {
        let waiting: Vec<_> = self.state.attributing.iter().collect();
        turn.batch.put(Table::Meta, KEY.to_vec(), &waiting, ReadBack::No);
    }
}

/// Those that an earlier life was asking for.
pub(super) fn load(store: &crate::store::Store) -> Result<Attributing, StoreError> {
    let waiting: Vec<((IncidentId, FindingId), Timestamp)> = store.get(Table::Meta, KEY)?.unwrap_or_default();
    Ok(waiting.into_iter().collect())
}

/// What is known of pods and sessions goes with its findings, as far as there is room.
pub(super) fn bring(incident: &mut Incident, pods: Vec<AttributedPod>, sessions: Vec<ExecSession>) {
    for pod in pods {
        let same = |known: &AttributedPod| {
            (&known.cgroup_uid, &known.container_id, &known.node)
                == (&pod.cgroup_uid, &pod.container_id, &pod.node)
        };
        let room = incident.pods.len() < Incident::MAX_PODS;
        match incident.pods.iter_mut().find(|known| same(known)) {
            Some(known) if is_newer(&known.attribution, &pod.attribution) => {
                known.attribution = pod.attribution;
            }
            Some(_) => {}
            None if room => incident.pods.push(pod),
            None => {}
        }
    }
    for session in sessions {
        let new = incident.sessions.iter().all(|known| known.audit_id != session.audit_id);
        if new && incident.sessions.len() < Incident::MAX_SESSIONS {
            incident.sessions.push(session);
        }
    }
}

/// How many may wait when one of this comes. Most addresses are no pod's and never will be: what has no pod of its own leaves room for the pods
/// themselves.
fn most_waiting(workload: &Workload) -> usize {
    match workload {
        Workload::Container { pod_uid: Some(_), .. } => MAX_WAITING,
        _ => MAX_WAITING / 2,
    }
}

/// How long is waited before it is asked again.
fn pause(waited: Duration) -> Duration {
    (waited / 4).clamp(AGAIN.0, AGAIN.1)
}

/// How much is known of where a finding happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// All that will be.
    Wholly,
    /// More may come.
    Partly,
}

fn known(attribution: &Attribution, waited: Duration, alone: bool) -> Known {
    match attribution {
        Attribution::Waiting => Known::Partly,
        _ if waited >= DETAIL_WAIT => Known::Wholly,
        Attribution::Unresolved { because: Unresolved::Blind { .. } } => Known::Partly,
        // Late, but it may still come; what is shown meanwhile is that it is not known.
        Attribution::Unresolved { because: Unresolved::Unknown { .. } } => Known::Partly,
        Attribution::Unresolved { .. } => Known::Wholly,
        Attribution::Resolved { container, .. } if container.is_none() || alone => Known::Partly,
        Attribution::Resolved { .. } => Known::Wholly,
    }
}

/// Puts what is known in its place; a line for the history, if that is news.
fn put(
    incident: &mut Incident,
    uid: &str,
    container_id: &str,
    finding: &Finding,
    attribution: Attribution,
    asked: Timestamp,
) -> Option<String> {
    let line = match &attribution {
        Attribution::Waiting => None,
        Attribution::Resolved { pod, container, .. } => Some(describe(pod, container.as_ref())),
        Attribution::Unresolved { because } => Some(format!(
            "the pod is not certainly known, so nothing is done to it in the cluster: {because}"
        )),
    };
    let room = incident.pods.len() < Incident::MAX_PODS;
    let place = incident.pods.iter_mut().find(|known| {
        known.cgroup_uid == uid && known.container_id == container_id && known.node == finding.event.id.node
    });
    match place {
        Some(known) if is_newer(&known.attribution, &attribution) => {
            known.attribution = attribution;
            line
        }
        Some(_) => None,
        None if room => {
            incident.pods.push(AttributedPod {
                cgroup_uid: uid.to_owned(),
                container_id: container_id.to_owned(),
                node: finding.event.id.node.clone(),
                asked,
                attribution,
            });
            line
        }
        None => None,
    }
}

/// Whether `new` says more than `old`: labels may change at any time, and an incident shows those of the attack.
fn is_newer(old: &Attribution, new: &Attribution) -> bool {
    match (old, new) {
        (Attribution::Resolved { container: None, .. }, Attribution::Resolved { container: Some(_), .. }) => {
            true
        }
        (Attribution::Resolved { .. }, _) | (_, Attribution::Waiting) => false,
        (Attribution::Unresolved { .. }, Attribution::Unresolved { .. }) => false,
        _ => true,
    }
}

fn describe(pod: &PodFacts, container: Option<&model::ContainerFacts>) -> String {
    let mut line = format!("in pod {}", pod.path());
    if let Some(container) = container {
        let image = container.image_id.as_ref().unwrap_or(&container.image);
        line.push_str(&format!(", container {} ({image})", container.name));
    }
    if let Some(owner) = pod.workload() {
        line.push_str(&format!(", of {} {}", owner.kind, owner.name));
    }
    if let Some(account) = &pod.service_account {
        line.push_str(&format!(", as service account {account}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use model::Runtime;

    use super::*;

    #[test]
    fn i11_what_is_in_no_pod_leaves_half_of_the_places_to_pods() {
        let container = |pod_uid: Option<&str>| Workload::Container {
            runtime: Runtime::Containerd,
            container_id: "c".into(),
            pod_uid: pod_uid.map(Into::into),
            cgroup_path: "/c".into(),
        };
        assert_eq!(most_waiting(&container(Some("u"))), MAX_WAITING);
        let host = Workload::Host { cgroup_path: "/".into() };
        for outside in [container(None), host] {
            assert_eq!(most_waiting(&outside), MAX_WAITING / 2, "{outside:?}");
        }
    }
}
