//! Files of playbooks and policies over time: one that is broken, half written, emptied or not to be read stays in force as it was. A mistake
//! in one file neither disarms a playbook nor lifts what a policy forbids; only a file that is removed takes with it what it held.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use detect::keep::Remains;

use super::{Assembled, Sources, Text};
use crate::files;

/// Files in force at most (I11); of what cannot be read no more than that is kept.
const MAX_FILES: usize = 8192;

/// What was found at one look.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files and folders that were asked for. One that gives nothing any more keeps what it gave.
    folders: Vec<String>,
    texts: Vec<Text>,
    /// What could not be read, and why.
    unread: Vec<(String, String)>,
}

impl Found {
    /// All `*.yaml` and `*.yml` in `folders`, which are files or folders, and `sources`.
    pub(super) fn look(folders: &[PathBuf], sources: &Sources) -> Self {
        let below = files::yaml_below(folders);
        let mut found = Self {
            folders: folders.iter().map(|folder| folder.display().to_string()).collect(),
            texts: Vec::new(),
            unread: below.problems.into_iter().map(|unread| (unread.name, unread.reason)).collect(),
        };
        for file in &below.files {
            let name = file.display().to_string();
            let text = files::read_file(file).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))
            });
            match text {
                Ok(text) => found.texts.push(Text { name, scope: None, text }),
                Err(error) => found.unread.push((name, format!("cannot be read: {error}"))),
            }
        }
        found.texts.extend(sources.resources.iter().cloned());
        found
    }
}

/// The last version of each file that could be used.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(BTreeMap<String, Version>);

#[derive(Debug, Clone)]
struct Version {
    text: Text,
    /// What was in use of it.
    held: BTreeSet<String>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Some of it was refused.
    Partial,
}

impl Kept {
    /// Takes what was found: what is used from now on, and what is wrong with what was found, each with its place. Remembers it for the next
    /// look.
    pub(super) fn take(&mut self, found: Found) -> (Assembled, Vec<String>) {
        let Found { folders, mut texts, unread } = found;
        let mut problems = Vec::new();
        for (name, reason) in unread {
            let remains = if self.bring_back(&name, &mut texts) { Remains::Before } else { Remains::Nothing };
            problems.push(said(&format!("{name}: {reason}"), remains));
        }
        for name in folders {
            let gives = texts.iter().any(|text| is_of(&text.name, &name));
            if !gives && self.bring_back(&name, &mut texts) {
                let what = format!(
                    "{name}: holds no playbook file any more (to do without, remove it and start again)"
                );
                problems.push(said(&what, Remains::Before));
            }
        }
        let (assembled, wrong) = self.assemble(&mut texts);
        for problem in wrong {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        let versions = texts.into_iter().enumerate().map(|(of, text)| {
            let state = if assembled.faulty.contains(&of) { State::Partial } else { State::Whole };
            let held = assembled.held.get(of).cloned().unwrap_or_default();
            (text.name.clone(), Version { text, held, state })
        });
        self.0 = versions.collect();
        (assembled, problems)
    }

    /// Assembles the files, those that are worse than before as they were before.
    fn assemble(&self, texts: &mut [Text]) -> (Assembled, Vec<String>) {
        let found = Assembled::of(texts);
        let mut problems = Vec::new();
        let mut back = Vec::new();
        for (of, text) in texts.iter().enumerate() {
            let Some(before) = self.0.get(&text.name).filter(|before| before.text.text != text.text) else {
                continue;
            };
            let held = found.held.get(of).cloned().unwrap_or_default();
            let wrong: Vec<&String> =
                found.problems.iter().filter(|(file, _)| *file == of).map(|(_, what)| what).collect();
            let faulty = found.faulty.contains(&of);
            let emptied = !faulty && held.is_empty() && !before.held.is_empty();
            let worse = before.state == State::Whole || !held.is_superset(&before.held);
            let remains = if worse { Remains::Before } else { Remains::Rest };
            if emptied {
                let what = format!("{}: is empty now; remove it to do without what it held", text.name);
                problems.push(said(&what, Remains::Before));
            }
            problems.extend(wrong.iter().map(|what| said(what, remains)));
            if emptied || (faulty && worse) {
                back.push((of, before.text.clone()));
            }
        }
        if back.is_empty() {
            let known = |what: &String| problems.iter().any(|problem| problem.starts_with(what.as_str()));
            let new: Vec<String> =
                found.problems.iter().map(|(_, what)| what).filter(|what| !known(what)).cloned().collect();
            problems.extend(new);
            return (found, problems);
        }
        for (of, text) in back {
            texts[of] = text;
        }
        let assembled = Assembled::of(texts);
        for (_, what) in &assembled.problems {
            if !problems.iter().any(|known| known.starts_with(what.as_str())) {
                problems.push(what.clone());
            }
        }
        (assembled, problems)
    }

    /// Whether anything of a file or folder that gives nothing is used as it was.
    fn bring_back(&self, name: &str, texts: &mut Vec<Text>) -> bool {
        let there: BTreeSet<String> = texts.iter().map(|text| text.name.clone()).collect();
        let room = MAX_FILES.saturating_sub(texts.len());
        let before = texts.len();
        let kept = self.0.iter().filter(|(file, _)| is_of(file, name) && !there.contains(*file));
        texts.extend(kept.take(room).map(|(_, version)| version.text.clone()));
        texts.len() > before
    }
}

/// Whether a file is this one, or lies in this folder.
fn is_of(file: &str, name: &str) -> bool {
    file == name || file.strip_prefix(name.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}

fn said(what: &str, remains: Remains) -> String {
    match remains {
        Remains::Before => format!("{what}; what it held before stays in force"),
        Remains::Rest => format!("{what}; the rest is in force"),
        Remains::Nothing => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREEZE: &str = "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: freeze}\nspec:\n  trigger: {minimumLevel: high}\n  steps:\n    - {name: a, action: node.freeze}\n";
    const SHADOW: &str = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {name: careful}\nspec:\n  mode: Shadow\n";

    fn found(files: &[(&str, &str)]) -> Found {
        let text = |(name, text): &(&str, &str)| Text {
            name: format!("books/{name}"),
            scope: None,
            text: (*text).into(),
        };
        Found { folders: vec!["books".into()], texts: files.iter().map(text).collect(), unread: vec![] }
    }

    fn held(assembled: &Assembled) -> Vec<String> {
        assembled.held.iter().flatten().cloned().collect()
    }

    #[test]
    fn a_broken_file_stays_as_it_was_and_its_place_is_told_until_it_is_mended() {
        let mut kept = Kept::default();
        let (first, wrong) = kept.take(found(&[("f.yaml", FREEZE), ("p.yaml", SHADOW)]));
        assert_eq!((held(&first).len(), wrong), (2, vec![]));
        let broken = FREEZE.replace("node.freeze", "node.freez");
        for _ in 0..2 {
            let (next, wrong) = kept.take(found(&[("f.yaml", &broken), ("p.yaml", SHADOW)]));
            assert_eq!(held(&next), held(&first));
            let [problem] = &wrong[..] else { panic!("{wrong:?}") };
            assert!(problem.starts_with("books/f.yaml:7:25: error: "), "{problem}");
            assert!(problem.ends_with("; what it held before stays in force"), "{problem}");
        }
        // A policy as well: what it forbids is not allowed because of a slip.
        let slip = SHADOW.replace("Shadow", "Shadw");
        let (next, wrong) = kept.take(found(&[("f.yaml", FREEZE), ("p.yaml", &slip)]));
        assert_eq!(held(&next), held(&first));
        assert!(wrong[0].starts_with("books/p.yaml:5:9: error: spec.mode"), "{wrong:?}");
        let (mended, wrong) =
            kept.take(found(&[("f.yaml", &FREEZE.replace("name: a", "name: b")), ("p.yaml", SHADOW)]));
        assert_eq!((held(&mended), wrong), (held(&first), vec![]));
        assert_eq!(mended.plans["freeze"].plan.spec().steps[0].name, "b");
    }

    #[test]
    fn a_file_that_is_half_written_never_takes_its_playbook_out_of_force() {
        for cut in (0..FREEZE.len()).step_by(7) {
            let mut kept = Kept::default();
            kept.take(found(&[("f.yaml", FREEZE)]));
            let (next, _) = kept.take(found(&[("f.yaml", &FREEZE[..cut])]));
            assert_eq!(held(&next), ["playbook freeze"], "cut at {cut}");
        }
    }

    #[test]
    fn only_a_file_that_is_removed_takes_what_it_held_with_it() {
        let mut kept = Kept::default();
        kept.take(found(&[("f.yaml", FREEZE), ("deep/p.yaml", SHADOW)]));
        let (emptied, wrong) = kept.take(found(&[("f.yaml", "# nothing\n"), ("deep/p.yaml", SHADOW)]));
        assert_eq!(held(&emptied).len(), 2);
        assert!(wrong[0].contains("books/f.yaml: is empty now"), "{wrong:?}");
        let (away, wrong) = kept.take(found(&[]));
        assert_eq!(held(&away).len(), 2);
        assert!(wrong[0].starts_with("books: holds no playbook file any more"), "{wrong:?}");
        let mut unread = found(&[("f.yaml", FREEZE)]);
        unread.unread.push(("books/deep".into(), "cannot be read: no".into()));
        let (unread, wrong) = kept.take(unread);
        assert_eq!(held(&unread).len(), 2);
        assert_eq!(wrong, ["books/deep: cannot be read: no; what it held before stays in force"]);
        let (removed, wrong) = kept.take(found(&[("f.yaml", FREEZE)]));
        assert_eq!((held(&removed), wrong), (vec!["playbook freeze".to_owned()], vec![]));
    }

    #[test]
    fn a_file_that_was_never_whole_gets_better_one_by_one_and_no_playbook_is_read_twice() {
        let other = FREEZE.replace("name: freeze", "name: other");
        let broken = other.replace("node.freeze", "node.freez");
        let mut kept = Kept::default();
        let (first, wrong) = kept.take(found(&[("f.yaml", &format!("{FREEZE}---\n{broken}"))]));
        assert_eq!((held(&first), wrong.len()), (vec!["playbook freeze".to_owned()], 1));
        // The one that works is broken now, the other is mended: what worked is not lost.
        let worse = format!("{}---\n{other}", FREEZE.replace("node.freeze", "node.freez"));
        let (next, wrong) = kept.take(found(&[("f.yaml", &worse)]));
        assert_eq!(held(&next), ["playbook freeze"], "{wrong:?}");
        let (both, wrong) = kept.take(found(&[("f.yaml", &format!("{FREEZE}---\n{other}"))]));
        assert_eq!((held(&both).len(), wrong), (2, vec![]));
        let (twice, wrong) =
            kept.take(found(&[("f.yaml", &format!("{FREEZE}---\n{other}")), ("g.yaml", FREEZE)]));
        assert_eq!(held(&twice).len(), 2);
        assert!(
            wrong[0].starts_with("books/g.yaml:3:") && wrong[0].contains("already read from books/f.yaml"),
            "{wrong:?}"
        );
    }
}
