//! Where in the cluster something happened: the objects and the account behind a finding, each only if it is certain (I9).

use model::{
    Account, AccountKind, AttributedPod, Attribution, Fact, Finding, Incident, ObjectRef, OwnerChain,
    PodFacts, Record, Workload,
};

use super::Subject;

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
    match answered.event.record() {
        Some(record) => of_record(subject, record),
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
            of_facts(subject, pod);
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

fn of_facts(subject: &mut Subject, pod: &PodFacts) {
    let namespaced = |api_version: &str, kind: &str, name: &str, uid: &str| ObjectRef {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: Some(pod.namespace.clone()),
        name: name.into(),
        uid: uid.into(),
    };
    subject.pod = Some(namespaced("v1", "Pod", &pod.name, &pod.uid));
    // An owner that may itself have one is not certainly the workload.
    subject.workload = pod
        .workload()
        .filter(|owner| pod.chain == OwnerChain::Whole && owner.kind != "Node")
        .map(|owner| namespaced(&owner.api_version, &owner.kind, &owner.name, &owner.uid));
    // The pod is certain, and it can only be in this namespace and on this node while it is: their uids are read at the capture.
    subject.namespace = Some(cluster_wide("Namespace", &pod.namespace));
    subject.host = pod.node.as_ref().map(|node| cluster_wide("Node", node.as_str()));
    subject.account = pod.service_account.as_ref().map(|name| Account {
        kind: AccountKind::ServiceAccount,
        namespace: Some(pod.namespace.clone()),
        name: name.clone(),
    });
}

fn of_record(subject: &mut Subject, record: &Record) {
    subject.pod_unknown = Some("a record names no pod by uid".into());
    if let Some(who) = record.principal.as_ref().filter(|who| who.realm == "kubernetes") {
        subject.account = Some(Account::of_user(&who.name));
    }
    let Some(object) = record.object.as_ref().filter(|object| !object.name.is_empty()) else { return };
    let fact = |name: &str| match record.facts.get(name) {
        Some(Fact::Text(text)) => text.as_str(),
        _ => "",
    };
    let group = fact("objectRef.apiGroup");
    let known = RESOURCES.iter().find(|(resource, of, _, _)| *resource == object.kind && *of == group);
    let Some((_, _, version, kind)) = known else { return };
    if let Some(namespace) = &object.namespace {
        subject.namespace = Some(cluster_wide("Namespace", namespace));
    }
    let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
    // The log names it without its uid: the executor takes none that was made after what the log tells.
    subject.object = Some(ObjectRef {
        api_version,
        kind: (*kind).into(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: String::new(),
    });
}

fn cluster_wide(kind: &str, name: &str) -> ObjectRef {
    ObjectRef {
        api_version: "v1".into(),
        kind: kind.into(),
        namespace: None,
        name: name.into(),
        uid: String::new(),
    }
}
