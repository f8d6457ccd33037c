//! Repeated findings of one cause are one finding with a count.
//!
//! One cause is: the same rule, the same executable (file and path), the same cgroup, and the same matched values. A rule that
//! matches ever other values of the same executable in the same cgroup (a scan, a loop with a counter) becomes one cause from its
//! [`Fold::MAX_VARIANTS`]th set of values on, so that no loop can flood the controller.

use std::collections::{BTreeMap, HashMap, HashSet};

use model::{CgroupId, ExeFile, FindingId, Level, Process, RuleRef, Timestamp, short_hash};

/// What matched, without its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Source {
    rule: String,
    exe: String,
    file: ExeFile,
    cgroup: CgroupId,
}

/// Which values matched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Values {
    These(String),
    /// More kinds of values than are told apart.
    Many,
}

/// Names a cause from its first finding on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause {
    source: Source,
    values: Values,
}

/// What to do with a match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folded {
    /// The first of its cause: report it whole. If that fails, [`Fold::forget`] the cause.
    First(Cause),
    /// Counted; [`Fold::due`] will tell.
    Again {
        /// Of which finding.
        finding: FindingId,
        /// How many now.
        count: u64,
    },
}

/// A finding whose count has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// Which.
    pub finding: FindingId,
    /// Its count now.
    pub count: u64,
    /// Time of the last one.
    pub last: Timestamp,
    /// Level of its rule.
    pub level: Level,
}

#[derive(Debug)]
struct Entry {
    finding: FindingId,
    level: Level,
    count: u64,
    told: u64,
    last: Timestamp,
}

/// The causes that are known.
#[derive(Debug, Default)]
pub struct Fold {
    causes: HashMap<Cause, Entry>,
    variants: HashMap<Source, HashSet<String>>,
}

impl Fold {
    /// Causes remembered (I11). Beyond, the quarter that was not seen longest is forgotten, and its next match is a new finding.
    pub const MAX_CAUSES: usize = 4096;
    /// Sets of values of one rule, executable and cgroup that are told apart.
    pub const MAX_VARIANTS: usize = 64;

    /// Takes in a match. `matched` gives the values, and is not called where they no longer matter.
    pub fn take_in(
        &mut self,
        rule: &RuleRef,
        process: &Process,
        finding: &FindingId,
        at: Timestamp,
        matched: impl FnOnce() -> BTreeMap<String, String>,
    ) -> (Folded, BTreeMap<String, String>) {
        let source = Source {
            rule: rule.id.clone(),
            exe: process.exe.clone(),
            file: process.exe_file,
            cgroup: process.cgroup,
        };
        let many = Cause { source: source.clone(), values: Values::Many };
        if let Some(entry) = self.causes.get_mut(&many) {
            return (entry.again(at), BTreeMap::new());
        }
        let matched = matched();
        let digest = short_hash(matched.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]), 16);
        let cause = Cause { source: source.clone(), values: Values::These(digest.clone()) };
        if let Some(entry) = self.causes.get_mut(&cause) {
            return (entry.again(at), matched);
        }
        let variants = self.variants.entry(source).or_default();
        let cause = if variants.len() >= Self::MAX_VARIANTS {
            many
        } else {
            variants.insert(digest);
            cause
        };
        if self.causes.len() >= Self::MAX_CAUSES {
            self.forget_oldest();
        }
        let entry = Entry { finding: finding.clone(), level: rule.level, count: 1, told: 1, last: at };
        self.causes.insert(cause.clone(), entry);
        (Folded::First(cause), matched)
    }

    /// The first finding of this cause could not be reported: the next match shall be.
    pub fn forget(&mut self, cause: &Cause) {
        self.causes.remove(cause);
        if let Values::These(digest) = &cause.values
            && let Some(variants) = self.variants.get_mut(&cause.source)
        {
            variants.remove(digest);
            if variants.is_empty() {
                self.variants.remove(&cause.source);
            }
        }
    }

    /// Findings whose count has moved since this was last asked.
    pub fn due(&mut self) -> Vec<Repeat> {
        let mut due: Vec<Repeat> = self
            .causes
            .values_mut()
            .filter(|entry| entry.count > entry.told)
            .map(|entry| {
                entry.told = entry.count;
                Repeat {
                    finding: entry.finding.clone(),
                    count: entry.count,
                    last: entry.last,
                    level: entry.level,
                }
            })
            .collect();
        due.sort_unstable_by(|a, b| (a.last, &a.finding).cmp(&(b.last, &b.finding)));
        due
    }

    /// How many causes are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.causes.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    fn forget_oldest(&mut self) {
        // What has not been told yet stays: its count would be lost.
        let mut ages: Vec<(bool, Timestamp, Cause)> = self
            .causes
            .iter()
            .map(|(cause, entry)| (entry.count > entry.told, entry.last, cause.clone()))
            .collect();
        ages.sort_unstable_by_key(|(untold, last, _)| (*untold, *last));
        for (_, _, cause) in ages.into_iter().take(Self::MAX_CAUSES / 4) {
            self.forget(&cause);
        }
        let causes = &self.causes;
        self.variants.retain(|source, _| causes.keys().any(|cause| cause.source == *source));
    }
}

impl Entry {
    fn again(&mut self, at: Timestamp) -> Folded {
        self.count += 1;
        self.last = self.last.max(at);
        Folded::Again { finding: self.finding.clone(), count: self.count }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_data::{process, rule};

    fn values(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("CommandLine".to_owned(), value.to_owned())])
    }

    #[test]
    fn the_same_cause_is_one_finding_with_a_count() {
        let mut fold = Fold::default();
        let (rule, process) = (rule("r", Level::High), process("/bin/x"));
        let first = FindingId::new("f1");
        let (folded, matched) = fold.take_in(&rule, &process, &first, Timestamp(1), || values("a"));
        assert!(matches!(folded, Folded::First(_)));
        assert_eq!(matched, values("a"));
        for n in 2..10 {
            let (folded, _) =
                fold.take_in(&rule, &process, &FindingId::new("other"), Timestamp(n), || values("a"));
            assert_eq!(folded, Folded::Again { finding: first.clone(), count: n as u64 });
        }
        let repeat = Repeat { finding: first, count: 9, last: Timestamp(9), level: Level::High };
        assert_eq!(fold.due(), [repeat]);
        assert_eq!(fold.due(), []);
    }

    #[test]
    fn another_rule_image_cgroup_or_value_is_another_cause() {
        let mut fold = Fold::default();
        let base = process("/bin/x");
        let mut elsewhere = base.clone();
        elsewhere.cgroup = CgroupId(77);
        let mut copied = base.clone();
        copied.exe_file.inode = 9;
        let id = FindingId::new("f");
        for (rule_id, process, value) in [
            ("r", &base, "a"),
            ("q", &base, "a"),
            ("r", &elsewhere, "a"),
            ("r", &copied, "a"),
            ("r", &base, "b"),
        ] {
            let (folded, _) =
                fold.take_in(&rule(rule_id, Level::Low), process, &id, Timestamp(1), || values(value));
            assert!(matches!(folded, Folded::First(_)), "{rule_id} {value}");
        }
    }

    #[test]
    fn a_loop_with_ever_other_values_becomes_one_cause() {
        let mut fold = Fold::default();
        let (rule, process) = (rule("r", Level::High), process("/bin/scan"));
        let firsts = (0..10_000)
            .filter(|n| {
                let id = FindingId::new(format!("f{n}"));
                let matched = || values(&n.to_string());
                matches!(fold.take_in(&rule, &process, &id, Timestamp(*n), matched).0, Folded::First(_))
            })
            .count();
        assert_eq!(firsts, Fold::MAX_VARIANTS + 1);
    }

    #[test]
    fn an_unreported_first_is_first_again() {
        let mut fold = Fold::default();
        let (rule, process) = (rule("r", Level::High), process("/bin/x"));
        let id = FindingId::new("f");
        let (Folded::First(cause), _) = fold.take_in(&rule, &process, &id, Timestamp(1), || values("a"))
        else {
            panic!("not the first")
        };
        fold.forget(&cause);
        assert!(fold.is_empty() && fold.variants.is_empty());
        let (folded, _) = fold.take_in(&rule, &process, &id, Timestamp(1), || values("a"));
        assert!(matches!(folded, Folded::First(_)));
    }

    proptest! {
        #[test]
        fn every_match_is_counted_once_and_memory_is_bounded(
            matches in proptest::collection::vec((0_u8..4, 0_u8..3, 0_u16..200), 0..600),
        ) {
            let mut fold = Fold::default();
            let mut counts: BTreeMap<FindingId, u64> = BTreeMap::new();
            for (n, (rule_id, exe, value)) in matches.iter().enumerate() {
                let id = FindingId::new(format!("f{n}"));
                let at = Timestamp(n as i64);
                let (folded, _) = fold.take_in(
                    &rule(&rule_id.to_string(), Level::Low), &process(&exe.to_string()), &id, at, || values(&value.to_string()),
                );
                if matches!(folded, Folded::First(_)) {
                    counts.insert(id, 1);
                }
                if n % 50 == 0 {
                    for repeat in fold.due() {
                        counts.insert(repeat.finding, repeat.count);
                    }
                }
                prop_assert!(fold.len() <= Fold::MAX_CAUSES);
            }
            for repeat in fold.due() {
                counts.insert(repeat.finding, repeat.count);
            }
            prop_assert_eq!(counts.values().sum::<u64>(), matches.len() as u64);
        }
    }
}
