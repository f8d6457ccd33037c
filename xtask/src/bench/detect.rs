//! The detection engine's own bench, in its crate.

use std::process::Command;

use anyhow::Result;

use super::Effort;
use crate::progress;

pub(crate) fn run(effort: Effort, json: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .current_dir(progress::root())
        .args([
            "run",
            "--quiet",
            "--profile",
            "dist",
            "-p",
            "hemostat-detect",
            "--example",
            "bench_detect",
            "--",
        ])
        .args((effort == Effort::Quick).then_some("--quick"))
        .args(json.then_some("--json"));
    progress::run("bench the detection engine", &mut command)
}
