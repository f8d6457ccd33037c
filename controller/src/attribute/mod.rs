//! Which pod, which container, whose, and who opened a session in it: from the uid and container id in a cgroup's path.
//!
//! The index ([`index`]) is pure: facts in, answers out. Facts come from a watch of the API server ([`watch`]) and from its audit log
//! ([`Pods::heard`]). docs/attribution.md tells what is known when, and every limit.

pub mod fact;
pub mod index;
pub mod listed;
mod read;
mod sessions;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use model::{Attribution, ExecSession, Finding, NodeId, PodFacts, Record, Timestamp, Unresolved, Workload};

pub use self::watch::{WatchConfig, watch};
use respond::gate::Rollout;

use self::{
    fact::Fact,
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
    sight: RwLock<BTreeMap<&'static str, Sight>>,
    clock: Clock,
}

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
        let inner = Inner { index: RwLock::new(Index::new(limits)), sight: RwLock::default(), clock };
        Self { inner: Arc::new(inner) }
    }

    /// Takes in what was told just now.
    pub fn tell(&self, fact: Fact) {
        let now = (self.inner.clock)();
        self.write().take(fact, now);
    }

    /// Takes in a record of the API server's audit log, if it tells of a session.
    pub fn heard(&self, record: &Record, time: Timestamp) {
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

    /// Whether the workload of the pod that a finding is about is being rolled out.
    #[must_use]
    pub fn rollout(&self, finding: &Finding) -> Rollout {
        let Workload::Container { pod_uid: Some(uid), .. } = &*finding.event.process.workload else {
            return Rollout::None;
        };
        if let Sight::Blind(why) = self.sight("ReplicaSet") {
            return Rollout::Unknown(why);
        }
        self.read().rollout(&finding.event.id.node, uid)
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

    /// Takes in what a finding tells of its node's clock.
    pub fn learn(&self, finding: &Finding) {
        self.write().learn(finding);
    }

    /// How much is remembered.
    #[must_use]
    pub fn size(&self) -> Size {
        self.read().size()
    }

    /// Kinds that are not known at present, with the reason.
    #[must_use]
    pub fn blind(&self) -> Vec<(&'static str, String)> {
        let sight = self.inner.sight.read().unwrap_or_else(PoisonError::into_inner);
        let blind = |(kind, sight): (&&'static str, &Sight)| match sight {
            Sight::Blind(why) => Some((*kind, why.clone())),
            Sight::Clear | Sight::Starting => None,
        };
        sight.iter().filter_map(blind).collect()
    }

    /// Whether a kind is known at present.
    #[must_use]
    pub fn sight(&self, kind: &str) -> Sight {
        let sight = self.inner.sight.read().unwrap_or_else(PoisonError::into_inner);
        sight.get(kind).cloned().unwrap_or(Sight::Starting)
    }

    fn see(&self, kind: &'static str, sight: Sight) {
        self.inner.sight.write().unwrap_or_else(PoisonError::into_inner).insert(kind, sight);
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
