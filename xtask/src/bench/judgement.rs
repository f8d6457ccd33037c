//! Benches of the judgement, from what comes in to what is decided, in the crates that they measure.

use std::process::Command;

use anyhow::Result;

use super::Effort;
use crate::progress;

pub(crate) fn run(example: &str, effort: Effort, json: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .current_dir(progress::root())
        .args(["run", "--quiet", "--release", "-p", "hemostat", "--example", example, "--"])
        .args((effort == Effort::Quick).then_some("--quick"))
        .args(json.then_some("--json"));
    progress::run(&format!("bench {example}"), &mut command)
}
