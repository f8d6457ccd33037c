//! Checks a log against its key and anchor, without the controller.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use model::AuditEntry;
use serde::Serialize;

use super::{
    Anchor, AuditKey, ChainHead, LogError,
    anchor::Genuine,
    chain::{hash, line},
    segments,
};

/// Longest line that is looked at, in bytes: no entry is longer, so a longer line is not ours.
const MAX_LINE: u64 = 64 * 1024;

/// Problems that are kept; more are counted (I11).
const MAX_PROBLEMS: usize = 1000;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
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
    /// In which file of the log; empty where there is only one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Line of that file, from 1; the line after the last for something missing at the end.
    pub line: u64,
    /// What.
    #[serde(flatten)]
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.file.is_empty() { "" } else { ", " };
        write!(f, "{}{place}line {}: {}", self.file, self.line, self.kind)
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
    /// A whole file is missing before this one, or this one stands in another's place.
    #[error(
        "the file before ends before entry {expected}, but this one begins with {found}: a file of the log was removed or moved"
    )]
    FileMissing {
        /// Which entry should be here.
        expected: u64,
        /// Which is.
        found: u64,
    },
    /// A file holds something else than its name says.
    #[error(
        "by its name this file begins with entry {named}, but it begins with {found}: files of the log were renamed or replaced"
    )]
    Misnamed {
        /// Which entry should be here.
        named: u64,
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

/// Reads the whole log, a line at a time: the full files, oldest first, and the one that is being written. A file that is missing, or
/// stands in another's place, is a problem at the first line after it. Each removal, change, move or cut is one problem at its place:
/// after a problem the check goes on from what it found, so that one change is not reported for all entries after it.
///
/// # Errors
/// Only when the log cannot be read; what is wrong with it is in the report.
pub fn verify_log(path: &Path, key: &AuditKey, anchor: Option<&Anchor>) -> Result<VerifyReport, LogError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| LogError { operation, path, source }
    };
    // First, so that what becomes full meanwhile is neither missed nor read twice. It may be missing: that is for the report.
    let current = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened.map_err(failed("open", path))?),
    };
    let sealed = segments::sealed(path, current.as_ref()).map_err(failed("list the files of", path))?;
    if sealed.is_empty() && current.is_none() {
        return Err(failed("open", path)(io::ErrorKind::NotFound.into()));
    }
    let mut verifier = Verifier::new(key, anchor);
    for segment in sealed {
        let file = File::open(&segment.path).map_err(failed("open", &segment.path))?;
        let name = segments::name_of(&segment.path);
        verifier
            .file(&name, Some(segment.first), BufReader::new(file))
            .map_err(failed("read", &segment.path))?;
    }
    if let Some(current) = current {
        verifier
            .file(&segments::name_of(path), None, BufReader::new(current))
            .map_err(failed("read", path))?;
    }
    Ok(verifier.finish())
}

/// As [`verify_log`], for one file that is the whole log.
///
/// # Errors
/// Only when it cannot be read; what is wrong with it is in the report.
pub fn verify(log: impl BufRead, key: &AuditKey, anchor: Option<&Anchor>) -> io::Result<VerifyReport> {
    let mut verifier = Verifier::new(key, anchor);
    verifier.file("", None, log)?;
    Ok(verifier.finish())
}

/// A check under way.
struct Verifier<'a> {
    key: &'a AuditKey,
    anchor: Option<&'a ChainHead>,
    anchored: bool,
    /// The whole chain belongs to another key.
    foreign: bool,
    /// The file at hand, and its line.
    file: String,
    at: u64,
    report: VerifyReport,
}

impl<'a> Verifier<'a> {
    fn new(key: &'a AuditKey, anchor: Option<&'a Anchor>) -> Self {
        let report = VerifyReport {
            files: 0,
            lines: 0,
            head: ChainHead::default(),
            problems: Vec::new(),
            more_problems: 0,
        };
        let head = anchor.map(|anchor| &anchor.head);
        let anchored = head.is_none_or(|head| head.count == 0);
        let mut this =
            Self { key, anchor: head, anchored, foreign: false, file: String::new(), at: 0, report };
        if anchor.is_some_and(|a| a.genuine(key) == Genuine::No) {
            this.add(ProblemKind::AnchorForged);
        }
        this
    }

    /// `first`: the number that its first entry must have, by the file's name.
    fn file(&mut self, name: &str, first: Option<u64>, mut log: impl BufRead) -> io::Result<()> {
        name.clone_into(&mut self.file);
        self.at = 0;
        self.report.files += 1;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if (&mut log).take(MAX_LINE + 1).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(());
            }
            self.report.lines += 1;
            self.at += 1;
            if bytes.last() != Some(&b'\n') {
                if bytes.len() as u64 > MAX_LINE {
                    self.add(ProblemKind::Broken { because: format!("longer than {MAX_LINE} bytes") });
                    skip_line(&mut log)?;
                } else {
                    self.add(ProblemKind::Torn);
                }
                continue;
            }
            bytes.pop();
            match serde_json::from_slice(&bytes) {
                Ok(entry) => self.entry(&bytes, entry, first),
                Err(error) => {
                    self.add(ProblemKind::Broken { because: error.to_string() });
                    // The entry that stood here is gone, but the ones after it follow from it.
                    self.report.head.count += 1;
                    self.report.head.hash.clear();
                }
            }
        }
    }

    fn entry(&mut self, bytes: &[u8], entry: AuditEntry, first: Option<u64>) {
        if self.report.lines == 1
            && let Some(fingerprint) = entry.what.strip_prefix(FIRST_WORDS)
            && fingerprint != self.key.fingerprint()
        {
            self.foreign = true;
            self.add(ProblemKind::ForeignKey { fingerprint: fingerprint.to_owned() });
        }
        let first = first.filter(|_| self.at == 1);
        if let Some(named) = first.filter(|named| *named != entry.seq) {
            self.add(ProblemKind::Misnamed { named, found: entry.seq });
        }
        self.check(bytes, &entry);
        if let Some(anchor) = self.anchor.filter(|a| a.count == entry.seq) {
            self.anchored = true;
            if anchor.hash != entry.hash {
                self.add(ProblemKind::AnchorMismatch { seq: entry.seq });
            }
        }
        self.report.head = ChainHead { count: entry.seq, hash: entry.hash };
    }

    fn check(&mut self, bytes: &[u8], entry: &AuditEntry) {
        let seq = entry.seq;
        let expected = self.report.head.count + 1;
        if seq > expected && self.at == 1 && !self.file.is_empty() {
            self.add(ProblemKind::FileMissing { expected, found: seq });
        } else if seq != expected {
            self.add(ProblemKind::OutOfSequence { expected, found: seq });
        } else if !self.report.head.hash.is_empty() && entry.previous != self.report.head.hash {
            self.add(ProblemKind::Unlinked { seq });
        }
        if !self.foreign && hash(self.key, entry) != entry.hash {
            self.add(ProblemKind::Changed { seq });
        } else if line(entry) != bytes {
            self.add(ProblemKind::NotCanonical { seq });
        }
    }

    fn finish(mut self) -> VerifyReport {
        if let Some(anchor) = self.anchor
            && !self.anchored
            && self.report.head.count < anchor.count
        {
            let found = self.report.head.count;
            self.at += 1;
            self.add(ProblemKind::Truncated { expected: anchor.count, found });
        }
        self.report
    }

    fn add(&mut self, kind: ProblemKind) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(Problem { file: self.file.clone(), line: self.at, kind });
        } else {
            self.report.more_problems += 1;
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
