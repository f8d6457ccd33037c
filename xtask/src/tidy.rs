//! The repository's own rules as a check: which crate may use which, how long a file may be, which names are forbidden, whether
//! links in the docs lead somewhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::progress::{output, root, say};

/// The arrows between our crates: from, to. Nothing else may point at anything (docs/architecture.md).
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("agent-abi", &[]),
    ("detect", &["model"]),
    ("enrich", &["model"]),
    ("crds", &["model"]),
    ("wire", &["model"]),
    ("narrate", &["model"]),
    ("respond", &["crds", "model"]),
    ("agent", &["agent-abi", "detect", "wire", "model"]),
    ("act", &["wire", "model"]),
    ("controller", &["act", "detect", "enrich", "narrate", "respond", "wire", "crds", "model"]),
    ("cli", &["agent", "controller", "detect", "enrich", "narrate", "respond", "wire", "crds", "model"]),
    ("node-tests", &["agent", "agent-abi", "detect", "model"]),
    ("e2e-tests", &["agent", "controller", "detect", "respond", "wire", "crds", "model"]),
    ("standins", &[]),
    ("workloads", &[]),
    ("fuzzing", &[]),
    ("cluster-tests", &["act", "controller", "model", "respond"]),
    ("xtask", &[]),
];

/// Crates that must stay pure: nothing that does I/O below them.
const PURE: &[&str] = &["model", "detect", "enrich", "crds", "respond", "narrate"];
const IMPURE_DEPENDENCIES: &[&str] =
    &["tokio", "mio", "hyper", "kube-client", "aya", "redb", "rustix", "axum", "tonic"];

/// What their sources must not name: time and facts come in as values.
const IMPURE_NAMES: &[&str] = &[
    "SystemTime",
    "Instant::now",
    "std::fs",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "std::env",
];

/// A file above this needs its reason in its first lines, as `//! Long because …`.
const LONGEST: usize = 600;
const FORBIDDEN_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

pub(crate) fn run() -> Result<()> {
    let files = tracked_files()?;
    let mut wrong = Vec::new();
    check_arrows(&mut wrong)?;
    for file in &files {
        check_name(file, &mut wrong);
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => check_source(file, &mut wrong)?,
            Some("md") => check_links(file, &mut wrong)?,
            _ => {}
        }
    }
    if wrong.is_empty() {
        say(format!("tidy: {} files, nothing wrong", files.len()));
        return Ok(());
    }
    for line in &wrong {
        eprintln!("tidy: {line}");
    }
    bail!("tidy: {} things wrong", wrong.len())
}

fn tracked_files() -> Result<Vec<PathBuf>> {
    let listing = std::process::Command::new("git")
        .current_dir(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("list files with git")?;
    Ok(String::from_utf8_lossy(&listing.stdout)
        .lines()
        .map(PathBuf::from)
        .filter(|file| root().join(file).exists())
        .collect())
}

/// Compares the workspace's dependencies on itself with the list, by cargo's own metadata.
fn check_arrows(wrong: &mut Vec<String>) -> Result<()> {
    let manifest = root().join("Cargo.toml");
    let manifest = manifest.to_str().context("the repository's path is not UTF-8")?;
    let metadata =
        output("cargo", &["metadata", "--format-version", "1", "--no-deps", "--manifest-path", manifest])
            .context("read cargo's metadata")?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("parse cargo's metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = short(package["name"].as_str().unwrap_or_default());
        let Some(targets) = allowed.get(name) else {
            wrong.push(format!(
                "crate {name} is not in the list of arrows (xtask/src/tidy.rs, docs/architecture.md)"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let dev = dependency["kind"].as_str() == Some("dev");
            if dependency["path"].is_string() && !dev && !targets.contains(&short(to)) {
                wrong.push(format!("arrow {name} → {} is not allowed", short(to)));
            }
            if PURE.contains(&name) && !dev && IMPURE_DEPENDENCIES.contains(&to) {
                wrong.push(format!("{name} must stay pure and depends on {to}"));
            }
        }
    }
    Ok(())
}

fn short(package: &str) -> &str {
    match package {
        "hemostat" => "cli",
        other => other.strip_prefix("hemostat-").unwrap_or(other),
    }
}

fn check_name(file: &Path, wrong: &mut Vec<String>) {
    for part in file.iter().filter_map(|part| part.to_str()) {
        let stem = part.split('.').next().unwrap_or(part);
        if FORBIDDEN_NAMES.contains(&stem) {
            wrong.push(format!("{}: `{stem}` says nothing of what is inside", file.display()));
        }
    }
}

fn check_source(file: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root().join(file)).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().count();
    if lines > LONGEST && !text.lines().take(12).any(|line| line.starts_with("//! Long because")) {
        wrong.push(format!(
            "{}: {lines} lines; split it, or say why at its top (`//! Long because …`)",
            file.display()
        ));
    }
    let pure = pure_source(file);
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or(line);
        for impure in IMPURE_NAMES.iter().filter(|name| pure && code.contains(**name)) {
            wrong.push(format!("{}:{}: {impure} in a crate that must stay pure", file.display(), index + 1));
        }
        for forbidden in ["#[allow(", "#![allow(", "todo!(", "unimplemented!(", "unbounded_channel("] {
            // right after a quotation mark it is a text about it
            let at = code.find(forbidden).and_then(|at| code.get(..at));
            if at.is_some_and(|before| !before.ends_with('"')) {
                wrong.push(format!("{}:{}: {forbidden}…)", file.display(), index + 1));
            }
        }
    }
    Ok(())
}

/// Whether a file is part of what a pure crate ships: its tests may look at files.
fn pure_source(file: &Path) -> bool {
    let mut parts = file.iter().filter_map(|part| part.to_str());
    let shipped = parts.next().is_some_and(|first| PURE.contains(&first)) && parts.next() == Some("src");
    shipped && !parts.any(|part| part.contains("test"))
}

/// Every relative link of a page leads to a file of the repository.
fn check_links(file: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root().join(file)).with_context(|| format!("read {}", file.display()))?;
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    for (index, line) in text.lines().enumerate() {
        // What stands in backticks is code, a pattern for example, and no link.
        let prose: String = line.split('`').step_by(2).collect();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or(link);
            if path.is_empty() || path.contains("://") || path.contains(' ') {
                continue;
            }
            if !root().join(folder).join(path).exists() {
                wrong.push(format!("{}:{}: link to {path} leads nowhere", file.display(), index + 1));
            }
        }
    }
    Ok(())
}
