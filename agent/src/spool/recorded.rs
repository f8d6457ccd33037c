//! A spool as somebody else left it, or a copy of one: read, and nothing of it changed.

use std::{
    collections::VecDeque,
    fs, io,
    iter::Peekable,
    path::{Path, PathBuf},
    vec,
};

use model::{Report, Seq};

use super::{NAMES, SpoolError, Spooled, frame};

/// Largest segment that is believed.
const MAX_SEGMENT: u64 = 64 << 20;

/// The reports in a spool's folder, in order of their positions over all lanes. Damaged frames are skipped.
///
/// # Errors
/// When the folder cannot be listed or has no lane. A segment that cannot be read ends its lane.
pub fn recorded(folder: &Path) -> Result<impl Iterator<Item = Report> + Send + use<>, SpoolError> {
    let mut lanes: Vec<Peekable<Lane>> = Vec::new();
    for name in NAMES {
        let path = folder.join(name);
        let listing = match fs::read_dir(&path) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(SpoolError::new("list", &path, source)),
        };
        let mut segments: Vec<PathBuf> = listing
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        segments.sort_unstable();
        lanes.push(Lane { segments: segments.into(), reports: Vec::new().into_iter() }.peekable());
    }
    if lanes.is_empty() {
        let source = io::Error::new(io::ErrorKind::NotFound, "it has none of a spool's lanes");
        return Err(SpoolError::new("read", folder, source));
    }
    Ok(std::iter::from_fn(move || {
        let heads = lanes.iter_mut().enumerate().filter_map(|(place, lane)| Some((lane.peek()?.seq, place)));
        let (_, first) = heads.min()?;
        lanes[first].next().map(|one| one.report)
    }))
}

struct Lane {
    segments: VecDeque<PathBuf>,
    reports: vec::IntoIter<Spooled>,
}

impl Iterator for Lane {
    type Item = Spooled;

    fn next(&mut self) -> Option<Spooled> {
        loop {
            if let Some(report) = self.reports.next() {
                return Some(report);
            }
            let path = self.segments.pop_front()?;
            match segment(&path) {
                Ok(reports) => self.reports = reports.into_iter(),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a segment of a spool cannot be read: what it holds is missing");
                }
            }
        }
    }
}

fn segment(path: &Path) -> io::Result<Vec<Spooled>> {
    let facts = fs::metadata(path)?;
    if !facts.is_file() || facts.len() > MAX_SEGMENT {
        return Err(io::Error::other("it is no segment of ours"));
    }
    let bytes = fs::read(path)?;
    let mut reports = Vec::new();
    let mut at = 0;
    let mut search = frame::MAX_SEARCH;
    let mut last = Seq(0);
    while let Some(begin) = frame::next(&bytes, at, &mut search) {
        let Some(found) = frame::decode(&bytes[begin..]) else { break };
        at = begin + found.size;
        if found.seq > last
            && let Some(report) = frame::report(&bytes[begin..at])
        {
            last = found.seq;
            reports.push(Spooled { seq: found.seq, report });
        }
    }
    Ok(reports)
}
