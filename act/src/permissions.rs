//! What each action needs of RBAC, as data: ClusterRoles are made from it, so that nobody has more than the enabled actions need.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::actions;

/// One permission: verbs on resources of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// API group; empty for the core group.
    pub group: String,
    /// Resources, plural, with their subresource where it is one.
    pub resources: Vec<String>,
    /// What may be done.
    pub verbs: Vec<String>,
}

pub(crate) fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Rule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Rule { group: group.into(), resources: owned(resources), verbs: owned(verbs) }
}

/// What `cluster.collect-evidence` needs for `memory: Private` besides. Whoever may speak to kubelets through the API server may run
/// commands in every pod, so it is a right of its own, which is not given with the action.
pub const CHECKPOINT: &str = "cluster.collect-evidence-memory";
/// What `cluster.scan-image` needs in our own namespace only.
pub const SCAN_OWN: &str = "cluster.scan-image@own";
/// Rights that are not those of an action of the same name.
pub const FURTHER: [&str; 2] = [CHECKPOINT, SCAN_OWN];

/// What an action of that name needs; nothing for those of a node and for notifications.
#[must_use]
pub fn needed(action: &str) -> Vec<Rule> {
    actions::permissions(action)
}

/// What the executor itself needs, whichever actions are enabled: to know who it is, which it never acts against. The API server lets
/// every authenticated user ask that, so the list is empty; it is here so that it can be said.
pub const OWN: [Rule; 0] = [];

/// A ClusterRole for these actions, as JSON. The same permissions are named once.
#[must_use]
pub fn cluster_role(name: &str, actions: impl IntoIterator<Item = impl AsRef<str>>) -> Value {
    let mut verbs: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for action in actions {
        for rule in needed(action.as_ref()) {
            for resource in rule.resources {
                verbs.entry((rule.group.clone(), resource)).or_default().extend(rule.verbs.iter().cloned());
            }
        }
    }
    // Resources of one group with the same verbs are one rule.
    let mut joined: BTreeMap<(String, BTreeSet<String>), Vec<String>> = BTreeMap::new();
    for ((group, resource), verbs) in verbs {
        joined.entry((group, verbs)).or_default().push(resource);
    }
    let rules: Vec<Value> = joined
        .into_iter()
        .map(|((group, verbs), resources)| json!({"apiGroups": [group], "resources": resources, "verbs": verbs}))
        .collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "hemostat"}},
        "rules": rules,
    })
}
