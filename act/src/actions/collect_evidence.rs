//! `cluster.collect-evidence`: a pod's manifest, its events and its containers' logs, in a folder with a manifest of hashes. Changes
//! nothing.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use model::{ActionFailure, ClusterState, CollectEvidence, Outputs, short_hash};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    api::escape,
    job::{Job, Look},
    permissions::{Rule, rule},
};

/// Bytes of one log, at most (I11).
const MAX_LOG: usize = 16 << 20;
/// Containers of a pod whose logs are taken, at most (I11).
const MAX_CONTAINERS: usize = 64;
const MANIFEST: &str = "manifest.json";

pub(super) fn permissions() -> Vec<Rule> {
    vec![rule("", &["pods"], &["get"]), rule("", &["pods/log"], &["get"]), rule("", &["events"], &["list"])]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    job.read_a(&["Pod"]).await?;
    Ok(ClusterState::default())
}

pub(super) async fn apply(job: &Job<'_>, with: &CollectEvidence) -> Result<Outputs, ActionFailure> {
    let folder = folder(job);
    if !folder.join(MANIFEST).exists() {
        collect(job, with, &folder).await?;
    }
    let digest = digest_of(&folder.join(MANIFEST)).map_err(|e| failed(&folder, &e))?;
    Ok(Outputs::from([
        ("bundle".to_owned(), json!(folder.display().to_string())),
        ("manifest_sha256".to_owned(), json!(digest)),
    ]))
}

/// Every file is still what the manifest says.
pub(super) fn verify(job: &Job<'_>) -> Result<Look, ActionFailure> {
    let folder = folder(job);
    let text = match fs::read_to_string(folder.join(MANIFEST)) {
        Ok(text) => text,
        Err(error) => return Ok(Look::Missing(format!("{}: {error}", folder.display()))),
    };
    let manifest: Value = serde_json::from_str(&text).unwrap_or_default();
    for file in manifest["files"].as_array().into_iter().flatten() {
        let name = file["name"].as_str().unwrap_or_default();
        let found = digest_of(&folder.join(name)).unwrap_or_default();
        if file["sha256"] != found.as_str() {
            return Ok(Look::Missing(format!("{name} is not what the manifest says")));
        }
    }
    Ok(Look::InForce)
}

/// Into a folder beside, which takes its name once all is in it and on the disk.
async fn collect(job: &Job<'_>, with: &CollectEvidence, folder: &Path) -> Result<(), ActionFailure> {
    let (object, pod) = job.read_a(&["Pod"]).await?;
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut incomplete: Vec<String> = Vec::new();
    let pretty = |value: &Value| serde_json::to_vec_pretty(value).unwrap_or_default();
    files.push(("pod.json".into(), pretty(&pod)));
    let about = format!("fieldSelector={}", escape(&format!("involvedObject.uid={}", object.uid)));
    match job.api.list("v1", "Event", object.namespace.as_deref(), &about).await {
        Ok(events) => files.push(("events.json".into(), pretty(&Value::Array(events)))),
        Err(fault) => incomplete.push(format!("events: {fault}")),
    }
    let all = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .take(MAX_CONTAINERS);
    for container in all {
        for (previous, suffix) in [("false", ""), ("true", ".previous")] {
            let query = format!(
                "container={}&previous={previous}&timestamps=true&tailLines={}&limitBytes={MAX_LOG}",
                escape(container),
                with.lines
            );
            match job.api.text_below(&object, "log", &query).await {
                Ok(log) => files.push((format!("{container}{suffix}.log"), log.into_bytes())),
                // A container that never restarted has no earlier log.
                Err(_) if previous == "true" => {}
                Err(fault) => incomplete.push(format!("log of {container}: {fault}")),
            }
        }
    }
    let listed: Vec<Value> = files
        .iter()
        .map(|(name, bytes)| json!({"name": name, "bytes": bytes.len(), "sha256": digest(bytes)}))
        .collect();
    let manifest = json!({
        "incident": job.incident, "action": job.id, "pod": object, "collected": (job.config.clock)(),
        "files": listed, "incomplete": incomplete,
    });
    files.push((MANIFEST.into(), pretty(&manifest)));
    write(folder, &files).map_err(|error| failed(folder, &error))
}

fn write(folder: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    let beside = folder.with_extension("part");
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
    fs::rename(&beside, folder)?;
    folder.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

/// Names in a pod are DNS labels, so they are sound as file names; the folder's is a hash.
fn folder(job: &Job<'_>) -> PathBuf {
    job.config.evidence.join(format!("pod-{}", short_hash([job.id.as_str()], 8)))
}

fn digest_of(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| digest(&bytes))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn failed(folder: &Path, error: &io::Error) -> ActionFailure {
    ActionFailure::io("keep evidence", folder.display(), error)
}
