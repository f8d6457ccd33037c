//! `hemostat incidents`: list, show, watch.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;
use controller::api::IncidentSummary;

use super::{at_least_one, client, incident_id, now, refused};
use crate::{
    Shared,
    exit::Exit,
    render::{self, Format, Wide, Window, incident_page, incidents_table},
};

/// The controller answers sooner when something changes.
const WATCH_WAIT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Option<Task>,
    /// At most this many, the newest first.
    #[arg(long, default_value_t = 100, value_parser = at_least_one())]
    limit: usize,
}

#[derive(Subcommand)]
enum Task {
    /// The newest incidents (what `hemostat incidents` alone does).
    List {
        /// At most this many.
        #[arg(long, default_value_t = 100, value_parser = at_least_one())]
        limit: usize,
    },
    /// One incident with its findings, process tree, actions and timeline.
    Show {
        /// Its name, or an unambiguous beginning of it.
        #[arg(value_parser = incident_id)]
        id: String,
        /// The whole story as one document from which to decide: a page with pictures, Markdown for a ticket, or JSON.
        #[arg(long, value_enum, value_name = "FORM")]
        narrative: Option<Form>,
        /// Shorten nothing, whatever the window's width.
        #[arg(long, conflicts_with = "narrative")]
        wide: bool,
    },
    /// Follow what happens. With `-o json` one whole incident a line, whenever it changes.
    Watch,
}

/// A form of the narrative.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Form {
    /// One self-contained page.
    Html,
    /// Markdown.
    Md,
    /// JSON.
    Json,
}

pub(crate) async fn run(shared: &Shared, options: Options) -> Result<Exit> {
    match options.task.unwrap_or(Task::List { limit: options.limit }) {
        Task::List { limit } => list(shared, limit).await,
        Task::Show { id, narrative: None, wide } => show(shared, &id, wide.into()).await,
        Task::Show { id, narrative: Some(form), .. } => narrative(shared, &id, form).await,
        Task::Watch => watch(shared).await,
    }
}

async fn list(shared: &Shared, limit: usize) -> Result<Exit> {
    let list = client(shared).incidents(limit).await.map_err(refused)?;
    render::print(shared.output, &list.incidents, |window| incidents_table(&list.incidents, now(), window))?;
    Ok(Exit::Good)
}

async fn show(shared: &Shared, id: &str, wide: Wide) -> Result<Exit> {
    let view = client(shared).incident(id).await.map_err(refused)?;
    render::print(shared.output, &view.incident, |window| {
        let mut page = incident_page(&view.incident, now(), window.or_wide(wide));
        if let Some(into) = &view.merged_into {
            page.push_str(&format!("\nits story goes on in {into}\n"));
        }
        page
    })?;
    Ok(Exit::Good)
}

async fn narrative(shared: &Shared, id: &str, form: Form) -> Result<Exit> {
    let name = match form {
        Form::Html => "html",
        Form::Md => "md",
        Form::Json => "json",
    };
    let mut text = client(shared).narrative(id, name).await.map_err(refused)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    render::write_out(&text)?;
    Ok(Exit::Good)
}

/// Ends with ^C, or with exit code 3 when the controller goes away.
async fn watch(shared: &Shared) -> Result<Exit> {
    let client = client(shared);
    let mut since = 0;
    let mut heading_shown = false;
    loop {
        let list = client.watch(since, WATCH_WAIT).await.map_err(refused)?;
        since = list.revision;
        let mut changed = list.incidents;
        changed.sort_by_key(|incident| incident.revision);
        for incident in &changed {
            match shared.output {
                Format::Table => {
                    render::write_out(&line(incident, &mut heading_shown))?;
                }
                Format::Json => {
                    let view = client.incident(incident.id.as_str()).await.map_err(refused)?;
                    let text = serde_json::to_string(&view.incident).context("write an incident as JSON")?;
                    render::write_out(&(text + "\n"))?;
                }
                Format::Yaml => {
                    let view = client.incident(incident.id.as_str()).await.map_err(refused)?;
                    let text =
                        serde_saphyr::to_string(&view.incident).context("write an incident as YAML")?;
                    render::write_out(&format!("---\n{text}"))?;
                }
            }
        }
    }
}

fn line(incident: &IncidentSummary, heading_shown: &mut bool) -> String {
    let table = incidents_table(std::slice::from_ref(incident), now(), Window::of_stdout());
    let skip = usize::from(std::mem::replace(heading_shown, true));
    table.lines().skip(skip).map(|line| format!("{line}\n")).collect()
}
