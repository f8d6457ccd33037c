//! A folder into which whole files are put, packed or not: an S3 or storage bucket that is copied here. Each file is read once.
//!
//! A file is taken once it has not changed for a moment, so that one which is being written is not read by half. Which files are done stands in a
//! ledger that holds those that are still there, so it is as long as the folder.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::read::MultiGzDecoder;
use serde_json::value::RawValue;

use super::{
    super::{
        inbox::{Durable, Entry, InboxError, Key, Taken},
        read::{Format, Rejected, without_mark},
    },
    Post, Stopped,
    desk::Count,
    split::{entry, split},
};

/// Files that are known, at most (I11); those beyond are not read, and that is said.
const MAX_FILES: usize = 500_000;
const MAX_DEPTH: usize = 16;
/// Longest file, unpacked. A packed one that would be longer is refused before it is (I11).
const MAX_UNPACKED: u64 = 256 << 20;
/// How long a file must not have changed.
const RESTS: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(1);
/// Records put into the inbox at once.
const AT_ONCE: usize = 1000;

/// Watches until it is told to stop.
pub(super) async fn watch(format: Format, folder: &Path, post: &Post) {
    let mut watch = Watch { format, folder, post, ledger: None };
    loop {
        // The folder is read on this thread, which is the source's own.
        let outcome = watch.look();
        post.desk.blind(outcome.err().map(|error| format!("{}: {error}", folder.display())));
        if post.rest(LOOK).await == Stopped::Yes {
            return;
        }
    }
}

struct Watch<'a> {
    format: Format,
    folder: &'a Path,
    post: &'a Post,
    ledger: Option<Ledger>,
}

/// A file as it was found.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    mark: String,
    modified: SystemTime,
}

impl Watch<'_> {
    fn look(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        let whole = collect(self.folder, 0, &mut found)?;
        let what =
            format!("more than {MAX_FILES} files below {}: the others are not read", self.folder.display());
        self.post.desk.fact("folder", (!whole).then_some(what));
        let present: HashSet<&str> = found.iter().map(|one| one.mark.as_str()).collect();
        let path = self.post.inbox.log().with_file_name("ledger");
        let mut ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => {
                let (mut ledger, known) = Ledger::open(&path)?;
                if known == Known::Nothing && self.post.start == super::super::Start::Now {
                    ledger.add(present.iter().copied())?;
                }
                ledger
            }
        };
        if ledger.done.len() > 2 * present.len() + 1000 {
            ledger.keep_only(&path, &present)?;
        }
        drop(present);
        // Names of buckets' files begin with their day: so they come about in the order of time.
        found.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
        for one in found {
            if self.post.stop.is_cancelled() {
                break;
            }
            let rests = SystemTime::now().duration_since(one.modified).is_ok_and(|since| since >= RESTS);
            if ledger.done.contains(&one.mark) || !rests {
                continue;
            }
            match self.read(&one.path) {
                // It is there at the next look, too.
                Err(Failure::Later) => break,
                Ok(()) => {}
                Err(Failure::Wrong(why, beginning)) => {
                    let entry = Entry { key: Key::NONE, body: Err((why, &beginning)) };
                    if self.put(&one.path, &[entry]).is_err() {
                        break;
                    }
                }
            }
            ledger.add([one.mark.as_str()])?;
        }
        self.ledger = Some(ledger);
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<(), Failure> {
        let wrong = |reason: String| {
            Failure::Wrong(Rejected { place: path.display().to_string(), reason }, Vec::new())
        };
        let text = unpacked(path, MAX_UNPACKED).map_err(|error| wrong(error.to_string()))?;
        // One JSON text, or one after the other.
        let text = without_mark(&text);
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
        loop {
            let at = values.byte_offset();
            let value = match values.next() {
                None => return Ok(()),
                Some(Ok(value)) => value,
                Some(Err(error)) => {
                    let why = Rejected {
                        place: format!("{} byte {at}", path.display()),
                        reason: error.to_string(),
                    };
                    return Err(Failure::Wrong(
                        why,
                        text.get(at..).unwrap_or_default().iter().take(2048).copied().collect(),
                    ));
                }
            };
            let records = split(self.format, value.get().as_bytes())
                .map_err(|why| Failure::Wrong(why, value.get().bytes().take(2048).collect()))?;
            for some in records.chunks(AT_ONCE) {
                let entries: Vec<Entry<'_>> = some.iter().map(|one| entry(self.format, one)).collect();
                self.put(path, &entries)?;
            }
        }
    }

    fn put(&self, path: &Path, entries: &[Entry<'_>]) -> Result<(), Failure> {
        let name = path.strip_prefix(self.folder).unwrap_or(path).to_string_lossy();
        match self.post.inbox.append(self.post.now(), &name, entries, Durable::Now) {
            Ok(Taken { new, again }) => {
                self.post.desk.count(Count::Received, new + again);
                self.post.desk.count(Count::Repeated, again);
                Ok(())
            }
            Err(InboxError::Full { .. }) => Err(Failure::Later),
            Err(error) => {
                tracing::error!(%error, "what a folder holds cannot be stored");
                Err(Failure::Later)
            }
        }
    }
}

enum Failure {
    /// There is no room now.
    Later,
    /// The file, and its beginning.
    Wrong(Rejected, Vec<u8>),
}

/// The text of a file; one that is packed is known by its first bytes.
fn unpacked(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // A named pipe, of which nothing may ever come, was left out when files were looked for; it could have been put here since.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let mut reader = BufReader::new(file);
    let packed = reader.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let mut text = Vec::new();
    let limit = most + 1;
    if packed {
        MultiGzDecoder::new(reader).take(limit).read_to_end(&mut text)?;
    } else {
        reader.take(limit).read_to_end(&mut text)?;
    }
    if text.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {most} bytes, unpacked")));
    }
    Ok(text)
}

/// Regular files, also in folders; whether these are all. Links are not followed.
fn collect(folder: &Path, depth: usize, found: &mut Vec<Found>) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // One that is gone meanwhile is none.
        let Ok(metadata) = entry.metadata() else { continue };
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if metadata.is_dir() && depth < MAX_DEPTH && !hidden {
            if !collect(&entry.path(), depth + 1, found)? {
                return Ok(false);
            }
        } else if metadata.is_file() && !hidden {
            if found.len() >= MAX_FILES {
                return Ok(false);
            }
            let path = entry.path();
            let state = format!("{} {}.{}", metadata.len(), metadata.mtime(), metadata.mtime_nsec());
            let mark = model::short_hash([path.to_string_lossy().as_ref(), state.as_str()], 12);
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Found { path, mark, modified });
        }
    }
    Ok(true)
}

/// Marks of files that are done, one a line.
struct Ledger {
    file: File,
    done: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Something,
}

impl Ledger {
    fn open(path: &Path) -> io::Result<(Self, Known)> {
        let known = if path.exists() { Known::Something } else { Known::Nothing };
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A line that a crash tore is none: its file is read again, and its records are known by their keys.
        let done = text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .map(str::to_owned)
            .collect();
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok((Self { file, done }, known))
    }

    fn add<'a>(&mut self, marks: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        let marks: Vec<&str> = marks.into_iter().collect();
        let text: String = marks.iter().flat_map(|mark| [mark, "\n"]).collect();
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.done.extend(marks.into_iter().map(str::to_owned));
        Ok(())
    }

    fn keep_only(&mut self, path: &Path, present: &HashSet<&str>) -> io::Result<()> {
        self.done.retain(|mark| present.contains(mark.as_str()));
        let next = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        for mark in &self.done {
            file.write_all(format!("{mark}\n").as_bytes())?;
        }
        file.sync_all()?;
        fs::rename(&next, path)?;
        self.file = OpenOptions::new().append(true).open(path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_a_packed_file_that_would_be_huge_is_refused_before_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.json.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![b' '; 4 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 100_000);
        fs::write(&path, bomb).unwrap();
        let error = unpacked(&path, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("more than 1048576 bytes, unpacked"), "{error}");
        assert_eq!(unpacked(&path, 4 << 20).unwrap().len(), 4 << 20);
    }
}
