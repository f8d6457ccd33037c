//! What the API server and the audit log tell the index, as plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{ContainerFacts, MountedSecret, NodeId, Owner, PodNetwork, PodSource, Principal, Timestamp};

/// Something that was told, about one object or about all of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A pod as it stands.
    Pod(Box<PodSeen>, PodSource),
    /// A pod is gone.
    PodGone {
        /// Which.
        uid: String,
    },
    /// Something that may own a pod, or another owner.
    Owner(OwnerSeen),
    /// It is gone.
    OwnerGone {
        /// Which.
        uid: String,
    },
    /// All of one kind of owners that there are: what is not among them is gone.
    OwnersListed {
        /// Which kind.
        kind: &'static str,
        /// Their uids, sorted.
        uids: Vec<String>,
    },
    /// A namespace as it stands.
    Namespace {
        /// Its name.
        name: String,
        /// Its version.
        version: Version,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// Those of its annotations that are looked at.
        annotations: BTreeMap<String, String>,
    },
    /// A namespace is gone.
    NamespaceGone {
        /// Its name.
        name: String,
    },
    /// All namespaces that there are, by name, sorted: what is not among them is gone.
    NamespacesListed(Vec<String>),
    /// All pods that there are: what is not among them is gone.
    PodsListed {
        /// Their uids, sorted.
        uids: Vec<String>,
    },
    /// A Service as it stands.
    Service(ServiceSeen),
    /// All Services that there are, by uid, sorted.
    ServicesListed(Vec<String>),
    /// An Ingress as it stands.
    Ingress(IngressSeen),
    /// All Ingresses that there are, by uid, sorted.
    IngressesListed(Vec<String>),
    /// A Service or an Ingress is gone.
    DoorGone {
        /// Which.
        uid: String,
    },
    /// Nobody of Hemostat's keeps new pods away from a node (`kubectl cordon`, `kubectl drain`).
    Cordoned {
        /// Which.
        node: NodeId,
    },
    /// It takes pods again, is gone, or it is Hemostat that keeps them away.
    Uncordoned {
        /// Which.
        node: NodeId,
    },
    /// All nodes that are [`Fact::Cordoned`], sorted: what is not among them is not.
    CordonedListed(Vec<NodeId>),
    /// A person ran a command in a pod.
    Exec(ExecSeen),
}

/// An object's place in the order of changes: `metadata.resourceVersion` as a number. Comparable since Kubernetes 1.35 by promise, and before
/// that in fact (it is etcd's revision); 0 where it is no number, so that the object is taken only if nothing is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

/// What is kept of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// uid.
    pub uid: String,
    /// Its place in the order of changes.
    pub version: Version,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Those of its annotations that are looked at.
    pub annotations: BTreeMap<String, String>,
    /// Its controller.
    pub owner: Option<Owner>,
    /// The account that it acts as.
    pub service_account: Option<String>,
    /// Where it is placed.
    pub node: Option<NodeId>,
    /// Whose network it uses.
    pub network: PodNetwork,
    /// Which folder of its node it has that the pods' network is installed in.
    pub installs_network: Option<&'static str>,
    /// `kubernetes.io/config.mirror`: the hash that a static pod's cgroup is called after.
    pub mirror: Option<String>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Whether it still runs or will: a pod that has ended holds no address.
    pub life: Life,
    /// Its containers, with the runtime's ids of those that run and of the ones before them.
    pub containers: Vec<ContainerSeen>,
    /// When the API server made it.
    pub created: Timestamp,
    /// Secrets that it mounts or has in its environment.
    pub secrets: Vec<MountedSecret>,
    /// Ports of its node that lead to it.
    pub host_ports: Vec<u16>,
}

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSeen {
    /// uid.
    pub uid: String,
    /// Its place in the order of changes.
    pub version: Version,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.type`.
    pub kind: String,
    /// Labels of the pods behind it.
    pub selector: BTreeMap<String, String>,
    /// Addresses and names outside of the cluster.
    pub addresses: Vec<String>,
    /// Its ports, for people.
    pub ports: Vec<String>,
}

/// What is kept of an Ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressSeen {
    /// uid.
    pub uid: String,
    /// Its place in the order of changes.
    pub version: Version,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Hosts that it answers for; any where there is none.
    pub hosts: Vec<String>,
    /// Services behind it.
    pub services: BTreeSet<String>,
    /// Where it is reached, as far as told.
    pub addresses: Vec<String>,
}

/// Whether a pod still runs or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Pending, running, unknown.
    Lives,
    /// Succeeded or failed.
    Ended,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSeen {
    /// What people see of it.
    pub facts: ContainerFacts,
    /// Its ids, the running one and the last that ended, without the runtime's prefix.
    pub ids: Vec<String>,
}

/// What is kept of an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerSeen {
    /// Which.
    pub owner: Owner,
    /// Its place in the order of changes.
    pub version: Version,
    /// Its own controller.
    pub above: Option<Owner>,
}

/// What is kept of a request for `pods/exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSeen {
    /// The audit log's name of the request.
    pub audit_id: String,
    /// When the API server was asked.
    pub at: Timestamp,
    /// Who asked.
    pub user: Principal,
    /// From where.
    pub origin: Option<IpAddr>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Words of the command, joined by blanks.
    pub command: String,
}
