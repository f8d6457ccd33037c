//! Objects of the API server and records of its audit log as facts. Everything in them is somebody's word: bounded here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use detect::schema::Field;
use k8s_openapi::{
    api::{
        core::v1::{ContainerStatus, Namespace, Node, Pod, Service},
        networking::v1::Ingress,
    },
    apimachinery::pkg::apis::meta::v1::{FieldsV1, OwnerReference, Time},
};
use kube::{Resource, ResourceExt as _, api::ObjectMeta, core::PartialObjectMeta};
use model::{
    ContainerFacts, ContainerKind, Fact as Value, MountedSecret, NodeId, Owner, PodFacts, PodNetwork, Record,
    RecordKind, Timestamp,
};

use super::fact::{
    ContainerSeen, ExecSeen, Fact, IngressSeen, Life, OwnerSeen, PodSeen, ServiceSeen, Version,
};

/// The annotation by which the API server's picture of a static pod names it (kubernetes.io/docs/reference/labels-annotations-taints).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Containers of one pod.
const MAX_CONTAINERS: usize = 64;

/// Ports, addresses and hosts of one Service or Ingress.
const MAX_PORTS: usize = 16;

/// Rules of one Ingress, and paths of one rule.
const MAX_RULES: usize = 256;

/// Bytes of a label's value, an image's name.
const MAX_TEXT: usize = 512;

/// Keys of annotations that are kept: what else stands in annotations may be as long as an object.
pub type Marks = BTreeSet<String>;

/// What is kept of a pod; `None` of one without a name or uid, which the API server does not make.
pub(super) fn pod(pod: &Pod, marks: &Marks) -> Option<PodSeen> {
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
        annotations: annotations(&pod.metadata, marks),
        owner: controller(&pod.metadata),
        service_account: spec.and_then(|spec| spec.service_account_name.clone()),
        node: spec.and_then(|spec| spec.node_name.clone()).map(NodeId::new),
        network: if host_network { PodNetwork::Host } else { PodNetwork::Pod },
        installs_network: act::network_path(
            spec.and_then(|spec| spec.volumes.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|volume| Some(volume.host_path.as_ref()?.path.as_str())),
        ),
        mirror: pod.annotations().get(MIRROR).map(|hash| cut(hash)),
        addresses,
        life: if matches!(phase, "Succeeded" | "Failed") { Life::Ended } else { Life::Lives },
        containers: containers(pod),
        created: pod.metadata.creation_timestamp.as_ref().map_or(Timestamp(0), time),
        secrets: secrets(pod),
        host_ports: host_ports(pod),
    })
}

/// What is kept of a Service.
pub(super) fn service(service: &Service) -> Option<ServiceSeen> {
    let spec = service.spec.as_ref()?;
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let told = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let told = told.filter_map(|one| one.ip.as_deref().or(one.hostname.as_deref()));
    let external = spec.external_ips.iter().flatten().map(String::as_str);
    let ports = spec.ports.iter().flatten().take(MAX_PORTS).map(|port| match port.node_port {
        Some(node) => format!("{} (node {node})", port.port),
        None => port.port.to_string(),
    });
    Some(ServiceSeen {
        uid: service.metadata.uid.clone()?,
        version: version(&service.metadata),
        namespace: service.metadata.namespace.clone()?,
        name: service.metadata.name.clone()?,
        kind: cut(spec.type_.as_deref().unwrap_or("ClusterIP")),
        selector: labels(spec.selector.as_ref()),
        addresses: told.chain(external).take(MAX_PORTS).map(cut).collect(),
        ports: ports.collect(),
    })
}

/// What is kept of an Ingress.
pub(super) fn ingress(ingress: &Ingress) -> Option<IngressSeen> {
    let spec = ingress.spec.as_ref()?;
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let told = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let told = told.filter_map(|one| one.ip.as_deref().or(one.hostname.as_deref()));
    let rules = || spec.rules.iter().flatten().take(MAX_RULES);
    let paths =
        rules().filter_map(|rule| rule.http.as_ref()).flat_map(|http| http.paths.iter().take(MAX_RULES));
    let behind = paths.map(|path| &path.backend).chain(spec.default_backend.as_ref());
    Some(IngressSeen {
        uid: ingress.metadata.uid.clone()?,
        version: version(&ingress.metadata),
        namespace: ingress.metadata.namespace.clone()?,
        name: ingress.metadata.name.clone()?,
        hosts: rules().filter_map(|rule| rule.host.as_deref()).take(MAX_PORTS).map(cut).collect(),
        services: behind
            .filter_map(|to| to.service.as_ref())
            .take(MAX_RULES)
            .map(|to| cut(&to.name))
            .collect(),
        addresses: told.take(MAX_PORTS).map(cut).collect(),
    })
}

/// Names of Secrets only: what is in them is never asked for.
fn secrets(pod: &Pod) -> Vec<MountedSecret> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let mut found = BTreeSet::new();
    let mut note = |name: Option<&str>, how: &str| {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            found.insert(MountedSecret { name: cut(name), how: how.to_owned() });
        }
    };
    for volume in spec.volumes.iter().flatten() {
        note(volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref()), "volume");
        let parts = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for part in parts {
            note(part.secret.as_ref().map(|secret| secret.name.as_str()), "volume");
        }
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            note(from.secret_ref.as_ref().map(|secret| secret.name.as_str()), "environment");
        }
        let values = container.env.iter().flatten().filter_map(|one| one.value_from.as_ref());
        for value in values {
            note(value.secret_key_ref.as_ref().map(|secret| secret.name.as_str()), "environment");
        }
    }
    found.into_iter().take(PodFacts::MAX_SECRETS).collect()
}

fn host_ports(pod: &Pod) -> Vec<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| u16::try_from(port.host_port?).ok())
        .filter(|port| *port != 0)
        .take(MAX_PORTS)
        .collect()
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
pub(super) fn namespace(object: &PartialObjectMeta<Namespace>, marks: &Marks) -> Option<Fact> {
    Some(Fact::Namespace {
        name: object.metadata.name.clone()?,
        version: version(&object.metadata),
        labels: labels(object.metadata.labels.as_ref()),
        annotations: annotations(&object.metadata, marks),
    })
}

/// The name of a node that is cordoned, unless it was Hemostat (`cluster.cordon`): each of its actions writes under a name of its own.
pub(super) fn drained(object: &PartialObjectMeta<Node>) -> Option<NodeId> {
    let cordons = |fields: &FieldsV1| fields.0.pointer("/f:spec/f:unschedulable").is_some();
    let ours = object.managed_fields().iter().any(|entry| {
        let is_ours = entry.manager.as_deref().is_some_and(|name| name.starts_with(act::MANAGERS));
        is_ours && entry.fields_v1.as_ref().is_some_and(cordons)
    });
    object.metadata.name.as_deref().filter(|_| !ours).map(|name| NodeId::new(cut(name)))
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

fn annotations(meta: &ObjectMeta, marks: &Marks) -> BTreeMap<String, String> {
    let kept = meta.annotations.iter().flatten().filter(|(name, _)| marks.contains(*name));
    kept.take(PodFacts::MAX_LABELS).map(|(name, value)| (cut(name), cut(value))).collect()
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
