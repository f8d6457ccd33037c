//! `Playbook`: when to respond, with which steps, and what holds while they run.

use std::{borrow::Cow, fmt};

use kube::CustomResource;
use model::Level;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{ActionName, Observe, Parameters, ParametersFrom, Period, PlaybookStatus, TargetSpec, cel::rule};

/// A response to one kind of attack, as a graph of steps. docs/playbooks.md explains every field.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hemostat.dev",
    version = "v1alpha1",
    kind = "Playbook",
    derive = "PartialEq",
    status = "PlaybookStatus",
    shortname = "pb",
    category = "hemostat",
    doc = "A response to one kind of attack: when it applies and the steps that contain it, each with its undo.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "In force", type_ = "string", json_path = ".status.mode"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.running"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Judged", type_ = "integer", json_path = ".status.judged", priority = 1),
    printcolumn(name = "Right", type_ = "integer", json_path = ".status.right", priority = 1),
    printcolumn(
        name = "Technique",
        type_ = "string",
        json_path = ".spec.trigger.techniques[0]",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaybookSpec {
    /// What it is for, in a sentence or two.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub description: String,
    /// What it may do by itself.
    #[serde(default)]
    pub mode: Mode,
    /// For which incidents.
    pub trigger: Trigger,
    /// The most that it may touch (I6).
    #[serde(default)]
    pub blast_radius: BlastRadius,
    /// No step begins later than this after the start. Longer than the approvals that it waits for.
    #[serde(default = "PlaybookSpec::default_maximum_duration")]
    pub maximum_duration: Period,
    /// The steps. Order in the file does not matter: `needs` does.
    #[schemars(
        length(min = 1, max = 64),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"],
            "x-kubernetes-validations" = [
                rule("self.all(step, !has(step.needs) || step.needs.all(need, self.exists(other, other.name == need)))",
                    "needs names a step that is not in the playbook"),
                rule("self.exists(step, !has(step.needs) || step.needs.size() == 0)",
                    "every step needs another one, so none can begin: needs has a cycle"),
            ]
        )
    )]
    pub steps: Vec<Step>,
}

impl PlaybookSpec {
    /// When the playbook says nothing.
    #[must_use]
    pub fn default_maximum_duration() -> Period {
        Period::seconds(3600)
    }
}

/// What a playbook may do by itself.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
pub enum Mode {
    /// Nothing: what it would do is recorded.
    #[default]
    Shadow,
    /// Everything, once a person has said yes.
    Approve,
    /// What can be undone exactly, and what has a standing approval.
    Auto,
}

/// For which incidents a playbook is meant. Every part that is given must hold; at least one of `rules`,
/// `techniques`, `minimumLevel` and `when` is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("(has(self.rules) && self.rules.size() > 0) || (has(self.techniques) && self.techniques.size() > 0) \
          || has(self.minimumLevel) || has(self.when)",
        "at least one of rules, techniques, minimumLevel and when is given"),
]))]
pub struct Trigger {
    /// Ids of rules, one of which must have matched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 128)))]
    pub rules: Vec<String>,
    /// ATT&CK technique ids, one of which a rule that matched must name. `T1059` covers `T1059.004`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 16), regex(pattern = r"^T[0-9]{4}(\.[0-9]{3})?$")))]
    pub techniques: Vec<String>,
    /// The least level of the rule that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<LevelName>")]
    pub minimum_level: Option<Level>,
    /// CEL over `incident`, `findings`, `finding`, `process` and `node`; true or false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Cel>,
}

/// [`Level`] for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum LevelName {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

/// A CEL expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cel(pub String);

impl JsonSchema for Cel {
    fn schema_name() -> Cow<'static, str> {
        "Cel".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": Cel::MAX_LENGTH })
    }

    fn inline_schema() -> bool {
        true
    }
}

impl Cel {
    /// Bytes of one expression, at most (I11).
    pub const MAX_LENGTH: usize = 2048;
}

/// The most that a run may touch (I6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BlastRadius {
    /// The widest thing that one action touches.
    pub widest: Radius,
    /// Different things that one run touches, at most.
    #[schemars(range(min = 1, max = 64))]
    pub maximum_targets: u32,
    /// Shortest prefix of a blocked IPv4 network.
    #[schemars(range(min = 8, max = 32))]
    pub shortest_prefix_v4: u8,
    /// Shortest prefix of a blocked IPv6 network.
    #[schemars(range(min = 16, max = 128))]
    pub shortest_prefix_v6: u8,
}

impl Default for BlastRadius {
    fn default() -> Self {
        Self { widest: Radius::Workload, maximum_targets: 4, shortest_prefix_v4: 32, shortest_prefix_v6: 128 }
    }
}

/// How much one action touches, narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Radius {
    /// A process with its descendants, or one file.
    Process,
    /// Everything in one container, service or other cgroup; one pod, or one workload of pods.
    Workload,
    /// One account: what it may do, wherever it is used.
    Credential,
    /// One namespace.
    Namespace,
    /// One node: what may come to it.
    Node,
    /// What holds in the whole cluster.
    Cluster,
}

impl fmt::Display for Radius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "Process",
            Self::Workload => "Workload",
            Self::Credential => "Credential",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Cluster => "Cluster",
        })
    }
}

/// One node of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("!has(self.needs) || !(self.name in self.needs)", "a step cannot need itself"),
]))]
pub struct Step {
    /// Unique in the playbook: lower-case letters, digits and underscores, a letter first (so that CEL can name it).
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z][a-z0-9_]*$"))]
    pub name: String,
    /// What to do.
    pub action: ActionName,
    /// To what; the action's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetSpec>,
    /// Parameters as they stand.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub with: Parameters,
    /// Parameters by CEL, evaluated when the step begins.
    #[serde(default, skip_serializing_if = "ParametersFrom::is_empty")]
    pub with_from: ParametersFrom,
    /// Steps that must have come to a good end before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 40)))]
    pub needs: Vec<String>,
    /// CEL: true or false; evaluated once the needed steps are done. False skips the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Cel>,
    /// How its effect is observed.
    #[serde(default)]
    pub verify: Verify,
    /// What the sensors are watched for once its effect was seen; nothing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<Observe>,
    /// From its beginning to its verified effect; waiting for a person does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// What becomes of the run when the step fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Whether a person is asked.
    #[serde(default)]
    pub approval: Approval,
    /// What to do instead when the action fails, its effect is not seen or a sign is observed that the attack goes on, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub alternatives: Vec<Alternative>,
}

/// Another way to the same end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alternative {
    /// What to do.
    pub action: ActionName,
    /// To what; the action's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetSpec>,
    /// Parameters as they stand.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub with: Parameters,
    /// Parameters by CEL.
    #[serde(default, skip_serializing_if = "ParametersFrom::is_empty")]
    pub with_from: ParametersFrom,
}

/// How a step's effect is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Verify {
    /// What an effect that is not seen means.
    pub policy: VerifyPolicy,
    /// How often the node is asked.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// Between two looks.
    pub interval: Period,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            policy: VerifyPolicy::Required,
            attempts: 3,
            interval: Period(std::time::Duration::from_millis(200)),
        }
    }
}

/// What an effect that is not seen means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VerifyPolicy {
    /// The step's alternatives are tried; without one the step has failed.
    Required,
    /// The step's alternatives are tried; without one it is recorded and the run goes on.
    Observe,
    /// Nobody looks.
    Skip,
}

/// What becomes of the run when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// Nothing new begins; what is in force stays in force; a person is told.
    #[default]
    Stop,
    /// Steps that need it are skipped; the others go on.
    Continue,
    /// Nothing new begins, and everything that can be undone exactly is undone.
    Rollback,
}

/// Whether a person is asked before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum Approval {
    /// Only if the mode, a policy or the action's undo class asks for it.
    #[default]
    AsNeeded,
    /// Always.
    Required,
}
