//! A place for one `hemostat standalone`: the real program with folders and a socket of its own. Needs root and eBPF; bpffs is one of its own
//! in a mount namespace, so that no other agent's pins are met.

#![expect(
    dead_code,
    unreachable_pub,
    reason = "shared by several test binaries, each of which uses its own part"
)]

#[path = "../program/mod.rs"]
pub mod program;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// One of programs, one that needs the hook of connections.
pub const RULES: &str = "title: The Probe Ran
id: probe-ran
logsource: {product: linux, category: process_creation}
detection: {s: {Image|endswith: /hemostat-machine-probe}, condition: s}
level: high
---
title: A Connection to Nowhere
id: nowhere
logsource: {product: linux, category: network_connection}
detection: {s: {DestinationIp: 192.0.2.77}, condition: s}
level: high
";
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A place of its own for one `hemostat standalone`.
pub struct Place {
    pub dir: tempfile::TempDir,
    /// What the node may do by itself.
    pub reactions: &'static str,
    /// More words for it.
    pub more: Vec<String>,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), reactions: "off", more: Vec::new() };
        for folder in ["rules", "playbooks", "state"] {
            fs::create_dir(place.at(folder)).unwrap();
        }
        fs::write(place.at("rules/probe.yml"), RULES).unwrap();
        program::copy("/bin/true", &place.at("hemostat-machine-probe"));
        place
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The words that start it here, behind a script that runs in a mount namespace of its own with a bpffs of its own (so that no other
    /// agent's pins are met) and ends with running them.
    pub fn standalone(&self, script: &str) -> Command {
        let script =
            format!("set -e; if [ -d /sys/fs/bpf ]; then mount -t bpf bpf /sys/fs/bpf; fi; {script} \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.arg(env!("CARGO_BIN_EXE_hemostat")).arg("--socket").arg(self.at("control.sock"));
        command.args(["standalone", "--reactions", self.reactions, "--rules"]).arg(self.at("rules"));
        command.arg("--playbooks").arg(self.at("playbooks")).arg("--state").arg(self.at("state"));
        command.args(&self.more);
        command.env_remove("HEMOSTAT_SOCKET").env_remove("HEMOSTAT_STATE").env_remove("HEMOSTAT_LOG");
        command
    }

    /// Started and watching; what it said where it ended instead.
    pub fn start(&self, script: &str) -> Result<Standalone, String> {
        let said = self.at("log");
        let log = fs::File::create(&said).unwrap();
        let mut child =
            Standalone(self.standalone(script).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        until("it neither started nor ended", || {
            let log = fs::read_to_string(&said).unwrap();
            let ended = child.0.try_wait().unwrap().is_some();
            (ended || log.contains("watching this host")).then_some(if ended { Err(log) } else { Ok(()) })
        })?;
        Ok(child)
    }

    /// Another `hemostat`, which speaks to this one.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hemostat"));
        command.arg("--socket").arg(self.at("control.sock")).args(words).stdin(Stdio::null());
        command.env_remove("HEMOSTAT_SOCKET").env_remove("HEMOSTAT_STATE").env("COLUMNS", "160");
        command
    }

    pub fn ask(&self, words: &[&str]) -> Option<Value> {
        let output = self.command(&[&["-o", "json"], words].concat()).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Its exit code, and what it said.
    pub fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        said(self.command(words).output().unwrap())
    }

    /// The node's own word about itself.
    pub fn node(&self) -> Option<Value> {
        let status = self.ask(&["status"])?;
        let node = status["nodes"][0]["status"].clone();
        node.is_object().then_some(node)
    }

    pub fn run_probe(&self) {
        assert!(Command::new(self.at("hemostat-machine-probe")).status().unwrap().success());
    }

    pub fn has_incident_of_the_probe(&self) -> Option<()> {
        let list = self.ask(&["incidents"])?;
        list.as_array()?.iter().any(|incident| incident["title"] == "The Probe Ran").then_some(())
    }
}

/// Ended at the end whatever happens; the shell before it has become it.
pub struct Standalone(pub Child);

impl Standalone {
    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        until("SIGTERM was not heard", || self.0.try_wait().unwrap())
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub fn until<T>(otherwise: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn said(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Why the test of `what` cannot be made here, said aloud.
pub fn skipped(what: &str, tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
    let because = match missing {
        _ if !rustix::process::geteuid().is_root() => "it needs root".to_owned(),
        Some(tool) => format!("{tool} (util-linux) is not there"),
        None if Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success()) => {
            return false;
        }
        None => "no mount namespace can be made here".to_owned(),
    };
    println!("SKIPPED: {what}: {because}");
    true
}
