//! `cargo xtask demo`: real attacks by harmless stand-ins, seen in the kernel, contained, and undone, with proof from outside.
//!
//! Each attack runs in a network namespace and a cgroup of its own. What its peer sees decides: silence proves the
//! containment, the same connection speaking again proves the undo. Anything that does not happen makes the demo fail.

mod cleaner;
pub(crate) mod cluster;
mod loops;
mod peer;
mod product;
mod record;
pub(crate) mod stage;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf,
    progress::{is_root, root, run, say},
};
use cleaner::Cleaner;
use loops::Scenario;
use product::Product;
use stage::Stages;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave Hemostat running at the end, to explore with the `hemostat` command and to play attacks by hand.
    #[arg(long)]
    keep: bool,
    /// One JSON line for each stage instead of the story.
    #[arg(long)]
    json: bool,
    /// Play it on a real Kubernetes: a miner in one pod of two.
    #[arg(long, conflicts_with_all = ["keep", "only"])]
    cluster: bool,
    /// How the programs of the cluster are built.
    #[arg(long, default_value = "release", requires = "cluster")]
    profile: String,
    /// A hemostat that is built already, for the cluster's images.
    #[arg(long, requires = "cluster")]
    program: Option<PathBuf>,
    /// How the cluster's pods are connected.
    #[arg(long, value_enum, default_value = "bridge", requires = "cluster")]
    cni: crate::cluster::Cni,
    /// Only these attacks.
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
    /// Write the story as an animated picture (SVG) to this file.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub(crate) fn run_demo(options: &Options) -> Result<()> {
    if !is_root() {
        bail!(
            "the demo loads eBPF programs and makes cgroups, which needs root; run: sudo -E cargo xtask demo"
        );
    }
    if options.cluster {
        let mut stages = Stages::new(options.json);
        let proofs = cluster::run(&mut stages, &options.profile, options.program.as_deref(), options.cni)?;
        stages.title(&format!("{proofs} proofs held"));
        return write_record(&stages, options);
    }
    play_all(&build(Profile::Release)?, options).map(|_proofs| ())
}

/// The demo as an end-to-end test. Gives the number of proofs that held; one that does not is an error.
pub(crate) fn as_test() -> Result<u64> {
    let options = Options {
        keep: false,
        json: false,
        cluster: false,
        profile: String::new(),
        program: None,
        cni: crate::cluster::Cni::Bridge,
        only: Vec::new(),
        record: None,
    };
    play_all(&build(Profile::Checks)?, &options)
}

fn play_all(binaries: &Binaries, options: &Options) -> Result<u64> {
    let scratch = Scratch::make()?;
    let _cleaner = Cleaner::start(&binaries.hemostat, &scratch.0, &loops::cgroup()?)?;
    let mut stages = Stages::new(options.json);
    stages.title("Hemostat on this host: see an attack in the kernel, contain it, undo it");
    say(
        "the shipped rules watch the whole host: on any process that does what these attacks do, four of them may act",
    );
    let product = Product::start(binaries, &scratch.0, &mut stages)?;
    let scenarios: Vec<Scenario> =
        if options.only.is_empty() { Scenario::ALL.to_vec() } else { options.only.clone() };
    let begun = Instant::now();
    for scenario in &scenarios {
        loops::play(*scenario, binaries, &product, &scratch.0, &mut stages)?;
    }
    stages.title("The record");
    product.verify_audit(&mut stages)?;
    if options.keep {
        keep(&product, binaries, &scratch.0)?;
    }
    product.stop(&mut stages)?;
    loops::check_nothing_left(&mut stages)?;
    stages.title(&format!(
        "{} attacks contained and undone in {:.1} s",
        scenarios.len(),
        begun.elapsed().as_secs_f64()
    ));
    write_record(&stages, options)?;
    Ok(stages.proofs())
}

fn write_record(stages: &Stages, options: &Options) -> Result<()> {
    if let Some(file) = &options.record {
        std::fs::write(file, record::svg(stages.lines()))
            .with_context(|| format!("write {}", file.display()))?;
        say(format!("recorded: {}", file.display()));
    }
    Ok(())
}

/// How programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As users run them.
    Release,
    /// As the tests are built, so that nothing is compiled twice.
    Checks,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Checks => "checks",
        }
    }
}

/// Programs that the demo runs.
pub(crate) struct Binaries {
    pub(crate) hemostat: PathBuf,
    pub(crate) standin: PathBuf,
}

/// Builds what the demo runs; the toolchain of the kernel side is set up on the way.
pub(crate) fn build(profile: Profile) -> Result<Binaries> {
    ebpf::run()?;
    run(
        &format!("build hemostat and the stand-ins ({})", profile.name()),
        Command::new("cargo").current_dir(root()).args(["build", "--profile", profile.name()]).args([
            "-p",
            "hemostat",
            "-p",
            "hemostat-standins",
        ]),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = if target.is_absolute() { target } else { root().join(target) }.join(profile.name());
    Ok(Binaries { hemostat: folder.join("hemostat"), standin: folder.join("standin") })
}

fn keep(product: &Product, binaries: &Binaries, scratch: &Path) -> Result<()> {
    eprintln!("\nHemostat goes on running. In another terminal:\n");
    eprintln!("    export HEMOSTAT_SOCKET={}", product.socket().display());
    eprintln!("    export HEMOSTAT_STATE={}", product.state().display());
    for command in ["status", "incidents", "audit show", "audit verify"] {
        eprintln!("    {} {command}", binaries.hemostat.display());
    }
    eprintln!("\nPlay an attack:\n");
    eprintln!(
        "    {} play miner --cgroup hemostat-demo/by-hand --scratch {}",
        binaries.standin.display(),
        scratch.join("by-hand").display()
    );
    eprintln!("\n(It goes on until its input ends; `poke` and Enter asks it for a sign of life.)");
    eprintln!("\nEnter ends it all and removes everything.");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("wait for Enter")?;
    Ok(())
}

/// The demo's own folder; removed at its end, also after an error.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("hemostat-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}
