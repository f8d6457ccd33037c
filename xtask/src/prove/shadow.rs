//! I8 on a real cluster: over a whole playbook in shadow, the API server's audit log holds no write of ours but our own records.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::demo::cluster::stage::{NAMESPACE, Stage, name};

/// What we write for ourselves: group (empty: core), resource.
const OWN: [(&str, &str); 13] = [
    ("hemostat.dev", "incidents"),
    ("hemostat.dev", "responseactions"),
    ("hemostat.dev", "approvals"),
    ("hemostat.dev", "narratives"),
    ("hemostat.dev", "playbooks"),
    ("hemostat.dev", "rulesets"),
    ("hemostat.dev", "responsepolicies"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("discovery.k8s.io", "endpointslices"),
    ("", "events"),
    // Questions that have to be written down to be asked.
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];

pub(super) fn prove(stage: &Stage) -> Result<()> {
    set_mode(stage, "Shadow")?;
    let before = audited(stage)?.len();
    let miner = stage.mine()?;
    let mut incident = Value::Null;
    stage.wait("the playbook ran in shadow", || {
        let Some(found) = stage.incident()? else { return Ok(false) };
        let ran = found["status"]["runs"].as_array().is_some_and(|runs| !runs.is_empty());
        incident = found;
        Ok(ran)
    })?;
    // Its last word, too: an Event about it comes after its status.
    stage.wait("the incident is at rest", || {
        let first = stage.fresh(&incident)?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        Ok(first["metadata"]["resourceVersion"] == stage.fresh(&incident)?["metadata"]["resourceVersion"])
    })?;
    let actions = stage.actions(&incident)?;
    ensure!(actions.is_empty(), "something was done in shadow: {actions:?}");
    let runs = incident["status"]["runs"].to_string();
    ensure!(runs.to_lowercase().contains("shadow"), "its status does not speak of shadow: {runs}");
    let written: Vec<Value> = audited(stage)?.split_off(before);
    let (mut ours, mut others) = (0, Vec::new());
    for entry in written.iter().filter(|entry| is_write(entry)) {
        let user = entry["user"]["username"].as_str().unwrap_or_default();
        if !user.starts_with(&format!("system:serviceaccount:{NAMESPACE}:")) {
            continue;
        }
        let of = &entry["objectRef"];
        let text = |key: &str| of[key].as_str().unwrap_or_default();
        ours += 1;
        // What nodes reported is kept before it is acknowledged to them, whatever the playbook's mode.
        let reports = text("resource") == "secrets"
            && text("namespace") == NAMESPACE
            && text("name").starts_with("hemostat-reports-");
        if !reports && !OWN.contains(&(text("apiGroup"), text("resource"))) {
            others.push(format!(
                "{} {} {}/{}",
                text("apiGroup"),
                entry["verb"],
                text("resource"),
                text("name")
            ));
        }
    }
    ensure!(ours > 0, "the audit log does not tell of our own records: it shows nothing");
    ensure!(others.is_empty(), "writes in shadow beside our own records: {others:?}");
    ensure!(stage.is_open(&stage.victim)?, "traffic is not open in shadow");
    miner.end(stage)?;
    stage.judge(&incident).with_context(|| format!("judge {}", name(&incident)))?;
    set_mode(stage, "Auto")
}

/// Requests that changed something, or would.
fn is_write(entry: &Value) -> bool {
    matches!(entry["verb"].as_str(), Some("create" | "update" | "patch" | "delete" | "deletecollection"))
}

fn audited(stage: &Stage) -> Result<Vec<Value>> {
    let path = stage.cluster.state().join("audit.log");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A playbook's mode, once it is in force.
fn set_mode(stage: &Stage, mode: &str) -> Result<()> {
    let patch = json!({"spec": {"mode": mode}}).to_string();
    let book = "cryptominer-in-pod";
    stage.kubectl.ask(&["patch", "playbook", book, "--type=merge", "--patch", &patch])?;
    stage.wait("the playbook's mode is in force", || {
        let now = stage.kubectl.ask_json(&["get", "playbook", book])?;
        let generation = &now["metadata"]["generation"];
        let accepted = now["status"]["observedGeneration"] == *generation
            || now["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .all(|about| about["observedGeneration"] == *generation);
        // Nodes are told at once, over their link; which of their rules may act is a part of that.
        Ok(accepted)
    })
}
