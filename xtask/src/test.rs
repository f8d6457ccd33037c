//! Every test that this machine can run, in one command, with what was skipped said aloud and counted.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    cluster::binaries::Binaries,
    demo, ebpf, fuzz,
    progress::{self, is_root, output, root, say, skip},
    prove, vm,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the tests on the second kernel.
    #[arg(long)]
    vm: bool,
    /// Leave the second kernel out.
    #[arg(long, conflicts_with = "vm")]
    no_vm: bool,
    /// Only tests whose name contains this; on the second kernel also a whole test file of the agent's by its name.
    #[arg(long)]
    filter: Option<String>,
    /// Also the tests on a real Kubernetes where its programs are not built yet: builds them first, about 7 minutes once.
    #[arg(long)]
    cluster: bool,
}

/// How long each fuzz target runs here; `cargo xtask fuzz --seconds` runs them for longer.
const FUZZ_SECONDS: u32 = 10;

/// Counts of the whole run, in the form of its closing line.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ebpf::run()?;
    let mut tally = Tally::default();
    if !options.vm {
        workspace(options, &mut tally)?;
        node(options, &mut tally)?;
        if options.filter.is_none() {
            fuzzing(&mut tally)?;
            whole_loop(&mut tally)?;
            kubernetes(options, &mut tally)?;
        }
    }
    if !options.no_vm {
        second_kernel(options, &mut tally)?;
    }
    eprintln!();
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed > 0 {
        bail!("{} failed", tally.failed);
    }
    Ok(())
}

/// `cargo test` over the workspace: unit, property, golden, differential, crash-point and contain tests.
fn workspace(options: &Options, tally: &mut Tally) -> Result<()> {
    say("test the workspace");
    let mut command = Command::new("cargo");
    command.current_dir(root()).args([
        "test",
        "--workspace",
        "--no-fail-fast",
        "--exclude",
        "hemostat-node-tests",
        "--",
        "--show-output",
    ]);
    command.args(options.filter.iter());
    let counted = progress::run_counted(&mut command)?;
    tally.passed += counted.passed;
    tally.failed += counted.failed;
    tally.skipped += counted.skipped;
    if !counted.ended_well && counted.failed == 0 {
        bail!("cargo test failed before any test could");
    }
    Ok(())
}

/// Each fuzz target for some seconds, from where the last run left its corpus; each counted as a test.
fn fuzzing(tally: &mut Tally) -> Result<()> {
    let fuzzed = fuzz::fuzz(FUZZ_SECONDS, None)?;
    tally.passed += fuzzed.passed;
    tally.failed += fuzzed.failed;
    tally.skipped += fuzzed.skipped;
    Ok(())
}

/// The probes on this machine's own kernel.
fn node(options: &Options, tally: &mut Tally) -> Result<()> {
    if !is_root() {
        tally.skipped += 1;
        skip("the probes on this kernel", "loading eBPF programs needs root; run: sudo -E cargo xtask test");
        return Ok(());
    }
    let release = output("uname", &["-r"]).unwrap_or_default();
    say(format!("test the probes on this kernel ({release})"));
    progress::run(
        "build the node tests",
        Command::new("cargo").current_dir(root()).args([
            "build",
            "--profile",
            "checks",
            "-p",
            "hemostat-node-tests",
        ]),
    )?;
    let mut command = Command::new("cargo");
    command.current_dir(root()).args([
        "run",
        "--quiet",
        "--profile",
        "checks",
        "-p",
        "hemostat-node-tests",
        "--",
    ]);
    command.args(options.filter.iter());
    let counted = progress::run_counted(&mut command)?;
    tally.passed += counted.passed;
    tally.failed += counted.failed;
    tally.skipped += counted.skipped;
    if !counted.ended_well && counted.failed == 0 {
        bail!("the node tests ended before their last line");
    }
    Ok(())
}

/// The demo, end to end: real attacks contained and undone, each proof counted as a test.
fn whole_loop(tally: &mut Tally) -> Result<()> {
    if !is_root() {
        tally.skipped += 1;
        skip("the whole loop on this host", "loading eBPF programs and making cgroups needs root");
        return Ok(());
    }
    say("test the whole loop on this host");
    match demo::as_test() {
        Ok(proofs) => tally.passed += proofs,
        Err(error) => {
            tally.failed += 1;
            eprintln!("FAILED the whole loop: {error:#}");
        }
    }
    Ok(())
}

/// On a real Kubernetes of one node.
fn kubernetes(options: &Options, tally: &mut Tally) -> Result<()> {
    let because = if !is_root() {
        Some("a cluster makes namespaces and cgroups, which needs root")
    } else if options.cluster {
        Binaries::build()?;
        None
    } else if Binaries::cached()?.is_none() {
        Some("its programs are not built yet; `cargo xtask test --cluster` builds them, about 7 minutes once")
    } else {
        None
    };
    if let Some(because) = because {
        if options.cluster {
            bail!("{because}");
        }
        tally.skipped += 1;
        skip("a real Kubernetes", because);
        return Ok(());
    }
    say("test on a real Kubernetes");
    // The controller is tested as the process that it is.
    let mut building = Command::new("cargo");
    building.current_dir(root()).args(["build", "-p", "hemostat"]);
    progress::run("build hemostat", &mut building)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let mut command = Command::new("cargo");
    command
        .current_dir(root())
        .env("HEMOSTAT_PROGRAM", target.join("debug/hemostat"))
        .env("HEMOSTAT_XTASK", std::env::current_exe().context("the path of this program")?)
        // They share one place on this machine.
        .args([
            "test",
            "-p",
            "hemostat-cluster-tests",
            "--no-fail-fast",
            "--",
            "--show-output",
            "--test-threads=1",
        ]);
    count(tally, &progress::run_counted(&mut command)?, "the tests on Kubernetes")?;
    // What is done in the API server, with a real kubelet.
    let mut live = Command::new("cargo");
    live.current_dir(root())
        .env("HEMOSTAT_XTASK", std::env::current_exe().context("the path of this program")?)
        .args(["test", "-p", "hemostat-act", "--test", "live", "--", "--show-output"]);
    count(tally, &progress::run_counted(&mut live)?, "the live tests of cluster actions")?;
    say("prove the cluster form on a real Kubernetes");
    match prove::as_test(&target.join("debug/hemostat")) {
        Ok((held, failed)) => {
            tally.passed += held;
            tally.failed += failed;
        }
        Err(error) => {
            tally.failed += 1;
            eprintln!("FAILED the proofs on Kubernetes: {error:#}");
        }
    }
    Ok(())
}

fn count(tally: &mut Tally, counted: &progress::Counted, what: &str) -> Result<()> {
    tally.passed += counted.passed;
    tally.failed += counted.failed;
    tally.skipped += counted.skipped;
    if !counted.ended_well && counted.failed == 0 {
        bail!("{what} ended before their last line");
    }
    Ok(())
}

/// The same tests, and those of containment, on Debian's 6.1.
fn second_kernel(options: &Options, tally: &mut Tally) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        tally.skipped += 1;
        skip("the probes and containments on kernel 6.1", "the guest is built for x86_64 only");
        return Ok(());
    }
    match vm::run_tests(options.filter.as_deref()) {
        Ok(guest) => {
            tally.passed += guest.passed;
            tally.failed += guest.failed;
            tally.skipped += guest.skipped;
        }
        Err(error) if options.vm || std::env::var_os("CI").is_some() => return Err(error),
        Err(error) => {
            tally.skipped += 1;
            skip("the probes and containments on kernel 6.1", format!("{error:#}"));
        }
    }
    Ok(())
}
