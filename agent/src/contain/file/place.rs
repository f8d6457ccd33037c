//! A file by its directory: opened and identified once, so that nothing that happens to its path can change what is meant.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use model::ActionFailure;
use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// A directory entry whose directory is open: nothing that happens to the path above can change what it means.
pub(super) struct Place {
    path: String,
    pub(super) dir: OwnedFd,
    pub(super) name: String,
}

impl Place {
    pub(super) fn of(path: &str) -> Result<Self, ActionFailure> {
        let invalid = |because: &str| ActionFailure::Unsupported {
            operation: format!("quarantining {path:?}"),
            because: because.to_owned(),
        };
        let (above, name) = path.rsplit_once('/').ok_or_else(|| invalid("the path is not absolute"))?;
        if !path.starts_with('/') || name.is_empty() || name == "." || name == ".." || path.contains('\0') {
            return Err(invalid("it is no absolute path of a file"));
        }
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open", "/")(e.into()))?;
        let below = above.trim_start_matches('/');
        let dir = rustix::fs::openat2(
            &root,
            if below.is_empty() { "." } else { below },
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        );
        match dir {
            Ok(dir) => Ok(Self { path: path.to_owned(), dir, name: name.to_owned() }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(gone(path)),
            Err(Errno::LOOP) => Err(invalid("a symbolic link is on the way: name the file by its real path")),
            Err(error) => Err(failed("walk to", path)(error.into())),
        }
    }

    /// Inode and device of what stands there, whatever it is; `None` for nothing.
    pub(super) fn identity(&self) -> Result<Option<(u64, u64)>, ActionFailure> {
        match rustix::fs::openat(
            &self.dir,
            &self.name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => {
                let meta = File::from(fd).metadata().map_err(failed("look at", &self.path))?;
                Ok(Some((meta.ino(), meta.dev())))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("look at", &self.path)(error.into())),
        }
    }

    /// Opens the regular file that stands there, without touching its times; `None` for nothing.
    pub(super) fn open(&self) -> Result<Option<File>, ActionFailure> {
        open_regular(&self.dir, &self.name, &self.path)
    }

    pub(super) fn sync(&self) -> Result<(), ActionFailure> {
        rustix::fs::fsync(&self.dir)
            .map_err(|error| failed("sync the directory of", &self.path)(error.into()))
    }
}

/// First as a mere name, so that nothing is opened that acts on being opened (a FIFO, a device).
pub(super) fn open_regular(dir: &OwnedFd, name: &str, path: &str) -> Result<Option<File>, ActionFailure> {
    let named =
        match rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        {
            Ok(named) => File::from(named),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("open", path)(error.into())),
        };
    if !named.metadata().map_err(failed("look at", path))?.is_file() {
        return Err(ActionFailure::Unsupported {
            operation: format!("quarantining {path}"),
            because: "it is not a regular file".into(),
        });
    }
    let again = format!("/proc/self/fd/{}", named.as_raw_fd());
    let open = |flags| rustix::fs::open(&again, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let file = match open(OFlags::NOATIME) {
        // not ours and no CAP_FOWNER
        Err(Errno::PERM) => open(OFlags::empty()),
        other => other,
    };
    file.map(|file| Some(File::from(file))).map_err(|error| failed("open", path)(error.into()))
}

pub(super) fn remove_at(dir: &OwnedFd, name: &str, path: &str) -> Result<(), ActionFailure> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove what is left of", path)(error.into())),
    }
}

pub(super) fn gone(path: &str) -> ActionFailure {
    ActionFailure::TargetGone { target: format!("file {path}") }
}

pub(super) fn failed(operation: &str, path: &str) -> impl FnOnce(io::Error) -> ActionFailure {
    let (operation, path) = (operation.to_owned(), path.to_owned());
    move |error| ActionFailure::io(&operation, path, &error)
}
