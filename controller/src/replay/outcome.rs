//! What came of a replay.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    ActionState, GateOutcome, Incident, IncidentId, IncidentState, Level, RunState, Share, Signal, Timestamp,
    Verdict,
};
use serde::{Deserialize, Serialize};

/// Events of one incident that are named, and reasons of one decision (I11).
const MAX_EVENTS: usize = 256;
const MAX_TEXTS: usize = 16;

/// What came of a replay with one setup.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// What the setup is called.
    pub setup: String,
    /// What was read.
    pub read: Read,
    /// Rules, correlations and playbooks in use.
    pub rules: usize,
    /// Sigma correlations in use.
    pub correlations: usize,
    /// Playbooks in use.
    pub playbooks: usize,
    /// Findings told, and repetitions that were counted into them.
    pub findings: u64,
    /// Matches folded into a finding that was told before.
    pub folded: u64,
    /// Repetitions of findings that were not among the newest told, or are of before the recording: counted nowhere else.
    #[serde(default)]
    pub orphaned: u64,
    /// Commands that the stand-in answered.
    pub commands: u64,
    /// What each rule matched, by its id.
    pub matches: BTreeMap<String, RuleCount>,
    /// The incidents that people would have seen, by id. Those whose story goes on in another are named there.
    pub incidents: BTreeMap<IncidentId, Story>,
    /// Parts that were degraded at the end, and why.
    pub problems: Vec<(String, String)>,
}

/// What was read of the recordings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Read {
    /// Events and records.
    pub events: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Records that could not be read.
    pub refused: u64,
    /// Why, of the first ones.
    pub refusals: Vec<String>,
    /// When the oldest was.
    pub oldest: Option<Timestamp>,
    /// When the newest was.
    pub newest: Option<Timestamp>,
    /// How long it took; no part of what is compared.
    #[serde(skip)]
    pub seconds: f64,
}

/// What a rule matched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleCount {
    /// Its title.
    pub title: String,
    /// Events.
    pub matches: u64,
    /// Findings that came of them.
    pub findings: u64,
}

/// An incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Story {
    /// Which.
    pub id: IncidentId,
    /// What it is called.
    pub title: String,
    /// How grave.
    pub severity: Level,
    /// What became of it by the end.
    pub state: IncidentState,
    /// What it is about.
    pub target: String,
    /// Its first event.
    pub first_event: Timestamp,
    /// When it was shown.
    pub opened: Timestamp,
    /// When all containments were in force, by the stand-in's word.
    pub contained: Option<Timestamp>,
    /// What an analyst said.
    pub verdict: Option<Verdict>,
    /// Findings.
    pub findings: u64,
    /// The rules that they are of.
    pub rules: BTreeSet<String>,
    /// ATT&CK techniques.
    pub techniques: Vec<String>,
    /// The events that were found, as `node/epoch/number`.
    pub events: BTreeSet<String>,
    /// What the gate said, for each playbook's run.
    pub decisions: Vec<Decided>,
    /// What would have been done.
    pub actions: Vec<Would>,
    /// Where its story goes on.
    pub merged_into: Option<IncidentId>,
}

/// What the gate said of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Of which playbook.
    pub playbook: String,
    /// Automatic, a person is asked, or only recorded.
    pub outcome: GateOutcome,
    /// What became of it.
    pub state: RunState,
    /// Why, with the numbers.
    pub reasons: Vec<String>,
    /// Pattern confidence, context and history, as far as they fell short.
    pub short: Vec<String>,
    /// Pattern confidence as it was computed.
    pub confidence: Option<Share>,
    /// Steps that wait for a person at the end.
    pub waits: Vec<String>,
}

/// An action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Would {
    /// Which.
    pub action: String,
    /// To what.
    pub target: String,
    /// Where it came to.
    pub state: ActionState,
}

impl Read {
    pub(super) fn add(&mut self, more: Self, oldest: Option<Timestamp>, newest: Option<Timestamp>) {
        self.events += more.events;
        self.bytes += more.bytes;
        self.refused += more.refused;
        self.refusals.extend(more.refusals);
        self.refusals.truncate(MAX_TEXTS);
        self.newest = self.newest.max(newest);
        self.oldest = match (self.oldest, oldest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
    }
}

impl Story {
    /// What is kept of an incident.
    pub(super) fn of(incident: &Incident, merged_into: Option<IncidentId>) -> Self {
        let findings = || incident.findings.iter();
        let decisions = incident.runs.iter().map(|run| Decided {
            playbook: run.playbook.to_string(),
            outcome: run.decision.outcome,
            state: run.state,
            reasons: run.decision.reasons.iter().take(MAX_TEXTS).cloned().collect(),
            short: run.decision.signals.iter().filter_map(short).collect(),
            confidence: run
                .decision
                .signals
                .iter()
                .find(|signal| signal.kind == model::SignalKind::PatternConfidence)
                .and_then(|signal| signal.found),
            waits: run.waiting.iter().map(|one| format!("{}: {}", one.step, one.would)).collect(),
        });
        Self {
            id: incident.id.clone(),
            title: incident.title.clone(),
            severity: incident.severity,
            state: incident.state,
            target: incident.entities.first().map(ToString::to_string).unwrap_or_default(),
            first_event: incident.first_event,
            opened: incident.opened,
            contained: incident.contained,
            verdict: incident.verdict,
            findings: incident.findings.len() as u64 + incident.findings_dropped,
            rules: findings().map(|finding| finding.rule.id.clone()).collect(),
            techniques: incident.techniques.clone(),
            events: findings().take(MAX_EVENTS).map(|finding| finding.event.id.to_string()).collect(),
            decisions: decisions.collect(),
            actions: incident
                .actions
                .iter()
                .map(|record| Would {
                    action: record.action.name().to_owned(),
                    target: record.target.to_string(),
                    state: record.state,
                })
                .collect(),
            merged_into,
        }
    }

    /// The widest word of the gate: whether something would have been done by itself.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let of = |wanted: GateOutcome| self.decisions.iter().any(|one| one.outcome == wanted);
        if of(GateOutcome::Automatic) {
            Answer::Automatic
        } else if of(GateOutcome::Approval) {
            Answer::Asked
        } else if of(GateOutcome::Shadow) {
            Answer::Shadow
        } else {
            Answer::Nothing
        }
    }
}

/// What the gate said of an incident, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A playbook acts by itself.
    Automatic,
    /// A person is asked.
    Asked,
    /// What would be done is recorded.
    Shadow,
    /// No playbook answers.
    Nothing,
}

fn short(signal: &Signal) -> Option<String> {
    if signal.says == model::SignalSays::Act {
        return None;
    }
    let numbers = match (signal.found, signal.needed) {
        (Some(found), Some(needed)) => format!(" {found} of {needed}"),
        _ => String::new(),
    };
    let because = signal.evidence.first().cloned().unwrap_or_default();
    Some(format!("{}{numbers}: {because}", signal.kind))
}
