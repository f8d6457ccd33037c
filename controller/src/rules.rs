//! The rules as the controller knows them: it runs their correlations.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use detect::{
    ast::{Correlation, Rule},
    correlation::quiet,
    keep::Kept,
    source::SourceFile,
};
use model::{Reaction, RuleRef};

use crate::{
    files,
    health::{HealthBoard, Part},
};

/// Problems kept (I11).
const MAX_PROBLEMS: usize = 256;

/// What is in use.
#[derive(Debug, Default)]
pub(crate) struct RuleBook {
    rules: Vec<Rule>,
    correlations: Vec<Correlation>,
    /// Those that report nothing by themselves.
    quiet: BTreeSet<String>,
    /// Correlations by key.
    by_key: BTreeMap<String, usize>,
    broken: Vec<String>,
    /// Files as they were when they could be used.
    kept: Kept,
}

impl RuleBook {
    /// Reads all rules in `folders`, which are files or folders, and `further`. Never fails as a whole: what is broken is named.
    pub(crate) fn load(folders: &[PathBuf], further: &[SourceFile]) -> Self {
        Self::reload(folders, further, &Self::default())
    }

    /// The same, but what is broken, empty or not to be read keeps what `before` had of it: it may be half written, and what its
    /// correlations have counted would be gone.
    pub(crate) fn reload(folders: &[PathBuf], further: &[SourceFile], before: &Self) -> Self {
        let mut found = files::rules_below(folders);
        found.files.extend(further.iter().cloned());
        let mut kept = before.kept.clone();
        let in_force = kept.take(found);
        let mut broken: Vec<String> = in_force.problems.iter().map(ToString::to_string).collect();
        broken.truncate(MAX_PROBLEMS);
        let loaded = in_force.loaded;
        let quiet = quiet(&loaded.correlations);
        let keys = loaded.correlations.iter().enumerate();
        let by_key = keys.map(|(place, one)| (one.meta.key.clone(), place)).collect();
        Self { rules: loaded.rules, correlations: loaded.correlations, quiet, by_key, broken, kept }
    }

    /// Tells of what is broken.
    pub(crate) fn report(&self, health: &HealthBoard) {
        match self.broken.as_slice() {
            [] => health.restored(Part::Rules),
            [first, rest @ ..] => {
                let more =
                    if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                let others = match self.rules.is_empty() && self.correlations.is_empty() {
                    true => "no rule is in use, so nothing is found",
                    false => "all others are in use",
                };
                health.degraded(
                    Part::Rules,
                    format!("{first}{more}; {others}: `hemostat rules check` shows each"),
                );
            }
        }
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn correlations(&self) -> &[Correlation] {
        &self.correlations
    }

    /// Whether this rule or correlation reports nothing by itself.
    pub(crate) fn is_quiet(&self, key: &str) -> bool {
        self.quiet.contains(key)
    }

    /// A correlation, with what findings say of it.
    pub(crate) fn correlation(&self, key: &str) -> Option<(&Correlation, RuleRef)> {
        let one = self.correlations.get(*self.by_key.get(key)?)?;
        let meta = &one.meta;
        let rule = RuleRef {
            id: meta.key.clone(),
            title: meta.title.value.clone(),
            level: meta.level_or_default(),
            techniques: meta.techniques(),
            tactics: meta.tactics(),
            // What happened has happened: there is no event left to react to.
            reaction: Reaction::None,
        };
        Some((one, rule))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RULE: &str = "title: A\nid: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /x}, condition: s}\nlevel: high\n";
    const MANY: &str = "title: M\nid: m\ncorrelation: {type: event_count, rules: [a], group-by: [Image], timespan: 1h, condition: {gte: 5}}\nlevel: high\n";

    #[test]
    fn a_file_that_is_half_written_keeps_what_it_had_until_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.yml"), RULE).unwrap();
        fs::write(path("m.yml"), MANY).unwrap();
        let folders = [dir.path().to_owned()];
        let mut book = RuleBook::load(&folders, &[]);
        assert_eq!((book.correlations.len(), book.broken.as_slice()), (1, &[][..]));
        for (file, text) in [("m.yml", ""), ("a.yml", "")] {
            let good = fs::read_to_string(path(file)).unwrap();
            for cut in 1..good.len() {
                fs::write(path(file), &good[..cut]).unwrap();
                let half = RuleBook::reload(&folders, &[], &book);
                let is_whole = half.broken.is_empty();
                assert!(
                    is_whole || half.correlations == book.correlations,
                    "{file} cut at {cut}: {:?}",
                    half.broken
                );
                assert!(is_whole || half.rules.len() == 1);
            }
            fs::write(path(file), text).unwrap();
            let emptied = RuleBook::reload(&folders, &[], &book);
            assert_eq!(emptied.correlations, book.correlations, "{:?}", emptied.broken);
            let said = emptied.broken.join("\n");
            assert!(said.contains("is empty now"), "{said}");
            // Still broken at the next look: what is kept is not lost by it.
            book = RuleBook::reload(&folders, &[], &emptied);
            assert_eq!(book.correlations.len(), 1);
            fs::write(path(file), &good).unwrap();
            book = RuleBook::reload(&folders, &[], &book);
            assert_eq!(book.broken, [""; 0]);
        }
        fs::remove_file(path("m.yml")).unwrap();
        assert_eq!(RuleBook::reload(&folders, &[], &book).correlations, [], "what is removed is gone");
    }
}
