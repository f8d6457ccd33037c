//! One run beside what the analysts did.

use crds::Mode;
use model::{Actor, GateOutcome, IncidentId, PlaybookName, RunId, RunState, Timestamp};
use serde::{Deserialize, Serialize};

/// What a run did or would have done, and what people did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Of which playbook.
    pub playbook: PlaybookName,
    /// Which run.
    pub run: RunId,
    /// For which incident.
    pub incident: IncidentId,
    /// When it began.
    pub began: Timestamp,
    /// The playbook's mode then.
    pub mode: Mode,
    /// What the gate let it do.
    pub outcome: GateOutcome,
    /// In shadow what it would have done, else what it did: a line for each step; at most [`Comparison::MAX_LINES`].
    pub would: Vec<String>,
    /// What people did about the incident after it began, oldest first; at most [`Comparison::MAX_DEEDS`].
    pub did: Vec<Deed>,
    /// Whether they agreed.
    pub word: Option<Word>,
    /// When they said so.
    pub judged: Option<Timestamp>,
    /// How it ended.
    pub end: Option<RunEnd>,
}

/// Something that a person did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: Actor,
    /// What, in one line.
    pub what: String,
}

/// A person's word on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The incident was a true positive.
    Right,
    /// It was a false positive.
    Wrong,
    /// Yes to the run.
    Agreed,
    /// No to the run.
    Refused,
}

impl Word {
    /// Whether it speaks for the run.
    #[must_use]
    pub fn agrees(self) -> bool {
        matches!(self, Self::Right | Self::Agreed)
    }

    /// Whether it is a verdict on the incident, which holds over an answer to a run.
    #[must_use]
    pub fn is_verdict(self) -> bool {
        matches!(self, Self::Right | Self::Wrong)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// It did what it was for, or was only recorded.
    Good,
    /// A step failed for good.
    Failed,
    /// It was undone.
    Undone,
    /// A person said no, or nobody said yes in time.
    Denied,
}

impl Comparison {
    /// Lines kept of a run (I11).
    pub const MAX_LINES: usize = 16;
    /// Deeds kept beside it (I11).
    pub const MAX_DEEDS: usize = 16;
    /// Characters of a line (I11).
    const MAX_TEXT: usize = 240;

    /// A step of the run; whether that is new.
    pub fn step(&mut self, what: &str) -> bool {
        let line = short(what);
        let new = self.would.len() < Self::MAX_LINES && !self.would.contains(&line);
        if new {
            self.would.push(line);
        }
        new
    }

    /// Something that a person did; beyond the limit the last place is taken again.
    pub fn deed(&mut self, at: Timestamp, by: &Actor, what: &str) {
        self.did.truncate(Self::MAX_DEEDS - 1);
        self.did.push(Deed { at, by: by.clone(), what: short(what) });
    }

    /// A person's word; a verdict holds over an answer, and never the other way round. Whether it is taken.
    pub fn say(&mut self, word: Word, at: Timestamp) -> bool {
        if self.word.is_some_and(|known| known.is_verdict() && !word.is_verdict()) {
            return false;
        }
        (self.word, self.judged) = (Some(word), Some(at));
        true
    }

    /// How it stands; whether that is new.
    pub fn ended(&mut self, state: RunState) -> bool {
        let end = match state {
            RunState::Shadow | RunState::Succeeded => Some(RunEnd::Good),
            RunState::Failed => Some(RunEnd::Failed),
            RunState::RolledBack => Some(RunEnd::Undone),
            RunState::Denied => Some(RunEnd::Denied),
            RunState::Running | RunState::Waiting | RunState::RollingBack => self.end,
        };
        // What failed is rolled back by itself: it failed all the same.
        let end = if self.end == Some(RunEnd::Failed) { self.end } else { end };
        std::mem::replace(&mut self.end, end) != end
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(Comparison::MAX_TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
