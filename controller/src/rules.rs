//! The rules as the controller knows them: it runs their correlations.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use detect::{
    ast::{Correlation, Rule},
    correlation::quiet,
    diagnostic::Severity,
    load::{Loaded, load},
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
    /// Files that were read whole, as they were then.
    whole: BTreeMap<String, String>,
}

impl RuleBook {
    /// Reads all rules in `folders`, which are files or folders, and `further`. Never fails as a whole: what is broken is named.
    pub(crate) fn load(folders: &[PathBuf], further: &[SourceFile]) -> Self {
        Self::reload(folders, further, &Self::default())
    }

    /// The same, but a file that is broken, or empty, keeps what `before` had of it until it can be read whole: it may be half written, and
    /// what its correlations have counted would be gone.
    pub(crate) fn reload(folders: &[PathBuf], further: &[SourceFile], before: &Self) -> Self {
        let found = files::yaml_below(folders);
        let mut broken = found.problems;
        let mut texts = Vec::new();
        for file in &found.files {
            let name = file.display().to_string();
            match files::read_file(file) {
                // A file that is not UTF-8 is still looked at: the front end says where it is broken.
                Ok(bytes) => {
                    texts.push(SourceFile { name, text: String::from_utf8_lossy(&bytes).into_owned() });
                }
                Err(error) => {
                    broken.push(format!("{name}: cannot be read: {error}"));
                    texts.extend(before.whole.get(&name).map(|text| SourceFile { name, text: text.clone() }));
                }
            }
        }
        texts.extend(further.iter().cloned());
        let loaded = load(&texts);
        let mut spoilt: BTreeSet<String> = errors(&loaded, &texts, &mut broken);
        for file in texts.iter().filter(|file| file.text.trim().is_empty()) {
            if before.whole.contains_key(&file.name) {
                broken.push(format!("{}: is empty now; remove it to do without its rules", file.name));
                spoilt.insert(file.name.clone());
            }
        }
        let mut whole = BTreeMap::new();
        let mut kept = 0;
        for file in &mut texts {
            if spoilt.contains(&file.name) {
                let Some(text) = before.whole.get(&file.name) else { continue };
                file.text.clone_from(text);
                kept += 1;
            }
            whole.insert(file.name.clone(), file.text.clone());
        }
        let loaded = if kept == 0 {
            loaded
        } else {
            broken.push(format!("{kept} of these files keep the rules that they had before"));
            let again = load(&texts);
            errors(&again, &texts, &mut broken);
            again
        };
        // Files that refer to each other may have been named twice.
        let mut known = BTreeSet::new();
        broken.retain(|line| known.insert(line.clone()));
        broken.truncate(MAX_PROBLEMS);
        let quiet = quiet(&loaded.correlations);
        let keys = loaded.correlations.iter().enumerate();
        let by_key = keys.map(|(place, one)| (one.meta.key.clone(), place)).collect();
        Self { rules: loaded.rules, correlations: loaded.correlations, quiet, by_key, broken, whole }
    }

    /// Tells of what is broken.
    pub(crate) fn report(&self, health: &HealthBoard) {
        match self.broken.as_slice() {
            [] => health.restored(Part::Rules),
            [first, rest @ ..] => {
                let more =
                    if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                health.degraded(
                    Part::Rules,
                    format!("{first}{more}; the others are in use: `hemostat rules check` shows each"),
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

/// Adds what is wrong, with its place; the files that have something wrong.
fn errors(loaded: &Loaded, texts: &[SourceFile], broken: &mut Vec<String>) -> BTreeSet<String> {
    let mut spoilt = BTreeSet::new();
    for told in loaded.diagnostics.iter().filter(|told| told.severity == Severity::Error) {
        match told.place(texts) {
            Some((file, line, column)) => {
                spoilt.insert(file.to_owned());
                broken.push(format!("{file}:{line}:{column}: {}", told.message));
            }
            None => broken.push(told.message.clone()),
        }
    }
    spoilt
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
