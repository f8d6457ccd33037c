//! Builds the eBPF objects with the kernel side's own compiler, apart from the host workspace.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    progress::{self, root},
    setup::{self, Release},
};

/// Folder of the finished objects; `agent/build.rs` looks there, too.
pub(crate) fn objects() -> PathBuf {
    root().join("agent-ebpf/target/bpfel-unknown-none/release")
}

pub(crate) fn run_build() -> Result<()> {
    let mut command = kernel_side(&["build"])?;
    progress::run("build the eBPF objects", &mut command)
}

/// Runs clippy over what is no part of the host workspace: the kernel side, by its own compiler's clippy, and the fuzz targets.
pub(crate) fn lint() -> Result<()> {
    let toolchain = setup::ensure()?.0;
    match setup::clippy_of(&toolchain)? {
        Some(clippy) => {
            let mut command = kernel_side(&["check"])?;
            // What `cargo clippy` itself does, which would take the wrong compiler's.
            command.env("RUSTC_WORKSPACE_WRAPPER", clippy).env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
            progress::run("clippy over the kernel side", &mut command)?;
        }
        None => progress::say(format!(
            "SKIPPED: clippy over the kernel side: {} has none, and none can be installed",
            toolchain.rustc.display()
        )),
    }
    for package in ["detect/fuzz", "enrich/fuzz"] {
        let mut command = Command::new("cargo");
        command.current_dir(root().join(package)).args(["clippy", "--quiet", "--all-targets", "--"]);
        progress::run(&format!("clippy over {package}"), command.args(["-D", "warnings"]))?;
    }
    Ok(())
}

/// cargo for the kernel side.
fn kernel_side(task: &[&str]) -> Result<Command> {
    let (toolchain, linker) = setup::ensure()?;
    let mut command = Command::new("cargo");
    command
        .current_dir(root().join("agent-ebpf"))
        // The outer cargo's choices must not leak into the kernel side's build.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("CARGO_TARGET_DIR", root().join("agent-ebpf/target"))
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf")
        .args(task)
        .args(["--release", "-Zbuild-std=core", "--target", "bpfel-unknown-none"]);
    // `-Z` flags are cargo's own, and the cargo at hand is usually a stable one.
    command.env("RUSTC_BOOTSTRAP", "1");
    if toolchain.release == Release::Nightly {
        command.env("RUSTUP_TOOLCHAIN", "nightly");
    }
    Ok(command)
}

pub(crate) fn run() -> Result<()> {
    run_build()?;
    for object in ["probes", "quarantine"] {
        let path = objects().join(object);
        if let Ok(data) = std::fs::metadata(&path) {
            eprintln!("    {object}: {} KiB", data.len() / 1024);
        }
    }
    Ok(())
}
