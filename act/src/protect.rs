//! What is never touched (I6), as far as the objects themselves and what the controller knows of itself tell. The run refuses system
//! namespaces and what policies protect before; they are refused here again, since this is the last place before the effect.
//!
//! Nothing is protected by what it says of itself: whoever makes a pod chooses its labels, and its priority where no quota forbids it.

use model::{Account, AccountKind, ActionFailure, Target};
use serde_json::Value;

use crate::{api::text, job::Job};

/// Where a network plugin is installed: a pod with one of these of its node is one. Only who may run what owns the node can have them.
const NETWORK_PATHS: [&str; 5] = ["/etc/cni", "/opt/cni", "/var/lib/cni", "/run/cilium", "/var/run/cilium"];
/// Namespaces of what a cluster's network consists of, besides those that begin with `kube-`. The run refuses them, too.
const SYSTEM_NAMESPACES: [&str; 4] = ["calico-system", "tigera-operator", "cilium", "cilium-secrets"];

/// Whether the target's namespace or name is protected.
pub(crate) fn check(job: &Job<'_>) -> Result<(), ActionFailure> {
    let namespace = match job.target {
        Target::Object(object) if object.kind == "Namespace" => Some(&object.name),
        Target::Object(object) => object.namespace.as_ref(),
        Target::Account(account) => {
            let system = account.name.starts_with("system:") && account.name != "system:anonymous";
            if system && account.kind != AccountKind::ServiceAccount {
                return Err(job.protected("the cluster cannot do without it"));
            }
            if job.config.own.accounts.iter().any(|own| own.user_name() == account.user_name()) {
                return Err(job.protected("Hemostat itself acts as it"));
            }
            account.namespace.as_ref()
        }
        _ => None,
    };
    match namespace {
        Some(namespace) if namespace.starts_with("kube-") => {
            Err(job.protected(format!("the namespace {namespace} is")))
        }
        Some(namespace) if *namespace == job.config.own.namespace => {
            Err(job.protected(format!("the namespace {namespace} is Hemostat's own")))
        }
        _ => Ok(()),
    }
}

/// Whether a pod, or what makes pods, is protected.
pub(crate) fn pods(job: &Job<'_>, found: &Value) -> Result<(), ActionFailure> {
    if text(found, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
        return Err(job.unsupported("it is a static pod: what the API server has is only its picture"));
    }
    let Some(spec) = pod_spec(found) else { return Ok(()) };
    let namespace = text(found, &["metadata", "namespace"]).unwrap_or_default();
    let account = spec["serviceAccountName"].as_str().unwrap_or("default");
    if job.config.own.accounts.iter().any(|own| is_account(own, namespace, account)) {
        return Err(job.protected(format!("Hemostat itself acts as its account {namespace}/{account}")));
    }
    if let Some(class @ ("system-node-critical" | "system-cluster-critical")) =
        spec["priorityClassName"].as_str()
        && is_system(namespace)
    {
        return Err(job.protected(format!("its priority is {class}: the cluster cannot do without it")));
    }
    let paths = spec["volumes"].as_array().into_iter().flatten();
    let of_network = network_path(paths.filter_map(|volume| volume["hostPath"]["path"].as_str()));
    match of_network {
        Some(path) => {
            Err(job.protected(format!("it belongs to the pods' network: it has {path} of its node")))
        }
        None => Ok(()),
    }
}

/// The first of a node's folders that a pod has, by the `hostPath` of its volumes, and that the pods' network is installed in.
#[must_use]
pub fn network_path<'a>(mut paths: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    paths.find_map(|path| NETWORK_PATHS.into_iter().find(|kept| path.starts_with(kept)))
}

/// Whether an account is the one that we act as.
pub(crate) async fn account(job: &Job<'_>, account: &Account) -> Result<(), ActionFailure> {
    let question = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
    });
    let answer = job.api.review("authentication.k8s.io/v1", "SelfSubjectReview", &question).await?;
    let own = text(&answer, &["status", "userInfo", "username"]).unwrap_or_default();
    let groups = answer["status"]["userInfo"]["groups"].as_array().into_iter().flatten();
    let in_group = account.kind == AccountKind::Group
        && groups.filter_map(Value::as_str).any(|group| group == account.name);
    if own == account.user_name() || in_group {
        return Err(job.protected("Hemostat itself acts as it"));
    }
    Ok(())
}

/// The specification of a pod, or of the pods that a workload makes.
pub(crate) fn pod_spec(found: &Value) -> Option<&Value> {
    let spec = found.get("spec")?;
    match found["kind"].as_str() {
        Some("Pod") => Some(spec),
        Some("CronJob") => spec["jobTemplate"]["spec"]["template"].get("spec"),
        _ => spec["template"].get("spec"),
    }
}

fn is_system(namespace: &str) -> bool {
    namespace.starts_with("kube-") || SYSTEM_NAMESPACES.contains(&namespace)
}

fn is_account(own: &Account, namespace: &str, name: &str) -> bool {
    own.kind == AccountKind::ServiceAccount && own.namespace.as_deref() == Some(namespace) && own.name == name
}
