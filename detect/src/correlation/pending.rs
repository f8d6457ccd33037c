//! Hits that wait for their turn.

use std::{cmp::Reverse, collections::BinaryHeap};

use serde::{Deserialize, Serialize};

/// A hit with everything that is needed of its event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Hit {
    /// First, since hits are ordered by it.
    pub(super) time: i64,
    /// Second: so that the order does not depend on the order of arrival.
    pub(super) reference: u64,
    pub(super) feeds: Feeds,
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

/// Hits in order of time.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    heap: BinaryHeap<Reverse<Hit>>,
}

impl Pending {
    pub(super) fn push(&mut self, hit: Hit) {
        self.heap.push(Reverse(hit));
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn pop(&mut self) -> Option<Hit> {
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
