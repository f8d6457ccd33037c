//! `cluster.subtract-subject`: an account is taken out of every RoleBinding and ClusterRoleBinding that names it. RBAC knows no denial,
//! so this is the quick cut for a stolen credential: reads are stopped, too, which admission never sees.
//!
//! What reaches the account through a group stays, since the group is more than one credential: it is named.

use model::{Account, AccountKind, ActionFailure, ClusterState, Edit, Outputs, Target};
use serde_json::{Value, json};

use crate::{
    fields,
    job::{Job, Look, changed, state},
    permissions::{Rule, rule},
    protect,
};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// Whoever is in one of these groups is everybody, and what they may do is harmless by Kubernetes' own defaults.
const DEFAULTS: [&str; 3] = ["system:discovery", "system:basic-user", "system:public-info-viewer"];

/// `bind`: the API server lets only those change a binding who hold the role's permissions or this verb.
pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule(
            "rbac.authorization.k8s.io",
            &["rolebindings", "clusterrolebindings"],
            &["get", "list", "patch"],
        ),
        rule("rbac.authorization.k8s.io", &["roles", "clusterroles"], &["bind"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let account = account(job)?;
    protect::account(job, account).await?;
    let mut edits = Vec::new();
    let mut through = Vec::new();
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in job.api.list(RBAC, kind, None, "").await? {
            edits.extend(without(&binding, account));
            if let Some(group) = through_group(&binding, account) {
                let name = binding["metadata"]["name"].as_str().unwrap_or_default();
                through.push(format!("{kind} {name} by the group {group}"));
            }
        }
    }
    let mut captured = state(edits);
    if captured.edits.is_empty() {
        captured.notes.push("no binding names it".into());
    }
    if !through.is_empty() {
        captured.notes.push(format!("still reached through {}", through.join(", ")));
    }
    Ok(captured)
}

/// Whether a binding was made, or came back, since.
pub(super) async fn verify(job: &Job<'_>) -> Result<Look, ActionFailure> {
    let account = account(job)?;
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in job.api.list(RBAC, kind, None, "").await? {
            if without(&binding, account).is_some() {
                let name = binding["metadata"]["name"].as_str().unwrap_or_default();
                return Ok(Look::Missing(format!("{kind} {name} names it")));
            }
        }
    }
    Ok(Look::InForce)
}

pub(super) fn outputs(captured: &ClusterState) -> Outputs {
    let bindings: Vec<String> =
        captured.edits.iter().map(|edit| crate::edits::object_of(edit).to_string()).collect();
    Outputs::from([("bindings".to_owned(), json!(bindings))])
}

fn account<'a>(job: &Job<'a>) -> Result<&'a Account, ActionFailure> {
    match job.target {
        Target::Account(account) => Ok(account),
        other => Err(job.unsupported(format!("{other} is no account"))),
    }
}

/// The change that takes the account out of a binding; `None` where it does not name it.
fn without(binding: &Value, account: &Account) -> Option<Edit> {
    let subjects = binding["subjects"].as_array()?;
    let namespace = binding["metadata"]["namespace"].as_str();
    let named: Vec<usize> =
        (0..subjects.len()).filter(|&at| names(&subjects[at], namespace, account)).collect();
    if named.is_empty() {
        return None;
    }
    let distinct = subjects.iter().enumerate().all(|(at, one)| !subjects[..at].contains(one));
    let changes = if distinct {
        // From behind, so that the places of those before stay.
        named.iter().rev().filter_map(|&at| fields::take(binding, &["subjects"], at)).collect()
    } else {
        let left: Vec<Value> = subjects
            .iter()
            .enumerate()
            .filter(|(at, _)| !named.contains(at))
            .map(|(_, subject)| subject.clone())
            .collect();
        let left = (!left.is_empty()).then_some(Value::Array(left));
        fields::set(binding, &["subjects"], left).into_iter().collect()
    };
    changed(binding, changes)
}

fn names(subject: &Value, namespace: Option<&str>, account: &Account) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match (subject["kind"].as_str(), account.kind) {
        (Some("ServiceAccount"), AccountKind::ServiceAccount) => {
            let of = subject["namespace"].as_str().filter(|of| !of.is_empty()).or(namespace);
            name == account.name && of == account.namespace.as_deref()
        }
        // A service account can be named as a user, too.
        (Some("User"), AccountKind::User | AccountKind::ServiceAccount) => name == account.user_name(),
        (Some("Group"), AccountKind::Group) => name == account.name,
        _ => false,
    }
}

/// The group by which a binding reaches the account.
fn through_group(binding: &Value, account: &Account) -> Option<String> {
    let role = binding["roleRef"]["name"].as_str().unwrap_or_default();
    if DEFAULTS.contains(&role) || account.kind == AccountKind::Group {
        return None;
    }
    let mut groups = vec!["system:authenticated".to_owned()];
    if let (AccountKind::ServiceAccount, Some(namespace)) = (account.kind, &account.namespace) {
        groups.push("system:serviceaccounts".into());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let mut of_groups = subjects.filter(|subject| subject["kind"] == "Group");
    of_groups.find_map(|subject| groups.iter().find(|group| subject["name"] == group.as_str()).cloned())
}
