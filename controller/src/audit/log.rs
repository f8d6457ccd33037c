//! Appends to the log, and repairs after a crash what the journal knows and the log does not.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use model::AuditEntry;

use super::{ChainHead, chain::line};

/// How much of the log's end is read to find its last entry: more than the longest line twice over.
const TAIL: u64 = 256 * 1024;

/// No entry is longer, in bytes; what is longer in the file was put there from outside (I11).
const MAX_LINE: u64 = TAIL / 2;

/// The log, open for appending. `append` syncs before it returns (fdatasync).
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
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
    /// Opens the log (mode 0600) and brings it to where the journal stands: `head`, with the last entries in `pending`.
    ///
    /// # Errors
    /// When the file cannot be opened, read or written.
    pub fn open(
        path: &Path,
        head: &ChainHead,
        pending: &[AuditEntry],
    ) -> Result<(Self, Recovered), LogError> {
        let at = |operation| move |source| LogError { operation, path: path.into(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(at("make the folder of"))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(at("open"))?;
        let mut log = Self { path: path.into(), file };
        let tail = log.tail().map_err(at("read"))?;
        let recovered = log.repair(&tail, head, pending)?;
        Ok((log, recovered))
    }

    /// Appends entries and syncs them.
    ///
    /// # Errors
    /// When the disk is full or fails; what was written of them is taken back where that is possible, and `open` repairs it
    /// otherwise.
    pub fn append(&mut self, entries: &[AuditEntry]) -> Result<(), LogError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(entries.len() * 512);
        for entry in entries {
            bytes.extend(line(entry));
            bytes.push(b'\n');
        }
        let before = self.file.metadata().map_err(|e| self.error("look at", e))?.len();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            if let Err(error) = self.file.set_len(before) {
                tracing::error!(%error, "the incomplete end of the audit log could not be taken back");
            }
            return Err(self.error("write", source));
        }
        Ok(())
    }

    /// Where the log lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entries after `after`, oldest first, at most `limit`; lines that are no entries, or longer than any entry, are passed over
    /// (verify names them). Reads from the beginning: not for the thread that decides.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(path: &Path, after: u64, limit: usize) -> Result<Vec<AuditEntry>, LogError> {
        let at = |operation| move |source| LogError { operation, path: path.into(), source };
        let mut entries = Vec::new();
        let mut reader = BufReader::new(File::open(path).map_err(at("open"))?);
        let mut line = Vec::new();
        while next_line(&mut reader, &mut line).map_err(at("read"))? == More::Yes {
            if let Ok(entry) = serde_json::from_slice::<AuditEntry>(&line)
                && entry.seq > after
            {
                entries.push(entry);
                if entries.len() >= limit {
                    break;
                }
            }
        }
        Ok(entries)
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
            None => tail.complete == 0,
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
                self.file.set_len(tail.complete).map_err(|e| self.error("cut the torn end of", e))?;
            }
            self.append(&missing)?;
            let entries = missing.len() as u64;
            return Ok(if entries == 0 { Recovered::Whole } else { Recovered::Completed { entries } });
        }
        if !tail.torn.is_empty() {
            self.file.write_all(b"\n").map_err(|e| self.error("write", e))?;
        }
        self.append(&missing)?;
        let found = format!(
            "the audit log ends at entry {last}, the journal at entry {}: it was changed from outside",
            head.count
        );
        Ok(Recovered::Tampered { found })
    }

    fn tail(&mut self) -> io::Result<Tail> {
        let length = self.file.metadata()?.len();
        let from = length.saturating_sub(TAIL);
        self.file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        (&mut self.file).take(TAIL).read_to_end(&mut bytes)?;
        let complete = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let torn = bytes.split_off(complete);
        let last = bytes
            .split(|b| *b == b'\n')
            .rev()
            .find(|line| !line.is_empty())
            .and_then(|line| serde_json::from_slice(line).ok());
        Ok(Tail { last, complete: from + complete as u64, torn })
    }

    fn error(&self, operation: &'static str, source: io::Error) -> LogError {
        LogError { operation, path: self.path.clone(), source }
    }
}

/// Whether a line was read, or the end was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// The next line without its end; of one that is too long only the beginning is kept in memory, and the rest is passed over.
fn next_line(reader: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<More> {
    line.clear();
    if reader.take(MAX_LINE).read_until(b'\n', line)? == 0 {
        return Ok(More::No);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(More::Yes);
    }
    reader.skip_until(b'\n')?;
    Ok(More::Yes)
}

/// The end of the file.
struct Tail {
    /// Last whole entry.
    last: Option<AuditEntry>,
    /// Bytes up to and with the last newline.
    complete: u64,
    /// What stands after it.
    torn: Vec<u8>,
}

#[cfg(test)]
mod tests;
