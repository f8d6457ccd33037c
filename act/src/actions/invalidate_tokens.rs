//! `cluster.invalidate-tokens`: a service account is deleted and made anew with all that it was but its uid. Every token carries the uid,
//! so all of them end at once, stolen ones and those of its pods; the pods' next tokens are for the new one.
//!
//! It cannot be undone (no token comes back), so it needs an approval. No token is ever read.

use model::{Account, AccountKind, ActionFailure, ClusterState, Edit, ObjectRef, Target};
use serde_json::{Value, json};

use crate::{
    api::text,
    job::{Job, Look, state},
    permissions::{Rule, rule},
    protect,
};

pub(super) fn permissions() -> Vec<Rule> {
    vec![rule("", &["serviceaccounts"], &["get", "delete", "create"])]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let object = service_account(job)?;
    if let Target::Account(account) = job.target {
        protect::account(job, account).await?;
    }
    let found = job.api.get(&object).await?;
    let very = crate::api::reference(&found);
    let mut content = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
        "name": very.name, "namespace": very.namespace,
    }});
    for part in ["labels", "annotations", "ownerReferences", "finalizers"] {
        if let Some(kept) = found["metadata"].get(part) {
            content["metadata"][part] = kept.clone();
        }
    }
    for part in ["secrets", "imagePullSecrets", "automountServiceAccountToken"] {
        if let Some(kept) = found.get(part) {
            content[part] = kept.clone();
        }
    }
    // By this it is known that the one that is there is the new one.
    content["metadata"]["annotations"][crate::edits::MADE_BY] = job.id.as_str().into();
    let made = ObjectRef { uid: String::new(), ..very.clone() };
    if very.name == "default" {
        // Kubernetes makes this one anew by itself.
        return Ok(state([Edit::Remove { object: very }]));
    }
    Ok(ClusterState {
        edits: vec![Edit::Remove { object: very }, Edit::Make { object: made, content }],
        notes: vec!["pods of the account need new tokens: most of them a restart".into()],
    })
}

pub(super) async fn verify(job: &Job<'_>, captured: &ClusterState) -> Result<Look, ActionFailure> {
    let Some(Edit::Remove { object: old }) = captured.edits.first() else { return Ok(Look::InForce) };
    let now: Option<Value> = job.api.find(old).await?;
    Ok(match now.as_ref().and_then(|now| text(now, &["metadata", "uid"])) {
        Some(uid) if uid != old.uid => Look::InForce,
        Some(_) => Look::Missing("the account is still the old one".into()),
        None => Look::Missing("the account has not been made anew".into()),
    })
}

fn service_account(job: &Job<'_>) -> Result<ObjectRef, ActionFailure> {
    match job.target {
        Target::Account(Account { kind: AccountKind::ServiceAccount, namespace, name, as_of }) => {
            Ok(ObjectRef {
                api_version: "v1".into(),
                kind: "ServiceAccount".into(),
                namespace: namespace.clone(),
                name: name.clone(),
                uid: String::new(),
                as_of: *as_of,
            })
        }
        _ => Err(job.unsupported("only a service account's tokens are the API server's to end")),
    }
}
