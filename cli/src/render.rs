//! What a person sees: tables that fit the window, and the same facts as JSON or YAML for programs.

mod audit;
mod incident;
mod incidents;
mod status;
mod table;
mod text;
mod tree;

pub(crate) use audit::audit_table;
pub(crate) use incident::incident_page;
pub(crate) use incidents::incidents_table;
pub(crate) use status::{is_live, status_page};
pub(crate) use table::{Column, Fit, Table};
pub(crate) use text::{age, counted, one_line, span, wrapped};
pub(crate) use tree::process_tree;

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use serde::Serialize;

/// How results are printed (`-o`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For a person.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// The window that output is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Columns.
    pub(crate) width: usize,
    /// Whether colour helps.
    pub(crate) colour: Colour,
}

/// Whether colour is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Ansi,
}

/// Width where standard output is not a terminal: wide enough that nothing is cut in a file or a pipe.
const PIPE_WIDTH: usize = 200;

/// Whether all is told, however wide it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wide {
    No,
    Yes,
}

impl From<bool> for Wide {
    fn from(asked: bool) -> Self {
        if asked { Self::Yes } else { Self::No }
    }
}

impl Window {
    /// Columns of a window in which nothing has to be shortened.
    const UNLIMITED: usize = 20_000;

    /// This one, or one without an edge.
    pub(crate) fn or_wide(self, wide: Wide) -> Self {
        match wide {
            Wide::No => self,
            Wide::Yes => Self { width: Self::UNLIMITED, ..self },
        }
    }

    /// The terminal behind standard output. `COLUMNS` and `NO_COLOR` (no-color.org) are honoured.
    pub(crate) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let width = std::env::var("COLUMNS")
            .ok()
            .and_then(|columns| columns.parse().ok())
            .or_else(|| terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)))
            .unwrap_or(PIPE_WIDTH)
            .clamp(40, 500);
        let colour =
            if terminal && std::env::var_os("NO_COLOR").is_none() { Colour::Ansi } else { Colour::Plain };
        Self { width, colour }
    }
}

/// Prints `value` as JSON or YAML, or what `page` makes for a person.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    page: impl FnOnce(Window) -> String,
) -> Result<()> {
    let text = match format {
        Format::Table => page(Window::of_stdout()),
        Format::Json => serde_json::to_string_pretty(value).context("write the result as JSON")? + "\n",
        Format::Yaml => serde_saphyr::to_string(value).context("write the result as YAML")?,
    };
    write_out(&text)
}

/// Writes to standard output; a reader that has gone away (`| head`) is not an error.
pub(crate) fn write_out(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to standard output"),
    }
}

/// Writes to standard error, where what is asked and told beside the result goes.
pub(crate) fn write_err(text: &str) -> Result<()> {
    let mut err = std::io::stderr().lock();
    err.write_all(text.as_bytes()).and_then(|()| err.flush()).context("write to standard error")
}
