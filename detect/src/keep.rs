//! Rule files over time: one that is broken, half written, emptied or not to be read keeps the rules that it had. A mistake in one file
//! disarms nobody; only a file that is removed takes its rules with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    ast::Meta,
    diagnostic::{Colour, Diagnostic, Severity, render},
    load::{Loaded, load},
    source::SourceFile,
};

/// Files in force at most (I11); of what cannot be read no more than that is kept.
const MAX_FILES: usize = 8192;

/// What was found at one look.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Files and folders that were asked for. One that gives nothing any more keeps what it gave.
    pub sources: Vec<String>,
    /// What could be read; the names of files in a folder begin with the folder's.
    pub files: Vec<SourceFile>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

/// A file or folder that could not be read, or not wholly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its name.
    pub name: String,
    /// Why not, as a sentence that the name begins.
    pub reason: String,
}

/// What is used from now on.
#[derive(Debug, Default)]
pub struct InForce {
    /// The texts, some of them as they were earlier.
    pub files: Vec<SourceFile>,
    /// The same, loaded.
    pub loaded: Loaded,
    /// What is wrong with what was found.
    pub problems: Vec<Problem>,
    /// Rules, correlations, filters and tables that were in force and are not any more.
    pub gone: BTreeSet<String>,
}

/// Something that is wrong with a file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub name: String,
    /// Line and column, from 1, where it has a place.
    pub place: Option<(usize, usize)>,
    /// What, in one line.
    pub what: String,
    /// What is used of it nevertheless.
    pub remains: Remains,
    /// The place with its text, as rule authors read it; empty where there is none.
    pub shown: String,
}

/// What is used of a file that has something wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remains {
    /// The version that was in force before.
    Before,
    /// What is sound of it.
    Rest,
    /// Nothing of it: there was nothing before either, or no part of it can be used.
    Nothing,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)?;
        match self.remains {
            Remains::Before => f.write_str("; what it held before stays in force"),
            Remains::Rest => f.write_str("; the rest is in force"),
            Remains::Nothing => Ok(()),
        }
    }
}

/// The last version of each file that could be used.
#[derive(Debug, Clone, Default)]
pub struct Kept(BTreeMap<String, Version>);

#[derive(Debug, Clone)]
struct Version {
    text: String,
    /// What was loaded from it.
    rules: BTreeSet<String>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Some of it was refused.
    Partial,
}

impl Kept {
    /// Takes what was found: what is used from now on, and remembers it for the next look.
    pub fn take(&mut self, found: Found) -> InForce {
        let Found { sources, mut files, unread } = found;
        let mut problems = Vec::new();
        for Unread { name, reason } in unread {
            let remains = if self.bring_back(&name, &mut files) { Remains::Before } else { Remains::Nothing };
            problems.push(Problem { name, place: None, what: reason, remains, shown: String::new() });
        }
        for name in sources {
            let gives = files.iter().any(|file| is_of(&file.name, &name));
            if !gives && self.bring_back(&name, &mut files) {
                let what = "holds no rule file any more (to do without its rules, start again)".into();
                problems.push(Problem {
                    name,
                    place: None,
                    what,
                    remains: Remains::Before,
                    shown: String::new(),
                });
            }
        }
        let (loaded, told) = self.load(&mut files);
        for problem in told {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        let mut versions = by_file(&loaded, files.len()).into_iter().zip(&files);
        let partial = errors(&loaded)
            .filter_map(|told| Some(told.labels.first()?.span.file.0))
            .collect::<BTreeSet<u32>>();
        let mut fresh = BTreeMap::new();
        for index in 0_u32.. {
            let Some((rules, file)) = versions.next() else { break };
            let state = if partial.contains(&index) { State::Partial } else { State::Whole };
            fresh.insert(file.name.clone(), Version { text: file.text.clone(), rules, state });
        }
        let mut gone: BTreeSet<String> =
            self.0.values().flat_map(|version| version.rules.iter().cloned()).collect();
        for version in fresh.values() {
            gone.retain(|rule| !version.rules.contains(rule));
        }
        self.0 = fresh;
        InForce { files, loaded, problems, gone }
    }

    /// Loads the files, those that are worse than before as they were before.
    fn load(&self, files: &mut [SourceFile]) -> (Loaded, Vec<Problem>) {
        let found = load(files);
        let rules = by_file(&found, files.len());
        let mut problems = Vec::new();
        let mut back = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let Some(before) = self.0.get(&file.name).filter(|before| before.text != file.text) else {
                continue;
            };
            let wrong: Vec<&Diagnostic> = errors(&found).filter(|told| is_in(told, index)).collect();
            let emptied = wrong.is_empty() && rules[index].is_empty() && !before.rules.is_empty();
            let worse = before.state == State::Whole || !rules[index].is_superset(&before.rules);
            let remains = if worse { Remains::Before } else { Remains::Rest };
            if emptied {
                let what = "is empty now; remove it to do without its rules".into();
                problems.push(Problem {
                    name: file.name.clone(),
                    place: None,
                    what,
                    remains: Remains::Before,
                    shown: String::new(),
                });
            }
            problems.extend(wrong.iter().map(|told| problem(told, files, remains)));
            if emptied || (!wrong.is_empty() && worse) {
                back.push((index, before.text.clone()));
            }
        }
        let loaded = if back.is_empty() {
            found
        } else {
            for (index, text) in back {
                files[index].text = text;
            }
            load(files)
        };
        let rules = by_file(&loaded, files.len());
        for told in errors(&loaded) {
            let same = |known: &Problem| {
                known.what == told.message && place(told, files) == Some((&known.name, known.place))
            };
            if !problems.iter().any(same) {
                let of = told.labels.first().and_then(|label| rules.get(label.span.file.0 as usize));
                let remains =
                    if of.is_some_and(BTreeSet::is_empty) { Remains::Nothing } else { Remains::Rest };
                problems.push(problem(told, files, remains));
            }
        }
        (loaded, problems)
    }

    /// Whether anything of a file or folder that gives nothing is used as it was.
    fn bring_back(&self, name: &str, files: &mut Vec<SourceFile>) -> bool {
        let there: BTreeSet<String> = files.iter().map(|file| file.name.clone()).collect();
        let room = MAX_FILES.saturating_sub(files.len());
        let before = files.len();
        files.extend(
            self.0
                .iter()
                .filter(|(file, _)| is_of(file, name) && !there.contains(*file))
                .take(room)
                .map(|(file, version)| SourceFile { name: file.clone(), text: version.text.clone() }),
        );
        files.len() > before
    }
}

/// Whether a file is this one, or lies in this folder.
fn is_of(file: &str, name: &str) -> bool {
    file == name || file.strip_prefix(name.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}

fn errors(loaded: &Loaded) -> impl Iterator<Item = &Diagnostic> {
    loaded.diagnostics.iter().filter(|told| told.severity == Severity::Error)
}

fn is_in(told: &Diagnostic, index: usize) -> bool {
    told.labels.first().is_some_and(|label| label.span.file.0 as usize == index)
}

fn place<'f>(told: &Diagnostic, files: &'f [SourceFile]) -> Option<(&'f str, Option<(usize, usize)>)> {
    told.place(files).map(|(name, line, column)| (name, Some((line, column))))
}

fn problem(told: &Diagnostic, files: &[SourceFile], remains: Remains) -> Problem {
    let (name, place) = place(told, files).unwrap_or(("rules", None));
    Problem {
        name: name.to_owned(),
        place,
        what: told.message.clone(),
        remains,
        shown: render(std::slice::from_ref(told), files, Colour::Plain),
    }
}

/// What was loaded from each of `count` files.
fn by_file(loaded: &Loaded, count: usize) -> Vec<BTreeSet<String>> {
    let mut all = vec![BTreeSet::new(); count];
    let metas = loaded.rules.iter().map(|one| &one.meta);
    let metas = metas.chain(loaded.correlations.iter().map(|one| &one.meta));
    for Meta { span, key, .. } in metas.chain(loaded.filters.iter().map(|one| &one.meta)) {
        if let Some(rules) = all.get_mut(span.file.0 as usize) {
            rules.insert(key.clone());
        }
    }
    for table in &loaded.tables {
        if let Some(rules) = all.get_mut(table.span.file.0 as usize) {
            rules.extend(table.gives.iter().cloned());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "title: A\nid: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /x}, condition: s}\nlevel: high\n";
    const TWO: &str = "title: B\nid: b\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /y}, condition: s}\n---\ntitle: C\nid: c\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /z}, condition: s}\n";
    const MANY: &str = "title: M\nid: m\ncorrelation: {type: event_count, rules: [a], group-by: [Image], timespan: 1h, condition: {gte: 5}}\nlevel: high\n";

    fn found(files: &[(&str, &str)]) -> Found {
        let file =
            |(name, text): &(&str, &str)| SourceFile { name: format!("rules/{name}"), text: (*text).into() };
        Found { sources: vec!["rules".into()], files: files.iter().map(file).collect(), unread: vec![] }
    }

    fn keys(in_force: &InForce) -> Vec<&str> {
        let rules = in_force.loaded.rules.iter().map(|rule| rule.key());
        rules.chain(in_force.loaded.correlations.iter().map(|one| one.meta.key.as_str())).collect()
    }

    fn said(in_force: &InForce) -> String {
        in_force.problems.iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn a_file_that_is_broken_keeps_its_rules_and_its_place_is_told() {
        let mut kept = Kept::default();
        let first = kept.take(found(&[("a.yml", RULE), ("bc.yml", TWO), ("m.yml", MANY)]));
        assert_eq!((keys(&first), said(&first).as_str()), (vec!["a", "b", "c", "m"], ""));
        // The second of two rules: the first would load, and yet the file stays as it was.
        let broken = TWO.replace("Image: /z", "Image|containz: /z").replace("/y", "/changed");
        for _ in 0..2 {
            let next = kept.take(found(&[("a.yml", RULE), ("bc.yml", &broken), ("m.yml", MANY)]));
            assert_eq!(keys(&next), ["a", "b", "c", "m"]);
            assert_eq!(next.files[1].text, TWO, "all of the file is as it was");
            let [problem] = &next.problems[..] else { panic!("{}", said(&next)) };
            assert_eq!((problem.place, problem.remains), (Some((9, 23)), Remains::Before));
            assert!(
                said(&next)
                    .starts_with("rules/bc.yml:9:23: unknown modifier `containz`; what it held before"),
                "{}",
                said(&next)
            );
            assert!(problem.shown.contains("did you mean `contains`"), "{}", problem.shown);
        }
        let mended =
            kept.take(found(&[("a.yml", RULE), ("bc.yml", &TWO.replace("/z", "/zz")), ("m.yml", MANY)]));
        assert_eq!((keys(&mended), said(&mended).as_str()), (vec!["a", "b", "c", "m"], ""));
        assert!(mended.files[1].text.contains("/zz"));
    }

    #[test]
    fn what_refers_to_a_broken_file_stays_and_is_not_called_wrong() {
        let mut kept = Kept::default();
        kept.take(found(&[("a.yml", RULE), ("m.yml", MANY)]));
        for cut in 1..RULE.len() {
            let next = kept.take(found(&[("a.yml", &RULE[..cut]), ("m.yml", MANY)]));
            assert_eq!(keys(&next), ["a", "m"], "cut at {cut}: {}", said(&next));
            assert!(next.problems.iter().all(|problem| problem.name == "rules/a.yml"), "{}", said(&next));
        }
    }

    #[test]
    fn a_file_or_folder_that_gives_nothing_keeps_what_it_gave_and_a_removed_file_does_not() {
        let mut kept = Kept::default();
        kept.take(found(&[("a.yml", RULE), ("deep/bc.yml", TWO)]));
        let emptied = kept.take(found(&[("a.yml", "# nothing\n"), ("deep/bc.yml", TWO)]));
        assert_eq!(keys(&emptied), ["a", "b", "c"]);
        assert!(said(&emptied).contains("rules/a.yml: is empty now"), "{}", said(&emptied));
        let nothing = kept.take(found(&[]));
        assert_eq!(keys(&nothing), ["a", "b", "c"]);
        assert!(said(&nothing).contains("rules: holds no rule file any more"), "{}", said(&nothing));
        let mut unread = found(&[("a.yml", RULE)]);
        unread.unread.push(Unread { name: "rules/deep".into(), reason: "cannot be read: no".into() });
        let unread = kept.take(unread);
        assert_eq!(keys(&unread), ["a", "b", "c"]);
        assert_eq!(said(&unread), "rules/deep: cannot be read: no; what it held before stays in force\n");
        let removed = kept.take(found(&[("a.yml", RULE)]));
        assert_eq!((keys(&removed), said(&removed).as_str()), (vec!["a"], ""));
        assert_eq!(removed.gone, ["b".into(), "c".into()].into());
        // A folder whose name only begins alike is another.
        let mut other = Kept::default();
        other.take(found(&[("deeper.yml", RULE), ("deep/bc.yml", TWO)]));
        let mut gone = found(&[("deep/bc.yml", TWO)]);
        gone.unread.push(Unread { name: "rules/deep".into(), reason: String::new() });
        assert_eq!(keys(&other.take(gone)), ["b", "c"]);
    }

    #[test]
    fn a_file_that_was_never_whole_gets_better_rule_by_rule() {
        let broken = |first: &str, second: &str| TWO.replace("/y", first).replace("/z", second);
        let mut kept = Kept::default();
        let first = kept.take(found(&[("bc.yml", &broken("/y", "[{}]"))]));
        assert_eq!(keys(&first), ["b"], "{}", said(&first));
        assert_eq!(first.problems[0].remains, Remains::Rest);
        // Another sound rule beside the broken one is taken.
        let more = format!("{}---\n{RULE}", broken("/y2", "[{}]"));
        let next = kept.take(found(&[("bc.yml", &more)]));
        assert_eq!(keys(&next), ["b", "a"], "{}", said(&next));
        // One that worked and is broken now is not lost.
        let worse = kept.take(found(&[("bc.yml", &broken("[{}]", "/z"))]));
        assert_eq!(keys(&worse), ["b", "a"], "{}", said(&worse));
        assert_eq!(worse.problems[0].remains, Remains::Before);
    }

    #[test]
    fn i11_what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        for round in 0..3 {
            let names: Vec<String> = (0..MAX_FILES / 2).map(|n| format!("{round}-{n}.yml")).collect();
            let mut all = found(&names.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
            all.unread.push(Unread { name: "rules".into(), reason: "too many".into() });
            assert!(kept.take(all).files.len() <= MAX_FILES);
        }
    }
}
