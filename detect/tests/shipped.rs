//! The rules that we ship load without a word from the checker, and their tests pass.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use hemostat_detect::{
    diagnostic::{Colour, render},
    load::{Options, load},
    rule_test::{Outcome, run_rule_tests},
    source::SourceFile,
};

#[test]
fn shipped_rules_load_without_diagnostics() {
    let files = files(".yml", Some(".test.yml"));
    assert!(!files.is_empty());
    let loaded = load(&files);
    assert!(loaded.diagnostics.is_empty(), "\n{}", render(&loaded.diagnostics, &files, Colour::Plain));
}

#[test]
fn shipped_rules_pass_their_tests_and_each_has_tests_of_both_kinds() {
    let report =
        run_rule_tests(&files(".yml", Some(".test.yml")), &files(".test.yml", None), &Options::default());
    assert!(report.diagnostics.is_empty(), "\n{}", render(&report.diagnostics, &report.files, Colour::Plain));
    for result in &report.results {
        assert_eq!(result.outcome, Outcome::Passed, "{}: {}", result.file, result.case);
    }
    assert_eq!(report.untested, []);
}

#[test]
fn shipped_rules_say_how_bad_which_technique_and_when_they_are_wrong() {
    let loaded = load(&files(".yml", Some(".test.yml")));
    assert!(loaded.rules.len() >= 150, "{} rules", loaded.rules.len());
    let wrong: Vec<_> = loaded
        .rules
        .iter()
        .map(|rule| &rule.meta)
        .chain(loaded.correlations.iter().map(|correlation| &correlation.meta))
        .filter(|meta| {
            meta.level.is_none() || meta.techniques().is_empty() || meta.false_positives.is_empty()
        })
        .map(|meta| meta.title.value.clone())
        .collect();
    assert_eq!(wrong, Vec::<String>::new(), "without level, technique or falsepositives");
}

fn files(suffix: &str, but: Option<&str>) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
    let mut paths = vec![];
    collect(&root, &mut paths);
    paths.sort();
    let wanted = |path: &&PathBuf| {
        let name = path.to_string_lossy();
        name.ends_with(suffix) && !but.is_some_and(|but| name.ends_with(but))
    };
    paths
        .iter()
        .filter(wanted)
        .map(|path| SourceFile {
            name: path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(),
            text: std::fs::read_to_string(path).unwrap(),
        })
        .collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push(path);
        }
    }
}
