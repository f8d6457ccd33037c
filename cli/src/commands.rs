//! One file for each command.

pub(crate) mod agent;
mod api_server;
pub(crate) mod audit;
pub(crate) mod controller;
pub(crate) mod decide;
pub(crate) mod doctor;
pub(crate) mod gate;
pub(crate) mod incidents;
pub(crate) mod kubectl;
pub(crate) mod playbook;
mod promotion;
pub(crate) mod release;
pub(crate) mod replay;
pub(crate) mod rules;
mod since;
pub(crate) mod standalone;
pub(crate) mod status;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ::controller::{
    api::ApiErrorKind,
    client::{Client, ClientError},
};
use anyhow::{Context, Result};
use model::Timestamp;

use crate::{
    Shared,
    exit::{Ended, Exit},
};

/// The wall clock: the one place of the command where it is read.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Runs a command that asks the controller.
pub(crate) fn asking(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(command)
}

/// The data classification policy of that file.
fn classes(file: Option<&Path>) -> Result<Arc<enrich::Classes>> {
    let Some(path) = file else { return Ok(Arc::default()) };
    let bytes = ::controller::config::read_file(path).with_context(|| format!("read {}", path.display()))?;
    let bad = |because: String| Ended::with(Exit::Bad, format!("{}: {because}", path.display()));
    let text = String::from_utf8(bytes).map_err(|error| bad(error.to_string()))?;
    let read = enrich::Classes::parse(&path.display().to_string(), &text);
    read.map(Arc::new).map_err(|error| bad(error.to_string()))
}

fn client(shared: &Shared) -> Client {
    Client::new(&shared.socket)
}

/// Gives an error of the controller its exit code.
fn refused(error: ClientError) -> anyhow::Error {
    let exit = match &error {
        ClientError::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Exit::Forbidden
        }
        ClientError::Unreachable { .. } | ClientError::Broken(_) => Exit::Unreachable,
        ClientError::Refused(api) => match api.kind {
            ApiErrorKind::Malformed => Exit::Usage,
            ApiErrorKind::Forbidden => Exit::Forbidden,
            ApiErrorKind::Unknown => Exit::Unknown,
            ApiErrorKind::Conflict => Exit::Conflict,
            ApiErrorKind::Unavailable => Exit::Unreachable,
        },
        ClientError::Unreadable(_) | ClientError::Foreign { .. } => Exit::Bad,
    };
    Ended::with(exit, error.to_string())
}

/// A node's name as somebody gives it: one that a host or a node of Kubernetes can have.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    const MAX: usize = 253;
    let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !text.chars().all(within)
        || !ends(text.chars().next())
        || !ends(text.chars().last())
        || text.len() > MAX
    {
        return Err(format!(
            "a node's name has 1 to {MAX} letters (a to z), digits, `-`, `_` and `.`, with a letter or digit at both ends"
        ));
    }
    Ok(text.to_owned())
}

/// How many of something are listed: none would look as if there were none.
pub(crate) fn at_least_one() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

/// An incident as somebody names it. An empty word, as of an unset variable, is refused before anybody is asked: it would be the beginning of
/// every name.
pub(crate) fn incident_id(text: &str) -> Result<String, String> {
    match text.strip_prefix("inc-").or_else(|| text.strip_prefix("act-")).unwrap_or(text).trim() {
        "" => {
            Err("which one? Its id is needed (is a variable empty?); `hemostat incidents` lists them".into())
        }
        _ => Ok(text.to_owned()),
    }
}

/// Files below `folders` with one of the endings, sorted, so that output and ids do not depend on the file system. A path that is a
/// file is taken as it is.
pub(crate) fn files_below(paths: &[PathBuf], endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let kind = std::fs::metadata(path).with_context(|| not_looked_at(path))?;
        if kind.is_dir() {
            collect(path, endings, &mut found)?;
        } else {
            found.push(path.clone());
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Where it was looked, and what else can be given: `rules` and `playbooks` are what is meant where nothing is named.
fn not_looked_at(path: &Path) -> String {
    let here = std::env::current_dir().map(|here| here.display().to_string()).unwrap_or_default();
    match path.to_str() {
        Some(name @ ("rules" | "playbooks")) => format!(
            "look at {name}, which is meant where nothing else is said, in {here}: name files or folders, or give --{name} to a command \
             that takes it"
        ),
        _ if path.is_relative() => format!("look at {} in {here}", path.display()),
        _ => format!("look at {}", path.display()),
    }
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let (path, kind) =
            (entry.path(), entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?);
        if kind.is_dir() {
            collect(&path, endings, found)?;
        } else if path.to_str().is_some_and(|text| endings.iter().any(|ending| text.ends_with(ending))) {
            found.push(path);
        }
    }
    Ok(())
}
