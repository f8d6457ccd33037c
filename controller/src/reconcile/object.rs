//! What every object that we write has in common.

use kube::{Resource, core::ApiResource};
use serde_json::json;

use super::follow::INCIDENT_LABEL;

/// The label that says which playbook an action or question comes from.
pub(crate) const PLAYBOOK: &str = "hemostat.dev/playbook";

/// Whose it is, and of which incident and playbook.
pub(crate) fn labels(incident: &str, playbook: Option<&str>) -> serde_json::Value {
    let mut all = json!({"app.kubernetes.io/managed-by": "hemostat", INCIDENT_LABEL: incident});
    if let Some(playbook) = playbook.filter(|name| name.len() <= 63) {
        all[PLAYBOOK] = playbook.into();
    }
    all
}

/// An object as it is applied: only what is ours.
pub(crate) fn with_meta<K>(
    name: &str,
    namespace: &str,
    labels: &serde_json::Value,
    annotations: &serde_json::Value,
    rest: &serde_json::Value,
) -> serde_json::Value
where
    K: Resource<DynamicType = ()>,
{
    let kind = ApiResource::erase::<K>(&());
    let mut object = rest.clone();
    object["apiVersion"] = kind.api_version.into();
    object["kind"] = kind.kind.into();
    let mut meta = json!({"name": name});
    if !namespace.is_empty() {
        meta["namespace"] = namespace.into();
    }
    for (key, value) in [("labels", labels), ("annotations", annotations)] {
        if value.as_object().is_some_and(|map| !map.is_empty()) {
            meta[key] = value.clone();
        }
    }
    object["metadata"] = meta;
    object
}
