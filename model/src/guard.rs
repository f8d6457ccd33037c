//! What a node must leave alone, as its controller knows it: nodes know cgroups and no namespaces.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the pods of one node are, for what the node does on its own authority (I6), and what no command changes either. The whole of it
/// each time; the last that came over the link holds, also while the controller is away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeGuard {
    /// Which word of this controller: each is greater than those before, for logs and status.
    pub generation: u64,
    /// Pods by the uid in their cgroup's path. One that is not named is not known, and nothing is done to it by the node itself (I9).
    pub pods: BTreeMap<String, PodGuard>,
    /// cgroup paths below the cgroup2 mount that policies protect, each with everything below it.
    #[serde(default)]
    pub cgroup_paths: Vec<String>,
    /// systemd units that policies protect.
    #[serde(default)]
    pub units: Vec<String>,
    /// Why the node does nothing at all by itself: what is protected is more than it can be told.
    #[serde(default)]
    pub nothing: Option<String>,
}

/// Whether a node may act on a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "guard", rename_all = "snake_case")]
pub enum PodGuard {
    /// By itself, where a rule asks for it.
    Free,
    /// Only when it is told to.
    Asked {
        /// By what.
        because: String,
    },
    /// Never (I6).
    Never {
        /// By what.
        because: String,
    },
}

impl NodeGuard {
    /// Pods named (I11): nine times what a kubelet runs by default. Those that are protected come first; the others are not known then.
    pub const MAX_PODS: usize = 1024;
    /// cgroup paths and units, each; more is said as [`NodeGuard::nothing`].
    pub const MAX_PLACES: usize = 1024;
    /// Bytes of one path or unit.
    pub const MAX_PLACE: usize = 1024;
    /// Bytes of a reason.
    pub const MAX_BECAUSE: usize = 256;

    /// Whether the same is said, whichever word it is.
    #[must_use]
    pub fn says_as(&self, other: &Self) -> bool {
        (&self.pods, &self.cgroup_paths, &self.units, &self.nothing)
            == (&other.pods, &other.cgroup_paths, &other.units, &other.nothing)
    }

    /// Whether it keeps its bounds (I11).
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let because = |guard: &PodGuard| match guard {
            PodGuard::Free => true,
            PodGuard::Asked { because } | PodGuard::Never { because } => because.len() <= Self::MAX_BECAUSE,
        };
        let places = |list: &[String]| {
            list.len() <= Self::MAX_PLACES && list.iter().all(|one| one.len() <= Self::MAX_PLACE)
        };
        self.pods.len() <= Self::MAX_PODS
            && self.pods.iter().all(|(uid, guard)| uid.len() <= 64 && because(guard))
            && places(&self.cgroup_paths)
            && places(&self.units)
            && self.nothing.as_ref().is_none_or(|because| because.len() <= Self::MAX_BECAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_what_is_beyond_the_bounds_is_known_as_such() {
        let mut guard = NodeGuard::default();
        assert!(guard.is_bounded());
        guard.pods.insert("u".repeat(65), PodGuard::Free);
        assert!(!guard.is_bounded());
        guard.pods.clear();
        guard.pods.extend((0..=NodeGuard::MAX_PODS).map(|n| (n.to_string(), PodGuard::Free)));
        assert!(!guard.is_bounded());
        guard.pods.clear();
        guard.units = vec!["x".repeat(NodeGuard::MAX_PLACE + 1)];
        assert!(!guard.is_bounded());
    }

    #[test]
    fn the_strictest_word_is_the_greatest() {
        let asked = PodGuard::Asked { because: "z".into() };
        let never = PodGuard::Never { because: "a".into() };
        assert!(PodGuard::Free < asked && asked < never);
    }
}
