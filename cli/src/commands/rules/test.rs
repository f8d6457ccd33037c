//! `hemostat rules test`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use detect::{
    diagnostic::render,
    load::Options,
    rule_test::{Missing, Outcome, Report, run_rule_tests},
    source::SourceFile,
};
use serde::Serialize;

use super::{is_test, read_some_rules};
use crate::{
    Shared,
    commands::files_below,
    exit::Exit,
    render::{self, Colour, Window, counted},
};

#[derive(Serialize)]
struct Tested {
    rules: usize,
    passed: usize,
    failed: Vec<Failed>,
    untested: Vec<Untested>,
}

#[derive(Serialize)]
struct Failed {
    file: String,
    rule: String,
    case: String,
    why: String,
}

#[derive(Serialize)]
struct Untested {
    rule: String,
    missing: &'static str,
}

pub(super) fn run(shared: &Shared, paths: &[PathBuf]) -> Result<Exit> {
    let rules = read_some_rules(paths)?;
    let tests: Vec<SourceFile> = files_below(paths, &[".yml", ".yaml"])?
        .into_iter()
        .filter(|path| is_test(path))
        .map(|path| {
            let bytes =
                std::fs::read(&path).with_context(|| format!("read the test file {}", path.display()))?;
            Ok(SourceFile {
                name: path.display().to_string(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            })
        })
        .collect::<Result<_>>()?;
    let report = run_rule_tests(&rules, &tests, &Options::default());
    let tested = Tested {
        rules: rules.len(),
        passed: report.results.iter().filter(|result| result.outcome == Outcome::Passed).count(),
        failed: report.results.iter().filter_map(failed).collect(),
        untested: report
            .untested
            .iter()
            .map(|(rule, missing)| Untested { rule: rule.clone(), missing: said(*missing) })
            .collect(),
    };
    render::print(shared.output, &tested, |window| page(&tested, &report, window))?;
    Ok(if report.passed() { Exit::Good } else { Exit::Bad })
}

fn failed(result: &detect::rule_test::CaseResult) -> Option<Failed> {
    let why = match &result.outcome {
        Outcome::Passed => return None,
        Outcome::Failed { expected, explanation } => format!("expected {expected}:\n{explanation}"),
        Outcome::EnginesDiffer { explanation } => {
            format!(
                "the compiled matcher and the interpreter differ, which is a mistake in hemostat:\n{explanation}"
            )
        }
    };
    Some(Failed { file: result.file.clone(), rule: result.rule.clone(), case: result.case.clone(), why })
}

fn said(missing: Missing) -> &'static str {
    match missing {
        Missing::All => "no test",
        Missing::Match => "no event that must match",
        Missing::NoMatch => "no event that must not match",
    }
}

fn page(tested: &Tested, report: &Report, window: Window) -> String {
    let colour = match window.colour {
        Colour::Plain => detect::diagnostic::Colour::Plain,
        Colour::Ansi => detect::diagnostic::Colour::Ansi,
    };
    let mut out = render(&report.diagnostics, &report.files, colour);
    for failed in &tested.failed {
        out.push_str(&format!("FAILED {}: {}: {}\n{}\n", failed.file, failed.rule, failed.case, failed.why));
    }
    for untested in &tested.untested {
        out.push_str(&format!("untested: {}: {}\n", untested.rule, untested.missing));
    }
    out.push_str(&format!(
        "{}: {} passed, {} failed; {} without tests of both kinds\n",
        counted(tested.rules, "rule file"),
        counted(tested.passed, "case"),
        tested.failed.len(),
        counted(tested.untested.len(), "rule")
    ));
    out
}
