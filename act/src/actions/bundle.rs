//! A folder of files with a manifest of their hashes: evidence and reports. It is there whole or not at all.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use model::{ActionFailure, Outputs, short_hash};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::job::{Job, Look};

const MANIFEST: &str = "manifest.json";

/// Files of one action.
pub(super) struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    /// The one of this action; its folder's name is a hash.
    pub(super) fn of(job: &Job<'_>, kind: &str) -> Self {
        Self { folder: job.config.evidence.join(format!("{kind}-{}", short_hash([job.id.as_str()], 8))) }
    }

    pub(super) fn is_there(&self) -> bool {
        self.folder.join(MANIFEST).exists()
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, ActionFailure> {
        fs::read(self.folder.join(name)).map_err(|error| self.failed(&error))
    }

    pub(super) fn outputs(&self) -> Result<Outputs, ActionFailure> {
        let digest = digest_of(&self.folder.join(MANIFEST)).map_err(|error| self.failed(&error))?;
        Ok(Outputs::from([
            ("bundle".to_owned(), json!(self.folder.display().to_string())),
            ("manifest_sha256".to_owned(), json!(digest)),
        ]))
    }

    /// Into a folder beside, which takes its name once all is in it and on the disk. `about` is what the manifest says besides.
    pub(super) fn write(&self, mut files: Vec<(String, Vec<u8>)>, about: Value) -> Result<(), ActionFailure> {
        let listed: Vec<Value> = files
            .iter()
            .map(|(name, bytes)| json!({"name": name, "bytes": bytes.len(), "sha256": digest(bytes)}))
            .collect();
        let mut manifest = about;
        manifest["files"] = json!(listed);
        files.push((MANIFEST.into(), pretty(&manifest)));
        self.place(&files).map_err(|error| self.failed(&error))
    }

    /// Every file is still what the manifest says.
    pub(super) fn verify(&self) -> Look {
        let text = match fs::read_to_string(self.folder.join(MANIFEST)) {
            Ok(text) => text,
            Err(error) => return Look::Missing(format!("{}: {error}", self.folder.display())),
        };
        let manifest: Value = serde_json::from_str(&text).unwrap_or_default();
        for file in manifest["files"].as_array().into_iter().flatten() {
            let name = file["name"].as_str().unwrap_or_default();
            let found = digest_of(&self.folder.join(name)).unwrap_or_default();
            if file["sha256"] != found.as_str() {
                return Look::Missing(format!("{name} is not what the manifest says"));
            }
        }
        Look::InForce
    }

    fn place(&self, files: &[(String, Vec<u8>)]) -> io::Result<()> {
        let beside = self.folder.with_extension("part");
        if beside.exists() {
            fs::remove_dir_all(&beside)?;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&beside)?;
        for (name, bytes) in files {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside.join(name))?;
            io::Write::write_all(&mut file, bytes)?;
            file.sync_all()?;
        }
        fs::rename(&beside, &self.folder)?;
        self.folder.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    }

    fn failed(&self, error: &io::Error) -> ActionFailure {
        ActionFailure::io("keep evidence", self.folder.display(), error)
    }
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

fn digest_of(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| digest(&bytes))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
