//! Repetitions of one cause are one finding with a count, as on the nodes (docs/agent.md), so that no log can flood the controller.
//!
//! One cause is: the same rule, the same account, the same origin, the same matched values.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use model::{FindingId, Record, Timestamp, short_hash};

/// Causes remembered (I11). Beyond, the quarter that was not seen longest is forgotten, and its next match is a new finding.
const MAX_CAUSES: usize = 8192;
/// Variants of one rule that are told apart; the rest are counted together.
const MAX_VARIANTS: usize = 256;
/// The same where a correlation looks at the rule's matches.
const MAX_VARIANTS_FED: usize = 2048;
/// A cause is told again after this, in event time.
const EXPIRES: Duration = Duration::from_secs(15 * 60);

/// Rule and digest; without a digest all that is not told apart.
type Cause = (String, Option<String>);

#[derive(Debug)]
struct Entry {
    finding: FindingId,
    count: u64,
    told: u64,
    first: Timestamp,
    last: Timestamp,
}

/// What to do with a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folded {
    /// Report it.
    First,
    /// Report it; repetitions of it will have other values.
    FirstOfMany,
    /// It is counted.
    Again,
}

/// A finding whose count has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) finding: FindingId,
    pub(crate) count: u64,
    pub(crate) last: Timestamp,
}

/// The causes that are known.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    causes: HashMap<Cause, Entry>,
    variants: HashMap<String, usize>,
    fed: HashSet<String>,
    ended: Vec<Repeat>,
}

impl Fold {
    /// Names the rules whose matches correlations look at.
    pub(crate) fn feed(&mut self, rules: impl IntoIterator<Item = String>) {
        self.fed = rules.into_iter().collect();
    }

    pub(crate) fn take_in(
        &mut self,
        rule: &str,
        record: &Record,
        matched: &BTreeMap<String, String>,
        finding: &FindingId,
        at: Timestamp,
    ) -> Folded {
        let who = record.principal.as_ref().map(ToString::to_string).unwrap_or_default();
        let origin = record.origin.map(|addr| addr.to_string()).unwrap_or_default();
        let values = matched.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        let digest = short_hash([who.as_str(), origin.as_str()].into_iter().chain(values), 12);
        let mut cause = (rule.to_owned(), Some(digest));
        self.end_if_expired(&cause, at);
        if !self.causes.contains_key(&cause) {
            let most = if self.fed.contains(rule) { MAX_VARIANTS_FED } else { MAX_VARIANTS };
            if self.variants.get(rule).copied().unwrap_or(0) >= most {
                cause.1 = None;
                self.end_if_expired(&cause, at);
            }
        }
        if let Some(entry) = self.causes.get_mut(&cause) {
            entry.count += 1;
            entry.last = entry.last.max(at);
            return Folded::Again;
        }
        if self.causes.len() >= MAX_CAUSES {
            self.forget_oldest();
        }
        let folded = if cause.1.is_some() { Folded::First } else { Folded::FirstOfMany };
        *self.variants.entry(rule.to_owned()).or_default() += 1;
        let entry = Entry { finding: finding.clone(), count: 1, told: 1, first: at, last: at };
        self.causes.insert(cause, entry);
        folded
    }

    /// Findings whose count has moved since this was last asked.
    pub(crate) fn due(&mut self) -> Vec<Repeat> {
        let mut due = std::mem::take(&mut self.ended);
        due.extend(self.causes.values_mut().filter_map(Entry::untold));
        due.sort_unstable_by(|a, b| (a.last, &a.finding).cmp(&(b.last, &b.finding)));
        due
    }

    fn end_if_expired(&mut self, cause: &Cause, at: Timestamp) {
        let expired = |entry: &Entry| u128::from(at.0.abs_diff(entry.first.0)) >= EXPIRES.as_nanos();
        if self.causes.get(cause).is_some_and(expired) {
            self.end(cause);
        }
    }

    fn end(&mut self, cause: &Cause) {
        let Some(mut entry) = self.causes.remove(cause) else { return };
        self.ended.extend(entry.untold());
        if let Some(count) = self.variants.get_mut(&cause.0) {
            *count -= 1;
            if *count == 0 {
                self.variants.remove(&cause.0);
            }
        }
    }

    fn forget_oldest(&mut self) {
        let mut ages: Vec<(Timestamp, Cause)> =
            self.causes.iter().map(|(cause, entry)| (entry.last, cause.clone())).collect();
        ages.sort_unstable();
        for (_, cause) in ages.into_iter().take(MAX_CAUSES / 4) {
            self.end(&cause);
        }
    }
}

impl Entry {
    fn untold(&mut self) -> Option<Repeat> {
        (self.count > self.told).then(|| {
            self.told = self.count;
            Repeat { finding: self.finding.clone(), count: self.count, last: self.last }
        })
    }
}

#[cfg(test)]
mod tests {
    use model::{Facts, Principal, RecordKind};

    use super::*;

    fn record(name: &str) -> Record {
        let principal = Some(Principal { realm: "h".into(), name: name.into() });
        Record {
            kind: RecordKind::Sshd,
            id: "x".into(),
            principal,
            origin: None,
            object: None,
            sight: None,
            facts: Facts::default(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp(second * 1_000_000_000)
    }

    #[test]
    fn repetitions_are_counted_and_told_once() {
        let (mut fold, none) = (Fold::default(), BTreeMap::new());
        let take = |fold: &mut Fold, name: &str, id: &str, second| {
            fold.take_in("r", &record(name), &none, &FindingId::new(id), at(second))
        };
        assert_eq!(take(&mut fold, "a", "1", 0), Folded::First);
        assert_eq!(take(&mut fold, "a", "2", 1), Folded::Again);
        assert_eq!(take(&mut fold, "b", "3", 1), Folded::First);
        assert_eq!(take(&mut fold, "a", "4", 2), Folded::Again);
        let due = fold.due();
        assert_eq!(due, [Repeat { finding: FindingId::new("1"), count: 3, last: at(2) }]);
        assert_eq!(fold.due(), []);
        assert_eq!(
            take(&mut fold, "a", "5", 900),
            Folded::First,
            "a quarter of an hour later it is told anew"
        );
    }

    #[test]
    fn i11_ever_other_values_become_one_cause() {
        let (mut fold, none) = (Fold::default(), BTreeMap::new());
        let mut first = 0;
        for n in 0..100_000 {
            let folded =
                fold.take_in("r", &record(&n.to_string()), &none, &FindingId::new(n.to_string()), at(1));
            first += usize::from(folded != Folded::Again);
        }
        assert_eq!(first, MAX_VARIANTS + 1);
        assert!(fold.causes.len() <= MAX_CAUSES);
        assert_eq!(fold.due().iter().map(|one| one.count).sum::<u64>(), (100_000 - MAX_VARIANTS) as u64);
    }
}
