//! Repeated findings of one cause are one finding with a count.
//!
//! One cause of what processes do is: the same rule, the same executable (file and path), the same cgroup, and the same matched values; for
//! a rule that asks for a reaction or is high, also the same process, since each process of an attack is to be seen, contained and answered
//! by itself. One cause of what records tell is: the same rule, the same account, the same origin, the same matched values.
//!
//! A rule that matches ever other values or processes of the same executable in the same cgroup (a scan, a loop with a counter), or in ever
//! other records, becomes one cause from so many on ([`Limits::variants`]; [`Limits::variants_fed`] where correlations look at the rule's
//! matches, whose values then also tell causes apart), so that no loop and no log can flood the controller. A cause ends
//! [`Fold::EXPIRES`] after its finding: what goes on then is told anew. A match to which the node has reacted is always told.
//!
//! With the count go moments: who and when, of the first repetitions and of the last ones ([`Moments`]), while there is room
//! ([`Limits::moments`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use model::{
    CgroupId, Event, ExeFile, Finding, FindingId, Level, Moment, Moments, Process, ProcessKey, Reaction,
    Record, RuleRef, Timestamp, short_hash,
};

/// How much is remembered (I11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Causes. Beyond, the quarter that was not seen longest is forgotten, and its next match is a new finding.
    pub causes: usize,
    /// Variants of one rule, executable and cgroup, or of one rule over records, that are told apart.
    pub variants: usize,
    /// The same for rules whose matches correlations look at: what is not told apart cannot be counted apart.
    pub variants_fed: usize,
    /// Moments of repetitions between two looks at [`Fold::due`]. Beyond, repetitions are only counted.
    pub moments: usize,
}

impl Limits {
    /// On a node.
    pub const NODE: Self = Self { causes: 4096, variants: 64, variants_fed: 1024, moments: 2048 };
    /// Over one source of records.
    pub const RECORDS: Self = Self { causes: 8192, variants: 256, variants_fed: 2048, moments: 8192 };
}

/// What matched, without its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Source {
    rule: String,
    /// What was run where; `None` for records.
    place: Option<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
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
    /// Those since it was last told, as far as there was room.
    pub moments: Moments,
}

#[derive(Debug)]
struct Entry {
    finding: FindingId,
    level: Level,
    count: u64,
    told: u64,
    first: Timestamp,
    last: Timestamp,
    /// Repetitions since they were last told: of the first ones all, then the last ones.
    untold: VecDeque<Again>,
}

/// A repetition that is not told yet.
#[derive(Debug)]
struct Again {
    nth: u64,
    at: Timestamp,
    what: What,
}

/// Put into words when it is told: a process in a loop costs little.
#[derive(Debug)]
enum What {
    Done(Arc<Process>),
    /// Records may be long, and are not held for this.
    Told(String),
}

/// The causes that are known.
#[derive(Debug)]
pub struct Fold {
    limits: Limits,
    causes: HashMap<Cause, Entry>,
    /// Of each source the variants among `causes`, without those that only a reaction made known.
    variants: HashMap<Source, HashSet<Variant>>,
    /// Counts of causes that have ended, still to be told.
    ended: Vec<Repeat>,
    /// For how many moments there is room until the next look.
    room: usize,
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
    /// A cause is told again after this, in event time: long enough that a loop is no flood (4 findings an hour and variant), short
    /// enough that a new attack in the same place is a new finding while the incident of the last one may already be closed.
    pub const EXPIRES: Duration = Duration::from_secs(15 * 60);

    /// One that knows nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (causes, variants) = (HashMap::new(), HashMap::new());
        let room = limits.moments;
        Self { limits, causes, variants, ended: Vec::new(), room, fed: HashSet::new() }
    }

    /// Names the rules whose matches correlations look at.
    pub fn feed(&mut self, rules: impl IntoIterator<Item = String>) {
        self.fed = rules.into_iter().collect();
    }

    /// Takes in a match. `matched` gives the values, and is not called where they no longer matter; they come back with what is to be told,
    /// with [`Finding::MIXED`] among them where repetitions will have others.
    pub fn take_in(
        &mut self,
        rule: &RuleRef,
        event: &Event,
        finding: &FindingId,
        acted: Acted,
        matched: impl FnOnce() -> BTreeMap<String, String>,
    ) -> (Folded, BTreeMap<String, String>) {
        let at = event.time;
        let source = Source::of(rule, event);
        let many = Cause { source: source.clone(), values: Values::Many };
        self.end_if_expired(&many, at);
        // A process in a loop costs no more than this. Records were read and judged: what is known of others goes on being counted apart.
        if acted == Acted::No
            && source.place.is_some()
            && let Some(entry) = self.causes.get_mut(&many)
        {
            return (entry.again(event, &mut self.room), BTreeMap::new());
        }
        let mut matched = matched();
        let variant = Variant::of(rule, event, &matched);
        let cause = Cause { source: source.clone(), values: Values::These(variant.clone()) };
        match acted {
            Acted::Yes => self.end(&cause),
            Acted::No => self.end_if_expired(&cause, at),
        }
        if let Some(entry) = self.causes.get_mut(&cause) {
            return (entry.again(event, &mut self.room), matched);
        }
        if acted == Acted::No
            && let Some(entry) = self.causes.get_mut(&many)
        {
            return (entry.again(event, &mut self.room), matched);
        }
        if self.causes.len() >= self.limits.causes {
            self.forget_oldest();
        }
        let most = if self.fed.contains(&rule.id) { self.limits.variants_fed } else { self.limits.variants };
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
            matched.insert(Finding::MIXED.to_owned(), "too many different ones to tell apart".to_owned());
            many
        };
        let entry = Entry {
            finding: finding.clone(),
            level: rule.level,
            count: 1,
            told: 1,
            first: at,
            last: at,
            untold: VecDeque::new(),
        };
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
        self.room = self.limits.moments;
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
            && self.ended.len() < self.limits.causes
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
        for (_, _, cause) in ages.into_iter().take(self.limits.causes / 4) {
            self.end(&cause);
        }
    }
}

impl Source {
    fn of(rule: &RuleRef, event: &Event) -> Self {
        let process = &event.process;
        let place = || Place { exe: process.exe.clone(), file: process.exe_file, cgroup: process.cgroup };
        Self { rule: rule.id.clone(), place: event.record().is_none().then(place) }
    }
}

impl Variant {
    fn of(rule: &RuleRef, event: &Event, matched: &BTreeMap<String, String>) -> Self {
        let (who, origin) = match event.record() {
            None => (String::new(), String::new()),
            Some(Record { principal, origin, .. }) => (
                principal.as_ref().map(ToString::to_string).unwrap_or_default(),
                origin.map(|addr| addr.to_string()).unwrap_or_default(),
            ),
        };
        let values = matched.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        let digest = short_hash([who.as_str(), origin.as_str()].into_iter().chain(values), 16);
        let each = event.record().is_none() && (rule.reaction != Reaction::None || rule.level >= Level::High);
        Self { process: each.then_some(event.process.key), digest }
    }
}

impl Entry {
    /// Counts an event, and keeps its moment while there is room.
    fn again(&mut self, event: &Event, room: &mut usize) -> Folded {
        let at = event.time;
        self.count += 1;
        self.last = self.last.max(at);
        let firsts = self.untold.partition_point(|one| Moments::is_first(one.nth));
        let lasts = self.untold.len() - firsts;
        if lasts > 0 && (lasts >= Moments::LAST || *room == 0) {
            // In place of the oldest of the last ones.
            self.untold.remove(firsts);
            *room += 1;
        }
        if *room > 0 {
            *room -= 1;
            self.untold.push_back(Again { nth: self.count, at, what: What::of(event) });
        }
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
        let (finding, count, last, level) = (self.finding.clone(), self.count, self.last, self.level);
        let moments = self.untold.drain(..).map(Again::in_words).collect();
        Some(Repeat { finding, count, last, level, moments })
    }
}

impl Again {
    fn in_words(self) -> Moment {
        let what = match self.what {
            What::Done(process) => format!("{} ({})", process.exe, process.key.pid),
            What::Told(what) => what,
        };
        Moment::new(self.nth, self.at, what)
    }
}

impl What {
    fn of(event: &Event) -> Self {
        match event.record() {
            Some(record) => Self::Told(record.told()),
            None => Self::Done(Arc::clone(&event.process)),
        }
    }
}

#[cfg(test)]
mod tests;
