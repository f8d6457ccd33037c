//! `cluster.restore-object`: an RBAC object or ConfigMap as it was before its last change.
//!
//! The version before is the API server's own: etcd keeps old revisions for some minutes (5 by default), and a list at exactly the revision
//! before the object's last write shows it as it was. Nothing has to be copied beforehand. Later than that it is said that it cannot be
//! done. A binding that did not exist before is not deleted but emptied, so that the undo is exact.

use model::{ActionFailure, ClusterState, FieldChange};

use crate::{
    api::{ApiFault, escape, text},
    fields,
    job::{Job, changed, state},
    permissions::{Rule, rule},
    protect,
};

/// Kinds, and the fields of each that carry its meaning.
const KINDS: [(&str, &[&str]); 5] = [
    ("Role", &["rules"]),
    ("ClusterRole", &["rules", "aggregationRule"]),
    ("RoleBinding", &["subjects"]),
    ("ClusterRoleBinding", &["subjects"]),
    ("ConfigMap", &["data", "binaryData"]),
];

/// `escalate` and `bind`: the API server lets only those give back what they do not have themselves.
pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule(
            "rbac.authorization.k8s.io",
            &["rolebindings", "clusterrolebindings"],
            &["get", "list", "patch"],
        ),
        rule(
            "rbac.authorization.k8s.io",
            &["roles", "clusterroles"],
            &["get", "list", "patch", "bind", "escalate"],
        ),
        rule("", &["configmaps"], &["get", "list", "patch"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let names: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
    let (object, now) = job.read_a(&names).await?;
    protect::pods(job, &now)?;
    if now["immutable"] == true {
        return Err(job.unsupported("it is immutable: nobody changed it"));
    }
    let revision: u64 = text(&now, &["metadata", "resourceVersion"])
        .and_then(|version| version.parse().ok())
        .filter(|revision| *revision > 1)
        .ok_or_else(|| job.unsupported("its version is no revision of etcd"))?;
    let query = format!(
        "fieldSelector={}&resourceVersion={}&resourceVersionMatch=Exact",
        escape(&format!("metadata.name={}", object.name)),
        revision - 1
    );
    let page = job.api.page(&object.api_version, &object.kind, object.namespace.as_deref(), &query).await;
    let before = match page {
        Ok(page) => page["items"].get(0).cloned(),
        Err(ApiFault::Refused { because, .. }) => {
            return Err(job.unsupported(format!("what it was before is no longer kept: {because}")));
        }
        Err(fault) => return Err(fault.into()),
    };
    let same =
        before.as_ref().filter(|before| text(before, &["metadata", "uid"]) == Some(object.uid.as_str()));
    let parts = KINDS.iter().find(|(kind, _)| *kind == object.kind).map_or(&[][..], |(_, parts)| *parts);
    let changes: Vec<FieldChange> = match same {
        Some(before) => {
            parts.iter().filter_map(|part| fields::set(&now, &[part], before.get(part).cloned())).collect()
        }
        // Made by its last change: a binding or role without content means nothing.
        None if object.kind != "ConfigMap" => {
            parts.iter().filter_map(|part| fields::set(&now, &[part], None)).collect()
        }
        None => return Err(job.unsupported("it did not exist before its last change")),
    };
    if changes.is_empty() {
        return Err(job.unsupported("its last change changed nothing of what it means"));
    }
    Ok(state(changed(&now, changes)))
}
