//! `cluster.evict-pod` and `cluster.delete-pod`: the pod ends. Not to be undone, so a person is asked, or has agreed beforehand.
//!
//! An eviction keeps to the pod's disruption budgets and its grace period; a deletion is at once (grace 0), which also ends the tokens
//! that are bound to the pod.

use model::{ActionFailure, ClusterState, Edit};
use serde_json::json;

use super::owners;
use crate::{
    api::{ApiFault, text},
    job::{Job, state},
    permissions::{Rule, rule},
    protect,
};

pub(super) fn evict_permissions() -> Vec<Rule> {
    vec![rule("", &["pods"], &["get"]), rule("", &["pods/eviction"], &["create"])]
}

pub(super) fn delete_permissions() -> Vec<Rule> {
    vec![rule("", &["pods"], &["get", "delete"])]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let (object, pod) = job.read_a(&["Pod"]).await?;
    protect::pods(job, &pod)?;
    let owner = owners::controller(&pod);
    let mut captured = state([Edit::Remove { object }]);
    captured.notes.push(match owner {
        Some(owner) => format!("{owner} makes another"),
        None => "it has no owner: nobody makes another".into(),
    });
    Ok(captured)
}

/// An eviction instead of the deletion that was captured.
pub(super) async fn evict(job: &Job<'_>) -> Result<(), ActionFailure> {
    let object = job.object()?;
    let found = job.api.get(object).await?;
    if text(&found, &["metadata", "deletionTimestamp"]).is_some() {
        return Ok(());
    }
    let content = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": object.name, "namespace": object.namespace},
        "deleteOptions": {"preconditions": {"uid": object.uid}},
    });
    match job.api.post_below(object, "eviction", &content).await {
        Ok(_) | Err(ApiFault::NotFound { .. }) => Ok(()),
        Err(fault) => Err(fault.into()),
    }
}
