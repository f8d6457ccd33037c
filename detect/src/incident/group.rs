//! One incident's keys and when each was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use model::{CgroupId, IncidentId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Key, keys::Busy, near};
use crate::tenant::Tenant;

/// What links findings to one incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Which incident.
    pub incident: IncidentId,
    /// Whose its first finding is.
    #[serde(default)]
    pub(super) tenant: Tenant,
    /// Order of opening; the lower one goes on when two merge.
    pub(super) serial: u64,
    /// When each key was seen, as spans without gaps longer than the window. A list, since JSON keys are texts.
    spans: Vec<(Key, Vec<Span>)>,
    /// From where each address was seen, and each account that opened a session, so that hubs are known after a restart.
    pub(super) origins: Vec<(Origin, Busy, Timestamp)>,
    /// Time of the latest event.
    latest: Timestamp,
    /// Keys that found no place (I11).
    pub refused: u64,
    /// Incidents that a person said are other stories.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) apart: BTreeSet<IncidentId>,
}

/// A stretch of time within which a key was seen again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First seen.
    pub from: Timestamp,
    /// Last seen.
    pub to: Timestamp,
}

/// From where an address or an account was seen: so often it counts, and nobody makes himself many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// Whose process it was, however many cgroups he has.
    Tenant(Tenant),
    /// A source of records, which has none; and what is stored of a time before it was counted by tenants.
    Place {
        /// On which node.
        node: NodeId,
        /// In which cgroup.
        cgroup: CgroupId,
    },
}

impl Group {
    pub(super) fn new(incident: IncidentId, serial: u64, tenant: Tenant) -> Self {
        let latest = Timestamp(i64::MIN);
        Self {
            incident,
            tenant,
            serial,
            spans: Vec::new(),
            origins: Vec::new(),
            latest,
            refused: 0,
            apart: BTreeSet::new(),
        }
    }

    /// Time of its latest event.
    #[must_use]
    pub fn latest(&self) -> Timestamp {
        self.latest
    }

    /// What links findings to it.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.spans.iter().map(|(key, _)| key)
    }

    pub(super) fn has(&self, key: &Key, at: Timestamp, window: Duration) -> bool {
        let Ok(index) = self.find(key) else { return false };
        self.spans[index].1.iter().any(|span| span.reaches(at, window))
    }

    /// Whether nothing comes of seeing `key` at `at`.
    pub(super) fn covers(&self, key: &Key, at: Timestamp) -> bool {
        let Ok(index) = self.find(key) else { return false };
        self.spans[index].1.iter().any(|span| span.from <= at && at <= span.to)
    }

    pub(super) fn touch(&mut self, at: Timestamp) {
        self.latest = self.latest.max(at);
    }

    pub(super) fn extend(&mut self, key: Key, at: Timestamp, window: Duration, max: usize) {
        self.add(key, Span { from: at, to: at }, window, max);
    }

    /// Whether that was news.
    pub(super) fn came_from(&mut self, origin: &Origin, busy: &Busy, at: Timestamp, limit: usize) -> bool {
        if let Some(known) = self.origins.iter_mut().find(|(o, b, _)| o == origin && b == busy) {
            let is_news = at > known.2;
            known.2 = known.2.max(at);
            return is_news;
        }
        let room = self.origins.len() < limit.saturating_mul(4).max(32);
        if room {
            self.origins.push((origin.clone(), busy.clone(), at));
        }
        room
    }

    /// Forgets an address of which it turned out whose it is.
    pub(super) fn leave(&mut self, key: &Key) {
        if let Ok(index) = self.find(key) {
            self.spans.remove(index);
        }
    }

    pub(super) fn absorb(&mut self, other: Self, window: Duration, max: usize) {
        for (key, spans) in other.spans {
            for span in spans {
                self.add(key.clone(), span, window, max);
            }
        }
        for (origin, busy, at) in other.origins {
            self.came_from(&origin, &busy, at, max);
        }
        self.latest = self.latest.max(other.latest);
        self.refused += other.refused;
        self.keep_apart(&other.apart);
    }

    /// At most [`MAX_APART`] (I11): with more, those named first in order are kept.
    pub(super) fn keep_apart<'a>(&mut self, others: impl IntoIterator<Item = &'a IncidentId>) {
        self.apart.extend(others.into_iter().cloned());
        while self.apart.len() > MAX_APART {
            self.apart.pop_last();
        }
    }

    fn add(&mut self, key: Key, span: Span, window: Duration, max: usize) {
        match self.find(&key) {
            Ok(index) => join(&mut self.spans[index].1, span, window),
            Err(index) if self.has_room(&key, max) => self.spans.insert(index, (key, vec![span])),
            Err(_) => self.refused += 1,
        }
    }

    /// Each login has a key of its own, which never comes again: they leave three quarters to what does, so that nobody fills a group by
    /// logging in over and over.
    fn has_room(&self, key: &Key, max: usize) -> bool {
        let of_login = |key: &Key| matches!(key, Key::Login { .. } | Key::Served { .. });
        let logins = || self.spans.iter().filter(|(known, _)| of_login(known)).count();
        self.spans.len() < max && (!of_login(key) || logins() < max.div_ceil(4))
    }

    fn find(&self, key: &Key) -> Result<usize, usize> {
        self.spans.binary_search_by(|(k, _)| k.cmp(key))
    }
}

/// Other stories that are remembered of one incident.
const MAX_APART: usize = 64;

/// Spans kept for one key; with more, the two oldest become one, which can only link too much in their gap.
const MAX_SPANS_PER_KEY: usize = 8;

fn join(spans: &mut Vec<Span>, new: Span, window: Duration) {
    spans.push(new);
    spans.sort_by_key(|s| s.from);
    let mut joined: BTreeMap<Timestamp, Span> = BTreeMap::new();
    for span in spans.drain(..) {
        match joined.last_entry() {
            Some(mut last) if last.get().reaches(span.from, window) => {
                let last = last.get_mut();
                last.to = last.to.max(span.to);
            }
            _ => drop(joined.insert(span.from, span)),
        }
    }
    spans.extend(joined.into_values());
    while spans.len() > MAX_SPANS_PER_KEY {
        spans[0].to = spans[1].to;
        spans.remove(1);
    }
}

impl Span {
    fn reaches(self, at: Timestamp, window: Duration) -> bool {
        (self.from <= at && at <= self.to) || near(self.from, at, window) || near(self.to, at, window)
    }
}
