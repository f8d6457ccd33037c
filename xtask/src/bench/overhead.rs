//! What being watched costs: each workload without Hemostat, with it, and with auditd instead, in turns within one run.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Effort,
    machine::{Programs, Watcher, build, cpu_seconds, operations_per_second},
    report::{Report, Target, quantile},
};
use crate::progress::{output, say, skip};

const BENCH: &str = "overhead";

/// A workload with its arguments; `{folder}` stands for a folder of the bench.
struct Load {
    name: &'static str,
    arguments: Vec<String>,
}

/// Who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Nobody,
    Hemostat,
    Auditd,
}

pub(crate) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let programs = build()?;
    let scratch = Folder::make()?;
    let loads = loads(effort, &scratch.0);
    let rounds = if effort == Effort::Quick { 2 } else { 9 };
    let auditd = Auditd::is_here();
    if !auditd {
        skip("auditd as the peer", "auditd and auditctl are not installed (apt-get install auditd)");
    }
    let mut speeds = vec![[const { Vec::new() }; 3]; loads.len()];
    let mut exec_cost = Vec::new();
    for round in 1..=rounds {
        say(format!("round {round} of {rounds}"));
        let watchers: &[Watch] = if auditd {
            &[Watch::Nobody, Watch::Hemostat, Watch::Auditd]
        } else {
            &[Watch::Nobody, Watch::Hemostat]
        };
        for watch in watchers {
            let hemostat = (*watch == Watch::Hemostat).then(|| Watcher::start(&programs)).transpose()?;
            let _auditd = (*watch == Watch::Auditd).then(|| Auditd::start(&scratch.0)).transpose()?;
            for (index, load) in loads.iter().enumerate() {
                let before = hemostat.as_ref().map(Watcher::cpu_seconds).transpose()?;
                let speed = measure(load, &programs, &scratch.0)?;
                speeds[index][*watch as usize].push(speed);
                if let (Some(hemostat), Some(before), "exec storm") = (&hemostat, before, load.name) {
                    // Records still on their way belong to this storm.
                    thread::sleep(Duration::from_millis(300));
                    let execs: f64 =
                        load.arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(f64::NAN);
                    exec_cost.push((hemostat.cpu_seconds()? - before) * 1e3 / execs);
                }
            }
        }
    }
    for (load, speeds) in loads.iter().zip(&speeds) {
        let cost = slowdown(&speeds[0], &speeds[1]);
        let peer = auditd.then(|| ("auditd", slowdown(&speeds[0], &speeds[2])));
        report.add_beside(
            BENCH,
            format!("{}: throughput lost", load.name),
            cost,
            "%",
            Target::AtMost(3.0),
            peer,
        );
    }
    report.add(BENCH, "agent CPU per exec (storm)", quantile(&mut exec_cost, 0.5), "ms", Target::AtMost(0.1));
    alone(effort, &programs, report)
}

/// What the agent itself takes, without the comparisons.
pub(crate) fn memory(effort: Effort, report: &mut Report) -> Result<()> {
    alone(effort, &build()?, report)
}

/// Idle, and memory under churn.
fn alone(effort: Effort, programs: &Programs, report: &mut Report) -> Result<()> {
    let watcher = Watcher::start(programs)?;
    let (settle, idle, churn) = match effort {
        Effort::Quick => (2, 5, 10),
        Effort::Full => (5, 60, 600),
    };
    thread::sleep(Duration::from_secs(settle));
    say(format!("idle for {idle} s"));
    let before = watcher.cpu_seconds()?;
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(idle));
    let share = (watcher.cpu_seconds()? - before) / begun.elapsed().as_secs_f64() * 100.0;
    report.add(BENCH, "idle", share, "% of a core", Target::AtMost(0.5));
    report.add(BENCH, "resident when idle", watcher.resident_mb()?, "MB", Target::AtMost(50.0));
    say(format!("churn of processes for {churn} s"));
    let until = Instant::now() + Duration::from_secs(churn);
    let mut sizes = Vec::new();
    while Instant::now() < until {
        operations_per_second(&programs.workload, &["exec", "1000"])?;
        sizes.push(watcher.resident_mb()?);
    }
    let early = sizes.get(sizes.len() / 4).copied().unwrap_or(f64::NAN);
    let late = sizes.last().copied().unwrap_or(f64::NAN);
    report.add(BENCH, "resident after churn", late, "MB", Target::AtMost(50.0));
    report.add(
        BENCH,
        format!("growth over the last three quarters of {churn} s of churn"),
        late - early,
        "MB",
        Target::AtMost(2.0),
    );
    let node = watcher.fresh_node()?;
    let lost: u64 = node["counts"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, count)| {
            ["lost_ring", "lost_budget", "lost_read"]
                .iter()
                .filter_map(|reason| count[reason].as_u64())
                .sum::<u64>()
        })
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a count of lost events")]
    report.add(BENCH, "events lost during churn", lost as f64, "events", Target::AtMost(0.0));
    Ok(())
}

/// Loss of throughput in percent: middle of the rounds' ratios.
fn slowdown(without: &[f64], with: &[f64]) -> f64 {
    let mut ratios: Vec<f64> =
        without.iter().zip(with).map(|(without, with)| (without / with - 1.0) * 100.0).collect();
    quantile(&mut ratios, 0.5)
}

fn loads(effort: Effort, folder: &Path) -> Vec<Load> {
    let scale = if effort == Effort::Quick { 1 } else { 3 };
    let storm = |name, words: &[&str]| Load {
        name,
        arguments: words.iter().map(|word| (*word).to_owned()).collect(),
    };
    let folder = folder.join("files").to_string_lossy().into_owned();
    vec![
        storm("exec storm", &["exec", &(1000 * scale).to_string()]),
        storm("open/close storm", &["open", &(200_000 * scale).to_string()]),
        storm("create/unlink storm", &["create", &(50_000 * scale).to_string(), "--folder", &folder]),
        storm("connect/accept storm", &["connect", &(10_000 * scale).to_string()]),
        Load { name: "compile", arguments: Vec::new() },
    ]
}

fn measure(load: &Load, programs: &Programs, scratch: &Path) -> Result<f64> {
    if load.name == "compile" {
        return compile(scratch);
    }
    let arguments: Vec<&str> = load.arguments.iter().map(String::as_str).collect();
    operations_per_second(&programs.workload, &arguments)
}

/// Compiles a small program with the Rust compiler at hand a few times; compilations a second.
fn compile(scratch: &Path) -> Result<f64> {
    const TIMES: u32 = 3;
    let source = scratch.join("compile.rs");
    let body: String = (0..400)
        .map(|n| format!("pub fn f{n}(x: u64) -> u64 {{ x.wrapping_mul({n}).rotate_left(7) }}\n"))
        .collect();
    std::fs::write(&source, body + "fn main() { println!(\"{}\", f1(2)); }\n")
        .context("write a program to compile")?;
    let begun = Instant::now();
    for _ in 0..TIMES {
        let status = Command::new("rustc")
            .arg("-O")
            .arg("-o")
            .arg(scratch.join("compiled"))
            .arg(&source)
            .stderr(Stdio::null())
            .status()
            .context("run rustc")?;
        anyhow::ensure!(status.success(), "rustc ended with {status}");
    }
    Ok(f64::from(TIMES) / begun.elapsed().as_secs_f64())
}

/// auditd with rules for the same system calls: what people would run instead.
struct Auditd {
    child: Child,
}

impl Auditd {
    fn is_here() -> bool {
        output("auditctl", &["-v"]).is_some()
    }

    fn start(scratch: &Path) -> Result<Self> {
        let folder = scratch.join("auditd");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        std::fs::write(
            folder.join("auditd.conf"),
            format!(
                "log_file = {}\nlog_format = ENRICHED\nflush = INCREMENTAL_ASYNC\nfreq = 50\nmax_log_file = 64\nnum_logs = 2\n\
                 max_log_file_action = ROTATE\nspace_left = 75\nspace_left_action = IGNORE\nadmin_space_left = 50\n\
                 admin_space_left_action = IGNORE\ndisk_full_action = IGNORE\ndisk_error_action = IGNORE\n",
                folder.join("audit.log").display()
            ),
        )
        .context("write auditd's configuration")?;
        let child = Command::new("auditd")
            .args(["-n", "-c"])
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start auditd")?;
        let this = Self { child };
        thread::sleep(Duration::from_millis(300));
        auditctl(&["-D"])?;
        auditctl(&["-b", "65536", "-e", "1"])?;
        for calls in [
            "execve,execveat",
            "unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,chmod,fchmod,fchmodat,chown,fchownat",
            "connect,accept,accept4,bind,listen",
            "setuid,setgid,setreuid,setresuid,setns,unshare,ptrace,init_module,finit_module,bpf,memfd_create,mount",
        ] {
            auditctl(&["-a", "always,exit", "-F", "arch=b64", "-S", calls, "-k", "bench"])?;
        }
        // Opens that can change a file; a=1 is O_WRONLY|O_RDWR of the flags, which auditctl can only test by mask.
        auditctl(&["-a", "always,exit", "-F", "arch=b64", "-S", "openat", "-F", "a2&3", "-k", "bench"])?;
        auditctl(&["-w", "/etc/shadow", "-p", "r", "-k", "bench"])?;
        Ok(this)
    }
}

fn auditctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("auditctl").args(arguments).output().context("run auditctl")?;
    anyhow::ensure!(
        output.status.success(),
        "auditctl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Drop for Auditd {
    fn drop(&mut self) {
        let _best_effort = auditctl(&["-D"]);
        let _best_effort = auditctl(&["-e", "0"]);
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _reaped = self.child.wait();
    }
}

struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("hemostat-overhead-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        // The clock starts on a machine that has loaded what it needs.
        let _warm = cpu_seconds(std::process::id());
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}
