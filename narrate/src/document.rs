//! What the narrative says, as plain data: its JSON form.

use model::{Enrichment, GateOutcome, IncidentId, IncidentState, Level, Signal, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

/// One incident, told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Which.
    pub incident: IncidentId,
    /// What it is called.
    pub title: String,
    /// How bad.
    pub severity: Level,
    /// Where it is in its life.
    pub state: IncidentState,
    /// What an analyst said.
    pub verdict: Option<Verdict>,
    /// When this was told: what came later is not in it.
    pub told: Timestamp,
    /// ATT&CK techniques.
    pub techniques: Vec<String>,
    /// The story in a few sentences.
    pub summary: Vec<String>,
    /// What a person is to decide; first, since that is what the document is for.
    pub answers: Vec<Answer>,
    /// From the first event to the end, in ms after the first event.
    pub milestones: Vec<Milestone>,
    /// What happened, oldest first.
    pub timeline: Vec<Moment>,
    /// Moments left out of the middle.
    pub timeline_left_out: u64,
    /// Every process that was seen, parents before children.
    pub processes: Vec<ProcessNode>,
    /// Processes left out.
    pub processes_left_out: u64,
    /// What has to do with what.
    pub graph: Graph,
    /// What rules found.
    pub findings: Vec<Seen>,
    /// Findings left out.
    pub findings_left_out: u64,
    /// What is known beside the findings, each with its source and age; what is not known says so.
    pub known: Enrichment,
    /// What was, is, or would be done.
    pub responses: Vec<Response>,
}

/// A decision that is asked for, with the commands that make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What is asked.
    pub question: String,
    /// What is done on a yes.
    pub would: String,
    /// Why a person is asked.
    pub because: String,
    /// Nobody answering until then is a no.
    pub until: Option<Timestamp>,
    /// The commands.
    pub commands: Vec<Command>,
}

/// A command, to be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// What it does.
    pub label: String,
    /// The command.
    pub command: String,
}

/// A moment that is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// Which.
    pub name: String,
    /// Microseconds after the first event.
    pub after_us: u64,
}

/// Who made something happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Seen by a sensor.
    Seen,
    /// Decided by Hemostat.
    Decided,
    /// Done on a node.
    Done,
    /// Done by a person.
    Person,
}

/// Who, in words of the document.
pub type Actor = String;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// Microseconds after the first event.
    pub after_us: u64,
    /// In which lane.
    pub lane: Lane,
    /// Who.
    pub actor: Actor,
    /// What.
    pub what: String,
}

/// A process in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessNode {
    /// Where.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// Its executable.
    pub exe: String,
    /// What it was called with.
    pub command_line: String,
    /// Who it ran as.
    pub user: String,
    /// Steps below the root of its tree.
    pub depth: u32,
    /// Index of its parent, where that was seen.
    pub parent: Option<u32>,
    /// What is strange about it.
    pub marks: Vec<String>,
    /// Titles of the rules that found it.
    pub found_by: Vec<String>,
    /// What holds it.
    pub held: Option<String>,
}

/// What has to do with what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Graph {
    /// Things.
    pub entities: Vec<EntityNode>,
    /// What joins them.
    pub links: Vec<Link>,
    /// Things left out.
    pub left_out: u64,
}

/// Kind of a thing, from the outside in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    /// An account or login.
    Account,
    /// Where a request came from.
    Origin,
    /// A machine, pod, container or unit.
    Place,
    /// A process.
    Process,
    /// A file.
    File,
    /// An address or name that was spoken to.
    Peer,
    /// An object of the API server, an application.
    Object,
}

/// A thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityNode {
    /// Which kind.
    pub kind: EntityKind,
    /// What it is called.
    pub label: String,
    /// Whether something that contains is in force on it.
    pub held: bool,
    /// What threat intelligence says of it.
    pub known_bad: bool,
}

/// What joins two things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Index of the one that did something.
    pub from: u32,
    /// Index of the other.
    pub to: u32,
    /// What.
    pub what: String,
}

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When first.
    pub at: Timestamp,
    /// The rule's title.
    pub title: String,
    /// The rule's id.
    pub rule: String,
    /// How bad.
    pub level: Level,
    /// ATT&CK techniques.
    pub techniques: Vec<String>,
    /// How often.
    pub count: u64,
    /// What was done, in words.
    pub what: String,
    /// Fields that matched.
    pub matched: Vec<(String, String)>,
    /// Events lost around it: the picture may have gaps.
    pub lost: u64,
}

/// A playbook's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The playbook.
    pub playbook: String,
    /// Its run.
    pub run: String,
    /// How the run stands, in words.
    pub state: String,
    /// What the gate let it do.
    pub outcome: GateOutcome,
    /// The plan.
    pub plan: Option<PlanTold>,
    /// What fell short, and why.
    pub short: Vec<Short>,
    /// The signals, with their numbers.
    pub signals: Vec<Signal>,
    /// Everything that the gate looked at.
    pub reasons: Vec<String>,
}

/// A signal of the gate that fell short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Short {
    /// Which.
    pub signal: String,
    /// Found and needed, where they are numbers.
    pub numbers: String,
    /// Why.
    pub evidence: Vec<String>,
}

/// A playbook's plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlanTold {
    /// Of which run.
    pub run: String,
    /// What the playbook is for.
    pub description: String,
    /// The widest thing that one action may touch.
    pub widest: String,
    /// Different things that it may touch, at most.
    pub maximum_targets: u32,
    /// Who may say yes; anybody with access when empty.
    pub approvers: Vec<String>,
    /// Its steps.
    pub steps: Vec<StepTold>,
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepTold {
    /// Its name.
    pub name: String,
    /// The action's name.
    pub action: String,
    /// Steps that come before it.
    pub needs: Vec<String>,
    /// What it does, and to what.
    pub would: String,
    /// How it is undone.
    pub undo: String,
    /// Where it stands; empty where nothing was begun.
    pub state: String,
}
