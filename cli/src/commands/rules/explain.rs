//! `hemostat rules explain`.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use detect::{
    ast::Rule,
    explain,
    load::load,
    matcher::{Options, RuleIndex, RuleSet},
    schema::{Firing, View},
    source::SourceFile,
};
use model::{Event, Finding, Incident};
use serde::Serialize;

use super::read_rules;
use crate::{
    Shared,
    exit::{Ended, Exit},
    render,
};

/// Largest event file, in bytes: an incident with all its findings is a few MB.
const MAX_EVENT: u64 = 64 << 20;

/// Rules that are named where several fit.
const LISTED: usize = 10;

#[derive(Serialize)]
struct Explained {
    rule: String,
    title: String,
    /// Why no event of this product's sources can make it match; absent if one can.
    cannot_fire: Option<String>,
    /// What it needs from the kernel, and why the filter cannot be narrower.
    kernel: Vec<String>,
    /// One text for each event.
    events: Vec<String>,
}

pub(super) fn run(shared: &Shared, wanted: &str, paths: &[PathBuf], event: Option<&Path>) -> Result<Exit> {
    let files = read_rules(paths)?;
    let loaded = load(&files);
    let (position, rule) = find(&loaded.rules, &files, wanted)?;
    let (set, _diagnostics) = RuleSet::compile(&loaded.rules, Options::default());
    let events = event.map(read_events).transpose()?.unwrap_or_default();
    let explained = Explained {
        rule: rule.key().to_owned(),
        title: rule.meta.title.value.clone(),
        cannot_fire: match &rule.firing {
            Firing::Can => None,
            Firing::Cannot { why } => Some(why.clone()),
        },
        kernel: set.explain_plan(RuleIndex(u32::try_from(position).unwrap_or(u32::MAX))).to_vec(),
        events: events
            .iter()
            .map(|(of, event)| {
                let why = explain::render(&explain::explain(rule, &View::new(event)));
                of.as_ref().map_or_else(|| why.clone(), |of| format!("{of}:\n{why}"))
            })
            .collect(),
    };
    render::print(shared.output, &explained, |_| page(&explained))?;
    Ok(Exit::Good)
}

fn page(explained: &Explained) -> String {
    let mut out = format!("{} ({})\n", explained.title, explained.rule);
    match &explained.cannot_fire {
        Some(why) => out.push_str(&format!("cannot fire on this product's sources: {why}\n")),
        None => out.push_str("can fire on this product's sources\n"),
    }
    out.push_str("\nfrom the kernel:\n");
    for line in &explained.kernel {
        out.push_str(&format!("  {line}\n"));
    }
    for event in &explained.events {
        out.push('\n');
        out.push_str(event);
    }
    out
}

/// By id, title or file name; by part of one of them if that is unambiguous.
fn find<'a>(rules: &'a [Rule], files: &[SourceFile], wanted: &str) -> Result<(usize, &'a Rule)> {
    let file = |rule: &Rule| files.get(rule.meta.span.file.0 as usize).map_or("", |file| file.name.as_str());
    let is = |rule: &Rule, fits: &dyn Fn(&str) -> bool| {
        fits(rule.key()) || fits(&rule.meta.title.value) || fits(file(rule))
    };
    let exact: Vec<_> =
        rules.iter().enumerate().filter(|(_, rule)| is(rule, &|text| text == wanted)).collect();
    let folded = wanted.to_lowercase();
    let partial: Vec<_> = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| is(rule, &|text| text.to_lowercase().contains(&folded)))
        .collect();
    match (exact.as_slice(), partial.as_slice()) {
        ([one], _) | ([], [one]) => Ok(*one),
        ([], []) => Err(Ended::with(
            Exit::Unknown,
            format!("no rule has {wanted:?} as its id, or in its title or file name"),
        )),
        (many, more) => {
            let several = if many.is_empty() { more } else { many };
            let mut names: Vec<String> = several
                .iter()
                .take(LISTED)
                .map(|(_, rule)| format!("  {} {}", rule.key(), rule.meta.title.value))
                .collect();
            if several.len() > LISTED {
                names.push(format!("  … and {} more: write more of it", several.len() - LISTED));
            }
            Err(Ended::with(
                Exit::Unknown,
                format!("{} rules fit {wanted:?}:\n{}", several.len(), names.join("\n")),
            ))
        }
    }
}

/// How a verdict on a finding's event is told apart from those of the others.
fn called(finding: &Finding) -> Option<String> {
    let title = render::one_line(&finding.rule.title, 100);
    Some(format!("the event of finding {} ({title}; rule {})", finding.id, finding.rule.id))
}

/// Events of a file that holds an event, a finding or an incident; what a finding is called.
fn read_events(path: &Path) -> Result<Vec<(Option<String>, Event)>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_EVENT).read_to_string(&mut text).context("read standard input")?;
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        file.take(MAX_EVENT).read_to_string(&mut text).with_context(|| format!("read {}", path.display()))?;
    }
    if let Ok(incident) = serde_json::from_str::<Incident>(&text) {
        return Ok(incident.findings.into_iter().map(|finding| (called(&finding), finding.event)).collect());
    }
    if let Ok(finding) = serde_json::from_str::<Finding>(&text) {
        return Ok(vec![(called(&finding), finding.event)]);
    }
    let event = serde_json::from_str::<Event>(&text)
        .with_context(|| format!("{} holds no event, finding or incident as JSON", path.display()))?;
    Ok(vec![(None, event)])
}
