//! `cluster.restore-object`: an RBAC object or ConfigMap as it was before the attack wrote it.
//!
//! Which version the attack wrote is known from the API server's audit log, by what the server answered. What was before is the API
//! server's own: etcd keeps old revisions for some minutes (5 by default), and a list at exactly the revision before the attack's first
//! write shows the object as it was. It is done only if what stands there now is what the attack wrote, if nobody else wrote in between,
//! and if what was before had been written before the incident began. Otherwise it is said why not, and a person decides. A binding that
//! did not exist before is not deleted but emptied, so that the undo is exact.

use model::{ActionFailure, ClusterState, FieldChange, ObjectRef, ObjectWrite, RestoreObject};
use serde_json::Value;

use crate::{
    api::{ApiFault, percent_encoded, seconds, text},
    fields,
    job::{Job, changed, state},
    permissions::{Rule, rule},
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

pub(super) async fn capture(job: &Job<'_>, with: &RestoreObject) -> Result<ClusterState, ActionFailure> {
    let names: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
    let (object, now) = job.read_a(&names).await?;
    if now["immutable"] == true {
        return Err(job.unsupported("it is immutable: nobody changed it"));
    }
    let parts = KINDS.iter().find(|(kind, _)| *kind == object.kind).map_or(&[][..], |(_, parts)| *parts);
    let past = Past { job, object: &object };
    let writes = writes(job, with)?;
    let (first, last) = match writes.as_slice() {
        [] => {
            return Err(job.unsupported(
                "no record of the incident tells which version the attack wrote (the audit log must have it at the level \
                 RequestResponse), so what was before it is not known",
            ));
        }
        [first, .., last] => (first, last),
        [only] => (only, only),
    };
    for write in &writes {
        past.check_written(write).await?;
    }
    for pair in writes.windows(2) {
        let between = past.at(pair[1].revision - 1).await?;
        let found = between.as_ref().and_then(revision);
        if found != Some(pair[0].revision) {
            return Err(job.unsupported(format!(
                "between the writes of the attack (versions {} and {}) it was written by somebody else",
                pair[0].revision, pair[1].revision
            )));
        }
    }
    if revision(&now) != Some(last.revision) {
        let left = past.at(last.revision).await?.unwrap_or_default();
        if parts.iter().any(|part| left.get(part) != now.get(part)) {
            return Err(job.unsupported(format!(
                "what stands there is not what the attack wrote (version {}): {} changed it since",
                last.revision,
                writer(&now)
            )));
        }
    }
    let changes: Vec<FieldChange> = match past.at(first.revision - 1).await? {
        Some(before) => {
            check_age(job, &before, with, first)?;
            parts.iter().filter_map(|part| fields::set(&now, &[part], before.get(part).cloned())).collect()
        }
        // Made by the attack: a binding or role without content means nothing.
        None if object.kind != "ConfigMap" => {
            parts.iter().filter_map(|part| fields::set(&now, &[part], None)).collect()
        }
        None => {
            return Err(job.unsupported("it did not exist before the attack: there is nothing to restore"));
        }
    };
    if changes.is_empty() {
        return Err(job.unsupported("the attack changed nothing of what it means"));
    }
    Ok(state(changed(&now, changes)))
}

/// A write of the attack.
struct Write<'a> {
    revision: u64,
    told: &'a ObjectWrite,
}

/// Oldest first, each once.
fn writes<'a>(job: &Job<'_>, with: &'a RestoreObject) -> Result<Vec<Write<'a>>, ActionFailure> {
    let mut all = Vec::new();
    for told in &with.writes {
        let revision = told.version.parse().ok().filter(|revision| *revision > 1).ok_or_else(|| {
            job.unsupported(format!(
                "the version {:.40} that the attack wrote is no revision of etcd",
                told.version
            ))
        })?;
        all.push(Write { revision, told });
    }
    all.sort_by_key(|write| write.revision);
    all.dedup_by_key(|write| write.revision);
    Ok(all)
}

/// The object as it was.
struct Past<'a> {
    job: &'a Job<'a>,
    object: &'a ObjectRef,
}

impl Past<'_> {
    /// The very object at a revision; `None` where it was not there.
    async fn at(&self, revision: u64) -> Result<Option<Value>, ActionFailure> {
        let query = format!(
            "limit=1&fieldSelector={}&resourceVersion={revision}&resourceVersionMatch=Exact",
            percent_encoded(&format!("metadata.name={}", self.object.name)),
        );
        let (object, job) = (self.object, self.job);
        let page = job.api.page(&object.api_version, &object.kind, object.namespace.as_deref(), &query).await;
        match page {
            Ok(page) => {
                let found = page["items"].get(0).cloned();
                Ok(found.filter(|found| text(found, &["metadata", "uid"]) == Some(object.uid.as_str())))
            }
            Err(ApiFault::Refused { because, .. }) => {
                Err(job.unsupported(format!("what it was is no longer kept: {because}")))
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Whether the request made that version: one that changes nothing answers with the version of whoever wrote before it.
    async fn check_written(&self, write: &Write<'_>) -> Result<(), ActionFailure> {
        let left = self.at(write.revision).await?.filter(|left| revision(left) == Some(write.revision));
        let Some(left) = left else {
            return Err(self.job.unsupported(format!("version {} is none of this object", write.revision)));
        };
        let during =
            write.told.received.unix_seconds()..=write.told.answered.max(write.told.received).unix_seconds();
        if newest(&left).is_some_and(|written| during.contains(&written)) {
            return Ok(());
        }
        Err(self.job.unsupported(format!(
            "version {} was not certainly written by the attack's request: it may have changed nothing",
            write.revision
        )))
    }
}

/// Whether what was before was written before the incident began. Times are in whole seconds: the same second is not before.
fn check_age(
    job: &Job<'_>,
    before: &Value,
    with: &RestoreObject,
    first: &Write<'_>,
) -> Result<(), ActionFailure> {
    let began = with.began.map_or(first.told.received, |began| began.min(first.told.received));
    match newest(before) {
        Some(written) if written < began.unix_seconds() => Ok(()),
        Some(_) => Err(job.unsupported(format!(
            "what stood there before was itself written after the incident began at {began}, by {}",
            writer(before)
        ))),
        None => Err(job.unsupported("when that was written which stood there before is not known")),
    }
}

fn revision(object: &Value) -> Option<u64> {
    text(object, &["metadata", "resourceVersion"])?.parse().ok()
}

/// When an object was last written, as its managers' entries tell; `None` where there are none.
fn newest(object: &Value) -> Option<i64> {
    let entries = object["metadata"]["managedFields"].as_array()?;
    entries.iter().filter_map(|entry| seconds(&entry["time"])).max()
}

/// Who that was, by the name that it gave itself.
fn writer(object: &Value) -> String {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let last = entries.max_by_key(|entry| seconds(&entry["time"]));
    let name = last.and_then(|entry| entry["manager"].as_str()).unwrap_or("somebody");
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
