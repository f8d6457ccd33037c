//! `hemostat playbook`: list, check and graph.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use controller::{api::Playbooks, config::read_file};
use crds::source::{self, Located, Problem, Resource, Severity};
use respond::plan::Plan;
use serde::Serialize;

use super::{asking, client, files_below, refused};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, Column, Fit, Table, Window, counted, wrapped},
};

/// Where playbooks are looked for when no path is given.
const DEFAULT_FOLDER: &str = "playbooks";

#[derive(Subcommand)]
pub(crate) enum Task {
    /// The playbooks in use by the running Hemostat: what each may do by itself, what it answers, and where it was read.
    List,
    /// Say what is wrong with playbooks and policies, where, and what was expected. Exit code 1 if one cannot be used.
    Check {
        /// Files and folders.
        #[arg(default_value = DEFAULT_FOLDER)]
        paths: Vec<PathBuf>,
        /// Warnings count as errors.
        #[arg(long)]
        strict: bool,
    },
    /// Draw a playbook's steps.
    Graph {
        /// Its name or file.
        playbook: String,
        /// Files and folders.
        #[arg(long = "playbooks", default_value = DEFAULT_FOLDER)]
        paths: Vec<PathBuf>,
        /// As text for a terminal, or as a graph for Graphviz.
        #[arg(long, value_enum, default_value_t)]
        form: Form,
    },
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum Form {
    #[default]
    Text,
    Dot,
}

#[derive(Serialize)]
struct Checked {
    files: usize,
    playbooks: Vec<String>,
    policies: Vec<String>,
    errors: usize,
    warnings: usize,
    problems: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    severity: &'static str,
    place: String,
    message: String,
    help: Option<String>,
}

pub(crate) fn run(shared: &Shared, task: Task) -> Result<Exit> {
    match task {
        Task::List => asking(list(shared)),
        Task::Check { paths, strict } => check(shared, &paths, strict),
        Task::Graph { playbook, paths, form } => graph(shared, &playbook, &paths, form),
    }
}

async fn list(shared: &Shared) -> Result<Exit> {
    let told = client(shared).playbooks().await.map_err(refused)?;
    render::print(shared.output, &told, |window| listed(&told, window))?;
    Ok(Exit::Good)
}

fn listed(told: &Playbooks, window: Window) -> String {
    let mut table = Table::new(vec![
        Column { heading: "PLAYBOOK", fit: Fit::Keep },
        Column { heading: "MODE", fit: Fit::Keep },
        Column { heading: "IN FORCE", fit: Fit::Keep },
        Column { heading: "ANSWERS", fit: Fit::Shrink(16) },
        Column { heading: "SOURCE", fit: Fit::Shrink(16) },
    ]);
    for one in &told.loaded {
        table.row([
            one.name.clone(),
            one.mode.clone(),
            one.in_force.clone(),
            one.trigger.clone(),
            one.file.clone(),
        ]);
    }
    let mut out = if told.loaded.is_empty() {
        "No playbook is in use: nothing is answered (--playbooks names files and folders).\n".to_owned()
    } else {
        table.render(window)
    };
    if !told.policies.is_empty() {
        let line = format!("policies: {}", told.policies.join(", "));
        out.push_str(&format!("{}\n", wrapped(&line, window.width, 4)));
    }
    for broken in &told.broken {
        out.push_str(&format!("BROKEN: {}\n", wrapped(broken, window.width.saturating_sub(8), 8)));
    }
    out
}

/// What was found below some paths.
struct Read {
    files: usize,
    resources: Vec<Resource>,
    damaged: Vec<Resource>,
    problems: Vec<Problem>,
}

fn read(paths: &[PathBuf]) -> Result<Read> {
    let files = files_below(paths, &[".yaml", ".yml"])?;
    let mut all =
        Read { files: files.len(), resources: Vec::new(), damaged: Vec::new(), problems: Vec::new() };
    for path in &files {
        let bytes = read_file(path).with_context(|| format!("read the playbook file {}", path.display()))?;
        let reading = source::read(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
        all.resources.extend(reading.resources);
        all.damaged.extend(reading.damaged);
        all.problems.extend(reading.problems);
    }
    Ok(all)
}

fn check(shared: &Shared, paths: &[PathBuf], strict: bool) -> Result<Exit> {
    let Read { files, resources, damaged, mut problems } = read(paths)?;
    if files == 0 {
        let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Ended::with(
            Exit::Unknown,
            format!("no playbook file (*.yaml, *.yml) in {}", places.join(", ")),
        ));
    }
    for resource in &damaged {
        if let Resource::Playbook(playbook) = resource {
            // What has a mistake already may seem to have another because what was wrong is left out.
            let more = Plan::check(playbook, &BTreeSet::new()).problems;
            let known: BTreeSet<_> = problems.iter().map(|one| one.place.clone()).collect();
            problems.extend(more.into_iter().filter(|one| !known.contains(&one.place)));
        }
    }
    let (mut playbooks, mut policies) = (Vec::new(), Vec::new());
    for resource in &resources {
        match resource {
            Resource::Playbook(playbook) => {
                let checked = Plan::check(playbook, &BTreeSet::new());
                problems.extend(checked.problems);
                if checked.plan.is_some() {
                    playbooks.push(name(&playbook.value.metadata.name));
                }
            }
            Resource::ResponsePolicy(policy) => policies.push(name(&policy.value.metadata.name)),
        }
    }
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    let count = |severity: Severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let checked = Checked {
        files,
        playbooks,
        policies,
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        problems: problems
            .iter()
            .map(|problem| Told {
                severity: if problem.severity == Severity::Error { "error" } else { "warning" },
                place: problem.place.to_string(),
                message: problem.message.clone(),
                help: problem.help.clone(),
            })
            .collect(),
    };
    render::print(shared.output, &checked, |_| page(&checked))?;
    let bad = checked.errors > 0 || (strict && checked.warnings > 0);
    Ok(if bad { Exit::Bad } else { Exit::Good })
}

fn page(checked: &Checked) -> String {
    let mut out = String::new();
    for problem in &checked.problems {
        out.push_str(&format!(
            "{}: {}: {}\n",
            problem.place,
            problem.severity,
            render::one_line(&problem.message, 1000)
        ));
        if let Some(help) = &problem.help {
            out.push_str(&format!("    help: {}\n", render::one_line(help, 1000)));
        }
    }
    out.push_str(&format!(
        "{}: {}{}, {}; {}, {}\n",
        counted(checked.files, "file"),
        counted(checked.playbooks.len(), "playbook"),
        match checked.playbooks.as_slice() {
            [] => String::new(),
            names => format!(" ({})", names.join(", ")),
        },
        counted(checked.policies.len(), "policy"),
        counted(checked.errors, "error"),
        counted(checked.warnings, "warning")
    ));
    out
}

fn graph(shared: &Shared, wanted: &str, paths: &[PathBuf], form: Form) -> Result<Exit> {
    let direct = PathBuf::from(wanted);
    let Read { resources, problems, .. } =
        if direct.is_file() { read(std::slice::from_ref(&direct))? } else { read(paths)? };
    let found: Option<&Located<crds::Playbook>> = resources.iter().find_map(|resource| match resource {
        Resource::Playbook(playbook)
            if direct.is_file() || playbook.value.metadata.name.as_deref() == Some(wanted) =>
        {
            Some(&**playbook)
        }
        _ => None,
    });
    let Some(playbook) = found else {
        let why: Vec<String> =
            problems.iter().map(|problem| format!("\n  {}: {}", problem.place, problem.message)).collect();
        return Err(Ended::with(
            Exit::Unknown,
            format!("there is no playbook {wanted:?} to draw{}", why.concat()),
        ));
    };
    let checked = Plan::check(playbook, &BTreeSet::new());
    let Some(plan) = checked.plan else {
        let why: Vec<String> = checked
            .problems
            .iter()
            .map(|problem| format!("\n  {}: {}", problem.place, problem.message))
            .collect();
        return Err(Ended::with(
            Exit::Bad,
            format!("{wanted} cannot be drawn, since it is broken:{}", why.concat()),
        ));
    };
    let text = match form {
        Form::Text => plan.to_text(),
        Form::Dot => plan.to_dot(),
    };
    render::print(shared.output, &text, |_| text.clone())?;
    Ok(Exit::Good)
}

fn name(name: &Option<String>) -> String {
    name.clone().unwrap_or_else(|| "unnamed".into())
}
