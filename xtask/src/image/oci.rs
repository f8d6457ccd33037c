//! An OCI image layout in a tar archive (github.com/opencontainers/image-spec, image-layout.md), as `ctr images import`, `docker load`,
//! `skopeo` and `crane push` take it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cluster::tar::Tar;

/// No file is newer than the epoch: the same inputs give the same bytes.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Files and folders of one layer, by path in the image.
#[derive(Default)]
pub(super) struct Layer {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Folder(u32),
    File(u32, Vec<u8>),
}

impl Layer {
    pub(super) fn add_folder(&mut self, path: &str, mode: u32) {
        self.entries.insert(path.to_owned(), Entry::Folder(mode));
    }

    pub(super) fn add_text(&mut self, path: &str, text: &str) {
        self.entries.insert(path.to_owned(), Entry::File(0o644, text.as_bytes().to_vec()));
    }

    pub(super) fn add_file(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        // Follows links: what the loader names by one name is put there whole.
        let body = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.entries.insert(path.to_owned(), Entry::File(mode, body));
        Ok(())
    }

    /// All files below a folder.
    pub(super) fn add_tree(&mut self, path: &str, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
            let entry = entry.with_context(|| format!("list {}", from.display()))?;
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("a name in {} is no text", from.display()))?;
            let at = format!("{path}/{name}");
            if entry.path().is_dir() {
                self.add_tree(&at, &entry.path())?;
            } else {
                self.add_file(&at, 0o644, &entry.path())?;
            }
        }
        Ok(())
    }

    /// As a tar archive: folders before what is in them.
    fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::new(Vec::new());
        let mut made = BTreeSet::new();
        for (path, entry) in &self.entries {
            let name = path.trim_start_matches('/');
            if name.is_empty() || name.split('/').any(|part| part == "..") {
                bail!("{path} is no path in an image");
            }
            let mut above = String::new();
            let parts: Vec<&str> = name.split('/').collect();
            for part in &parts[..parts.len() - 1] {
                above = if above.is_empty() { (*part).to_owned() } else { format!("{above}/{part}") };
                if !self.entries.contains_key(&format!("/{above}")) && made.insert(above.clone()) {
                    tar.folder(&above, 0o755)?;
                }
            }
            match entry {
                Entry::Folder(mode) => tar.folder(name, *mode)?,
                Entry::File(mode, body) => tar.file(name, *mode, body)?,
            }
        }
        tar.finish()
    }
}

/// An image of some layers.
pub(super) struct Image<'a> {
    pub(super) name: String,
    pub(super) title: &'a str,
    pub(super) user: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) layers: Vec<&'a Layer>,
}

impl Image<'_> {
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        let layers =
            self.layers.iter().map(|layer| layer.tar().map(Blob::new)).collect::<Result<Vec<_>>>()?;
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let labels = json!({
            "org.opencontainers.image.title": self.title,
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": "Apache-2.0",
        });
        let history: Vec<Value> =
            layers.iter().map(|_| json!({"created": CREATED, "created_by": "cargo xtask image"})).collect();
        let config = Blob::of(&json!({
            "architecture": architecture,
            "os": "linux",
            "created": CREATED,
            "config": {
                "User": self.user,
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/bin"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        }));
        let described: Vec<Value> =
            layers.iter().map(|layer| layer.descriptor("application/vnd.oci.image.layer.v1.tar")).collect();
        let manifest = Blob::of(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": described,
        }));
        let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name.rsplit(':').next(),
        });
        entry["platform"] = json!({"architecture": architecture, "os": "linux"});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        // Docker's own list, which its older releases want.
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [self.name],
            "Layers": layers.iter().map(Blob::path).collect::<Vec<_>>(),
        }]);
        let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut archive = Tar::new(BufWriter::new(file));
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.file("index.json", 0o644, index.to_string().as_bytes())?;
        archive.file("manifest.json", 0o644, docker.to_string().as_bytes())?;
        archive.folder("blobs", 0o755)?;
        archive.folder("blobs/sha256", 0o755)?;
        let mut written = BTreeSet::new();
        for blob in layers.iter().chain([&config, &manifest]) {
            if written.insert(&blob.digest) {
                archive.file(&blob.path(), 0o644, &blob.body)?;
            }
        }
        archive.finish().map(|_file| ())
    }
}

struct Blob {
    body: Vec<u8>,
    digest: String,
}

impl Blob {
    fn new(body: Vec<u8>) -> Self {
        let digest = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self { digest: format!("sha256:{digest}"), body }
    }

    fn of(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.body.len()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(folder: &Path) -> Vec<u8> {
        let mut layer = Layer::default();
        layer.add_folder("/tmp", 0o1777);
        layer.add_text("/etc/passwd", "root:x:0:0::/:/\n");
        layer.add_text("/usr/share/x/y", "z");
        let to = folder.join("image.tar");
        let image = Image {
            name: "hemostat.dev/x:1".into(),
            title: "x",
            user: "65532".into(),
            entrypoint: vec!["/x".into()],
            layers: vec![&layer],
        };
        image.write(&to).unwrap();
        fs::read(to).unwrap()
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes_and_every_digest_is_right() {
        let folder = std::env::temp_dir().join(format!("hemostat-oci-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let bytes = archive(&folder);
        assert_eq!(bytes, archive(&folder));
        let list = |inner: &str| {
            let mut tar = std::process::Command::new("tar");
            tar.current_dir(&folder).args(["--extract", "--to-stdout", "--file", "image.tar", inner]);
            tar.output().unwrap().stdout
        };
        let index: Value = serde_json::from_slice(&list("index.json")).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let manifest = list(&format!("blobs/{}", digest.replace(':', "/")));
        assert_eq!(Blob::new(manifest.clone()).digest, digest);
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let digest = part["digest"].as_str().unwrap();
            let body = list(&format!("blobs/{}", digest.replace(':', "/")));
            assert_eq!(
                (Blob::new(body.clone()).digest.as_str(), body.len() as u64),
                (digest, part["size"].as_u64().unwrap())
            );
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
