//! Reports on disk until the controller has stored them.
//!
//! **Order and place.** Reports get positions that grow over all starts of the agent. They stand in lanes by level, so that at
//! the limit the oldest of the lowest level goes first and never a critical one before another; they are read in the order of
//! their positions, across lanes.
//!
//! **Durability.** [`Spool::append`] writes, [`Spool::sync`] makes durable everything written before (group commit); only then is
//! it given out for sending. A crash loses at most what was appended after the last sync.
//!
//! **Damage.** Every frame has a marker and a CRC. A torn tail is cut at the next start and a damaged frame is skipped; both are
//! counted and named with file and offset. What is lost to the limit, to damage or to a full disk is in [`SpoolLoss`].

mod frame;
mod lane;
mod position;
mod recorded;

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

use model::{AgentEpoch, Level, Report, Seq};

pub use self::recorded::recorded;
use self::{lane::Lane, position::Positions};

/// Smallest limit that makes sense: every lane may hold one segment.
pub const MIN_LIMIT: u64 = 1 << 20;

/// Frames kept in memory while the disk takes none (I11).
const MAX_PENDING: usize = 256;
/// And their bytes.
const MAX_PENDING_BYTES: usize = 4 << 20;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("spool: cannot {operation} {path}: {source}")]
pub struct SpoolError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// The system's word.
    pub source: io::Error,
}

impl SpoolError {
    fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self { operation, path: path.to_owned(), source }
    }

    fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

/// What was accepted and could not be kept, since this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolLoss {
    /// Dropped because the spool was at its limit or the disk was full, by [`lane_of`]'s lanes.
    pub dropped: [u64; LANES],
    /// Frames that were damaged on disk.
    pub damaged: u64,
}

impl SpoolLoss {
    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.dropped.iter().sum::<u64>() + self.damaged
    }
}

/// How many lanes there are.
pub const LANES: usize = 4;

/// Lane names, which are folder names, from the first to be given up to the last.
const NAMES: [&str; LANES] = ["low", "medium", "high", "critical"];

/// The lane of a report. What the node did on its own authority, and counts of findings that may be of any level, are never given
/// up before a finding.
#[must_use]
pub fn lane_of(report: &Report) -> usize {
    match report {
        Report::Finding(finding) => match finding.rule.level {
            Level::Informational | Level::Low => 0,
            Level::Medium => 1,
            Level::High => 2,
            Level::Critical => 3,
        },
        Report::Repeat { .. } => 2,
        Report::Reaction(_) => 3,
    }
}

/// A report with its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Spooled {
    /// Its position.
    pub seq: Seq,
    /// What.
    pub report: Report,
}

/// Reports on disk, in order.
#[derive(Debug)]
pub struct Spool {
    lanes: [Lane; LANES],
    positions: Positions,
    limit: u64,
    /// What the disk did not take, oldest first.
    pending: VecDeque<(usize, Seq, Vec<u8>)>,
    loss: SpoolLoss,
    /// What was found wrong when it was opened.
    notes: Vec<String>,
    disk_full: DiskFull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskFull {
    No,
    Yes,
}

impl Spool {
    /// Opens the folder, makes it if it is not there, repairs what a crash has left, and counts this start of the agent.
    /// `limit` is the size of all frames in bytes, at least [`MIN_LIMIT`].
    ///
    /// # Errors
    /// When the folder cannot be used. Damaged content is no error: see [`Spool::notes`].
    pub fn open(folder: &Path, limit: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(folder).map_err(|source| SpoolError::new("create", folder, source))?;
        let limit = limit.max(MIN_LIMIT);
        let mut notes = Vec::new();
        let mut loss = SpoolLoss::default();
        let segment = (limit / 64).clamp(64 << 10, 4 << 20);
        let mut open = |name: &str| Lane::open(&folder.join(name), segment, &mut notes, &mut loss.damaged);
        let mut lanes = [open(NAMES[0])?, open(NAMES[1])?, open(NAMES[2])?, open(NAMES[3])?];
        let found = lanes.iter().filter_map(Lane::last).max();
        let positions = Positions::open(folder, found, &mut notes)?;
        for lane in &mut lanes {
            lane.acknowledged(positions.acknowledged())?;
        }
        for note in &notes {
            tracing::warn!("{note}");
        }
        Ok(Self { lanes, positions, limit, pending: VecDeque::new(), loss, notes, disk_full: DiskFull::No })
    }

    /// The number of this start of the agent.
    #[must_use]
    pub fn epoch(&self) -> AgentEpoch {
        self.positions.epoch()
    }

    /// What was found wrong at the start and how it was mended, in a person's words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What could not be kept since this start.
    #[must_use]
    pub fn loss(&self) -> SpoolLoss {
        self.loss
    }

    /// What a person should know: that the disk is full, and what was lost, with what to do.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.is_disk_full() {
            said.push(
                "the disk is full: reports wait in memory; make room where the state folder is".to_owned(),
            );
        }
        let SpoolLoss { dropped: [low, medium, high, critical], damaged } = self.loss;
        if low + medium + high + critical > 0 {
            said.push(format!(
                "the spool gave up {low} low, {medium} medium, {high} high and {critical} critical reports at its limit or for want of \
                 disk: bring the controller back, or make room"
            ));
        }
        if damaged > 0 {
            said.push(format!("{damaged} reports in the spool were damaged and skipped; the log says where"));
        }
        said
    }

    /// Whether the disk takes nothing at present.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.disk_full == DiskFull::Yes
    }

    /// Size of all frames on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lanes.iter().map(Lane::bytes).sum()
    }

    /// Appends, at the limit by giving up what is oldest of the lowest level. Durable after [`Spool::sync`].
    ///
    /// # Errors
    /// When the disk fails in another way than being full. A full disk is no error: the report waits in memory, and what cannot
    /// wait is counted as lost.
    pub fn append(&mut self, report: &Report) -> Result<Seq, SpoolError> {
        let seq = self.positions.next();
        let lane = lane_of(report);
        let bytes = frame::encode(seq, report);
        self.pending.push_back((lane, seq, bytes));
        self.write_pending()?;
        Ok(seq)
    }

    /// Makes durable everything appended so far.
    ///
    /// # Errors
    /// When the disk fails in another way than being full.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.write_pending()?;
        for lane in &mut self.lanes {
            lane.sync()?;
        }
        Ok(())
    }

    /// At most `most` durable reports after `after`, in order. Damaged frames are skipped and counted.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self, after: Seq, most: usize) -> Result<Vec<Spooled>, SpoolError> {
        let mut reports = Vec::new();
        let mut at = [after; LANES];
        let mut heads: [Option<Spooled>; LANES] = [const { None }; LANES];
        while reports.len() < most {
            for number in 0..LANES {
                if heads[number].is_none() {
                    let lane = &mut self.lanes[number];
                    heads[number] = lane.next(at[number], &mut self.notes, &mut self.loss.damaged)?;
                }
            }
            let next = heads
                .iter()
                .enumerate()
                .filter_map(|(number, head)| head.as_ref().map(|head| (head.seq, number)))
                .min();
            let Some((seq, number)) = next else { break };
            at[number] = seq;
            reports.extend(heads[number].take());
        }
        self.notes.truncate(64);
        Ok(reports)
    }

    /// The controller has stored everything up to `upto`: it may go.
    ///
    /// # Errors
    /// When the position cannot be written or a file not removed.
    pub fn acknowledge(&mut self, upto: Seq) -> Result<(), SpoolError> {
        // A position that was never given out would make the next reports vanish unread.
        let upto = upto.min(self.positions.last());
        if upto <= self.positions.acknowledged() {
            return Ok(());
        }
        self.positions.acknowledge(upto)?;
        for lane in &mut self.lanes {
            lane.acknowledged(upto)?;
        }
        self.pending.retain(|(_, seq, _)| *seq > upto);
        if self.disk_full == DiskFull::Yes {
            self.write_pending()?;
        }
        Ok(())
    }

    /// Up to where the controller has stored.
    #[must_use]
    pub fn acknowledged(&self) -> Seq {
        self.positions.acknowledged()
    }

    fn write_pending(&mut self) -> Result<(), SpoolError> {
        while let Some((lane, seq, bytes)) = self.pending.front() {
            let (lane, seq, size) = (*lane, *seq, bytes.len() as u64);
            while self.bytes() + size > self.limit {
                if !self.give_up_below(lane)? {
                    break;
                }
            }
            let Some((_, _, bytes)) = self.pending.front() else { break };
            match self.lanes[lane].append(seq, bytes) {
                Ok(()) => {
                    self.pending.pop_front();
                    self.disk_full = DiskFull::No;
                }
                Err(error) if error.is_full() => {
                    // Room may come from what matters less; if none does, it waits in memory.
                    if self.give_up_below(lane)? {
                        continue;
                    }
                    if self.disk_full == DiskFull::No {
                        tracing::error!(%error, "the disk is full: reports wait in memory");
                    }
                    self.disk_full = DiskFull::Yes;
                    self.drop_pending();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes the oldest segment of the lowest lane that is not above `lane`. `false` if there is none.
    fn give_up_below(&mut self, lane: usize) -> Result<bool, SpoolError> {
        for number in 0..=lane {
            if let Some(reports) = self.lanes[number].give_up_oldest()? {
                self.loss.dropped[number] += reports;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn drop_pending(&mut self) {
        let bytes = |pending: &VecDeque<(usize, Seq, Vec<u8>)>| {
            pending.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>()
        };
        while self.pending.len() > MAX_PENDING || bytes(&self.pending) > MAX_PENDING_BYTES {
            let Some((at, _)) =
                self.pending.iter().enumerate().min_by_key(|(_, (lane, seq, _))| (*lane, *seq))
            else {
                return;
            };
            if let Some((lane, _, _)) = self.pending.remove(at) {
                self.loss.dropped[lane] += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
