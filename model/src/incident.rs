//! Findings that belong together, and what people said of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    ActionRecord, Actor, AttributedPod, Attribution, CgroupId, Enrichment, ExecSession, Finding, IncidentId,
    Level, NodeId, PlaybookName, PodFacts, Principal, ProcessKey, RecordObject, RunId, StepName, Timestamp,
};

/// Something that findings can have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "entity", rename_all = "snake_case")]
pub enum Entity {
    /// A process.
    Process {
        /// Where.
        node: NodeId,
        /// Which.
        process: ProcessKey,
    },
    /// A container or other cgroup.
    Cgroup {
        /// Where.
        node: NodeId,
        /// Which.
        cgroup: CgroupId,
        /// Path below the cgroup2 mount, for people.
        path: String,
    },
    /// A pod.
    Pod {
        /// Kubernetes uid.
        uid: String,
    },
    /// A login.
    User {
        /// Where.
        node: NodeId,
        /// Login uid.
        auid: u32,
    },
    /// A network address.
    Address {
        /// The other end.
        addr: std::net::IpAddr,
    },
    /// An account.
    Principal {
        /// Which.
        who: Principal,
    },
    /// What a record is about: a Kubernetes object, an application.
    Object {
        /// Which.
        object: RecordObject,
    },
    /// The machine itself.
    Node {
        /// Which.
        node: NodeId,
    },
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { process, .. } => write!(f, "process {}", process.pid),
            Self::Cgroup { path, .. } => write!(f, "cgroup {path}"),
            Self::Pod { uid } => write!(f, "pod {uid}"),
            Self::User { auid, .. } => write!(f, "user {auid}"),
            Self::Address { addr } => write!(f, "address {addr}"),
            Self::Principal { who } => write!(f, "account {who}"),
            Self::Object { object } => object.fmt(f),
            Self::Node { node } => write!(f, "node {node}"),
        }
    }
}

/// Where an incident is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IncidentState {
    /// Findings, no effect yet.
    Open,
    /// A playbook runs.
    Responding,
    /// The attack is held: every containment of the run is in force.
    Contained,
    /// A person must decide before it goes on.
    NeedsApproval,
    /// The playbook came to its end.
    Remediated,
    /// A run failed and what it had done was rolled back, or could not be.
    Failed,
    /// Everything was rolled back.
    RolledBack,
    /// A person closed it.
    Closed,
}

/// An analyst's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was an attack.
    TruePositive,
    /// It was not; what was done is rolled back.
    FalsePositive,
}

/// One story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Which.
    pub id: IncidentId,
    /// What it is called: the title of its weightiest rule.
    pub title: String,
    /// The highest level among its findings.
    pub severity: Level,
    /// Where it is in its life.
    pub state: IncidentState,
    /// What it is about.
    pub entities: Vec<Entity>,
    /// Pods that it is about, at most [`Incident::MAX_PODS`]; empty without a cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<AttributedPod>,
    /// Who opened sessions in them, at most [`Incident::MAX_SESSIONS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<ExecSession>,
    /// Its findings, oldest first, at most [`Incident::MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond that limit, counted.
    pub findings_dropped: u64,
    /// ATT&CK techniques of its findings, sorted.
    pub techniques: Vec<String>,
    /// Time of the first event.
    pub first_event: Timestamp,
    /// When the incident was made.
    pub opened: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// When every containment was in force.
    pub contained: Option<Timestamp>,
    /// What an analyst said.
    pub verdict: Option<Verdict>,
    /// What is known of it beside its findings.
    #[serde(default)]
    pub enrichment: Enrichment,
    /// Everything done about it.
    pub actions: Vec<ActionRecord>,
    /// Runs of playbooks.
    pub runs: Vec<RunSummary>,
    /// The history, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

impl Incident {
    /// Findings kept in one incident; more are counted (I11).
    pub const MAX_FINDINGS: usize = 256;
    /// Entries kept in one timeline; the middle is dropped first (I11).
    pub const MAX_TIMELINE: usize = 1024;
    /// Containers of pods told apart in one incident (I11); further ones are not attributed, and so nothing is done to them.
    pub const MAX_PODS: usize = 64;
    /// Sessions of people kept in one incident (I11).
    pub const MAX_SESSIONS: usize = 32;

    /// The timeline with the events that its findings were folded from, one by one, in order: of each finding the first and the last ones,
    /// and between them how many more there were.
    #[must_use]
    pub fn history(&self) -> Vec<TimelineEntry> {
        let mut all = self.timeline.clone();
        self.findings.iter().for_each(|finding| all.extend(finding.repetitions()));
        // Stable: what is of one time stays as it was told.
        all.sort_by_key(|entry| entry.at);
        all
    }

    /// The pod of a cgroup, if it is certainly known.
    #[must_use]
    pub fn pod(&self, cgroup_uid: &str) -> Option<&PodFacts> {
        self.pods.iter().find_map(|known| match &known.attribution {
            Attribution::Resolved { pod, .. } if known.cgroup_uid == cgroup_uid => Some(&**pod),
            _ => None,
        })
    }

    /// `namespace/name` of the pod that it is about: that of the first finding whose pod is known.
    #[must_use]
    pub fn pod_path(&self) -> Option<String> {
        self.pods.iter().find_map(|known| match &known.attribution {
            Attribution::Resolved { pod, .. } => Some(pod.path()),
            _ => None,
        })
    }
}

/// One run of a playbook, as the incident shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Which.
    pub id: RunId,
    /// Of which playbook.
    pub playbook: PlaybookName,
    /// How it was decided.
    pub decision: GateDecision,
    /// Where it is.
    pub state: RunState,
    /// Steps that wait for a person, with what each would do.
    pub waiting: Vec<ApprovalRequest>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// A step that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// Which step.
    pub step: StepName,
    /// What it would do, and to what.
    pub would: String,
    /// Why it must be asked.
    pub because: String,
    /// After this it is denied.
    pub expires: Timestamp,
}

/// The gate's word on a run, with its reasons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateDecision {
    /// What may happen.
    pub outcome: GateOutcome,
    /// Each signal that was looked at, with what was found.
    pub reasons: Vec<String>,
    /// The signals of the evidence, with their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<Signal>,
}

/// One signal of the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Which.
    pub kind: SignalKind,
    /// Whether it lets the run act by itself.
    pub says: SignalSays,
    /// What was found, where it is a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Share>,
    /// What is needed, where it is a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<Share>,
    /// What it was found from, a line each.
    pub evidence: Vec<String>,
}

/// Signals of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalKind {
    /// How surely what the rule finds is an attack.
    PatternConfidence,
    /// Whether something else explains it.
    Context,
    /// How often the playbook was right.
    PlaybookHistory,
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalSays {
    /// It may act.
    Act,
    /// A person is asked.
    Ask,
}

/// A share of one, in ten-thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    /// All of it.
    pub const ONE: Self = Self(10_000);
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

impl fmt::Display for SignalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PatternConfidence => "pattern confidence",
            Self::Context => "context",
            Self::PlaybookHistory => "playbook's history",
        })
    }
}

/// What a run may do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateOutcome {
    /// All steps that can be undone exactly, and those with a standing approval.
    Automatic,
    /// Nothing before a person said yes.
    Approval,
    /// Nothing at all; what would be done is recorded (I8).
    Shadow,
}

/// One line of an incident's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What, in one line.
    pub what: String,
}
