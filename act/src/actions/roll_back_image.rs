//! `cluster.roll-back-image`: a Deployment's containers get the images of its revision before. Only images change, by name of the
//! container; the pods are replaced as its strategy says.

use model::{ActionFailure, ClusterState, FieldChange, Outputs};
use serde_json::{Value, json};

use super::owners;
use crate::{
    fields,
    job::{Job, Look, changed, state},
    permissions::{Rule, rule},
    protect,
};

const REVISION: &str = "deployment.kubernetes.io/revision";

pub(super) fn permissions() -> Vec<Rule> {
    vec![rule("apps", &["deployments"], &["get", "patch"]), rule("apps", &["replicasets"], &["list"])]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let (object, found) = job.read_a(&["Deployment"]).await?;
    protect::pods(job, &found)?;
    let mut revisions: Vec<(u64, Value)> = job
        .api
        .list("apps/v1", "ReplicaSet", object.namespace.as_deref(), "")
        .await?
        .into_iter()
        .filter(|set| owners::controller(set).is_some_and(|owner| owner.uid == object.uid))
        .filter_map(|set| Some((set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?, set)))
        .collect();
    revisions.sort_by_key(|(revision, _)| std::cmp::Reverse(*revision));
    let now = images(&found);
    let before = revisions.iter().find(|(_, set)| images(set) != now);
    let Some((_, before)) = before else {
        return Err(job.unsupported("it has no revision with other images"));
    };
    let containers = found["spec"]["template"]["spec"]["containers"].as_array();
    let mut renewed = containers.cloned().unwrap_or_default();
    for container in &mut renewed {
        let image = images(before).into_iter().find(|(name, _)| container["name"] == name.as_str());
        if let Some((_, image)) = image {
            container["image"] = image.into();
        }
    }
    let mut field =
        fields::set(&found, &["spec", "template", "spec", "containers"], Some(Value::Array(renewed)));
    // The whole list is one value of the patch, and one of the comparison: any other change of a container is a drift.
    if let Some(FieldChange::Value { known, .. }) = &mut field {
        *known = 4;
    }
    Ok(state(changed(&found, field.into_iter().collect())))
}

pub(super) async fn verify(job: &Job<'_>) -> Result<Look, ActionFailure> {
    let (_, found) = job.read().await?;
    let number = |name: &str| found["status"][name].as_u64().unwrap_or(0);
    let seen = found["status"]["observedGeneration"].as_i64() >= found["metadata"]["generation"].as_i64();
    let wanted = found["spec"]["replicas"].as_u64().unwrap_or(1);
    let (updated, all) = (number("updatedReplicas"), number("replicas"));
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

/// Name and image of each container, in order.
fn images(found: &Value) -> Vec<(String, String)> {
    let containers = found["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    containers
        .into_iter()
        .filter_map(|c| Some((c["name"].as_str()?.to_owned(), c["image"].as_str()?.to_owned())))
        .collect()
}
