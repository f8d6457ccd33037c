//! What is said on the control socket: HTTP/1.1 with JSON over a unix socket, used by `hemostat` and by scripts.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/health` | [`Health`] (status 503 when degraded) |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/incidents?limit=&all=` | [`IncidentList`], newest first; `all=true` also shows those merged into others |
//! | `GET /v1/incidents/watch?since=&wait_ms=` | [`IncidentList`] of what changed after `since`; waits until something does |
//! | `GET /v1/incidents/ID` | [`IncidentView`]; ID may be an unambiguous beginning |
//! | `POST /v1/incidents/ID/approve` [`Decide`] | [`Done`] |
//! | `POST /v1/incidents/ID/deny` [`Decide`] | [`Done`] |
//! | `POST /v1/incidents/ID/rollback` [`Because`] | [`Done`] |
//! | `POST /v1/incidents/ID/verdict` [`Judge`] | [`Done`] |
//! | `POST /v1/incidents/ID/close` [`Because`] | [`Done`] |
//! | `POST /v1/incidents/ID/split` [`Split`] | [`Done`], with the new incident |
//! | `GET /v1/incidents/ID/policy?playbook=` | [`Explanation`]: which policy decides what, and what the gate would say now |
//! | `GET /v1/incidents/ID/narrative?format=` | the incident as one document: `html`, `md`, or `json` ([`narrate::Document`], the default) |
//! | `POST /v1/pause` [`Because`], `POST /v1/resume` [`Because`] | [`Automatic`] |
//! | `POST /v1/trust/NAME/begin-anew` [`Because`] | [`Automatic`]: what was said of a rule or playbook no longer counts |
//! | `GET /v1/actions?all=` | [`Vec<ActionView>`]: those in force, or all that are known |
//! | `POST /v1/actions/ID/rollback` [`Because`] | [`Done`] |
//! | `GET /v1/playbooks` | [`Playbooks`] |
//! | `POST /v1/playbooks/reload` | [`Playbooks`] |
//! | `GET /v1/promotion`, `GET /v1/promotion/NAME` | [`Vec<PromotionView>`]: how playbooks earn and lose their modes; of one with its runs and the patch |
//! | `GET /v1/audit?after=&since=&incident=&limit=` | [`AuditPage`], oldest first, with the anchor to keep elsewhere; `since` in ns since 1970 |
//! | `GET /metrics` | OpenMetrics text |
//!
//! Every error is an [`ApiError`] with a status: 400 malformed, 403 not allowed, 404 unknown, 409 not possible now,
//! 503 the journal cannot be written.

mod peer;
mod promotion;
mod server;

use std::collections::BTreeMap;

use model::{
    ActionId, ActionRecord, AuditEntry, Incident, IncidentId, IncidentState, Level, NodeId, NodeStatus,
    RunId, StepName, Timestamp, Verdict,
};
use serde::{Deserialize, Serialize};

pub use peer::{PeerError, actor_of_uid};
pub use promotion::{PatchView, PromotionView};
pub use respond::gate::{Explanation, Paused};
pub(crate) use server::{MAX_READERS, Served, serve};

use crate::audit::Anchor;

/// Whether all is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub condition: Condition,
    /// What is wrong, with the next step; empty when nothing is.
    pub problems: Vec<Problem>,
}

/// Health in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All works.
    Good,
    /// Something does not.
    Degraded,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which part: storage, journal, audit, anchor, playbooks, ingest, grouping, rules, correlation.
    pub part: String,
    /// What, and what to do.
    pub what: String,
}

/// The controller at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the software.
    pub version: String,
    /// When it was started.
    pub started: Timestamp,
    /// Whether all is well.
    pub health: Health,
    /// Each node that was ever heard of.
    pub nodes: Vec<NodeView>,
    /// Incidents that are not closed, remediated or rolled back.
    pub open_incidents: u64,
    /// Steps that wait for a person.
    pub approvals_waiting: u64,
    /// Actions in force.
    pub actions_in_force: u64,
    /// Playbooks loaded.
    pub playbooks: u64,
    /// Correlations that run here.
    #[serde(default)]
    pub correlations: u64,
    /// Who keeps everything automatic from beginning, where somebody does.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// Feeds of threat intelligence in use.
    #[serde(default)]
    pub feeds: Vec<FeedView>,
}

/// A feed of threat intelligence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedView {
    /// Its name.
    pub feed: String,
    /// Indicators in force.
    pub indicators: u64,
    /// Values that were left out, for any reason.
    pub left_out: u64,
    /// When it was written.
    pub written: Timestamp,
}

/// Whether anything automatic begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Automatic {
    /// Who keeps it from beginning, where somebody does.
    pub paused: Option<Paused>,
    /// What was done, in a person's words.
    pub what: String,
}

/// A node as the controller sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// Whether its link is up.
    pub link: LinkView,
    /// What it last said of itself.
    pub status: Option<Box<NodeStatus>>,
    /// Commands that it has not answered.
    pub commands_waiting: u64,
}

/// Whether a node's link is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkView {
    /// It is.
    Up,
    /// It is not: commands wait.
    Down,
}

/// Incidents, with a mark from which to go on watching.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncidentList {
    /// Pass it as `since` to see what changes later.
    pub revision: u64,
    /// The incidents.
    pub incidents: Vec<IncidentSummary>,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncidentSummary {
    /// Which.
    pub id: IncidentId,
    /// What it is called.
    pub title: String,
    /// How bad.
    pub severity: Level,
    /// Where it is in its life.
    pub state: IncidentState,
    /// What it is about, the most telling first.
    pub target: String,
    /// Findings, those that were only counted included.
    pub findings: u64,
    /// Playbooks that answer it.
    pub playbooks: Vec<String>,
    /// Actions in force.
    pub actions_in_force: u64,
    /// Actions in all.
    pub actions: u64,
    /// Steps that wait for a person.
    pub waiting: u64,
    /// Time of the first event.
    pub first_event: Timestamp,
    /// When it was made.
    pub opened: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// When every containment was in force.
    pub contained: Option<Timestamp>,
    /// What an analyst said.
    pub verdict: Option<Verdict>,
    /// Its story goes on there.
    pub merged_into: Option<IncidentId>,
    /// Grows with each change.
    pub revision: u64,
}

/// Everything about one incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncidentView {
    /// The incident.
    pub incident: Incident,
    /// Its story goes on there.
    pub merged_into: Option<IncidentId>,
    /// Incidents whose story goes on here.
    pub absorbed: Vec<IncidentId>,
}

/// An incident, with what is needed to show it in another place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Story {
    /// Grows with every story that is told: of two, the one with the higher number knows more.
    pub number: u64,
    /// The incident.
    pub view: IncidentView,
    /// On which node each of its actions is.
    pub nodes: BTreeMap<ActionId, NodeId>,
    /// More of its runs.
    pub runs: Vec<RunStory>,
}

/// What an incident's line of a run does not tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStory {
    /// Which.
    pub run: RunId,
    /// On which node.
    pub node: NodeId,
    /// Who may say yes; everybody with access when empty.
    pub approvers: Vec<String>,
    /// Irreversible actions that need no asking, and who answers for each.
    pub standing: BTreeMap<String, String>,
    /// Steps to which a person said yes; [`respond::run::whole_run`] when it was to all.
    pub approved: Vec<StepName>,
    /// No step begins after this.
    pub until: Timestamp,
    /// The action of each step, by its name.
    pub steps: BTreeMap<StepName, String>,
}

/// One action, with its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionView {
    /// Where.
    pub node: NodeId,
    /// The action.
    pub record: ActionRecord,
}

/// A person's yes or no.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decide {
    /// To this step; to everything that waits when absent.
    pub step: Option<StepName>,
    /// Why.
    pub because: String,
}

/// Why a person does it; goes into the timeline and the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Because {
    /// In a person's words.
    pub because: String,
}

/// Findings of an incident that are another story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Those that go into an incident of their own.
    pub findings: Vec<model::FindingId>,
    /// In a person's words.
    #[serde(default)]
    pub because: String,
}

/// A person's judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// What it was. A false positive rolls everything back.
    pub verdict: Verdict,
    /// Why.
    #[serde(default)]
    pub because: String,
}

/// It is done, or has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The incident that it is about.
    pub incident: IncidentId,
    /// What was done, in a person's words.
    pub what: Vec<String>,
}

/// Playbooks as loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Playbooks {
    /// Those in use.
    pub loaded: Vec<PlaybookView>,
    /// What could not be loaded, with its place; the others are in use.
    pub broken: Vec<String>,
    /// Policies in use.
    pub policies: Vec<String>,
}

/// One playbook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaybookView {
    /// Its name.
    pub name: String,
    /// What it may do by itself, as it is written.
    pub mode: String,
    /// The mode that holds: the written one, or less where it was taken back.
    #[serde(default)]
    pub in_force: String,
    /// What it answers, in a person's words.
    #[serde(default)]
    pub trigger: String,
    /// What it is for.
    pub description: String,
    /// Number of steps.
    pub steps: u64,
    /// The file that it came from.
    pub file: String,
    /// Runs that people judged, in what they said last.
    #[serde(default)]
    pub judged: u64,
    /// How many of them were right.
    #[serde(default)]
    pub right: u64,
    /// Runs that go on now.
    #[serde(default)]
    pub running: u64,
}

/// Part of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// Entries, oldest first.
    pub entries: Vec<AuditEntry>,
    /// How long the log is and how it ends: keep it elsewhere, and `verify` finds a cut end.
    pub anchor: Anchor,
    /// Where the log lies: the file that is written; full ones stand beside it.
    pub log: String,
    /// Bytes of the log that were read for this.
    #[serde(default)]
    pub bytes_read: u64,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// In a class that programs tell apart.
    pub kind: ApiErrorKind,
    /// In a person's words, with the next step.
    pub message: String,
}

/// Classes of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiErrorKind {
    /// The request makes no sense.
    Malformed,
    /// This person may not.
    Forbidden,
    /// There is no such thing, or the short id fits several.
    Unknown,
    /// Not in this state.
    Conflict,
    /// The controller cannot write its journal, or is stopping.
    Unavailable,
}

impl ApiError {
    /// Of one kind.
    pub fn new(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
