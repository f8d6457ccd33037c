//! `Approval`: a question to a person, and the answer. The request never changes; the answer is given once, by its writer, who is not the
//! one who asked (deploy/admission).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Condition, Moment,
    cel::{immutable, rule, rule_at, rule_from_the_start},
};

/// The question and the answer.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hemostat.dev",
    version = "v1alpha1",
    kind = "Approval",
    namespaced,
    derive = "PartialEq",
    status = "ApprovalStatus",
    shortname = "appr",
    category = "hemostat",
    doc = "A step that waits for a person: what it would do, why it is asked, and the answer of one who may give it.",
    selectable = ".status.state",
    selectable = ".spec.request.incident",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.request.action"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Until", type_ = "string", json_path = ".status.summary.until"),
    printcolumn(name = "By", type_ = "string", json_path = ".status.summary.by", priority = 1),
    printcolumn(name = "Incident", type_ = "string", json_path = ".spec.request.incident", priority = 1),
    printcolumn(name = "Step", type_ = "string", json_path = ".spec.request.step", priority = 1),
    printcolumn(name = "Would", type_ = "string", json_path = ".status.summary.would", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_from_the_start("oldSelf.hasValue() || !has(self.decision)", "an approval is made without its decision"),
    rule("!has(oldSelf.decision) || has(self.decision)", "a decision cannot be withdrawn"),
    rule_at(".decision.by", "!has(self.decision) || self.decision.by != self.request.requestedBy",
        "nobody decides on what they asked for themselves"),
    rule_at(".decision.by", "!has(self.decision) || !has(self.request.parties) || !(self.decision.by in self.request.parties)",
        "nobody decides on an incident that they are part of"),
]))]
pub struct ApprovalSpec {
    /// The question.
    #[schemars(extend("x-kubernetes-validations" = [immutable("the request")]))]
    pub request: Request,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [immutable("a decision")]))]
    pub decision: Option<Decision>,
}

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The incident.
    #[schemars(length(min = 1, max = 253))]
    pub incident: String,
    /// The run.
    #[schemars(length(min = 1, max = 253))]
    pub run: String,
    /// The playbook.
    #[schemars(length(min = 1, max = 253))]
    pub playbook: String,
    /// The step; the whole run when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub step: Option<String>,
    /// The action, or `run` for the whole run.
    #[schemars(length(min = 1, max = 64))]
    pub action: String,
    /// What it would do, and to what.
    #[schemars(length(min = 1, max = 1024))]
    pub would: String,
    /// Why it must be asked.
    #[schemars(length(min = 1, max = 1024))]
    pub because: String,
    /// What stays lost once it is done; empty when it can be undone exactly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub residual: String,
    /// Who asks: a user of the API server. They cannot answer.
    #[schemars(length(min = 1, max = 256))]
    pub requested_by: String,
    /// Users whom the incident is about. They cannot answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub parties: Vec<String>,
    /// Who may answer: `user:<name>`, `group:<name>`. Whoever may change it when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 256), regex(pattern = r"^(user|group):.+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub approvers: Vec<String>,
    /// Denied after this.
    pub expires: Moment,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Yes or no.
    pub answer: Answer,
    /// Whose: the name by which the API server knows the user who writes it. The admission policy compares.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// Groups of the user that give them the word, where their name alone does not. The admission policy compares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub groups: Vec<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Answer {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".state", "oldSelf.state == 'Pending' || self.state == oldSelf.state", "an approval that is over stays so"),
]))]
pub struct ApprovalStatus {
    /// The generation of the spec that was taken in.
    #[serde(default)]
    pub observed_generation: i64,
    /// Where it is.
    pub state: State,
    /// What is shown in tables.
    #[serde(default)]
    pub summary: Summary,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Moment>,
    /// `Decided`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Condition::MAX), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What is shown in tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Summary {
    /// When it lapses: `16:15Z` today, else the day.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 9))]
    pub until: String,
    /// Who answered.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 20))]
    pub by: String,
    /// What it would do.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 48))]
    pub would: String,
}

/// Where an approval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Nobody answered yet.
    Pending,
    /// Yes.
    Approved,
    /// No.
    Denied,
    /// Nobody answered in time: no.
    Expired,
    /// The question is no longer asked: the run ended otherwise.
    Withdrawn,
}
