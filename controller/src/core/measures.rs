//! Facts of incidents for the measures, durably, longer than the incidents themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use model::{IncidentId, Timestamp};

use super::Core;
use crate::{
    metrics::{Facts, Measured},
    store::{Batch, IncidentRow, ReadBack, Store, StoreError, Table},
};

/// Facts are kept so long: a little longer than the longest stretch that is measured.
const KEPT: Duration = Duration::from_secs(31 * 86_400);
/// Incidents of which facts are kept (I11).
const MOST: usize = 100_000;
/// Old facts go so many at a time.
const AT_ONCE: usize = 1000;
/// What changed is measured anew after this, since it looks through all facts.
const AGAIN: Duration = Duration::from_secs(5);
/// Stretches of time pass also where nothing changes.
const AT_LEAST: Duration = Duration::from_secs(60);

/// Where a story stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It came to an end, or something was added after that.
    Over,
    /// It goes on, or nothing is new.
    More,
}

/// Facts of incidents.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    facts: BTreeMap<IncidentId, Facts>,
    by_age: BTreeSet<(Timestamp, IncidentId)>,
    changed: bool,
    /// By the time that passes here, not by that of a replay, which may be a thousand times faster.
    measured: Option<Instant>,
}

impl Ledger {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut this = Self::default();
        for (_, facts) in store.scan::<Facts>(Table::Measures, b"")? {
            this.by_age.insert((facts.opened, facts.id.clone()));
            this.facts.insert(facts.id.clone(), facts);
        }
        Ok(this)
    }

    /// An incident changed; whether its story came to an end, or something was added to one that had.
    pub(super) fn note(&mut self, row: &IncidentRow, batch: &mut Batch) -> Told {
        let id = &row.incident.id;
        let before = self.facts.get(id);
        match Facts::of(row, before) {
            Some(facts) if before != Some(&facts) => {
                let told = |facts: &Facts| (facts.over, facts.remediated, facts.verdict, facts.undone);
                let ended = facts.over && before.map(told) != Some(told(&facts));
                batch.put(Table::Measures, id.as_str().as_bytes().to_vec(), &facts, ReadBack::No);
                self.by_age.insert((facts.opened, id.clone()));
                self.facts.insert(id.clone(), facts);
                self.changed = true;
                return if ended { Told::Over } else { Told::More };
            }
            None if before.is_some() => self.forget(id, batch),
            _ => {}
        }
        Told::More
    }

    fn forget(&mut self, id: &IncidentId, batch: &mut Batch) {
        if let Some(facts) = self.facts.remove(id) {
            self.by_age.remove(&(facts.opened, id.clone()));
            batch.remove(Table::Measures, id.as_str().as_bytes().to_vec());
            self.changed = true;
        }
    }

    fn let_go(&mut self, now: Timestamp, batch: &mut Batch) {
        for _ in 0..AT_ONCE {
            let Some((opened, id)) = self.by_age.first().cloned() else { break };
            if now.since(opened) <= KEPT && self.facts.len() <= MOST {
                break;
            }
            self.forget(&id, batch);
        }
    }

    /// Whether it is time to measure.
    fn is_due(&self) -> bool {
        let Some(last) = self.measured else { return true };
        let passed = last.elapsed();
        passed >= AT_LEAST || (self.changed && passed >= AGAIN)
    }
}

impl Core {
    /// What changed in this turn is counted.
    pub(super) fn note_facts(&mut self, batch: &mut Batch) {
        let mut ended = Vec::new();
        for row in self.state.incidents.dirty_rows() {
            if self.state.measures.note(row, batch) == Told::Over {
                ended.push(row.incident.id.clone());
            }
        }
        self.mark_for_trace(ended);
    }

    /// Measures, if it is time.
    pub(super) fn measure(&mut self, now: Timestamp, batch: &mut Batch) {
        if !self.state.measures.is_due() {
            return;
        }
        self.state.measures.let_go(now, batch);
        self.show_measures(now);
    }

    /// Shows what the facts say now. Also before the first turn, so that nobody who asks then is told of nothing.
    pub(super) fn show_measures(&mut self, now: Timestamp) {
        let ledger = &mut self.state.measures;
        (ledger.changed, ledger.measured) = (false, Some(Instant::now()));
        let playbooks: Vec<String> = self.state.book.plans().map(|plan| plan.name().to_string()).collect();
        let measured = Measured::of(self.state.measures.facts.values(), &playbooks, now);
        self.metrics.measured.put(measured);
        let (proposed, demoted) = self.state.promotions.counts();
        self.metrics.playbooks_proposed.set(i64::try_from(proposed).unwrap_or(i64::MAX));
        self.metrics.playbooks_demoted.set(i64::try_from(demoted).unwrap_or(i64::MAX));
    }
}
