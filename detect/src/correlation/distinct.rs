//! Distinct values of a window.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

/// The newest distinct values, each with the time when it was last seen; at most `bound`. Exact below `bound` by the same reasoning as
/// [`super::window::Newest`]: the value that is dropped was last seen before all that are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub(super) struct Distinct {
    /// In order of time; an entry counts only if `newest` has its number.
    order: VecDeque<Entry>,
    /// Value → number of its newest entry. Values are hashes under a secret key, so nobody can make them collide here.
    newest: HashMap<u64, u64, foldhash::fast::FixedState>,
    next: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Entry {
    time: i64,
    number: u64,
    value: u64,
}

/// Written out as its entries alone: the table's own order is no fact.
impl From<Distinct> for Vec<Entry> {
    fn from(distinct: Distinct) -> Self {
        distinct.order.into()
    }
}

impl From<Vec<Entry>> for Distinct {
    fn from(entries: Vec<Entry>) -> Self {
        let newest = entries.iter().map(|entry| (entry.value, entry.number)).collect();
        let next = entries.last().map_or(0, |entry| entry.number);
        Self { order: entries.into(), newest, next }
    }
}

impl Distinct {
    pub(super) fn push(&mut self, time: i64, value: u64, bound: usize) {
        self.next += 1;
        self.order.push_back(Entry { time, number: self.next, value });
        self.newest.insert(value, self.next);
        while self.newest.len() > bound && !self.order.is_empty() {
            self.pop_front();
        }
        // Old entries of values seen again are swept when they are the greater part: O(1) amortised.
        if self.order.len() > 2 * self.newest.len() + 16 {
            let newest = &self.newest;
            self.order.retain(|entry| newest.get(&entry.value) == Some(&entry.number));
        }
    }

    /// Forgets values not seen after `start`.
    pub(super) fn expire(&mut self, start: i64) {
        while self.order.front().is_some_and(|entry| entry.time <= start) {
            self.pop_front();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.order.capacity() * size_of::<Entry>() + self.newest.capacity() * (size_of::<(u64, u64)>() + 1)
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.order.pop_front()
            && self.newest.get(&entry.value) == Some(&entry.number)
        {
            self.newest.remove(&entry.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_values_seen_again_and_again_take_no_room() {
        let mut distinct = Distinct::default();
        (0..20_000).for_each(|n| distinct.push(1, n % 2, 10));
        assert_eq!(distinct.len(), 2);
        assert!(distinct.order.len() <= 21, "{}", distinct.order.len());
    }

    #[test]
    fn i11_no_more_values_than_the_bound_are_kept_and_the_newest_are() {
        let mut distinct = Distinct::default();
        (1..=100).for_each(|n| distinct.push(n, n.cast_unsigned(), 3));
        assert_eq!(distinct.len(), 3);
        distinct.expire(98);
        assert_eq!(distinct.len(), 2);
    }
}
