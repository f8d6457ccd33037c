//! `node.quarantine-file`: a file is taken from its path into a folder that only root can enter, not executable, and comes back
//! with everything it had.
//!
//! The path is walked without following any link, and every step works on what was opened and identified, not on a name that can be
//! changed meanwhile. On one filesystem the very inode is moved; across filesystems it is copied, which only a file with a single
//! name survives exactly.

mod place;
mod store;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
};

use model::{ActionFailure, Effect, FileState, Outputs, RollbackState, Target};
use rustix::{
    fs::{Mode, OFlags, RenameFlags},
    io::Errno,
};
use serde_json::json;

use self::{
    place::{Place, failed, gone, open_regular, remove_at},
    store::{PART, STORED, Store, folder},
};
use super::{
    attributes,
    scene::{Act, Task, Undone, mismatch},
};

pub(super) struct QuarantineFile;

impl Act for QuarantineFile {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        let Target::File { path, inode, device } = task.target else { return Err(no_file(task)) };
        let place = Place::of(path)?;
        let file = place.open()?.ok_or_else(|| gone(path))?;
        let meta = file.metadata().map_err(failed("look at", path))?;
        if (meta.ino(), meta.dev()) != (*inode, *device) {
            return Err(changed(path, (*inode, *device), (meta.ino(), meta.dev())));
        }
        check(task, path, &meta)?;
        let stored = folder(task).join(STORED).display().to_string();
        // times first: reading may change the time of last access
        let mut state = attributes::read(&file, path, stored, String::new()).map_err(failed("read", path))?;
        state.sha256 = attributes::hash(&file).map_err(failed("hash", path))?;
        Ok(RollbackState::File(Box::new(state)))
    }

    fn apply(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Outputs, ActionFailure> {
        let state = state(task, rollback)?;
        let done = take(task, state);
        if let Err(failure) = &done
            && !matches!(failure, ActionFailure::TargetGone { .. })
        {
            if let Err(left) = put_back(task, state) {
                task.leave_unclean(&left);
            }
            // an empty folder is of no use to anybody
            let _kept_if_not_empty = fs::remove_dir(folder(task));
        }
        let kept_names = done?;
        Ok(Outputs::from([
            ("sha256".to_owned(), json!(state.sha256)),
            ("size".to_owned(), json!(state.size)),
            ("stored".to_owned(), json!(state.stored)),
            ("other_names".to_owned(), json!(kept_names)),
        ]))
    }

    fn verify(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        let state = state(task, rollback)?;
        let missing = |found: String| Ok(Effect::Missing { found });
        let still = Place::of(&state.path).ok().map(|place| place.identity()).transpose()?.flatten();
        if still == Some((state.inode, state.device)) {
            return missing(format!("{} still stands there", state.path));
        }
        let stored = match File::open(&state.stored) {
            Ok(stored) => stored,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return missing(format!("{} is not in the store", state.stored));
            }
            Err(error) => return Err(failed("open", &state.stored)(error)),
        };
        if attributes::hash(&stored).map_err(failed("hash", &state.stored))? != state.sha256 {
            return missing(format!("{} has another content than was captured", state.stored));
        }
        Ok(Effect::InForce)
    }

    fn revert(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Undone, ActionFailure> {
        put_back(task, state(task, rollback)?)
    }
}

/// Moves the file into the store. Returns how many other names it keeps.
fn take(task: &Task<'_>, state: &FileState) -> Result<u64, ActionFailure> {
    let store = Store::make(task)?;
    let place = Place::of(&state.path)?;
    let at_place = place.identity()? == Some((state.inode, state.device));
    if !at_place && store.open(STORED)?.is_some() {
        // a crash came after the move
        finish_leftover(&place, state)?;
        store.seal()?;
        return Ok(state.links.saturating_sub(1));
    }
    let file = place.open()?.ok_or_else(|| gone(&state.path))?;
    let meta = file.metadata().map_err(failed("look at", &state.path))?;
    if (meta.ino(), meta.dev()) != (state.inode, state.device) {
        return Err(changed(&state.path, (state.inode, state.device), (meta.ino(), meta.dev())));
    }
    if meta.len() != state.size || (meta.mtime(), meta.mtime_nsec()) != state.modified {
        return Err(ActionFailure::TargetChanged {
            target: format!("file {}", state.path),
            expected: format!("{} bytes as captured", state.size),
            found: format!("{} bytes, written to since", meta.len()),
        });
    }
    check(task, &state.path, &meta)?;
    task.step("unlock");
    attributes::unlock(&file).map_err(failed("take the flags from", &state.path))?;
    task.step("move");
    match rustix::fs::renameat_with(&place.dir, &place.name, &store.dir, STORED, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::XDEV) => copy_away(task, state, &place, &file, &store)?,
        Err(error) => return Err(failed("move", &state.path)(error.into())),
    }
    let moved = store.open(STORED)?.ok_or_else(|| gone(&state.stored))?;
    let moved_meta = moved.metadata().map_err(failed("look at", &state.stored))?;
    if moved_meta.dev() == state.device && moved_meta.ino() != state.inode {
        // the name was given to another file between the look and the move: back with it
        rustix::fs::renameat_with(&store.dir, STORED, &place.dir, &place.name, RenameFlags::NOREPLACE)
            .map_err(|error| failed("put back", &state.path)(error.into()))?;
        return Err(changed(&state.path, (state.inode, state.device), (moved_meta.ino(), moved_meta.dev())));
    }
    task.step("seal");
    store.seal()?;
    place.sync()?;
    Ok(state.links.saturating_sub(1))
}

/// Across filesystems: copied, synced and compared before the original goes.
fn copy_away(
    task: &Task<'_>,
    state: &FileState,
    place: &Place,
    file: &File,
    store: &Store,
) -> Result<(), ActionFailure> {
    if state.links > 1 {
        return Err(ActionFailure::Unsupported {
            operation: format!("quarantining {}", state.path),
            because: format!(
                "it has {} names and the store is on another filesystem: a copy could not be undone exactly",
                state.links
            ),
        });
    }
    store.remove(PART)?;
    let part = store.create(PART)?;
    task.step("copy");
    let sum =
        attributes::digest(file, |piece| (&part).write_all(piece)).map_err(failed("copy", &state.path))?;
    if sum != state.sha256 {
        store.remove(PART)?;
        return Err(ActionFailure::TargetChanged {
            target: format!("file {}", state.path),
            expected: state.sha256.clone(),
            found: sum,
        });
    }
    part.sync_all().map_err(failed("sync", &state.stored))?;
    store.rename(PART, STORED)?;
    // The original goes from another filesystem, which may write that down first: with the power gone, the file would be in neither.
    store.sync()?;
    // Not by its own name: under a name of ours it can be identified before it is removed.
    let leftover = leftover(task);
    task.step("set aside");
    rustix::fs::renameat_with(&place.dir, &place.name, &place.dir, &leftover, RenameFlags::NOREPLACE)
        .map_err(|error| failed("set aside", &state.path)(error.into()))?;
    let aside = open_regular(&place.dir, &leftover, &state.path)?.ok_or_else(|| gone(&state.path))?;
    let meta = aside.metadata().map_err(failed("look at", &state.path))?;
    if (meta.ino(), meta.dev()) != (state.inode, state.device) {
        rustix::fs::renameat_with(&place.dir, &leftover, &place.dir, &place.name, RenameFlags::NOREPLACE)
            .map_err(|error| failed("put back", &state.path)(error.into()))?;
        return Err(changed(&state.path, (state.inode, state.device), (meta.ino(), meta.dev())));
    }
    task.step("unlink");
    remove_at(&place.dir, &leftover, &state.path)
}

/// The file stands at its path again, as it was; or something else stands there.
fn put_back(task: &Task<'_>, state: &FileState) -> Result<Undone, ActionFailure> {
    let restored = |detail: &str| Ok(Undone::Restored { detail: format!("{} {detail}", state.path) });
    let drifted = |difference: String| Ok(Undone::Drifted { difference });
    let place = match Place::of(&state.path) {
        Ok(place) => place,
        Err(ActionFailure::TargetGone { .. }) => {
            return drifted(format!(
                "the directory of {} is gone; the file is at {}",
                state.path, state.stored
            ));
        }
        Err(other) => return Err(other),
    };
    let store = Store::make(task)?;
    store.remove(PART)?;
    let leftover = leftover(task);
    // a crash while it was being copied away: the original is still in its directory
    if let Some(aside) = open_regular(&place.dir, &leftover, &state.path)? {
        let meta = aside.metadata().map_err(failed("look at", &state.path))?;
        if (meta.ino(), meta.dev()) == (state.inode, state.device) && place.identity()?.is_none() {
            rustix::fs::renameat_with(&place.dir, &leftover, &place.dir, &place.name, RenameFlags::NOREPLACE)
                .map_err(|error| failed("put back", &state.path)(error.into()))?;
        } else {
            remove_at(&place.dir, &leftover, &state.path)?;
        }
    }
    if let Some(found) = place.identity()? {
        let is_original = found == (state.inode, state.device);
        let standing = if is_original { place.open()? } else { place.open().ok().flatten() };
        let is_ours = match &standing {
            Some(file) if !is_original => is_restored(file, state)?,
            _ => is_original,
        };
        let Some(file) = standing.filter(|_| is_ours) else {
            let (inode, device) = found;
            return drifted(format!(
                "something else stands at {} (inode {inode} on device {device}); the file is at {}",
                state.path, state.stored
            ));
        };
        // it was not moved yet, or it is back already and only the end is missing
        attributes::restore(&file, state).map_err(failed("restore", &state.path))?;
        attributes::lock(&file, state).map_err(failed("give the flags back to", &state.path))?;
        // what is in the store goes only when this is on the disk
        file.sync_all().map_err(failed("sync", &state.path))?;
        place.sync()?;
        store.clear()?;
        return restored("stands where it was");
    }
    let Some(stored) = store.open(STORED)? else {
        return drifted(format!("{} is not in the store any more", state.stored));
    };
    let meta = stored.metadata().map_err(failed("look at", &state.stored))?;
    let sum = attributes::hash(&stored).map_err(failed("hash", &state.stored))?;
    if (meta.ino(), meta.dev()) == (state.inode, state.device) {
        return move_back(task, state, &place, &store, &stored, &sum);
    }
    if sum != state.sha256 {
        return drifted(format!("{} has SHA-256 {sum}, captured was {}", state.stored, state.sha256));
    }
    copy_back(task, state, &place, &store, &stored)
}

fn move_back(
    task: &Task<'_>,
    state: &FileState,
    place: &Place,
    store: &Store,
    stored: &File,
    sum: &str,
) -> Result<Undone, ActionFailure> {
    task.step("restore");
    attributes::restore(stored, state).map_err(failed("restore", &state.stored))?;
    task.step("move back");
    match rustix::fs::renameat_with(&store.dir, STORED, &place.dir, &place.name, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            store.seal()?;
            let difference = format!("something else has just come to stand at {}", state.path);
            return Ok(Undone::Drifted { difference });
        }
        Err(error) => return Err(failed("move back", &state.path)(error.into())),
    }
    task.step("lock");
    attributes::lock(stored, state).map_err(failed("give the flags back to", &state.path))?;
    place.sync()?;
    store.clear()?;
    let note =
        if sum == state.sha256 { "" } else { "; its content was changed by a program that had it open" };
    Ok(Undone::Restored { detail: format!("{} is the same file at the same place{note}", state.path) })
}

fn copy_back(
    task: &Task<'_>,
    state: &FileState,
    place: &Place,
    store: &Store,
    stored: &File,
) -> Result<Undone, ActionFailure> {
    let leftover = leftover(task);
    task.step("copy back");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fresh = rustix::fs::openat(&place.dir, &leftover, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| failed("create beside", &state.path)(error.into()))?;
    let fresh = File::from(fresh);
    // some flags only take hold of an empty file
    attributes::mark(&fresh, state).map_err(failed("give the flags back to", &state.path))?;
    attributes::digest(stored, |piece| (&fresh).write_all(piece))
        .map_err(failed("copy back", &state.path))?;
    attributes::restore(&fresh, state).map_err(failed("restore", &state.path))?;
    fresh.sync_all().map_err(failed("sync", &state.path))?;
    task.step("move back");
    match rustix::fs::renameat_with(&place.dir, &leftover, &place.dir, &place.name, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            remove_at(&place.dir, &leftover, &state.path)?;
            let difference = format!("something else has just come to stand at {}", state.path);
            return Ok(Undone::Drifted { difference });
        }
        Err(error) => return Err(failed("move back", &state.path)(error.into())),
    }
    task.step("lock");
    attributes::lock(&fresh, state).map_err(failed("give the flags back to", &state.path))?;
    place.sync()?;
    store.clear()?;
    let lost = match attributes::unmarked(&fresh, state).map_err(failed("look at", &state.path))? {
        0 => String::new(),
        flags => format!("; its filesystem does not take its inode flags {flags:#x} back"),
    };
    Ok(Undone::Restored {
        detail: format!(
            "{} is as it was, as a new inode (the store is on another filesystem){lost}",
            state.path
        ),
    })
}

/// After a crash between copying and unlinking.
fn finish_leftover(place: &Place, state: &FileState) -> Result<(), ActionFailure> {
    for name in leftover_names(&place.dir, state)? {
        remove_at(&place.dir, &name, &state.path)?;
    }
    place.sync()
}

/// Our own names in the directory that stand for the captured inode.
fn leftover_names(dir: &OwnedFd, state: &FileState) -> Result<Vec<String>, ActionFailure> {
    let tag = Path::new(&state.stored).parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let Some(name) = tag.map(|tag| format!("{LEFTOVER}{tag}")) else { return Ok(Vec::new()) };
    let found = open_regular(dir, &name, &state.path)?;
    let Some(file) = found else { return Ok(Vec::new()) };
    let meta = file.metadata().map_err(failed("look at", &state.path))?;
    Ok(if (meta.ino(), meta.dev()) == (state.inode, state.device) { vec![name] } else { Vec::new() })
}

const LEFTOVER: &str = ".hemostat-";

fn leftover(task: &Task<'_>) -> String {
    format!("{LEFTOVER}{}", task.tag())
}

/// Whether this is the file that an undo wrote before it was interrupted.
fn is_restored(file: &File, state: &FileState) -> Result<bool, ActionFailure> {
    let meta = file.metadata().map_err(failed("look at", &state.path))?;
    let same = meta.len() == state.size
        && meta.mode() == state.mode
        && (meta.uid(), meta.gid()) == (state.uid, state.gid)
        && (meta.mtime(), meta.mtime_nsec()) == state.modified;
    Ok(same && attributes::hash(file).map_err(failed("hash", &state.path))? == state.sha256)
}

/// Neither the agent, nor what a node cannot do without, nor our own state, nor more than the store shall hold.
fn check(task: &Task<'_>, path: &str, meta: &fs::Metadata) -> Result<(), ActionFailure> {
    if let Some(because) = task.scene.protected.file_reason(meta) {
        return Err(ActionFailure::Protected { target: task.target.to_string(), because });
    }
    if Path::new(path).starts_with(&task.scene.state_dir) {
        let because = "it is the agent's own state".to_owned();
        return Err(ActionFailure::Protected { target: task.target.to_string(), because });
    }
    if meta.len() > task.scene.max_file_bytes {
        return Err(ActionFailure::Unsupported {
            operation: format!("quarantining {path}"),
            because: format!("it has {} bytes, the limit is {}", meta.len(), task.scene.max_file_bytes),
        });
    }
    Ok(())
}

/// Whether a state that came with a command may be carried out: the store has that very file for this action. What stands at its path is given
/// no mode, owner or attribute on somebody's word alone.
pub(super) fn check_foreign(task: &Task<'_>, given: &FileState) -> Result<(), ActionFailure> {
    if given.path.is_empty() || Path::new(&given.stored) != folder(task).join(STORED) {
        return Err(mismatch(task));
    }
    let stored = match File::open(&given.stored) {
        Ok(stored) => stored,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone(&given.stored)),
        Err(error) => return Err(failed("open", &given.stored)(error)),
    };
    let meta = stored.metadata().map_err(failed("look at", &given.stored))?;
    let is_it = (meta.ino(), meta.dev()) == (given.inode, given.device)
        || attributes::hash(&stored).map_err(failed("hash", &given.stored))? == given.sha256;
    if is_it { Ok(()) } else { Err(mismatch(task)) }
}

fn state<'a>(task: &Task<'_>, rollback: &'a RollbackState) -> Result<&'a FileState, ActionFailure> {
    match (rollback, task.target) {
        (RollbackState::File(state), Target::File { path, inode, device })
            if state.path == *path && (state.inode, state.device) == (*inode, *device) =>
        {
            Ok(state)
        }
        _ => Err(mismatch(task)),
    }
}

fn no_file(task: &Task<'_>) -> ActionFailure {
    ActionFailure::Unsupported {
        operation: format!("quarantining {}", task.target),
        because: "only a file can be".into(),
    }
}

fn changed(path: &str, expected: (u64, u64), found: (u64, u64)) -> ActionFailure {
    let word = |(inode, device): (u64, u64)| format!("inode {inode} on device {device}");
    ActionFailure::TargetChanged {
        target: format!("file {path}"),
        expected: word(expected),
        found: word(found),
    }
}
