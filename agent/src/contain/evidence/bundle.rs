//! A folder of files with a manifest of their hashes, put in place whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use model::{ActionFailure, Outputs};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::contain::attributes;

const MANIFEST: &str = "manifest.json";
const MAX_MANIFEST: u64 = 64 << 20;
/// Notes on what could not be read.
const MAX_NOTES: usize = 1024;

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    action: String,
    target: String,
    boot_id: String,
    captured_unix_ns: u64,
    files: Vec<Entry>,
    /// What is not whole or missing, in a person's words.
    incomplete: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    path: String,
    size: u64,
    sha256: String,
}

/// A bundle in the making. Paths in it are ours alone: nothing that a program chose becomes a name.
pub(super) struct Bundle {
    folder: PathBuf,
    part: PathBuf,
    files: Vec<Entry>,
    notes: Vec<String>,
    left: u64,
}

impl Bundle {
    pub(super) fn begin(folder: &Path, limit: u64) -> Result<Self, ActionFailure> {
        let part = part_of(folder);
        discard_part(folder)?;
        make_dir(&part)?;
        Ok(Self { folder: folder.to_owned(), part, files: Vec::new(), notes: Vec::new(), left: limit })
    }

    /// Copies from `source`, at most `limit` bytes; what is left out is noted. Returns how many bytes were taken.
    ///
    /// Errors: only of the store. A source that fails half-way is noted.
    pub(super) fn add(
        &mut self,
        name: &str,
        source: &mut dyn Read,
        limit: u64,
    ) -> Result<u64, ActionFailure> {
        let limit = limit.min(self.left);
        let mut buffer = vec![0_u8; 64 << 10];
        // What gives nothing at all makes no file.
        let mut first = match read(source, &mut buffer) {
            Ok(length) => Some(length),
            Err(error) => {
                self.note(format!("{name}: {error}"));
                return Ok(0);
            }
        };
        let path = self.part.join(name);
        let mut file = create(&path)?;
        let mut hash = Sha256::new();
        let mut size = 0_u64;
        loop {
            let length = match first.take().map_or_else(|| read(source, &mut buffer), Ok) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) => {
                    self.note(format!("{name}: {error} after {size} bytes"));
                    break;
                }
            };
            let room = usize::try_from(limit - size).unwrap_or(usize::MAX);
            let taken = &buffer[..length.min(room)];
            hash.update(taken);
            file.write_all(taken).map_err(failed("write", &path))?;
            size += taken.len() as u64;
            if taken.len() < length {
                self.note(format!("{name}: cut at {size} bytes"));
                break;
            }
        }
        file.sync_data().map_err(failed("sync", &path))?;
        self.left -= size;
        self.files.push(Entry { path: name.to_owned(), size, sha256: hex::encode(hash.finalize()) });
        Ok(size)
    }

    pub(super) fn add_json(&mut self, name: &str, value: &serde_json::Value) -> Result<(), ActionFailure> {
        let mut text = serde_json::to_vec_pretty(value)
            .map_err(|error| ActionFailure::io("encode", name, &io::Error::other(error)))?;
        text.push(b'\n');
        self.add(name, &mut text.as_slice(), u64::MAX).map(drop)
    }

    /// Copies a file under its hash, once. Returns the hash; `None`, noted, if it could not be read to its end. Above `limit` bytes only
    /// the hash is kept.
    pub(super) fn add_by_hash(
        &mut self,
        what: &str,
        source: &mut dyn Read,
        limit: u64,
    ) -> Result<Option<String>, ActionFailure> {
        const UNNAMED: &str = "binaries/unnamed";
        let limit = limit.min(self.left);
        let path = self.part.join(UNNAMED);
        let mut file = create(&path)?;
        let (mut hash, mut size, mut buffer) = (Sha256::new(), 0_u64, vec![0_u8; 64 << 10]);
        let whole = loop {
            match read(source, &mut buffer) {
                Ok(0) => break Ok(()),
                Ok(length) => {
                    hash.update(&buffer[..length]);
                    if size.saturating_add(length as u64) <= limit {
                        file.write_all(&buffer[..length]).map_err(failed("write", &path))?;
                    }
                    size += length as u64;
                }
                Err(error) => break Err(error),
            }
        };
        let sum = hex::encode(hash.finalize());
        let name = format!("binaries/{sum}");
        let known = self.files.iter().any(|file| file.path == name);
        if whole.is_err() || known || size > limit {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        if let Err(error) = whole {
            self.note(format!("{what}: {error} after {size} bytes"));
            return Ok(None);
        }
        if known {
            return Ok(Some(sum));
        }
        if size > limit {
            self.note(format!("{name}: {size} bytes are above the limit, only the hash is kept"));
            return Ok(Some(sum));
        }
        file.sync_data().map_err(failed("sync", &path))?;
        fs::rename(&path, self.part.join(&name)).map_err(failed("name", &path))?;
        self.left -= size;
        self.files.push(Entry { path: name, size, sha256: sum.clone() });
        Ok(Some(sum))
    }

    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }

    /// Writes the manifest and puts the bundle in its place.
    pub(super) fn finish(self, action: &str, target: &str, boot: &str) -> Result<Outputs, ActionFailure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let manifest = Manifest {
            action: action.to_owned(),
            target: target.to_owned(),
            boot_id: boot.to_owned(),
            captured_unix_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            files: self.files,
            incomplete: self.notes,
        };
        let path = self.part.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| failed("encode", &path)(io::Error::other(error)))?;
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed("create", &path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed("write", &path))?;
        fs::rename(&self.part, &self.folder).map_err(failed("put in place", &self.folder))?;
        let above = self.folder.parent().unwrap_or(Path::new("/"));
        File::open(above).and_then(|dir| dir.sync_all()).map_err(failed("sync", above))?;
        Ok(outputs(&self.folder, &text, &manifest))
    }
}

fn read(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn create(path: &Path) -> Result<File, ActionFailure> {
    if let Some(above) = path.parent() {
        make_dir(above)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(failed("create", path))
}

/// Outputs of a bundle that is in place; `None` when there is none.
pub(super) fn summary(folder: &Path) -> Result<Option<Outputs>, ActionFailure> {
    match read_manifest(folder) {
        Ok((text, manifest)) => Ok(Some(outputs(folder, &text, &manifest))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read the manifest in", folder)(error)),
    }
}

/// Hashes everything again; `None` when all of it is as it was taken, else what is not.
pub(super) fn check(folder: &Path, manifest_sha256: Option<&str>) -> Result<Option<String>, ActionFailure> {
    let (text, manifest) = match read_manifest(folder) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some("there is no bundle".into()));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Some(error.to_string())),
        Err(error) => return Err(failed("read the manifest in", folder)(error)),
    };
    if manifest_sha256.is_some_and(|expected| expected != hex::encode(Sha256::digest(&text))) {
        return Ok(Some("the manifest is not the one that was written".into()));
    }
    for entry in &manifest.files {
        let path = folder.join(&entry.path);
        match File::open(&path).and_then(|file| attributes::hash(&file)) {
            Ok(sum) if sum == entry.sha256 => {}
            Ok(_) => return Ok(Some(format!("{} was changed", entry.path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(format!("{} is missing", entry.path)));
            }
            Err(error) => return Err(failed("hash", &path)(error)),
        }
    }
    Ok(None)
}

/// Removes what an interrupted capture left.
pub(super) fn discard_part(folder: &Path) -> Result<(), ActionFailure> {
    let part = part_of(folder);
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &part)(error)),
        _ => Ok(()),
    }
}

/// Bytes of all files below a folder.
pub(super) fn used(folder: &Path) -> Result<u64, ActionFailure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let mut sum = 0;
    for entry in entries {
        let entry = entry.map_err(failed("list", folder))?;
        let meta = entry.metadata().map_err(failed("look at", &entry.path()))?;
        sum += if meta.is_dir() { used(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

fn read_manifest(folder: &Path) -> io::Result<(Vec<u8>, Manifest)> {
    let mut text = Vec::new();
    File::open(folder.join(MANIFEST))?.take(MAX_MANIFEST).read_to_end(&mut text)?;
    let manifest =
        serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((text, manifest))
}

fn outputs(folder: &Path, manifest_text: &[u8], manifest: &Manifest) -> Outputs {
    Outputs::from([
        ("path".to_owned(), json!(folder.display().to_string())),
        ("manifest_sha256".to_owned(), json!(hex::encode(Sha256::digest(manifest_text)))),
        ("files".to_owned(), json!(manifest.files.len())),
        ("bytes".to_owned(), json!(manifest.files.iter().map(|file| file.size).sum::<u64>())),
        ("incomplete".to_owned(), json!(manifest.incomplete.len())),
    ])
}

fn part_of(folder: &Path) -> PathBuf {
    folder.with_extension("part")
}

fn make_dir(path: &Path) -> Result<(), ActionFailure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

fn failed(operation: &str, path: &Path) -> impl FnOnce(io::Error) -> ActionFailure {
    let (operation, path) = (operation.to_owned(), path.display().to_string());
    move |error| ActionFailure::io(&operation, path, &error)
}
