//! `hemostat audit`: show and verify.

use std::{fs::File, io::BufReader, path::PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use controller::{
    ControllerConfig,
    audit::{self, Anchor, AuditKey},
};

use super::{asking, client, refused};
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
        /// At most this many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Whether an entry was removed, changed or moved, or the end cut off. Works offline on the files.
    Verify {
        /// State folder of the controller.
        #[arg(long, env = "HEMOSTAT_STATE", default_value = "/var/lib/hemostat")]
        state: PathBuf,
        /// The log, where it is not in the state folder.
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
        Task::Show { after, limit } => asking(show(shared, after, limit)),
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

async fn show(shared: &Shared, after: u64, limit: usize) -> Result<Exit> {
    let page = client(shared).audit(after, limit).await.map_err(refused)?;
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
    let file = File::open(&log).with_context(|| format!("open the audit log {}", log.display()))?;
    let report = audit::verify(BufReader::new(file), &key, Some(&anchor))
        .with_context(|| format!("read {}", log.display()))?;
    if report.is_whole() {
        render::print(shared.output, &report, |_| format!("{} entries, the chain is whole\n", report.lines))?;
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
