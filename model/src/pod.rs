//! What the cluster knows of where something happened: pods, containers, owners, and who opened a session in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{NodeId, Principal, Timestamp};

/// A pod that findings are about, and what was found out of it. Never blank: what is not known says so (I9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributedPod {
    /// The uid in the cgroup's path. Of a static pod that is the hash of its manifest and not the API server's uid.
    pub cgroup_uid: String,
    /// The container in the cgroup's path.
    pub container_id: String,
    /// On which node it was seen.
    pub node: NodeId,
    /// When it was first asked for, by the controller's clock.
    pub asked: Timestamp,
    /// What is known.
    pub attribution: Attribution,
}

/// Whether a pod is certainly known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "attribution", rename_all = "snake_case")]
pub enum Attribution {
    /// It is.
    Resolved {
        /// The pod.
        pod: Box<PodFacts>,
        /// The container that the cgroup belongs to; `None` while the kubelet has not told of it, and for the sandbox.
        container: Option<ContainerFacts>,
        /// Since when the pod was known, by the controller's clock: with the moment of the finding, the age of the fact.
        known: Timestamp,
        /// How.
        source: PodSource,
    },
    /// Not yet: the API server's word is waited for, but not for long.
    Waiting,
    /// It is not. What needs the pod is not done (I9).
    Unresolved {
        /// Why.
        because: Unresolved,
    },
}

/// How a pod came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodSource {
    /// The API server told of it while it was watched.
    Watch,
    /// It stood in the API server's list.
    List,
    /// It is gone from the API server, and remembered.
    Remembered,
}

/// Why a pod is not certainly known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum Unresolved {
    /// The API server did not tell of such a pod within the time.
    #[error("the API server told of no pod {uid} within {waited_ms} ms")]
    Unknown {
        /// As the cgroup's path has it.
        uid: String,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// Pods are not watched at the moment, so nothing can be said.
    #[error("pods are not known at present: {why}")]
    Blind {
        /// What keeps them from being known.
        why: String,
    },
    /// The API server knows the pod on another node than the one that reported it.
    #[error("pod {pod} is on node {placed} and not on {reported}")]
    OtherNode {
        /// Namespace and name.
        pod: String,
        /// Where the API server knows it.
        placed: String,
        /// Who reported it.
        reported: NodeId,
    },
    /// More than one pod answers to that uid.
    #[error("{count} pods answer to {uid}")]
    Ambiguous {
        /// As the cgroup's path has it.
        uid: String,
        /// How many.
        count: usize,
    },
}

/// A pod, as the API server told it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    /// The API server's uid.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels, at most [`PodFacts::MAX_LABELS`].
    pub labels: BTreeMap<String, String>,
    /// Labels of its namespace, bounded likewise.
    pub namespace_labels: BTreeMap<String, String>,
    /// Those of its annotations that say what is at stake, bounded likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Such annotations of its namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_annotations: BTreeMap<String, String>,
    /// Who made it, innermost first: ReplicaSet, then Deployment.
    pub owners: Vec<Owner>,
    /// Whether the last of them is known to have no owner.
    pub chain: OwnerChain,
    /// The account that it acts as.
    pub service_account: Option<String>,
    /// Where it is placed.
    pub node: Option<NodeId>,
    /// Whose network it uses.
    pub network: PodNetwork,
    /// Who wished for it.
    pub origin: PodOrigin,
    /// Its addresses; for the node's network those are the node's and identify no pod.
    pub addresses: Vec<std::net::IpAddr>,
    /// When the API server made it.
    pub created: Timestamp,
    /// When it was gone, as far as that was seen.
    pub deleted: Option<Timestamp>,
    /// Secrets that it mounts or has in its environment, at most [`PodFacts::MAX_SECRETS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<MountedSecret>,
    /// From where it can be reached besides the cluster, the widest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<Door>,
    /// With whom it talked, the newest first, at most [`PodFacts::MAX_PEERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
}

/// A Secret that a pod has before it; what is in it is never read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MountedSecret {
    /// Name, in the pod's namespace.
    pub name: String,
    /// How it has it: `volume` or `environment`.
    pub how: String,
}

/// A way by which a pod is reached from outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Door {
    /// From how far.
    pub reach: Reach,
    /// Which.
    pub what: String,
    /// Since when it is known so.
    pub known: Timestamp,
}

/// From how far something is reached; the widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// From anywhere, as far as the API server tells: firewalls in between are not known.
    Internet,
    /// From the nodes' network.
    Network,
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Internet => "internet",
            Self::Network => "network",
        })
    }
}

/// Who began a conversation, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The pod.
    Out,
    /// The other.
    In,
}

/// Somebody whom a pod talked to, by flow logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who began.
    pub direction: Direction,
    /// `namespace/name` of a pod, or an address.
    pub other: String,
    /// The port that was asked for.
    pub port: Option<u16>,
    /// How often it was told.
    pub count: u64,
    /// First and last time.
    pub first: Timestamp,
    /// See `first`.
    pub last: Timestamp,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let arrow = match self.direction {
            Direction::Out => "to",
            Direction::In => "from",
        };
        write!(f, "{arrow} {}", self.other)?;
        self.port.map_or(Ok(()), |port| write!(f, " port {port}"))
    }
}

impl PodFacts {
    /// Secrets kept of one pod (I11).
    pub const MAX_SECRETS: usize = 32;
    /// Peers kept of one pod (I11).
    pub const MAX_PEERS: usize = 16;

    /// Labels kept of one object (I11).
    pub const MAX_LABELS: usize = 64;
    /// Owners followed upwards (I11).
    pub const MAX_OWNERS: usize = 8;

    /// `namespace/name`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The outermost owner that is known: the Deployment, the CronJob; `None` for a pod of its own.
    #[must_use]
    pub fn workload(&self) -> Option<&Owner> {
        self.owners.last()
    }
}

/// An owner of a pod, or an owner's owner: the one that controls it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// API version, for example `apps/v1`.
    pub api_version: String,
    /// Kind, for example `ReplicaSet`.
    pub kind: String,
    /// Name, in the pod's namespace (or the node, for a static pod).
    pub name: String,
    /// uid.
    pub uid: String,
}

/// Whether a chain of owners is known to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerChain {
    /// The last owner has none.
    Whole,
    /// Whether the last owner has one is not known.
    #[default]
    Open,
}

/// Whose network a pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodNetwork {
    /// Its own.
    #[default]
    Pod,
    /// The node's: no policy of the network holds it, and its address is the node's.
    Host,
}

/// Who wished for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodOrigin {
    /// The API server.
    #[default]
    Api,
    /// A file on the node: what the API server has is a picture of it, and deleting that does nothing to it.
    Static,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Name within the pod.
    pub name: String,
    /// What it is for.
    pub kind: ContainerKind,
    /// The image as the pod names it.
    pub image: String,
    /// The image that runs, by digest, as the runtime tells it.
    pub image_id: Option<String>,
}

/// What a container of a pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerKind {
    /// The pod's work.
    #[default]
    Regular,
    /// Before it.
    Init,
    /// Added by a person who debugs.
    Ephemeral,
}

/// Somebody ran a command in a pod through the API server (`kubectl exec`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSession {
    /// Who.
    pub user: Principal,
    /// From where.
    pub origin: Option<std::net::IpAddr>,
    /// When the API server was asked.
    pub at: Timestamp,
    /// What was run, its words joined by blanks.
    pub command: String,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// The request's name in the API server's audit log.
    pub audit_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_pod_is_not_known_is_told_to_people() {
        let because = Unresolved::Unknown { uid: "u-1".into(), waited_ms: 5000 };
        assert_eq!(because.to_string(), "the API server told of no pod u-1 within 5000 ms");
        let text = serde_json::to_string(&Attribution::Unresolved { because: because.clone() }).unwrap();
        assert_eq!(serde_json::from_str::<Attribution>(&text).unwrap(), Attribution::Unresolved { because });
    }
}
