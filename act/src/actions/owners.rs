//! A pod's controlling owner, and the labels by which it knows the pod.

use std::collections::BTreeSet;

use model::{ActionFailure, ObjectRef};
use serde_json::Value;

use crate::{
    api::{Api, ApiFault},
    selector::ways_out,
};

/// The owner that controls an object.
pub(super) fn controller(found: &Value) -> Option<ObjectRef> {
    let owner = found["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == true)?;
    let part = |name: &str| owner[name].as_str().unwrap_or_default().to_owned();
    Some(ObjectRef {
        api_version: part("apiVersion"),
        kind: part("kind"),
        namespace: found["metadata"]["namespace"].as_str().map(str::to_owned),
        name: part("name"),
        uid: part("uid"),
        as_of: None,
    })
}

/// Labels by which the owner of a pod selects it; none where it has no owner that does.
pub(super) async fn selected_by_owner(api: &Api, pod: &Value) -> Result<BTreeSet<String>, ActionFailure> {
    let Some(owner) = controller(pod).filter(|owner| owner.kind == "ReplicaSet") else {
        return Ok(BTreeSet::new());
    };
    match api.get(&owner).await {
        Ok(found) => Ok(ways_out(&found["spec"]["selector"])),
        Err(ApiFault::NotFound { .. }) => Ok(BTreeSet::new()),
        Err(fault) => Err(fault.into()),
    }
}
