//! `ResponsePolicy`: what the owner of workloads allows, whatever a playbook says.

use kube::CustomResource;
use model::Level;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ActionName, Mode, Moment, Network, Period, PromotionRules, Radius, ResponsePolicyStatus, cel::rule_at,
    playbook::LevelName,
};

/// What may be done to which workloads. Of several policies that match, the strictest word wins; none widens what the
/// playbook says.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hemostat.dev",
    version = "v1alpha1",
    kind = "ResponsePolicy",
    plural = "responsepolicies",
    namespaced,
    derive = "PartialEq",
    status = "ResponsePolicyStatus",
    shortname = "rpol",
    category = "hemostat",
    doc = "What may be done to which workloads, by whom it is approved, and what is never touched.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Widest", type_ = "string", json_path = ".spec.widest"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Conflicting",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Conflicting")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Runs/h", type_ = "integer", json_path = ".spec.budgets.runsPerHour", priority = 1),
    printcolumn(
        name = "Acts/h",
        type_ = "integer",
        json_path = ".spec.budgets.actionsPerHour",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ResponsePolicySpec {
    /// Which incidents it speaks of; all when empty.
    #[serde(rename = "match")]
    pub matches: Match,
    /// The most that any playbook may do by itself here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The widest thing that one action may touch here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widest: Option<Radius>,
    /// Who says yes, and how long is waited.
    pub approvals: Approvals,
    /// Incidents for which nothing is done; what would be done is recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub exclusions: Vec<Exclusion>,
    /// How much may be done automatically.
    pub budgets: Budgets,
    /// What the gate asks of the evidence (docs/gate.md).
    pub gate: GateRules,
    /// What a playbook has to show before its next mode is proposed.
    #[serde(skip_serializing_if = "PromotionRules::is_empty")]
    pub promotion: PromotionRules,
    /// Times of planned work, in which a person is asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub maintenance: Vec<Maintenance>,
    /// What is never touched, besides what Hemostat protects by itself.
    pub protected: Protected,
    /// Irreversible actions that need no asking.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub standing_approvals: Vec<StandingApproval>,
}

/// Which incidents a policy speaks of. Every part that is given must hold; within a part one entry suffices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// cgroup paths below the cgroup2 mount; each covers everything below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub cgroup_paths: Vec<String>,
    /// systemd units, for example `nginx.service`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 256)))]
    pub units: Vec<String>,
    /// Container ids or the first 12 or more characters of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 12, max = 64)))]
    pub containers: Vec<String>,
    /// Kubernetes pod uids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 64)))]
    pub pods: Vec<String>,
    /// Levels of the incident.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), with = "Vec<LevelName>")]
    pub levels: Vec<Level>,
    /// ATT&CK technique ids. `T1059` covers `T1059.004`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 16), regex(pattern = r"^T[0-9]{4}(\.[0-9]{3})?$")))]
    pub techniques: Vec<String>,
    /// Names of playbooks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub playbooks: Vec<String>,
}

impl Match {
    /// Nothing is given: everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Who says yes, and how long is waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Approvals {
    /// `user:<name>` or `group:<name>` of each; anybody with access to the controller when empty. Only a cluster knows groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256), regex(pattern = r"^(user|group):.+$")))]
    pub approvers: Vec<String>,
    /// An approval that nobody gave is denied after this.
    pub timeout: Period,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { approvers: Vec::new(), timeout: Period::seconds(900) }
    }
}

/// Incidents for which nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".match",
        "(has(self.match.cgroupPaths) && self.match.cgroupPaths.size() > 0) || (has(self.match.units) && self.match.units.size() > 0) \
         || (has(self.match.containers) && self.match.containers.size() > 0) || (has(self.match.pods) && self.match.pods.size() > 0) \
         || (has(self.match.levels) && self.match.levels.size() > 0) || (has(self.match.techniques) && self.match.techniques.size() > 0) \
         || (has(self.match.playbooks) && self.match.playbooks.size() > 0)",
        "an exclusion says of which incidents: one that covers all would be the mode Shadow"),
]))]
pub struct Exclusion {
    /// Which; at least one part is given.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Why, for those who read it in a year.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// It holds until then; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

/// How much may be done automatically; beyond it a person is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Budgets {
    /// Runs that start by themselves within an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub runs_per_hour: Option<u32>,
    /// Actions that runs make by themselves within an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub actions_per_hour: Option<u32>,
    /// Runs that start by themselves within an hour in the namespace of the incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub runs_per_hour_and_namespace: Option<u32>,
    /// Actions that runs make by themselves within an hour in the namespace of the incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub actions_per_hour_and_namespace: Option<u32>,
}

/// What the gate asks of the evidence. Of several policies the strictest word wins, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GateRules {
    /// What a signal that falls short does; `Enforced` when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceRule>,
    /// What holds while too little was judged; `Act` when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beginning: Option<BeginningRule>,
    /// Judged runs of a playbook from which on its accuracy counts; 20 when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub judged_runs: Option<u32>,
    /// Different targets that one playbook may want within ten minutes before a person is asked; 10 when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub targets: Option<u32>,
    /// Different namespaces in which one actor may be seen within an hour before a person is asked; 4 when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub namespaces: Option<u32>,
}

/// What a signal of the gate that falls short does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
pub enum EvidenceRule {
    /// It is shown, and does not keep a run from acting: for drills, where judgements are of exercises.
    Shown,
    /// A person is asked.
    #[default]
    Enforced,
}

/// What holds while too little was judged.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
pub enum BeginningRule {
    /// Whoever set the playbook's mode to Auto vouches for it, until a verdict says otherwise.
    #[default]
    Act,
    /// Nobody vouches: a person is asked until enough was judged.
    Ask,
}

/// A time of planned work: what looks like an attack may be it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Maintenance {
    /// It begins.
    pub from: Moment,
    /// It ends.
    pub until: Moment,
    /// It comes again after so long, for example `7d`; once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Period>,
    /// Why, for those who are asked.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
}

/// What is never touched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Protected {
    /// cgroup paths below the cgroup2 mount; each covers everything below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub cgroup_paths: Vec<String>,
    /// systemd units.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 256)))]
    pub units: Vec<String>,
    /// Files and folders; each covers everything below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 4096)))]
    pub paths: Vec<String>,
    /// Networks that are never blocked: resolvers, control planes, update mirrors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub networks: Vec<Network>,
    /// Namespaces with all that is in them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Accounts, by the names under which the API server knows them: `dana`, `system:serviceaccount:ci:deployer`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 256)))]
    pub accounts: Vec<String>,
}

/// An irreversible action that needs no asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StandingApproval {
    /// Which action.
    pub action: ActionName,
    /// Of which playbooks.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)))]
    pub playbooks: Vec<String>,
    /// Who answers for it: `user:<name>`.
    #[schemars(length(max = 256), regex(pattern = r"^user:.+$"))]
    pub approved_by: String,
    /// Why.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// It holds until then. There is none without an end.
    pub expires: Moment,
}
