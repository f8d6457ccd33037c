//! Whether evidence is whole: its manifest is there, and every file that it names has the hash that it says.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::stage::Stage;

impl Stage {
    /// Of the node, and of the cluster.
    pub(crate) fn evidence_is_whole(&self, incident: &Value) -> Result<bool> {
        let actions = self.actions(incident)?;
        for (step, below) in [("evidence", "agent"), ("manifest", "kubelet/pods")] {
            let action = actions
                .iter()
                .find(|one| one["spec"]["plan"]["step"] == step)
                .with_context(|| format!("no action of the step {step}"))?;
            let id = action["metadata"]["annotations"]["hemostat.dev/action"]
                .as_str()
                .context("an action without its id")?;
            let manifests = manifests(&self.cluster.state().join(below), 8)?;
            let mut whole = false;
            for path in &manifests {
                whole = whole || holds(path, id)?;
            }
            ensure!(whole, "no manifest of {id} ({step}) whose files are whole, among {manifests:?}");
        }
        Ok(true)
    }
}

/// Whether it is the manifest of this action and what it lists is there.
fn holds(manifest: &Path, action: &str) -> Result<bool> {
    let text = fs::read(manifest).with_context(|| format!("read {}", manifest.display()))?;
    let Ok(manifest_says) = serde_json::from_slice::<Value>(&text) else { return Ok(false) };
    if manifest_says["action"] != action {
        return Ok(false);
    }
    let folder = manifest.parent().context("a manifest has a folder")?;
    let files = manifest_says["files"].as_array().context("a manifest lists files")?;
    for file in files {
        // The node calls it a path, the controller a name.
        let name = file["path"].as_str().or_else(|| file["name"].as_str()).context("a file has a name")?;
        let bytes = fs::read(folder.join(name)).with_context(|| format!("read {name} of the evidence"))?;
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let said = file["sha256"].as_str().unwrap_or_default();
        if said.strip_prefix("sha256:").unwrap_or(said) != sum {
            return Ok(false);
        }
    }
    Ok(!files.is_empty())
}

/// Every manifest.json below a folder, at most so deep.
fn manifests(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let kind = entry.file_type().context("look at a file")?;
        if kind.is_dir() && depth > 0 {
            found.extend(manifests(&entry.path(), depth - 1)?);
        } else if entry.file_name() == "manifest.json" {
            found.push(entry.path());
        }
    }
    Ok(found)
}
