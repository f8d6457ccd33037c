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
    order: Order,
    late: VecDeque<Late>,
}

/// Hits in their order. Most come in it and are only appended; the others wait in a heap.
#[derive(Debug, Clone, Default)]
struct Order {
    run: VecDeque<Hit>,
    others: BinaryHeap<Reverse<Hit>>,
}

impl Order {
    fn push(&mut self, hit: Hit) {
        if self.run.back().is_none_or(|last| *last <= hit) {
            self.run.push_back(hit);
        } else {
            self.others.push(Reverse(hit));
        }
    }

    fn peek(&self) -> Option<&Hit> {
        match (self.run.front(), self.others.peek()) {
            (Some(one), Some(Reverse(other))) => Some(one.min(other)),
            (one, other) => one.or(other.map(|Reverse(hit)| hit)),
        }
    }

    fn pop(&mut self) -> Option<Hit> {
        match (self.run.front(), self.others.peek()) {
            (Some(one), Some(Reverse(other))) if one > other => self.others.pop().map(|Reverse(hit)| hit),
            (Some(_), _) => self.run.pop_front(),
            (None, _) => self.others.pop().map(|Reverse(hit)| hit),
        }
    }

    fn len(&self) -> usize {
        self.run.len() + self.others.len()
    }
}

/// A hit whose turn has passed, with the time by the caller's clock when it is taken all the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Late {
    pub(super) release: i64,
    pub(super) hit: Hit,
}

impl Pending {
    pub(super) fn push(&mut self, hit: Hit) {
        self.order.push(hit);
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
                self.order.push(late.hit);
            }
        }
    }

    pub(super) fn admit_all(&mut self) {
        self.late.drain(..).for_each(|late| self.order.push(late.hit));
    }

    pub(super) fn len(&self) -> usize {
        self.order.len() + self.late.len()
    }

    /// Time of the oldest in order, and when the next late one is due.
    pub(super) fn next(&self) -> (Option<i64>, Option<i64>) {
        (self.order.peek().map(|hit| hit.time), self.late.front().map(|late| late.release))
    }

    pub(super) fn late(&self) -> impl Iterator<Item = &Late> {
        self.late.iter()
    }

    pub(super) fn pop(&mut self) -> Option<Hit> {
        self.order.pop().or_else(|| self.late.pop_front().map(|late| late.hit))
    }

    /// The oldest, if it is before `time`.
    pub(super) fn pop_before(&mut self, time: i64) -> Option<Hit> {
        if self.order.peek().is_some_and(|hit| hit.time < time) { self.order.pop() } else { None }
    }

    /// In order.
    pub(super) fn sorted(&self) -> Vec<Hit> {
        let others = self.order.others.iter().map(|Reverse(hit)| hit);
        let mut hits: Vec<Hit> = self.order.run.iter().chain(others).cloned().collect();
        hits.sort_unstable();
        hits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hits_come_out_in_order_whatever_order_they_come_in(steps in prop::collection::vec(prop::option::weighted(0.7, 0_i64..50), 0..200)) {
            let (mut order, mut plain) = (Order::default(), Vec::<Hit>::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(time) => {
                        let hit = Hit { time, reference: number as u64, feeds: Feeds::Many(vec![]), count: 1, number: 0 };
                        order.push(hit.clone());
                        plain.push(hit);
                        plain.sort();
                    }
                    None => {
                        let expected = (!plain.is_empty()).then(|| plain.remove(0));
                        prop_assert_eq!(order.peek(), expected.as_ref());
                        prop_assert_eq!(order.pop(), expected);
                    }
                }
                prop_assert_eq!(order.len(), plain.len());
            }
        }
    }
}
