//! `hemostat rules check`.

use std::path::PathBuf;

use anyhow::Result;
use detect::{
    ast::Correlation,
    correlation::quiet,
    diagnostic::{Code, Diagnostic, Severity, render},
    load::{Loaded, load},
    matcher::{Options, RuleSet},
    schema::Firing,
    source::SourceFile,
};
use serde::Serialize;

use super::read_some_rules;
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, Colour, Window, counted},
};

/// The answer for programs.
#[derive(Serialize)]
struct Checked {
    files: usize,
    rules: usize,
    correlations: Vec<Correlates>,
    filters: usize,
    /// What gave placeholders their values, and taxonomies their names.
    tables: Vec<String>,
    errors: usize,
    warnings: usize,
    /// Loaded, but nothing on this product's sources can make them match.
    cannot_fire: Vec<CannotFire>,
    diagnostics: Vec<Told>,
}

/// A correlation: it runs in the controller, over what its rules find on all nodes.
#[derive(Serialize)]
struct Correlates {
    key: String,
    title: String,
    kind: &'static str,
    /// The rules and correlations that it refers to.
    over: Vec<String>,
    /// Those of them that report nothing by themselves.
    silent: Vec<String>,
    within_seconds: u64,
    runs_in: &'static str,
}

#[derive(Serialize)]
struct CannotFire {
    rule: String,
    why: String,
}

#[derive(Serialize)]
struct Told {
    severity: &'static str,
    code: &'static str,
    message: String,
    file: String,
    line: usize,
    column: usize,
    help: Vec<String>,
}

pub(super) fn run(shared: &Shared, paths: &[PathBuf], strict: bool) -> Result<Exit> {
    let files = read_some_rules(paths)?;
    let loaded = load(&files);
    let (_set, compiled) = RuleSet::compile(&loaded.rules, Options::default());
    let mut diagnostics = loaded.diagnostics.clone();
    diagnostics.extend(compiled);
    diagnostics.extend(ids_that_are_none(&loaded));
    let count = |severity: Severity| diagnostics.iter().filter(|told| told.severity == severity).count();
    let checked = Checked {
        files: files.len(),
        rules: loaded.rules.len(),
        correlations: correlates(&loaded),
        filters: loaded.filters.len(),
        tables: loaded.tables.iter().flat_map(|table| table.gives.iter().cloned()).collect(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        cannot_fire: loaded
            .rules
            .iter()
            .filter_map(|rule| match &rule.firing {
                Firing::Can => None,
                Firing::Cannot { why } => Some(CannotFire { rule: rule.key().to_owned(), why: why.clone() }),
            })
            .collect(),
        diagnostics: diagnostics.iter().map(|diagnostic| told(diagnostic, &files)).collect(),
    };
    let some = checked.rules + checked.correlations.len() + checked.filters + checked.tables.len();
    if some == 0 && diagnostics.is_empty() {
        let names: Vec<&str> = files.iter().take(5).map(|file| file.name.as_str()).collect();
        return Err(Ended::with(
            Exit::Unknown,
            format!("no rule in {}: nothing was checked", names.join(", ")),
        ));
    }
    render::print(shared.output, &checked, |window| page(&checked, &diagnostics, &files, window))?;
    let bad = checked.errors > 0 || (strict && checked.warnings > 0);
    Ok(if bad { Exit::Bad } else { Exit::Good })
}

fn page(checked: &Checked, diagnostics: &[Diagnostic], files: &[SourceFile], window: Window) -> String {
    let colour = match window.colour {
        Colour::Plain => detect::diagnostic::Colour::Plain,
        Colour::Ansi => detect::diagnostic::Colour::Ansi,
    };
    let mut out = render(diagnostics, files, colour);
    out.push_str(&format!(
        "{}: {}, {}, {} loaded; {}, {}\n",
        counted(checked.files, "file"),
        counted(checked.rules, "rule"),
        counted(checked.correlations.len(), "correlation"),
        counted(checked.filters, "filter"),
        counted(checked.errors, "error"),
        counted(checked.warnings, "warning")
    ));
    for one in &checked.correlations {
        let silent = if one.silent.is_empty() {
            "all of them report by themselves, too".to_owned()
        } else {
            format!("{} only through it", render::one_line(&one.silent.join(", "), 200))
        };
        out.push_str(&format!(
            "correlation {} ({} within {} s) runs in the controller over {}: {silent}\n",
            render::one_line(&one.title, 100),
            one.kind,
            one.within_seconds,
            render::one_line(&one.over.join(", "), 200)
        ));
    }
    if !checked.tables.is_empty() {
        out.push_str(&format!("the files give: {}\n", render::one_line(&checked.tables.join(", "), 400)));
    }
    if !checked.cannot_fire.is_empty() {
        out.push_str(&format!(
            "{} cannot fire on this product's sources (-o json says why for each)\n",
            counted(checked.cannot_fire.len(), "rule")
        ));
    }
    out
}

/// Whoever shares rules finds them by their ids: Sigma asks for UUIDs. Here any text does that no other rule has.
fn ids_that_are_none(loaded: &Loaded) -> Vec<Diagnostic> {
    let rules = loaded.rules.iter().map(|rule| &rule.meta);
    let all = rules.chain(loaded.correlations.iter().map(|one| &one.meta));
    let ids = all.filter_map(|meta| meta.id.as_ref()).filter(|id| !is_uuid(&id.value));
    ids.map(|id| {
        let message = format!("the id `{}` is no UUID", id.value);
        Diagnostic::warning(Code::BadValue, message, id.span, "Sigma asks for one, as `uuidgen` makes it")
    })
    .collect()
}

/// `2212e54a-22b7-59c8-b892-8be4f49785f7`.
fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn correlates(loaded: &Loaded) -> Vec<Correlates> {
    let quiet = quiet(&loaded.correlations);
    let of = |one: &Correlation| Correlates {
        key: one.meta.key.clone(),
        title: one.meta.title.value.clone(),
        kind: one.kind.value.name(),
        over: one.rules.iter().map(|rule| rule.text.clone()).collect(),
        silent: one
            .rules
            .iter()
            .filter(|rule| quiet.contains(&rule.key))
            .map(|rule| rule.text.clone())
            .collect(),
        within_seconds: one.timespan.value.as_secs(),
        runs_in: "controller",
    };
    loaded.correlations.iter().map(of).collect()
}

fn told(diagnostic: &Diagnostic, files: &[SourceFile]) -> Told {
    let (file, line, column) = diagnostic.place(files).unwrap_or(("", 0, 0));
    Told {
        severity: match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        code: diagnostic.code.name(),
        message: diagnostic.message.clone(),
        file: file.to_owned(),
        line,
        column,
        help: diagnostic.help.clone(),
    }
}
