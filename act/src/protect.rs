//! What is never touched (I6), as far as only the objects themselves tell. The run refuses system namespaces and what policies protect
//! before; they are refused here again, since this is the last place before the effect.

use model::{Account, AccountKind, ActionFailure, Target};
use serde_json::Value;

use crate::{
    api::text,
    job::{Job, labels},
};

/// Where a network plugin is installed: a pod with one of these of its node is one.
const NETWORK_PATHS: [&str; 5] = ["/etc/cni", "/opt/cni", "/var/lib/cni", "/run/cilium", "/var/run/cilium"];

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
            account.namespace.as_ref()
        }
        _ => None,
    };
    match namespace {
        Some(namespace) if namespace.starts_with("kube-") || namespace == "hemostat-system" => {
            Err(job.protected(format!("the namespace {namespace} is")))
        }
        _ => Ok(()),
    }
}

/// Whether a pod, or what makes pods, is protected.
pub(crate) fn pods(job: &Job<'_>, found: &Value) -> Result<(), ActionFailure> {
    if is_ours(found) {
        return Err(job.protected("it is Hemostat's own"));
    }
    if text(found, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
        return Err(job.unsupported("it is a static pod: what the API server has is only its picture"));
    }
    let Some(spec) = pod_spec(found) else { return Ok(()) };
    if let Some(class @ ("system-node-critical" | "system-cluster-critical")) =
        spec["priorityClassName"].as_str()
    {
        return Err(job.protected(format!("its priority is {class}: the cluster cannot do without it")));
    }
    let of_network = spec["volumes"].as_array().into_iter().flatten().find_map(|volume| {
        let path = volume["hostPath"]["path"].as_str()?;
        NETWORK_PATHS.into_iter().find(|kept| path.starts_with(kept))
    });
    match of_network {
        Some(path) => {
            Err(job.protected(format!("it belongs to the pods' network: it has {path} of its node")))
        }
        None => Ok(()),
    }
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

fn is_ours(found: &Value) -> bool {
    let labels = labels(found);
    ["app.kubernetes.io/name", "app.kubernetes.io/part-of"]
        .iter()
        .any(|name| labels.get(*name).is_some_and(|value| value == "hemostat"))
}
