//! A hundred incidents at once, in several namespaces: each is handled once, none of the namespaces starves, and beyond the limit of what
//! may be done by itself people are asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::demo::cluster::stage::{NAMESPACE, Stage, deployment, name, pods};

const SPACES: usize = 5;
const PODS: u32 = 20;
/// Runs that may begin by themselves in each namespace: no namespace takes what is another's.
const SHARE: u64 = 8;
/// Where the pods wait until all may begin.
const GATE: u16 = 4444;

pub(super) fn prove(stage: &Stage) -> Result<()> {
    let spaces: Vec<String> = (0..SPACES).map(|number| format!("team-{number}")).collect();
    let result = play(stage, &spaces);
    for space in &spaces {
        // The finalizers of what is in force are lifted first, or the namespaces would wait for it.
        let _judged =
            stage.kubectl.ask(&["delete", "deployment", "work", "--namespace", space, "--wait=false"]);
    }
    let _gone = stage.kubectl.ask(&["delete", "responsepolicy", "storm", "--namespace", NAMESPACE]);
    result
}

fn play(stage: &Stage, spaces: &[String]) -> Result<()> {
    stage.kubectl.apply(&json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponsePolicy",
        "metadata": {"name": "storm", "namespace": NAMESPACE}, "spec": {
            // What the playbook does must be allowed, or it asks before any budget is looked at.
            "widest": "Namespace", "budgets": {"runsPerHourAndNamespace": SHARE},
            // One image in so many namespaces, and so many targets, would look like planned work, and ask before a budget does.
            "gate": {"targets": 4 * SPACES * PODS as usize, "namespaces": 4 * SPACES}}}))?;
    let gate = json!(["/bin/nc", "-ll", "-p", GATE.to_string(), "-e", "/bin/sleep", "100000"]);
    stage.kubectl.apply(&deployment("default", "gate", 1, gate))?;
    stage.kubectl.ask(&["rollout", "status", "deployment/gate", "--timeout=60s"])?;
    let gate = pods(&stage.kubectl, "default", "app=gate")?.pop().context("there is no gate")?;
    // What the rule looks for must not stand in the waiting shell's own command line; and it burns nothing, since a hundred would burn all.
    let script = format!(
        "/bin/nc {} {GATE} < /dev/null > /dev/null; u=stratum; exec /bin/sh -c 'while :; do sleep 60; done' miner \"$u+tcp://pool.example:3333\"",
        gate.address
    );
    for space in spaces {
        stage
            .kubectl
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}))?;
        stage.kubectl.apply(&deployment(space, "work", PODS, json!(["/bin/sh", "-c", script])))?;
    }
    for space in spaces {
        stage.kubectl.ask(&[
            "rollout",
            "status",
            "deployment/work",
            "--namespace",
            space,
            "--timeout=240s",
        ])?;
    }
    let known: BTreeSet<String> = incidents(stage)?.iter().map(|one| name(one).to_owned()).collect();
    let begun = Instant::now();
    stage.kubectl.ask(&["delete", "pod", &gate.name, "--grace-period=0", "--force"])?;
    let all = SPACES * PODS as usize;
    let mut storm: Vec<Value> = Vec::new();
    stage
        .wait("every incident is answered", || {
            // The API server has enough to do.
            std::thread::sleep(Duration::from_secs(1));
            storm = incidents(stage)?.into_iter().filter(|one| !known.contains(name(one))).collect();
            let answered =
                |one: &Value| one["status"]["runs"].as_array().is_some_and(|runs| !runs.is_empty());
            Ok(storm.len() >= all && storm.iter().all(answered))
        })
        .with_context(|| format!("{} incidents of {all}", storm.len()))?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(storm.len() == all, "{} incidents of {all} attacks", storm.len());
    let mut by_space: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for one in &storm {
        let runs = one["status"]["runs"].as_array().map_or(0, Vec::len);
        ensure!(runs == 1, "{} was handled {runs} times", name(one));
        let space = one["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let (done, asked) = by_space.entry(space).or_default();
        if asks(one) { *asked += 1 } else { *done += 1 }
    }
    eprintln!("    answered after {took:.1} s; by themselves and asked, by namespace: {by_space:?}");
    ensure!(by_space.len() == SPACES, "incidents are not in their namespaces: {by_space:?}");
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for run in storm.iter().flat_map(|one| one["status"]["runs"].as_array().into_iter().flatten()) {
        *reasons.entry(run["because"].as_str().unwrap_or("nothing").to_owned()).or_default() += 1;
    }
    let mut reasons: Vec<(String, u64)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (because, count) in reasons.iter().take(5) {
        eprintln!("    {count} because {because}");
    }
    ensure!(
        by_space.values().all(|of| *of == (SHARE, u64::from(PODS) - SHARE)),
        "{SHARE} in each namespace were to be done, the others asked about: {by_space:?}"
    );
    for one in &storm {
        stage.judge(one)?;
    }
    stage.wait("all is rolled back", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = incidents(stage)?;
        let of_storm = now.iter().filter(|one| !known.contains(name(one)));
        Ok(of_storm.into_iter().all(|one| {
            matches!(one["status"]["state"].as_str(), Some("RolledBack" | "Closed" | "Open" | "Failed"))
        }))
    })
}

fn incidents(stage: &Stage) -> Result<Vec<Value>> {
    let all = stage.kubectl.ask_json(&["get", "incidents", "--all-namespaces"])?;
    Ok(all["items"].as_array().cloned().unwrap_or_default())
}

/// Whether a person was asked before anything began.
fn asks(incident: &Value) -> bool {
    let used_up = format!("{SHARE} of {SHARE} automatic runs this hour");
    incident["status"]["runs"].as_array().into_iter().flatten().any(|run| {
        run["because"].as_str().is_some_and(|because| because.contains(&used_up))
            && run["state"] == "Waiting"
            && incident["status"]["state"] == "NeedsApproval"
            && incident["status"]["contained"].is_null()
    })
}
