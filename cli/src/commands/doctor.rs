//! `hemostat doctor`: everything that Hemostat needs of this machine, looked at, with the next step where something is missing.

mod left;
mod machine;
mod probes;
mod setup;

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::{
    Shared,
    exit::Exit,
    render::{self, Colour, Window, wrapped},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// State folder of Hemostat on this node.
    #[arg(long, env = "HEMOSTAT_STATE", default_value = "/var/lib/hemostat")]
    state: PathBuf,
    /// Rule files and folders to look at; the default folder if it is there.
    #[arg(long)]
    rules: Vec<PathBuf>,
    /// Playbook files and folders to look at; the default folder if it is there.
    #[arg(long)]
    playbooks: Vec<PathBuf>,
    /// This machine's certificate (PEM), where it speaks to a controller over the network.
    #[arg(long, value_name = "FILE", requires_all = ["key", "authority"])]
    certificate: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The authority that both ends trust.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    authority: Option<PathBuf>,
    /// Do not load any eBPF program.
    #[arg(long)]
    no_hooks: bool,
    /// Tell each thing on one line and shorten nothing.
    #[arg(short, long)]
    wide: bool,
}

/// How a look at one thing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// It works, with less than there could be.
    Lesser,
    /// Hemostat cannot do its work like this.
    Bad,
    /// Not looked at, and why.
    Skipped,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Look {
    pub(crate) what: String,
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    /// What to do next; empty when nothing has to be done.
    pub(crate) next: String,
}

impl Look {
    pub(crate) fn new(what: impl Into<String>, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict, found: found.into(), next: String::new() }
    }

    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next = step.into();
        self
    }
}

pub(crate) fn run(shared: &Shared, options: &Options) -> Result<Exit> {
    let mut looks = machine::look(&options.state);
    looks.extend(if options.no_hooks {
        vec![Look::new("hooks", Verdict::Skipped, "left out by --no-hooks")]
    } else {
        probes::look()
    });
    looks.extend(setup::look(&options.rules, &options.playbooks));
    looks.push(setup::identity(
        options.certificate.as_deref(),
        options.key.as_deref(),
        options.authority.as_deref(),
    ));
    looks.push(setup::controller(shared));
    looks.push(left::containments(&options.state));
    render::print(shared.output, &looks, |window| page(&looks, window.or_wide(options.wide.into())))?;
    let bad = looks.iter().any(|look| look.verdict == Verdict::Bad);
    Ok(if bad { Exit::Bad } else { Exit::Good })
}

fn page(looks: &[Look], window: Window) -> String {
    let widest = looks.iter().map(|look| look.what.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for look in looks {
        let (sign, colour) = match look.verdict {
            Verdict::Good => ("ok     ", "32"),
            Verdict::Lesser => ("lesser ", "33"),
            Verdict::Bad => ("BAD    ", "1;31"),
            Verdict::Skipped => ("skipped", "2"),
        };
        let sign = match window.colour {
            Colour::Ansi => format!("\x1b[{colour}m{sign}\x1b[0m"),
            Colour::Plain => sign.to_owned(),
        };
        let room = window.width.saturating_sub(widest + 11).max(20);
        let indent = widest + 11;
        let found = wrapped(&look.found, room, indent);
        out.push_str(&format!("{sign}  {:<widest$}  {found}\n", look.what));
        if !look.next.is_empty() {
            let next = wrapped(&look.next, room.saturating_sub(2), indent + 2);
            out.push_str(&format!("{:indent$}→ {next}\n", ""));
        }
    }
    let count = |verdict: Verdict| looks.iter().filter(|look| look.verdict == verdict).count();
    out.push_str(&format!(
        "{} good, {} with less than there could be, {} bad, {} skipped\n",
        count(Verdict::Good),
        count(Verdict::Lesser),
        count(Verdict::Bad),
        count(Verdict::Skipped)
    ));
    out
}
