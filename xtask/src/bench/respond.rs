//! `bench respond`: from a miner in a pod of a real cluster to its containment on the node and by the network's own rule, over and over.
//! The first and the last run are also proved by traffic.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Effort,
    report::{Report, Target, quantile},
};
use crate::{
    cluster::Cni,
    demo::{
        cluster::{
            play,
            report::Report as Told,
            stage::{Setup, Stage},
        },
        stage::Stages,
    },
};

/// Runs of a whole bench, and of a first answer.
const RUNS: (usize, usize) = (50, 5);

/// Who asks the API server while something is measured takes processors from it: until then nobody does.
const UNOBSERVED: Duration = Duration::from_secs(3);

/// From one run's beginning to the next one's: a node reacts ten times a minute to one rule and then observes only (agent/src/edge/bounds.rs).
const EVERY: Duration = Duration::from_secs(7);

const BENCH: &str = "respond";

pub(super) fn run(effort: Effort, cni: Cni, program: Option<&Path>, report: &mut Report) -> Result<()> {
    let (runs, profile) = match effort {
        Effort::Full => (RUNS.0, "release"),
        Effort::Quick => (RUNS.1, "release"),
    };
    let mut stages = Stages::new(true);
    let stage = Stage::up(&mut stages, &Setup { profile, program, cni, ..Setup::default() })?;
    play(&stage, &mut stages)?;
    let mut told = Vec::with_capacity(runs);
    for run in 1..=runs {
        let begun = Instant::now();
        told.push(once(&stage, cni).with_context(|| format!("run {run}"))?);
        thread::sleep(EVERY.saturating_sub(begun.elapsed()));
    }
    play(&stage, &mut stages)?;
    report.add(BENCH, "runs", runs as f64, "", Target::None);
    tell(report, &told, cni);
    Ok(())
}

fn once(stage: &Stage, cni: Cni) -> Result<Told> {
    let miner = stage.mine()?;
    thread::sleep(UNOBSERVED);
    let incident = stage.contained()?;
    let incident = stage.asked(&incident)?;
    if cni == Cni::Cilium {
        stage.is_honoured(&incident)?;
    }
    let told = stage.report(&incident)?;
    // Everything is as before for the next one.
    stage.false_positive(&incident)?;
    stage.is_settled(&incident)?;
    miner.end(stage)?;
    eprintln!(
        "    {}: the node itself {:.1?} ms; cut off by the playbook {:.1?} ms, of it {:.0?}; isolated {:.0?}, honoured {:.0?}; whole {:.0?}",
        told.name,
        told.reaction(),
        told.cut_off(),
        told.ways(),
        told.isolated(),
        told.honoured(),
        told.whole()
    );
    Ok(told)
}

fn tell(report: &mut Report, told: &[Told], cni: Cni) {
    let mut both = |what: &str, of: &dyn Fn(&Told) -> Option<f64>, target: Target| {
        let mut values: Vec<f64> = told.iter().filter_map(of).collect();
        if values.len() < told.len() {
            report.add(
                BENCH,
                format!("{what}: runs without it"),
                (told.len() - values.len()) as f64,
                "",
                Target::AtMost(0.0),
            );
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let middle = matches!(target, Target::AtMost(_));
            let target = if middle { target } else { Target::None };
            report.add(BENCH, format!("{what}, {name}"), quantile(&mut values, share), "ms", target);
        }
    };
    let begin = "first event to";
    both(&format!("{begin} frozen by the node itself"), &Told::reaction, Target::AtMost(100.0));
    both(&format!("{begin} cut off by the playbook"), &Told::cut_off, Target::AtMost(100.0));
    for (at, stage) in [
        "  of it: event to decided and stored",
        "  of it: decided to captured, stored, read back",
        "  of it: written in the API server, commanded, done",
    ]
    .into_iter()
    .enumerate()
    {
        both(stage, &|told: &Told| told.ways().map(|ways| ways[at]), Target::None);
    }
    if cni == Cni::Cilium {
        both(&format!("{begin} isolated by Cilium's rule"), &Told::isolated, Target::AtMost(1000.0));
        both("  Cilium's own time from there", &Told::honoured, Target::None);
    }
    both("whole playbook, the second wall not verified", &Told::whole, Target::AtMost(5000.0));
}
