//! Where files in quarantine are kept: a folder for each action that only root can enter.

use std::{
    fs::{self, DirBuilder, File},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::PathBuf,
};

use model::ActionFailure;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::place::{failed, open_regular, remove_at};
use crate::contain::scene::Task;

/// In the store: readable by root, executable by nobody.
const STORED_MODE: Mode = Mode::RUSR;
/// Name of the file.
pub(super) const STORED: &str = "content";
/// Name of a copy in the making.
pub(super) const PART: &str = "content.part";

/// The action's own folder in the store.
pub(super) struct Store {
    path: PathBuf,
    pub(super) dir: OwnedFd,
}

impl Store {
    pub(super) fn make(task: &Task<'_>) -> Result<Self, ActionFailure> {
        let path = folder(task);
        let name = path.display().to_string();
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("create", &name))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| failed("open", &name)(error.into()))?;
        Ok(Self { path, dir })
    }

    pub(super) fn open(&self, name: &str) -> Result<Option<File>, ActionFailure> {
        open_regular(&self.dir, name, &self.path.join(name).display().to_string())
    }

    pub(super) fn create(&self, name: &str) -> Result<File, ActionFailure> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, name, flags, STORED_MODE | Mode::WUSR)
            .map(File::from)
            .map_err(|error| failed("create", &self.path.join(name).display().to_string())(error.into()))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), ActionFailure> {
        rustix::fs::renameat(&self.dir, from, &self.dir, to).map_err(|error| self.failed("rename in", error))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), ActionFailure> {
        remove_at(&self.dir, name, &self.path.display().to_string())
    }

    /// Takes the right to execute from what is stored and makes the move durable.
    pub(super) fn seal(&self) -> Result<(), ActionFailure> {
        if let Some(file) = self.open(STORED)? {
            rustix::fs::fchmod(&file, STORED_MODE).map_err(|error| self.failed("seal", error))?;
            rustix::fs::fsync(&file).map_err(|error| self.failed("sync", error))?;
        }
        self.sync()
    }

    /// Makes what stands in the folder durable, by the name that it has now, and the folder itself, which may be new.
    pub(super) fn sync(&self) -> Result<(), ActionFailure> {
        rustix::fs::fsync(&self.dir).map_err(|error| self.failed("sync", error))?;
        for around in self.path.ancestors().skip(1).take(2) {
            let name = around.display().to_string();
            File::open(around).and_then(|dir| dir.sync_all()).map_err(failed("sync", &name))?;
        }
        Ok(())
    }

    /// Removes the folder with what is still in it.
    pub(super) fn clear(&self) -> Result<(), ActionFailure> {
        self.remove(STORED)?;
        self.remove(PART)?;
        fs::remove_dir(&self.path).map_err(failed("remove", &self.path.display().to_string()))
    }

    fn failed(&self, operation: &str, error: Errno) -> ActionFailure {
        ActionFailure::io(operation, self.path.display(), &error.into())
    }
}

pub(super) fn folder(task: &Task<'_>) -> PathBuf {
    task.scene.state_dir.join("vault").join(task.tag())
}
