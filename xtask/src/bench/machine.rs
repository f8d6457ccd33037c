//! A running Hemostat under measurement, and what the kernel says it uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    demo::{self, Binaries},
    progress::{root, run},
    standalone::Standalone,
};

/// Clock ticks of /proc/PID/stat in a second: 100 on every Linux ABI (include/uapi/asm-generic/param.h USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Programs of a bench.
pub(crate) struct Programs {
    pub(crate) hemostat: Binaries,
    pub(crate) workload: PathBuf,
}

pub(crate) fn build() -> Result<Programs> {
    let hemostat = demo::build(demo::Profile::Release)?;
    run(
        "build the workloads (release)",
        Command::new("cargo").current_dir(root()).args(["build", "--release", "-p", "hemostat-workloads"]),
    )?;
    let workload = hemostat.hemostat.with_file_name("workload");
    Ok(Programs { hemostat, workload })
}

/// `hemostat standalone` in a state folder of its own; both go with this value.
pub(crate) struct Watcher {
    standalone: Standalone,
    _state: Scratch,
}

/// The playbooks say what they would do, and do nothing.
const OBSERVE: &str = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata:\n  name: bench\nspec:\n  mode: Shadow\n";

/// A folder that goes with the value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new one.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("hemostat-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

impl Watcher {
    pub(crate) fn start(programs: &Programs) -> Result<Self> {
        Self::start_with(programs, &[])
    }

    /// The same with more arguments.
    pub(crate) fn start_with(programs: &Programs, arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::new("bench")?;
        let state = scratch.path().to_path_buf();
        let log = state.join("hemostat.log");
        // The rules see what they find on this host, but nothing of anybody else may be frozen for the sake of a figure.
        let observe = state.join("observe.yaml");
        fs::write(&observe, OBSERVE).with_context(|| format!("write {}", observe.display()))?;
        let observe = observe.to_str().context("a state folder whose name is no text")?;
        let mut more = vec!["--reactions", "off", "--playbooks", observe];
        more.extend(arguments);
        let standalone = Standalone::start(&programs.hemostat.hemostat, state, log, &more)?;
        Ok(Self { standalone, _state: scratch })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.standalone.pid()
    }

    /// What the node last said of itself.
    pub(crate) fn node(&self) -> Result<Value> {
        self.standalone.node()
    }

    /// A report that was made after this call.
    pub(crate) fn fresh_node(&self) -> Result<Value> {
        let before = self.node()?["at"].as_i64();
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let node = self.node()?;
            if node["at"].as_i64() > before {
                return Ok(node);
            }
            if Instant::now() > patience {
                bail!("the node's report does not change any more");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid())
    }

    /// Resident memory in MB.
    pub(crate) fn resident_mb(&self) -> Result<f64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).context("read the agent's status")?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<f64>().ok())
            .context("VmRSS in the agent's status")?;
        Ok(kib / 1024.0)
    }
}

/// User and system time of a process so far.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("read the times of pid {pid}"))?;
    // The name in parentheses may hold blanks; fields are counted behind it (proc_pid_stat(5): 14 utime, 15 stime).
    let behind = stat.rsplit_once(')').map(|(_, rest)| rest).context("a stat line has a name")?;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
}

/// Runs a workload and gives its operations a second.
pub(crate) fn operations_per_second(workload: &Path, arguments: &[&str]) -> Result<f64> {
    let answer = run_workload(workload, arguments)?;
    let done: f64 =
        answer["done"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_f64()).sum();
    let seconds = answer["seconds"].as_f64().context("a workload tells its seconds")?;
    Ok(done / seconds)
}

pub(crate) fn run_workload(workload: &Path, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(workload)
        .args(arguments)
        .output()
        .with_context(|| format!("run {}", workload.display()))?;
    if !output.status.success() {
        bail!("workload {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("read a workload's answer")
}
