//! Which pod, which container, whose, and who opened a session in it: from the uid and container id in a cgroup's path.
//!
//! The index ([`index`]) is pure: facts in, answers out. Facts come from a watch of the API server ([`watch`]) and from its audit log
//! ([`Pods::heard`]). docs/attribution.md tells what is known when, and every limit.

mod doors;
mod drains;
pub mod fact;
mod flows;
pub mod index;
pub mod listed;
mod names;
mod read;
mod sessions;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use detect::incident::Alias;
use model::{
    Attribution, Door, ExecSession, Finding, NodeId, Peer, PodFacts, Record, Timestamp, Unresolved, Workload,
};

pub use self::{
    read::Marks,
    watch::{WatchConfig, watch},
};
use respond::{alone::Place, gate::Underway};
use tokio::sync::watch as changing;

use self::{
    fact::Fact,
    flows::Flows,
    index::{Index, Limits, Size},
};
use crate::config::Clock;

/// How long a finding waits for the API server to tell of its pod: the pod stands there before its first process runs, so this only
/// covers a watch that is behind or begins anew.
pub const POD_WAIT: Duration = Duration::from_secs(5);

/// How long it waits for its container's name and for who opened the session: the kubelet tells of a container a second or two after it has
/// started, and an audit log is written when the session has begun.
pub const DETAIL_WAIT: Duration = Duration::from_secs(15);

/// What is known of pods, shared by those who tell and those who ask.
#[derive(Clone)]
pub struct Pods {
    inner: Arc<Inner>,
}

struct Inner {
    index: RwLock<Index>,
    sights: changing::Sender<Sights>,
    flows: Mutex<Flows>,
    clock: Clock,
    /// Something was told, or a kind came in or out of sight.
    changed: changing::Sender<()>,
}

/// Each kind that was heard of.
pub(crate) type Sights = BTreeMap<&'static str, Sight>;

/// Whether a kind of objects is known at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Not all of them are listed yet.
    Starting,
    /// Every change is told.
    Clear,
    /// The API server does not tell.
    Blind(String),
}

impl Pods {
    /// An empty one; nothing is known until [`watch`] runs.
    #[must_use]
    pub fn new(limits: Limits, clock: Clock) -> Self {
        let (index, flows) = (RwLock::new(Index::new(limits)), Mutex::default());
        let inner = Inner {
            index,
            sights: changing::Sender::default(),
            flows,
            clock,
            changed: changing::Sender::new(()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes in what was told just now.
    pub fn tell(&self, fact: Fact) {
        let now = (self.inner.clock)();
        self.write().take(fact, now);
        self.inner.changed.send_replace(());
    }

    /// Tells that something was told.
    pub(crate) fn changes(&self) -> changing::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// Changes whenever something changes that [`Pods::on_node`] tells.
    pub(crate) fn node_version(&self, node: &NodeId) -> (u64, u64) {
        self.read().node_version(node)
    }

    /// Each pod of a node, with the uid in its cgroup's path, and since when it is gone.
    pub(crate) fn on_node(&self, node: &NodeId, tell: impl FnMut(&str, &Place<'_>, Option<Timestamp>)) {
        self.read().on_node(node, tell);
    }

    /// The nodes on which a service account has a pod, or had one after `since`.
    pub(crate) fn nodes_of(&self, namespace: &str, account: &str, since: Timestamp) -> BTreeSet<NodeId> {
        self.read().nodes_of(namespace, account, since)
    }

    /// All kinds are in sight.
    #[cfg(test)]
    pub(crate) fn see_all(&self) {
        for kind in ["Pod", "Namespace"] {
            self.see(kind, Sight::Clear);
        }
    }

    /// Takes in a record of the API server's audit log, if it tells of a session, or of a flow log, if it tells of a pod.
    pub fn heard(&self, record: &Record, time: Timestamp) {
        if let Some(flow) = flows::flow(record) {
            let ends = {
                let index = self.read();
                flow.ends().map(|end| index.is_a_pods(end).then_some(end))
            };
            let mut known = self.flows();
            ends.into_iter().flatten().for_each(|end| known.learn(&flow, end, time));
            return;
        }
        if let Some(seen) = read::exec(record, time) {
            self.tell(Fact::Exec(seen));
        }
    }

    /// The pod and container that a finding is about; `None` where its process is in no pod.
    #[must_use]
    pub fn attribute(&self, finding: &Finding) -> Option<Attribution> {
        let event = &finding.event;
        let Workload::Container { pod_uid: Some(uid), container_id, .. } = &*event.process.workload else {
            return None;
        };
        Some(self.find(&event.id.node, uid, container_id))
    }

    /// What changes while a pod stays the same, as it is now: from where it is reached and with whom it talked.
    #[must_use]
    pub fn surroundings(&self, uid: &str) -> Option<(Vec<Door>, Vec<Peer>)> {
        let pod = self.pod(uid)?;
        let since = Flows::horizon((self.inner.clock)()).max(pod.created);
        let mut talks: Vec<_> = {
            let flows = self.flows();
            pod.addresses.iter().flat_map(|address| flows.of(*address, since)).collect()
        };
        talks.sort_by_key(|(line, talk)| (std::cmp::Reverse(talk.last), *line));
        talks.truncate(PodFacts::MAX_PEERS);
        let index = self.read();
        let peer = |(line, talk): (flows::Line, flows::Talk)| {
            let other = index.pod_at(line.other, talk.last).and_then(|uid| index.pod(uid));
            let other = other.map_or_else(|| line.other.to_string(), |pod| format!("pod {}", pod.path()));
            let flows::Talk { first, last, count } = talk;
            Peer { direction: line.direction, other, port: line.port, count, first, last }
        };
        let peers = talks.into_iter().map(peer).collect();
        Some((pod.doors, peers))
    }

    /// Whether a flow log told of a pod.
    #[must_use]
    pub fn has_flows(&self) -> bool {
        !self.flows().is_empty()
    }

    /// The newest conversation of a pod after `since`, by flow logs: when, and with whom. What its own node asks it is none: the kubelet looks
    /// whether it is well, however it is isolated.
    #[must_use]
    pub fn talked_since(&self, uid: &str, since: Timestamp) -> Option<(Timestamp, std::net::IpAddr)> {
        let pod = self.pod(uid)?;
        let flows = self.flows();
        let talks = pod.addresses.iter().flat_map(|address| flows.of(*address, since));
        let others = talks.filter(|(line, _)| line.asker == flows::Asker::Other);
        others.map(|(line, talk)| (talk.last, line.other)).max()
    }

    /// As [`Pods::attribute`], from a cgroup's path.
    #[must_use]
    pub fn find(&self, node: &NodeId, cgroup_uid: &str, container_id: &str) -> Attribution {
        match self.read().attribute(node, cgroup_uid, container_id) {
            Ok(found) => found,
            Err(Unresolved::Unknown { .. }) => match self.sight("Pod") {
                Sight::Clear | Sight::Starting => Attribution::Waiting,
                Sight::Blind(why) => Attribution::Unresolved { because: Unresolved::Blind { why } },
            },
            Err(because) => Attribution::Unresolved { because },
        }
    }

    /// A label of a namespace, as far as namespaces are told.
    #[must_use]
    pub fn namespace_label(&self, namespace: &str, label: &str) -> Option<String> {
        self.read().namespace_label(namespace, label).map(str::to_owned)
    }

    /// Why a kind that is followed is not known, if it is not. What a recording or a list tells is all there is.
    fn unseen(&self, kind: &str) -> Option<String> {
        match self.inner.sights.borrow().get(kind) {
            Some(Sight::Clear) | None => None,
            Some(Sight::Blind(why)) => Some(why.clone()),
            Some(Sight::Starting) => Some(format!("not every {kind} has been told of yet")),
        }
    }

    /// Waits until each of `kinds` is known, or known not to be told of.
    pub(crate) async fn looked_at(&self, kinds: &[&str]) {
        let mut sights = self.sights();
        let is_known = |sight: Option<&Sight>| matches!(sight, Some(Sight::Clear | Sight::Blind(_)));
        // Ends with an error only when nobody tells anything any more.
        let _ended = sights.wait_for(|known| kinds.iter().all(|kind| is_known(known.get(kind)))).await;
    }

    /// Whether the workload of the pod that a finding is about is being rolled out.
    #[must_use]
    pub fn rollout(&self, finding: &Finding) -> Underway {
        let Workload::Container { pod_uid: Some(uid), .. } = &*finding.event.process.workload else {
            return Underway::None;
        };
        if let Some(why) = self.unseen("ReplicaSet") {
            return Underway::Unknown(why);
        }
        self.read().rollout(&finding.event.id.node, uid)
    }

    /// Whether the node that a finding is from is being drained.
    #[must_use]
    pub fn drain(&self, finding: &Finding) -> Underway {
        if let Some(why) = self.unseen("Node") {
            return Underway::Unknown(why);
        }
        self.read().drain(&finding.event.id.node)
    }

    /// The pod with the API server's own uid.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<PodFacts> {
        self.read().pod(uid)
    }

    /// The pod that had an address at a moment, if that is certain.
    #[must_use]
    pub fn pod_at(&self, address: std::net::IpAddr, at: Timestamp) -> Option<PodFacts> {
        let index = self.read();
        index.pod_at(address, at).and_then(|uid| index.pod(uid))
    }

    /// Who opened the session that a finding's process is in; more than one where it is not certain.
    #[must_use]
    pub fn sessions_of(&self, finding: &Finding) -> Vec<ExecSession> {
        self.read().sessions_of(finding)
    }

    /// What else something of a finding is called, as far as it is certain by now.
    #[must_use]
    pub fn aliases(&self, finding: &Finding) -> Vec<Alias> {
        self.read().aliases(finding)
    }

    /// Takes in what a finding tells of its node's clock.
    pub fn learn(&self, finding: &Finding) {
        self.write().learn(finding);
    }

    /// How much is remembered.
    #[must_use]
    pub fn size(&self) -> Size {
        self.read().size()
    }

    /// Whether each kind is known, as that changes.
    pub(crate) fn sights(&self) -> changing::Receiver<Sights> {
        self.inner.sights.subscribe()
    }

    /// Whether a kind is known at present.
    #[must_use]
    pub fn sight(&self, kind: &str) -> Sight {
        self.inner.sights.borrow().get(kind).cloned().unwrap_or(Sight::Starting)
    }

    fn see(&self, kind: &'static str, sight: Sight) {
        self.inner.sights.send_modify(|sights| drop(sights.insert(kind, sight)));
        self.inner.changed.send_replace(());
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.inner.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A panic while the lock was held can leave at most one fact half taken in, and the next list mends that.
    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a record of the API server's audit log tells of a session in a pod.
pub(crate) fn session(record: &Record, time: Timestamp) -> Option<Fact> {
    read::exec(record, time).map(Fact::Exec)
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pods").field("size", &self.size()).finish_non_exhaustive()
    }
}
