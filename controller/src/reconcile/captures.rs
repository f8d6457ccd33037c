//! What an undo needs, in the API server: one Secret for each action, in our own namespace and immutable. It is there, and was read back,
//! before the effect begins (I4), and goes once the action is over. A leader that begins with an empty journal undoes by it, and believes
//! nothing else about an action that it does not know: a ResponseAction may be written by more people than that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time, jiff};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions},
};
use model::{ActionId, ActionRecord, NodeAction, NodeId, RollbackState, Target, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    reach::{Failure, Reach},
    show::{action_name, digest},
};

/// What a Secret of ours is.
const TYPE: &str = "hemostat.dev/capture";
/// By which all of them are found.
const LABEL: &str = "hemostat.dev/capture";
/// The annotation that tells the action.
const ACTION: &str = "hemostat.dev/action";
/// The action, and what was captured: two keys of the Secret.
const PLAN: &str = "action.json";
const CAPTURED: &str = "captured.json";
/// Bytes that one may have (I11). The API server takes 1 MiB in a Secret; the rest is for the action beside it.
pub(crate) const LARGEST: usize = 960 * 1024;
/// One that belongs to no action is removed when it is older: it is written before the action's object is.
const SPARED: Duration = Duration::from_secs(600);
/// Secrets asked for at a time when all are looked at (I11): each may have a MiB.
const PAGE: u32 = 16;

/// All that an undo needs to know of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: ActionId,
    pub(crate) node: NodeId,
    pub(crate) action: NodeAction,
    pub(crate) target: Target,
    pub(crate) planned: Timestamp,
    /// In a key of its own: its digest is what the ResponseAction's status holds.
    #[serde(skip, default = "nothing")]
    pub(crate) rollback: RollbackState,
}

fn nothing() -> RollbackState {
    RollbackState::Nothing
}

impl Kept {
    /// What is to be kept of an action; nothing where there is nothing to undo by.
    pub(crate) fn of(record: &ActionRecord, node: &NodeId) -> Option<Self> {
        let rollback = record.rollback.clone().filter(|_| record.action.undo().has_undo())?;
        Some(Self {
            id: record.id.clone(),
            node: node.clone(),
            action: record.action.clone(),
            target: record.target.clone(),
            planned: record.planned,
            rollback,
        })
    }

    fn data(&self) -> Result<BTreeMap<String, ByteString>, Failure> {
        let text = |value: Result<Vec<u8>, serde_json::Error>| {
            value.map_err(|error| Failure::Unkept(format!("it cannot be written: {error}")))
        };
        let (plan, captured) = (text(serde_json::to_vec(self))?, text(serde_json::to_vec(&self.rollback))?);
        if plan.len() + captured.len() > LARGEST {
            return Err(Failure::Unkept(format!(
                "what its undo needs has {} bytes, and the API server keeps at most {LARGEST} of one action",
                plan.len() + captured.len()
            )));
        }
        Ok(BTreeMap::from([(PLAN.into(), ByteString(plan)), (CAPTURED.into(), ByteString(captured))]))
    }
}

/// The Secrets of all actions that are not over.
pub(crate) struct Captures {
    reach: Reach,
    home: String,
    /// Names of those that stand there, as far as is known.
    kept: Mutex<BTreeSet<String>>,
}

/// The name of an action's Secret.
pub(crate) fn capture_name(id: &ActionId) -> String {
    format!("hemostat-capture-{}", action_name(id))
}

impl Captures {
    pub(crate) fn new(reach: Reach, home: String) -> Self {
        Self { reach, home, kept: Mutex::default() }
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.reach.client.clone(), &self.home)
    }

    /// Whether it is known to stand there, or being written.
    pub(crate) fn is_kept(&self, id: &ActionId) -> bool {
        self.known().contains(&capture_name(id))
    }

    /// Writes it, where it does not stand there, and reads it back. Nothing may be begun before.
    pub(crate) async fn keep(&self, kept: &Kept) -> Result<(), Failure> {
        let name = capture_name(&kept.id);
        self.known().insert(name.clone());
        let done = self.write(&name, kept).await;
        if done.is_err() {
            self.known().remove(&name);
        }
        done
    }

    async fn write(&self, name: &str, kept: &Kept) -> Result<(), Failure> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(BTreeMap::from([
                    (LABEL.to_owned(), "true".to_owned()),
                    ("app.kubernetes.io/managed-by".to_owned(), "hemostat".to_owned()),
                ])),
                annotations: Some(BTreeMap::from([(ACTION.to_owned(), kept.id.to_string())])),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.into()),
            data: Some(kept.data()?),
            immutable: Some(true),
            ..Secret::default()
        };
        match self.reach.write(self.api().create(&PostParams::default(), &secret)).await {
            // It stands there: of an earlier try, or of an earlier leader.
            Ok(_) | Err(Failure::Conflict(_)) => {}
            Err(Failure::Refused { code, because }) => {
                return Err(Failure::Unkept(format!(
                    "the API server does not take the Secret {}/{name} ({code}): {because}",
                    self.home
                )));
            }
            Err(failure) => return Err(failure),
        }
        match self.read(&kept.id).await? {
            Some(found) if found == *kept => Ok(()),
            Some(_) => Err(Failure::Unkept(format!("the Secret {}/{name} holds something else", self.home))),
            None => Err(Failure::Missing(format!("Secret {}/{name}, which was just written", self.home))),
        }
    }

    /// What stands there of an action.
    async fn read(&self, id: &ActionId) -> Result<Option<Kept>, Failure> {
        let found = self.reach.read(self.api().get_opt(&capture_name(id))).await?;
        found.map(|secret| understood(&secret, id).map_err(Failure::Unkept)).transpose()
    }

    /// What may be believed of an action that only the API server tells of. `digest` is what its status says was captured.
    pub(crate) async fn believed(
        &self,
        id: &ActionId,
        told: Option<&str>,
    ) -> Result<Result<Kept, String>, Failure> {
        let name = format!("{}/{}", self.home, capture_name(id));
        let kept = match self.read(id).await {
            Ok(Some(kept)) => kept,
            Ok(None) => return Ok(Err(format!("there is no Secret {name}"))),
            Err(Failure::Unkept(because)) => return Ok(Err(because)),
            Err(failure) => return Err(failure),
        };
        let captured = serde_json::to_string(&kept.rollback).unwrap_or_default();
        if told.is_some_and(|told| told != digest(&captured)) {
            return Ok(Err(format!("the digest in its status is not that of the Secret {name}")));
        }
        self.known().insert(capture_name(id));
        Ok(Ok(kept))
    }

    /// The action is over: nothing needs it any more.
    pub(crate) async fn forget(&self, id: &ActionId) -> Result<(), Failure> {
        let name = capture_name(id);
        match self.reach.write(self.api().delete(&name, &DeleteParams::default())).await {
            Ok(_) | Err(Failure::Missing(_)) => {
                self.known().remove(&name);
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Removes those of which `needed` says that no action needs them, and learns which stand there.
    pub(crate) async fn sweep(&self, needed: impl Fn(&str) -> bool) -> Result<usize, Failure> {
        let mut params = ListParams::default().labels(&format!("{LABEL}=true")).limit(PAGE);
        let mut removed = 0;
        loop {
            // Metadata alone: what was captured need not travel.
            let page = self.reach.read(self.api().list_metadata(&params)).await?;
            for secret in page.items {
                let id = ActionId::new(secret.annotations().get(ACTION).cloned().unwrap_or_default());
                let name = secret.name_any();
                if name == capture_name(&id) && needed(id.as_str()) {
                    self.known().insert(name);
                    continue;
                }
                if !secret.metadata.creation_timestamp.as_ref().is_some_and(is_old) {
                    continue;
                }
                let very = DeleteParams {
                    preconditions: Some(Preconditions { uid: secret.uid(), resource_version: None }),
                    ..DeleteParams::default()
                };
                match self.reach.write(self.api().delete(&name, &very)).await {
                    Ok(_) | Err(Failure::Missing(_) | Failure::Conflict(_)) => {}
                    Err(failure) => return Err(failure),
                }
                self.known().remove(&name);
                tracing::info!(secret = name, "what was captured for an action that is over is removed");
                removed += 1;
            }
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => params = params.continue_token(&more),
                None => return Ok(removed),
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_old(created: &Time) -> bool {
    let age = jiff::Timestamp::now().duration_since(created.0);
    age.as_secs() > i64::try_from(SPARED.as_secs()).unwrap_or(i64::MAX)
}

fn understood(secret: &Secret, id: &ActionId) -> Result<Kept, String> {
    let name = secret.name_any();
    if secret.type_.as_deref() != Some(TYPE) || secret.immutable != Some(true) {
        return Err(format!("the Secret {name} is not one that Hemostat makes"));
    }
    let data = secret.data.clone().unwrap_or_default();
    let text = |key: &str| {
        data.get(key).map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("the Secret {name} has no {key}"))
    };
    let unread =
        |error: serde_json::Error| format!("the Secret {name} cannot be read by this version: {error}");
    let plan: Kept = serde_json::from_slice(text(PLAN)?).map_err(unread)?;
    let rollback: RollbackState = serde_json::from_slice(text(CAPTURED)?).map_err(unread)?;
    if plan.id != *id {
        return Err(format!("the Secret {name} is of {}", plan.id));
    }
    Ok(Kept { rollback, ..plan })
}

#[cfg(test)]
mod tests {
    use model::{ClusterAction, ClusterState, Edit, ObjectRef};
    use serde_json::json;

    use super::*;

    fn kept(bytes: usize) -> Kept {
        let object = ObjectRef {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: Some("pay".into()),
            name: "c".into(),
            uid: String::new(),
            as_of: None,
        };
        let content = json!({"data": {"x": "y".repeat(bytes)}});
        let state =
            ClusterState { edits: vec![Edit::Make { object: object.clone(), content }], notes: vec![] };
        Kept {
            id: ActionId::new("act-1-x"),
            node: NodeId::cluster(),
            action: NodeAction::Cluster(ClusterAction::DenyExec),
            target: Target::Object(object),
            planned: Timestamp(7),
            rollback: RollbackState::Cluster(Box::new(state)),
        }
    }

    fn secret(kept: &Kept) -> Secret {
        Secret {
            metadata: ObjectMeta { name: Some(capture_name(&kept.id)), ..ObjectMeta::default() },
            type_: Some(TYPE.into()),
            immutable: Some(true),
            data: Some(kept.data().unwrap()),
            ..Secret::default()
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_of_another_action_or_of_anybodys_making_it_is_not_believed() {
        let (kept, id) = (kept(10), ActionId::new("act-1-x"));
        assert_eq!(understood(&secret(&kept), &id).unwrap(), kept);
        assert!(understood(&secret(&kept), &ActionId::new("act-2-x")).unwrap_err().contains("is of act-1-x"));
        let changed = |change: &dyn Fn(&mut Secret)| {
            let mut secret = secret(&kept);
            change(&mut secret);
            understood(&secret, &id)
        };
        assert!(changed(&|it| it.immutable = None).is_err(), "one that could have been changed");
        assert!(changed(&|it| it.type_ = Some("Opaque".into())).is_err());
        assert!(
            changed(&|it| drop(it.data.as_mut().unwrap().remove(CAPTURED))).unwrap_err().contains(CAPTURED)
        );
    }

    #[test]
    fn i11_what_is_too_large_for_the_api_server_is_refused_with_its_size() {
        assert!(kept(LARGEST - 2000).data().is_ok());
        let refused = kept(LARGEST).data().unwrap_err().to_string();
        assert!(refused.contains("at most 983040"), "{refused}");
    }
}
