//! Objects of the API server and records of its audit log as facts. Everything in them is somebody's word: bounded here.

use std::{collections::BTreeMap, net::IpAddr};

use detect::schema::Field;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Namespace, Pod},
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::{Resource, ResourceExt as _, api::ObjectMeta, core::PartialObjectMeta};
use model::{
    ContainerFacts, ContainerKind, Fact as Value, NodeId, Owner, PodFacts, PodNetwork, Record, RecordKind,
    Timestamp,
};

use super::fact::{ContainerSeen, ExecSeen, Fact, Life, OwnerSeen, PodSeen, Version};

/// The annotation by which the API server's picture of a static pod names it (kubernetes.io/docs/reference/labels-annotations-taints).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Containers of one pod.
const MAX_CONTAINERS: usize = 64;

/// Bytes of a label's value, an image's name.
const MAX_TEXT: usize = 512;

/// What is kept of a pod; `None` of one without a name or uid, which the API server does not make.
pub(super) fn pod(pod: &Pod) -> Option<PodSeen> {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let addresses: Vec<IpAddr> = status
        .and_then(|status| status.pod_ips.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|one| one.ip.parse().ok())
        .take(4)
        .collect();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
    Some(PodSeen {
        uid: pod.metadata.uid.clone()?,
        version: version(&pod.metadata),
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        labels: labels(pod.metadata.labels.as_ref()),
        owner: controller(&pod.metadata),
        service_account: spec.and_then(|spec| spec.service_account_name.clone()),
        node: spec.and_then(|spec| spec.node_name.clone()).map(NodeId::new),
        network: if host_network { PodNetwork::Host } else { PodNetwork::Pod },
        mirror: pod.annotations().get(MIRROR).map(|hash| cut(hash)),
        addresses,
        life: if matches!(phase, "Succeeded" | "Failed") { Life::Ended } else { Life::Lives },
        containers: containers(pod),
        created: pod.metadata.creation_timestamp.as_ref().map_or(Timestamp(0), time),
    })
}

/// What is kept of something that may own a pod.
pub(super) fn owner<K>(object: &PartialObjectMeta<K>) -> Option<Fact>
where
    K: Resource<DynamicType = ()>,
{
    let owner = Owner {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.metadata.name.clone()?,
        uid: object.metadata.uid.clone()?,
    };
    let above = controller(&object.metadata);
    Some(Fact::Owner(OwnerSeen { owner, version: version(&object.metadata), above }))
}

/// What is kept of a namespace.
pub(super) fn namespace(object: &PartialObjectMeta<Namespace>) -> Option<Fact> {
    Some(Fact::Namespace {
        name: object.metadata.name.clone()?,
        version: version(&object.metadata),
        labels: labels(object.metadata.labels.as_ref()),
    })
}

/// A request that began a session in a pod and was let through.
pub(super) fn exec(record: &Record, time: Timestamp) -> Option<ExecSeen> {
    if record.kind != RecordKind::KubernetesAudit {
        return None;
    }
    let text = |field: Field| match record.facts.get(field.name()) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let refused = match record.facts.get(Field::ResponseCode.name()) {
        Some(Value::Number(code)) => *code >= 400,
        Some(Value::Text(code)) => code.parse::<u16>().is_ok_and(|code| code >= 400),
        _ => false,
    };
    if refused
        || text(Field::ObjectSubresource) != Some("exec")
        || text(Field::ObjectResource) != Some("pods")
    {
        return None;
    }
    let object = record.object.as_ref()?;
    Some(ExecSeen {
        audit_id: record.id.clone(),
        at: time,
        user: record.principal.clone()?,
        origin: record.origin,
        namespace: object.namespace.clone()?,
        pod: object.name.clone(),
        command: text(Field::ExecCommand)?.to_owned(),
    })
}

fn containers(pod: &Pod) -> Vec<ContainerSeen> {
    let (Some(spec), status) = (pod.spec.as_ref(), pod.status.as_ref()) else { return Vec::new() };
    let of = |list: Option<&Vec<ContainerStatus>>, name: &str| -> Option<ContainerStatus> {
        list?.iter().find(|one| one.name == name).cloned()
    };
    let regular = spec.containers.iter().map(|c| {
        let told = of(status.and_then(|s| s.container_statuses.as_ref()), &c.name);
        container(&c.name, c.image.as_deref(), ContainerKind::Regular, told)
    });
    let init = spec.init_containers.iter().flatten().map(|c| {
        let told = of(status.and_then(|s| s.init_container_statuses.as_ref()), &c.name);
        container(&c.name, c.image.as_deref(), ContainerKind::Init, told)
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| {
        let told = of(status.and_then(|s| s.ephemeral_container_statuses.as_ref()), &c.name);
        container(&c.name, c.image.as_deref(), ContainerKind::Ephemeral, told)
    });
    regular.chain(init).chain(ephemeral).take(MAX_CONTAINERS).collect()
}

fn container(
    name: &str,
    image: Option<&str>,
    kind: ContainerKind,
    told: Option<ContainerStatus>,
) -> ContainerSeen {
    let mut ids = Vec::new();
    let mut image_id = None;
    if let Some(told) = told {
        ids.extend(told.container_id.as_deref().map(bare));
        for state in told.state.into_iter().chain(told.last_state) {
            ids.extend(state.terminated.and_then(|ended| ended.container_id).as_deref().map(bare));
        }
        ids.retain(|id| !id.is_empty());
        ids.dedup();
        image_id = Some(told.image_id).filter(|id| !id.is_empty()).map(|id| cut(&id));
    }
    let facts = ContainerFacts { name: cut(name), kind, image: cut(image.unwrap_or_default()), image_id };
    ContainerSeen { facts, ids }
}

/// `containerd://<id>` without the runtime.
fn bare(id: &str) -> String {
    cut(id.rsplit("//").next().unwrap_or(id))
}

pub(super) fn controller(meta: &ObjectMeta) -> Option<Owner> {
    let is_it = |one: &&OwnerReference| one.controller == Some(true);
    meta.owner_references.as_ref()?.iter().find(is_it).map(|one| Owner {
        api_version: cut(&one.api_version),
        kind: cut(&one.kind),
        name: cut(&one.name),
        uid: cut(&one.uid),
    })
}

fn labels(labels: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let kept = labels.into_iter().flatten().take(PodFacts::MAX_LABELS);
    kept.map(|(name, value)| (cut(name), cut(value))).collect()
}

fn version(meta: &ObjectMeta) -> Version {
    Version(meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0))
}

pub(super) fn time(at: &Time) -> Timestamp {
    Timestamp(i64::try_from(at.0.as_nanosecond()).unwrap_or(0))
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}
