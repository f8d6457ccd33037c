//! `cargo xtask crds`: what the API server and a reader are told of the types: deploy/crds and the tables of docs/resources.md.

use std::process::Command;

use anyhow::Result;

use crate::progress::{self, root};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail when something differs.
    #[arg(long)]
    check: bool,
}

/// The crate's own test compares; told to, it writes first. So this program need not be built with the types, and CI cannot forget it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(["test", "--quiet", "-p", "hemostat-crds", "--test", "generated"]);
    if options.check {
        return progress::run("compare deploy/crds and docs/resources.md with the types", &mut command);
    }
    command.env("HEMOSTAT_WRITE_CRDS", "1");
    progress::run("write deploy/crds and docs/resources.md", &mut command)
}
