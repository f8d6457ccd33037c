//! `bench respond`: from a miner in a pod of a real cluster to its containment on the node, over and over.

use anyhow::{Context, Result};

use super::{
    Effort,
    report::{Report, Target, quantile},
};
use crate::demo::cluster::Stage;

/// Runs of a whole bench, and of a first answer.
const RUNS: (usize, usize) = (50, 5);

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let (runs, profile) = match effort {
        Effort::Full => (RUNS.0, "dist"),
        Effort::Quick => (RUNS.1, "dev"),
    };
    let mut stages = crate::demo::stage::Stages::new(true);
    let stage = Stage::up(&mut stages, profile, None)?;
    let mut contained = Vec::with_capacity(runs);
    for run in 1..=runs {
        let mut miner = stage.mine()?;
        let incident = stage.contained().with_context(|| format!("run {run}"))?;
        contained.push(stage.millis(&incident).with_context(|| format!("run {run}"))?);
        // Everything is as before for the next one.
        stage.false_positive(&incident)?;
        let _ended = miner.kill();
        miner.wait().context("wait for kubectl exec")?;
    }
    let bench = "respond";
    report.add(bench, "runs", runs as f64, "", Target::None);
    report.add(
        bench,
        "first event to contained on the node, p50",
        quantile(&mut contained, 0.5),
        "ms",
        Target::AtMost(100.0),
    );
    report.add(
        bench,
        "first event to contained on the node, p99",
        quantile(&mut contained, 0.99),
        "ms",
        Target::AtMost(100.0),
    );
    Ok(())
}
