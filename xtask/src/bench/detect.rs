//! The detection engine's own benches, in its crate.

use std::process::Command;

use anyhow::Result;

use super::Effort;
use crate::progress;

/// The matcher, then the correlations; both are run though the first misses a target.
pub(crate) fn run(effort: Effort, json: bool) -> Result<()> {
    let matcher = example("bench_detect", effort, json);
    let correlations = example("bench_correlate", effort, json);
    matcher.and(correlations)
}

fn example(name: &str, effort: Effort, json: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .current_dir(progress::root())
        .args(["run", "--quiet", "--profile", "dist", "-p", "hemostat-detect", "--example", name, "--"])
        .args((effort == Effort::Quick).then_some("--quick"))
        .args(json.then_some("--json"));
    progress::run(&format!("bench the detection engine ({name})"), &mut command)
}
