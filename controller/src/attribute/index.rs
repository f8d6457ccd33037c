//! Facts in, answers out. Knows no clock and no API server: time comes in with each fact and each question.
//!
//! Facts may come in any order and more than once (a watch that begins anew, two kinds of objects watched side by side): the newest version
//! of an object counts, a uid that is gone never comes back, and what is derived is derived when it is asked for. So the answers depend on
//! the facts and not on their order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use model::{
    Attribution, NodeId, Owner, OwnerChain, PodFacts, PodNetwork, PodOrigin, PodSource, Timestamp, Unresolved,
};

use respond::{
    alone::Place,
    gate::{SWITCH, Underway},
};

use super::{
    doors::{Doors, Room},
    drains::Drains,
    fact::{Fact, Life, OwnerSeen, PodSeen, Version},
    sessions::Sessions,
};

/// Addresses remembered of one pod.
const MAX_ADDRESSES: usize = 8;

/// Bounds (I11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Pods that are there. Further ones are counted and not known, so nothing that needs them is done (I9).
    pub pods: usize,
    /// Pods that are gone and remembered; the first to go are forgotten first.
    pub gone: usize,
    /// For how long they are remembered.
    pub remember: Duration,
    /// Owners, those that are gone included; the first to go are forgotten first.
    pub owners: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// Sessions remembered; the oldest are forgotten first.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pods: 100_000,
            gone: 50_000,
            remember: Duration::from_secs(24 * 3600),
            owners: 100_000,
            namespaces: 10_000,
            sessions: 16_384,
        }
    }
}

/// Pods, owners, namespaces and sessions, and what is asked of them.
#[derive(Debug, Default)]
pub struct Index {
    limits: Limits,
    pods: HashMap<String, KnownPod>,
    owners: HashMap<String, KnownOwner>,
    namespaces: HashMap<String, KnownNamespace>,
    /// Pods placed on a node, and how often one of them changed.
    nodes: HashMap<NodeId, (u64, BTreeSet<String>)>,
    /// How often a namespace changed.
    namespaces_changed: u64,
    /// The hash of a static pod's manifest → uids of its pictures in the API server.
    mirrors: HashMap<String, BTreeSet<String>>,
    /// `namespace/name` → uids that were called so.
    names: HashMap<(String, String), BTreeSet<String>>,
    /// An address → uids of pods that had it.
    addresses: HashMap<IpAddr, BTreeSet<String>>,
    /// Those that are gone, by when.
    gone: BTreeSet<(Timestamp, String)>,
    owners_gone: BTreeSet<(Timestamp, String)>,
    pub(super) sessions: Sessions,
    doors: Doors,
    drains: Drains,
    overflow: u64,
}

#[derive(Debug)]
struct KnownPod {
    /// `None` where only its end was told.
    seen: Option<PodSeen>,
    known: Timestamp,
    source: PodSource,
    deleted: Option<Timestamp>,
    /// Each address it had, since when, until when.
    held: Vec<Held>,
}

#[derive(Debug, PartialEq, Eq)]
struct KnownNamespace {
    version: Version,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Held {
    address: IpAddr,
    until: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct KnownOwner {
    seen: Option<OwnerSeen>,
    deleted: Option<Timestamp>,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pods that are there.
    pub pods: usize,
    /// Pods that are gone.
    pub gone: usize,
    /// Owners.
    pub owners: usize,
    /// Sessions.
    pub sessions: usize,
    /// Pods, owners and namespaces that were not taken in because there are too many.
    pub overflow: u64,
}

impl Index {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { sessions: Sessions::new(limits.sessions), limits, ..Self::default() }
    }

    /// Takes in what was told at `now`.
    pub fn take(&mut self, fact: Fact, now: Timestamp) {
        match fact {
            Fact::Pod(seen, source) => self.pod_seen(*seen, source, now),
            Fact::PodGone { uid } => self.pod_gone(uid, now),
            Fact::PodsListed { uids } => self.pods_listed(&uids, now),
            Fact::Owner(seen) => self.owner_seen(seen),
            Fact::OwnerGone { uid } => self.owner_gone(uid, now),
            Fact::OwnersListed { kind, uids } => self.owners_listed(kind, &uids, now),
            Fact::Namespace { name, version, labels, annotations } => {
                self.namespace_seen(name, KnownNamespace { version, labels, annotations });
            }
            Fact::NamespaceGone { name } => {
                self.namespaces_changed += 1;
                drop(self.namespaces.remove(&name));
            }
            Fact::NamespacesListed(names) => self.namespaces_listed(&names),
            Fact::Service(seen) => self.overflow += u64::from(self.doors.service(seen, now) == Room::None),
            Fact::ServicesListed(uids) => self.doors.services_listed(&uids),
            Fact::Ingress(seen) => self.overflow += u64::from(self.doors.ingress(seen, now) == Room::None),
            Fact::IngressesListed(uids) => self.doors.ingresses_listed(&uids),
            Fact::DoorGone { uid } => self.doors.gone(&uid),
            Fact::Cordoned { node } => self.overflow += u64::from(self.drains.cordoned(node) == Room::None),
            Fact::Uncordoned { node } => self.drains.uncordoned(&node),
            Fact::CordonedListed(nodes) => self.drains.listed(&nodes),
            Fact::Exec(seen) => self.sessions.take(seen),
        }
        self.forget(now);
    }

    /// The pod and container behind a cgroup on `node`.
    ///
    /// # Errors
    /// Why it is not one certain pod. [`Unresolved::Unknown`] may change with the next fact.
    pub fn attribute(
        &self,
        node: &NodeId,
        cgroup_uid: &str,
        container_id: &str,
    ) -> Result<Attribution, Unresolved> {
        let (pod, origin) = self.find(node, cgroup_uid)?;
        let Some(seen) = &pod.seen else {
            return Err(Unresolved::Unknown { uid: cgroup_uid.into(), waited_ms: 0 });
        };
        if let Some(placed) = &seen.node
            && placed != node
        {
            return Err(Unresolved::OtherNode {
                pod: format!("{}/{}", seen.namespace, seen.name),
                placed: placed.to_string(),
                reported: node.clone(),
            });
        }
        let is_it =
            |id: &String| id == container_id || (container_id.len() >= 12 && id.starts_with(container_id));
        let container = seen.containers.iter().find(|one| one.ids.iter().any(is_it));
        Ok(Attribution::Resolved {
            pod: Box::new(self.facts(pod, seen, origin)),
            container: container.map(|one| one.facts.clone()),
            known: pod.known,
            source: if pod.deleted.is_some() { PodSource::Remembered } else { pod.source },
        })
    }

    /// The pod with the API server's own uid.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<PodFacts> {
        let pod = self.pods.get(uid)?;
        let seen = pod.seen.as_ref()?;
        let origin = if seen.mirror.is_some() { PodOrigin::Static } else { PodOrigin::Api };
        Some(self.facts(pod, seen, origin))
    }

    /// uid of the pod that had `address` at `at`; `None` where it was none's, several pods' in turn too close to tell apart, or a node's.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr, at: Timestamp) -> Option<&str> {
        let mut holders = self.addresses.get(&address)?.iter().filter(|uid| {
            self.pods.get(*uid).is_some_and(|pod| {
                let from = pod.seen.as_ref().map_or(Timestamp(0), |seen| seen.created);
                pod.held.iter().any(|held| {
                    held.address == address && from <= at && held.until.is_none_or(|until| at <= until)
                })
            })
        });
        match (holders.next(), holders.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        }
    }

    /// Whether an address is, or was, some pod's.
    pub(super) fn is_a_pods(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// The pod that was called so at `at`: a name is used again, and then means another pod.
    pub(super) fn named_at(&self, namespace: &str, name: &str, at: Timestamp) -> Option<&str> {
        let uids = self.names.get(&(namespace.to_owned(), name.to_owned()))?;
        let mut then = uids.iter().filter(|uid| {
            self.pods.get(*uid).is_some_and(|pod| {
                pod.seen.as_ref().is_some_and(|seen| seen.created <= at)
                    && pod.deleted.is_none_or(|gone| at <= gone)
            })
        });
        match (then.next(), then.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        }
    }

    /// The API server's uid behind the one in a cgroup's path.
    pub(super) fn uid_of(&self, node: &NodeId, cgroup_uid: &str) -> Option<&str> {
        let (pod, _) = self.find(node, cgroup_uid).ok()?;
        pod.seen.as_ref().map(|seen| seen.uid.as_str())
    }

    /// A label of a namespace.
    pub(super) fn namespace_label(&self, namespace: &str, label: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.labels.get(label).map(String::as_str)
    }

    /// Changes whenever something changes that [`Index::on_node`] tells of that node.
    pub(super) fn node_version(&self, node: &NodeId) -> (u64, u64) {
        (self.nodes.get(node).map_or(0, |(changed, _)| *changed), self.namespaces_changed)
    }

    /// Each pod that is placed on a node, with the uid in its cgroup's path, and since when it is gone.
    pub(super) fn on_node(&self, node: &NodeId, mut tell: impl FnMut(&str, &Place<'_>, Option<Timestamp>)) {
        let Some((_, uids)) = self.nodes.get(node) else { return };
        for pod in uids.iter().filter_map(|uid| self.pods.get(uid)) {
            let Some(seen) = &pod.seen else { continue };
            let place = Place {
                uid: &seen.uid,
                namespace: &seen.namespace,
                name: &seen.name,
                switch: seen.labels.get(SWITCH).map(String::as_str),
                namespace_switch: self.namespace_label(&seen.namespace, SWITCH),
                network: seen.installs_network,
            };
            tell(seen.mirror.as_ref().unwrap_or(&seen.uid), &place, pod.deleted);
        }
    }

    /// The nodes on which a service account has a pod, or had one after `since`.
    pub(super) fn nodes_of(&self, namespace: &str, account: &str, since: Timestamp) -> BTreeSet<NodeId> {
        let there = self.pods.values().filter(|pod| pod.deleted.is_none_or(|gone| gone > since));
        let of_it = there
            .filter_map(|pod| pod.seen.as_ref())
            .filter(|seen| seen.namespace == namespace && seen.service_account.as_deref() == Some(account));
        of_it.filter_map(|seen| seen.node.clone()).collect()
    }

    /// Whether pods of two templates of one workload are there at the same time.
    pub(super) fn rollout(&self, node: &NodeId, cgroup_uid: &str) -> Underway {
        let Ok((pod, _)) = self.find(node, cgroup_uid) else { return Underway::None };
        let Some(seen) = &pod.seen else { return Underway::None };
        let (chain, _) = self.chain(seen.owner.as_ref());
        let [template, workload] = chain.as_slice() else { return Underway::None };
        let is_other = |other: &KnownPod| {
            let Some(other_seen) = other.seen.as_ref().filter(|_| other.deleted.is_none()) else {
                return false;
            };
            let Some(owner) = &other_seen.owner else { return false };
            other_seen.namespace == seen.namespace
                && other_seen.life == Life::Lives
                && owner.uid != template.uid
                && owner.kind == template.kind
                && self.chain(Some(owner)).0.get(1).is_some_and(|above| above.uid == workload.uid)
        };
        match self.pods.values().any(is_other) {
            true => Underway::Goes(format!(
                "{} {} is being rolled out: pods of two templates are there",
                workload.kind, workload.name
            )),
            false => Underway::None,
        }
    }

    /// Whether a node is being drained.
    pub(super) fn drain(&self, node: &NodeId) -> Underway {
        self.drains.of(node)
    }

    /// How much is remembered.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            pods: self.pods.len() - self.gone.len(),
            gone: self.gone.len(),
            owners: self.owners.len(),
            sessions: self.sessions.len(),
            overflow: self.overflow,
        }
    }

    fn find(&self, node: &NodeId, cgroup_uid: &str) -> Result<(&KnownPod, PodOrigin), Unresolved> {
        if let Some(pod) = self.pods.get(cgroup_uid) {
            return Ok((pod, PodOrigin::Api));
        }
        let unknown = || Unresolved::Unknown { uid: cgroup_uid.into(), waited_ms: 0 };
        let pictures = self.mirrors.get(cgroup_uid).ok_or_else(unknown)?;
        let placed_here = |pod: &&KnownPod| {
            pod.seen.as_ref().is_some_and(|seen| seen.node.as_ref().is_none_or(|placed| placed == node))
        };
        let here: Vec<&KnownPod> =
            pictures.iter().filter_map(|uid| self.pods.get(uid)).filter(placed_here).collect();
        // A picture that was deleted is painted again: the one that is there is it, else the one that went last.
        let there: Vec<&&KnownPod> = here.iter().filter(|pod| pod.deleted.is_none()).collect();
        match (there.as_slice(), here.iter().max_by_key(|pod| pod.deleted)) {
            ([one], _) => Ok((one, PodOrigin::Static)),
            ([], Some(last)) => Ok((last, PodOrigin::Static)),
            ([], None) => match pictures.iter().find_map(|uid| self.pods.get(uid)) {
                Some(elsewhere) => Ok((elsewhere, PodOrigin::Static)),
                None => Err(unknown()),
            },
            (several, _) => Err(Unresolved::Ambiguous { uid: cgroup_uid.into(), count: several.len() }),
        }
    }

    fn facts(&self, pod: &KnownPod, seen: &PodSeen, origin: PodOrigin) -> PodFacts {
        let (owners, chain) = self.chain(seen.owner.as_ref());
        let namespace = self.namespaces.get(&seen.namespace);
        PodFacts {
            uid: seen.uid.clone(),
            namespace: seen.namespace.clone(),
            name: seen.name.clone(),
            labels: seen.labels.clone(),
            namespace_labels: namespace.map(|known| known.labels.clone()).unwrap_or_default(),
            annotations: seen.annotations.clone(),
            namespace_annotations: namespace.map(|known| known.annotations.clone()).unwrap_or_default(),
            owners,
            chain,
            service_account: seen.service_account.clone(),
            node: seen.node.clone(),
            network: seen.network,
            origin,
            addresses: seen.addresses.clone(),
            created: seen.created,
            deleted: pod.deleted,
            secrets: seen.secrets.clone(),
            doors: self.doors.of(seen, pod.known),
            peers: Vec::new(),
        }
    }

    fn chain(&self, first: Option<&Owner>) -> (Vec<Owner>, OwnerChain) {
        let mut chain: Vec<Owner> = Vec::new();
        let mut next = first;
        while let Some(owner) = next {
            // Two that own each other cannot be made by the API server, but by whoever may write owner references.
            if chain.len() >= PodFacts::MAX_OWNERS || chain.iter().any(|known| known.uid == owner.uid) {
                return (chain, OwnerChain::Open);
            }
            chain.push(owner.clone());
            next = match self.owners.get(&owner.uid).and_then(|known| known.seen.as_ref()) {
                Some(known) => known.above.as_ref(),
                // A node owns its static pods and is owned by nobody; other kinds than those that are watched may have owners.
                None if owner.kind == "Node" => None,
                None => return (chain, OwnerChain::Open),
            };
        }
        (chain, OwnerChain::Whole)
    }

    fn pod_seen(&mut self, seen: PodSeen, source: PodSource, now: Timestamp) {
        let uid = seen.uid.clone();
        if !self.pods.contains_key(&uid) && self.pods.len() - self.gone.len() >= self.limits.pods {
            self.overflow += 1;
            return;
        }
        let known = self.pods.entry(uid.clone()).or_insert(KnownPod {
            seen: None,
            known: now,
            source,
            deleted: None,
            held: Vec::new(),
        });
        // The order in which it was told does not matter, but the moment at which it was known first does.
        known.known = known.known.min(now);
        known.source = known.source.min(source);
        if known.seen.as_ref().is_some_and(|old| old.version >= seen.version) {
            // What it had before it had what is known: it came late.
            hold(known, &seen, &mut self.addresses);
            let_go(known, now);
            return;
        }
        if let Some(hash) = &seen.mirror {
            self.mirrors.entry(hash.clone()).or_default().insert(uid.clone());
        }
        self.names.entry((seen.namespace.clone(), seen.name.clone())).or_default().insert(uid.clone());
        if let Some(node) = &seen.node {
            // A node is known as long as a pod of it is, so that their number is bounded, too.
            let (changed, pods) = self.nodes.entry(node.clone()).or_default();
            pods.insert(uid.clone());
            *changed += 1;
        }
        hold(known, &seen, &mut self.addresses);
        known.seen = Some(seen);
        let_go(known, now);
    }

    fn pod_gone(&mut self, uid: String, now: Timestamp) {
        let known = self.pods.entry(uid.clone()).or_insert(KnownPod {
            seen: None,
            known: now,
            source: PodSource::Watch,
            deleted: None,
            held: Vec::new(),
        });
        if known.deleted.is_some() {
            return;
        }
        known.deleted = Some(now);
        for held in known.held.iter_mut().filter(|held| held.until.is_none()) {
            held.until = Some(now);
        }
        self.gone.insert((now, uid));
    }

    fn pods_listed(&mut self, uids: &[String], now: Timestamp) {
        let missing: Vec<String> = self
            .pods
            .iter()
            .filter(|(uid, pod)| pod.deleted.is_none() && uids.binary_search(uid).is_err())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in missing {
            self.pod_gone(uid, now);
        }
    }

    fn owner_seen(&mut self, seen: OwnerSeen) {
        let uid = seen.owner.uid.clone();
        let known = self.owners.get(&uid);
        if known.and_then(|known| known.seen.as_ref()).is_some_and(|old| old.version >= seen.version) {
            return;
        }
        if known.is_none() && self.owners.len() >= self.limits.owners {
            match self.owners_gone.pop_first() {
                Some((_, oldest)) => drop(self.owners.remove(&oldest)),
                None => {
                    self.overflow += 1;
                    return;
                }
            }
        }
        self.owners.entry(uid).or_default().seen = Some(seen);
    }

    fn owner_gone(&mut self, uid: String, now: Timestamp) {
        let known = self.owners.entry(uid.clone()).or_default();
        if known.deleted.is_none() {
            known.deleted = Some(now);
            self.owners_gone.insert((now, uid));
        }
    }

    fn owners_listed(&mut self, kind: &str, uids: &[String], now: Timestamp) {
        let is_missing = |uid: &String, known: &KnownOwner| {
            let is_of_kind = known.seen.as_ref().is_some_and(|seen| seen.owner.kind == kind);
            is_of_kind && known.deleted.is_none() && uids.binary_search(uid).is_err()
        };
        let missing = self.owners.iter().filter(|(uid, known)| is_missing(uid, known));
        for uid in missing.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.owner_gone(uid, now);
        }
    }

    fn namespaces_listed(&mut self, names: &[String]) {
        let before = self.namespaces.len();
        self.namespaces.retain(|name, _| names.binary_search(name).is_ok());
        self.namespaces_changed += u64::from(self.namespaces.len() != before);
    }

    fn namespace_seen(&mut self, name: String, seen: KnownNamespace) {
        match self.namespaces.get(&name) {
            Some(known) if known.version >= seen.version => {}
            None if self.namespaces.len() >= self.limits.namespaces => self.overflow += 1,
            Some(known) if known.labels == seen.labels => drop(self.namespaces.insert(name, seen)),
            _ => {
                self.namespaces_changed += 1;
                drop(self.namespaces.insert(name, seen));
            }
        }
    }

    fn forget(&mut self, now: Timestamp) {
        let is_old = |at: &Timestamp, limits: &Limits| now.since(*at) > limits.remember;
        while let Some((at, _)) = self.gone.first()
            && (self.gone.len() > self.limits.gone || is_old(at, &self.limits))
        {
            let Some((_, uid)) = self.gone.pop_first() else { break };
            self.forget_pod(&uid);
        }
        while let Some((at, _)) = self.owners_gone.first()
            && (self.owners.len() > self.limits.owners || is_old(at, &self.limits))
        {
            let Some((_, uid)) = self.owners_gone.pop_first() else { break };
            self.owners.remove(&uid);
        }
        self.sessions.forget(now, self.limits.remember);
    }

    fn forget_pod(&mut self, uid: &str) {
        let Some(KnownPod { seen, held, .. }) = self.pods.remove(uid) else { return };
        for held in held {
            take_out(&mut self.addresses, &held.address, uid);
        }
        let Some(seen) = seen else { return };
        if let Some(node) = &seen.node
            && let Some((changed, pods)) = self.nodes.get_mut(node)
        {
            pods.remove(uid);
            *changed += 1;
            if pods.is_empty() {
                self.nodes.remove(node);
            }
        }
        if let Some(hash) = &seen.mirror {
            take_out(&mut self.mirrors, hash, uid);
        }
        take_out(&mut self.names, &(seen.namespace, seen.name), uid);
    }
}

/// Notes the addresses that a pod has; the node's own identify no pod.
fn hold(known: &mut KnownPod, seen: &PodSeen, addresses: &mut HashMap<IpAddr, BTreeSet<String>>) {
    if seen.network == PodNetwork::Host {
        return;
    }
    for address in &seen.addresses {
        if !known.held.iter().any(|held| held.address == *address) && known.held.len() < MAX_ADDRESSES {
            known.held.push(Held { address: *address, until: None });
            addresses.entry(*address).or_default().insert(seen.uid.clone());
        }
    }
}

/// A pod holds what the newest of it names, as long as it lives; the rest it held until now.
fn let_go(known: &mut KnownPod, now: Timestamp) {
    let Some(seen) = &known.seen else { return };
    for held in &mut known.held {
        let has = seen.life == Life::Lives && seen.addresses.contains(&held.address);
        held.until = match (has, known.deleted) {
            (true, gone) => gone,
            (false, gone) => Some(held.until.or(gone).unwrap_or(now)),
        };
    }
}

fn take_out<K: std::hash::Hash + Eq>(from: &mut HashMap<K, BTreeSet<String>>, key: &K, uid: &str) {
    if let Some(uids) = from.get_mut(key) {
        uids.remove(uid);
        if uids.is_empty() {
            from.remove(key);
        }
    }
}
