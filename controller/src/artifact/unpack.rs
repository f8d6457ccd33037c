//! Layers to rule files, in memory: nothing of an archive is ever written under the names that it gives.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::manifest::Form;

/// Bytes of all files of an artifact, at most (I11): five times what 3,000 public rules have.
const MAX_UNPACKED: u64 = 32 << 20;
/// Bytes that an archive's headers and padding may have beside.
const MAX_AROUND: u64 = 16 << 20;
/// Files of rules, at most (I11).
const MAX_FILES: usize = 8192;
/// Entries of archives, whatever they are (I11).
const MAX_ENTRIES: usize = 65_536;
/// Characters of a file's path, at most: it stands in statuses.
const MAX_PATH: usize = 255;

/// Rule files by name, in the order of their names.
pub(super) type Files = Vec<(String, String)>;

/// What unpacking has taken so far.
pub(super) struct Unpacking {
    files: BTreeMap<String, String>,
    bytes: u64,
    entries: usize,
    limit: u64,
}

impl Default for Unpacking {
    fn default() -> Self {
        Self { files: BTreeMap::new(), bytes: 0, entries: 0, limit: MAX_UNPACKED }
    }
}

impl Unpacking {
    #[cfg(test)]
    pub(super) fn of_at_most(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Takes in one layer, whose bytes are what its digest says.
    pub(super) fn layer(&mut self, form: &Form, bytes: &[u8]) -> Result<(), String> {
        match form {
            Form::Tar => self.archive(bytes),
            Form::TarGzip => self.archive(MultiGzDecoder::new(bytes)),
            Form::File(name) => {
                let name = sound_path(name)?;
                self.file(&name, bytes)
            }
        }
    }

    /// The files.
    pub(super) fn done(self) -> Result<Files, String> {
        if self.files.is_empty() {
            return Err("there is no file *.yml or *.yaml in it".into());
        }
        Ok(self.files.into_iter().collect())
    }

    fn archive(&mut self, from: impl Read) -> Result<(), String> {
        // Ends with an error and not silently: a bomb must not look like a short archive.
        let mut archive = Archive::new(Ending { from, left: self.limit - self.bytes + MAX_AROUND });
        for entry in archive.entries().map_err(|error| broken(&error))? {
            let entry = entry.map_err(|error| broken(&error))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(format!("it has more than {MAX_ENTRIES} entries"));
            }
            let kind = entry.header().entry_type();
            // What `git archive` puts in front.
            if kind == EntryType::XGlobalHeader {
                continue;
            }
            let path = entry.path_bytes();
            let path = std::str::from_utf8(&path).map_err(|_| "a name in it is no UTF-8".to_owned())?;
            let path = path.strip_prefix("./").unwrap_or(path).trim_end_matches('/').to_owned();
            if kind == EntryType::Directory && (path.is_empty() || path == ".") {
                continue;
            }
            let path = sound_path(&path)?;
            match kind {
                EntryType::Directory => continue,
                EntryType::Regular | EntryType::Continuous => {}
                EntryType::Symlink | EntryType::Link => return Err(format!("{path}: it is a link")),
                other => return Err(format!("{path}: it is no file (type {other:?})")),
            }
            if !is_rules(&path) {
                continue;
            }
            let left = self.limit - self.bytes;
            let most = left.min(detect::limits::FILE_BYTES as u64);
            let mut bytes = Vec::new();
            entry.take(most + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
            self.file(&path, &bytes)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), String> {
        let most = detect::limits::FILE_BYTES;
        if bytes.len() > most {
            return Err(format!("{path}: it is longer than {most} bytes"));
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limit {
            return Err(format!("its files are longer than {} bytes", self.limit));
        }
        if self.files.len() == MAX_FILES {
            return Err(format!("it has more than {MAX_FILES} files of rules"));
        }
        // One that is no UTF-8 is still looked at: the front end says where it is broken.
        let text = String::from_utf8_lossy(bytes).into_owned();
        if self.files.insert(path.to_owned(), text).is_some() {
            return Err(format!("{path}: it is there twice"));
        }
        Ok(())
    }
}

/// A reader that fails where more comes than is allowed.
struct Ending<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "it unpacks to more than is allowed",
                ));
            }
        }
        Ok(n)
    }
}

/// A relative path that stays where it is, without what a terminal or a reader could be deceived by.
fn sound_path(path: &str) -> Result<String, String> {
    let shown = || crds::cut(&path.escape_debug().to_string(), 128);
    if path.is_empty() || path.len() > MAX_PATH {
        return Err(format!("{}: a path has from 1 to {MAX_PATH} characters", shown()));
    }
    if path.starts_with('/') || path.contains('\\') || path.chars().any(char::is_control) {
        return Err(format!("{}: it is no relative path", shown()));
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("{}: it leads out of the archive", shown()));
    }
    Ok(path.to_owned())
}

/// Rules, as in a folder: hidden files and tests, which stand beside what they test, are left out.
fn is_rules(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let yaml = name.ends_with(".yml") || name.ends_with(".yaml");
    let test = name.ends_with(".test.yaml") || name.ends_with(".test.yml") || name.ends_with("_test.yaml");
    yaml && !test && !name.starts_with('.')
}

fn broken(error: &io::Error) -> String {
    format!("it cannot be unpacked: {error}")
}
