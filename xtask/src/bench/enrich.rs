//! Threat intelligence and enrichment, in their crate.

use std::process::Command;

use anyhow::Result;

use super::Effort;
use crate::progress;

pub(crate) fn run(effort: Effort, json: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .current_dir(progress::root())
        .args(["run", "--quiet", "--release", "-p", "hemostat-enrich", "--example", "bench_enrich", "--"])
        .args((effort == Effort::Quick).then_some("--quick"))
        .args(json.then_some("--json"));
    progress::run("bench threat intelligence and enrichment", &mut command)
}
