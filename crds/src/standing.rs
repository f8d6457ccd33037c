//! What the cluster says of playbooks and policies. In a folder they have no status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Mode};

/// What was observed of a playbook.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PlaybookStatus {
    /// The generation of the spec that was taken in.
    pub observed_generation: i64,
    /// The mode in force: a demotion may have made it stricter than the spec's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Runs that analysts judged.
    pub judged: u32,
    /// How many of them were right.
    pub right: u32,
    /// Runs that go on now.
    pub running: u32,
    /// `Accepted` (it can be run: its graph, its expressions and its parameters are right), `OnNodes` (every node with an agent goes by it as it stands), `Equipped` (this controller has the channels and the
    /// scanner that its steps name; a step whose own is missing fails, and the run goes on as its `onFailure` says), `Promotable`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Condition::MAX), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What was observed of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ResponsePolicyStatus {
    /// The generation of the spec that was taken in.
    pub observed_generation: i64,
    /// `Accepted`, `Conflicting` (another policy speaks of the same incidents; the strictest word holds).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Condition::MAX), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
