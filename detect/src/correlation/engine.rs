//! The runtime: takes hits, keeps groups, tells what has become true.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hasher,
};

use model::Timestamp;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::{
    Correlated, Counts, Folded, Limits, Values,
    compile::{Compiled, Program, Route, compile},
    durable::Changed,
    group::{Fed, Group},
    pending::{Feed, Feeds, Hit, Late, Pending},
};
use crate::{
    ast::{Correlation, CorrelationKind, Rule},
    diagnostic::Diagnostic,
    schema::{Field, FieldValue, Scratch, View},
};

/// Correlations at work. See the module for its promises.
#[derive(Debug)]
pub struct Correlator {
    pub(super) compiled: Compiled,
    limits: Limits,
    /// Key of the groups' hashes: without it nobody can make two groups collide.
    seed: (u64, u64),
    pub(super) tables: Vec<Table>,
    pub(super) pending: Pending,
    /// The caller's clock as of the last [`Correlator::advance`], never set back; `None` before the first.
    pub(super) now: Option<i64>,
    /// The same as the caller gave it.
    clock: i64,
    /// Everything before it has had its turn.
    pub(super) floor: i64,
    pub(super) counts: Counts,
    /// Number of the next hit.
    pub(super) next: u64,
    pub(super) changed: Changed,
}

/// The groups of one correlation.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) groups: HashMap<u128, Group, foldhash::fast::FixedState>,
    /// When each group's window has passed, at the earliest: one entry per group.
    ends: BinaryHeap<Reverse<(i64, u128)>>,
    /// Groups that were forgotten.
    gone: Vec<u128>,
    /// Memory of the groups, nearly.
    bytes: usize,
}

/// Everything that a restart must not forget, as plain data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    seed: (u64, u64),
    now: Option<i64>,
    floor: i64,
    counts: Counts,
    /// By correlation.
    tables: Vec<Kept>,
    pending: Vec<Hit>,
    late: Vec<Late>,
    next: u64,
}

/// One correlation's groups as they are written out.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    correlation: String,
    /// What it was, so that the state of another definition is not taken up.
    definition: String,
    /// In order of their hashes.
    groups: Vec<(u128, Group)>,
}

impl Correlator {
    /// Makes correlations ready to run over hits of `rules`. `seed` is a secret of the installation. The diagnostics are warnings:
    /// rules whose hits cannot belong to any group.
    #[must_use]
    pub fn new(
        correlations: &[Correlation],
        rules: &[Rule],
        limits: Limits,
        seed: (u64, u64),
    ) -> (Self, Vec<Diagnostic>) {
        let (compiled, diagnostics) = compile(correlations, rules);
        let tables = compiled.programs.iter().map(|_| Table::default()).collect();
        let correlator = Self {
            compiled,
            limits,
            seed,
            tables,
            pending: Pending::default(),
            now: None,
            clock: i64::MIN,
            floor: i64::MIN,
            counts: Counts::default(),
            next: 0,
            changed: Changed::default(),
        };
        (correlator, diagnostics)
    }

    /// Takes in a hit of a rule. `reference` is what the caller calls it by: hits of one time are taken in its order. What has become
    /// true is told by [`Correlator::advance`], and here where the buffer is full.
    pub fn observe(&mut self, rule: &str, view: &View<'_>, reference: u64, told: &mut Vec<Correlated>) {
        self.observe_folded(rule, view, Folded { reference, count: 1, values: Values::Same }, told);
    }

    /// As [`Correlator::observe`], for a hit that stands for several.
    pub fn observe_folded(
        &mut self,
        rule: &str,
        view: &View<'_>,
        folded: Folded,
        told: &mut Vec<Correlated>,
    ) {
        let Folded { reference, count, values } = folded;
        let Some(routes) = self.compiled.routes.get(rule).filter(|_| count > 0) else { return };
        let times = u64::from(count);
        self.counts.seen += times;
        self.changed.touch();
        let time = view.event().time.0;
        if self.now.is_some_and(|now| time > now.saturating_add(nanos(self.limits.ahead))) {
            self.counts.ahead += times;
            return;
        }
        let is_late = time < self.floor;
        let catch_up = nanos(self.limits.catch_up);
        if is_late && (catch_up == 0 || time < self.clock.saturating_sub(catch_up)) {
            self.counts.late += times;
            return;
        }
        let (programs, seed) = (&self.compiled.programs, self.seed);
        let known =
            |route: &&Route| values == Values::Same || is_always_same(route, &programs[route.program]);
        let fed = |route: &Route| feed(route, &programs[route.program], seed, view);
        let (asked, feeds) = match routes.as_slice() {
            [only] if values == Values::Same => (1, fed(only).map(Feeds::One)),
            several => {
                let asked: Vec<&Route> = several.iter().filter(known).collect();
                self.counts.mixed += (several.len() - asked.len()) as u64 * times;
                (asked.len(), Feeds::of(asked.into_iter().filter_map(fed).collect()))
            }
        };
        let fed = feeds.as_ref().map_or(0, |feeds| feeds.as_slice().len());
        self.counts.ungrouped += (asked - fed) as u64 * times;
        if let Some(feeds) = feeds {
            self.next += 1;
            let hit = Hit { time, reference, feeds, count, number: self.next };
            if is_late {
                let late = Late { release: self.clock.saturating_add(nanos(self.limits.lateness)), hit };
                self.changed.came(&late.hit, Some(late.release));
                self.pending.push_late(late);
            } else {
                self.changed.came(&hit, None);
                self.pending.push(hit);
            }
        }
        if self.pending.len() > self.limits.waiting
            && let Some(hit) = self.pending.pop()
        {
            self.counts.early += 1;
            self.floor = self.floor.max(hit.time);
            self.take(&hit, told);
        }
    }

    /// Tells the caller's clock before hits are given, so that a clock that was set meanwhile does not make them look old. Nothing is
    /// taken for it.
    pub fn tell_time(&mut self, now: Timestamp) {
        self.clock = now.0;
    }

    /// Moves the clock (the caller's, not the events': a node with a wrong clock must not make others late) and tells what has become
    /// true, in order of time.
    pub fn advance(&mut self, now: Timestamp, told: &mut Vec<Correlated>) {
        self.clock = now.0;
        self.pending.admit(now.0, nanos(self.limits.lateness));
        let now = self.now.map_or(now.0, |before| before.max(now.0));
        self.now = Some(now);
        self.floor = self.floor.max(now.saturating_sub(nanos(self.limits.lateness)));
        while let Some(hit) = self.pending.pop_before(self.floor) {
            self.take(&hit, told);
        }
    }

    /// Takes all that waits, at the end of a replay.
    pub fn finish(&mut self, told: &mut Vec<Correlated>) {
        self.pending.admit_all();
        while let Some(hit) = self.pending.pop() {
            self.floor = self.floor.max(hit.time);
            self.take(&hit, told);
        }
    }

    /// What became of hits that a limit touched.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When [`Correlator::advance`] has something to do next, by the caller's clock.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let (oldest, late) = self.pending.next();
        let due = oldest.map(|time| time.saturating_add(nanos(self.limits.lateness)).saturating_add(1));
        due.into_iter().chain(late).min().map(Timestamp)
    }

    /// Whether hits of this rule matter to some correlation.
    #[must_use]
    pub fn is_fed_by(&self, rule: &str) -> bool {
        self.compiled.routes.contains_key(rule)
    }

    /// How long what came may still matter: the longest window, and how old a hit may be.
    #[must_use]
    pub fn memory(&self) -> std::time::Duration {
        let longest = self.compiled.programs.iter().map(|program| program.span).max().unwrap_or(0);
        std::time::Duration::from_nanos(u64::try_from(longest).unwrap_or(0))
            + self.limits.lateness
            + self.limits.catch_up
    }

    /// Groups kept.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.tables.iter().map(|table| table.groups.len()).sum()
    }

    /// Memory of the groups in bytes, nearly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |table: &Table| {
            let slots = table.groups.capacity() * (size_of::<(u128, Group)>() + 1);
            let ends = table.ends.capacity() * size_of::<Reverse<(i64, u128)>>();
            slots + ends + table.groups.values().map(Group::bytes).sum::<usize>()
        };
        self.tables.iter().map(of).sum()
    }

    /// Everything that a restart must not forget.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let tables = self.compiled.programs.iter().zip(&self.tables).map(|(program, table)| {
            let mut groups: Vec<(u128, Group)> =
                table.groups.iter().map(|(key, group)| (*key, group.clone())).collect();
            groups.sort_unstable_by_key(|(key, _)| *key);
            Kept { correlation: program.key.clone(), definition: program.definition.clone(), groups }
        });
        Checkpoint {
            seed: self.seed,
            now: self.now,
            floor: self.floor,
            counts: self.counts,
            tables: tables.collect(),
            pending: self.pending.sorted(),
            late: self.pending.late().cloned().collect(),
            next: self.next,
        }
    }

    /// Goes on from a checkpoint. Correlations whose definition has changed begin anew.
    #[must_use]
    pub fn restore(
        correlations: &[Correlation],
        rules: &[Rule],
        limits: Limits,
        checkpoint: Checkpoint,
    ) -> (Self, Vec<Diagnostic>) {
        let (mut correlator, diagnostics) = Self::new(correlations, rules, limits, checkpoint.seed);
        let places: Vec<Option<usize>> = checkpoint
            .tables
            .iter()
            .map(|kept| {
                let same = |program: &Program| {
                    program.key == kept.correlation && program.definition == kept.definition
                };
                correlator.compiled.programs.iter().position(same)
            })
            .collect();
        for (kept, place) in checkpoint.tables.into_iter().zip(&places) {
            let Some(place) = *place else { continue };
            let span = correlator.compiled.programs[place].span;
            let table = &mut correlator.tables[place];
            for (key, group) in kept.groups.into_iter().take(limits.groups) {
                table.put(key, group, span);
            }
        }
        let moved = |place: usize| places.get(place).copied().flatten();
        let pending = checkpoint.pending.into_iter().map(|hit| (hit, None));
        let late = checkpoint.late.into_iter().map(|late| (late.hit, Some(late.release)));
        for (hit, release) in pending.chain(late).take(limits.waiting) {
            let feeds = hit.feeds.as_slice().iter().filter_map(|feed| {
                let after = match feed.after {
                    Some(place) => Some(moved(place)?),
                    None => None,
                };
                Some(Feed { program: moved(feed.program)?, after, ..*feed })
            });
            if let Some(feeds) = Feeds::of(feeds.collect()) {
                correlator.pend(Hit { feeds, ..hit }, release);
            }
        }
        correlator.next = checkpoint.next;
        correlator.now = checkpoint.now;
        correlator.floor = checkpoint.floor;
        correlator.counts = checkpoint.counts;
        (correlator, diagnostics)
    }

    /// Puts a hit that waits back; with the time of its release if it is late.
    pub(super) fn pend(&mut self, hit: Hit, release: Option<i64>) {
        match release {
            Some(release) => self.pending.push_late(Late { release, hit }),
            None => self.pending.push(hit),
        }
    }

    fn take(&mut self, hit: &Hit, told: &mut Vec<Correlated>) {
        self.changed.left(hit.number);
        let feeds = hit.feeds.as_slice();
        // Those that this hit has made true, in order; each may feed others.
        let mut risen: Vec<usize> = vec![];
        let mut at = 0;
        let mut after = None;
        loop {
            for feed in feeds.iter().filter(|feed| feed.after == after) {
                if self.feed_group(hit, feed, told) {
                    risen.push(feed.program);
                }
            }
            let Some(next) = risen.get(at) else { break };
            after = Some(*next);
            at += 1;
        }
    }

    /// Whether the condition has become true.
    fn feed_group(&mut self, hit: &Hit, feed: &Feed, told: &mut Vec<Correlated>) -> bool {
        let program = &self.compiled.programs[feed.program];
        let table = &mut self.tables[feed.program];
        let linger = nanos(self.limits.catch_up);
        table.forget(hit.time.saturating_sub(linger), program.span, 2);
        if !table.groups.contains_key(&feed.group) {
            if table.is_full(&self.limits) {
                table.forget(hit.time, program.span, usize::MAX);
            }
            if table.is_full(&self.limits) {
                self.counts.refused += 1;
                self.changed.groups(feed.program, &mut table.gone);
                return false;
            }
            table.ends.push(Reverse((hit.time.saturating_add(program.span), feed.group)));
        }
        self.changed.groups(feed.program, &mut table.gone);
        self.changed.group(feed.program, feed.group);
        let group = table.groups.entry(feed.group).or_insert_with(|| {
            let group = Group::new(program, hit.time, &self.limits);
            table.bytes += GROUP_BYTES + group.bytes();
            group
        });
        if hit.time < group.last {
            // Only one that was late can come so: the group has gone on without it.
            self.counts.late += u64::from(hit.count);
            return false;
        }
        let fed = Fed {
            time: hit.time,
            position: feed.position,
            value: feed.value,
            reference: hit.reference,
            count: hit.count,
        };
        let before = group.bytes();
        let value = group.feed(fed, program, &self.limits, &mut self.counts);
        table.bytes = (table.bytes + group.bytes()).saturating_sub(before);
        let Some(value) = value else { return false };
        told.push(Correlated {
            correlation: program.key.clone(),
            time: Timestamp(hit.time),
            trigger: hit.reference,
            evidence: group.evidence(),
            value,
        });
        true
    }
}

/// What a group takes beside what it remembers: its place in the table and its entry by end.
const GROUP_BYTES: usize = size_of::<(u128, Group)>() + size_of::<Reverse<(i64, u128)>>() + 2;

impl Table {
    /// Whether no new group may begin.
    fn is_full(&self, limits: &Limits) -> bool {
        self.groups.len() >= limits.groups || self.bytes >= limits.bytes
    }

    /// Forgets at most so many groups whose window has passed.
    fn forget(&mut self, time: i64, span: i64, at_most: usize) {
        let mut looked_at = 0;
        while looked_at < at_most {
            let Some(Reverse((end, key))) = self.ends.peek().copied() else { break };
            if end > time {
                break;
            }
            looked_at += 1;
            self.ends.pop();
            let Some(group) = self.groups.get(&key) else { continue };
            let real = group.last.saturating_add(span);
            if real > time {
                self.ends.push(Reverse((real, key)));
            } else {
                let of_group = self.groups.remove(&key).map_or(0, |group| GROUP_BYTES + group.bytes());
                self.bytes = self.bytes.saturating_sub(of_group);
                self.gone.push(key);
            }
        }
    }

    /// Takes a group of an earlier life.
    pub(super) fn put(&mut self, key: u128, group: Group, span: i64) {
        self.ends.push(Reverse((group.last.saturating_add(span), key)));
        self.bytes += GROUP_BYTES + group.bytes();
        self.groups.insert(key, group);
    }
}

/// Whether a correlation looks only at what all hits that were folded have in common.
fn is_always_same(route: &Route, program: &Program) -> bool {
    use crate::schema::Field;
    let of_cause = |field: &Field| {
        matches!(
            field,
            Field::Computer
                | Field::Image
                | Field::ExeBacking
                | Field::Workload
                | Field::InContainer
                | Field::ContainerId
                | Field::ContainerRuntime
                | Field::PodUid
                | Field::SystemdUnit
                | Field::CgroupPath
        )
    };
    let counts = matches!(
        program.kind,
        CorrelationKind::EventCount | CorrelationKind::Temporal | CorrelationKind::TemporalOrdered
    );
    counts && route.group_by.iter().all(of_cause)
}

fn feed(route: &Route, program: &Program, seed: (u64, u64), view: &View<'_>) -> Option<Feed> {
    let group = hash(&route.group_by, seed, view)?;
    let value = match program.kind {
        CorrelationKind::ValueCount => {
            let bytes = hash(&route.values, seed, view)?.to_le_bytes();
            i64::from_le_bytes(*bytes.first_chunk()?)
        }
        CorrelationKind::ValueSum | CorrelationKind::ValueAvg | CorrelationKind::ValuePercentile => {
            number(view.get(*route.values.first()?))?
        }
        _ => 0,
    };
    Some(Feed { program: route.program, position: route.position, after: route.after, group, value })
}

/// A hash of the fields' values; `None` if one is absent: an event without the field belongs to no group.
fn hash(fields: &[Field], seed: (u64, u64), view: &View<'_>) -> Option<u128> {
    let mut hasher = SipHasher13::new_with_keys(seed.0, seed.1);
    let mut scratch = Scratch::new();
    for field in fields {
        match view.get(*field) {
            FieldValue::Absent => return None,
            FieldValue::List(list) => {
                let mut count = 0_u32;
                for text in list.iter() {
                    write(&mut hasher, text);
                    count += 1;
                }
                hasher.write_u32(count);
            }
            one => write(&mut hasher, one.text(&mut scratch)?),
        }
    }
    Some(hasher.finish128().as_u128())
}

/// With its length, so that ("ab", "c") and ("a", "bc") differ.
fn write(hasher: &mut SipHasher13, text: &str) {
    hasher.write_u64(text.len() as u64);
    hasher.write(text.as_bytes());
}

fn number(value: FieldValue<'_>) -> Option<i64> {
    match value {
        FieldValue::Num(number) => Some(number),
        FieldValue::Str(text) => text.parse().ok(),
        _ => None,
    }
}

fn nanos(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
