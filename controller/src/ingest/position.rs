//! How far a log is read, so that a restart goes on there.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Where a log is begun of which nothing is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With what comes from now on.
    #[default]
    Now,
    /// With its first line.
    Beginning,
}

/// A file, whatever it is called by now. An inode number alone may be reused, so the file's first bytes count too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileIdentity {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// How many bytes `head` is of; a file that was shorter when it was looked at is known by what it had.
    pub(super) head_bytes: usize,
    /// SHA-256 of the first bytes, in hex.
    pub(super) head: String,
}

/// Bytes by which a file is known.
const HEAD: usize = 256;

impl FileIdentity {
    /// No file: there was none when the log was first looked for.
    pub(super) fn none() -> Self {
        Self { device: 0, inode: 0, head_bytes: 0, head: String::new() }
    }

    pub(super) fn is_none(&self) -> bool {
        self.inode == 0
    }

    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let head = head(file, HEAD)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            head_bytes: head.len(),
            head: hex::encode(Sha256::digest(&head)),
        })
    }

    /// Whether `file` is the same one, perhaps grown.
    pub(super) fn is(&self, file: &File) -> io::Result<bool> {
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (self.device, self.inode) {
            return Ok(false);
        }
        self.begins(file)
    }

    /// Whether `file` still begins as it did.
    pub(super) fn begins(&self, file: &File) -> io::Result<bool> {
        let head = head(file, self.head_bytes)?;
        Ok(head.len() == self.head_bytes && hex::encode(Sha256::digest(&head)) == self.head)
    }

    /// Known by more, now that there is more.
    pub(super) fn grown(&mut self, file: &File) -> io::Result<()> {
        if self.head_bytes < HEAD && self.begins(file)? {
            *self = Self::of(file)?;
        }
        Ok(())
    }
}

fn head(file: &File, bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// How far a log is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) file: FileIdentity,
    /// Of the first byte that is not dealt with.
    pub(super) offset: u64,
    /// When the file was last written to, in nanoseconds since 1970: rotated files that are newer come after it, should it be gone.
    #[serde(default)]
    pub(super) modified: i64,
    /// Files before it whose writer may still add to them.
    #[serde(default)]
    pub(super) before: Vec<(FileIdentity, u64)>,
    /// Number of the last report, which never falls.
    pub(super) seq: u64,
}

/// Where a position is kept.
#[derive(Debug)]
pub(super) struct PositionFile(PathBuf);

impl PositionFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What is remembered; `Ok(None)` where there is nothing yet.
    pub(super) fn load(&self) -> io::Result<Option<Position>> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers, so that a crash leaves the old or the new.
    pub(super) fn save(&self, position: &Position) -> io::Result<()> {
        let new = self.0.with_extension("new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(position).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        File::open(self.0.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}
