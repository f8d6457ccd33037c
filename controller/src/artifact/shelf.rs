//! Artifacts on disk, so that a restart without the registry still has its rules: blobs by digest, and which RuleSet has which artifact in
//! force. What is read back is compared with its digest again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::{
    Fetched,
    manifest::{MAX_MANIFEST, MAX_STORED, layers},
    reference::{Digest, Reference},
    unpack::Unpacking,
};

/// The list's name in the folder.
const IN_FORCE: &str = "in-force.json";
/// RuleSets that are noted, at most (I11).
const MAX_NOTED: usize = 1024;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Which artifact each RuleSet had in force, by name; empty when there is no list that can be read.
    pub(super) fn noted(&self) -> BTreeMap<String, Reference> {
        let text = match read_bounded(&self.folder.join(IN_FORCE), MAX_MANIFEST as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
            Err(error) => {
                tracing::warn!(%error, "which artifacts were in force cannot be read; they are fetched again");
                return BTreeMap::new();
            }
        };
        let noted: BTreeMap<String, String> = serde_json::from_slice(&text).unwrap_or_default();
        noted.into_iter().filter_map(|(set, text)| Some((set, Reference::parse(&text).ok()?))).collect()
    }

    /// Writes the list, and removes what none of it needs.
    pub(super) fn note(&self, in_force: &BTreeMap<String, Reference>) -> io::Result<()> {
        let noted: BTreeMap<&String, String> =
            in_force.iter().take(MAX_NOTED).map(|(set, reference)| (set, reference.to_string())).collect();
        let text = serde_json::to_vec_pretty(&noted).map_err(io::Error::other)?;
        self.write(IN_FORCE, &text)?;
        let mut needed = BTreeSet::new();
        for reference in in_force.values() {
            needed.insert(reference.digest.digits().to_owned());
            let manifest = self.read(&reference.digest, MAX_MANIFEST as u64).unwrap_or_default();
            needed.extend(
                layers(&manifest).unwrap_or_default().iter().map(|one| one.digest.digits().to_owned()),
            );
        }
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != IN_FORCE && !needed.contains(&name) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Stores what was fetched.
    pub(super) fn put(&self, fetched: &Fetched) -> io::Result<()> {
        fetched.blobs.iter().try_for_each(|(digest, bytes)| self.write(digest.digits(), bytes))
    }

    /// An artifact, compared with its digests and unpacked; `None` where it is not whole.
    pub(super) fn get(&self, reference: &Reference) -> Option<Fetched> {
        let manifest = self.read(&reference.digest, MAX_MANIFEST as u64)?;
        let mut unpacking = Unpacking::default();
        let mut blobs = vec![(reference.digest.clone(), manifest.clone().into())];
        for layer in layers(&manifest).ok()? {
            let bytes = self.read(&layer.digest, MAX_STORED)?;
            unpacking.layer(&layer.form, &bytes).ok()?;
            blobs.push((layer.digest, bytes.into()));
        }
        Some(Fetched { files: unpacking.done().ok()?, blobs })
    }

    fn read(&self, digest: &Digest, limit: u64) -> Option<Vec<u8>> {
        let path = self.folder.join(digest.digits());
        match read_bounded(&path, limit) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Some(bytes),
            Ok(_) => {
                tracing::error!(path = %path.display(), "what is stored of an artifact was changed; it is not used");
                None
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "what is stored of an artifact cannot be read");
                }
                None
            }
        }
    }

    /// Beside, and renamed: what is cut off leaves nothing under the name.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let partial = self.folder.join(format!("{name}.partial"));
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()
    }
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
    }
    Ok(bytes)
}
