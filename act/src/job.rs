//! What every action is given, and what it gives.

use std::{path::PathBuf, sync::Arc};

use model::{
    Account, ActionFailure, ActionId, ClusterState, Edit, FieldChange, IncidentId, ObjectRef, Target,
    Timestamp, short_hash,
};
use serde_json::{Value, json};

use crate::{
    api::{Api, reference, text},
    edits::MADE_BY,
    notify::Channel,
    scanner::Scanner,
};

/// Labels on whatever an action makes.
pub(crate) const INCIDENT: &str = "hemostat.dev/incident";

/// How the field managers of actions begin: each action writes under one of its own.
pub const MANAGERS: &str = "hemostat-";

/// What the executor is started with.
#[derive(Clone)]
pub struct ActConfig {
    /// Evidence is kept below it, one folder for each action.
    pub evidence: PathBuf,
    /// What was told to whom is remembered below it, so that nothing is told twice.
    pub sent: PathBuf,
    /// Where people are told.
    pub channels: Vec<Channel>,
    /// What is ours, and so never touched.
    pub own: Own,
    /// What looks for known vulnerabilities in images.
    pub scanner: Option<Scanner>,
    /// Whether anything may be written at present: a controller whose lease has run out must not, since another may be at work.
    pub leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Where the present comes from.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl std::fmt::Debug for ActConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActConfig").field("evidence", &self.evidence).finish_non_exhaustive()
    }
}

/// What is Hemostat's own in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The namespace in which the controller runs.
    pub namespace: String,
    /// As whom its parts act, besides the account of the client, which the API server tells.
    pub accounts: Vec<Account>,
}

/// One phase of one action.
pub(crate) struct Job<'a> {
    pub(crate) api: &'a Api,
    pub(crate) config: &'a ActConfig,
    pub(crate) id: &'a ActionId,
    pub(crate) incident: &'a IncidentId,
    pub(crate) target: &'a Target,
    /// The name of the action.
    pub(crate) action: &'static str,
    /// When its phase must be over.
    pub(crate) deadline: Timestamp,
}

/// What an action's own look at its effect says.
pub(crate) enum Look {
    /// It is there.
    InForce,
    /// It is not.
    Missing(String),
}

impl Job<'_> {
    /// Short, stable, and of no other action.
    pub(crate) fn hash(&self) -> String {
        short_hash([self.id.as_str()], 5)
    }

    /// One field manager for each action.
    pub(crate) fn manager(&self) -> String {
        let mut name = format!("{MANAGERS}{}", self.id);
        name.truncate(name.floor_char_boundary(128));
        name
    }

    /// The target, where it is an object.
    pub(crate) fn object(&self) -> Result<&ObjectRef, ActionFailure> {
        match self.target {
            Target::Object(object) => Ok(object),
            other => Err(self.unsupported(format!("{other} is no object of the API server"))),
        }
    }

    /// The target as it is now, certainly the one that was meant (I9).
    pub(crate) async fn read(&self) -> Result<(ObjectRef, Value), ActionFailure> {
        let object = self.object()?;
        if object.uid.is_empty() && object.as_of.is_none() {
            return Err(self.unsupported("neither its uid nor when it had that name is known"));
        }
        let found = self.api.get(object).await?;
        Ok((reference(&found), found))
    }

    /// The target, if it is of one of these kinds.
    pub(crate) async fn read_a(&self, kinds: &[&str]) -> Result<(ObjectRef, Value), ActionFailure> {
        let object = self.object()?;
        if !kinds.contains(&object.kind.as_str()) {
            return Err(self.unsupported(format!(
                "it is done to {}, not to a {}",
                kinds.join(" or "),
                object.kind
            )));
        }
        self.read().await
    }

    pub(crate) fn unsupported(&self, because: impl Into<String>) -> ActionFailure {
        ActionFailure::Unsupported {
            operation: format!("{} on {}", self.action, self.target),
            because: because.into(),
        }
    }

    pub(crate) fn protected(&self, because: impl Into<String>) -> ActionFailure {
        ActionFailure::Protected { target: self.target.to_string(), because: because.into() }
    }

    /// An object that this action makes.
    pub(crate) fn made(&self, api_version: &str, kind: &str, namespace: Option<&str>, body: Value) -> Edit {
        let name = format!("hemostat-{}", self.hash());
        let mut metadata = json!({
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "hemostat", INCIDENT: self.incident.as_str()},
            "annotations": {
                MADE_BY: self.id.as_str(),
                "hemostat.dev/about": format!("Made by Hemostat for {}. To undo it: hemostat rollback {}", self.incident, self.id),
            },
        });
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
        let mut content = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        if let (Some(all), Value::Object(body)) = (content.as_object_mut(), body) {
            all.extend(body);
        }
        let object = ObjectRef {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name,
            uid: String::new(),
            as_of: None,
        };
        Edit::Make { object, content }
    }
}

/// A change of an object that was read; `None` where nothing is to be changed.
pub(crate) fn changed(found: &Value, fields: Vec<FieldChange>) -> Option<Edit> {
    if fields.is_empty() {
        return None;
    }
    let mut managers: Vec<String> = found["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["manager"].as_str().map(str::to_owned))
        .collect();
    managers.sort();
    managers.dedup();
    managers.truncate(32);
    Some(Edit::Change {
        object: reference(found),
        resource_version: text(found, &["metadata", "resourceVersion"]).unwrap_or_default().to_owned(),
        managers,
        fields,
    })
}

/// A state of these edits.
pub(crate) fn state(edits: impl IntoIterator<Item = Edit>) -> ClusterState {
    ClusterState { edits: edits.into_iter().collect(), notes: Vec::new() }
}

/// An object's labels.
pub(crate) fn labels(object: &Value) -> std::collections::BTreeMap<String, String> {
    object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}
