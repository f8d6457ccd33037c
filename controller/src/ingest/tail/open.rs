//! One open file of a log: bytes to whole lines, bounded.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    time::{Duration, SystemTime},
};

use super::{super::read::MAX_RECORD, Begins, FileIdentity, Line};

/// Bytes read at a time.
const CHUNK: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: File,
    pub(super) identity: FileIdentity,
    /// Of the next byte to read.
    at: u64,
    /// Read and not yet a whole line, or whole lines not yet taken.
    buffer: Vec<u8>,
    /// Where the buffer begins.
    pub(super) base: u64,
    /// How much of the buffer has been looked through for an end of line.
    looked: usize,
    /// A line is longer than any record: its beginning is kept, the rest is skipped. Bytes so far.
    skipping: Option<u64>,
    fresh: Begins,
}

impl Open {
    pub(super) fn new(mut file: File, at: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(at))?;
        let identity = FileIdentity::of(&file)?;
        Ok(Self {
            file,
            identity,
            at,
            buffer: Vec::new(),
            base: at,
            looked: 0,
            skipping: None,
            fresh: Begins::File,
        })
    }

    /// Bytes held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.len().saturating_sub(CHUNK)
    }

    /// When it was last written to, in nanoseconds since 1970.
    pub(super) fn modified(&self) -> io::Result<i64> {
        let metadata = self.file.metadata()?;
        Ok(metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()))
    }

    /// Whether nothing was written to it for so long.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        let modified = self.file.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|since| since >= age))
    }

    pub(super) fn first_line(&self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; 4096];
        let read = self.file.read_at(&mut head, 0)?;
        head.truncate(read);
        let end = head.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        head.truncate(end);
        Ok(head)
    }

    /// Whether whole lines wait to be taken.
    pub(super) fn has_lines(&self) -> bool {
        self.buffer.get(self.looked..).is_some_and(|rest| rest.contains(&b'\n'))
    }

    /// Whether the file is shorter than what was read of it, or begins otherwise than it did.
    pub(super) fn was_cut(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.at {
            return Ok(true);
        }
        if !self.identity.begins(&self.file)? {
            return Ok(true);
        }
        self.identity.grown(&self.file)?;
        Ok(false)
    }

    /// Reads on; how many bytes. Nothing while whole lines wait.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        if self.has_lines() {
            return Ok(0);
        }
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK, 0);
        let read = self.file.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.at += read as u64;
        Ok(read)
    }

    pub(super) fn take_lines(&mut self, most: usize, lines: &mut Vec<Line>) {
        let mut taken = 0;
        for _ in 0..most {
            let from = self.looked.max(taken);
            let Some(found) = self.buffer[from..].iter().position(|byte| *byte == b'\n') else {
                self.looked = self.buffer.len();
                break;
            };
            let end = from + found;
            let text = self.buffer[taken..end].to_vec();
            lines.push(self.line(text, (end + 1 - taken) as u64));
            (taken, self.looked) = (end + 1, end + 1);
        }
        self.buffer.drain(..taken);
        self.looked -= taken;
        self.limit();
    }

    /// What stands there without an end of line.
    pub(super) fn end_line(&mut self, lines: &mut Vec<Line>) {
        if !self.buffer.is_empty() {
            let text = std::mem::take(&mut self.buffer);
            self.looked = 0;
            let length = text.len() as u64;
            lines.push(self.line(text, length));
        }
    }

    /// A line that is longer than any record is not kept, only its beginning is.
    fn limit(&mut self) {
        const KEPT: usize = 4096;
        if self.looked == self.buffer.len()
            && (self.buffer.len() > MAX_RECORD || self.skipping.is_some() && self.buffer.len() > KEPT)
        {
            let beyond = self.buffer.len() - KEPT;
            self.skipping = Some(self.skipping.unwrap_or(0) + beyond as u64);
            self.buffer.truncate(KEPT);
            self.looked = KEPT;
        }
    }

    fn line(&mut self, text: Vec<u8>, length: u64) -> Line {
        let skipped = self.skipping.take().unwrap_or(0);
        let offset = self.base;
        self.base += length + skipped;
        let begins = std::mem::replace(&mut self.fresh, Begins::No);
        Line { bytes: text.len() as u64 + skipped, text, offset, begins }
    }
}

/// Where the line begins that is not ended yet; a line that is being written is taken whole.
pub(super) fn end_of_last_line(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(MAX_RECORD as u64);
    let mut last = vec![0; usize::try_from(length - from).unwrap_or(0)];
    file.read_exact_at(&mut last, from)?;
    Ok(last.iter().rposition(|byte| *byte == b'\n').map_or(from, |at| from + at as u64 + 1))
}
