//! From the hook to a stopped and to a frozen process, measured by the agent's own bench on this kernel.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{
    Effort,
    report::{Report, Target},
};
use crate::{
    ebpf,
    progress::{root, say},
};

const BENCH: &str = "latency";

pub(crate) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    ebpf::run()?;
    say("measure the agent's latencies (builds in release first)");
    let output = Command::new("cargo")
        .current_dir(root())
        .args(["run", "--quiet", "--release", "-p", "hemostat-agent", "--example", "bench_latency", "--"])
        .args((effort == Effort::Quick).then_some("--quick"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run the agent's bench")?;
    if !output.status.success() {
        bail!("the agent's bench ended with {}", output.status);
    }
    let figures: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("read the agent's figures")?;
    let figure =
        |name: &str| figures[name].as_f64().with_context(|| format!("the agent's bench gives {name}"));
    report.add(
        BENCH,
        "stopped in the kernel: programs tried",
        figure("stop_tried")?,
        "programs",
        Target::None,
    );
    report.add(
        BENCH,
        "stopped in the kernel: first action done",
        figure("stop_escaped")?,
        "programs",
        Target::AtMost(0.0),
    );
    for (load, name, most) in
        [("quiet", "quiet", (0.3, 2.0)), ("20,000 events/s beside it", "loaded", (f64::INFINITY, 5.0))]
    {
        let p50 = figure(&format!("{name}_p50_ms"))?;
        let target = if most.0.is_finite() { Target::AtMost(most.0) } else { Target::None };
        report.add(BENCH, format!("hook to frozen, {load}: p50"), p50, "ms", target);
        report.add(
            BENCH,
            format!("hook to frozen, {load}: p99"),
            figure(&format!("{name}_p99_ms"))?,
            "ms",
            Target::AtMost(most.1),
        );
    }
    report.add(BENCH, "events beside it, reached", figure("loaded_events_per_s")?, "1/s", Target::None);
    Ok(())
}
