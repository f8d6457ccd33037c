//! The state as rows that a database keeps: only what changed is written, so that it can be written with every step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{
    Correlator, Counts, Limits,
    group::Group,
    pending::{Feed, Feeds, Hit},
};
use crate::{
    ast::{Correlation, Rule},
    diagnostic::Diagnostic,
};

/// One part of the state, as plain data. Its key is part of it: a row means something only under the key that it was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row(Part);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Part {
    Group(Group),
    Hit(Waiting),
    Clock(Clock),
}

/// A hit that waits. Correlations are named by [`Program::tag`](super::compile::Program::tag), so that a change of rules does not mix them up.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Waiting {
    time: i64,
    reference: u64,
    count: u32,
    release: Option<i64>,
    feeds: Vec<Fed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fed {
    to: u64,
    position: usize,
    after: Option<u64>,
    group: u128,
    value: i64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Clock {
    now: Option<i64>,
    floor: i64,
    counts: Counts,
    next: u64,
}

/// What changed since the rows were last asked for; counted only for a runtime that was [`Correlator::resume`]d.
#[derive(Debug, Default)]
pub(super) struct Changed {
    watch: Watch,
    clock: bool,
    groups: BTreeSet<(usize, u128)>,
    came: BTreeMap<u64, (Hit, Option<i64>)>,
    left: Vec<u64>,
    stale: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Watch {
    #[default]
    Off,
    On,
}

impl Changed {
    pub(super) fn touch(&mut self) {
        self.clock = true;
    }

    pub(super) fn came(&mut self, hit: &Hit, release: Option<i64>) {
        if self.watch == Watch::On {
            self.came.insert(hit.number, (hit.clone(), release));
        }
    }

    pub(super) fn left(&mut self, number: u64) {
        self.clock = true;
        if self.watch == Watch::On && self.came.remove(&number).is_none() {
            self.left.push(number);
        }
    }

    pub(super) fn groups(&mut self, program: usize, gone: &mut Vec<u128>) {
        gone.drain(..).for_each(|group| self.group(program, group));
    }

    pub(super) fn group(&mut self, program: usize, group: u128) {
        if self.watch == Watch::On {
            self.groups.insert((program, group));
        }
    }
}

const CLOCK: &[u8] = b"c";

impl Correlator {
    /// Makes correlations ready to run, going on from the rows of an earlier life, if there are any. Correlations whose definition has
    /// changed begin anew. `seed` is a secret of the installation and must be the same for the same rows.
    #[must_use]
    pub fn resume(
        correlations: &[Correlation],
        rules: &[Rule],
        limits: Limits,
        seed: (u64, u64),
        rows: impl IntoIterator<Item = (Vec<u8>, Row)>,
    ) -> (Self, Vec<Diagnostic>) {
        let (mut this, diagnostics) = Self::new(correlations, rules, limits, seed);
        this.changed.watch = Watch::On;
        let places: HashMap<u64, usize> =
            this.compiled.programs.iter().enumerate().map(|(place, program)| (program.tag, place)).collect();
        for (key, Row(part)) in rows {
            match (part, key.first_chunk::<1>(), key.get(1..)) {
                (Part::Clock(clock), ..) => {
                    (this.now, this.floor) = (clock.now, clock.floor);
                    (this.counts, this.next) = (clock.counts, clock.next.max(this.next));
                }
                (Part::Group(group), Some(b"g"), Some(rest)) => {
                    let place = group_key(rest).and_then(|(tag, group)| Some((*places.get(&tag)?, group)));
                    match place {
                        Some((place, name)) if this.tables[place].groups.len() < limits.groups => {
                            let span = this.compiled.programs[place].span;
                            this.tables[place].put(name, group, span);
                        }
                        _ => this.changed.stale.push(key),
                    }
                }
                (Part::Hit(waiting), Some(b"h"), Some(rest)) => {
                    let hit = rest.first_chunk().and_then(|number| {
                        waiting.hit(u64::from_be_bytes(*number), |tag| places.get(&tag).copied())
                    });
                    match hit {
                        Some((hit, release)) => {
                            this.next = this.next.max(hit.number);
                            this.pend(hit, release);
                        }
                        None => this.changed.stale.push(key),
                    }
                }
                _ => this.changed.stale.push(key),
            }
        }
        (this, diagnostics)
    }

    /// Where nobody goes on with it, no changes are counted: [`Correlator::changes`] has none.
    #[must_use]
    pub fn unwritten(mut self) -> Self {
        self.changed = Changed::default();
        self
    }

    /// What must be written (`Some`) or removed (`None`) for the rows to be the state of now. All of it, in one step.
    pub fn changes(&mut self) -> Vec<(Vec<u8>, Option<Row>)> {
        if self.changed.watch == Watch::Off {
            return Vec::new();
        }
        let changed = std::mem::take(&mut self.changed);
        self.changed.watch = changed.watch;
        let mut rows: Vec<(Vec<u8>, Option<Row>)> =
            changed.stale.into_iter().map(|key| (key, None)).collect();
        rows.extend(changed.left.into_iter().map(|number| (hit_key(number), None)));
        let tags = self.tags();
        for (hit, release) in changed.came.values() {
            rows.push((hit_key(hit.number), Some(waiting(hit, *release, &tags))));
        }
        for (place, name) in changed.groups {
            let group = self.tables[place].groups.get(&name);
            let key = [b"g".as_slice(), &tags[place].to_be_bytes(), &name.to_be_bytes()].concat();
            rows.push((key, group.map(|group| Row(Part::Group(group.clone())))));
        }
        if changed.clock || !rows.is_empty() {
            rows.push((CLOCK.to_vec(), Some(self.clock_row())));
        }
        rows
    }

    /// The whole state, for another runtime to [`Correlator::resume`] from.
    #[must_use]
    pub fn rows(&self) -> Vec<(Vec<u8>, Row)> {
        let tags = self.tags();
        let mut rows = vec![(CLOCK.to_vec(), self.clock_row())];
        for (tag, table) in tags.iter().zip(&self.tables) {
            rows.extend(table.groups.iter().map(|(name, group)| {
                let key = [b"g".as_slice(), &tag.to_be_bytes(), &name.to_be_bytes()].concat();
                (key, Row(Part::Group(group.clone())))
            }));
        }
        let late = self.pending.late().map(|late| (&late.hit, Some(late.release)));
        let sorted = self.pending.sorted();
        let waits = sorted.iter().map(|hit| (hit, None)).chain(late);
        rows.extend(waits.map(|(hit, release)| (hit_key(hit.number), waiting(hit, release, &tags))));
        rows
    }

    fn clock_row(&self) -> Row {
        let Self { now, floor, counts, next, .. } = self;
        Row(Part::Clock(Clock { now: *now, floor: *floor, counts: *counts, next: *next }))
    }

    fn tags(&self) -> Vec<u64> {
        self.compiled.programs.iter().map(|program| program.tag).collect()
    }
}

impl Waiting {
    fn hit(self, number: u64, place: impl Fn(u64) -> Option<usize>) -> Option<(Hit, Option<i64>)> {
        let feeds = self.feeds.into_iter().filter_map(|fed| {
            let after = match fed.after {
                Some(tag) => Some(place(tag)?),
                None => None,
            };
            let (position, group, value) = (fed.position, fed.group, fed.value);
            Some(Feed { program: place(fed.to)?, position, after, group, value })
        });
        let feeds = Feeds::of(feeds.collect())?;
        let Self { time, reference, count, release, .. } = self;
        Some((Hit { time, reference, feeds, count, number }, release))
    }
}

fn waiting(hit: &Hit, release: Option<i64>, tags: &[u64]) -> Row {
    let feeds = hit.feeds.as_slice().iter().map(|feed| Fed {
        to: tags[feed.program],
        position: feed.position,
        after: feed.after.map(|place| tags[place]),
        group: feed.group,
        value: feed.value,
    });
    let (time, reference, count) = (hit.time, hit.reference, hit.count);
    Row(Part::Hit(Waiting { time, reference, count, release, feeds: feeds.collect() }))
}

fn hit_key(number: u64) -> Vec<u8> {
    [b"h".as_slice(), &number.to_be_bytes()].concat()
}

fn group_key(rest: &[u8]) -> Option<(u64, u128)> {
    let (tag, rest) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*tag), u128::from_be_bytes(*rest.first_chunk::<16>()?)))
}
