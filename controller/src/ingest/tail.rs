//! Follows a log over its rotations: by renaming (logrotate's default, the API server's own) and by copying and truncating.
//!
//! A file that was rotated away is left for the next one at once, but stays open and is looked at for [`LINGER`] longer: its writer may not
//! have opened the next one yet.

mod open;
mod rotation;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::{
    open::Open,
    rotation::{Present, followers, newer_than, present, rotated},
};
use super::position::{FileIdentity, Position, Start};

/// How long a rotated file must have had nothing new before it is left for good.
const LINGER: Duration = Duration::from_secs(60);

/// Times that a line's end is looked for at once: more than the longest record takes.
const FILLS: usize = 16;

/// Rotated files that are still looked at (I11); beyond, the one that was left first is left for good.
const MAX_BEFORE: usize = 4;

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
    /// Files that were never read are packed by now: so many.
    Packed(usize),
}

/// A log that is followed.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    linger: Duration,
    open: Option<Open>,
    /// Rotated files that are looked at still, and since when they have nothing new.
    before: VecDeque<(Open, Instant)>,
    /// Files that come next, oldest first, held open so that no rotation takes them away.
    backlog: VecDeque<File>,
    resume: Option<Position>,
    start: Start,
    oldest: Oldest,
    gaps: Vec<Gap>,
}

/// Which file a log is begun with of which no position is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Oldest {
    /// The present one.
    No,
    /// The oldest that is there.
    First,
}

impl Tail {
    pub(super) fn new(path: &Path, resume: Option<Position>, start: Start) -> Self {
        let (before, backlog) = (VecDeque::new(), VecDeque::new());
        Self {
            path: path.into(),
            linger: LINGER,
            open: None,
            before,
            backlog,
            resume,
            start,
            oldest: Oldest::No,
            gaps: Vec::new(),
        }
    }

    /// A log whose writer leaves a file before it is renamed, so that nobody adds to it afterwards. Where no position is known it is begun with
    /// its oldest file.
    pub(super) fn of_our_own(mut self) -> Self {
        (self.linger, self.oldest) = (Duration::ZERO, Oldest::First);
        self
    }

    /// How far it is read; the number of the last report is not its business. Before the first file is open that there is none, so that one
    /// that comes is read from its beginning.
    pub(super) fn position(&self) -> Position {
        let before = self.before.iter().map(|(open, _)| (open.identity.clone(), open.base)).collect();
        match &self.open {
            Some(open) => Position {
                file: open.identity.clone(),
                offset: open.base,
                modified: open.modified().unwrap_or(0),
                before,
                seq: 0,
            },
            None => Position { file: FileIdentity::none(), offset: 0, modified: 0, before, seq: 0 },
        }
    }

    /// Where the next line begins.
    pub(super) fn offset(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.base)
    }

    /// The first line of the file, for formats with a header.
    pub(super) fn first_line(&self) -> io::Result<Vec<u8>> {
        self.open.as_ref().map_or_else(|| Ok(Vec::new()), Open::first_line)
    }

    /// What was met since this was last asked.
    pub(super) fn gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
    }

    /// Opens the log where it is to be read on. A log that is not there is begun with its first line once it comes.
    ///
    /// # Errors
    /// When it cannot be opened; it may be tried again.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        if let Some(position) = self.resume.take()
            && let Err(error) = self.resume_at(&position)
        {
            self.resume = Some(position);
            return Err(error);
        }
        if self.open.is_some() {
            return Ok(());
        }
        if self.oldest == Oldest::First {
            (self.backlog, _) = newer_than(&self.path, i64::MIN)?;
            if let Some(first) = self.backlog.pop_front() {
                self.open = Some(Open::new(first, 0)?);
                return Ok(());
            }
        }
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.start = Start::Beginning;
                }
                return Err(error);
            }
        };
        let at = match self.start {
            Start::Beginning => 0,
            Start::Now => open::end_of_last_line(&file)?,
        };
        self.open = Some(Open::new(file, at)?);
        Ok(())
    }

    /// Appends up to `most` whole lines; none means that there is nothing new.
    ///
    /// # Errors
    /// When the log cannot be opened or read; it may be tried again.
    pub(super) fn next(&mut self, most: usize, lines: &mut Vec<Line>) -> io::Result<()> {
        self.begin()?;
        self.look_back(most, lines)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.take_lines(most.saturating_sub(lines.len()), lines);
        if lines.len() >= most {
            return Ok(());
        }
        if open.was_cut()? {
            self.gaps.push(Gap::Truncated);
            let file = File::open(&self.path)?;
            self.open = Some(Open::new(file, 0)?);
            return Ok(());
        }
        for round in 0..FILLS {
            if open.fill()? == 0 {
                if round > 0 {
                    return Ok(());
                }
                break;
            }
            open.take_lines(most.saturating_sub(lines.len()), lines);
            if !lines.is_empty() {
                return Ok(());
            }
        }
        if !lines.is_empty() {
            return Ok(());
        }
        if self.backlog.is_empty() && present(&self.path, &open.identity)? == Present::Another {
            // What was added between the last look and the change of its name is read before it is left.
            if open.fill()? > 0 {
                open.take_lines(most.saturating_sub(lines.len()), lines);
                return Ok(());
            }
            let (files, packed) = followers(&self.path, open)?;
            self.backlog = files;
            if packed > 0 && !self.backlog.is_empty() {
                self.gaps.push(Gap::Packed(packed));
            }
        }
        if let Some(next) = self.backlog.pop_front()
            && let Some(left) = self.open.replace(Open::new(next, 0)?)
        {
            self.leave(left, lines);
        }
        Ok(())
    }

    /// A file that was read to its end and has a successor.
    fn leave(&mut self, mut left: Open, lines: &mut Vec<Line>) {
        if left.is_older_than(self.linger) {
            // Nobody will end a line that it leaves open.
            left.end_line(lines);
            return;
        }
        self.before.push_back((left, Instant::now()));
        if self.before.len() > MAX_BEFORE
            && let Some((mut oldest, _)) = self.before.pop_front()
        {
            oldest.end_line(lines);
        }
    }

    /// What was added to files after they were rotated.
    fn look_back(&mut self, most: usize, lines: &mut Vec<Line>) -> io::Result<()> {
        for (open, since) in &mut self.before {
            if open.fill()? > 0 {
                *since = Instant::now();
            }
            open.take_lines(most.saturating_sub(lines.len()), lines);
        }
        while self
            .before
            .front()
            .is_some_and(|(open, since)| since.elapsed() >= self.linger && !open.has_lines())
            && let Some((mut open, _)) = self.before.pop_front()
        {
            open.end_line(lines);
        }
        Ok(())
    }

    /// Opens what a position tells of; leaves nothing open where the log is to be begun.
    fn resume_at(&mut self, position: &Position) -> io::Result<()> {
        if position.file.is_none() {
            self.start = Start::Beginning;
            return Ok(());
        }
        for (identity, offset) in &position.before {
            match self.find(identity, *offset)? {
                Some(file) => self.before.push_back((Open::new(file, *offset)?, Instant::now())),
                None => self.gaps.push(Gap::Vanished),
            }
        }
        match self.find(&position.file, position.offset)? {
            Some(file) => self.open = Some(Open::new(file, position.offset)?),
            None => {
                self.gaps.push(Gap::Vanished);
                self.start = Start::Beginning;
                let (files, packed) = newer_than(&self.path, position.modified)?;
                self.backlog = files;
                if packed > 0 {
                    self.gaps.push(Gap::Packed(packed));
                }
                if let Some(first) = self.backlog.pop_front() {
                    self.open = Some(Open::new(first, 0)?);
                }
            }
        }
        Ok(())
    }

    /// A file under its own name or one that it was rotated to, if it still has so much.
    fn find(&self, identity: &FileIdentity, offset: u64) -> io::Result<Option<File>> {
        let is_whole = |file: &File| file.metadata().is_ok_and(|metadata| metadata.len() >= offset);
        match File::open(&self.path) {
            Ok(file) if identity.is(&file)? => return Ok(Some(file).filter(is_whole)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for path in rotated(&self.path)?.plain {
            let Ok(file) = File::open(path) else { continue };
            if identity.is(&file)? {
                return Ok(Some(file).filter(is_whole));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
