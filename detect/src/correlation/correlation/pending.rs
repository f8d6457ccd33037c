//! Hits that wait for their turn.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use serde::{Deserialize, Serialize};

/// A hit with everything that is needed of its event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Hit {
    /// First, since hits are ordered by it.
    pub(super) time: i64,
    /// Second: so that the order does not depend on the order of arrival.
    pub(super) reference: u64,
    pub(super) feeds: Feeds,
    /// How many times it was seen; at least one.
    pub(super) count: u32,
    /// Names it within one runtime.
    pub(super) number: u64,
}

/// What a hit feeds: mostly one correlation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Feeds {
    One(Feed),
    Many(Vec<Feed>),
}

/// One correlation, group and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Feed {
    pub(super) program: usize,
    pub(super) position: usize,
    pub(super) after: Option<usize>,
    pub(super) group: u128,
    pub(super) value: i64,
}

impl Feeds {
    pub(super) fn of(mut feeds: Vec<Feed>) -> Option<Self> {
        match feeds.len() {
            0 => None,
            1 => feeds.pop().map(Self::One),
            _ => Some(Self::Many(feeds)),
        }
    }

    pub(super) fn as_slice(&self) -> &[Feed] {
        match self {
            Self::One(feed) => std::slice::from_ref(feed),
            Self::Many(feeds) => feeds,
        }
    }
}

/// Hits in order of time, and late ones by when they may join that order.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    heap: BinaryHeap<Reverse<Hit>>,
    late: VecDeque<Late>,
}

/// A hit whose turn has passed, with the time by the caller's clock when it is taken all the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Late {
    pub(super) release: i64,
    pub(super) hit: Hit,
}

impl Pending {
    pub(super) fn push(&mut self, hit: Hit) {
        self.heap.push(Reverse(hit));
    }

    pub(super) fn push_late(&mut self, late: Late) {
        self.late.push_back(late);
    }

    /// Puts the late ones whose time has come in order. `longest` is how far ahead a release can lie: one that is further ahead was
    /// reckoned before the clock was set back, and is due.
    pub(super) fn admit(&mut self, now: i64, longest: i64) {
        while let Some(late) = self.late.front()
            && (late.release <= now || late.release > now.saturating_add(longest))
        {
            if let Some(late) = self.late.pop_front() {
                self.heap.push(Reverse(late.hit));
            }
        }
    }

    pub(super) fn admit_all(&mut self) {
        self.heap.extend(self.late.drain(..).map(|late| Reverse(late.hit)));
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len() + self.late.len()
    }

    /// Time of the oldest in order, and when the next late one is due.
    pub(super) fn next(&self) -> (Option<i64>, Option<i64>) {
        (self.heap.peek().map(|Reverse(hit)| hit.time), self.late.front().map(|late| late.release))
    }

    pub(super) fn late(&self) -> impl Iterator<Item = &Late> {
        self.late.iter()
    }

    pub(super) fn pop(&mut self) -> Option<Hit> {
        if self.heap.is_empty() {
            return self.late.pop_front().map(|late| late.hit);
        }
        self.heap.pop().map(|Reverse(hit)| hit)
    }

    /// The oldest, if it is before `time`.
    pub(super) fn pop_before(&mut self, time: i64) -> Option<Hit> {
        if self.heap.peek().is_some_and(|Reverse(hit)| hit.time < time) { self.pop() } else { None }
    }

    /// In order.
    pub(super) fn sorted(&self) -> Vec<Hit> {
        let mut hits: Vec<Hit> = self.heap.iter().map(|Reverse(hit)| hit.clone()).collect();
        hits.sort_unstable();
        hits
    }
}
