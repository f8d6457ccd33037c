//! `hemostat status`.

use std::path::{Path, PathBuf};

use agent::contain::told_in_force;
use anyhow::Result;
use controller::{
    api::{Condition, LinkView, Status},
    client::ClientError,
};

use super::{client, now, refused};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, Window, age, counted, status_page, wrapped},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Tell every reason on one line and shorten nothing.
    #[arg(short, long)]
    wide: bool,
}

pub(crate) async fn run(shared: &Shared, options: &Options) -> Result<Exit> {
    let status = client(shared).status().await.map_err(|error| left_in_force(error, &state_folder()))?;
    render::print(shared.output, &status, |window| page(&status, window.or_wide(options.wide.into())))?;
    let degraded = status.health.condition == Condition::Degraded
        || status.nodes.iter().any(|node| node.status.as_ref().is_some_and(|said| !said.degraded.is_empty()));
    Ok(if degraded { Exit::Bad } else { Exit::Good })
}

/// The state folder of a Hemostat that was started without another one.
fn state_folder() -> PathBuf {
    std::env::var_os("HEMOSTAT_STATE").map_or_else(|| PathBuf::from("/var/lib/hemostat"), PathBuf::from)
}

/// Nobody answers: what may still be frozen or cut off, and how it is lifted.
fn left_in_force(error: ClientError, state: &Path) -> anyhow::Error {
    let is_away = matches!(error, ClientError::Unreachable { .. });
    let error = refused(error);
    let Some(ended) =
        error.downcast_ref::<Ended>().filter(|ended| is_away && ended.exit == Exit::Unreachable)
    else {
        return error;
    };
    let stands = match told_in_force(&agent::contain_folder(&state.join("node"))) {
        Ok(told) if !told.is_empty() => {
            format!("by {} there, {} in force", state.display(), counted(told.len(), "containment"))
        }
        _ => "if it crashed, something may still be frozen or cut off".into(),
    };
    let next = "`hemostat release` lists what is in force and lifts it (--state names its state folder)";
    Ended::with(ended.exit, format!("{}\n{stands}: {next}", ended.message))
}

fn page(status: &Status, window: Window) -> String {
    let now = now();
    let line = format!(
        "controller {} · up {} · {} · {} waiting · {} in force · {}",
        status.version,
        age(status.started, now),
        counted(status.open_incidents, "open incident"),
        counted(status.approvals_waiting, "approval"),
        counted(status.actions_in_force, "action"),
        counted(status.playbooks, "playbook"),
    );
    let mut out = wrapped(&line, window.width, 4) + "\n";
    if let Some(paused) = &status.paused {
        let why = if paused.because.is_empty() { String::new() } else { format!(": {}", paused.because) };
        let line =
            format!("PAUSED by {} {} ago{why}; `hemostat resume` ends it", paused.by, age(paused.at, now));
        out.push_str(&(wrapped(&line, window.width, 4) + "\n"));
    }
    for feed in &status.feeds {
        let line = format!(
            "feed {} · {} in force · {} left out · written {} ago",
            feed.feed,
            counted(feed.indicators, "indicator"),
            feed.left_out,
            age(feed.written, now)
        );
        out.push_str(&(wrapped(&line, window.width, 4) + "\n"));
    }
    let mut degraded = |what: &str| {
        out.push_str(&format!("DEGRADED: {}\n", wrapped(what, window.width.saturating_sub(10), 10)));
    };
    for problem in &status.health.problems {
        degraded(&format!("{}: {}", problem.part, problem.what));
    }
    for node in status.nodes.iter().filter(|node| node.link == LinkView::Down) {
        degraded(&format!(
            "node {}: its link is down, {} waiting",
            node.node,
            counted(node.commands_waiting, "command")
        ));
    }
    out.push('\n');
    let said: Vec<_> = status.nodes.iter().filter_map(|node| node.status.as_deref().cloned()).collect();
    out.push_str(&status_page(&said, now, window));
    out
}
