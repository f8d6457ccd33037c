//! `cargo xtask prove`: what the cluster form promises, on a real Kubernetes with real pods, real traffic and real kills.
//!
//! Each proof is one that an onlooker could make: what traffic does, what the API server's audit log holds, what objects say in the end.

mod crash;
mod refused;
mod shadow;
mod storm;
mod uninstall;
mod unseen;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Result, bail};

use crate::{
    cluster::Cni,
    demo::{
        cluster::{
            play,
            stage::{Asks, Setup, Stage},
        },
        stage::Stages,
    },
    progress::say,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What is proved; all but the crash points without it.
    #[arg(value_enum)]
    what: Vec<Proof>,
    /// How pods are connected.
    #[arg(long, value_enum, default_value = "bridge")]
    cni: Cni,
    /// How hemostat is built.
    #[arg(long, default_value = "release")]
    profile: String,
    /// A hemostat that is built already.
    #[arg(long)]
    program: Option<PathBuf>,
    /// How many crash points are played, drawn by --seed; all of them with 0.
    #[arg(long, default_value_t = 0)]
    points: usize,
    /// So many points at the beginning are left out: a long list is played in pieces.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// Of the drawing.
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// Only this victim of the crash points.
    #[arg(long, value_enum)]
    victim: Vec<crash::Victim>,
}

/// Of the drawing where nothing else is said.
const SEED: u64 = 20_261_122;

/// What can be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Proof {
    /// Only the miner's pod is cut off, in every kind of traffic, and a verdict gives everything back.
    Traffic,
    /// Protected namespaces, our own pods and the network's are refused, with the reason.
    Refused,
    /// A node that does not see its pods' cgroups refuses, says why, and goes on when it does (I9).
    Unseen,
    /// A playbook in shadow writes nothing but our own records (I8).
    Shadow,
    /// A hundred incidents at once: each handled once, and the limit asks.
    Storm,
    /// The chart is not removed while something is in force: the Job of its hook says so, in a real pod.
    Uninstall,
    /// Controller, agent, API server and containerd killed at every journalled transition (I7).
    Crash,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (held, failed) = play_all(options)?;
    println!("{held} held, {failed} failed");
    if failed > 0 {
        bail!("{failed} proofs failed");
    }
    Ok(())
}

/// Those proofs that have held, as tests of a program that is built already; how many held and failed.
pub(crate) fn as_test(program: &Path) -> Result<(u64, u64)> {
    use Proof::{Refused, Shadow, Unseen};
    play_all(&Options {
        what: vec![Refused, Unseen, Shadow],
        cni: Cni::Bridge,
        profile: "dev".into(),
        program: Some(program.to_owned()),
        points: 0,
        skip: 0,
        seed: SEED,
        victim: Vec::new(),
    })
}

fn play_all(options: &Options) -> Result<(u64, u64)> {
    use Proof::{Crash, Refused, Shadow, Storm, Traffic, Uninstall, Unseen};
    let wanted = if options.what.is_empty() {
        vec![Traffic, Refused, Unseen, Shadow, Uninstall, Storm]
    } else {
        options.what.clone()
    };
    let asks_first = wanted.contains(&Uninstall);
    let (mut held, mut failed) = (0, 0);
    let (crash, mut others): (Vec<Proof>, Vec<Proof>) = wanted.into_iter().partition(|one| *one == Crash);
    // Its image is seen in many namespaces, so that for an hour after it everything asks.
    others.sort_by_key(|one| *one == Storm);
    let mut stages = Stages::new(false);
    let setup = Setup {
        profile: &options.profile,
        program: options.program.as_deref(),
        cni: options.cni,
        ..Setup::default()
    };
    let mut count = |name: String, result: Result<()>, begun: Instant| match result {
        Ok(()) => {
            held += 1;
            println!("ok {name} ({:.1} s)", begun.elapsed().as_secs_f64());
        }
        Err(error) => {
            failed += 1;
            println!("FAILED {name}: {error:#}");
        }
    };
    if !others.is_empty() {
        let stage = Stage::up(&mut stages, &setup)?;
        for proof in others {
            let begun = Instant::now();
            say(format!("prove: {proof:?}"));
            let result = match proof {
                Traffic => play(&stage, &mut stages),
                Refused => refused::prove(&stage),
                Unseen => unseen::prove(&stage),
                Shadow => shadow::prove(&stage),
                Storm => storm::prove(&stage),
                Uninstall => uninstall::prove(&stage),
                Crash => Ok(()),
            };
            count(format!("proof {proof:?}"), result, begun);
        }
        let begun = Instant::now();
        let asks = if asks_first { Asks::First } else { Asks::Nobody };
        count("proof uninstalled".into(), stage.uninstall(&mut stages, asks), begun);
    }
    if !crash.is_empty() {
        let draw = crash::Draw {
            points: options.points,
            skip: options.skip,
            seed: options.seed,
            victims: &options.victim,
        };
        crash::prove(&mut stages, &setup, &draw, &mut count)?;
    }
    Ok((held, failed))
}
