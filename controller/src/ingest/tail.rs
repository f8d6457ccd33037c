//! Follows a log over its rotations: by renaming (logrotate's default, the API server's own) and by copying and truncating.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    position::{FileIdentity, Position, Start},
    read::MAX_RECORD,
};

/// Bytes read at a time.
const CHUNK: usize = 128 * 1024;

/// Rotated files read after a restart, at most; older ones are told as a gap.
const MAX_BACKLOG: usize = 32;

/// Times a rotated file must have nothing new before it is left: its writer may not have opened the next one yet.
const QUIET: u32 = 3;

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Without its end. Of one that is too long the beginning, and [`Line::bytes`] says more.
    pub(super) text: Vec<u8>,
    /// How long it is.
    pub(super) bytes: u64,
    /// Where it begins.
    pub(super) offset: u64,
    /// Whether it is the first that is read of its file.
    pub(super) begins: Begins,
}

/// Whether a line is the first that is read of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    No,
    File,
}

/// What following has met that loses records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gap {
    /// The file was cut while it was read: what was written between the last look and then may be gone.
    Truncated,
    /// The file that was read last is nowhere: it was removed or packed while nobody was looking.
    Vanished,
}

/// A log that is followed.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    open: Option<Open>,
    /// Files that come next, oldest first, held open so that no rotation takes them away.
    backlog: VecDeque<File>,
    resume: Option<Position>,
    start: Start,
    gaps: Vec<Gap>,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: FileIdentity,
    /// Of the next byte to read.
    at: u64,
    /// Read and not yet a whole line, or whole lines not yet taken.
    buffer: Vec<u8>,
    /// Where the buffer begins.
    base: u64,
    /// How much of the buffer has been looked through for an end of line.
    looked: usize,
    /// A line is longer than any record: its beginning is kept, the rest is skipped. Bytes so far.
    skipping: Option<u64>,
    fresh: Begins,
    quiet: u32,
}

impl Tail {
    pub(super) fn new(path: &Path, resume: Option<Position>, start: Start) -> Self {
        Self { path: path.into(), open: None, backlog: VecDeque::new(), resume, start, gaps: Vec::new() }
    }

    /// Which file is being read.
    pub(super) fn identity(&self) -> Option<&FileIdentity> {
        self.open.as_ref().map(|open| &open.identity)
    }

    /// Where the next line begins.
    pub(super) fn offset(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.base)
    }

    /// The first line of the file, for formats with a header.
    pub(super) fn first_line(&self) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt as _;
        let Some(open) = &self.open else { return Ok(Vec::new()) };
        let mut head = vec![0; 4096];
        let read = open.file.read_at(&mut head, 0)?;
        head.truncate(read);
        let end = head.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        head.truncate(end);
        Ok(head)
    }

    /// What was met since this was last asked.
    pub(super) fn gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
    }

    /// Appends up to `most` whole lines; none means that there is nothing new.
    ///
    /// # Errors
    /// When the log cannot be opened or read; it may be tried again.
    pub(super) fn next(&mut self, most: usize, lines: &mut Vec<Line>) -> io::Result<()> {
        if self.open.is_none() {
            self.open_first()?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.take_lines(most, lines);
        if lines.len() >= most {
            return Ok(());
        }
        if open.was_cut()? {
            self.gaps.push(Gap::Truncated);
            let file = File::open(&self.path)?;
            self.open = Some(Open::new(file, 0)?);
            return Ok(());
        }
        if open.fill()? > 0 {
            open.quiet = 0;
            open.take_lines(most.saturating_sub(lines.len()), lines);
            return Ok(());
        }
        if !lines.is_empty() {
            return Ok(());
        }
        let present = present(&self.path, &open.identity)?;
        if self.backlog.is_empty() && present != Present::Another {
            open.quiet = 0;
            return Ok(());
        }
        open.quiet += 1;
        if open.quiet >= QUIET {
            if self.backlog.is_empty() {
                let identity = open.identity.clone();
                self.backlog = self.followers(&identity)?;
            }
            if let Some(next) = self.backlog.pop_front() {
                let before = self.open.replace(Open::new(next, 0)?);
                // Nobody will end a line that a rotated file leaves open.
                before.into_iter().for_each(|mut open| open.end_line(lines));
            }
        }
        Ok(())
    }

    fn open_first(&mut self) -> io::Result<()> {
        if let Some(position) = self.resume.take() {
            match self.find(&position) {
                Ok(Some(file)) => {
                    self.open = Some(Open::new(file, position.offset)?);
                    return Ok(());
                }
                Ok(None) => {
                    self.gaps.push(Gap::Vanished);
                    self.start = Start::Beginning;
                }
                Err(error) => {
                    self.resume = Some(position);
                    return Err(error);
                }
            }
        }
        let file = File::open(&self.path)?;
        let at = match self.start {
            Start::Beginning => 0,
            Start::Now => end_of_last_line(&file)?,
        };
        self.open = Some(Open::new(file, at)?);
        Ok(())
    }

    /// The file of a position, under its own name or one that it was rotated to.
    fn find(&self, position: &Position) -> io::Result<Option<File>> {
        let is_whole = |file: &File| file.metadata().is_ok_and(|metadata| metadata.len() >= position.offset);
        match File::open(&self.path) {
            Ok(file) if position.file.is(&file)? => return Ok(Some(file).filter(is_whole)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for (_, path) in self.rotated()? {
            let Ok(file) = File::open(path) else { continue };
            if position.file.is(&file)? {
                return Ok(Some(file).filter(is_whole));
            }
        }
        Ok(None)
    }

    /// The files that came after one: those it was rotated before, and the present one. The present one is opened first, so that one which is
    /// rotated meanwhile is not missed.
    fn followers(&self, identity: &FileIdentity) -> io::Result<VecDeque<File>> {
        let present = match File::open(&self.path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let inode = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let newest = present.as_ref().map(inode).transpose()?;
        let mut followers = VecDeque::new();
        let mut after = false;
        for (_, path) in self.rotated()? {
            let Ok(file) = File::open(path) else { continue };
            if newest == Some(inode(&file)?) {
                break;
            }
            if after && followers.len() < MAX_BACKLOG {
                followers.push_back(file);
            } else {
                after = after || identity.is(&file)?;
            }
        }
        followers.extend(present);
        Ok(followers)
    }

    /// Plain files that the log was rotated to, oldest first: `auth.log.1`, `audit-2026-11-22T10-00-00.log`.
    fn rotated(&self) -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut found = vec![];
        for entry in fs::read_dir(folder)?.take(10_000) {
            let entry = entry?;
            let other = entry.file_name().to_string_lossy().into_owned();
            let packed = [".gz", ".xz", ".zst", ".bz2"].iter().any(|ending| other.ends_with(ending));
            let belongs = other.starts_with(&format!("{name}.")) || other.starts_with(&format!("{stem}-"));
            if other != name && belongs && !packed && entry.file_type()?.is_file() {
                found.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Open {
    fn new(mut file: File, at: u64) -> io::Result<Self> {
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
            quiet: 0,
        })
    }

    /// Whether the file is shorter than what was read of it, or begins otherwise than it did.
    fn was_cut(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.at {
            return Ok(true);
        }
        if !self.identity.begins(&self.file)? {
            return Ok(true);
        }
        self.identity.grown(&self.file)?;
        Ok(false)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK, 0);
        let read = self.file.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.at += read as u64;
        Ok(read)
    }

    fn take_lines(&mut self, most: usize, lines: &mut Vec<Line>) {
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

    fn end_line(&mut self, lines: &mut Vec<Line>) {
        if !self.buffer.is_empty() {
            let text = std::mem::take(&mut self.buffer);
            self.looked = 0;
            let length = text.len() as u64;
            lines.push(self.line(text, length));
        }
    }
}

/// What stands at a log's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Present {
    /// The file that is being read.
    Same,
    /// Nothing: it was moved away, and its writer still has it open.
    Nothing,
    /// Another file.
    Another,
}

fn present(path: &Path, identity: &FileIdentity) -> io::Result<Present> {
    match fs::metadata(path) {
        Ok(metadata) if (metadata.dev(), metadata.ino()) == (identity.device, identity.inode) => {
            Ok(Present::Same)
        }
        Ok(_) => Ok(Present::Another),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Present::Nothing),
        Err(error) => Err(error),
    }
}

/// Where the line begins that is not ended yet; a line that is being written is taken whole.
fn end_of_last_line(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(MAX_RECORD as u64);
    let mut last = vec![0; usize::try_from(length - from).unwrap_or(0)];
    file.read_exact_at(&mut last, from)?;
    Ok(last.iter().rposition(|byte| *byte == b'\n').map_or(from, |at| from + at as u64 + 1))
}

#[cfg(test)]
mod tests;
