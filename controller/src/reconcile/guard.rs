//! What nodes are told to leave alone: each node its own pods, whenever one of them, a namespace or a policy changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::{Down, NodeGuard, NodeId, PodGuard};
use respond::alone::{self, Place, Scoped};
use tokio::sync::{mpsc, watch};

use crate::{
    attribute::{Pods, Sight},
    config::Clock,
};

/// Changes that come within so long are told together.
const TOGETHER: Duration = Duration::from_millis(20);
/// What only time changes (an exclusion that expires) is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// A pod's processes may outlive its object for so long.
const OUTLIVES: Duration = Duration::from_secs(600);

/// The policies in force; `None` until they were read.
pub(super) type InForce = Option<Arc<Vec<Scoped>>>;

/// What nodes are told is made of; cheap to clone.
#[derive(Clone)]
pub(super) struct Guards {
    pub(super) pods: Pods,
    /// Hemostat's own namespace.
    pub(super) home: Arc<str>,
    /// What follows for nodes from them.
    pub(super) policies: watch::Receiver<InForce>,
    pub(super) clock: Clock,
}

impl Guards {
    /// Tells a node until its link ends. Nothing is told before all pods, namespaces and policies are known once, so that nothing protected
    /// is ever told to be free; what the node was told by the leader before holds meanwhile.
    pub(super) async fn give(mut self, node: &NodeId, down: &mpsc::Sender<Down>) {
        let mut changes = self.pods.changes();
        let mut told: Option<NodeGuard> = None;
        // Words of later leaders have greater numbers, as far as clocks agree; nothing depends on it.
        let mut generation = u64::try_from((self.clock)().0 / 1_000_000).unwrap_or(0);
        let mut look = tokio::time::interval(LOOK);
        let mut seen = None;
        loop {
            let version = self.pods.node_version(node);
            let timed = seen.is_none() || seen != Some(version);
            if timed && let Some(mut said) = self.say(node) {
                seen = Some(version);
                if told.as_ref().is_none_or(|told| !told.says_as(&said)) {
                    generation += 1;
                    said.generation = generation;
                    tracing::debug!(%node, generation, pods = said.pods.len(), "the node is told what it leaves alone");
                    if down.send(Down::Guard(Box::new(said.clone()))).await.is_err() {
                        return;
                    }
                    told = Some(said);
                }
            }
            tokio::select! {
                () = down.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.policies.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    seen = None;
                }
                _ = look.tick() => seen = None,
            }
            tokio::time::sleep(TOGETHER).await;
        }
    }

    fn say(&self, node: &NodeId) -> Option<NodeGuard> {
        // What was known once stays known while the API server is away: it tells of no new pods then either.
        if [self.pods.sight("Pod"), self.pods.sight("Namespace")].contains(&Sight::Starting) {
            return None;
        }
        let policies = self.policies.borrow().clone()?;
        let now = (self.clock)();
        let mut pods: BTreeMap<String, PodGuard> = BTreeMap::new();
        self.pods.on_node(node, |cgroup_uid, place: &Place<'_>, gone| {
            if gone.is_some_and(|at| now.since(at) > OUTLIVES) {
                return;
            }
            let guard = alone::pod(place, Some(&self.home), &policies, now);
            // Two that are called alike cannot be told apart: the stricter word holds.
            let known = pods.entry(cgroup_uid.to_owned()).or_insert(PodGuard::Free);
            *known = guard.max(known.clone());
        });
        if pods.len() > NodeGuard::MAX_PODS {
            // Those that are left out are unknown to the node, and so left alone.
            let mut all: Vec<_> = pods.into_iter().collect();
            all.sort_by(|(_, one), (_, other)| other.cmp(one));
            tracing::warn!(%node, pods = all.len(), "there are more pods on the node than it is told of: rules do nothing in the others");
            pods = all.into_iter().take(NodeGuard::MAX_PODS).collect();
        }
        let mut said = NodeGuard { pods, ..NodeGuard::default() };
        match alone::places(&policies) {
            Ok((paths, units)) => (said.cgroup_paths, said.units) = (paths, units),
            Err(because) => said.nothing = Some(because),
        }
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crds::ResponsePolicySpec;
    use model::{PodNetwork, PodSource, Timestamp};

    use super::*;
    use crate::attribute::fact::{Fact, Life, PodSeen, Version};

    fn pod(name: &str, namespace: &str, version: u64) -> Fact {
        let seen = PodSeen {
            uid: format!("uid-{name}"),
            version: Version(version),
            namespace: namespace.into(),
            name: name.into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            owner: None,
            service_account: None,
            node: Some(NodeId::new("one")),
            network: PodNetwork::Pod,
            installs_network: None,
            mirror: None,
            addresses: vec![],
            life: Life::Lives,
            containers: vec![],
            created: Timestamp(1),
            host_ports: vec![],
            secrets: vec![],
        };
        Fact::Pod(Box::new(seen), PodSource::Watch)
    }

    fn guards() -> (Pods, watch::Sender<InForce>, Guards) {
        let clock: Clock = Arc::new(|| Timestamp(1_000));
        let pods = Pods::new(Default::default(), Arc::clone(&clock));
        let (tell, policies) = watch::channel(None);
        let guards = Guards { pods: pods.clone(), home: "hemostat-system".into(), policies, clock };
        (pods, tell, guards)
    }

    async fn heard(down: &mut mpsc::Receiver<Down>) -> NodeGuard {
        match down.recv().await {
            Some(Down::Guard(said)) => *said,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn i6_a_node_is_told_of_its_own_pods_once_all_is_known_and_of_each_change() {
        let (pods, tell, guards) = guards();
        let (send, mut down) = mpsc::channel(8);
        let giving = tokio::spawn(async move { guards.give(&NodeId::new("one"), &send).await });
        pods.tell(pod("api", "pay", 1));
        pods.tell(pod("dns", "kube-system", 2));
        tell.send_replace(Some(Arc::default()));
        let nothing = tokio::time::timeout(Duration::from_millis(200), down.recv()).await;
        assert!(nothing.is_err(), "not before all pods and namespaces are known");
        pods.see_all();
        let first = heard(&mut down).await;
        assert_eq!(first.pods["uid-api"], PodGuard::Free);
        assert!(matches!(first.pods["uid-dns"], PodGuard::Never { .. }));
        pods.tell(pod("new", "pay", 3));
        let second = heard(&mut down).await;
        assert!(second.generation > first.generation && second.pods.contains_key("uid-new"));
        let protected = crds::Protected { namespaces: vec!["pay".into()], ..Default::default() };
        let spec = ResponsePolicySpec { protected, ..ResponsePolicySpec::default() };
        tell.send_replace(Some(Arc::new(vec![Scoped { name: "p".into(), scope: None, spec }])));
        assert!(matches!(heard(&mut down).await.pods["uid-new"], PodGuard::Never { .. }));
        pods.tell(pod("api", "pay", 9));
        let nothing = tokio::time::timeout(Duration::from_millis(200), down.recv()).await;
        assert!(nothing.is_err(), "the same is not told twice");
        drop(down);
        giving.await.unwrap();
    }
}
