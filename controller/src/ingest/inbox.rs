//! What others send us, on disk until it is dealt with: an answer is only given for what is here, and nothing here is lost by a crash.
//!
//! An inbox is a log of our own, which [`super::source`] follows as it follows any other: so position, acknowledgement, dead letters and status
//! are those of logs. One line is one record in its envelope. Files that are dealt with are removed but for the last, whose keys tell
//! repetitions after a restart. At its limit an inbox takes nothing more: senders are told to come again (I11).

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use model::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{
    position::Position,
    read::{MAX_RECORD, Rejected},
};

/// Bytes that an inbox holds which are not dealt with.
pub(super) const LIMIT: u64 = 256 << 20;

/// A file that is longer is full: the next is begun. There are never more than follow from [`LIMIT`].
const FILE: u64 = 8 << 20;

/// Keys by which repetitions are told, at most; the oldest are forgotten first.
const MAX_KEYS: usize = 131_072;

/// Bytes of a refused body that are kept for its dead letter.
const REFUSED: usize = 2048;

/// What a record is told apart by from others; the same for its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

impl Key {
    /// Nothing repeats it.
    pub(super) const NONE: Self = Self(0);

    /// Of these parts, told apart from each other.
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let first = digest.first_chunk::<8>().map_or(1, |bytes| u64::from_le_bytes(*bytes));
        Self(first.max(1))
    }
}

/// What is put in.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: Key,
    pub(super) body: Result<&'a [u8], (Rejected, &'a [u8])>,
}

/// When what was put in is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// Before this returns.
    Now,
    /// At the next [`Inbox::sync`].
    Later,
}

/// What was done with entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    pub(super) new: u64,
    pub(super) again: u64,
}

/// Why entries are not taken; none of them is.
#[derive(Debug, thiserror::Error)]
pub(super) enum InboxError {
    #[error("{held} bytes wait to be read, at most {limit}")]
    Full { held: u64, limit: u64 },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    folder: PathBuf,
    limit: u64,
    file_limit: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    /// Bytes of it, all of them whole lines.
    bytes: u64,
    /// Whether it may hold the beginning of a line behind these.
    torn: bool,
    unsynced: bool,
    old: VecDeque<Old>,
    keys: Keys,
}

/// A full file.
#[derive(Debug)]
struct Old {
    number: u64,
    inode: u64,
    bytes: u64,
}

impl Inbox {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        Self::with_limits(folder, LIMIT, FILE)
    }

    pub(super) fn with_limits(folder: &Path, limit: u64, file_limit: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut keys = Keys::default();
        let mut old = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("inbox.log."));
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                let metadata = entry.metadata()?;
                old.push(Old { number, inode: metadata.ino(), bytes: metadata.len() });
            }
        }
        old.sort_by_key(|one| one.number);
        for one in &old {
            keys.learn(&numbered(folder, one.number))?;
        }
        let path = log(folder);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        let bytes = whole_lines(&mut file)?;
        file.set_len(bytes)?;
        keys.learn(&path)?;
        File::open(folder)?.sync_all()?;
        let inner = Inner { file, bytes, torn: false, unsynced: false, old: old.into(), keys };
        Ok(Self { folder: folder.into(), limit, file_limit, inner: Mutex::new(inner) })
    }

    /// The log to follow.
    pub(super) fn log(&self) -> PathBuf {
        log(&self.folder)
    }

    /// Bytes that are there, dealt with or not.
    pub(super) fn held(&self) -> u64 {
        self.lock().held()
    }

    /// Puts all of them in, or none. What is there already is not put in again.
    pub(super) fn append(
        &self,
        at: Timestamp,
        from: &str,
        entries: &[Entry<'_>],
        durable: Durable,
    ) -> Result<Taken, InboxError> {
        // In order, so that the oldest are forgotten first; and to look up.
        let (mut new_keys, mut among_new) = (Vec::new(), HashSet::new());
        let (mut lines, mut taken) = (Vec::new(), Taken::default());
        let mut inner = self.lock();
        for entry in entries {
            if entry.key != Key::NONE {
                if inner.keys.known.contains(&entry.key) || !among_new.insert(entry.key) {
                    taken.again += 1;
                    continue;
                }
                new_keys.push(entry.key);
            }
            taken.new += 1;
            write_line(&mut lines, at, from, entry);
        }
        let held = inner.held();
        if held + lines.len() as u64 > self.limit {
            return Err(InboxError::Full { held, limit: self.limit });
        }
        let outcome = self.write(&mut inner, &lines, durable);
        outcome.map_err(|source| InboxError::Io { path: self.log(), source })?;
        inner.keys.add(new_keys);
        Ok(taken)
    }

    /// Makes durable what was put in.
    pub(super) fn sync(&self) -> Result<(), InboxError> {
        let mut inner = self.lock();
        if inner.unsynced {
            inner.file.sync_data().map_err(|source| InboxError::Io { path: self.log(), source })?;
            inner.unsynced = false;
        }
        Ok(())
    }

    /// Forgets the files before the one that is being read, but for the last of them: its keys tell repetitions after a restart.
    pub(super) fn settled(&self, position: &Position) -> io::Result<()> {
        let mut inner = self.lock();
        let reading = inner.old.iter().position(|one| one.inode == position.file.inode);
        let mut dealt = reading.unwrap_or(if position.file.is_none() { 0 } else { inner.old.len() });
        while dealt > 1 {
            let Some(first) = inner.old.front() else { break };
            // A file that may still be looked at stays.
            if position.before.iter().any(|(file, _)| file.inode == first.inode) {
                break;
            }
            fs::remove_file(numbered(&self.folder, first.number))?;
            inner.old.pop_front();
            dealt -= 1;
        }
        Ok(())
    }

    fn write(&self, inner: &mut Inner, lines: &[u8], durable: Durable) -> io::Result<()> {
        if inner.torn {
            inner.file.set_len(inner.bytes)?;
            inner.torn = false;
        }
        if inner.bytes > 0 && inner.bytes + lines.len() as u64 > self.file_limit {
            self.turn_over(inner)?;
        }
        inner.torn = true;
        let written = inner.file.write_all(lines).and_then(|()| match durable {
            Durable::Now => inner.file.sync_data(),
            Durable::Later => Ok(()),
        });
        if let Err(error) = written {
            // What a sender was not thanked for must not be there: it comes again.
            inner.torn = inner.file.set_len(inner.bytes).is_err();
            return Err(error);
        }
        inner.torn = false;
        inner.unsynced = durable == Durable::Later;
        inner.bytes += lines.len() as u64;
        Ok(())
    }

    /// Begins the next file.
    fn turn_over(&self, inner: &mut Inner) -> io::Result<()> {
        inner.file.sync_data()?;
        let number = inner.old.back().map_or(1, |last| last.number + 1);
        let inode = inner.file.metadata()?.ino();
        // The new one is there before the old one has its name, so that a failure leaves the old one in use.
        let next = self.folder.join("next");
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&next)?;
        fs::rename(self.log(), numbered(&self.folder, number))?;
        fs::rename(&next, self.log())?;
        File::open(&self.folder)?.sync_all()?;
        inner.old.push_back(Old { number, inode, bytes: inner.bytes });
        (inner.file, inner.bytes, inner.unsynced) = (file, 0, false);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn held(&self) -> u64 {
        self.bytes + self.old.iter().map(|one| one.bytes).sum::<u64>()
    }
}

/// A line of an inbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) received: Timestamp,
    pub(super) from: &'a str,
    /// What was sent; or why it was refused, and its beginning.
    pub(super) body: Result<&'a [u8], (Rejected, &'a [u8])>,
}

impl<'a> Envelope<'a> {
    /// What [`Inbox::append`] wrote; `None` for anything else.
    pub(super) fn open(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(5, |byte| *byte == b'\t');
        let (kind, _key) = (parts.next()?, parts.next()?);
        let received = Timestamp(std::str::from_utf8(parts.next()?).ok()?.parse().ok()?);
        let from = std::str::from_utf8(parts.next()?).ok()?;
        let body = parts.next()?;
        let body = match kind {
            b"R" => Ok(body),
            b"X" => {
                let mut parts = body.splitn(3, |byte| *byte == b'\t');
                let mut text = || Some(String::from_utf8_lossy(parts.next()?).into_owned());
                let (place, reason) = (text()?, text()?);
                Err((Rejected { place, reason }, parts.next()?))
            }
            _ => return None,
        };
        Some(Self { received, from, body })
    }
}

fn write_line(lines: &mut Vec<u8>, at: Timestamp, from: &str, entry: &Entry<'_>) {
    let kind = if entry.body.is_ok() { 'R' } else { 'X' };
    lines.extend_from_slice(format!("{kind}\t{:016x}\t{}\t", entry.key.0, at.0).as_bytes());
    // As long as the peers' addresses that are written here, and no longer.
    word(lines, &from.as_bytes()[..from.floor_char_boundary(128)]);
    lines.push(b'\t');
    let body = match &entry.body {
        Ok(body) => *body,
        Err((rejected, body)) => {
            for text in [&rejected.place, &rejected.reason] {
                word(lines, &text.as_bytes()[..text.floor_char_boundary(512)]);
                lines.push(b'\t');
            }
            &body[..body.len().min(REFUSED)]
        }
    };
    // Ends of lines stand only between a JSON text's words, where a space means the same.
    lines.extend(body.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    lines.push(b'\n');
}

fn word(lines: &mut Vec<u8>, text: &[u8]) {
    lines.extend(text.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
}

/// Keys of what came, oldest first.
#[derive(Debug, Default)]
struct Keys {
    known: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Keys {
    fn add(&mut self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            if self.known.insert(key) {
                self.order.push_back(key);
            }
        }
        while self.order.len() > MAX_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Those that stand in a file.
    fn learn(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
        let mut head = Vec::new();
        loop {
            head.clear();
            if reader.by_ref().take(20).read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
            let hex = head.get(2..18).and_then(|hex| std::str::from_utf8(hex).ok());
            let key = hex.and_then(|hex| u64::from_str_radix(hex, 16).ok());
            self.add(key.filter(|key| *key != 0).map(Key));
            if head.last() != Some(&b'\n') {
                skip_line(&mut reader)?;
            }
        }
    }
}

fn skip_line(reader: &mut impl io::BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if ended {
            return Ok(());
        }
    }
}

/// Bytes of the file up to the end of its last whole line. A longer line than any record's is none of ours.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let from = end.saturating_sub(MAX_RECORD as u64);
        let mut chunk = vec![0; usize::try_from(end - from).unwrap_or(0)];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

fn log(folder: &Path) -> PathBuf {
    folder.join("inbox.log")
}

/// Sorted by name they are sorted by age.
fn numbered(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("inbox.log.{number:012}"))
}

#[cfg(test)]
mod tests;
