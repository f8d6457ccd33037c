//! Where in a full file of the log is what, so that a question reads little of it. Made from the file and from nothing else: it can be
//! lost, and proves nothing ([`super::verify`] never looks at it).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufReader, Read},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use model::{AuditEntry, Timestamp};
use serde::{Deserialize, Serialize};

use super::{log::next_line, segments::index_of};

/// Entries of one block.
const BLOCK: u64 = 256;

/// Largest index that is read; a larger one was not made here (I11).
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What is wanted of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// Only entries after this position.
    pub after: u64,
    /// Only entries of this time or later.
    pub since: Option<Timestamp>,
    /// Only entries of incidents whose id begins so, with or without `inc-`.
    pub incident: Option<String>,
    /// At most this many, the oldest of those that fit.
    pub limit: usize,
}

/// Where in a file is what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// Length of the file that it was made from.
    pub(super) bytes: u64,
    /// Number of the first entry.
    pub(super) first: Option<u64>,
    pub(super) blocks: Vec<Block>,
    /// Incident → the blocks with entries of it.
    incidents: BTreeMap<String, Vec<usize>>,
}

/// Some consecutive lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    entries: u64,
    /// Highest number.
    last: u64,
    /// Latest time.
    latest: Timestamp,
}

impl Query {
    /// Everything after a position.
    #[must_use]
    pub fn after(after: u64, limit: usize) -> Self {
        Self { after, limit, ..Self::default() }
    }

    pub(super) fn wants(&self, entry: &AuditEntry) -> bool {
        let incident = entry.incident.as_ref().map(model::IncidentId::as_str);
        entry.seq > self.after
            && self.since.is_none_or(|since| entry.at >= since)
            && self.incident.as_deref().is_none_or(|wanted| incident.is_some_and(|id| is_meant(id, wanted)))
    }
}

fn is_meant(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted) || id.strip_prefix("inc-").is_some_and(|rest| rest.starts_with(wanted))
}

impl Index {
    /// Takes a line of `length` bytes in, its end included.
    pub(super) fn add(&mut self, length: u64, entry: Option<&AuditEntry>) {
        if self.blocks.last().is_none_or(|block| block.entries >= BLOCK) {
            let latest = Timestamp(i64::MIN);
            self.blocks.push(Block { offset: self.bytes, bytes: 0, entries: 0, last: 0, latest });
        }
        self.bytes += length;
        let at = self.blocks.len() - 1;
        let block = &mut self.blocks[at];
        block.bytes += length;
        block.entries += 1;
        let Some(entry) = entry else { return };
        self.first.get_or_insert(entry.seq);
        block.last = block.last.max(entry.seq);
        block.latest = block.latest.max(entry.at);
        if let Some(incident) = &entry.incident {
            let blocks = self.incidents.entry(incident.to_string()).or_default();
            if blocks.last() != Some(&at) {
                blocks.push(at);
            }
        }
    }

    /// Made from a file.
    pub(super) fn of(file: impl Read) -> io::Result<Self> {
        let mut index = Self::default();
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while let Some(length) = next_line(&mut reader, &mut line)? {
            index.add(length, serde_json::from_slice(&line).ok().as_ref());
        }
        Ok(index)
    }

    /// The one beside a full file if it fits; else made anew, and put there if that can be done.
    pub(super) fn beside(segment: &Path) -> io::Result<Self> {
        let length = fs::metadata(segment)?.len();
        let kept = fs::File::open(index_of(segment)).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        if let Ok(bytes) = kept
            && let Ok(index) = serde_json::from_slice::<Self>(&bytes)
            && index.is_possible(length)
        {
            return Ok(index);
        }
        let index = Self::of(fs::File::open(segment)?)?;
        if let Err(error) = index.write(segment) {
            tracing::debug!(%error, segment = %segment.display(), "an index of the audit log is not kept");
        }
        Ok(index)
    }

    /// Puts it beside the file that it is of.
    pub(super) fn write(&self, segment: &Path) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = index_of(segment);
        let fresh = path.with_extension(format!("index.new{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, &path));
        if written.is_err() {
            // Half of it may be there on a full disk.
            drop(fs::remove_file(&fresh));
        }
        written
    }

    /// The blocks that may hold what is wanted, in order.
    pub(super) fn blocks_for<'a>(&'a self, query: &'a Query) -> impl Iterator<Item = Block> + 'a {
        let of_incident: Option<Vec<usize>> = query.incident.as_deref().map(|wanted| {
            let fitting = self.incidents.iter().filter(|(id, _)| is_meant(id, wanted));
            fitting.flat_map(|(_, blocks)| blocks.iter().copied()).collect()
        });
        self.blocks.iter().enumerate().filter_map(move |(at, block)| {
            let fits = block.last > query.after
                && query.since.is_none_or(|since| block.latest >= since)
                && of_incident.as_ref().is_none_or(|blocks| blocks.contains(&at));
            fits.then_some(*block)
        })
    }

    /// Whether it can be of a file of this length: what it says is in order and covers the file.
    fn is_possible(&self, length: u64) -> bool {
        let mut end = 0;
        let mut in_order = true;
        for block in &self.blocks {
            in_order &= block.offset == end;
            end = block.offset.saturating_add(block.bytes);
        }
        in_order && end == length && self.bytes == length
    }
}
