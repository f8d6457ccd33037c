//! `hemostat audit`: show and verify.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use controller::{
    ControllerConfig,
    audit::{self, Anchor, AuditKey, Query},
};

use super::{asking, client, now, refused, since::Since};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, Format, audit_table},
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
        #[arg(long, value_name = "ID")]
        incident: Option<String>,
        /// At most this many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
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
        Task::Show { after, since, incident, limit } => {
            let since = since.map(|since| since.at(now()));
            asking(show(shared, Query { after, since, incident, limit }))
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
    render::print(shared.output, &page, |window| {
        let anchor = serde_json::to_string(&page.anchor).unwrap_or_default();
        format!(
            "{}\nlog: {}\nanchor (keep it elsewhere): {anchor}\n",
            audit_table(&page.entries, window),
            page.log
        )
    })?;
    Ok(Exit::Good)
}

fn verify(shared: &Shared, log: PathBuf, key: PathBuf, anchor: PathBuf) -> Result<Exit> {
    let key = AuditKey::load(&key).map_err(|error| Ended::with(Exit::Bad, error.to_string()))?;
    let anchor = Anchor::read(&anchor).map_err(|error| Ended::with(Exit::Bad, error.to_string()))?;
    let report = audit::verify_log(&log, &key, Some(&anchor))?;
    if report.is_whole() {
        render::print(shared.output, &report, |_| {
            let files =
                if report.files == 1 { "1 file".to_owned() } else { format!("{} files", report.files) };
            format!("{} entries in {files}, the chain is whole\n", report.lines)
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
