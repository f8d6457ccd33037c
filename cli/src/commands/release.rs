//! `hemostat release`: lifts containments on this node from the node's own journal. It needs no controller, no agent and no network,
//! so it works on the night on which everything else is down; `--all` also lets processes go that the kernel holds for an agent that is
//! gone, takes away what is pinned in bpffs, and opens what no journal tells of any more. While an agent runs, the journal is its own, and the request goes to the
//! controller beside it.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use agent::{
    contain::{
        Contain, ContainConfig, JournalError, OpenError, Unknown, Which, journals_in_use, list_strays,
    },
    probe::{ProbeConfig, release_held},
};
use anyhow::{Result, bail};
use controller::{api::ApiErrorKind, client::ClientError};
use model::{ActionId, ActionRecord, NodeId, ProcessKey, Target};
use serde::Serialize;

use super::{asking, client, now, refused};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, Column, Fit, Table, Window, age},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Actions to lift (`act-…`); without one, what is in force is listed.
    actions: Vec<String>,
    /// Lift everything that is in force.
    #[arg(long, conflicts_with = "actions")]
    all: bool,
    /// State folder of Hemostat on this node.
    #[arg(long, env = "HEMOSTAT_STATE", default_value = "/var/lib/hemostat")]
    state: PathBuf,
}

/// Said of an action that nothing is known of, or that is over.
const NOT_IN_FORCE: &str = "is not in force on this node";

/// What became of one request.
#[derive(Serialize)]
struct Released {
    action: String,
    done: bool,
    what: String,
}

pub(crate) fn run(shared: &Shared, options: &Options) -> Result<Exit> {
    let folder = agent::contain_folder(&options.state.join("node"));
    match folder.try_exists() {
        Ok(true) => {}
        Ok(false) => return without_journal(shared, options, &folder),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Ended::with(
                Exit::Forbidden,
                format!("{}: {error}: looking at containments and lifting them needs root", folder.display()),
            ));
        }
        Err(error) => return Err(Ended::with(Exit::Bad, format!("look at {}: {error}", folder.display()))),
    }
    match Contain::open(ContainConfig::new(NodeId::new(agent::host_name()), folder.clone())) {
        Ok(contain) => locally(shared, options, &contain, &folder),
        Err(OpenError::Journal(JournalError::Busy { .. })) => asking(through_controller(shared, options)),
        Err(error) => Err(with_advice(&error, &folder)),
    }
}

/// Nothing was ever written down there: what stands all the same stands without a journal.
fn without_journal(shared: &Shared, options: &Options, folder: &Path) -> Result<Exit> {
    let missing = format!(
        "{} does not exist: Hemostat has never contained anything from there (--state says where to look)",
        folder.display()
    );
    let is_root = rustix::process::geteuid().is_root();
    if options.all && !is_root {
        return Err(Ended::with(
            Exit::Forbidden,
            format!("{missing}; lifting what no journal knows needs root"),
        ));
    }
    let unknown = Unknown::without_journal(None, &bpffs_at()).ok();
    if options.all {
        let mut released = held_ones(shared, None);
        if let Some(unknown) = &unknown {
            released.extend(lift_unknown(unknown, None));
            if let Err(error) = unknown.leave_bpffs() {
                tracing::warn!(%error, "the folder in bpffs stays");
            }
        }
        return tell(shared, &released);
    }
    if let Some(unknown) = unknown.filter(|_| options.actions.is_empty() && is_root) {
        told_of_unknown(&unknown, None)?;
    }
    Err(Ended::with(Exit::Unknown, missing))
}

/// Where bpffs is.
pub(super) fn bpffs_at() -> PathBuf {
    ContainConfig::new(NodeId::new(""), PathBuf::new()).bpffs
}

/// Opens what no journal tells of. While another agent runs, with another state folder, it may be its own: then it is left alone.
fn lift_unknown(unknown: &Unknown, own: Option<&Path>) -> Vec<Released> {
    let failed = |what: String| vec![Released { action: "unknown".into(), done: false, what }];
    let strays = match unknown.find() {
        Ok(strays) => strays,
        Err(error) => return failed(format!("what no journal knows cannot be looked for: {error}")),
    };
    if let (Some((pid, journal)), false) = (journals_in_use(own).first(), strays.is_empty()) {
        return failed(format!(
            "left alone, since process {pid} holds the journal in {} and may know of it (--state): {}",
            journal.display(),
            list_strays(&strays)
        ));
    }
    let lifted = strays.iter().map(|stray| {
        let result = unknown.lift(stray);
        Released {
            action: stray.to_string(),
            done: result.is_ok(),
            what: result.unwrap_or_else(|failure| failure.to_string()),
        }
    });
    lifted.collect()
}

/// Errors with what stands that no journal knows, if there is any.
fn told_of_unknown(unknown: &Unknown, own: Option<&Path>) -> Result<()> {
    let strays = unknown.find().unwrap_or_default();
    if strays.is_empty() {
        return Ok(());
    }
    let others = journals_in_use(own);
    let next = match others.first() {
        Some((pid, journal)) => {
            format!("process {pid} holds the journal in {} and may know of it (--state)", journal.display())
        }
        None => "lift it with hemostat release --all".into(),
    };
    Err(Ended::with(
        Exit::Bad,
        format!("in force, though no journal tells of it: {}; {next}", list_strays(&strays)),
    ))
}

fn with_advice(error: &OpenError, folder: &Path) -> anyhow::Error {
    if rustix::process::geteuid().is_root() {
        return Ended::with(Exit::Bad, error.to_string());
    }
    Ended::with(
        Exit::Forbidden,
        format!("{error}: lifting containments below {} needs root", folder.display()),
    )
}

/// Nothing of Hemostat runs here.
fn locally(shared: &Shared, options: &Options, contain: &Contain, folder: &Path) -> Result<Exit> {
    if options.actions.is_empty() && !options.all {
        let listed = list(shared, &contain.in_force())?;
        told_of_unknown(&contain.unknown(), Some(folder))?;
        return Ok(listed);
    }
    let wanted: Vec<Which> = if options.all {
        vec![Which::All]
    } else {
        options.actions.iter().map(|id| Which::One(ActionId::new(id.as_str()))).collect()
    };
    let mut released = Vec::new();
    for which in &wanted {
        let lifted = contain.release(which);
        if let (Which::One(id), true) = (which, lifted.is_empty()) {
            released.push(Released { action: id.to_string(), done: false, what: NOT_IN_FORCE.into() });
        }
        released.extend(lifted.into_iter().map(|one| Released {
            action: one.record.id.to_string(),
            done: one.result.is_ok(),
            what: match one.result {
                Ok(_) => format!("{} on {} lifted", one.record.action.name(), one.record.target),
                Err(failure) => failure.to_string(),
            },
        }));
    }
    if options.all {
        released.extend(held_ones(shared, Some(folder)));
        // what has just been lifted is known to be over
        released.extend(lift_unknown(&contain.unknown(), Some(folder)));
        if released.iter().all(|one| one.done)
            && let Err(failure) = contain.uninstall()
        {
            // Something else is pinned there; nothing is contained by it.
            tracing::warn!(%failure, "the folder in bpffs stays");
        }
    }
    tell(shared, &released)
}

/// Lets those go that an agent which is gone has left standing. One that runs, be it with another state folder, looks after its own.
fn held_ones(shared: &Shared, own: Option<&Path>) -> Vec<Released> {
    if UnixStream::connect(&shared.socket).is_ok() || !journals_in_use(own).is_empty() {
        return Vec::new();
    }
    let all = match release_held(&ProbeConfig::default().pins) {
        Ok(all) => all,
        Err(error) => {
            return vec![Released { action: "held".into(), done: false, what: error.to_string() }];
        }
    };
    let one = |process: ProcessKey| Released {
        action: "held".into(),
        done: true,
        what: format!(
            "{} goes on; the kernel held it for an agent that is gone",
            Target::Process { process }
        ),
    };
    all.into_iter().map(one).collect()
}

/// The agent runs and holds the journal; the controller in the same standalone asks it.
async fn through_controller(shared: &Shared, options: &Options) -> Result<Exit> {
    let client = client(shared);
    let in_force: Vec<ActionRecord> =
        client.actions_in_force().await.map_err(refused)?.into_iter().map(|view| view.record).collect();
    if options.actions.is_empty() && !options.all {
        return list(shared, &in_force);
    }
    let wanted: Vec<String> = if options.all {
        in_force.iter().rev().map(|record| record.id.to_string()).collect()
    } else {
        options.actions.clone()
    };
    let mut released = Vec::new();
    for id in wanted {
        let answer = client.rollback_action(&id, "released on the node").await;
        released.push(match answer {
            Ok(done) => Released { action: id, done: true, what: done.what.join("; ") },
            Err(ClientError::Refused(error)) if error.kind == ApiErrorKind::Unknown => {
                Released { action: id, done: false, what: NOT_IN_FORCE.into() }
            }
            Err(error) => Released { action: id, done: false, what: error.to_string() },
        });
    }
    tell(shared, &released)
}

fn list(shared: &Shared, records: &[ActionRecord]) -> Result<Exit> {
    render::print(shared.output, &records, |window| page(records, window))?;
    Ok(Exit::Good)
}

fn page(records: &[ActionRecord], window: Window) -> String {
    if records.is_empty() {
        return "Nothing is in force on this node.\n".into();
    }
    let mut table = Table::new(vec![
        Column { heading: "ID", fit: Fit::Keep },
        Column { heading: "ACTION", fit: Fit::Keep },
        Column { heading: "TARGET", fit: Fit::Shrink(16) },
        Column { heading: "STATE", fit: Fit::Drop(1) },
        Column { heading: "SINCE", fit: Fit::Drop(2) },
    ]);
    for record in records {
        table.row([
            record.id.to_string(),
            record.action.name().into(),
            record.target.to_string(),
            format!("{:?}", record.state),
            record.applied.map_or_else(|| "–".into(), |at| age(at, now())),
        ]);
    }
    table.render(window) + "lift one: hemostat release ID; all: hemostat release --all\n"
}

fn tell(shared: &Shared, released: &[Released]) -> Result<Exit> {
    render::print(shared.output, &released, |_| {
        if released.is_empty() {
            return "Nothing was in force on this node.\n".into();
        }
        released.iter().map(|one| format!("{}: {}\n", one.action, one.what)).collect()
    })?;
    let failed = released.iter().filter(|one| !one.done).count();
    if failed > 0 && released.iter().all(|one| one.done || one.what == NOT_IN_FORCE) {
        return Err(Ended::with(Exit::Unknown, format!("{failed} of {} not in force here", released.len())));
    }
    if failed > 0 {
        bail!("{failed} of {} not lifted", released.len());
    }
    Ok(Exit::Good)
}
