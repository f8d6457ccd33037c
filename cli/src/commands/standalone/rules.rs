//! The rules of a standalone node: read from their folders at the start and at SIGHUP. What is broken then keeps what it held.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use controller::config::rules_below;
use detect::{
    diagnostic::{Colour, Severity, render},
    keep::{InForce, Kept},
    matcher::{Options, RuleSet},
};

use crate::exit::{Ended, Exit};

/// Rules that are named as gone in the log.
const NAMED: usize = 20;

/// Folders and files of rules, and what of them is in force.
pub(super) struct RuleFolders {
    paths: Vec<PathBuf>,
    kept: Kept,
}

/// What was read.
pub(super) struct Read {
    finds: Finds,
    pub(super) set: RuleSet,
    /// What is wrong, with its place and what is used nevertheless; a line each.
    pub(super) problems: Vec<String>,
}

/// Whether there is any rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finds {
    Something,
    Nothing,
}

impl RuleFolders {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// One that is not there, or when none of their rules can be used: at the start that is a mistake in the command.
    pub(super) fn open(paths: &[PathBuf]) -> Result<(Self, Read)> {
        let next = "make it, or say with --rules where rules are; those that come with Hemostat are in the folder rules of its source";
        for path in paths {
            if !path.try_exists().with_context(|| format!("look at {}", path.display()))? {
                return Err(Ended::with(
                    Exit::Bad,
                    format!("there is no rules folder {}: {next}", path.display()),
                ));
            }
        }
        let mut folders = Self { paths: paths.to_vec(), kept: Kept::default() };
        let read = folders.read();
        if read.finds == Finds::Nothing
            && let Some(first) = read.problems.first()
        {
            let more = match read.problems.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            return Err(Ended::with(
                Exit::Bad,
                format!(
                    "no rule can be used, so nothing would be found: {first}{more}; `hemostat rules check` shows each"
                ),
            ));
        }
        Ok((folders, read))
    }

    /// Reads them again: what is worse than before stays as it was before.
    pub(super) fn read(&mut self) -> Read {
        let InForce { files, loaded, problems, gone } = self.kept.take(rules_below(&self.paths));
        let (set, compiled) = RuleSet::compile(&loaded.rules, Options::default());
        for problem in &problems {
            tracing::error!("{problem}");
            if !problem.shown.is_empty() {
                tracing::warn!("{}", problem.shown.trim_end());
            }
        }
        let warnings = loaded.diagnostics.iter().filter(|told| told.severity == Severity::Warning);
        for diagnostic in warnings.chain(&compiled) {
            tracing::warn!("{}", render(std::slice::from_ref(diagnostic), &files, Colour::Plain).trim_end());
        }
        if !gone.is_empty() {
            let named: Vec<&str> = gone.iter().take(NAMED).map(String::as_str).collect();
            tracing::info!(rules = gone.len(), "not in force any more: {}", named.join(", "));
        }
        let finds = match set.is_empty() && loaded.correlations.is_empty() {
            true => Finds::Nothing,
            false => Finds::Something,
        };
        if finds == Finds::Nothing {
            let places: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
            tracing::warn!("no rule is loaded from {}: nothing will be found", places.join(", "));
        }
        Read {
            finds,
            set: set.feeding(&loaded.correlations, &loaded.rules),
            problems: problems.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RULE: &str = "title: Good\nid: good\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /x}, condition: s}\nlevel: high\n";

    #[test]
    fn a_file_that_cannot_be_read_is_left_out_and_the_others_are_loaded() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("good.yml"), RULE).unwrap();
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("dangling.yml")).unwrap();
        let (_, read) = RuleFolders::open(&[dir.path().to_path_buf()]).unwrap();
        assert_eq!(read.set.len(), 1);
        assert!(matches!(&read.problems[..], [one] if one.contains("dangling.yml")), "{:?}", read.problems);
    }

    #[test]
    fn a_start_without_a_single_usable_rule_is_refused_with_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bad.yml"), RULE.replace("Image", "Image|containz")).unwrap();
        let open = || RuleFolders::open(&[dir.path().to_path_buf()]);
        let error = open().err().unwrap().to_string();
        assert!(error.contains("bad.yml:4:23") && error.contains("hemostat rules check"), "{error}");
        fs::write(dir.path().join("good.yml"), RULE).unwrap();
        assert_eq!(open().unwrap().1.set.len(), 1, "one is enough to begin with");
    }

    #[test]
    fn a_rules_folder_that_is_not_there_is_said_with_the_next_step() {
        let error = RuleFolders::open(&["/nonexistent/rules".into()]).err().unwrap().to_string();
        assert!(error.contains("/nonexistent/rules") && error.contains("--rules"), "{error}");
    }

    #[test]
    fn what_is_broken_or_away_at_a_second_look_stays_in_force_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (rules, away) = (dir.path().join("rules"), dir.path().join("away"));
        fs::create_dir(&rules).unwrap();
        fs::write(rules.join("good.yml"), RULE).unwrap();
        let (mut folders, first) = RuleFolders::open(std::slice::from_ref(&rules)).unwrap();
        assert_eq!((first.set.len(), first.problems.len()), (1, 0));
        let told = |folders: &mut RuleFolders, what: &str| {
            let read = folders.read();
            assert_eq!(read.set.len(), 1, "{:?}", read.problems);
            assert!(
                matches!(&read.problems[..], [one] if one.contains(what) && one.contains("before stays in force")),
                "{what}: {:?}",
                read.problems
            );
        };
        fs::write(rules.join("good.yml"), RULE.replace("Image", "Image|containz")).unwrap();
        told(&mut folders, "good.yml:4:23: unknown modifier");
        fs::write(rules.join("good.yml"), "").unwrap();
        told(&mut folders, "good.yml: is empty now");
        fs::rename(&rules, &away).unwrap();
        told(&mut folders, "rules: cannot be read");
        fs::create_dir(&rules).unwrap();
        told(&mut folders, "rules: holds no rule file any more");
        fs::write(rules.join("other.yml"), RULE.replace("good", "other")).unwrap();
        let read = folders.read();
        assert_eq!((read.set.len(), read.problems), (1, vec![]), "who removes a file means it");
    }
}
