//! The newest hits of a window, for counts that need be exact only up to a bound.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Times of the newest hits, oldest first, at most `bound`. The number within the window is exact below `bound`: what was dropped
/// is older than everything kept, so it leaves the window first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Newest {
    times: VecDeque<i64>,
}

impl Newest {
    pub(super) fn push(&mut self, time: i64, bound: usize) {
        if self.times.len() >= bound {
            self.times.pop_front();
        }
        self.times.push_back(time);
    }

    /// Forgets what is not after `start`.
    pub(super) fn expire(&mut self, start: i64) {
        while self.times.front().is_some_and(|time| *time <= start) {
            self.times.pop_front();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.times.capacity() * size_of::<i64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_no_more_than_the_bound_is_kept_and_the_newest_are() {
        let mut newest = Newest::default();
        (1..=100).for_each(|time| newest.push(time, 3));
        assert_eq!(newest.len(), 3);
        newest.expire(98);
        assert_eq!(newest.len(), 2);
    }
}
