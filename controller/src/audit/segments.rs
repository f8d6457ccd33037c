//! The files of the log: what is being written, and what is full.
//!
//! `audit.jsonl` is written. Once it is full it is called `audit-<number of its first entry, 20 digits>.jsonl`, and a new one is begun; the
//! chain goes on from one to the next, so a file that is missing or stands in another's place is found like a line that is. Nothing is
//! ever removed by the controller.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A full file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    /// Number of its first entry, as its name says.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

/// The full files that belong to the log at `path`, oldest first. `current` is left out if it was given its new name meanwhile.
pub(super) fn sealed(path: &Path, current: Option<&File>) -> io::Result<Vec<Segment>> {
    let (folder, stem) = parts(path);
    let current = current.map(File::metadata).transpose()?.map(|meta| (meta.dev(), meta.ino()));
    let mut segments = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(segments),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let first = name.to_str().and_then(|name| first_of(name, &stem));
        if let Some(first) = first {
            let meta = entry.metadata()?;
            if current != Some((meta.dev(), meta.ino())) {
                segments.push(Segment { first, path: entry.path() });
            }
        }
    }
    segments.sort();
    Ok(segments)
}

/// What the log at `path` is called once it is full; a name that nothing has yet.
pub(super) fn sealed_name(path: &Path, first: u64) -> PathBuf {
    let (folder, stem) = parts(path);
    let plain = folder.join(format!("{stem}-{first:020}.jsonl"));
    // A file that somebody put there is not written over: it stays, and verify names it.
    let others = (1..1000).map(|n| folder.join(format!("{stem}-{first:020}.{n}.jsonl")));
    let free = |name: &PathBuf| fs::symlink_metadata(name).is_err();
    std::iter::once(plain.clone()).chain(others).find(free).unwrap_or(plain)
}

/// The file beside a full one that tells where in it is what.
pub(super) fn index_of(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}

/// Its name, for people.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn parts(path: &Path) -> (&Path, String) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (folder, path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
}

fn first_of(name: &str, stem: &str) -> Option<u64> {
    let rest = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(".jsonl")?;
    let (number, copy) = rest.split_at_checked(20)?;
    let copy_is_fine = copy.is_empty() || copy.strip_prefix('.').is_some_and(|n| n.parse::<u16>().is_ok());
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    if digits && copy_is_fine { number.parse().ok() } else { None }
}
