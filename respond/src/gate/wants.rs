//! What playbooks wanted lately, whatever became of it: one that wants many targets at once, or one actor that is seen in many namespaces,
//! looks like a migration before it looks like an attack.

use std::{collections::BTreeSet, time::Duration};

use model::{AttributedPod, Attribution, Finding, Incident, NodeId, PlaybookName, Timestamp, Workload};
use serde::{Deserialize, Serialize};

use super::{Situation, rules::Rules};
use crate::plan::Plan;

/// Targets of one playbook are counted over this.
pub const TARGETS_WITHIN: Duration = Duration::from_secs(600);
/// Namespaces of one actor are counted over this.
pub const ACTORS_WITHIN: Duration = Duration::from_secs(3600);
/// Actors of one incident that are remembered (I11).
const MAX_ACTORS: usize = 8;
/// Bytes of a name that are remembered (I11).
const MAX_NAME: usize = 256;

/// A playbook wanted to do something to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Which playbook.
    pub playbook: PlaybookName,
    /// To what: a workload of pods, a pod of its own, a cgroup of a node, an account.
    pub target: String,
    /// In which namespace.
    pub namespace: Option<String>,
    /// Because of whom: accounts, the image.
    pub actors: Vec<String>,
    /// When.
    pub at: Timestamp,
}

impl Want {
    /// What `plan` wants for `finding` of an incident, which `node` told.
    #[must_use]
    pub fn of(plan: &Plan, incident: &Incident, finding: &Finding, node: &NodeId, now: Timestamp) -> Self {
        let event = &finding.event;
        let (mut target, mut namespace, mut actors) = (String::new(), None, BTreeSet::new());
        if let Some(AttributedPod { attribution: Attribution::Resolved { pod, container, .. }, .. }) =
            pod_of(incident, finding)
        {
            target = match pod.workload() {
                Some(owner) => format!("{}/{}/{}", pod.namespace, owner.kind, owner.name),
                None => pod.path(),
            };
            namespace = Some(pod.namespace.clone());
            actors.extend(container.as_ref().map(|container| format!("image {}", container.image)));
            let path = pod.path();
            let here = incident.sessions.iter().filter(|session| session.pod == path);
            actors.extend(here.map(|session| format!("account {}", session.user)));
        }
        if let Some(record) = event.record() {
            actors.extend(record.principal.as_ref().map(|who| format!("account {who}")));
            if let Some(object) = &record.object {
                target = object.to_string();
                namespace.clone_from(&object.namespace);
            } else if let Some(who) = &record.principal {
                target = who.to_string();
            }
        }
        if target.is_empty() {
            let place = event
                .process
                .workload
                .cgroup_path()
                .map_or_else(|| event.process.key.pid.to_string(), str::to_owned);
            target = format!("{node}:{place}");
        }
        let actors = actors.into_iter().take(MAX_ACTORS).map(cut).collect();
        Self {
            playbook: plan.name.clone(),
            target: cut(target),
            namespace: namespace.map(cut),
            actors,
            at: now,
        }
    }

    /// Everybody and everything that a verdict about this may be said of: who did it, and where.
    pub fn entities(&self) -> impl Iterator<Item = String> + '_ {
        self.actors.iter().cloned().chain(std::iter::once(format!("place {}", self.target)))
    }
}

/// The pod of the finding that is answered.
pub(super) fn pod_of<'a>(incident: &'a Incident, finding: &Finding) -> Option<&'a AttributedPod> {
    let Workload::Container { pod_uid: Some(uid), container_id, .. } =
        finding.event.process.workload.as_ref()
    else {
        return None;
    };
    let of_pod = || incident.pods.iter().filter(|known| known.cgroup_uid == *uid);
    of_pod().find(|known| known.container_id == *container_id).or_else(|| of_pod().next())
}

/// What looks like planned work over many things.
pub(super) fn conflicts(plan: &Plan, situation: &Situation<'_>, rules: &Rules<'_>) -> Vec<String> {
    let Some(wants) = situation.evidence.wants.as_ref() else {
        return vec!["what playbooks wanted lately cannot be read".into()];
    };
    let own = Want::of(plan, situation.incident, situation.finding, situation.node, situation.now);
    let lately =
        |want: &&Want, within: Duration| want.at <= situation.now && situation.now.since(want.at) < within;
    let mut all = Vec::new();
    let mut targets: BTreeSet<&str> = wants
        .iter()
        .filter(|want| want.playbook == plan.name && lately(want, TARGETS_WITHIN))
        .map(|want| want.target.as_str())
        .collect();
    targets.insert(&own.target);
    if targets.len() > rules.targets.value as usize {
        all.push(format!(
            "{} wants {} targets within {} minutes, and {} is the most without asking: {}",
            plan.name,
            targets.len(),
            TARGETS_WITHIN.as_secs() / 60,
            rules.targets.value,
            few(&targets)
        ));
    }
    for actor in &own.actors {
        let of_actor = |want: &&Want| want.actors.contains(actor) && lately(want, ACTORS_WITHIN);
        let mut places: BTreeSet<&str> =
            wants.iter().filter(of_actor).filter_map(|want| want.namespace.as_deref()).collect();
        places.extend(own.namespace.as_deref());
        if places.len() > rules.namespaces.value as usize {
            all.push(format!(
                "{actor} is seen in {} namespaces within an hour, and {} is the most without asking: {}",
                places.len(),
                rules.namespaces.value,
                few(&places)
            ));
        }
    }
    all
}

fn few(names: &BTreeSet<&str>) -> String {
    let shown: Vec<&str> = names.iter().copied().take(5).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_NAME));
    text
}
