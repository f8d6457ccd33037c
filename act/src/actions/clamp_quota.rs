//! `cluster.clamp-quota`: a ResourceQuota of our own allows no more pods in a namespace than there are now. What runs goes on.

use model::{ActionFailure, ClusterState};
use serde_json::json;

use crate::{
    job::{Job, state},
    permissions::{Rule, rule},
};

pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule("", &["namespaces"], &["get"]),
        rule("", &["pods"], &["list"]),
        rule("", &["resourcequotas"], &["get", "create", "delete"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let (object, _) = job.read_a(&["Namespace"]).await?;
    let pods = job.api.list("v1", "Pod", Some(&object.name), "").await?;
    // A quota on pods counts those that have not ended.
    let count = pods
        .iter()
        .filter(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
        .count();
    let spec = json!({"hard": {"pods": count.to_string()}});
    Ok(state([job.made("v1", "ResourceQuota", Some(&object.name), json!({"spec": spec}))]))
}
