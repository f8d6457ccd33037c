//! An artifact's manifest: which layers it has, and of what form (image-spec 1.1, "manifest").

use serde::Deserialize;

use super::reference::Digest;

/// Media type of an image manifest, which is what an artifact is.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes of a manifest, at most (I11). Registries take 4 MiB; one that lists 32 layers has some 10 KB.
pub(super) const MAX_MANIFEST: usize = 1 << 20;
/// Layers of one artifact, at most (I11).
pub(super) const MAX_LAYERS: usize = 32;
/// Bytes of all layers as they are stored, at most (I11).
pub(super) const MAX_STORED: u64 = 16 << 20;

/// What a layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// An archive of rule files.
    Tar,
    /// The same, compressed.
    TarGzip,
    /// One rule file of this name.
    File(String),
}

/// A part of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    /// Bytes as stored.
    pub(super) size: u64,
    pub(super) form: Form,
}

/// Layer types that are understood, as the page of resources lists them.
const TARS: [&str; 2] = ["application/vnd.hemostat.rules.v1.tar", "application/vnd.oci.image.layer.v1.tar"];
const GZIPS: [&str; 3] = [
    "application/vnd.hemostat.rules.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.cncf.flux.content.v1.tar+gzip",
];
const FILE: &str = "application/vnd.hemostat.rule.v1+yaml";
/// The name of a single file (image-spec 1.1, "annotations").
const TITLE: &str = "org.opencontainers.image.title";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// The layers of a manifest whose bytes are what its digest says.
pub(super) fn layers(bytes: &[u8]) -> Result<Vec<Layer>, String> {
    let manifest: Written = serde_json::from_slice(bytes)
        .map_err(|error| format!("the manifest cannot be understood: {error}"))?;
    if let Some(other) = manifest.media_type.filter(|kind| kind != MANIFEST) {
        return Err(format!(
            "the digest is that of a {}: give the digest of an image manifest ({MANIFEST})",
            crds::cut(&other, 128)
        ));
    }
    let written = manifest.layers.ok_or("the manifest has no layers")?;
    if written.is_empty() || written.len() > MAX_LAYERS {
        return Err(format!("the manifest has {} layers; from 1 to {MAX_LAYERS} are read", written.len()));
    }
    let mut layers = Vec::new();
    let mut stored = 0_u64;
    for one in written {
        let digest = Digest::parse(&one.digest).ok_or_else(|| {
            format!("a layer's digest is {}: only sha256 is understood", crds::cut(&one.digest, 80))
        })?;
        let kind = one.media_type.as_str();
        let form = if TARS.contains(&kind) {
            Form::Tar
        } else if GZIPS.contains(&kind) {
            Form::TarGzip
        } else if kind == FILE {
            let name = one.annotations.get(TITLE).ok_or_else(|| format!("layer {digest} has no {TITLE}"))?;
            Form::File(name.clone())
        } else {
            return Err(format!(
                "layer {digest} is {}, which holds no rules: docs/resources.md lists the types",
                crds::cut(kind, 128)
            ));
        };
        stored = stored.saturating_add(one.size);
        if stored > MAX_STORED {
            return Err(format!(
                "the layers are longer than {MAX_STORED} bytes, which is all that is fetched"
            ));
        }
        layers.push(Layer { digest, size: one.size, form });
    }
    Ok(layers)
}
