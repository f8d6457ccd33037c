//! `cluster.detach-pod`: the labels by which Services and the ReplicaSet know a pod go. The Services send it nothing any more, the
//! ReplicaSet lets go of it (it removes its ownerReference itself) and makes another; the pod runs on, for evidence.
//!
//! The undo gives the labels back; the ReplicaSet takes the pod up again and ends one that is too many, which one is its own affair.

use model::{ActionFailure, ClusterState};

use super::owners;
use crate::{
    fields,
    job::{Job, Look, changed, labels, state},
    permissions::{Rule, rule},
    protect,
    selector::{selects, ways_out},
};

pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule("", &["pods"], &["get", "patch"]),
        rule("", &["services"], &["list"]),
        rule("apps", &["replicasets"], &["get"]),
        rule("discovery.k8s.io", &["endpointslices"], &["list"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let (object, pod) = job.read_a(&["Pod"]).await?;
    protect::pods(job, &pod)?;
    let owner = owners::controller(&pod);
    if let Some(owner) = owner.as_ref().filter(|owner| owner.kind != "ReplicaSet") {
        return Err(job.unsupported(format!(
            "it belongs to a {}, which does not let go of a pod so that another can take its place",
            owner.kind
        )));
    }
    let mut gone = owners::selected_by_owner(job.api, &pod).await?;
    if owner.is_some() && gone.is_empty() {
        return Err(job
            .unsupported("its ReplicaSet is not there, or selects it by no label that could be taken away"));
    }
    let known = labels(&pod);
    for service in job.api.list("v1", "Service", object.namespace.as_deref(), "").await? {
        let selector = serde_json::json!({"matchLabels": service["spec"]["selector"]});
        let selected = service["spec"]["selector"].is_object() && selects(Some(&selector), &known);
        if selected && !ways_out(&selector).iter().any(|name| gone.contains(name)) {
            gone.extend(ways_out(&selector).into_iter().next());
        }
    }
    let fields: Vec<_> =
        gone.iter().filter_map(|name| fields::set(&pod, &["metadata", "labels", name], None)).collect();
    if fields.is_empty() {
        return Err(job
            .unsupported("neither a Service nor a ReplicaSet knows it: there is nothing to detach it from"));
    }
    Ok(state(changed(&pod, fields)))
}

pub(super) async fn verify(job: &Job<'_>) -> Result<Look, ActionFailure> {
    let (object, pod) = job.read().await?;
    if let Some(owner) = owners::controller(&pod) {
        return Ok(Look::Missing(format!("{owner} has not let go of it yet")));
    }
    let slices =
        job.api.list("discovery.k8s.io/v1", "EndpointSlice", object.namespace.as_deref(), "").await?;
    let serving = slices.iter().find(|slice| {
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        endpoints.into_iter().any(|endpoint| endpoint["targetRef"]["uid"] == object.uid.as_str())
    });
    Ok(match serving {
        Some(slice) => {
            let name = slice["metadata"]["name"].as_str().unwrap_or_default();
            Look::Missing(format!("EndpointSlice {name} still has it"))
        }
        None => Look::InForce,
    })
}
