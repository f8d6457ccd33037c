//! What a log was rotated to: which files of its folder are of it, and in which order.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{FileIdentity, Open};

/// Files held open at once; when they are read, the next are looked for (I11).
const MAX_OPEN: usize = 32;

/// Entries of the folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Endings of files that are packed.
const PACKED: [&str; 6] = [".gz", ".xz", ".zst", ".bz2", ".lz4", ".zip"];

/// Files that a log was rotated to.
#[derive(Debug, Default)]
pub(super) struct Rotated {
    /// Oldest first.
    pub(super) plain: Vec<PathBuf>,
    times: Vec<i64>,
    /// When those were last written to that are packed.
    packed: Vec<i64>,
}

/// What stands at a log's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Present {
    /// The file that is being read.
    Same,
    /// Nothing: it was moved away, and its writer still has it open.
    Nothing,
    /// Another file.
    Another,
}

pub(super) fn present(path: &Path, identity: &FileIdentity) -> io::Result<Present> {
    match fs::metadata(path) {
        Ok(metadata) if (metadata.dev(), metadata.ino()) == (identity.device, identity.inode) => {
            Ok(Present::Same)
        }
        Ok(_) => Ok(Present::Another),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Present::Nothing),
        Err(error) => Err(error),
    }
}

/// The files that came after one, and how many of them are packed: those it was rotated before, and the present one. If there are too many, the
/// first of them. The present one is opened first, so that one which is rotated meanwhile is not missed.
pub(super) fn followers(path: &Path, of: &Open) -> io::Result<(VecDeque<File>, usize)> {
    let present = open_if_there(path)?;
    let all = rotated(path)?;
    let modified = of.modified()?;
    let mut files: Vec<(File, i64)> = Vec::new();
    let mut after = None;
    for (path, at) in all.plain.iter().zip(&all.times) {
        let Ok(file) = File::open(path) else { continue };
        if of.identity.is(&file)? {
            after = Some(files.len());
        } else {
            files.push((file, *at));
        }
        // Those before it do not come after it.
        if let Some(found) = after.filter(|found| *found > 0) {
            files.drain(..found);
            after = Some(0);
        }
        if files.len() > MAX_OPEN && after.is_some() {
            break;
        }
    }
    if after.is_none() {
        // It was removed while it was read: what is newer comes after it.
        files.retain(|(_, at)| *at > modified);
    }
    let packed = all.packed.iter().filter(|at| **at > modified).count();
    Ok((with_present(files, present)?, packed))
}

/// The files that were written to after a moment, oldest first, and how many such ones are packed.
pub(super) fn newer_than(path: &Path, modified: i64) -> io::Result<(VecDeque<File>, usize)> {
    let present = open_if_there(path)?;
    let all = rotated(path)?;
    let newer = all.plain.iter().zip(&all.times).filter(|(_, at)| **at > modified);
    let files = newer.filter_map(|(path, at)| Some((File::open(path).ok()?, *at))).collect();
    let packed = all.packed.iter().filter(|at| **at > modified).count();
    Ok((with_present(files, present)?, packed))
}

/// Files that a log was rotated to: `auth.log.1`, `auth.log-20261122`, `audit-2026-11-22T10-00-00.000.log`.
pub(super) fn rotated(path: &Path) -> io::Result<Rotated> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut plain = vec![];
    let mut found = Rotated::default();
    for entry in fs::read_dir(folder)?.take(MAX_ENTRIES) {
        let entry = entry?;
        let Some(form) = form_of(path, &entry.file_name().to_string_lossy()) else { continue };
        // One that is gone meanwhile is none.
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_file() {
            continue;
        }
        let at = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        match form {
            Form::Plain => plain.push((at, entry.path())),
            Form::Packed => found.packed.push(at),
        }
    }
    plain.sort();
    (found.times, found.plain) = plain.into_iter().unzip();
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Packed,
}

/// Whether a file of the folder was the log once: its name is the log's with a number or a date, and nothing else. `audit-webhook.log` is not
/// `audit.log`.
fn form_of(path: &Path, other: &str) -> Option<Form> {
    let name = path.file_name()?.to_string_lossy();
    let stem = path.file_stem()?.to_string_lossy();
    let ending = path.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default();
    let packed = PACKED.iter().find_map(|packed| other.strip_suffix(packed));
    let plain = packed.unwrap_or(other);
    let whole = plain.strip_prefix(name.as_ref()).and_then(|rest| rest.strip_prefix(['.', '-', '_']));
    let within =
        || plain.strip_prefix(stem.as_ref())?.strip_suffix(ending.as_str())?.strip_prefix(['.', '-', '_']);
    let is_rotation =
        whole.is_some_and(|mark| mark == "old" || is_mark(mark)) || within().is_some_and(is_mark);
    is_rotation.then_some(if packed.is_some() { Form::Packed } else { Form::Plain })
}

/// `1`, `20261122`, `2026-11-22T10-00-00.000`, `20261122-1763800000`.
fn is_mark(mark: &str) -> bool {
    mark.starts_with(|c: char| c.is_ascii_digit())
        && mark.len() <= 40
        && mark.bytes().all(|byte| {
            byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b':' | b'T' | b'Z' | b'_' | b'+')
        })
}

/// The first of them, and the present one behind the last if all are taken.
fn with_present(files: Vec<(File, i64)>, present: Option<File>) -> io::Result<VecDeque<File>> {
    let inode = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let newest = present.as_ref().map(inode).transpose()?;
    let mut all = VecDeque::new();
    for (file, _) in files {
        if newest == Some(inode(&file)?) {
            break;
        }
        if all.len() == MAX_OPEN {
            return Ok(all);
        }
        all.push_back(file);
    }
    all.extend(present);
    Ok(all)
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_or_a_date_makes_a_rotated_file() {
        let form = |log: &str, other: &str| form_of(Path::new(log), other);
        for other in [
            "auth.log.1",
            "auth.log-20261122",
            "auth.log.2026-11-22",
            "auth-20261122.log",
            "auth.log.old",
            "auth.1.log",
        ] {
            assert_eq!(form("/l/auth.log", other), Some(Form::Plain), "{other}");
            let packed = format!("{other}.gz");
            assert_eq!(form("/l/auth.log", &packed), Some(Form::Packed), "{packed}");
        }
        assert_eq!(form("/l/audit.log", "audit-2026-11-22T10-00-00.000.log"), Some(Form::Plain));
        assert_eq!(form("/l/messages", "messages.1"), Some(Form::Plain));
        for other in [
            "auth.log",
            "auth-webhook.log",
            "auth.log.bak",
            "auth.log.swp",
            "auth2.log",
            "auth-1.txt",
            "authority.log.1",
            "auth-20261122.log.position",
        ] {
            assert_eq!(form("/l/auth.log", other), None, "{other}");
        }
    }
}
