//! The API server tells the index: pods whole, owners and namespaces by their metadata only.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Namespace, Node, Pod, Service},
    networking::v1::Ingress,
};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::watcher::{self, Event},
};
use model::{NodeId, PodSource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Pods, Sight,
    fact::Fact,
    read::{self, Marks},
};
use crate::watched::{because, events, is_blind};

/// What is watched.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// A field selector for pods, for example `spec.nodeName=worker-1`.
    pub pods: String,
    /// Annotations of pods and namespaces that are kept.
    pub marks: Arc<Marks>,
}

impl Default for WatchConfig {
    /// Pods that are placed: what waits for a node runs nothing, and there may be any number of these.
    fn default() -> Self {
        Self { pods: "spec.nodeName!=".into(), marks: Arc::new(enrich::Classes::default().annotations()) }
    }
}

/// Objects of one answer of the API server that come whole (I11): each may have a MiB.
const PAGE: u32 = 100;
/// Objects of one answer of which only the metadata come.
const PAGE_OF_METADATA: u32 = 500;
/// Services that can have pods behind them.
const SERVICES: &str = "spec.type!=ExternalName";
/// Nodes that take no new pods; the others, with what the kubelet says of them every few seconds, never come.
const CORDONED: &str = "spec.unschedulable=true";

/// Watches until it is told to stop. What fails is tried again with growing pauses, and meanwhile what is not known says so.
pub async fn watch(pods: Pods, client: Client, config: WatchConfig, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let selected = watcher::Config::default().fields(&config.pods).page_size(PAGE);
    let marks = &config.marks;
    tasks.spawn(follow_pods(pods.clone(), (client.clone(), selected), Arc::clone(marks), stop.clone()));
    tasks.spawn(follow_owners::<ReplicaSet>(pods.clone(), client.clone(), stop.clone()));
    tasks.spawn(follow_owners::<Deployment>(pods.clone(), client.clone(), stop.clone()));
    tasks.spawn(follow_owners::<StatefulSet>(pods.clone(), client.clone(), stop.clone()));
    tasks.spawn(follow_owners::<DaemonSet>(pods.clone(), client.clone(), stop.clone()));
    tasks.spawn(follow_owners::<Job>(pods.clone(), client.clone(), stop.clone()));
    tasks.spawn(follow_owners::<CronJob>(pods.clone(), client.clone(), stop.clone()));
    let whole = watcher::Config::default().page_size(PAGE);
    tasks.spawn(follow_doors(
        pods.clone(),
        (client.clone(), whole.clone().fields(SERVICES)),
        stop.clone(),
        |service: &Service| read::service(service).map(|seen| (seen.uid.clone(), Fact::Service(seen))),
        Fact::ServicesListed,
    ));
    tasks.spawn(follow_doors(
        pods.clone(),
        (client.clone(), whole),
        stop.clone(),
        |ingress: &Ingress| read::ingress(ingress).map(|seen| (seen.uid.clone(), Fact::Ingress(seen))),
        Fact::IngressesListed,
    ));
    tasks.spawn(follow_nodes(pods.clone(), client.clone(), stop.clone()));
    tasks.spawn(follow_namespaces(pods, client, Arc::clone(marks), stop));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a watch for attribution ended in a panic");
        }
    }
}

async fn follow_pods(
    pods: Pods,
    (client, config): (Client, watcher::Config),
    marks: Arc<Marks>,
    stop: CancellationToken,
) {
    let stream = events(Api::<Pod>::all(client), config);
    // Those named since the list began; the whole list tells which of those known before are gone.
    let mut listed = BTreeSet::new();
    follow("Pod", &pods.clone(), stream, stop, |event| match event {
        Event::Init => listed.clear(),
        Event::InitApply(pod) => {
            if let Some(seen) = read::pod(&pod, &marks) {
                listed.insert(seen.uid.clone());
                pods.tell(Fact::Pod(Box::new(seen), PodSource::List));
            }
        }
        Event::InitDone => {
            pods.tell(Fact::PodsListed { uids: std::mem::take(&mut listed).into_iter().collect() });
        }
        Event::Apply(pod) => {
            if let Some(seen) = read::pod(&pod, &marks) {
                pods.tell(Fact::Pod(Box::new(seen), PodSource::Watch));
            }
        }
        Event::Delete(pod) => {
            // The last word on it: which containers it had may be new.
            let Some(seen) = read::pod(&pod, &marks) else { return };
            let uid = seen.uid.clone();
            pods.tell(Fact::Pod(Box::new(seen), PodSource::Watch));
            pods.tell(Fact::PodGone { uid });
        }
    })
    .await;
}

async fn follow_owners<K>(pods: Pods, client: Client, stop: CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind: &'static str = match K::kind(&()).as_ref() {
        "ReplicaSet" => "ReplicaSet",
        "Deployment" => "Deployment",
        "StatefulSet" => "StatefulSet",
        "DaemonSet" => "DaemonSet",
        "Job" => "Job",
        _ => "CronJob",
    };
    let config = watcher::Config::default().page_size(PAGE_OF_METADATA);
    let stream = events(Api::<PartialObjectMeta<K>>::all(client), config);
    let mut listed = BTreeSet::new();
    follow(kind, &pods.clone(), stream, stop, |event: Event<PartialObjectMeta<K>>| match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            if let Some(fact) = read::owner(&object) {
                listed.extend(object.metadata.uid);
                pods.tell(fact);
            }
        }
        Event::InitDone => {
            pods.tell(Fact::OwnersListed { kind, uids: std::mem::take(&mut listed).into_iter().collect() });
        }
        Event::Apply(object) => {
            if let Some(fact) = read::owner(&object) {
                pods.tell(fact);
            }
        }
        Event::Delete(object) => {
            if let Some(uid) = object.metadata.uid {
                pods.tell(Fact::OwnerGone { uid });
            }
        }
    })
    .await;
}

/// Services and Ingresses.
async fn follow_doors<K>(
    pods: Pods,
    (client, config): (Client, watcher::Config),
    stop: CancellationToken,
    read: impl Fn(&K) -> Option<(String, Fact)> + Send,
    all: impl Fn(Vec<String>) -> Fact + Send,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind: &'static str = if K::kind(&()).as_ref() == "Service" { "Service" } else { "Ingress" };
    let stream = events(Api::<K>::all(client), config);
    let mut listed = BTreeSet::new();
    follow(kind, &pods.clone(), stream, stop, |event| match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            if let Some((uid, fact)) = read(&object) {
                listed.insert(uid);
                pods.tell(fact);
            }
        }
        Event::InitDone => pods.tell(all(std::mem::take(&mut listed).into_iter().collect())),
        Event::Apply(object) => {
            if let Some((_, fact)) = read(&object) {
                pods.tell(fact);
            }
        }
        Event::Delete(object) => {
            if let Some(uid) = object.meta().uid.clone() {
                pods.tell(Fact::DoorGone { uid });
            }
        }
    })
    .await;
}

async fn follow_namespaces(pods: Pods, client: Client, marks: Arc<Marks>, stop: CancellationToken) {
    let config = watcher::Config::default().page_size(PAGE_OF_METADATA);
    let stream = events(Api::<PartialObjectMeta<Namespace>>::all(client), config);
    let mut listed = BTreeSet::new();
    let take = |event: Event<PartialObjectMeta<Namespace>>| match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            if let Some(fact) = read::namespace(&object, &marks) {
                listed.extend(object.metadata.name);
                pods.tell(fact);
            }
        }
        Event::InitDone => {
            pods.tell(Fact::NamespacesListed(std::mem::take(&mut listed).into_iter().collect()));
        }
        Event::Apply(object) => {
            if let Some(fact) = read::namespace(&object, &marks) {
                pods.tell(fact);
            }
        }
        Event::Delete(object) => {
            if let Some(name) = object.metadata.name {
                pods.tell(Fact::NamespaceGone { name });
            }
        }
    };
    follow("Namespace", &pods.clone(), stream, stop, take).await;
}

/// Nodes that are cordoned. One that is not any more comes as deleted: it has left what was selected.
async fn follow_nodes(pods: Pods, client: Client, stop: CancellationToken) {
    let config = watcher::Config::default().fields(CORDONED).page_size(PAGE_OF_METADATA);
    let stream = events(Api::<PartialObjectMeta<Node>>::all(client), config);
    let mut listed = BTreeSet::new();
    let take = |event: Event<PartialObjectMeta<Node>>| match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            if let Some(node) = read::drained(&object) {
                listed.insert(node.clone());
                pods.tell(Fact::Cordoned { node });
            }
        }
        Event::InitDone => {
            pods.tell(Fact::CordonedListed(std::mem::take(&mut listed).into_iter().collect()));
        }
        Event::Apply(object) => match (read::drained(&object), object.metadata.name) {
            (Some(node), _) => pods.tell(Fact::Cordoned { node }),
            (None, Some(name)) => pods.tell(Fact::Uncordoned { node: NodeId::new(name) }),
            (None, None) => {}
        },
        Event::Delete(object) => {
            if let Some(name) = object.metadata.name {
                pods.tell(Fact::Uncordoned { node: NodeId::new(name) });
            }
        }
    };
    follow("Node", &pods.clone(), stream, stop, take).await;
}

/// Takes what a watch gives until it is told to stop.
async fn follow<K>(
    kind: &'static str,
    pods: &Pods,
    stream: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    stop: CancellationToken,
    mut take: impl FnMut(Event<K>),
) {
    let mut stream = std::pin::pin!(stream);
    pods.see(kind, Sight::Starting);
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = stop.cancelled() => return,
        };
        match next {
            None => return,
            Some(Ok(event)) => {
                let listed = !matches!(event, Event::Init | Event::InitApply(_));
                take(event);
                if listed && pods.sight(kind) != Sight::Clear {
                    tracing::info!(kind, "the API server tells of all of them");
                    pods.see(kind, Sight::Clear);
                }
            }
            Some(Err(error)) => {
                tracing::warn!(kind, %error, "the API server does not tell");
                if is_blind(&error) {
                    pods.see(kind, Sight::Blind(because(&error)));
                }
            }
        }
    }
}
