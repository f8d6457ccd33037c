//! `cargo xtask bench NAME`: figures with their targets, in one table; recorded by hand in docs/benchmarks.md.

mod benign;
mod detect;
mod enrich;
mod judgement;
mod latency;
mod loss;
mod machine;
mod overhead;
mod report;
mod respond;

use anyhow::{Result, bail};

use report::Report;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to measure.
    #[arg(value_enum)]
    name: Name,
    /// A first answer in under a minute.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// How the cluster's pods are connected (respond only).
    #[arg(long, value_enum, default_value = "bridge")]
    cni: crate::cluster::Cni,
    /// A hemostat that is built already (respond only).
    #[arg(long)]
    program: Option<std::path::PathBuf>,
    /// How long ordinary work goes on (benign only).
    #[arg(long)]
    minutes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// What fires on ordinary work, of which nothing may be high or critical.
    Benign,
    /// Events a second through the rules, beside rsigma-eval.
    Detect,
    /// A million indicators: reading, exchanging while they are used, enriching incidents among 50,000 pods.
    Enrich,
    /// 162,000 events a second of a mixed load through a whole controller on two processors.
    Pipeline,
    /// A controller that is started again over a million live groups of a correlation of 24 hours.
    Correlate,
    /// A recorded mixed load through `hemostat replay`.
    Replay,
    /// A simulated year with a known truth: coverage, precision, escalations, rollbacks.
    Year,
    /// From the hook to a stopped and to a frozen process.
    Latency,
    /// What being watched costs the workload, beside auditd; then `memory`.
    Overhead,
    /// What the agent itself takes: processor time when idle, memory under ten minutes of churn. Also the end of `overhead`.
    Memory,
    /// From a miner in a pod of a real cluster to its containment.
    Respond,
    /// Whether anything is lost under storm, and whether losses are counted exactly.
    Loss,
}

/// How thorough a bench is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    Quick,
    Full,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let effort = if options.quick { Effort::Quick } else { Effort::Full };
    let mut report = Report::new(options.json);
    match options.name {
        Name::Benign => {
            let ended = benign::run(effort, options.minutes, options.json, &mut report);
            if let Err(error) = ended {
                report.print();
                return Err(error);
            }
        }
        Name::Detect => return detect::run(effort, options.json),
        Name::Enrich => return enrich::run(effort, options.json),
        Name::Pipeline => return judgement::run("bench_pipeline", effort, options.json),
        Name::Correlate => return judgement::run("bench_restart", effort, options.json),
        Name::Replay => return judgement::run("bench_replay", effort, options.json),
        Name::Year => return judgement::run("bench_year", effort, options.json),
        Name::Latency => latency::run(effort, &mut report)?,
        Name::Overhead => overhead::run(effort, &mut report)?,
        Name::Memory => overhead::memory(effort, &mut report)?,
        Name::Respond => respond::run(effort, options.cni, options.program.as_deref(), &mut report)?,
        Name::Loss => loss::run(effort, &mut report)?,
    }
    report.print();
    let missed = report.missed();
    if missed > 0 {
        bail!("{missed} targets missed");
    }
    Ok(())
}
