//! `cluster.clamp-quota`: a ResourceQuota of our own allows no more pods in a namespace than there are now. What runs goes on.

use model::{ActionFailure, ClusterState};
use serde_json::json;

use crate::{
    api::percent_encoded,
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
    // A quota on pods counts those that have not ended.
    let running =
        format!("fieldSelector={}", percent_encoded("status.phase!=Succeeded,status.phase!=Failed"));
    let pods = job.api.list_metadata("v1", "Pod", Some(&object.name), &running).await?;
    let spec = json!({"hard": {"pods": pods.len().to_string()}});
    Ok(state([job.made("v1", "ResourceQuota", Some(&object.name), json!({"spec": spec}))]))
}
