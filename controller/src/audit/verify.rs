//! Checks a log against its key and anchor, without the controller.

use std::{
    fmt,
    io::{self, BufRead, Read as _},
};

use model::AuditEntry;
use serde::Serialize;

use super::{
    Anchor, AuditKey, ChainHead,
    anchor::Genuine,
    chain::{hash, line},
};

/// Longest line that is looked at, in bytes: no entry is longer, so a longer line is not ours.
const MAX_LINE: u64 = 64 * 1024;

/// Problems that are kept; more are counted (I11).
const MAX_PROBLEMS: usize = 1000;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Lines read.
    pub lines: u64,
    /// Where the chain stands.
    pub head: ChainHead,
    /// What is wrong, in order; empty when the log is whole.
    pub problems: Vec<Problem>,
    /// Problems beyond the first 1000.
    pub more_problems: u64,
}

impl VerifyReport {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Something wrong with the log, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line, from 1; the line after the last for something missing at the end.
    pub line: u64,
    /// What.
    #[serde(flatten)]
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.kind)
    }
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum ProblemKind {
    /// No entry can be read there.
    #[error("not an audit entry: {because}")]
    Broken {
        /// Why.
        because: String,
    },
    /// An entry can be read, but Hemostat writes it differently (spaces, unknown or repeated fields).
    #[error("entry {seq} is not in the form in which it was written: the line was edited")]
    NotCanonical {
        /// Which entry.
        seq: u64,
    },
    /// Entries are missing here, or stand elsewhere.
    #[error("entry {expected} should stand here, but entry {found} does: entries were removed or moved")]
    OutOfSequence {
        /// Which should be here.
        expected: u64,
        /// Which is.
        found: u64,
    },
    /// It does not follow from the entry before it.
    #[error("entry {seq} does not follow from the entry before it: that one was changed or replaced")]
    Unlinked {
        /// Which entry.
        seq: u64,
    },
    /// Its content is not what was sealed.
    #[error("entry {seq} was changed, or was not written with this key")]
    Changed {
        /// Which entry.
        seq: u64,
    },
    /// The whole chain belongs to another key.
    #[error("the chain was begun with another key ({fingerprint}) than the one given")]
    ForeignKey {
        /// Name of the key that the chain was begun with.
        fingerprint: String,
    },
    /// The log is shorter than it was.
    #[error("the log ends at entry {found}, but the anchor says that it had {expected}: its end was cut off")]
    Truncated {
        /// Entries that there were.
        expected: u64,
        /// Last entry found.
        found: u64,
    },
    /// At the anchor's length stands another hash.
    #[error("entry {seq} is not the one that the anchor names: the log was replaced from there or earlier")]
    AnchorMismatch {
        /// Which entry.
        seq: u64,
    },
    /// The anchor itself was changed.
    #[error("the anchor was changed, or was not made with this key")]
    AnchorForged,
    /// The last line has no end.
    #[error("the last line is incomplete")]
    Torn,
}

/// How the first entry of a chain begins; the key's fingerprint follows.
pub(crate) const FIRST_WORDS: &str = "audit chain begins, key ";

/// Reads the whole log, a line at a time. Each removal, change, move or cut is one problem at its place: after a problem
/// the check goes on from what it found, so that one change is not reported for all entries after it.
///
/// # Errors
/// Only when the log cannot be read; what is wrong with it is in the report.
pub fn verify(mut log: impl BufRead, key: &AuditKey, anchor: Option<&Anchor>) -> io::Result<VerifyReport> {
    let mut report =
        VerifyReport { lines: 0, head: ChainHead::default(), problems: Vec::new(), more_problems: 0 };
    if anchor.is_some_and(|a| a.genuine(key) == Genuine::No) {
        report.add(0, ProblemKind::AnchorForged);
    }
    let anchor = anchor.map(|a| &a.head);
    let mut anchored = anchor.is_none_or(|a| a.count == 0);
    let mut foreign = false;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if (&mut log).take(MAX_LINE + 1).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        report.lines += 1;
        let at = report.lines;
        if bytes.last() != Some(&b'\n') {
            if bytes.len() as u64 > MAX_LINE {
                report.add(at, ProblemKind::Broken { because: format!("longer than {MAX_LINE} bytes") });
                skip_line(&mut log)?;
            } else {
                report.add(at, ProblemKind::Torn);
            }
            continue;
        }
        bytes.pop();
        let entry: AuditEntry = match serde_json::from_slice(&bytes) {
            Ok(entry) => entry,
            Err(error) => {
                report.add(at, ProblemKind::Broken { because: error.to_string() });
                // The entry that stood here is gone, but the ones after it follow from it.
                report.head.count += 1;
                report.head.hash.clear();
                continue;
            }
        };
        if at == 1
            && let Some(fingerprint) = entry.what.strip_prefix(FIRST_WORDS)
            && fingerprint != key.fingerprint()
        {
            foreign = true;
            report.add(at, ProblemKind::ForeignKey { fingerprint: fingerprint.to_owned() });
        }
        check(&mut report, at, &bytes, &entry, key, foreign);
        if let Some(anchor) = anchor.filter(|a| a.count == entry.seq) {
            anchored = true;
            if anchor.hash != entry.hash {
                report.add(at, ProblemKind::AnchorMismatch { seq: entry.seq });
            }
        }
        report.head = ChainHead { count: entry.seq, hash: entry.hash };
    }
    if let Some(anchor) = anchor
        && !anchored
        && report.head.count < anchor.count
    {
        let found = report.head.count;
        report.add(report.lines + 1, ProblemKind::Truncated { expected: anchor.count, found });
    }
    Ok(report)
}

fn check(
    report: &mut VerifyReport,
    at: u64,
    bytes: &[u8],
    entry: &AuditEntry,
    key: &AuditKey,
    foreign: bool,
) {
    let seq = entry.seq;
    let expected = report.head.count + 1;
    if seq != expected {
        report.add(at, ProblemKind::OutOfSequence { expected, found: seq });
    } else if !report.head.hash.is_empty() && entry.previous != report.head.hash {
        report.add(at, ProblemKind::Unlinked { seq });
    }
    if !foreign && hash(key, entry) != entry.hash {
        report.add(at, ProblemKind::Changed { seq });
    } else if line(entry) != bytes {
        report.add(at, ProblemKind::NotCanonical { seq });
    }
}

impl VerifyReport {
    fn add(&mut self, line: u64, kind: ProblemKind) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { line, kind });
        } else {
            self.more_problems += 1;
        }
    }
}

fn skip_line(log: &mut impl BufRead) -> io::Result<()> {
    loop {
        let (used, done) = {
            let buffer = log.fill_buf()?;
            match buffer.iter().position(|b| *b == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            }
        };
        log.consume(used);
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
