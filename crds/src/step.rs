//! What a step of a playbook asks for: which action, to what, with which parameters.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Cel, Network};

/// Name of an action. A text, so that a wrong one is reported together with every other mistake of the playbook.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionName(pub String);

impl ActionName {
    /// What playbooks may ask for.
    pub const KNOWN: [&'static str; 29] = [
        "node.freeze",
        "node.kill",
        "node.net-quarantine",
        "node.block-destination",
        "node.destroy-sockets",
        "node.quarantine-file",
        "node.capture-evidence",
        "cluster.isolate-pod",
        "cluster.label",
        "cluster.detach-pod",
        "cluster.evict-pod",
        "cluster.delete-pod",
        "cluster.cordon",
        "cluster.taint",
        "cluster.scale",
        "cluster.pause-rollout",
        "cluster.suspend",
        "cluster.roll-back-image",
        "cluster.subtract-subject",
        "cluster.invalidate-tokens",
        "cluster.deny-exec",
        "cluster.deny-image",
        "cluster.deny-writes",
        "cluster.restore-object",
        "cluster.clamp-quota",
        "cluster.suspend-sync",
        "cluster.collect-evidence",
        "cluster.scan-image",
        "notify.send",
    ];
}

impl JsonSchema for ActionName {
    fn schema_name() -> Cow<'static, str> {
        "ActionName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Self::KNOWN })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// What of the incident an action is done to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSpec {
    /// Kind of thing.
    pub kind: TargetKind,
    /// CEL that gives exactly one such thing, for example `steps.find.outputs.file`. When absent: that of the finding which
    /// the playbook answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Cel>,
}

/// Kinds of thing that an action is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// A process. `select` gives `{pid, start}`.
    Process,
    /// A container, service or other cgroup. `select` gives `{id, path}`.
    Cgroup,
    /// A file. `select` gives `{path, inode, device}`.
    File,
    /// A pod. `select` gives `{apiVersion, kind, namespace, name, uid}`, as for the next four.
    Pod,
    /// What keeps pods: Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob.
    Workload,
    /// A namespace.
    Namespace,
    /// A node of the cluster.
    Node,
    /// Another object of the API server: what a record is about.
    Object,
    /// An account of the API server. `select` gives `{kind, namespace, name}`, kind being User, Group or ServiceAccount, or a user's name.
    Account,
    /// A place where people are told; `with.channel` names it.
    Channel,
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "Process",
            Self::Cgroup => "Cgroup",
            Self::File => "File",
            Self::Pod => "Pod",
            Self::Workload => "Workload",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Object => "Object",
            Self::Account => "Account",
            Self::Channel => "Channel",
        })
    }
}

/// Parameters of all actions; which of them an action takes is in docs/playbooks.md.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Parameters {
    /// node.freeze: `Subtree` or `Cgroup`. node.kill: `Process` or `Subtree`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// node.net-quarantine: peers that stay reachable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub allow: Option<Vec<Network>>,
    /// node.block-destination: whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Network>,
    /// node.block-destination: only this port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// node.capture-evidence: whether process memory is copied (it holds secrets). cluster.collect-evidence: whether the kubelet is asked
    /// for a checkpoint of each container, which holds it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// cluster.isolate-pod: by which kind of policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// cluster.label: `name=value` of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(max = 381), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9./_-]*=[A-Za-z0-9._-]{0,63}$"))
    )]
    pub labels: Option<Vec<String>>,
    /// cluster.taint: what the taint does to pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// cluster.scale: how many there shall be; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub replicas: Option<u32>,
    /// cluster.deny-image: the image as pods name it, or its digest. cluster.scan-image: the image as pods name it. That of the finding's
    /// container when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// cluster.collect-evidence: newest lines of each log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub lines: Option<u32>,
    /// notify.send: where, by a name of the controller's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub channel: Option<String>,
    /// notify.send: what is said besides what the incident says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
}

impl Parameters {
    /// Nothing is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Parameters that CEL gives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ParametersFrom {
    /// A list of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Cel>,
    /// A text: an address or network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Cel>,
    /// A number from 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Cel>,
    /// A text: an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Cel>,
    /// A text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Cel>,
}

impl ParametersFrom {
    /// Nothing is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How much of the target an action covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// The process alone.
    Process,
    /// The process and its descendants.
    Subtree,
    /// Everything in its cgroup.
    Cgroup,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "Process",
            Self::Subtree => "Subtree",
            Self::Cgroup => "Cgroup",
        })
    }
}

/// Whether evidence includes process memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Memory {
    /// No.
    None,
    /// Writable private mappings, up to the agent's limit.
    Private,
}

/// By which kind of policy a pod is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Form {
    /// The first of the others that the cluster has.
    Auto,
    /// A CiliumNetworkPolicy that denies.
    Cilium,
    /// An AdminNetworkPolicy that denies; nothing from outside of the cluster.
    Admin,
    /// A NetworkPolicy; the pod is taken out of those that allow something.
    Plain,
}

/// What a taint does to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Effect {
    /// None comes.
    NoSchedule,
    /// None comes while there is another place.
    PreferNoSchedule,
}
