//! The node's own memory of its containments (I4, I7): one checksummed line for each transition, appended and read back before
//! the effect that it announces.
//!
//! How durable a line must be follows from what it describes. Freezes, stops, eBPF links and kills end with the kernel that
//! they live in, so their lines need only survive the agent: they are in the page cache when `write` returns. A file in
//! quarantine outlives a power cut, so its lines are synced to the disk ([`Durability::Disk`]).

mod paused;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use model::{
    ActionFailure, ActionId, ActionRecord, ActionState, CommandOutcome, MovedProcess, Outputs, RollbackState,
    StoppedProcess, Timestamp, UndoClass,
};
use rustix::fs::{FallocateFlags, FlockOperation};
use serde::{Deserialize, Serialize};

pub(super) use paused::Paused;

use super::spared::{PARTIAL, SPARED};

/// A journal larger than this is rewritten while running, and then again when it has doubled: each line is rewritten a bounded number
/// of times, however much of it still stands.
const COMPACT_ABOVE: u64 = 4 << 20;
/// Room kept allocated ahead, so that a disk filled by the attacker does not keep containment from being recorded: at least half of it
/// is left at any time.
const RESERVE: u64 = 1 << 20;
/// Actions that hold nothing any more, or not yet, and are remembered for repeated commands.
const MAX_ENDED: usize = 1024;
/// Outcomes remembered of one action.
const MAX_OUTCOMES: usize = 64;
/// Lines that wait for room on the disk.
const MAX_OWED: usize = 4096;
/// A longer line is not written, and what is read as one is damage.
const MAX_LINE: u64 = 16 << 20;
/// So many members stand in one line: their cgroups may have names of 4 KB each.
const MEMBERS_OF_LINE: usize = 256;

/// Everything known of one action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) record: ActionRecord,
    /// Position among all actions, so that several are lifted newest first.
    pub(super) order: u64,
    /// The boot it belongs to: freezes, links and processes of another boot are gone.
    pub(super) boot: String,
    /// cgroups held still for the moment of the move; set free if a crash came between.
    pub(super) paused: Vec<Paused>,
    /// Jail and members of an action that freezes on the way to something else (kill).
    pub(super) work: Option<RollbackState>,
    /// What applying it gave, for a command that is repeated after a crash.
    pub(super) outputs: Outputs,
    pub(super) outcomes: Vec<CommandOutcome>,
}

/// One transition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub(super) enum Line {
    /// A new action, or all of a known one again.
    Put(Box<Slot>),
    State {
        id: ActionId,
        state: ActionState,
        detail: String,
    },
    Applied {
        id: ActionId,
        at: Timestamp,
        outputs: Outputs,
        #[serde(default)]
        detail: String,
    },
    Rollback {
        id: ActionId,
        rollback: RollbackState,
    },
    Work {
        id: ActionId,
        work: Option<RollbackState>,
    },
    /// These are about to be moved into the action's jail.
    Moved {
        id: ActionId,
        members: Vec<MovedProcess>,
    },
    Paused {
        id: ActionId,
        cgroups: Vec<Paused>,
    },
    /// These are about to be stopped by a signal for the action's freeze; none: the signals have been taken back.
    Stopped {
        id: ActionId,
        stopped: Vec<StoppedProcess>,
    },
    Outcome {
        id: ActionId,
        outcome: CommandOutcome,
    },
}

impl Line {
    pub(super) fn applied(id: ActionId, at: Timestamp, outputs: Outputs) -> Self {
        let spared = outputs.get(SPARED).and_then(|names| names.as_array()).map(|names| {
            let names: Vec<&str> = names.iter().filter_map(|name| name.as_str()).collect();
            format!("left out, because protected: {}", names.join("; "))
        });
        let partial = outputs.get(PARTIAL).and_then(|because| because.as_str()).map(str::to_owned);
        let detail = partial.into_iter().chain(spared).collect::<Vec<_>>().join("; ");
        Self::Applied { id, at, outputs, detail }
    }

    /// The action that it is about.
    pub(super) fn id(&self) -> &ActionId {
        match self {
            Self::Put(slot) => &slot.record.id,
            Self::State { id, .. }
            | Self::Applied { id, .. }
            | Self::Rollback { id, .. }
            | Self::Work { id, .. }
            | Self::Moved { id, .. }
            | Self::Paused { id, .. }
            | Self::Stopped { id, .. }
            | Self::Outcome { id, .. } => id,
        }
    }
}

/// What a line must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// The agent.
    Agent,
    /// The machine.
    Disk,
}

/// Failure of the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has the state directory.
    #[error("{path} is in use by another agent")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    /// Up to where room is allocated.
    reserved: u64,
    compact_at: u64,
    slots: BTreeMap<ActionId, Slot>,
    /// Those of the slots that are not over: few, while the ended ones are many, and they are looked through on the way to a freeze.
    standing: BTreeSet<ActionId>,
    next: u64,
    /// Held to be true, since they tell of what is done, and written before the next line.
    owed: VecDeque<Line>,
    /// Held for its flock.
    _lock: File,
}

impl Journal {
    /// Opens `dir/journal`, taking the directory for this process alone. Damaged lines are left out and the damaged file is kept
    /// beside as `journal.damaged`; a torn last line, as a crash leaves it, is dropped silently.
    pub(super) fn open(dir: &Path) -> Result<Self, JournalError> {
        let lock_path = dir.join("lock");
        let lock = private().write(true).open(&lock_path).map_err(fault("open", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| JournalError::Busy { path: lock_path })?;
        let path = dir.join("journal");
        let Found { slots, damage, whole } = read(&path)?;
        let next = slots.values().map(|slot| slot.order + 1).max().unwrap_or(0);
        if damage == Damage::Inside {
            tracing::error!(path = %path.display(), "the containment journal has damaged lines; kept as journal.damaged");
            let aside = dir.join("journal.damaged");
            fs::copy(&path, &aside).map_err(fault("copy to", &aside))?;
        }
        let (file, length) = match rewrite(&path, &slots) {
            Ok(file) => {
                let length = file.metadata().map_err(fault("measure", &path))?.len();
                (file, length)
            }
            // A full disk must not keep an agent from knowing and lifting what it did: the file goes on as it is.
            Err(error) if whole > 0 => {
                tracing::warn!(%error, "the containment journal could not be rewritten: the old file goes on");
                let file = private().read(true).write(true).open(&path).map_err(fault("open", &path))?;
                file.set_len(whole).map_err(fault("cut", &path))?;
                (file, whole)
            }
            Err(error) => return Err(error),
        };
        let standing = slots
            .values()
            .filter(|slot| !is_over(slot.record.state))
            .map(|slot| slot.record.id.clone())
            .collect();
        let compact_at = COMPACT_ABOVE.max(2 * length);
        let owed = VecDeque::new();
        let mut journal = Self {
            path,
            file,
            length,
            reserved: length,
            compact_at,
            slots,
            standing,
            next,
            owed,
            _lock: lock,
        };
        journal.reserve();
        Ok(journal)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// Those that are not over.
    pub(super) fn standing(&self) -> impl Iterator<Item = &Slot> {
        self.standing.iter().filter_map(|id| self.slots.get(id))
    }

    pub(super) fn slot(&self, id: &ActionId) -> Option<&Slot> {
        self.slots.get(id)
    }

    /// The place of a new action among all.
    pub(super) fn next_order(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Writes a line, reads it back (I4) and only then holds it to be true.
    pub(super) fn append(&mut self, line: Line, durability: Durability) -> Result<(), ActionFailure> {
        self.settle()?;
        self.write(&line, durability)?;
        self.hold(line);
        Ok(())
    }

    /// For a line that tells of what is done already: it is true whether or not the disk takes it. One that it does not take is
    /// written before the next. After a crash until then the file still has the line that announced the effect, so recovery brings
    /// it to its end again.
    pub(super) fn append_done(&mut self, line: Line, durability: Durability) -> Result<(), ActionFailure> {
        if let Err(failure) = self.settle().and_then(|()| self.write(&line, durability)) {
            if self.owed.len() >= MAX_OWED {
                return Err(failure);
            }
            tracing::error!(%failure, "what is done could not be written down yet: it is remembered");
            self.owed.push_back(line.clone());
        }
        self.hold(line);
        Ok(())
    }

    /// Writes what the disk did not take before.
    ///
    /// Errors: [`ActionFailure::Io`] while it still does not.
    pub(super) fn settle(&mut self) -> Result<(), ActionFailure> {
        while let Some(line) = self.owed.pop_front() {
            if let Err(failure) = self.write(&line, Durability::Disk) {
                self.owed.push_front(line);
                return Err(failure);
            }
        }
        Ok(())
    }

    fn hold(&mut self, line: Line) {
        let id = line.id().clone();
        admit(&mut self.slots, line);
        match self.slots.get(&id) {
            Some(slot) if !is_over(slot.record.state) => self.standing.insert(id),
            _ => self.standing.remove(&id),
        };
        if self.length > self.compact_at {
            self.compact();
        }
    }

    fn write(&mut self, line: &Line, durability: Durability) -> Result<(), ActionFailure> {
        let failed = |operation: &str, error: &io::Error| {
            ActionFailure::io(operation, "the containment journal", error)
        };
        let bytes = encode(line).map_err(|error| failed("encode", &error))?;
        if let Err(error) = self.file.write_all_at(&bytes, self.length) {
            // what was half written is overwritten by the next line, or dropped as a torn tail
            return Err(failed("write", &error));
        }
        if let Err((operation, error)) = self.confirm(&bytes, durability) {
            self.take_back();
            return Err(failed(operation, &error));
        }
        self.length += bytes.len() as u64;
        if self.length + RESERVE / 2 > self.reserved {
            self.reserve();
        }
        Ok(())
    }

    fn confirm(&self, bytes: &[u8], durability: Durability) -> Result<(), (&'static str, io::Error)> {
        if durability == Durability::Disk {
            self.file.sync_data().map_err(|error| ("sync", error))?;
        }
        let mut back = vec![0; bytes.len()];
        self.file.read_exact_at(&mut back, self.length).map_err(|error| ("read back", error))?;
        if back != bytes {
            return Err(("read back", io::Error::other("it is not what was written")));
        }
        Ok(())
    }

    /// What was refused must not be found by the next start: it would finish an action of which somebody was told that it was not done. The line
    /// is made a torn one; the room that is allocated ahead stays.
    fn take_back(&self) {
        let torn = self.file.write_all_at(b"-", self.length);
        if let Err(error) = torn.or_else(|_| self.file.set_len(self.length)) {
            tracing::error!(%error, "a line of the containment journal that was not confirmed could not be taken back");
        }
    }

    /// Leaves out what is over, and the oldest of what holds nothing: each kill and each capture of evidence would stay for ever. Failure is no
    /// harm: the old file goes on.
    fn compact(&mut self) {
        let mut idle: Vec<(u64, ActionId)> = self
            .slots
            .values()
            .filter(|slot| is_idle(slot))
            .map(|slot| (slot.order, slot.record.id.clone()))
            .collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id) in idle.into_iter().skip(MAX_ENDED) {
            self.slots.remove(&id);
            self.standing.remove(&id);
        }
        match rewrite(&self.path, &self.slots) {
            Ok(file) => {
                self.length = file.metadata().map_or(0, |meta| meta.len());
                self.compact_at = COMPACT_ABOVE.max(2 * self.length);
                self.file = file;
                self.owed.clear();
                self.reserve();
            }
            Err(error) => {
                tracing::warn!(%error, "the containment journal could not be compacted");
                self.compact_at = self.length + COMPACT_ABOVE;
            }
        }
    }

    fn reserve(&mut self) {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.length, RESERVE) {
            Ok(()) => self.reserved = self.length + RESERVE,
            Err(error) => {
                tracing::debug!(%error, "no room can be reserved for the containment journal");
                // asked for again after as much as would have been reserved, not at each line
                self.reserved = self.length + RESERVE;
            }
        }
    }
}

/// Nothing of it is in force or half done.
pub(super) fn is_over(state: ActionState) -> bool {
    matches!(state, ActionState::Failed | ActionState::Reverted | ActionState::Vacuous)
}

/// Forgetting it changes nothing: it is over, or it is done and leaves nothing to undo, or it was only planned, which is captured anew when it
/// is applied after all.
fn is_idle(slot: &Slot) -> bool {
    match slot.record.state {
        ActionState::Failed | ActionState::Reverted | ActionState::Vacuous => true,
        ActionState::Planned | ActionState::Prepared => true,
        ActionState::Applied | ActionState::Verified | ActionState::Unverified => {
            slot.record.action.undo() != UndoClass::Exact && slot.work.is_none() && slot.paused.is_empty()
        }
        _ => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    None,
    Inside,
}

fn admit(slots: &mut BTreeMap<ActionId, Slot>, line: Line) {
    match line {
        Line::Put(slot) => {
            slots.insert(slot.record.id.clone(), *slot);
        }
        Line::State { id, state, detail } => {
            if let Some(slot) = slots.get_mut(&id) {
                slot.record.state = state;
                slot.record.detail = detail;
            }
        }
        Line::Applied { id, at, outputs, detail } => {
            if let Some(slot) = slots.get_mut(&id) {
                slot.record.state = ActionState::Applied;
                slot.record.applied = Some(at);
                slot.record.detail = detail;
                slot.outputs = outputs;
            }
        }
        Line::Rollback { id, rollback } => {
            if let Some(slot) = slots.get_mut(&id) {
                slot.record.rollback = Some(rollback);
            }
        }
        Line::Work { id, work } => {
            if let Some(slot) = slots.get_mut(&id) {
                slot.work = work;
            }
        }
        Line::Moved { id, members } => {
            let Some(slot) = slots.get_mut(&id) else { return };
            let state = slot.work.as_mut().or(slot.record.rollback.as_mut());
            if let Some(RollbackState::Freeze { members: known, .. }) = state {
                for member in members {
                    if !known.iter().any(|other| other.process == member.process) {
                        known.push(member);
                    }
                }
            }
        }
        Line::Stopped { id, stopped } => {
            let Some(slot) = slots.get_mut(&id) else { return };
            let state = slot.work.as_mut().or(slot.record.rollback.as_mut());
            if let Some(RollbackState::Freeze { stopped: known, .. }) = state {
                if stopped.is_empty() {
                    known.clear();
                }
                for one in stopped {
                    if !known.iter().any(|other| other.process == one.process) {
                        known.push(one);
                    }
                }
            }
        }
        Line::Paused { id, cgroups } => {
            if let Some(slot) = slots.get_mut(&id) {
                slot.paused = cgroups;
            }
        }
        Line::Outcome { id, outcome } => {
            if let Some(slot) = slots.get_mut(&id) {
                slot.outcomes.retain(|known| known.key != outcome.key || known.phase != outcome.phase);
                if slot.outcomes.len() >= MAX_OUTCOMES {
                    slot.outcomes.remove(0);
                }
                slot.outcomes.push(outcome);
            }
        }
    }
}

/// `<crc32 of the rest, 8 hex digits> <json>\n`
fn encode(line: &Line) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(line)?;
    let mut bytes = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    if bytes.len() as u64 > MAX_LINE {
        return Err(io::Error::other(format!("a line of {} bytes is too long", bytes.len())));
    }
    Ok(bytes)
}

fn decode(line: &[u8]) -> Option<Line> {
    let (sum, json) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if crc32fast::hash(json) != sum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// What a journal file holds.
struct Found {
    slots: BTreeMap<ActionId, Slot>,
    damage: Damage,
    /// Bytes up to the end of the last whole line: there the next one is written.
    whole: u64,
}

/// What `dir/journal` holds, read without taking the directory: whoever has it may write meanwhile, and a torn last line is left out.
pub(super) fn look(dir: &Path) -> Result<BTreeMap<ActionId, Slot>, JournalError> {
    read(&dir.join("journal")).map(|found| found.slots)
}

fn read(path: &Path) -> Result<Found, JournalError> {
    let mut found = Found { slots: BTreeMap::new(), damage: Damage::None, whole: 0 };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(source) => return Err(fault("open", path)(source)),
    };
    let mut reader = BufReader::new(file);
    let (mut at, mut suspect) = (0, false);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length =
            (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(fault("read", path))?;
        if length == 0 {
            return Ok(found);
        }
        at += length as u64;
        if suspect {
            found.damage = Damage::Inside;
        }
        let whole = line.pop_if(|byte| *byte == b'\n').is_some();
        match decode(&line).filter(|_| whole) {
            Some(line) => {
                admit(&mut found.slots, line);
                found.whole = at;
            }
            None => suspect = true,
        }
    }
}

/// Writes all slots to a new file, synced, and puts it in the place of the old one.
fn rewrite(path: &Path, slots: &BTreeMap<ActionId, Slot>) -> Result<File, JournalError> {
    let fresh = path.with_extension("new");
    let mut file =
        private().read(true).write(true).truncate(true).open(&fresh).map_err(fault("create", &fresh))?;
    let write = || -> io::Result<()> {
        for slot in slots.values() {
            for line in lines_of(slot) {
                file.write_all(&encode(&line)?)?;
            }
        }
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        File::open(dir)?.sync_all()
    };
    let mut write = write;
    write().map_err(fault("write", &fresh))?;
    Ok(file)
}

/// A slot as lines, none of which is longer than one may be: who was moved and stopped comes piece by piece, as it came at first.
fn lines_of(slot: &Slot) -> Vec<Line> {
    let mut rest = slot.clone();
    let id = slot.record.id.clone();
    let state = rest.work.as_mut().or(rest.record.rollback.as_mut());
    let (members, stopped) = match state {
        Some(RollbackState::Freeze { members, stopped, .. }) => {
            (members.split_off(members.len().min(1)), std::mem::take(stopped))
        }
        _ => (Vec::new(), Vec::new()),
    };
    let mut lines = vec![Line::Put(Box::new(rest))];
    let pieces = members.chunks(MEMBERS_OF_LINE);
    lines.extend(pieces.map(|some| Line::Moved { id: id.clone(), members: some.to_vec() }));
    let pieces = stopped.chunks(MEMBERS_OF_LINE);
    lines.extend(pieces.map(|some| Line::Stopped { id: id.clone(), stopped: some.to_vec() }));
    lines
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn fault(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { operation, path, source }
}

#[cfg(test)]
mod tests;
