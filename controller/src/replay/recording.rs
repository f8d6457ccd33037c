//! What was recorded, as blocks that can be read apart from each other.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use flate2::read::MultiGzDecoder;
use model::{Event, Finding, FindingId, Incident, LossWindow, Moments, NodeId, Process, Report, Timestamp};
use serde::Deserialize;

use super::ReplayError;
use crate::ingest::read::{Format, MAX_RECORD, Reader, Zone};

/// Bytes of lines that are read together; a longer line is a block of its own.
const BLOCK: usize = 256 << 10;

/// Bytes of one line, at most: a list of records in one line may be long. What is longer is cut and refused.
const MAX_LINE: usize = 64 << 20;

/// Files of one folder (I11), and how deep folders are followed.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 16;

/// Items of a block that is made of reports.
const ITEMS: usize = 512;

/// Something that was recorded.
pub struct Recording {
    /// Who tells it: takes the place of the node in findings of records. With the name that the source has in production the findings and
    /// incidents have the ids of then.
    pub name: NodeId,
    pub(super) blocks: Box<dyn Iterator<Item = Result<Block, ReplayError>> + Send>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A part of a recording.
#[derive(Debug)]
pub enum Block {
    /// Whole lines of a log.
    Lines {
        /// What they are written in, and what the log said before them.
        reader: Box<Reader>,
        /// Where they begin in the file.
        offset: u64,
        /// When they were written, for lines that do not say the year.
        written: Timestamp,
        /// Bytes.
        text: Vec<u8>,
    },
    /// Lines that are events, findings or incidents of ours as JSON.
    Events {
        /// Where they begin in the file.
        offset: u64,
        /// Bytes.
        text: Vec<u8>,
    },
    /// What is read already.
    Items(Vec<Item>),
}

/// What a node saw or told.
#[derive(Debug, Clone)]
pub enum Item {
    /// An event, with what was known of it.
    Event {
        /// What happened.
        event: Box<Event>,
        /// What the process did before.
        context: Vec<Event>,
        /// What was lost in its window.
        loss: LossWindow,
    },
    /// A finding was seen again.
    Repeat {
        /// Which.
        finding: FindingId,
        /// How often by now.
        count: u64,
        /// When last.
        last: Timestamp,
        /// The moments that are kept of it.
        moments: Moments,
    },
}

impl Recording {
    /// Logs in one format, oldest first; a folder stands for all files below it, in the order of their names. Files that end in `.gz` are
    /// unpacked.
    ///
    /// # Errors
    /// When a path cannot be looked at.
    pub fn log(format: Format, paths: &[PathBuf], name: NodeId, zone: &Zone) -> Result<Self, ReplayError> {
        let shape = Shape::Records(Box::new(Reader::new(format, zone.clone())));
        Ok(Self { name, blocks: Box::new(Files::new(files(paths)?, shape)) })
    }

    /// Events of nodes: an [`Event`], [`Finding`] or [`Incident`] as JSON on each line, or an object with `event` and `ancestors` (of the
    /// process, nearest first), which an event alone does not tell.
    ///
    /// # Errors
    /// When a path cannot be looked at.
    pub fn events(paths: &[PathBuf], name: NodeId) -> Result<Self, ReplayError> {
        Ok(Self { name, blocks: Box::new(Files::new(files(paths)?, Shape::Events)) })
    }

    /// What nodes reported, as their spools keep it.
    pub fn reports(name: NodeId, reports: impl Iterator<Item = Report> + Send + 'static) -> Self {
        Self::items(name, reports.flat_map(items_of))
    }

    /// Events that are there already.
    pub fn items(name: NodeId, mut items: impl Iterator<Item = Item> + Send + 'static) -> Self {
        let blocks = std::iter::from_fn(move || {
            let block: Vec<Item> = items.by_ref().take(ITEMS).collect();
            (!block.is_empty()).then_some(Ok(Block::Items(block)))
        });
        Self { name, blocks: Box::new(blocks) }
    }

    /// Lines that are made while they are read.
    pub fn lines(
        format: Format,
        name: NodeId,
        written: Timestamp,
        texts: impl Iterator<Item = Vec<u8>> + Send + 'static,
    ) -> Self {
        let mut offset = 0;
        let blocks = texts.map(move |text| {
            let begin = offset;
            offset += text.len() as u64;
            let reader = Box::new(Reader::new(format, Zone::UTC));
            Ok(Block::Lines { reader, offset: begin, written, text })
        });
        Self { name, blocks: Box::new(blocks) }
    }
}

/// An event of a node as somebody wrote it down.
#[derive(Deserialize)]
struct Written {
    event: Event,
    #[serde(default)]
    ancestors: Vec<Arc<Process>>,
}

/// What a line of JSON tells; `None` where it is none of ours.
pub(super) fn items_of_line(line: &[u8]) -> Option<Vec<Item>> {
    let with = |mut event: Event, ancestors: Vec<Arc<Process>>| {
        event.ancestors = ancestors.into();
        Item::Event { event: Box::new(event), context: Vec::new(), loss: LossWindow::default() }
    };
    if let Ok(event) = serde_json::from_slice::<Event>(line) {
        let ancestors = event.parent.iter().cloned().collect();
        return Some(vec![with(event, ancestors)]);
    }
    if let Ok(finding) = serde_json::from_slice::<Finding>(line) {
        return Some(items_of(Report::Finding(finding)).collect());
    }
    if let Ok(Written { event, ancestors }) = serde_json::from_slice(line) {
        return Some(vec![with(event, ancestors)]);
    }
    let incident = serde_json::from_slice::<Incident>(line).ok()?;
    Some(incident.findings.into_iter().flat_map(|finding| items_of(Report::Finding(finding))).collect())
}

/// What a report of a node stands for: the event that was found, after those of its context.
fn items_of(report: Report) -> impl Iterator<Item = Item> {
    let items = match report {
        Report::Finding(finding) => {
            let Finding { id, mut event, count, last, moments, ancestors, context, loss, .. } = finding;
            event.ancestors = ancestors.into();
            let more = (count > 1).then_some(Item::Repeat { finding: id, count, last, moments });
            let event = Item::Event { event: Box::new(event), context, loss };
            std::iter::once(event).chain(more).collect()
        }
        Report::Repeat { finding, count, last, moments } => {
            vec![Item::Repeat { finding, count, last, moments }]
        }
        // What the node did by itself then: a replay does nothing.
        Report::Reaction(_) => Vec::new(),
    };
    items.into_iter()
}

/// How lines are read.
enum Shape {
    Records(Box<Reader>),
    Events,
}

/// The lines of some files, one after the other.
struct Files {
    paths: VecDeque<PathBuf>,
    shape: Shape,
    open: Option<Open>,
    failed: bool,
}

struct Open {
    path: PathBuf,
    lines: BufReader<Box<dyn Read + Send>>,
    written: Timestamp,
    offset: u64,
    reader: Option<Box<Reader>>,
}

impl Files {
    fn new(paths: Vec<PathBuf>, shape: Shape) -> Self {
        Self { paths: paths.into(), shape, open: None, failed: false }
    }

    fn next_block(&mut self) -> Result<Option<Block>, (PathBuf, io::Error)> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.paths.pop_front() else { return Ok(None) };
                let opened = self.begin(&path).map_err(|source| (path, source))?;
                self.open = Some(opened);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            let offset = open.offset;
            let text = read_lines(&mut open.lines).map_err(|source| (open.path.clone(), source))?;
            if text.is_empty() {
                self.open = None;
                continue;
            }
            open.offset += text.len() as u64;
            let Some(reader) = &mut open.reader else { return Ok(Some(Block::Events { offset, text })) };
            if offset == 0 {
                let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
                reader.first_line(first);
            }
            return Ok(Some(Block::Lines { reader: reader.clone(), offset, written: open.written, text }));
        }
    }

    fn begin(&self, path: &Path) -> io::Result<Open> {
        let file = File::open(path)?;
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let since = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let written = Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        let packed = path.extension().is_some_and(|ending| ending == "gz");
        let plain: Box<dyn Read + Send> =
            if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let reader = match &self.shape {
            Shape::Records(reader) => Some(reader.clone()),
            Shape::Events => None,
        };
        let lines = BufReader::with_capacity(BLOCK, plain);
        Ok(Open { path: path.to_owned(), lines, written, offset: 0, reader })
    }
}

impl Iterator for Files {
    type Item = Result<Block, ReplayError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.next_block() {
            Ok(block) => block.map(Ok),
            Err((path, source)) => {
                self.failed = true;
                Some(Err(ReplayError::Recording { path, source }))
            }
        }
    }
}

/// Some whole lines; empty at the end.
fn read_lines(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(BLOCK + MAX_RECORD / 8);
    from.take(BLOCK as u64).read_to_end(&mut text)?;
    if text.last().is_some_and(|byte| *byte != b'\n') {
        from.take(MAX_LINE as u64).read_until(b'\n', &mut text)?;
    }
    Ok(text)
}

fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ReplayError> {
    let mut found = Vec::new();
    for path in paths {
        let unread = |source| ReplayError::Recording { path: path.clone(), source };
        if std::fs::metadata(path).map_err(unread)?.is_dir() {
            let from = found.len();
            below(path, 0, &mut found).map_err(unread)?;
            found[from..].sort();
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() && found.len() < MAX_FILES {
            found.push(entry.path());
        } else if kind.is_file() {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        } else if kind.is_dir() && depth < MAX_DEPTH {
            below(&entry.path(), depth + 1, found)?;
        }
    }
    Ok(())
}
