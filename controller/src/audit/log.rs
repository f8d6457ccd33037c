//! Appends to the log, and repairs after a crash what the journal knows and the log does not.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use model::AuditEntry;

use super::{ChainHead, Query, chain::line, index::Index, segments};

/// How much of the log's end is read to find its last entry: more than the longest line twice over.
const TAIL: u64 = 256 * 1024;

/// No entry is longer, in bytes; what is longer in the file was put there from outside (I11).
const MAX_LINE: u64 = TAIL / 2;

/// A file that is longer is full, unless the controller is told otherwise: some 40,000 entries.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// The log, open for appending. What was appended is on disk after [`AuditLog::sync`]; until then the journal database has it, too.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    /// `None` only between the end of one file and the beginning of the next.
    file: Option<File>,
    /// Of the file that is being written.
    index: Index,
    segment_bytes: u64,
    /// Lines at the end that are not synced, and where they begin.
    unsynced: Vec<u8>,
    synced: u64,
    /// Whether they stand in the file whole.
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// They could not be written again after a sync that failed.
    Broken,
}

/// Entries that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Oldest first.
    pub entries: Vec<AuditEntry>,
    /// Bytes of the log that were read for it.
    pub bytes_read: u64,
}

/// What the start found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// The log stands where the journal says.
    Whole,
    /// A crash came between journal and log: so many entries were appended from the journal.
    Completed {
        /// How many.
        entries: u64,
    },
    /// The log is not what the journal says, and no crash explains it. It goes on, and the break stays visible to `verify`.
    Tampered {
        /// What was found.
        found: String,
    },
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the audit log {}: {source}", path.display())]
pub struct LogError {
    /// What was tried.
    pub operation: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// The system's word.
    #[source]
    pub source: io::Error,
}

impl AuditLog {
    /// Opens the log (mode 0600) and brings it to where the journal stands: `head`, with the last entries in `pending`. A file of
    /// more than `segment_bytes` is full.
    ///
    /// # Errors
    /// When the file cannot be opened, read or written.
    pub fn open(
        path: &Path,
        segment_bytes: u64,
        head: &ChainHead,
        pending: &[AuditEntry],
    ) -> Result<(Self, Recovered), LogError> {
        let at = |operation| move |source| LogError { operation, path: path.into(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(at("make the folder of"))?;
        }
        let mut log = Self {
            path: path.into(),
            file: None,
            index: Index::default(),
            segment_bytes,
            unsynced: Vec::new(),
            synced: 0,
            end: End::Whole,
        };
        log.begin()?;
        let tail = log.tail().map_err(at("read"))?;
        let recovered = log.repair(&tail, head, pending)?;
        log.sync()?;
        log.index =
            log.current()?.try_clone().and_then(from_start).and_then(Index::of).map_err(at("read"))?;
        Ok((log, recovered))
    }

    /// Appends entries. A crash of the machine may take them back until [`AuditLog::sync`]; one of this process does not.
    ///
    /// # Errors
    /// When the disk is full or fails; what was written of them is taken back where that is possible, and `open` repairs it
    /// otherwise. The same entries can be appended again.
    pub fn append(&mut self, entries: &[AuditEntry]) -> Result<(), LogError> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.begin()?;
        }
        if self.end == End::Broken {
            self.write_again()?;
        }
        self.turn_over()?;
        let mut bytes = Vec::with_capacity(entries.len() * 512);
        let mut lengths = Vec::with_capacity(entries.len());
        for entry in entries {
            let before = bytes.len();
            bytes.extend(line(entry));
            bytes.push(b'\n');
            lengths.push((bytes.len() - before) as u64);
        }
        let file = self.current()?;
        let before = file.metadata().map_err(|e| self.error("look at", e))?.len();
        let mut to = file;
        if let Err(source) = to.write_all(&bytes) {
            if let Err(error) = file.set_len(before) {
                tracing::error!(%error, "the incomplete end of the audit log could not be taken back");
            }
            return Err(self.error("write", source));
        }
        if self.unsynced.is_empty() {
            self.synced = before;
        }
        self.unsynced.extend_from_slice(&bytes);
        for (entry, length) in entries.iter().zip(lengths) {
            self.index.add(length, Some(entry));
        }
        Ok(())
    }

    /// Brings what was appended to the disk (fdatasync).
    ///
    /// # Errors
    /// When the disk fails. Who calls it must keep the entries elsewhere until it succeeds; it may be called again.
    pub fn sync(&mut self) -> Result<(), LogError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        if self.end == End::Broken {
            self.write_again()?;
        }
        if let Err(source) = self.current()?.sync_data() {
            // The system may have dropped what it could not write, and tells of that once only.
            self.end = End::Broken;
            return Err(self.error("sync", source));
        }
        self.unsynced.clear();
        Ok(())
    }

    /// Writes the lines that are not synced anew, so that the next sync is about them.
    fn write_again(&mut self) -> Result<(), LogError> {
        let mut file = self.current()?;
        file.set_len(self.synced)
            .and_then(|()| file.write_all(&self.unsynced))
            .map_err(|e| self.error("write again", e))?;
        self.end = End::Whole;
        Ok(())
    }

    /// Where the log lies: the file that is being written; the full ones stand beside it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entries that are asked for; lines that are no entries, or longer than any entry, are passed over (verify names them). Of
    /// full files only what may hold such entries is read, of the one that is being written all: not for the thread that decides.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(path: &Path, query: &Query) -> Result<Selection, LogError> {
        let at = |operation| move |source| LogError { operation, path: path.into(), source };
        // First, so that what becomes full meanwhile is neither missed nor read twice.
        let current = File::open(path).map_err(at("open"))?;
        let mut selection = Selection { entries: Vec::new(), bytes_read: 0 };
        for segment in segments::sealed(path, Some(&current)).map_err(at("list the files of"))? {
            if selection.entries.len() >= query.limit {
                return Ok(selection);
            }
            let of = |operation| {
                let path = segment.path.clone();
                move |source| LogError { operation, path, source }
            };
            let index = Index::beside(&segment.path).map_err(of("index"))?;
            let mut blocks = index.blocks_for(query).peekable();
            if blocks.peek().is_none() {
                continue;
            }
            let mut file = File::open(&segment.path).map_err(of("open"))?;
            for block in blocks {
                file.seek(SeekFrom::Start(block.offset)).map_err(of("read"))?;
                selection.take((&mut file).take(block.bytes), query).map_err(of("read"))?;
            }
        }
        selection.take(current, query).map_err(at("read"))?;
        Ok(selection)
    }

    /// Begins a new file if this one is full.
    fn turn_over(&mut self) -> Result<(), LogError> {
        let length = self.current()?.metadata().map_err(|e| self.error("look at", e))?.len();
        let Some(first) = self.index.first.filter(|_| length >= self.segment_bytes) else { return Ok(()) };
        self.sync()?;
        let sealed = segments::sealed_name(&self.path, first);
        std::fs::rename(&self.path, &sealed).map_err(|e| self.error("give its final name to", e))?;
        self.file = None;
        let index = std::mem::take(&mut self.index);
        if let Err(error) = index.write(&sealed) {
            tracing::warn!(%error, "an index of the audit log could not be kept: it is made again when it is needed");
        }
        tracing::info!(segment = %sealed.display(), "a file of the audit log is full: the chain goes on in a new one");
        self.begin()
    }

    /// Opens the file that is written, or makes it, and sees to it that its name is on disk.
    fn begin(&mut self) -> Result<(), LogError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(|e| self.error("open", e))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))
            .and_then(|folder| folder.sync_all())
            .map_err(|e| self.error("sync the folder of", e))?;
        self.file = Some(file);
        Ok(())
    }

    fn current(&self) -> Result<&File, LogError> {
        self.file.as_ref().ok_or_else(|| self.error("write", io::Error::other("no file is open")))
    }

    fn repair(
        &mut self,
        tail: &Tail,
        head: &ChainHead,
        pending: &[AuditEntry],
    ) -> Result<Recovered, LogError> {
        let last = tail.last.as_ref().map_or(0, |e| e.seq);
        let missing: Vec<AuditEntry> = pending.iter().filter(|e| e.seq > last).cloned().collect();
        let known = match &tail.last {
            None => tail.complete == 0 && tail.of_segment == OfSegment::No,
            Some(e) if e.seq == head.count => e.hash == head.hash,
            Some(e) => missing.first().is_some_and(|m| m.seq == e.seq + 1 && m.previous == e.hash),
        };
        let reaches = last == head.count || missing.first().is_some_and(|m| m.seq == last + 1);
        let torn_is_ours = tail.torn.is_empty()
            || missing.first().is_some_and(|m| {
                let mut whole = line(m);
                whole.push(b'\n');
                whole.starts_with(&tail.torn)
            });
        if known && reaches && torn_is_ours {
            if !tail.torn.is_empty() {
                let cut = self.current()?.set_len(tail.complete);
                cut.map_err(|e| self.error("cut the torn end of", e))?;
            }
            self.append(&missing)?;
            let entries = missing.len() as u64;
            return Ok(if entries == 0 { Recovered::Whole } else { Recovered::Completed { entries } });
        }
        if !tail.torn.is_empty() {
            let mut to = self.current()?;
            to.write_all(b"\n").map_err(|e| self.error("write", e))?;
        }
        self.append(&missing)?;
        let found = format!(
            "the audit log ends at entry {last}, the journal at entry {}: it was changed from outside",
            head.count
        );
        Ok(Recovered::Tampered { found })
    }

    /// The end of the log; where nothing stands in the file that is written, that of the last full one.
    fn tail(&self) -> io::Result<Tail> {
        let file = self.current().map_err(|error| error.source)?;
        let mut tail = Tail::of(file)?;
        if tail.last.is_none()
            && tail.complete == 0
            && let Some(segment) = segments::sealed(&self.path, None)?.last()
        {
            tail.last = Tail::of(&File::open(&segment.path)?)?.last;
            tail.of_segment = OfSegment::Yes;
        }
        Ok(tail)
    }

    fn error(&self, operation: &'static str, source: io::Error) -> LogError {
        LogError { operation, path: self.path.clone(), source }
    }
}

impl Selection {
    /// Takes what is wanted of some lines.
    fn take(&mut self, lines: impl Read, query: &Query) -> io::Result<()> {
        let mut reader = BufReader::new(lines);
        let mut line = Vec::new();
        while self.entries.len() < query.limit
            && let Some(length) = next_line(&mut reader, &mut line)?
        {
            self.bytes_read += length;
            if let Ok(entry) = serde_json::from_slice::<AuditEntry>(&line)
                && query.wants(&entry)
            {
                self.entries.push(entry);
            }
        }
        Ok(())
    }
}

/// The next line without its end, and its length with it; of one that is too long only the beginning is kept in memory, and the rest
/// is passed over.
pub(super) fn next_line(reader: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
    line.clear();
    let length = reader.take(MAX_LINE).read_until(b'\n', line)? as u64;
    if length == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(length));
    }
    Ok(Some(length + reader.skip_until(b'\n')? as u64))
}

fn from_start(mut file: File) -> io::Result<File> {
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// The end of the file.
struct Tail {
    /// Last whole entry.
    last: Option<AuditEntry>,
    /// Bytes up to and with the last newline.
    complete: u64,
    /// What stands after it.
    torn: Vec<u8>,
    /// Whether `last` stands in the file before, and this one is empty.
    of_segment: OfSegment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfSegment {
    No,
    Yes,
}

impl Tail {
    fn of(mut file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let from = length.saturating_sub(TAIL);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        let complete = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let torn = bytes.split_off(complete);
        let last = bytes
            .split(|b| *b == b'\n')
            .rev()
            .find(|line| !line.is_empty())
            .and_then(|line| serde_json::from_slice(line).ok());
        Ok(Self { last, complete: from + complete as u64, torn, of_segment: OfSegment::No })
    }
}

#[cfg(test)]
mod tests;
