//! The filesystem that holds what outlives the agent: the map of held processes and the links of network quarantines. Mounted where it
//! is not, which is remembered, so that the machine is left as it was found once nothing is pinned any more, also by a later start.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where everybody mounts it.
const USUAL: &str = "/sys/fs/bpf";
/// Says that the usual one was mounted by us. In /run, since neither outlives a boot.
const MARK: &str = "/run/hemostat.bpffs-mounted";

/// A bpffs that is, or shall be, mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bpffs {
    at: PathBuf,
    mark: PathBuf,
}

impl Default for Bpffs {
    fn default() -> Self {
        Self { at: USUAL.into(), mark: MARK.into() }
    }
}

/// What is left when we leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It is as it was found.
    AsFound,
    /// We mounted it, and somebody has pinned something there or uses it.
    InUse,
}

impl Bpffs {
    /// Mounted at `at`; `elsewhere` is the folder for the mark of any but the usual one.
    #[must_use]
    pub fn new(at: &Path, elsewhere: &Path) -> Self {
        if at == Path::new(USUAL) {
            return Self::default();
        }
        Self { at: at.to_owned(), mark: elsewhere.join("bpffs-mounted") }
    }

    /// Where it is.
    #[must_use]
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Hemostat's own folder in it.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.at.join("hemostat")
    }

    /// Sees to it that it is mounted.
    ///
    /// # Errors
    /// Those of looking, marking and mounting.
    pub fn ensure(&self) -> io::Result<()> {
        if self.is_mounted()? {
            return Ok(());
        }
        fs::create_dir_all(&self.at)?;
        // The mark first: a crash in between leaves a mark without a mount, which harms nothing.
        fs::write(&self.mark, self.at.as_os_str().as_encoded_bytes())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        // the kernel's own default lets everybody make folders in it
        Ok(mount("bpf", &self.at, "bpf", flags, Some(c"mode=0700"))?)
    }

    /// Removes our folder when it is empty, and the mount if it was ours and nobody has pinned anything there.
    ///
    /// # Errors
    /// Those of looking, unmounting and forgetting the mark.
    pub fn leave(&self) -> io::Result<Left> {
        match fs::remove_dir(self.folder()) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(Left::InUse),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if !self.mark.exists() {
            return Ok(Left::AsFound);
        }
        if self.is_mounted()? {
            // The kernel puts two files of its own there (kernel/bpf/inode.c, bpf_preload).
            let theirs = |name: &OsStr| name == "maps.debug" || name == "progs.debug";
            let mut entries = fs::read_dir(&self.at)?;
            let empty = entries.all(|entry| entry.is_ok_and(|entry| theirs(&entry.file_name())));
            drop(entries);
            if !empty {
                return Ok(Left::InUse);
            }
            match unmount(&self.at, UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(rustix::io::Errno::BUSY) => return Ok(Left::InUse),
                Err(error) => return Err(error.into()),
            }
        }
        match fs::remove_file(&self.mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Left::AsFound),
        }
    }

    fn is_mounted(&self) -> io::Result<bool> {
        match rustix::fs::statfs(&self.at) {
            Ok(stat) => Ok(u64::try_from(stat.f_type) == Ok(BPF_FS_MAGIC)),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Leaves it at the end of whoever holds this, whichever way that comes.
#[derive(Debug, Default)]
pub struct LeaveAtEnd(pub Bpffs);

impl Drop for LeaveAtEnd {
    fn drop(&mut self) {
        match self.0.leave() {
            Ok(Left::AsFound) => {}
            Ok(Left::InUse) => {
                tracing::debug!(at = %self.0.at.display(), "bpffs stays mounted: something is pinned there")
            }
            Err(error) => {
                tracing::warn!(%error, at = %self.0.at.display(), "bpffs is not left as it was found")
            }
        }
    }
}
