//! Containment's folder in bpffs: the pinned links of network quarantines.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use model::ActionFailure;

use super::scene::Scene;
use crate::bpffs::{Bpffs, Left};

/// Hemostat's own folder in bpffs.
pub(super) fn folder(scene: &Scene) -> PathBuf {
    bpffs(scene).folder()
}

/// Sees to it that a bpffs is mounted and that our folder is in it.
pub(super) fn ensure(scene: &Scene) -> Result<(), ActionFailure> {
    let bpffs = bpffs(scene);
    bpffs.ensure().map_err(failed("mount bpffs at", bpffs.at()))?;
    match fs::DirBuilder::new().create(bpffs.folder()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create a folder in", bpffs.at())(error));
        }
        _ => {}
    }
    // Who owns the folder may unlink what is pinned in it.
    let found = fs::symlink_metadata(bpffs.folder()).map_err(failed("look at our folder in", bpffs.at()))?;
    let ours =
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if ours {
        return Ok(());
    }
    let foreign = io::Error::other("somebody else has made it, or others may write to it: remove it");
    Err(failed("use our folder in", bpffs.at())(foreign))
}

/// Removes our folder, and the mount if it was ours and nobody else pinned anything there.
///
/// Errors: while something is pinned in our folder.
pub(super) fn remove(scene: &Scene) -> Result<(), ActionFailure> {
    let bpffs = bpffs(scene);
    match bpffs.leave().map_err(failed("leave", bpffs.at()))? {
        Left::InUse if bpffs.folder().exists() => {
            Err(failed("remove our folder from", bpffs.at())(io::ErrorKind::DirectoryNotEmpty.into()))
        }
        _ => Ok(()),
    }
}

fn bpffs(scene: &Scene) -> Bpffs {
    Bpffs::new(&scene.bpffs, &scene.state_dir)
}

fn failed(operation: &'static str, at: &Path) -> impl FnOnce(io::Error) -> ActionFailure {
    let at = at.display().to_string();
    move |error| ActionFailure::io(operation, at, &error)
}
