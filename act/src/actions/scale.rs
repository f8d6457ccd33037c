//! `cluster.scale`: another number of replicas. Autoscalers of the workload are held at it: they would bring the old number back.

use model::{ActionFailure, ClusterState, Scale};
use serde_json::Value;

use crate::{
    fields,
    job::{Job, Look, changed, state},
    permissions::{Rule, rule},
    protect,
};

pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule("apps", &["deployments", "statefulsets", "replicasets"], &["get", "patch"]),
        rule("autoscaling", &["horizontalpodautoscalers"], &["get", "list", "patch"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>, with: &Scale) -> Result<ClusterState, ActionFailure> {
    let (object, found) = job.read_a(&["Deployment", "StatefulSet", "ReplicaSet"]).await?;
    protect::pods(job, &found)?;
    if let Some(owner) = super::owners::controller(&found) {
        return Err(job.unsupported(format!("{owner} keeps it at its number: scale that")));
    }
    let mut edits = Vec::new();
    let scalers =
        job.api.list("autoscaling/v2", "HorizontalPodAutoscaler", object.namespace.as_deref(), "").await?;
    for scaler in scalers.iter().filter(|scaler| scales(scaler, &found)) {
        // At 0 replicas an autoscaler stands still by itself; a number of its own must be at least 1.
        let held = with.replicas.max(1);
        let bounds = ["minReplicas", "maxReplicas"]
            .iter()
            .filter_map(|name| fields::set(scaler, &["spec", name], Some(held.into())));
        edits.extend(changed(scaler, bounds.collect()));
    }
    let field = fields::set(&found, &["spec", "replicas"], Some(with.replicas.into()));
    edits.extend(changed(&found, field.into_iter().collect()));
    Ok(state(edits))
}

pub(super) async fn verify(job: &Job<'_>, with: &Scale) -> Result<Look, ActionFailure> {
    let (_, found) = job.read().await?;
    let there = found["status"]["replicas"].as_u64().unwrap_or(0);
    let seen = found["status"]["observedGeneration"].as_i64() >= found["metadata"]["generation"].as_i64();
    Ok(if there == u64::from(with.replicas) && seen {
        Look::InForce
    } else {
        Look::Missing(format!("{there} pods are there"))
    })
}

fn scales(scaler: &Value, found: &Value) -> bool {
    let of = &scaler["spec"]["scaleTargetRef"];
    let group = |version: &Value| {
        version.as_str().and_then(|version| version.split_once('/')).map(|(group, _)| group.to_owned())
    };
    of["kind"] == found["kind"]
        && of["name"] == found["metadata"]["name"]
        && group(&of["apiVersion"]) == group(&found["apiVersion"])
}
