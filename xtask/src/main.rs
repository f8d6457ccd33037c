//! `cargo xtask`: everything that is done with this repository, each with its own set-up.

mod bench;
mod cluster;
mod crds;
mod demo;
mod ebpf;
mod enclosure;
mod fuzz;
mod image;
mod progress;
mod prove;
mod setup;
mod standalone;
mod test;
mod tidy;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the Hemostat repository.
#[derive(Parser)]
#[command(name = "cargo xtask", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building the kernel side needs (compiler with library source, bpf-linker), and say what was found.
    Setup(setup::Options),
    /// Build the eBPF objects.
    Ebpf,
    /// Run clippy, warnings denied, over what is no part of the workspace: the kernel side and the fuzz targets.
    Lint,
    /// Play real attacks by harmless stand-ins against Hemostat on this host: seen, contained, undone.
    Demo(demo::Options),
    /// A real Kubernetes of one node on this machine: up, down, status, logs.
    Cluster(cluster::Options),
    /// Assemble the images of agent and controller as OCI archives, without a daemon.
    Image(image::Options),
    /// Write deploy/crds and the tables of docs/resources.md from the types, or compare them.
    Crds(crds::Options),
    /// Prove what the cluster form promises, on a real Kubernetes.
    Prove(prove::Options),
    /// Measure, with targets.
    Bench(bench::Options),
    /// Run every test that this machine can run, and say which were skipped and why.
    Test(test::Options),
    /// Fuzz every parser, the matcher and the correlations for some seconds each, guided by coverage.
    Fuzz(fuzz::Options),
    /// Hold the repository's own rules: crate arrows, file lengths, forbidden names, links in docs.
    Tidy,
}

fn main() -> std::process::ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup(options) => setup::run(&options),
        Task::Ebpf => ebpf::run(),
        Task::Lint => ebpf::lint(),
        Task::Cluster(options) => cluster::run(&options),
        Task::Image(options) => image::run(&options),
        Task::Crds(options) => crds::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Prove(options) => prove::run(&options),
        Task::Demo(options) => demo::run_demo(&options),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Tidy => tidy::run(),
    }
}
