//! Runs the node tests, and the agent's tests on a real kernel, on a second one (Debian's 6.1, with LSM, fentry and kprobes) in a QEMU
//! guest without KVM.
//!
//! The guest's first program is the statically linked node test runner, which is its `/init`; beside it stand the agent's test
//! programs and the few programs that those run. What is known about this set-up (start times, why a panic ends QEMU with status 0,
//! which modules are missing) stands in docs/kernel.md.

mod archive;
mod kernel;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use self::archive::Archive;
use crate::progress::{Counter, cache, root, run, say};

/// The guest writes 0x10 to the debug-exit port when every test passed; QEMU then ends with (0x10 << 1) | 1. A guest that panics or
/// powers off ends QEMU with 0, so nothing else may count as passed.
const PASSED: i32 = 33;
/// As above with 0x11: the guest ran to its end and a test failed.
const FAILED: i32 = 35;
/// Longest wait for the first line, for the next one, and for the end: emulated, all of it takes some minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const SILENCE_LIMIT: Duration = Duration::from_secs(300);
const RUN_LIMIT: Duration = Duration::from_secs(3000);
/// The agent's tests that need a kernel, and nothing of this machine but a few programs.
const SUITES: [&str; 24] = [
    "contain_again",
    "contain_authority",
    "contain_crash",
    "contain_deep",
    "contain_foreign",
    "contain_hostile",
    "contain_late",
    "contain_names",
    "contain_threads",
    "contain_network",
    "contain_freeze",
    "contain_file",
    "contain_sockets",
    "contain_limits",
    "contain_evidence",
    "contain_order",
    "contain_overlap",
    "contain_strangers",
    "contain_unknown",
    "contain_unseen",
    "contain_within",
    "held",
    "live",
    "order",
];

/// What came of a run in the guest.
pub(crate) struct Guest {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Boots the guest and runs the tests in it; `filter` picks tests by name, or a whole suite by its own.
pub(crate) fn run_tests(filter: Option<&str>) -> Result<Guest> {
    let kernel = kernel::kernel()?;
    let mut archive = Archive::new();
    archive.add(Path::new("/init"), &build_init()?)?;
    for (position, module) in kernel.modules.iter().enumerate() {
        // numbered, so that the guest loads them in this order
        archive.add(Path::new(&format!("/modules/{position:02}.ko")), module)?;
    }
    for (name, module) in &kernel.spare {
        archive.add(Path::new(&format!("/{name}.ko")), module)?;
    }
    for (name, program) in build_suites()? {
        archive.add(&Path::new("/suites").join(name), &program)?;
    }
    archive.add_programs()?;
    archive.add_folder(Path::new("/rules"), &root().join("rules"))?;
    let path = cache()?.join("vm/initramfs.cpio");
    fs::write(&path, archive.finish()).with_context(|| format!("write {}", path.display()))?;
    for attempt in 1..=2 {
        match boot(&kernel.image, &path, filter)? {
            Boot::Ran { status, guest } => {
                if status == PASSED && guest.failed == 0 {
                    return Ok(guest);
                }
                if status == FAILED {
                    return Ok(Guest { failed: guest.failed.max(1), ..guest });
                }
                bail!(
                    "the guest ended with status {status}: it panicked or powered off before the tests were done"
                );
            }
            Boot::Stuck(last) => bail!("the guest came to no end; its last line: {last}"),
            // About one boot in 85 hangs before its first line; see docs/kernel.md.
            Boot::Silent if attempt == 1 => say("the guest did not boot; once more"),
            Boot::Silent => bail!("the guest did not boot, twice"),
        }
    }
    bail!("the guest could not be run")
}

fn build_init() -> Result<PathBuf> {
    let (target, mut command) = guest_build(&["build"])?;
    run("build the guest's init (the node tests, static)", command.args(["-p", "hemostat-node-tests"]))?;
    Ok(target.join("x86_64-unknown-linux-gnu/checks/hemostat-node-tests"))
}

/// The agent's test programs, by name.
fn build_suites() -> Result<Vec<(&'static str, PathBuf)>> {
    let (_, mut command) = guest_build(&["test", "--no-run", "--message-format=json-render-diagnostics"])?;
    command.args(["-p", "hemostat-agent"]);
    for suite in SUITES {
        command.args(["--test", suite]);
    }
    say("build the agent's tests for the guest (static)");
    let built = command.stderr(Stdio::inherit()).output().context("start cargo")?;
    if !built.status.success() {
        bail!("the agent's tests could not be built for the guest: cargo ended with {}", built.status);
    }
    let mut programs: Vec<(&'static str, PathBuf)> = Vec::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let name = message.pointer("/target/name").and_then(serde_json::Value::as_str);
        let suite = SUITES.into_iter().find(|suite| name == Some(suite));
        if let (Some(suite), Some(program)) =
            (suite, message.get("executable").and_then(serde_json::Value::as_str))
        {
            programs.push((suite, PathBuf::from(program)));
        }
    }
    // In the order of the list, and each of them.
    SUITES
        .into_iter()
        .map(|suite| {
            programs
                .iter()
                .find(|(name, _)| *name == suite)
                .cloned()
                .with_context(|| format!("cargo built no program for agent/tests/{suite}.rs"))
        })
        .collect()
}

/// cargo for the guest, with the folder of what it builds: one of its own, since crt-static changes every crate and the host's build
/// should not be thrown away for it.
fn guest_build(task: &[&str]) -> Result<(PathBuf, Command)> {
    let target = cache()?.join("vm-target");
    let mut command = Command::new("cargo");
    command
        .current_dir(root())
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &target)
        .args(task)
        .args(["--profile", "checks", "--target", "x86_64-unknown-linux-gnu"]);
    Ok((target, command))
}

enum Boot {
    Ran {
        status: i32,
        guest: Guest,
    },
    /// It said nothing at all.
    Silent,
    /// It spoke and then stopped, or went on for too long; its last line.
    Stuck(String),
}

/// Ends QEMU when the run is over, whichever way.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn boot(kernel: &Path, archive: &Path, filter: Option<&str>) -> Result<Boot> {
    let mut line = String::from("console=ttyS0 quiet panic=-1 lsm=lockdown,yama,bpf");
    if let Some(filter) = filter {
        line.push_str(&format!(" HEMOSTAT_TESTS={filter}"));
    }
    say("boot Debian's kernel 6.1 in an emulated machine");
    let child = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let mut machine = Machine(child);
    let console = machine.0.stdout.take().context("QEMU has no standard output")?;
    let (sender, lines) = mpsc::sync_channel::<String>(1024);
    let reader = thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut raw = Vec::new();
        while console.read_until(b'\n', &mut raw).is_ok_and(|read| read > 0) {
            if sender.send(String::from_utf8_lossy(&raw).trim_end().to_owned()).is_err() {
                return;
            }
            raw.clear();
        }
    });
    let mut counter = Counter::default();
    let begun = Instant::now();
    let mut last = None;
    let stuck = loop {
        let patience = if last.is_some() { SILENCE_LIMIT } else { BOOT_LIMIT };
        match lines.recv_timeout(patience.min(RUN_LIMIT.saturating_sub(begun.elapsed()))) {
            Ok(text) => {
                if counter.line(&text) || text.starts_with("test ") {
                    eprintln!("    [6.1] {:>4.0} s {text}", begun.elapsed().as_secs_f64());
                }
                last = Some(text);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    if stuck {
        drop(machine);
        let _reader_ended = reader.join();
        return Ok(last.map_or(Boot::Silent, Boot::Stuck));
    }
    let status = machine.0.wait().context("wait for QEMU")?.code().unwrap_or(-1);
    let _reader_ended = reader.join();
    let counted = counter.counted;
    let guest = Guest { passed: counted.passed, failed: counted.failed, skipped: counted.skipped };
    Ok(Boot::Ran { status, guest })
}
