//! Where in the cluster something happened: the objects and the account behind a finding, each only if it is certain (I9).

use model::{
    Account, AccountKind, AttributedPod, Attribution, Fact, Finding, Incident, ObjectRef, ObjectWrite,
    OwnerChain, PodFacts, Record, Timestamp, Workload,
};

use super::{MAX_FINDINGS, Subject};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Resources of the audit log whose objects can be targets: resource, group, version, kind.
const RESOURCES: [(&str, &str, &str, &str); 14] = [
    ("pods", "", "v1", "Pod"),
    ("configmaps", "", "v1", "ConfigMap"),
    ("nodes", "", "v1", "Node"),
    ("namespaces", "", "v1", "Namespace"),
    ("serviceaccounts", "", "v1", "ServiceAccount"),
    ("deployments", "apps", "v1", "Deployment"),
    ("statefulsets", "apps", "v1", "StatefulSet"),
    ("daemonsets", "apps", "v1", "DaemonSet"),
    ("jobs", "batch", "v1", "Job"),
    ("cronjobs", "batch", "v1", "CronJob"),
    ("roles", RBAC, "v1", "Role"),
    ("rolebindings", RBAC, "v1", "RoleBinding"),
    ("clusterroles", RBAC, "v1", "ClusterRole"),
    ("clusterrolebindings", RBAC, "v1", "ClusterRoleBinding"),
];

/// Fills in what is known of the place.
pub(super) fn fill(subject: &mut Subject, incident: &Incident, answered: &Finding) {
    subject.writes = writes(incident);
    subject.began = Some(incident.first_event);
    match answered.event.record() {
        Some(record) => of_record(subject, record, answered.event.time),
        None => of_process(subject, incident, answered),
    }
}

fn of_process(subject: &mut Subject, incident: &Incident, answered: &Finding) {
    let Workload::Container { pod_uid: Some(uid), container_id, .. } =
        answered.event.process.workload.as_ref()
    else {
        return;
    };
    // The same container before any other of the pod: only it tells the image.
    let of_pod = || incident.pods.iter().filter(|known| known.cgroup_uid == *uid);
    let own = of_pod().find(|known| known.container_id == *container_id).or_else(|| of_pod().next());
    match own {
        Some(AttributedPod {
            attribution: Attribution::Resolved { pod, container, .. },
            container_id: of,
            ..
        }) => {
            of_facts(subject, pod, answered.event.time);
            let same = container.as_ref().filter(|_| of == container_id);
            subject.image = same.map(|container| container.image.clone());
        }
        Some(AttributedPod { attribution: Attribution::Unresolved { because }, .. }) => {
            subject.pod_unknown = Some(because.to_string());
        }
        Some(AttributedPod { attribution: Attribution::Waiting, .. }) | None => {
            subject.pod_unknown = Some("the API server has not told of it yet".into());
        }
    }
}

fn of_facts(subject: &mut Subject, pod: &PodFacts, at: Timestamp) {
    let namespaced = |api_version: &str, kind: &str, name: &str, uid: &str| ObjectRef {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: Some(pod.namespace.clone()),
        name: name.into(),
        uid: uid.into(),
        as_of: None,
    };
    subject.pod = Some(namespaced("v1", "Pod", &pod.name, &pod.uid));
    // An owner that may itself have one is not certainly the workload.
    subject.workload = pod
        .workload()
        .filter(|owner| pod.chain == OwnerChain::Whole && owner.kind != "Node")
        .map(|owner| namespaced(&owner.api_version, &owner.kind, &owner.name, &owner.uid));
    // The pod is certain, and it could only be in this namespace and on this node while they were: the executor takes none that was
    // made since.
    subject.namespace = Some(cluster_wide("Namespace", &pod.namespace, at));
    subject.host = pod.node.as_ref().map(|node| cluster_wide("Node", node.as_str(), at));
    subject.account = pod.service_account.as_ref().map(|name| Account {
        kind: AccountKind::ServiceAccount,
        namespace: Some(pod.namespace.clone()),
        name: name.clone(),
        as_of: Some(at),
    });
}

fn of_record(subject: &mut Subject, record: &Record, at: Timestamp) {
    subject.pod_unknown = Some("a record names no pod by uid".into());
    if let Some(who) = record.principal.as_ref().filter(|who| who.realm == "kubernetes") {
        subject.account = Some(Account { as_of: Some(at), ..Account::of_user(&who.name) });
    }
    let Some(mut object) = object_of(record) else { return };
    // One that the request itself made is not later than its answer.
    let at = record.sight.as_ref().map_or(at, |sight| sight.answered.max(at));
    if let Some(namespace) = &object.namespace {
        subject.namespace = Some(cluster_wide("Namespace", namespace, at));
    }
    if object.uid.is_empty() {
        object.as_of = Some(at);
    }
    subject.object = Some(object);
}

/// What a record is about, if it is of a kind that can be a target. Where the log does not tell its uid, it has none.
fn object_of(record: &Record) -> Option<ObjectRef> {
    let object = record.object.as_ref().filter(|object| !object.name.is_empty())?;
    let group = match record.facts.get("objectRef.apiGroup") {
        Some(Fact::Text(text)) => text.as_str(),
        _ => "",
    };
    let (_, _, version, kind) =
        RESOURCES.iter().find(|(resource, of, _, _)| *resource == object.kind && *of == group)?;
    let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
    Some(ObjectRef {
        api_version,
        kind: (*kind).into(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: record.sight.as_ref().map(|sight| sight.uid.clone()).unwrap_or_default(),
        as_of: None,
    })
}

/// What the incident wrote, oldest first, as far as the log tells of which version came of it.
fn writes(incident: &Incident) -> Vec<(ObjectRef, ObjectWrite)> {
    let written = |finding: &Finding| {
        let record = finding.event.record()?;
        let sight = record.sight.as_ref().filter(|sight| !sight.version.is_empty())?;
        let write = ObjectWrite {
            version: sight.version.clone(),
            received: finding.event.time,
            answered: sight.answered,
        };
        Some((object_of(record)?, write))
    };
    let mut all: Vec<_> = incident.findings.iter().filter_map(written).take(MAX_FINDINGS).collect();
    all.sort_by_key(|(_, write)| write.received);
    // Several rules may have matched one request.
    all.dedup();
    all
}

fn cluster_wide(kind: &str, name: &str, at: Timestamp) -> ObjectRef {
    ObjectRef {
        api_version: "v1".into(),
        kind: kind.into(),
        namespace: None,
        name: name.into(),
        uid: String::new(),
        as_of: Some(at),
    }
}
