//! What is done in the Kubernetes API server. To the controller's core it is one more node ([`NodeId::cluster`]): the same phases, the
//! same journal, the same undo.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{MemoryCapture, NodeId, Timestamp, UndoClass};

impl NodeId {
    /// Under this name the API server has its link. A node's name has no colon, so none can be taken for it.
    #[must_use]
    pub fn cluster() -> Self {
        Self::new("cluster:api")
    }
}

/// An action in the API server, or one of the controller itself, with its parameters. Its target is separate ([`crate::Target`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", content = "with")]
pub enum ClusterAction {
    /// Cut a pod off the network by a policy that selects nothing else.
    #[serde(rename = "cluster.isolate-pod")]
    IsolatePod(IsolatePod),
    /// Put labels on an object.
    #[serde(rename = "cluster.label")]
    Label(Label),
    /// Take a pod out of its Services and its ReplicaSet and keep it; the ReplicaSet makes another.
    #[serde(rename = "cluster.detach-pod")]
    DetachPod,
    /// Evict a pod, as its disruption budgets allow.
    #[serde(rename = "cluster.evict-pod")]
    EvictPod,
    /// Delete a pod at once.
    #[serde(rename = "cluster.delete-pod")]
    DeletePod,
    /// No new pods on a node.
    #[serde(rename = "cluster.cordon")]
    Cordon,
    /// No new pods on a node but those that tolerate our taint.
    #[serde(rename = "cluster.taint")]
    Taint(Taint),
    /// Another number of replicas; autoscalers of the workload are held at it.
    #[serde(rename = "cluster.scale")]
    Scale(Scale),
    /// A Deployment's rollout stands still.
    #[serde(rename = "cluster.pause-rollout")]
    PauseRollout,
    /// A CronJob or Job starts nothing.
    #[serde(rename = "cluster.suspend")]
    Suspend,
    /// A workload's images as its revision before had them.
    #[serde(rename = "cluster.roll-back-image")]
    RollBackImage,
    /// Take an account out of every binding that names it.
    #[serde(rename = "cluster.subtract-subject")]
    SubtractSubject,
    /// Make a service account anew, so that every token of it ends.
    #[serde(rename = "cluster.invalidate-tokens")]
    InvalidateTokens,
    /// No exec, attach, port-forward or debug container in a namespace.
    #[serde(rename = "cluster.deny-exec")]
    DenyExec,
    /// No pod with an image in a namespace.
    #[serde(rename = "cluster.deny-image")]
    DenyImage(DenyImage),
    /// No writes of an account.
    #[serde(rename = "cluster.deny-writes")]
    DenyWrites,
    /// An RBAC object or ConfigMap as it was before the attack wrote it.
    #[serde(rename = "cluster.restore-object")]
    RestoreObject(RestoreObject),
    /// No more pods in a namespace than now.
    #[serde(rename = "cluster.clamp-quota")]
    ClampQuota,
    /// Argo CD or Flux leaves the target as it is.
    #[serde(rename = "cluster.suspend-sync")]
    SuspendSync,
    /// Keep a pod's manifest, events and logs.
    #[serde(rename = "cluster.collect-evidence")]
    CollectEvidence(CollectEvidence),
    /// Look for known vulnerabilities in an image, by a scanner that runs as a Job in our own namespace.
    #[serde(rename = "cluster.scan-image")]
    ScanImage(ScanImage),
    /// Tell people, or open a ticket.
    #[serde(rename = "notify.send")]
    Notify(Notify),
}

impl ClusterAction {
    /// The name that playbooks use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::IsolatePod(_) => "cluster.isolate-pod",
            Self::Label(_) => "cluster.label",
            Self::DetachPod => "cluster.detach-pod",
            Self::EvictPod => "cluster.evict-pod",
            Self::DeletePod => "cluster.delete-pod",
            Self::Cordon => "cluster.cordon",
            Self::Taint(_) => "cluster.taint",
            Self::Scale(_) => "cluster.scale",
            Self::PauseRollout => "cluster.pause-rollout",
            Self::Suspend => "cluster.suspend",
            Self::RollBackImage => "cluster.roll-back-image",
            Self::SubtractSubject => "cluster.subtract-subject",
            Self::InvalidateTokens => "cluster.invalidate-tokens",
            Self::DenyExec => "cluster.deny-exec",
            Self::DenyImage(_) => "cluster.deny-image",
            Self::DenyWrites => "cluster.deny-writes",
            Self::RestoreObject(_) => "cluster.restore-object",
            Self::ClampQuota => "cluster.clamp-quota",
            Self::SuspendSync => "cluster.suspend-sync",
            Self::CollectEvidence(_) => "cluster.collect-evidence",
            Self::ScanImage(_) => "cluster.scan-image",
            Self::Notify(_) => "notify.send",
        }
    }

    /// How well it can be undone (I5).
    #[must_use]
    pub fn undo(&self) -> UndoClass {
        let compensable = |residual: &str| UndoClass::Compensable { residual: residual.into() };
        let irreversible = |residual: &str| UndoClass::Irreversible { residual: residual.into() };
        match self {
            Self::IsolatePod(_)
            | Self::Label(_)
            | Self::Cordon
            | Self::Taint(_)
            | Self::PauseRollout
            | Self::SubtractSubject
            | Self::DenyExec
            | Self::DenyImage(_)
            | Self::DenyWrites
            | Self::RestoreObject(_)
            | Self::ClampQuota
            | Self::SuspendSync => UndoClass::Exact,
            Self::DetachPod => compensable(
                "the pod goes back as it was; its ReplicaSet, which made another meanwhile, ends one of them",
            ),
            Self::Scale(_) => compensable(
                "pods that end lose their memory and local files; as many others take their place",
            ),
            Self::Suspend => {
                compensable("running pods of a suspended Job end; they begin anew when it goes on")
            }
            Self::RollBackImage => compensable(
                "its pods are replaced, and again at the undo; their memory and local files are lost",
            ),
            Self::EvictPod | Self::DeletePod => irreversible(
                "the pod is gone with its memory and local files; its owner, where it has one, makes another",
            ),
            Self::InvalidateTokens => irreversible(
                "tokens of the account end for good; its pods need new ones, most of them a restart",
            ),
            Self::CollectEvidence(_) | Self::ScanImage(_) | Self::Notify(_) => UndoClass::Nothing,
        }
    }
}

/// Parameters of an isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct IsolatePod {
    /// By which kind of policy.
    pub form: IsolationForm,
}

/// By which kind of policy a pod is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum IsolationForm {
    /// The first of the others that the cluster has.
    #[default]
    Auto,
    /// A CiliumNetworkPolicy that denies; it wins over whatever allows.
    Cilium,
    /// An AdminNetworkPolicy that denies; it wins over NetworkPolicies. It knows no traffic that comes from outside of the cluster.
    Admin,
    /// A NetworkPolicy that allows nothing; the pod is taken out of those that allow something.
    Plain,
}

/// Labels that an object gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Label {
    /// Name and value of each.
    pub labels: BTreeMap<String, String>,
}

/// Parameters of a taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// What it does to pods. There is no NoExecute: it would end pods.
    pub effect: TaintEffect,
}

/// What a taint does to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum TaintEffect {
    /// None comes.
    #[default]
    NoSchedule,
    /// None comes while there is another place.
    PreferNoSchedule,
}

/// Parameters of a scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Scale {
    /// How many there shall be.
    pub replicas: u32,
}

/// Parameters of an image's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenyImage {
    /// As pods name it, or its digest (`sha256:…`), which refuses every name that carries it.
    pub image: String,
}

/// Parameters of an evidence collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CollectEvidence {
    /// Newest lines of each container's log.
    pub lines: u32,
    /// Whether the kubelet is asked for a checkpoint of each container: it holds all of its memory.
    pub memory: MemoryCapture,
}

impl Default for CollectEvidence {
    fn default() -> Self {
        Self { lines: 10_000, memory: MemoryCapture::None }
    }
}

/// Parameters of a restoration: what is known of the attack's writes. Where nothing is, nothing is restored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreObject {
    /// Writes of the incident to the object, oldest first.
    pub writes: Vec<ObjectWrite>,
    /// When the incident's first event was: what was written since is not known to be from before the attack.
    pub began: Option<Timestamp>,
}

/// A write of an object, as the API server's audit log told it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectWrite {
    /// The object's version after it (`metadata.resourceVersion` of the answer).
    pub version: String,
    /// When the request came.
    pub received: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
}

/// Parameters of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScanImage {
    /// As pods name it.
    pub image: String,
}

/// Parameters of a notification.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Notify {
    /// What is said besides what the incident says of itself.
    pub message: String,
}

/// An object of the API server, certainly: a name alone may mean another object tomorrow (I9).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// For example `v1` or `apps/v1`.
    pub api_version: String,
    /// For example `Pod`.
    pub kind: String,
    /// Where it is namespaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Which of those that ever had that name; empty for an object that is yet to be made, or of which only the name is known.
    pub uid: String,
    /// Where only the name is known: when it was the object of that name. One that was made later is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

/// `Pod pay/api-0`.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

/// An account of the API server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// What kind.
    pub kind: AccountKind,
    /// Of a service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// When a service account had that name: one that was made later has other tokens. For what goes by the name alone it means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

/// Kinds of account, as RBAC names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AccountKind {
    /// A person, or what authenticates as one.
    User,
    /// All that authenticate as members of it.
    Group,
    /// A service account of a namespace.
    ServiceAccount,
}

impl Account {
    /// The account behind a name as the API server's audit log and RBAC know it.
    #[must_use]
    pub fn of_user(name: &str) -> Self {
        match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((namespace, account)) => Self {
                kind: AccountKind::ServiceAccount,
                namespace: Some(namespace.into()),
                name: account.into(),
                as_of: None,
            },
            None => Self { kind: AccountKind::User, namespace: None, name: name.into(), as_of: None },
        }
    }

    /// The name under which the API server knows it.
    #[must_use]
    pub fn user_name(&self) -> String {
        match (&self.kind, &self.namespace) {
            (AccountKind::ServiceAccount, Some(namespace)) => {
                format!("system:serviceaccount:{namespace}:{}", self.name)
            }
            _ => self.name.clone(),
        }
    }
}

/// `User dana`, `ServiceAccount pay/api`.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.kind)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

/// What an action in the API server changes, exactly, and what stood there before. All of it is decided at the capture; apply and
/// revert do nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// In the order in which they are applied. Undone: first what was made, the last first; then what was changed, the last first.
    pub edits: Vec<Edit>,
    /// What a person should know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One change of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case")]
pub enum Edit {
    /// An object that is made; undone by deleting it.
    Make {
        /// Which.
        object: ObjectRef,
        /// As it is sent.
        content: Value,
    },
    /// Fields of an object that is there.
    Change {
        /// Which.
        object: ObjectRef,
        /// Its version when it was captured.
        resource_version: String,
        /// Who held fields of it then.
        managers: Vec<String>,
        /// Which fields.
        fields: Vec<FieldChange>,
    },
    /// An object that is deleted and not restored.
    Remove {
        /// Which.
        object: ObjectRef,
    },
}

/// One change of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "field", rename_all = "snake_case")]
pub enum FieldChange {
    /// A value at a path; `None` where there is none.
    Value {
        /// From the object's root.
        path: Vec<String>,
        /// How many of its parts were there before: maps below that were made for it.
        known: usize,
        /// Before.
        before: Option<Value>,
        /// After.
        after: Option<Value>,
    },
    /// An element of a list.
    Item {
        /// The list, from the object's root.
        path: Vec<String>,
        /// The element.
        item: Value,
        /// The field that tells elements apart, where one alone does: another element with the same value there is a drift.
        key: Option<String>,
        /// Where in the list it stood.
        at: usize,
        /// Whether it is put in or taken out.
        how: ItemChange,
        /// How many of the path's parts were there before.
        known: usize,
    },
}

/// What becomes of a list's element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemChange {
    /// It is put in.
    Put,
    /// It is taken out.
    Take,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeAction;

    #[test]
    fn a_cluster_action_has_one_form_in_json() {
        let action = NodeAction::Cluster(ClusterAction::Scale(Scale { replicas: 2 }));
        let text = serde_json::to_string(&action).unwrap();
        assert_eq!(text, r#"{"action":"cluster.scale","with":{"replicas":2}}"#);
        assert_eq!(serde_json::from_str::<NodeAction>(&text).unwrap(), action);
        let bare = NodeAction::Cluster(ClusterAction::Cordon);
        let text = serde_json::to_string(&bare).unwrap();
        assert_eq!(text, r#"{"action":"cluster.cordon"}"#);
        assert_eq!(serde_json::from_str::<NodeAction>(&text).unwrap(), bare);
        assert!(serde_json::from_str::<NodeAction>(r#"{"action":"cluster.conquer"}"#).is_err());
    }

    #[test]
    fn an_account_is_what_rbac_calls_it() {
        let account = Account::of_user("system:serviceaccount:pay:api");
        assert_eq!(account.to_string(), "ServiceAccount pay/api");
        assert_eq!(account.user_name(), "system:serviceaccount:pay:api");
        assert_eq!(Account::of_user("dana").to_string(), "User dana");
    }
}
