//! `hemostat audit`: show and verify.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use controller::{
    ControllerConfig,
    api::AuditPage,
    audit::{self, Anchor, AuditKey, AuditLog, Query},
};

use super::{asking, at_least_one, client, incident_id, now, refused, since::Since};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, Format, audit_table, counted},
};

#[derive(Subcommand)]
pub(crate) enum Task {
    /// The entries, oldest first, and the anchor to keep elsewhere.
    Show {
        /// Only entries after this position.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Only entries of this time or later: `90m`, `2h`, `7d` ago, or a time in UTC (`2026-11-22T12:04:05Z`).
        #[arg(long, value_name = "TIME")]
        since: Option<Since>,
        /// Only entries of this incident; the beginning of its id is enough.
        #[arg(long, value_name = "ID", value_parser = incident_id)]
        incident: Option<String>,
        /// At most this many.
        #[arg(long, default_value_t = 1000, value_parser = at_least_one())]
        limit: usize,
        /// Read the files of this state folder, without a controller.
        #[arg(long, value_name = "FOLDER")]
        state: Option<PathBuf>,
    },
    /// Whether an entry was removed, changed or moved, or the end cut off. Works offline on the files.
    Verify {
        /// State folder of the controller.
        #[arg(long, env = "HEMOSTAT_STATE", default_value = "/var/lib/hemostat")]
        state: PathBuf,
        /// The log, where it is not in the state folder: the file that is written, with the full ones beside it.
        #[arg(long)]
        log: Option<PathBuf>,
        /// The chain's key, where it is not in the state folder.
        #[arg(long)]
        key: Option<PathBuf>,
        /// An anchor that was kept elsewhere: finds a cut end even if the machine's own anchor was changed, too.
        #[arg(long)]
        anchor: Option<PathBuf>,
    },
}

pub(crate) fn run(shared: &Shared, task: Task) -> Result<Exit> {
    match task {
        Task::Show { after, since, incident, limit, state } => {
            let since = since.map(|since| since.at(now()));
            let query = Query { after, since, incident, limit };
            match state {
                Some(state) => show_files(shared, &state, &query),
                None => asking(show(shared, query)),
            }
        }
        Task::Verify { state, log, key, anchor } => {
            let files = ControllerConfig::in_folders(&state, &state);
            verify(
                shared,
                log.unwrap_or(files.audit_log),
                key.unwrap_or(files.audit_key),
                anchor.unwrap_or(files.audit_anchor),
            )
        }
    }
}

async fn show(shared: &Shared, query: Query) -> Result<Exit> {
    let page = client(shared).audit_of(&query).await.map_err(refused)?;
    print(shared, &page, &query)
}

/// What the files say, unasked whether it is what was written: that is what `verify` is for.
fn show_files(shared: &Shared, state: &Path, query: &Query) -> Result<Exit> {
    let files = ControllerConfig::in_folders(state, state);
    let broken = |error: &dyn std::fmt::Display| Ended::with(Exit::Bad, error.to_string());
    let read = AuditLog::read(&files.audit_log, query).map_err(|error| {
        if error.source.kind() == std::io::ErrorKind::NotFound {
            return Ended::with(Exit::Unknown, format!("{error}; {WHERE}"));
        }
        broken(&error)
    })?;
    let anchor = Anchor::read(&files.audit_anchor).map_err(|error| broken(&error))?;
    let log = files.audit_log.display().to_string();
    let page = AuditPage { entries: read.entries, anchor, log, bytes_read: read.bytes_read };
    print(shared, &page, query)
}

/// Said where there is no log.
const WHERE: &str = "--state is the state folder that the controller was started with";

fn print(shared: &Shared, page: &AuditPage, query: &Query) -> Result<Exit> {
    if let (Some(incident), None, 0, true) =
        (&query.incident, query.since, query.after, page.entries.is_empty())
    {
        let what = format!("{} tells of no incident {incident:?}; `hemostat incidents` lists them", page.log);
        return Err(Ended::with(Exit::Unknown, what));
    }
    render::print(shared.output, page, |window| {
        let anchor = serde_json::to_string(&page.anchor).unwrap_or_default();
        format!(
            "{}\nlog: {}\nanchor (keep it elsewhere): {anchor}\n",
            audit_table(&page.entries, window),
            page.log
        )
    })?;
    Ok(Exit::Good)
}

/// What is closed to this user says nothing of the log.
fn readable(path: &Path) -> Result<()> {
    match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Ended::with(
            Exit::Forbidden,
            format!("{}: {error}: what the controller keeps needs root to be read", path.display()),
        )),
        _ => Ok(()),
    }
}

fn verify(shared: &Shared, log: PathBuf, key: PathBuf, anchor: PathBuf) -> Result<Exit> {
    for path in [&log, &key, &anchor] {
        readable(path)?;
    }
    // Where nothing of it is there, nothing was tampered with: it was looked for in the wrong place. A part that is missing is another matter.
    let missing = |path: &PathBuf| matches!(path.try_exists(), Ok(false));
    if [&log, &key, &anchor].into_iter().all(missing) {
        return Err(Ended::with(
            Exit::Unknown,
            format!(
                "there is no audit log {}, nor its key and anchor: nothing was verified; {WHERE}",
                log.display()
            ),
        ));
    }
    let key = AuditKey::load(&key).map_err(|error| Ended::with(Exit::Bad, error.to_string()))?;
    let anchor = Anchor::read(&anchor).map_err(|error| Ended::with(Exit::Bad, error.to_string()))?;
    let report = audit::verify_log(&log, &key, Some(&anchor))?;
    if report.is_whole() {
        render::print(shared.output, &report, |_| {
            let (lines, files) = (counted(report.lines, "entry"), counted(report.files, "file"));
            format!("{lines} in {files}, the chain is whole\n")
        })?;
        return Ok(Exit::Good);
    }
    if shared.output != Format::Table {
        render::print(shared.output, &report, |_| String::new())?;
        return Ok(Exit::Bad);
    }
    let problems: Vec<String> = report.problems.iter().map(|problem| format!("  {problem}")).collect();
    Err(Ended::with(
        Exit::Bad,
        format!("{} is not as it was written:\n{}", log.display(), problems.join("\n")),
    ))
}
