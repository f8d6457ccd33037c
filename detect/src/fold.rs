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
//! Nobody's inventions cost others their sight: beside what all have together, each tenant of a rule over records ([`Tenant`]) has variants of
//! his own, and where causes must be forgotten, those of who has most are.
//!
//! With the count go moments: who and when, of the first repetitions and of the last ones ([`Moments`]), while there is room
//! ([`Limits::moments`]).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use model::{
    CgroupId, Event, ExeFile, Finding, FindingId, Level, Moment, Moments, Process, ProcessKey, Reaction,
    Record, RuleRef, Timestamp, short_hash,
};

use crate::{incident::login_of, tenant::Tenant};

/// How much is remembered (I11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Causes. Beyond, a quarter is forgotten, of who has most what was not seen longest, and its next match is a new finding.
    pub causes: usize,
    /// Variants of one rule, executable and cgroup, or of one rule over records, that are told apart; over records 16 more of each of 64
    /// tenants.
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

/// Tenants of one rule over records that are told apart; further ones are one.
const TENANTS: usize = 64;

/// Variants of one rule over records that a tenant may have whatever the others have.
const RESERVED: usize = 16;

/// Variants of a source that are told apart.
#[derive(Debug, Default)]
struct Apart {
    /// Of all tenants together.
    all: usize,
    /// `None` are those that are not told apart, and processes: their place says whose they are.
    tenants: HashMap<Option<Tenant>, HashSet<Variant>>,
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
    /// Of records.
    tenant: Option<Tenant>,
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
    /// This very event was taken in for this rule: a log told of it twice, as of a request that has begun and has ended. Not counted.
    Same,
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
    variants: HashMap<Source, Apart>,
    /// Counts of causes that have ended, still to be told.
    ended: Vec<Repeat>,
    /// For how many moments there is room until the next look.
    room: usize,
    /// Records that were taken in lately, by rule; twice as many as causes at most.
    lately: HashSet<FindingId>,
    in_order: VecDeque<FindingId>,
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
        let (lately, in_order, room) = (HashSet::new(), VecDeque::new(), limits.moments);
        let (ended, fed) = (Vec::new(), HashSet::new());
        Self { limits, causes, variants, ended, room, lately, in_order, fed }
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
        if source.place.is_none() && !self.is_new(finding) {
            return (Folded::Same, BTreeMap::new());
        }
        let tenant = self.tenant_of(&source, event);
        let many = Cause { source: source.clone(), tenant: tenant.clone(), values: Values::Many };
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
        let values = Values::These(variant.clone());
        let cause = Cause { source: source.clone(), tenant: tenant.clone(), values };
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
        if self.variants.get(&source).is_some_and(|apart| !apart.has_room(&tenant, most)) {
            self.end_expired_of(&source, at);
        }
        let apart = self.variants.entry(source).or_default();
        let cause = if apart.has_room(&tenant, most) {
            apart.insert(tenant, variant);
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
            && let Some(apart) = self.variants.get_mut(&cause.source)
        {
            apart.remove(&cause.tenant, variant);
            if apart.all == 0 {
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
        let mut variants = Vec::new();
        for (tenant, of) in self.variants.get(source).into_iter().flat_map(|apart| &apart.tenants) {
            variants.extend(of.iter().map(|variant| (tenant.clone(), variant.clone())));
        }
        for (tenant, variant) in variants {
            self.end_if_expired(
                &Cause { source: source.clone(), tenant, values: Values::These(variant) },
                at,
            );
        }
    }

    /// Whether a record was not taken in before, as far as that is remembered.
    fn is_new(&mut self, finding: &FindingId) -> bool {
        if !self.lately.insert(finding.clone()) {
            return false;
        }
        self.in_order.push_back(finding.clone());
        if self.in_order.len() > self.limits.causes.saturating_mul(2)
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.lately.remove(&oldest);
        }
        true
    }

    /// Whose a record is, as far as tenants of its rule are told apart.
    fn tenant_of(&self, source: &Source, event: &Event) -> Option<Tenant> {
        if source.place.is_some() {
            return None;
        }
        let tenant = Some(Tenant::of(event));
        let apart = self.variants.get(source);
        apart
            .is_none_or(|apart| apart.tenants.len() < TENANTS || apart.tenants.contains_key(&tenant))
            .then_some(tenant)
            .flatten()
    }

    /// Makes room: who has most pays, with what he has not done for longest.
    fn forget_oldest(&mut self) {
        let mut by_payer: BTreeMap<_, Vec<(Timestamp, FindingId, Cause)>> = BTreeMap::new();
        for (cause, entry) in &self.causes {
            let payer = (cause.source.place.as_ref().map(|place| place.cgroup), cause.tenant.clone());
            by_payer.entry(payer).or_default().push((entry.last, entry.finding.clone(), cause.clone()));
        }
        let mut ranked = Vec::with_capacity(self.causes.len());
        for mut own in by_payer.into_values() {
            // Of those of one time always the same ones, so that a replay does what was done.
            own.sort_unstable_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
            ranked.extend(own.into_iter().enumerate().map(|(rank, one)| (Reverse(rank), one)));
        }
        ranked.sort_unstable_by(|(rank, a), (other, b)| (rank, a.0, &a.1).cmp(&(other, b.0, &b.1)));
        for (_, (_, _, cause)) in ranked.into_iter().take(self.limits.causes / 4) {
            self.end(&cause);
        }
    }
}

impl Apart {
    fn has_room(&self, tenant: &Option<Tenant>, most: usize) -> bool {
        let own = || self.tenants.get(tenant).map_or(0, HashSet::len);
        self.all < most || (tenant.is_some() && own() < RESERVED)
    }

    fn insert(&mut self, tenant: Option<Tenant>, variant: Variant) {
        self.all += usize::from(self.tenants.entry(tenant).or_default().insert(variant));
    }

    fn remove(&mut self, tenant: &Option<Tenant>, variant: &Variant) {
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        self.all -= usize::from(own.remove(variant));
        if own.is_empty() {
            self.tenants.remove(tenant);
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
        // Each login has a session of its own, which is found by it.
        let login = event.record().and_then(login_of).map(|login| format!("{login:?}"));
        let values = matched.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        let all = [who.as_str(), origin.as_str()].into_iter().chain(login.as_deref()).chain(values);
        let digest = short_hash(all, 16);
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
