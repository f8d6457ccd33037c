//! `cluster.roll-back-image`: a workload's containers get the images of its revision before. Only images change, by name of the
//! container; the pods are replaced as its strategy says.
//!
//! Revisions of a Deployment are its ReplicaSets, those of a StatefulSet or DaemonSet its ControllerRevisions.

use model::{ActionFailure, ClusterState, FieldChange, ObjectRef, Outputs};
use serde_json::{Value, json};

use super::owners;
use crate::{
    api::percent_encoded,
    fields,
    job::{Job, Look, changed, state},
    permissions::{Rule, rule},
    protect,
    selector::query,
};

const REVISION: &str = "deployment.kubernetes.io/revision";
/// Lists of containers of a pod.
const LISTS: [&str; 2] = ["initContainers", "containers"];

pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule("apps", &["deployments", "statefulsets", "daemonsets"], &["get", "patch"]),
        rule("apps", &["replicasets", "controllerrevisions"], &["list"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let (object, found) = job.read_a(&["Deployment", "StatefulSet", "DaemonSet"]).await?;
    protect::pods(job, &found)?;
    let spec = &found["spec"]["template"]["spec"];
    let now = images(spec);
    let revisions = revisions(job, &object, &found).await?;
    let Some(before) = revisions.iter().map(|(_, spec)| images(spec)).find(|before| *before != now) else {
        return Err(job.unsupported("it has no revision with other images"));
    };
    let mut changes = Vec::new();
    for list in LISTS {
        let mut renewed = spec[list].as_array().cloned().unwrap_or_default();
        for container in &mut renewed {
            let same =
                |(of, name, _): &&(&str, String, String)| *of == list && container["name"] == name.as_str();
            if let Some((_, _, image)) = before.iter().find(same) {
                container["image"] = image.as_str().into();
            }
        }
        if renewed.is_empty() {
            continue;
        }
        let mut field = fields::set(&found, &["spec", "template", "spec", list], Some(Value::Array(renewed)));
        // The whole list is one value of the patch, and one of the comparison: any other change of a container is a drift.
        if let Some(FieldChange::Value { known, .. }) = &mut field {
            *known = 4;
        }
        changes.extend(field);
    }
    if changes.is_empty() {
        return Err(job.unsupported("its revision before has no container of the same name"));
    }
    let mut captured = state(changed(&found, changes));
    if found["spec"]["updateStrategy"]["type"] == "OnDelete" {
        captured
            .notes
            .push("its strategy is OnDelete: its pods have the image only once they are deleted".into());
    }
    Ok(captured)
}

pub(super) async fn verify(job: &Job<'_>) -> Result<Look, ActionFailure> {
    let (object, found) = job.read().await?;
    let number = |name: &str| found["status"][name].as_u64().unwrap_or(0);
    let seen = found["status"]["observedGeneration"].as_i64() >= found["metadata"]["generation"].as_i64();
    let (updated, all, wanted) = if object.kind == "DaemonSet" {
        let wanted = number("desiredNumberScheduled");
        (number("updatedNumberScheduled"), number("currentNumberScheduled"), wanted)
    } else {
        let wanted = found["spec"]["replicas"].as_u64().unwrap_or(1);
        (number("updatedReplicas"), number("replicas"), wanted)
    };
    Ok(if seen && updated == wanted && all == wanted {
        Look::InForce
    } else {
        Look::Missing(format!("{updated} of {wanted} pods have the image, {all} are there"))
    })
}

pub(super) fn outputs(captured: &ClusterState) -> Outputs {
    let images: Vec<String> = captured
        .edits
        .iter()
        .filter_map(|edit| match edit {
            model::Edit::Change { fields, .. } => Some(fields),
            _ => None,
        })
        .flatten()
        .filter_map(|field| match field {
            FieldChange::Value { after: Some(Value::Array(containers)), .. } => Some(containers),
            _ => None,
        })
        .flatten()
        .filter_map(|container| container["image"].as_str().map(str::to_owned))
        .collect();
    Outputs::from([("images".to_owned(), json!(images))])
}

/// Specifications of the pods of each revision, the newest first.
async fn revisions(
    job: &Job<'_>,
    object: &ObjectRef,
    found: &Value,
) -> Result<Vec<(u64, Value)>, ActionFailure> {
    let of_deployment = object.kind == "Deployment";
    let kind = if of_deployment { "ReplicaSet" } else { "ControllerRevision" };
    // A revision has the labels of the pods that it is for, as its controller finds it.
    let selected = format!("labelSelector={}", percent_encoded(&query(&found["spec"]["selector"])));
    let all = job.api.list("apps/v1", kind, object.namespace.as_deref(), &selected).await?;
    let own =
        all.into_iter().filter(|one| owners::controller(one).is_some_and(|owner| owner.uid == object.uid));
    let mut revisions: Vec<(u64, Value)> = own
        .filter_map(|one| {
            if of_deployment {
                let number = one["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?;
                Some((number, one["spec"]["template"]["spec"].clone()))
            } else {
                Some((one["revision"].as_u64()?, one["data"]["spec"]["template"]["spec"].clone()))
            }
        })
        .collect();
    revisions.sort_by_key(|(revision, _)| std::cmp::Reverse(*revision));
    Ok(revisions)
}

/// List, name and image of each container, in order.
fn images(spec: &Value) -> Vec<(&'static str, String, String)> {
    let of = |list: &'static str| {
        let containers = spec[list].as_array().into_iter().flatten();
        containers.filter_map(move |c| {
            Some((list, c["name"].as_str()?.to_owned(), c["image"].as_str()?.to_owned()))
        })
    };
    LISTS.into_iter().flat_map(of).collect()
}
