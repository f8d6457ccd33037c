//! `hemostat rules`: what a rule's author needs before a rule goes to a machine.

mod bench;
mod check;
mod coverage;
mod explain;
mod test;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use controller::config::read_file;
use detect::source::SourceFile;

use super::files_below;
use crate::{
    Shared,
    exit::{Ended, Exit},
};

/// Where rules are looked for when no path is given.
const DEFAULT_FOLDER: &str = "rules";

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Compile rules and say what is wrong, where, and what was expected. Exit code 1 if a rule cannot be loaded.
    Check {
        /// Files and folders.
        #[arg(default_value = DEFAULT_FOLDER)]
        paths: Vec<PathBuf>,
        /// Warnings count as errors.
        #[arg(long)]
        strict: bool,
    },
    /// Run the tests that stand beside the rules (`NAME.test.yml`).
    Test {
        /// Files and folders.
        #[arg(default_value = DEFAULT_FOLDER)]
        paths: Vec<PathBuf>,
    },
    /// What a rule needs from the kernel; with an event, why it did or did not match, predicate by predicate.
    Explain {
        /// The rule's id, title or file name.
        rule: String,
        /// Files and folders.
        #[arg(long = "rules", default_value = DEFAULT_FOLDER)]
        paths: Vec<PathBuf>,
        /// An event, finding or incident as JSON (`hemostat incidents show ID -o json`); `-` reads it from standard input.
        #[arg(long, value_name = "FILE")]
        event: Option<PathBuf>,
    },
    /// How fast the rules are judged on this machine, and which of them are looked at most.
    Bench {
        /// Files and folders.
        #[arg(default_value = DEFAULT_FOLDER)]
        paths: Vec<PathBuf>,
        /// Recorded events: one JSON object a line (events, findings or incidents). Without it, the events of the rules' tests and
        /// events made from the rules themselves.
        #[arg(long, value_name = "FILE")]
        events: Option<PathBuf>,
        /// Rules to list.
        #[arg(long, default_value_t = 10)]
        top: usize,
        /// Seconds to measure.
        #[arg(long, default_value_t = 2)]
        seconds: u64,
    },
    /// Which ATT&CK techniques the rules cover.
    Coverage {
        /// Files and folders.
        #[arg(default_value = DEFAULT_FOLDER)]
        paths: Vec<PathBuf>,
        /// A layer for the ATT&CK Navigator instead of the table.
        #[arg(long)]
        navigator: bool,
    },
}

pub(crate) fn run(shared: &Shared, task: Task) -> Result<Exit> {
    match task {
        Task::Check { paths, strict } => check::run(shared, &paths, strict),
        Task::Test { paths } => test::run(shared, &paths),
        Task::Explain { rule, paths, event } => explain::run(shared, &rule, &paths, event.as_deref()),
        Task::Bench { paths, events, top, seconds } => {
            let effort = bench::Effort { top, time: std::time::Duration::from_secs(seconds.clamp(1, 600)) };
            bench::run(shared, &paths, events.as_deref(), effort)
        }
        Task::Coverage { paths, navigator } => coverage::run(shared, &paths, navigator),
    }
}

/// [`read_rules`] for commands whose whole point is the rules: nothing to read is a mistake in the path, and no success.
pub(crate) fn read_some_rules(paths: &[PathBuf]) -> Result<Vec<SourceFile>> {
    let files = read_rules(paths)?;
    if files.is_empty() {
        let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Ended::with(
            Exit::Unknown,
            format!("no rule file (*.yml, *.yaml) in {}", places.join(", ")),
        ));
    }
    Ok(files)
}

/// Reads rule files, tests left out.
pub(crate) fn read_rules(paths: &[PathBuf]) -> Result<Vec<SourceFile>> {
    rule_files(paths)?.iter().map(|path| read_one(path)).collect()
}

fn rule_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = files_below(paths, &[".yml", ".yaml"])?;
    files.retain(|path| !is_test(path));
    Ok(files)
}

fn read_one(path: &Path) -> Result<SourceFile> {
    // A file that is not UTF-8 is still looked at: the front end says where it is broken.
    let bytes = read_file(path).with_context(|| format!("read the rule file {}", path.display()))?;
    Ok(SourceFile { name: path.display().to_string(), text: String::from_utf8_lossy(&bytes).into_owned() })
}

pub(crate) fn is_test(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.ends_with(".test.yml") || text.ends_with(".test.yaml"))
}
