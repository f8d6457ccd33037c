//! The filesystem that holds pinned links. Mounted by the agent where it is not, and that is remembered so that an uninstall can
//! take it away again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use model::ActionFailure;
use rustix::mount::{MountFlags, UnmountFlags};

use super::scene::Scene;

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// In the state directory: we mounted it.
const MARK: &str = "bpffs-mounted";

/// Hemostat's own folder in bpffs.
pub(super) fn folder(scene: &Scene) -> PathBuf {
    scene.bpffs.join("hemostat")
}

/// Sees to it that a bpffs is mounted and that our folder is in it.
pub(super) fn ensure(scene: &Scene) -> Result<(), ActionFailure> {
    let at = &scene.bpffs;
    let failed = |operation: &str, error: io::Error| ActionFailure::io(operation, at.display(), &error);
    if !is_bpffs(at).map_err(|error| failed("look at", error))? {
        fs::create_dir_all(at).map_err(|error| failed("create", error))?;
        // the mark first: a crash in between leaves a mark without a mount, which harms nothing
        let mark = scene.state_dir.join(MARK);
        fs::write(&mark, at.as_os_str().as_encoded_bytes())
            .map_err(|error| failed("remember the mount of", error))?;
        rustix::mount::mount(
            "bpf",
            at,
            "bpf",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            None,
        )
        .map_err(|error| failed("mount bpffs at", error.into()))?;
    }
    let folder = folder(scene);
    match fs::DirBuilder::new().create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("create a folder in", error))
        }
        _ => Ok(()),
    }
}

/// Removes our folder when it is empty, and the mount if it was ours and nobody else pinned anything there.
pub(super) fn remove(scene: &Scene) -> Result<(), ActionFailure> {
    let at = &scene.bpffs;
    let failed = |operation: &str, error: io::Error| ActionFailure::io(operation, at.display(), &error);
    match fs::remove_dir(folder(scene)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove our folder from", error));
        }
        _ => {}
    }
    let mark = scene.state_dir.join(MARK);
    if !mark.exists() {
        return Ok(());
    }
    // the kernel puts two files of its own there (kernel/bpf/inode.c, bpf_preload)
    let theirs = |name: &std::ffi::OsStr| name == "maps.debug" || name == "progs.debug";
    let mut entries = fs::read_dir(at).map_err(|error| failed("list", error))?;
    let empty = entries.all(|entry| entry.is_ok_and(|entry| theirs(&entry.file_name())));
    drop(entries);
    if empty && is_bpffs(at).map_err(|error| failed("look at", error))? {
        rustix::mount::unmount(at, UnmountFlags::NOFOLLOW)
            .map_err(|error| failed("unmount", error.into()))?;
    }
    fs::remove_file(&mark).map_err(|error| failed("forget the mount of", error))
}

fn is_bpffs(at: &Path) -> io::Result<bool> {
    match rustix::fs::statfs(at) {
        Ok(stat) => Ok(u64::try_from(stat.f_type) == Ok(BPF_FS_MAGIC)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
