//! The catalogue: what playbooks may ask a node for, with which parameters, and how well each can be undone.

mod cluster;

pub use cluster::ClusterKind;
pub(crate) use cluster::is_system;
use crds::{Memory, Parameters, Radius, Scope, TargetKind};
use ipnet::IpNet;
use model::{
    BlockDestination, CaptureEvidence, FreezeScope, KillScope, MemoryCapture, NetQuarantine, NodeAction,
    Target, UndoClass,
};

/// An action that a playbook can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the model's action of the same name")]
pub enum ActionKind {
    Freeze,
    Kill,
    NetQuarantine,
    BlockDestination,
    DestroySockets,
    QuarantineFile,
    CaptureEvidence,
    /// In the API server.
    Cluster(ClusterKind),
}

/// What an action is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Holds the attack; undone exactly.
    Contain,
    /// Keeps what is needed to judge the case; changes nothing.
    Evidence,
    /// Ends something for good, or puts something else in its place.
    Eradicate,
    /// Makes something known in the cluster, or keeps others from undoing the rest; holds nobody by itself.
    Mark,
    /// Tells people.
    Tell,
}

impl ActionKind {
    /// Those of a node, in the order of docs/playbooks.md.
    const OF_NODES: [Self; 7] = [
        Self::Freeze,
        Self::Kill,
        Self::NetQuarantine,
        Self::BlockDestination,
        Self::DestroySockets,
        Self::QuarantineFile,
        Self::CaptureEvidence,
    ];

    /// All, in the order of docs/playbooks.md.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OF_NODES.into_iter().chain(ClusterKind::ALL.into_iter().map(Self::Cluster))
    }

    /// By the name that playbooks use.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.name() == name)
    }

    /// The name that playbooks use.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.example().name()
    }

    /// How well it can be undone (I5).
    #[must_use]
    pub fn undo(self) -> UndoClass {
        self.example().undo()
    }

    /// What it is for.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Cluster(kind) => kind.purpose(),
            Self::Freeze | Self::NetQuarantine | Self::BlockDestination | Self::QuarantineFile => {
                Purpose::Contain
            }
            Self::CaptureEvidence => Purpose::Evidence,
            Self::Kill | Self::DestroySockets => Purpose::Eradicate,
        }
    }

    /// MITRE D3FEND technique.
    #[must_use]
    pub fn d3fend(self) -> &'static str {
        match self {
            Self::Freeze => "D3-PS",
            Self::Kill => "D3-PT",
            Self::NetQuarantine => "D3-NI",
            Self::BlockDestination => "D3-OTF",
            Self::DestroySockets => "D3-ST",
            Self::QuarantineFile => "D3-CQ",
            Self::CaptureEvidence => "D3-PA",
            Self::Cluster(kind) => kind.d3fend(),
        }
    }

    /// Kinds of target that it takes; the first is the default.
    #[must_use]
    pub fn targets(self) -> &'static [TargetKind] {
        match self {
            Self::Freeze | Self::CaptureEvidence => &[TargetKind::Process, TargetKind::Cgroup],
            Self::Kill => &[TargetKind::Process],
            Self::NetQuarantine | Self::BlockDestination => &[TargetKind::Cgroup],
            Self::DestroySockets => &[TargetKind::Cgroup, TargetKind::Process],
            Self::QuarantineFile => &[TargetKind::File],
            Self::Cluster(kind) => kind.targets(),
        }
    }

    /// Parameters that it takes.
    #[must_use]
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Freeze | Self::Kill => &["scope"],
            Self::NetQuarantine => &["allow"],
            Self::BlockDestination => &["destination", "port"],
            Self::CaptureEvidence => &["memory"],
            Self::DestroySockets | Self::QuarantineFile => &[],
            Self::Cluster(kind) => kind.parameters(),
        }
    }

    /// Scopes that it takes.
    #[must_use]
    pub fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Freeze => &[Scope::Subtree, Scope::Cgroup],
            Self::Kill => &[Scope::Subtree, Scope::Process],
            _ => &[],
        }
    }

    /// What it cannot do without, where neither the step nor the incident tells it.
    #[must_use]
    pub fn needs(self) -> &'static str {
        match self {
            Self::BlockDestination => "destination",
            Self::Cluster(ClusterKind::DenyImage | ClusterKind::ScanImage) => "image",
            Self::Cluster(ClusterKind::Label) => "labels",
            _ => "parameters",
        }
    }

    /// Whether it is done in the API server and not on the incident's node.
    #[must_use]
    pub fn in_cluster(self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    fn example(self) -> NodeAction {
        let anywhere = IpNet::from(std::net::IpAddr::from([0, 0, 0, 0]));
        match self {
            Self::Freeze => NodeAction::Freeze(FreezeScope::default()),
            Self::Kill => NodeAction::Kill(KillScope::default()),
            Self::NetQuarantine => NodeAction::NetQuarantine(NetQuarantine::default()),
            Self::BlockDestination => {
                NodeAction::BlockDestination(BlockDestination { destination: anywhere, port: None })
            }
            Self::DestroySockets => NodeAction::DestroySockets,
            Self::QuarantineFile => NodeAction::QuarantineFile,
            Self::CaptureEvidence => NodeAction::CaptureEvidence(CaptureEvidence::default()),
            Self::Cluster(kind) => NodeAction::Cluster(kind.example()),
        }
    }
}

/// The names of the parameters that are given.
#[must_use]
pub fn given(with: &Parameters) -> Vec<&'static str> {
    [
        ("scope", with.scope.is_some()),
        ("allow", with.allow.is_some()),
        ("destination", with.destination.is_some()),
        ("port", with.port.is_some()),
        ("memory", with.memory.is_some()),
        ("form", with.form.is_some()),
        ("labels", with.labels.is_some()),
        ("effect", with.effect.is_some()),
        ("replicas", with.replicas.is_some()),
        ("image", with.image.is_some()),
        ("lines", with.lines.is_some()),
        ("channel", with.channel.is_some()),
        ("message", with.message.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

/// The action with its parameters; `destination` and `image` are what `with` or the incident says. `None`: what the action cannot
/// do without ([`ActionKind::needs`]) is not known.
#[must_use]
pub fn build(kind: ActionKind, target: TargetKind, with: &Parameters) -> Option<NodeAction> {
    Some(match kind {
        ActionKind::Freeze => NodeAction::Freeze(match (with.scope, target) {
            (Some(Scope::Cgroup), _) | (None, TargetKind::Cgroup) => FreezeScope::Cgroup,
            _ => FreezeScope::Subtree,
        }),
        ActionKind::Kill => NodeAction::Kill(match with.scope {
            Some(Scope::Process) => KillScope::Process,
            _ => KillScope::Subtree,
        }),
        ActionKind::NetQuarantine => NodeAction::NetQuarantine(NetQuarantine {
            allow: with.allow.iter().flatten().map(|network| network.0).collect(),
        }),
        ActionKind::BlockDestination => NodeAction::BlockDestination(BlockDestination {
            destination: with.destination?.0,
            port: with.port,
        }),
        ActionKind::DestroySockets => NodeAction::DestroySockets,
        ActionKind::QuarantineFile => NodeAction::QuarantineFile,
        ActionKind::CaptureEvidence => NodeAction::CaptureEvidence(CaptureEvidence { memory: memory(with) }),
        ActionKind::Cluster(kind) => NodeAction::Cluster(kind.build(with)?),
    })
}

fn memory(with: &Parameters) -> MemoryCapture {
    match with.memory {
        Some(Memory::Private) => MemoryCapture::Private,
        Some(Memory::None) | None => MemoryCapture::None,
    }
}

/// How much an action touches.
#[must_use]
pub fn radius(action: &NodeAction, target: &Target) -> Radius {
    match (action, target) {
        (NodeAction::Freeze(FreezeScope::Cgroup), _) | (_, Target::Cgroup { .. }) => Radius::Workload,
        (_, Target::Account(_)) => Radius::Credential,
        (_, Target::Object(object)) => match (object.kind.as_str(), &object.namespace) {
            ("Namespace", _) => Radius::Namespace,
            ("Node", _) => Radius::Node,
            (kind, Some(_)) if kind == "Pod" || WORKLOADS.contains(&kind) => Radius::Workload,
            (_, Some(_)) => Radius::Namespace,
            (_, None) => Radius::Cluster,
        },
        _ => Radius::Process,
    }
}

/// The same of a kind of target, as far as a playbook tells it.
#[must_use]
pub(crate) fn radius_of_kind(target: TargetKind) -> Radius {
    match target {
        TargetKind::Process | TargetKind::File | TargetKind::Channel => Radius::Process,
        TargetKind::Cgroup | TargetKind::Pod | TargetKind::Workload => Radius::Workload,
        TargetKind::Account => Radius::Credential,
        // an object of the whole cluster is refused when it is known which it is
        TargetKind::Namespace | TargetKind::Object => Radius::Namespace,
        TargetKind::Node => Radius::Node,
    }
}

/// Kinds of object that keep pods.
pub(crate) const WORKLOADS: [&str; 6] =
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"];

/// One line for people: what is done to what.
#[must_use]
pub fn describe(action: &NodeAction, target: &Target) -> String {
    let extra = match action {
        NodeAction::Freeze(FreezeScope::Subtree) | NodeAction::Kill(KillScope::Subtree) => {
            " with its descendants".into()
        }
        NodeAction::Freeze(FreezeScope::Cgroup) => " with everything in its cgroup".into(),
        NodeAction::BlockDestination(block) => match block.port {
            Some(port) => format!(": {} port {port}", block.destination),
            None => format!(": {}", block.destination),
        },
        NodeAction::NetQuarantine(quarantine) if !quarantine.allow.is_empty() => {
            let allowed: Vec<String> = quarantine.allow.iter().map(ToString::to_string).collect();
            format!(" except {}", allowed.join(", "))
        }
        NodeAction::CaptureEvidence(CaptureEvidence { memory: MemoryCapture::Private }) => {
            " with memory".into()
        }
        NodeAction::Cluster(action) => cluster::extra(action),
        _ => String::new(),
    };
    format!("{} {target}{extra}", action.name())
}

#[cfg(test)]
mod tests {
    use crds::ActionName;

    use super::*;

    #[test]
    fn the_catalogue_is_what_the_resource_names() {
        assert_eq!(ActionKind::all().map(ActionKind::name).collect::<Vec<_>>(), ActionName::KNOWN);
        for kind in ActionKind::all() {
            assert_eq!(ActionKind::named(kind.name()), Some(kind));
        }
        assert_eq!(ActionKind::named("node.stop"), None);
    }
}
