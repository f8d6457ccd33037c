//! The reports of one level: a folder of segment files, appended at the end and removed from the beginning.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use model::Seq;

use super::{SpoolError, Spooled, frame};

/// Largest segment that is read whole at a start; a larger file is not ours.
const MAX_SEGMENT: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Lane {
    folder: PathBuf,
    /// Oldest first; the last one is written to.
    segments: Vec<Segment>,
    writer: Option<File>,
    /// Positions up to here are durable.
    durable: Seq,
    written: Seq,
    segment_limit: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    first: Seq,
    last: Seq,
    /// Where the last whole frame ends.
    bytes: u64,
    reports: u64,
    /// Where damage begins that has been counted already.
    known_damage: Vec<u64>,
    reader: Reader,
}

/// Where reading stopped, so that reading on does not begin at the start of the file.
#[derive(Debug, Clone, Copy, Default)]
struct Reader {
    after: Seq,
    offset: u64,
    /// Before the last report that was given out: a reader of several lanes looks one ahead and asks for it again.
    back: (Seq, u64),
}

impl Lane {
    pub(super) fn open(
        folder: &Path,
        segment_limit: u64,
        notes: &mut Vec<String>,
        damaged: &mut u64,
    ) -> Result<Self, SpoolError> {
        fs::create_dir_all(folder).map_err(|source| SpoolError::new("create", folder, source))?;
        let listing = fs::read_dir(folder).map_err(|source| SpoolError::new("list", folder, source))?;
        let mut paths: Vec<PathBuf> = listing
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        paths.sort_unstable();
        let mut segments: Vec<Segment> = Vec::new();
        for path in paths {
            // Never waited for, and never written through: a pipe, a device, a link.
            let looked =
                fs::symlink_metadata(&path).map_err(|source| SpoolError::new("look at", &path, source))?;
            if !looked.is_file() {
                let name = path.display();
                notes.push(format!(
                    "{name}: no regular file, so none of ours; it was left alone: move it away"
                ));
                continue;
            }
            if let Some(segment) = mend(&path, notes, damaged)? {
                segments.push(segment);
            } else {
                fs::remove_file(&path).map_err(|source| SpoolError::new("remove", &path, source))?;
            }
        }
        // Whatever somebody called them: they are read in the order of what is in them.
        segments.sort_by_key(|segment| segment.first);
        let durable = segments.iter().map(|segment| segment.last).max().unwrap_or(Seq(0));
        Ok(Self {
            folder: folder.to_owned(),
            segments,
            writer: None,
            durable,
            written: durable,
            segment_limit,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn last(&self) -> Option<Seq> {
        self.segments.iter().map(|segment| segment.last).max()
    }

    pub(super) fn append(&mut self, seq: Seq, bytes: &[u8]) -> Result<(), SpoolError> {
        let full = self.segments.last().is_some_and(|segment| segment.bytes >= self.segment_limit);
        if self.writer.is_none() || full {
            self.begin_segment(seq)?;
        }
        let (Some(writer), Some(segment)) = (&mut self.writer, self.segments.last_mut()) else {
            return Ok(());
        };
        if let Err(source) = writer.write_all(bytes) {
            // Half a frame must not stand before the next one.
            let _ = writer.set_len(segment.bytes);
            let _ = writer.seek(SeekFrom::Start(segment.bytes));
            let error = SpoolError::new("write", &segment.path, source);
            if segment.reports == 0 {
                self.remove_last();
            }
            return Err(error);
        }
        segment.last = seq;
        segment.bytes += bytes.len() as u64;
        segment.reports += 1;
        self.written = seq;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), SpoolError> {
        if self.durable == self.written {
            return Ok(());
        }
        if let (Some(writer), Some(segment)) = (&self.writer, self.segments.last()) {
            writer.sync_data().map_err(|source| SpoolError::new("sync", &segment.path, source))?;
        }
        self.durable = self.written;
        Ok(())
    }

    /// The first durable report after `after`.
    pub(super) fn next(
        &mut self,
        after: Seq,
        notes: &mut Vec<String>,
        damaged: &mut u64,
    ) -> Result<Option<Spooled>, SpoolError> {
        let durable = self.durable;
        for segment in self.segments.iter_mut().filter(|segment| segment.last > after) {
            if segment.first > durable {
                break;
            }
            if let Some(spooled) = segment.next(after, durable, notes, damaged)? {
                return Ok(Some(spooled));
            }
        }
        Ok(None)
    }

    /// Removes segments of which every report is acknowledged.
    pub(super) fn acknowledged(&mut self, upto: Seq) -> Result<(), SpoolError> {
        while self.segments.first().is_some_and(|segment| segment.last <= upto) {
            self.remove_first()?;
        }
        Ok(())
    }

    /// Removes the oldest segment; `None` if there is none. Returns how many reports it held.
    pub(super) fn give_up_oldest(&mut self) -> Result<Option<u64>, SpoolError> {
        let Some(reports) = self.segments.first().map(|segment| segment.reports) else { return Ok(None) };
        self.remove_first()?;
        Ok(Some(reports))
    }

    fn begin_segment(&mut self, first: Seq) -> Result<(), SpoolError> {
        self.sync()?;
        let path = self.folder.join(format!("{:020}.seg", first.0));
        let writer = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| SpoolError::new("create", &path, source))?;
        sync_folder(&self.folder)?;
        self.writer = Some(writer);
        let reader = Reader::default();
        self.segments.push(Segment {
            path,
            first,
            last: Seq(first.0.saturating_sub(1)),
            bytes: 0,
            reports: 0,
            known_damage: Vec::new(),
            reader,
        });
        Ok(())
    }

    fn remove_first(&mut self) -> Result<(), SpoolError> {
        let segment = self.segments.remove(0);
        if self.segments.is_empty() {
            self.writer = None;
            self.durable = self.written;
        }
        match fs::remove_file(&segment.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SpoolError::new("remove", &segment.path, source))
            }
            _ => Ok(()),
        }
    }

    fn remove_last(&mut self) {
        self.writer = None;
        if let Some(segment) = self.segments.pop() {
            let _ = fs::remove_file(segment.path);
        }
    }
}

impl Segment {
    fn next(
        &mut self,
        after: Seq,
        durable: Seq,
        notes: &mut Vec<String>,
        damaged: &mut u64,
    ) -> Result<Option<Spooled>, SpoolError> {
        let fault = |source| SpoolError::new("read", &self.path, source);
        if after < self.reader.after {
            let (before, offset) = self.reader.back;
            self.reader = if after >= before {
                Reader { after: before, offset, ..Reader::default() }
            } else {
                Reader::default()
            };
        }
        let file = File::open(&self.path).map_err(fault)?;
        while self.reader.offset < self.bytes {
            let offset = self.reader.offset;
            let mut header = [0; frame::HEADER];
            let room = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
            let mut bytes = Vec::new();
            if room >= frame::HEADER {
                file.read_exact_at(&mut header, offset).map_err(fault)?;
                let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
                bytes = vec![0; (frame::HEADER + length.min(frame::MAX_BODY)).min(room)];
                file.read_exact_at(&mut bytes, offset).map_err(fault)?;
            }
            let Some(frame) = frame::decode(&bytes) else {
                // Damaged while we run: find the next one.
                let mut rest = vec![0; room];
                file.read_exact_at(&mut rest, offset).map_err(fault)?;
                let skip = frame::next(&rest, 1, &mut { frame::MAX_SEARCH }).unwrap_or(room);
                if !self.known_damage.contains(&offset) {
                    self.known_damage.push(offset);
                    *damaged += 1;
                    notes.push(format!(
                        "{}: a damaged report at offset {offset} was skipped",
                        self.path.display()
                    ));
                }
                self.reader.offset += skip as u64;
                continue;
            };
            if frame.seq > durable {
                return Ok(None);
            }
            self.reader.back = (self.reader.after, offset);
            self.reader.offset += frame.size as u64;
            self.reader.after = frame.seq;
            if frame.seq <= after {
                continue;
            }
            match frame::report(&bytes[..frame.size]) {
                Some(report) => return Ok(Some(Spooled { seq: frame.seq, report })),
                None if self.known_damage.contains(&offset) => {}
                None => {
                    self.known_damage.push(offset);
                    *damaged += 1;
                    notes.push(format!(
                        "{}: the report at offset {offset} is of a form that this version does not read; it was skipped",
                        self.path.display()
                    ));
                }
            }
        }
        Ok(None)
    }
}

/// Reads a segment that an earlier start has written, cuts a torn tail and counts what is damaged. `None` if nothing is left.
fn mend(path: &Path, notes: &mut Vec<String>, damaged: &mut u64) -> Result<Option<Segment>, SpoolError> {
    let fault = |operation| move |source| SpoolError::new(operation, path, source);
    let mut bytes = Vec::new();
    let mut file = File::options().read(true).write(true).open(path).map_err(fault("open"))?;
    (&mut file).take(MAX_SEGMENT).read_to_end(&mut bytes).map_err(fault("read"))?;
    let name = path.display();
    let (mut at, mut end, mut search) = (0, 0, frame::MAX_SEARCH);
    let mut known_damage = Vec::new();
    let (mut first, mut last, mut reports) = (None, Seq(0), 0);
    while at < bytes.len() {
        if let Some(frame) = frame::decode(&bytes[at..]) {
            first.get_or_insert(frame.seq);
            last = last.max(frame.seq);
            reports += 1;
            at += frame.size;
            end = at;
            continue;
        }
        match frame::next(&bytes, at + 1, &mut search) {
            Some(next) => {
                *damaged += 1;
                known_damage.push(at as u64);
                notes.push(format!("{name}: damaged from offset {at} to {next}; skipped"));
                at = next;
            }
            None => {
                notes.push(format!("{name}: torn after offset {at}, {} bytes were cut", bytes.len() - at));
                break;
            }
        }
    }
    if end < bytes.len() {
        file.set_len(end as u64).and_then(|()| file.sync_all()).map_err(fault("cut"))?;
    }
    let Some(first) = first else { return Ok(None) };
    let reader = Reader::default();
    Ok(Some(Segment { path: path.to_owned(), first, last, bytes: end as u64, reports, known_damage, reader }))
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| SpoolError::new("sync", folder, source))
}
