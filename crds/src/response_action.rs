//! `ResponseAction`: one action of one run. It is the journal in the API server: written before each effect, and kept by its finalizer
//! until what was done is undone or accepted.

use kube::CustomResource;
use model::ActionState;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    ActionName, Condition, Moment, Parameters, Radius,
    cel::{immutable, rule, rule_at},
};

/// Keeps a [`ResponseAction`] from being deleted while its effect is in force.
pub const FINALIZER: &str = "hemostat.dev/revert";

/// What is done, which never changes, and how it ends, which a person may say.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hemostat.dev",
    version = "v1alpha1",
    kind = "ResponseAction",
    namespaced,
    derive = "PartialEq",
    status = "ResponseActionStatus",
    shortname = "ract",
    category = "hemostat",
    doc = "One action of one run: what it does to which one thing, what was captured before, where it is in its life, and its undo.",
    selectable = ".status.state",
    selectable = ".spec.plan.incident",
    selectable = ".spec.plan.node",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.plan.action"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Undo", type_ = "string", json_path = ".spec.plan.undo.class", priority = 1),
    printcolumn(name = "Incident", type_ = "string", json_path = ".spec.plan.incident", priority = 1),
    printcolumn(name = "Step", type_ = "string", json_path = ".spec.plan.step", priority = 1),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.summary.target", priority = 1),
    printcolumn(name = "Took", type_ = "string", json_path = ".status.summary.took", priority = 1),
    printcolumn(name = "Detail", type_ = "string", json_path = ".status.summary.detail", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("!has(oldSelf.end) || has(self.end)", "what was said of the end cannot be withdrawn"),
]))]
pub struct ResponseActionSpec {
    /// What is done.
    #[schemars(extend("x-kubernetes-validations" = [
        immutable("the plan of an action"),
        rule_at(".approval", "self.undo.class in ['Exact', 'Nothing'] || has(self.approval) || has(self.standingApproval)",
            "what cannot be undone exactly needs an approval or a standing approval (I5)"),
        rule_at(".undo", "self.undo.class in ['Exact', 'Nothing'] || (has(self.undo.residual) && self.undo.residual != '')",
            "what cannot be undone exactly says what stays lost (I5)"),
    ]))]
    pub plan: Plan,
    /// What becomes of it, where a person says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        rule_at(".how", "oldSelf.how != 'Revert' || self.how == 'Revert'", "an undo that was asked for cannot be called off"),
    ]))]
    pub end: Option<End>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The incident; none while a node acts on its own authority and no incident exists yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub incident: Option<String>,
    /// The run; none for a node's own reaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub run: Option<String>,
    /// The step of the playbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub step: Option<String>,
    /// What.
    #[schemars(schema_with = "known_action")]
    pub action: ActionName,
    /// To what.
    pub target: ActionTarget,
    /// The node that does it; none for what is done in the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// With which parameters.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub with: Parameters,
    /// How well it can be undone.
    pub undo: Undo,
    /// How much it touches (I6).
    pub radius: Radius,
    /// The same key is carried out at most once.
    #[schemars(length(min = 8, max = 128), regex(pattern = r"^[A-Za-z0-9._:/-]+$"))]
    pub key: String,
    /// Not begun after this.
    pub deadline: Moment,
    /// The Approval by which it may be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub approval: Option<String>,
    /// The ResponsePolicy whose standing approval covers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub standing_approval: Option<String>,
}

/// What playbooks may ask for, and what an agent does by itself.
fn known_action(_: &mut SchemaGenerator) -> Schema {
    let all: Vec<&str> = ActionName::KNOWN.into_iter().chain(["node.stop"]).collect();
    json_schema!({ "type": "string", "enum": all })
}

/// The one certain thing that is touched (I9): exactly one part is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("[has(self.process), has(self.cgroup), has(self.file), has(self.object), has(self.account), has(self.channel)]\
          .filter(given, given).size() == 1",
        "exactly one of process, cgroup, file, object, account and channel is the target (I9)"),
]))]
pub struct ActionTarget {
    /// A process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessTarget>,
    /// A container, service or other cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupTarget>,
    /// A file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTarget>,
    /// An object of the API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectTarget>,
    /// An account of the API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountTarget>,
    /// A place where people are told, by the name that the controller's configuration gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub channel: Option<String>,
}

/// A process, by pid and start time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessTarget {
    /// Process id in the node's initial pid namespace. Never 1.
    #[schemars(range(min = 2))]
    pub pid: u32,
    /// Nanoseconds from boot to its start.
    pub start: u64,
}

/// A cgroup, by id and path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CgroupTarget {
    /// Inode number of its folder.
    #[schemars(range(min = 1))]
    pub id: u64,
    /// Path below the cgroup2 mount.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// A file, by path and identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileTarget {
    /// Absolute path in the node's initial mount namespace.
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^/"))]
    pub path: String,
    /// Inode number.
    pub inode: u64,
    /// Device.
    pub device: u64,
}

/// An object, by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectTarget {
    /// For example `v1` or `apps/v1`.
    #[schemars(length(min = 1, max = 253))]
    pub api_version: String,
    /// For example `Pod`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Where it is namespaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which of those that ever had that name.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// An account, by the name under which RBAC knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountTarget {
    /// `User`, `Group` or `ServiceAccount`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Of a service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
}

/// How well it can be undone (I5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// In one word.
    pub class: UndoClass,
    /// What stays lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub residual: Option<String>,
}

/// How well it can be undone (I5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UndoClass {
    /// The undo restores exactly what was.
    Exact,
    /// The service comes back, not the same thing (a new pod for a deleted one).
    Compensable,
    /// What it took is gone.
    Irreversible,
    /// It changes nothing.
    Nothing,
}

/// What a person says of the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// What becomes of it.
    pub how: Ending,
    /// What happens where the target changed since.
    #[serde(default)]
    pub on_drift: OnDrift,
    /// The name by which the API server knows the user who writes it. The admission policy compares.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// What becomes of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Ending {
    /// It is undone.
    Revert,
    /// It stays, and is no longer Hemostat's.
    Accept,
}

/// What an undo does where the target changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnDrift {
    /// Nothing: the three states are shown and a person decides.
    #[default]
    Ask,
    /// What was captured is restored all the same.
    Overwrite,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".capture", "self.state in ['Planned', 'Failed', 'Vacuous'] || has(self.capture)",
        "no action goes on without its captured state (I4)"),
    rule_at(".capture", "!has(oldSelf.capture) || (has(self.capture) && self.capture == oldSelf.capture)",
        "what was captured cannot be changed (I4)"),
    rule_at(".state", "!(oldSelf.state in ['Reverted', 'Vacuous']) || self.state == oldSelf.state",
        "an action that is undone, or whose target is gone, stays so"),
]))]
pub struct ResponseActionStatus {
    /// The generation of the spec that was taken in.
    #[serde(default)]
    pub observed_generation: i64,
    /// Where it is in its life.
    #[schemars(with = "StateName")]
    pub state: ActionState,
    /// The target, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub target: String,
    /// What the undo needs, stored and read back before the effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// When its effect was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Moment>,
    /// What is shown in tables.
    #[serde(default)]
    pub summary: Summary,
    /// Where the target is not as we left it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub drift: Vec<Drift>,
    /// Last word on it: why it failed, what drifted, where the evidence lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub detail: String,
    /// `Applied`, `Verified`, `Reverted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Condition::MAX), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What is shown in tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Summary {
    /// The target.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 22))]
    pub target: String,
    /// From the plan to the effect: `12ms`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 7))]
    pub took: String,
    /// The last word on it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32))]
    pub detail: String,
}

/// [`ActionState`] for the schema.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum StateName {
    /// Decided, nothing captured.
    Planned,
    /// Rollback state stored and read back (I4).
    Prepared,
    /// The effect may have begun.
    Applying,
    /// Done.
    Applied,
    /// Its effect was observed.
    Verified,
    /// Its effect could not be observed; still to be rolled back.
    Unverified,
    /// It could not be done; nothing of it is in force.
    Failed,
    /// The undo may have begun.
    Reverting,
    /// Exactly as before.
    Reverted,
    /// The target changed meanwhile: a person decides.
    RevertBlocked,
    /// The target is gone, so there is nothing to undo.
    Vacuous,
}

/// What the undo needs: here where it is small and no secret, else where it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.here) || has(self.stored)", "what was captured is here or stored elsewhere"),
]))]
pub struct Capture {
    /// When.
    pub at: Moment,
    /// SHA-256 of it.
    #[schemars(length(max = 71), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// Itself, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub here: Option<String>,
    /// Its place in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub stored: Option<String>,
}

/// One difference: what was, what we made of it, what is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// Which field.
    #[schemars(length(min = 1, max = 256))]
    pub field: String,
    /// Before us.
    #[schemars(length(max = 256))]
    pub before: String,
    /// Ours.
    #[schemars(length(max = 256))]
    pub ours: String,
    /// Now.
    #[schemars(length(max = 256))]
    pub now: String,
}
