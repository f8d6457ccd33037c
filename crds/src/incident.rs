//! `Incident`: one story, for triage. The facts that grow (findings, events, the timeline) stay in the controller's store.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Condition, Moment,
    cel::{immutable, rule},
};

/// What an incident is called, and what people said of it. The controller makes incidents; people set `verdict`, `assignee` and
/// `closed`.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hemostat.dev",
    version = "v1alpha1",
    kind = "Incident",
    namespaced,
    derive = "PartialEq",
    status = "IncidentStatus",
    shortname = "inc",
    category = "hemostat",
    doc = "Findings that belong together: what happened, to what, what is done about it, and what people said of it.",
    selectable = ".status.state",
    selectable = ".status.severity",
    printcolumn(name = "Sev", type_ = "string", json_path = ".status.severity"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Conf", type_ = "integer", json_path = ".status.confidence", priority = 1),
    printcolumn(
        name = "Contained",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Contained")].status"#,
        priority = 1
    ),
    printcolumn(name = "Needs", type_ = "string", json_path = ".status.summary.needs", priority = 1),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.summary.target"),
    printcolumn(name = "Playbook", type_ = "string", json_path = ".status.summary.playbook", priority = 1),
    printcolumn(name = "Acts", type_ = "string", json_path = ".status.summary.actions", priority = 1),
    printcolumn(name = "TTC", type_ = "string", json_path = ".status.summary.timeToContain"),
    printcolumn(name = "Technique", type_ = "string", json_path = ".status.summary.technique", priority = 1),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.summary.node", priority = 1),
    printcolumn(name = "Ticket", type_ = "string", json_path = ".status.summary.ticket", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("!has(oldSelf.closed) || has(self.closed)", "a closed incident stays closed; what comes later is another incident"),
    rule("!has(oldSelf.verdict) || has(self.verdict)", "a verdict can be changed and not withdrawn"),
]))]
pub struct IncidentSpec {
    /// What it is called: the title of its weightiest rule.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-validations" = [immutable("the title")]))]
    pub title: String,
    /// Time of the first event.
    #[schemars(extend("x-kubernetes-validations" = [immutable("the time of the first event")]))]
    pub first_event: Moment,
    /// What an analyst said of it. A false positive undoes everything that can be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Who looks after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub assignee: Option<String>,
    /// It is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [immutable("who closed it")]))]
    pub closed: Option<Closed>,
}

/// An analyst's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Which.
    pub is: VerdictName,
    /// Whose: the name by which the API server knows the user who writes it. The admission policy compares.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// An analyst's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VerdictName {
    /// It was an attack.
    TruePositive,
    /// It was not; what was done is undone.
    FalsePositive,
}

/// Who closed it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Closed {
    /// The name by which the API server knows the user who writes it. The admission policy compares.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// Why.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentStatus {
    /// The generation of the spec that was taken in.
    #[serde(default)]
    pub observed_generation: i64,
    /// Where it is in its life.
    pub state: State,
    /// The highest level among its findings.
    pub severity: Severity,
    /// How certain it is, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub confidence: Option<u8>,
    /// What it is about, in full.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub target: String,
    /// Where the attack is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// ATT&CK techniques of its findings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 16)), extend("x-kubernetes-list-type" = "set"))]
    pub techniques: Vec<String>,
    /// Ids of the rules that matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub rules: Vec<String>,
    /// How many findings belong to it.
    #[serde(default)]
    pub findings: u32,
    /// Its runs of playbooks, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub runs: Vec<Run>,
    /// When every containment was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contained: Option<Moment>,
    /// The Incident, as `namespace/name`, in which its story goes on: what was found and done is there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 320))]
    pub merged_into: Option<String>,
    /// What is shown in tables.
    #[serde(default)]
    pub summary: Summary,
    /// `Contained`, `Reversible`, `Escalated`, `Resolved`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Condition::MAX), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where an incident is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Findings, no effect yet.
    Open,
    /// A playbook runs.
    Responding,
    /// The attack is held.
    Contained,
    /// A person must decide before it goes on.
    NeedsApproval,
    /// The playbook came to its end.
    Remediated,
    /// A run failed; what it had done was rolled back, or could not be.
    Failed,
    /// Everything was rolled back.
    RolledBack,
    /// A person closed it.
    Closed,
}

impl From<model::IncidentState> for State {
    fn from(state: model::IncidentState) -> Self {
        match state {
            model::IncidentState::Open => Self::Open,
            model::IncidentState::Responding => Self::Responding,
            model::IncidentState::Contained => Self::Contained,
            model::IncidentState::NeedsApproval => Self::NeedsApproval,
            model::IncidentState::Remediated => Self::Remediated,
            model::IncidentState::Failed => Self::Failed,
            model::IncidentState::RolledBack => Self::RolledBack,
            model::IncidentState::Closed => Self::Closed,
        }
    }
}

/// How bad it is: the levels of Sigma, as Kubernetes writes choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Hardly.
    Low,
    /// Somewhat.
    Medium,
    /// Look at it today.
    High,
    /// Look at it now.
    Critical,
}

impl From<model::Level> for Severity {
    fn from(level: model::Level) -> Self {
        match level {
            model::Level::Informational => Self::Info,
            model::Level::Low => Self::Low,
            model::Level::Medium => Self::Medium,
            model::Level::High => Self::High,
            model::Level::Critical => Self::Critical,
        }
    }
}

/// One run of a playbook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Which.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Of which playbook.
    #[schemars(length(min = 1, max = 253))]
    pub playbook: String,
    /// Where it is.
    pub state: RunState,
    /// Why it may act by itself, or may not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub because: String,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunState {
    /// Recorded only (I8).
    Shadow,
    /// Steps are carried out.
    Running,
    /// Nothing goes on until a person decides.
    Waiting,
    /// Came to its end.
    Succeeded,
    /// A step failed for good.
    Failed,
    /// Its actions are being undone.
    RollingBack,
    /// All of them are undone.
    RolledBack,
    /// A person said no before anything was done.
    Denied,
}

impl From<model::RunState> for RunState {
    fn from(state: model::RunState) -> Self {
        match state {
            model::RunState::Shadow => Self::Shadow,
            model::RunState::Running => Self::Running,
            model::RunState::Waiting => Self::Waiting,
            model::RunState::Succeeded => Self::Succeeded,
            model::RunState::Failed => Self::Failed,
            model::RunState::RollingBack => Self::RollingBack,
            model::RunState::RolledBack => Self::RolledBack,
            model::RunState::Denied => Self::Denied,
        }
    }
}

/// What is shown in tables: short, made by the controller, since a column can neither count nor join. The limits make every line of
/// an incident fit in 80 columns, and in 200 with `-o wide`; [`crate::cut`] holds them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Summary {
    /// What it is about; the namespace is left out where it is the incident's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = Summary::TARGET))]
    pub target: String,
    /// What waits for a person: `Approval`, `Verdict`, `Drift`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 8))]
    pub needs: String,
    /// The playbook that answers it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = Summary::PLAYBOOK))]
    pub playbook: String,
    /// Actions in force, of those planned: `4/5`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 5))]
    pub actions: String,
    /// From the first event until the attack was held: `1.8s`, `3m10s`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 5))]
    pub time_to_contain: String,
    /// The weightiest technique, and how many more there are: `T1496.001+2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 14))]
    pub technique: String,
    /// The node.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = Summary::NODE))]
    pub node: String,
    /// The ticket's name where one was made.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16))]
    pub ticket: String,
}

impl Summary {
    /// Longest target in a table.
    pub const TARGET: usize = 22;
    /// Longest name of a playbook in a table.
    pub const PLAYBOOK: usize = 20;
    /// Longest name of a node in a table.
    pub const NODE: usize = 20;
}
