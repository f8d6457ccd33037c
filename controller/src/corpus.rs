//! What came of the rules' own tests, which stand beside them: read and run apart from the core, which must not wait for them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    thread::{self, JoinHandle},
};

use detect::{
    load::Options,
    rule_test::{Outcome, run_rule_tests},
    source::SourceFile,
};
use respond::gate::Corpus;

use crate::files::{self, rules_below};

/// What came of the rules' own tests, by the rules' keys.
#[derive(Debug, Default)]
pub(crate) struct Corpora {
    known: Arc<RwLock<BTreeMap<String, Corpus>>>,
    running: Option<JoinHandle<()>>,
}

impl Corpora {
    /// Runs the tests in `folders`. Until they have come to an end, what was known holds.
    pub(crate) fn run(&mut self, folders: &[PathBuf]) {
        if folders.is_empty() || self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        self.join();
        let (known, folders) = (Arc::clone(&self.known), folders.to_vec());
        let run = move || {
            let found = corpora(&folders);
            tracing::debug!(rules = found.len(), "the rules' own tests were run");
            *known.write().unwrap_or_else(PoisonError::into_inner) = found;
        };
        match thread::Builder::new().name("hemostat-corpus".into()).spawn(run) {
            Ok(running) => self.running = Some(running),
            Err(error) => tracing::warn!(%error, "the rules' own tests are not run"),
        }
    }

    /// Of one rule; nothing while that is not known.
    pub(crate) fn of(&self, rule: &str) -> Option<Corpus> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(rule).copied()
    }

    /// Waits until those that run have come to their end: who replays must not depend on how long they take.
    pub(crate) fn wait(&mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(running) = self.running.take()
            && running.join().is_err()
        {
            tracing::error!("running the rules' own tests ended in a panic");
        }
    }
}

impl Drop for Corpora {
    fn drop(&mut self) {
        self.join();
    }
}

fn corpora(folders: &[PathBuf]) -> BTreeMap<String, Corpus> {
    let rules = rules_below(folders).files;
    let beside = |rules: &SourceFile| {
        let path = PathBuf::from(format!("{}.test.yml", rules.name.strip_suffix(".yml")?));
        let text = String::from_utf8(files::read_file(&path).ok()?).ok()?;
        Some(SourceFile { name: path.display().to_string(), text })
    };
    let tests: Vec<SourceFile> = rules.iter().filter_map(beside).collect();
    let mut all = BTreeMap::<String, Corpus>::new();
    for result in run_rule_tests(&rules, &tests, &Options::default()).results {
        let corpus = all.entry(result.rule).or_default();
        match result.outcome {
            Outcome::Passed => corpus.passed += 1,
            Outcome::Failed { .. } | Outcome::EnginesDiffer { .. } => corpus.failed += 1,
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_own_tests_are_run_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let rule = "title: A\nid: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /x}, condition: s}\nlevel: high\n";
        std::fs::write(dir.path().join("a.yml"), rule).unwrap();
        let case = |name: &str, image: &str, expect: &str| {
            format!(
                "  - name: {name}\n    expect: {expect}\n    event: {{category: process_creation, Image: {image}}}\n"
            )
        };
        let cases = [case("hit", "/x", "match"), case("miss", "/y", "no match"), case("odd", "/y", "match")];
        let text = format!("tests:\n{}", cases.concat());
        std::fs::write(dir.path().join("a.test.yml"), text).unwrap();
        let found = corpora(&[dir.path().to_owned()]);
        assert_eq!(found.get("a"), Some(&Corpus { passed: 2, failed: 1 }));
        let mut all = Corpora::default();
        all.run(&[dir.path().to_owned()]);
        all.join();
        assert_eq!(all.of("a"), Some(Corpus { passed: 2, failed: 1 }));
        assert_eq!(all.of("b"), None);
    }
}
