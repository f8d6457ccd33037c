//! Repeated findings of one cause are one finding with a count.
//!
//! One cause is: the same rule, the same executable (file and path), the same cgroup, and the same matched values; for a rule that asks
//! for a reaction or is high, also the same process, since each process of an attack is to be seen, contained and answered by itself.
//! A rule that matches ever other values or processes of the same executable in the same cgroup (a scan, a loop with a counter) becomes
//! one cause from its [`Fold::MAX_VARIANTS`]th on ([`Fold::MAX_VARIANTS_FED`] where correlations look at the rule's matches, whose
//! values then also tell causes apart), so that no loop can flood the controller. A cause ends [`Fold::EXPIRES`] after its
//! finding: what goes on then is told anew. A match to which the node has reacted is always told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use model::{
    CgroupId, ExeFile, FindingId, Level, Process, ProcessKey, Reaction, RuleRef, Timestamp, short_hash,
};

/// What matched, without its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Source {
    rule: String,
    exe: String,
    file: ExeFile,
    cgroup: CgroupId,
}

/// Which values matched, and of which process where that matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Variant {
    process: Option<ProcessKey>,
    digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Values {
    These(Variant),
    /// More variants than are told apart.
    Many,
}

/// Names a cause from its first finding on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause {
    source: Source,
    values: Values,
}

/// Whether the node has reacted to a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acted {
    /// No: it is told once by its cause.
    No,
    /// Yes: it is told in any case, so that what the node has done can be seen and undone.
    Yes,
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
    first: Timestamp,
    last: Timestamp,
}

/// The causes that are known.
#[derive(Debug, Default)]
pub struct Fold {
    causes: HashMap<Cause, Entry>,
    /// Of each source the variants among `causes`, without those that only a reaction made known.
    variants: HashMap<Source, HashSet<Variant>>,
    /// Counts of causes that have ended, still to be told.
    ended: Vec<Repeat>,
    /// Rules whose matches correlations look at.
    fed: HashSet<String>,
}

impl Cause {
    /// Whether it holds matches with other values than its first.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.values == Values::Many
    }
}

impl Fold {
    /// Causes remembered (I11). Beyond, the quarter that was not seen longest is forgotten, and its next match is a new finding.
    pub const MAX_CAUSES: usize = 4096;
    /// Variants of one rule, executable and cgroup that are told apart.
    pub const MAX_VARIANTS: usize = 64;
    /// The same for rules whose matches correlations look at: what is not told apart cannot be counted apart.
    pub const MAX_VARIANTS_FED: usize = 1024;
    /// A cause is told again after this, in event time: long enough that a loop is no flood (4 findings an hour and variant), short
    /// enough that a new attack in the same place is a new finding while the incident of the last one may already be closed.
    pub const EXPIRES: Duration = Duration::from_secs(15 * 60);

    /// Names the rules whose matches correlations look at.
    pub fn feed(&mut self, rules: impl IntoIterator<Item = String>) {
        self.fed = rules.into_iter().collect();
    }

    /// Takes in a match. `matched` gives the values, and is not called where they no longer matter.
    pub fn take_in(
        &mut self,
        rule: &RuleRef,
        process: &Process,
        finding: &FindingId,
        at: Timestamp,
        acted: Acted,
        matched: impl FnOnce() -> BTreeMap<String, String>,
    ) -> (Folded, BTreeMap<String, String>) {
        let source = Source {
            rule: rule.id.clone(),
            exe: process.exe.clone(),
            file: process.exe_file,
            cgroup: process.cgroup,
        };
        let many = Cause { source: source.clone(), values: Values::Many };
        self.end_if_expired(&many, at);
        if acted == Acted::No
            && let Some(entry) = self.causes.get_mut(&many)
        {
            return (entry.again(at), BTreeMap::new());
        }
        let matched = matched();
        let digest = short_hash(matched.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]), 16);
        let by_process = rule.reaction != Reaction::None || rule.level >= Level::High;
        let variant = Variant { process: by_process.then_some(process.key), digest };
        let cause = Cause { source: source.clone(), values: Values::These(variant.clone()) };
        match acted {
            Acted::Yes => self.end(&cause),
            Acted::No => self.end_if_expired(&cause, at),
        }
        if let Some(entry) = self.causes.get_mut(&cause) {
            return (entry.again(at), matched);
        }
        if self.causes.len() >= Self::MAX_CAUSES {
            self.forget_oldest();
        }
        let most = if self.fed.contains(&rule.id) { Self::MAX_VARIANTS_FED } else { Self::MAX_VARIANTS };
        if self.variants.get(&source).is_some_and(|variants| variants.len() >= most) {
            self.end_expired_of(&source, at);
        }
        let variants = self.variants.entry(source).or_default();
        let cause = if variants.len() < most {
            variants.insert(variant);
            cause
        } else if acted == Acted::Yes {
            cause
        } else {
            many
        };
        let entry =
            Entry { finding: finding.clone(), level: rule.level, count: 1, told: 1, first: at, last: at };
        self.causes.insert(cause.clone(), entry);
        (Folded::First(cause), matched)
    }

    /// The first finding of this cause could not be reported: the next match shall be.
    pub fn forget(&mut self, cause: &Cause) {
        self.causes.remove(cause);
        if let Values::These(variant) = &cause.values
            && let Some(variants) = self.variants.get_mut(&cause.source)
        {
            variants.remove(variant);
            if variants.is_empty() {
                self.variants.remove(&cause.source);
            }
        }
    }

    /// Findings whose count has moved since this was last asked.
    pub fn due(&mut self) -> Vec<Repeat> {
        let mut due = std::mem::take(&mut self.ended);
        due.extend(self.causes.values_mut().filter_map(Entry::untold));
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

    /// Forgets a cause whose finding was reported; its count is still told.
    fn end(&mut self, cause: &Cause) {
        // A reporter that asks every second never lets so many gather; without one nobody would read them (I11).
        if let Some(repeat) = self.causes.get_mut(cause).and_then(Entry::untold)
            && self.ended.len() < Self::MAX_CAUSES
        {
            self.ended.push(repeat);
        }
        self.forget(cause);
    }

    fn end_if_expired(&mut self, cause: &Cause, at: Timestamp) {
        if self.causes.get(cause).is_some_and(|entry| entry.is_expired(at)) {
            self.end(cause);
        }
    }

    fn end_expired_of(&mut self, source: &Source, at: Timestamp) {
        let variants: Vec<Variant> = self.variants.get(source).into_iter().flatten().cloned().collect();
        for variant in variants {
            self.end_if_expired(&Cause { source: source.clone(), values: Values::These(variant) }, at);
        }
    }

    fn forget_oldest(&mut self) {
        let age = |(cause, entry): (&Cause, &Entry)| (entry.last, entry.finding.clone(), cause.clone());
        let mut ages: Vec<(Timestamp, FindingId, Cause)> = self.causes.iter().map(age).collect();
        // Of those of one time always the same ones, so that a replay does what was done.
        ages.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, _, cause) in ages.into_iter().take(Self::MAX_CAUSES / 4) {
            self.end(&cause);
        }
    }
}

impl Entry {
    fn again(&mut self, at: Timestamp) -> Folded {
        self.count += 1;
        self.last = self.last.max(at);
        Folded::Again { finding: self.finding.clone(), count: self.count }
    }

    /// Also where the clock was set back: a cause from the future would else never end.
    fn is_expired(&self, at: Timestamp) -> bool {
        u128::from(at.0.abs_diff(self.first.0)) >= Fold::EXPIRES.as_nanos()
    }

    fn untold(&mut self) -> Option<Repeat> {
        if self.count == self.told {
            return None;
        }
        self.told = self.count;
        Some(Repeat { finding: self.finding.clone(), count: self.count, last: self.last, level: self.level })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_data::{process, process_key, rule};

    fn values(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("CommandLine".to_owned(), value.to_owned())])
    }

    #[test]
    fn the_same_cause_is_one_finding_with_a_count() {
        let mut fold = Fold::default();
        let (rule, process) = (rule("r", Level::High), process("/bin/x"));
        let first = FindingId::new("f1");
        let (folded, matched) =
            fold.take_in(&rule, &process, &first, Timestamp(1), Acted::No, || values("a"));
        assert!(matches!(folded, Folded::First(_)));
        assert_eq!(matched, values("a"));
        for n in 2..10 {
            let (folded, _) =
                fold.take_in(&rule, &process, &FindingId::new("other"), Timestamp(n), Acted::No, || {
                    values("a")
                });
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
                fold.take_in(&rule(rule_id, Level::Low), process, &id, Timestamp(1), Acted::No, || {
                    values(value)
                });
            assert!(matches!(folded, Folded::First(_)), "{rule_id} {value}");
        }
    }

    #[test]
    fn i11_beyond_the_limit_the_causes_seen_longest_ago_are_forgotten() {
        let mut fold = Fold::default();
        let rule = rule("r", Level::Low);
        let id = FindingId::new("f");
        let mut take = |n: usize, at: i64| {
            let process = process(&format!("/bin/x{n}"));
            let folded = fold.take_in(&rule, &process, &id, Timestamp(at), Acted::No, || values("a")).0;
            (folded, fold.len())
        };
        for n in 0..Fold::MAX_CAUSES + 100 {
            let (folded, length) = take(n, n as i64);
            assert!(matches!(folded, Folded::First(_)) && length <= Fold::MAX_CAUSES, "{n}: {length}");
        }
        let at = Fold::MAX_CAUSES as i64 + 200;
        assert!(matches!(take(Fold::MAX_CAUSES + 99, at).0, Folded::Again { .. }), "the newest is known");
        assert!(matches!(take(0, at).0, Folded::First(_)), "the oldest is not");
    }

    #[test]
    fn a_loop_with_ever_other_values_becomes_one_cause() {
        let mut fold = Fold::default();
        let (rule, process) = (rule("r", Level::High), process("/bin/scan"));
        let firsts = (0..10_000)
            .filter(|n| {
                let id = FindingId::new(format!("f{n}"));
                let matched = || values(&n.to_string());
                matches!(
                    fold.take_in(&rule, &process, &id, Timestamp(*n), Acted::No, matched).0,
                    Folded::First(_)
                )
            })
            .count();
        assert_eq!(firsts, Fold::MAX_VARIANTS + 1);
    }

    #[test]
    fn i11_what_correlations_look_at_is_told_apart_further_but_not_without_end() {
        let mut fold = Fold::default();
        fold.feed(["r".to_owned()]);
        let (rule, process) = (rule("r", Level::Low), process("/bin/scan"));
        let mut firsts: Vec<Cause> = Vec::new();
        for n in 0..10_000 {
            let (id, matched) = (FindingId::new(format!("f{n}")), || values(&n.to_string()));
            if let (Folded::First(cause), _) =
                fold.take_in(&rule, &process, &id, Timestamp(n), Acted::No, matched)
            {
                firsts.push(cause);
            }
        }
        assert_eq!(firsts.len(), Fold::MAX_VARIANTS_FED + 1);
        let mixed: Vec<usize> = (0..firsts.len()).filter(|n| firsts[*n].is_mixed()).collect();
        assert_eq!(mixed, [Fold::MAX_VARIANTS_FED], "only the last stands for others");
    }

    #[test]
    fn an_unreported_first_is_first_again() {
        let mut fold = Fold::default();
        let (rule, process) = (rule("r", Level::High), process("/bin/x"));
        let id = FindingId::new("f");
        let (Folded::First(cause), _) =
            fold.take_in(&rule, &process, &id, Timestamp(1), Acted::No, || values("a"))
        else {
            panic!("not the first")
        };
        fold.forget(&cause);
        assert!(fold.is_empty() && fold.variants.is_empty());
        let (folded, _) = fold.take_in(&rule, &process, &id, Timestamp(1), Acted::No, || values("a"));
        assert!(matches!(folded, Folded::First(_)));
    }

    fn reacting(id: &str) -> RuleRef {
        RuleRef { reaction: Reaction::Freeze, ..rule(id, Level::Medium) }
    }

    fn other(process: &Process, pid: u32) -> Process {
        Process { key: process_key(pid), ..process.clone() }
    }

    #[test]
    fn another_process_is_another_cause_of_a_rule_that_is_high_or_reacts() {
        let mut fold = Fold::default();
        let (base, id) = (process("/bin/x"), FindingId::new("f"));
        for (rule, is_first) in
            [(reacting("a"), true), (rule("b", Level::High), true), (rule("c", Level::Medium), false)]
        {
            for pid in [1, 2] {
                let (folded, _) =
                    fold.take_in(&rule, &other(&base, pid), &id, Timestamp(1), Acted::No, || values("a"));
                assert_eq!(matches!(folded, Folded::First(_)), pid == 1 || is_first, "{} {pid}", rule.id);
            }
            let (folded, _) =
                fold.take_in(&rule, &other(&base, 2), &id, Timestamp(2), Acted::No, || values("a"));
            assert!(matches!(folded, Folded::Again { .. }));
        }
    }

    #[test]
    fn a_cause_ends_and_its_count_is_still_told() {
        let mut fold = Fold::default();
        let (rule, process) = (rule("r", Level::High), process("/bin/x"));
        let end = Fold::EXPIRES.as_nanos() as i64;
        let mut is_first = |id: &str, at| {
            let (folded, _) =
                fold.take_in(&rule, &process, &FindingId::new(id), Timestamp(at), Acted::No, || values("a"));
            matches!(folded, Folded::First(_))
        };
        assert!(is_first("one", 0));
        assert!(!is_first("-", end - 1), "a loop does not keep its cause alive, but it is one until then");
        assert!(is_first("two", end));
        assert!(!is_first("-", end + 1));
        assert!(is_first("three", -1), "the clock was set back");
        let told: Vec<_> =
            fold.due().into_iter().map(|repeat| (repeat.finding.to_string(), repeat.count)).collect();
        assert_eq!(told, [("one".to_owned(), 2), ("two".to_owned(), 2)]);
    }

    #[test]
    fn i11_ten_thousand_processes_are_bounded_and_end_like_others() {
        let mut fold = Fold::default();
        let (rule, base) = (reacting("r"), process("/bin/fork"));
        let end = Fold::EXPIRES.as_nanos() as i64;
        for round in 0..3 {
            let firsts = (0..10_000)
                .filter(|n| {
                    let (id, at) = (FindingId::new(format!("f{n}")), Timestamp(round * end + n));
                    let (folded, _) =
                        fold.take_in(&rule, &other(&base, *n as u32), &id, at, Acted::No, || {
                            values(&n.to_string())
                        });
                    matches!(folded, Folded::First(_))
                })
                .count();
            assert_eq!(firsts, Fold::MAX_VARIANTS + 1, "in round {round}");
            assert_eq!(fold.len(), Fold::MAX_VARIANTS + 1);
        }
    }

    #[test]
    fn a_match_that_was_reacted_to_is_always_told_and_memory_stays_bounded() {
        let mut fold = Fold::default();
        let (rule, base) = (reacting("r"), process("/bin/fork"));
        for n in 0..10_000_u32 {
            let id = FindingId::new(format!("f{n}"));
            let (folded, _) =
                fold.take_in(&rule, &other(&base, n % 5000), &id, Timestamp(1), Acted::Yes, || values("a"));
            assert!(matches!(folded, Folded::First(_)), "{n}");
            assert!(fold.len() <= Fold::MAX_CAUSES);
        }
        assert!(fold.variants.values().all(|variants| variants.len() <= Fold::MAX_VARIANTS));
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
                    &rule(&rule_id.to_string(), Level::Low), &process(&exe.to_string()), &id, at, Acted::No, || values(&value.to_string()),
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
