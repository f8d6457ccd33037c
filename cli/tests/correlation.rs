//! Standalone, whole: the kernel sees programs, the agent finds and folds, the controller in the same process counts in event time, and
//! a correlation becomes an incident; killed with SIGKILL in between, nothing is forgotten. Needs root and eBPF.
#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Ten runs of one program in ten minutes; one run alone says nothing.
const RULES: &str = "title: A Run of the Probe
id: probe-run
logsource: {product: linux, category: process_creation}
detection: {s: {Image|endswith: /hemostat-correlation-probe}, condition: s}
level: low
---
title: Many Runs of the Probe
id: probe-runs
correlation:
  type: event_count
  rules: [probe-run]
  group-by: [Image]
  timespan: 10m
  condition: {gte: 10}
level: high
";

/// A `hemostat standalone`, ended at the end whatever happens.
struct Standalone(Child);

impl Drop for Standalone {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn hemostat(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hemostat"));
    command.arg("--socket").arg(dir.join("state/controller.sock"));
    command
}

fn ask(dir: &Path, words: &[&str]) -> Option<Value> {
    let output = hemostat(dir).args(["-o", "json"]).args(words).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

/// Started and watching; `None` where this machine does not let it, with its words.
fn start(dir: &Path) -> Result<Standalone, String> {
    let log = fs::File::create(dir.join("log")).unwrap();
    let mut child = Standalone(
        hemostat(dir)
            .args(["standalone", "--reactions", "off", "--rules"])
            .arg(dir.join("rules"))
            .arg("--playbooks")
            .arg(dir.join("playbooks"))
            .arg("--state")
            .arg(dir.join("state"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let log = fs::read_to_string(dir.join("log")).unwrap();
        if log.contains("watching this host") {
            return Ok(child);
        }
        if child.0.try_wait().unwrap().is_some() {
            return Err(log);
        }
        assert!(Instant::now() < deadline, "neither started nor ended: {log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run_probe(dir: &Path, times: usize) {
    for _ in 0..times {
        assert!(Command::new(dir.join("hemostat-correlation-probe")).status().unwrap().success());
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Hits that correlations have counted, as the metrics say.
fn counted(dir: &Path) -> Option<usize> {
    let output = Command::new("curl")
        .arg("-s")
        .arg("--unix-socket")
        .arg(dir.join("state/controller.sock"))
        .arg("http://h/metrics")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().find(|line| line.contains("correlation_hits{kind=\"seen\"}"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn programs_that_the_kernel_saw_become_a_correlated_incident_across_a_kill() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a correlation end to end: loading eBPF programs needs root");
        return;
    }
    if Command::new("curl").arg("--version").output().is_err() {
        println!("SKIPPED: a correlation end to end: curl is not there to read the metrics");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for folder in ["rules", "playbooks"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    fs::write(dir.join("rules/probe.yml"), RULES).unwrap();
    fs::copy("/bin/true", dir.join("hemostat-correlation-probe")).unwrap();
    let mut first = match start(dir) {
        Ok(child) => child,
        Err(log) => {
            println!("SKIPPED: a correlation end to end: standalone does not start here: {log}");
            return;
        }
    };
    run_probe(dir, 6);
    // The first as a finding, the others folded into it and told once a second.
    until("six runs are counted", || counted(dir).filter(|seen| *seen == 6));
    let list = ask(dir, &["incidents"]).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(0), "six say nothing: {list}");
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    drop(first);
    let _second = start(dir).unwrap_or_else(|log| panic!("it does not start again: {log}"));
    run_probe(dir, 4);
    let id = until("the tenth run makes it an incident", || {
        let list = ask(dir, &["incidents"])?;
        list[0]["id"].as_str().map(str::to_owned)
    });
    let shown = ask(dir, &["incidents", "show", &id]).unwrap();
    let findings = shown["findings"].as_array().unwrap();
    assert_eq!(shown["title"], "Many Runs of the Probe", "{shown}");
    assert_eq!(findings[0]["rule"]["id"], "probe-runs");
    assert_eq!(findings[0]["matched"]["value"], "10", "each run was counted once: {}", findings[0]);
    assert!(findings[1..].iter().all(|finding| finding["rule"]["id"] == "probe-run"), "{findings:#?}");
    let evidence: u64 = findings[1..].iter().map(|finding| finding["count"].as_u64().unwrap()).sum();
    assert_eq!(evidence, 10);
}
