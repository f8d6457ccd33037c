//! What a receiver tells of itself: its source's status says it, and the metrics count it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use model::Timestamp;

/// What is counted; the names are those of the metric `source_records`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Count {
    /// Came, whatever became of it.
    Received,
    /// Was there already.
    Repeated,
    /// From somebody who may not speak.
    Stranger,
    /// Not taken, since the inbox was full: it comes again where the sender can.
    Full,
    /// Lost before or at our door, and nobody will send it again.
    Lost,
    /// Data whose template is not known.
    Unknown,
}

impl Count {
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Repeated => "repeated",
            Self::Stranger => "stranger",
            Self::Full => "full",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(in super::super) struct Desk(Mutex<Board>);

#[derive(Debug, Default)]
struct Board {
    counts: BTreeMap<Count, u64>,
    told: BTreeMap<Count, u64>,
    notes: BTreeMap<Count, (Timestamp, String)>,
    facts: BTreeMap<&'static str, String>,
    blind: Option<String>,
}

impl Desk {
    pub(super) fn count(&self, what: Count, more: u64) {
        *self.lock().counts.entry(what).or_default() += more;
    }

    /// Counts, and says it for a while.
    pub(super) fn note(&self, what: Count, more: u64, at: Timestamp, text: String) {
        let mut board = self.lock();
        *board.counts.entry(what).or_default() += more;
        board.notes.insert(what, (at, text));
    }

    /// Something to know of, as long as it is so.
    pub(super) fn fact(&self, name: &'static str, text: Option<String>) {
        let mut board = self.lock();
        match text {
            Some(text) => board.facts.insert(name, text),
            None => board.facts.remove(name),
        };
    }

    /// Why nothing can come, if so.
    pub(super) fn blind(&self, because: Option<String>) {
        self.lock().blind = because;
    }

    pub(in super::super) fn why_blind(&self) -> Option<String> {
        self.lock().blind.clone()
    }

    /// Whether nothing was ever counted.
    pub(in super::super) fn is_quiet(&self) -> bool {
        self.lock().counts.is_empty()
    }

    /// `12 received, 3 repeated`.
    pub(in super::super) fn summary(&self) -> String {
        let board = self.lock();
        let words: Vec<String> =
            board.counts.iter().map(|(what, number)| format!("{number} {}", what.name())).collect();
        words.join(", ")
    }

    /// What is wrong: facts, and what was noted no longer ago than `shown`.
    pub(in super::super) fn degraded(&self, is_recent: impl Fn(Timestamp) -> bool) -> Vec<String> {
        let board = self.lock();
        let notes = board.notes.iter().filter(|(_, (at, _))| is_recent(*at)).map(|(what, (_, text))| {
            let number = board.counts.get(what).copied().unwrap_or(0);
            format!("{number} {}, the last: {text}", what.name())
        });
        board.facts.values().cloned().chain(notes).collect()
    }

    /// What was counted since this was last asked, but for what every record is counted as anyway.
    pub(in super::super) fn news(&self) -> Vec<(Count, u64)> {
        let mut board = self.lock();
        let news = board
            .counts
            .iter()
            .map(|(what, number)| (*what, number - board.told.get(what).copied().unwrap_or(0)));
        let news = news.filter(|(_, more)| *more > 0).collect();
        board.told = board.counts.clone();
        news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
