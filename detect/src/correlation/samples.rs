//! Numbers of a window: sums, averages and percentiles.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Numbers with their sum.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Sum {
    /// (time, sum, how many), in order of time.
    parts: VecDeque<(i64, i128, u64)>,
    sum: i128,
    count: u64,
}

impl Sum {
    /// Takes a value in that was seen `times` times. Whether two parts were folded into one to stay within `bound`.
    pub(super) fn push(&mut self, time: i64, value: i64, times: u32, bound: usize) -> bool {
        let sum = i128::from(value) * i128::from(times);
        self.parts.push_back((time, sum, u64::from(times)));
        self.sum += sum;
        self.count += u64::from(times);
        if self.parts.len() <= bound.max(2) {
            return false;
        }
        if let (Some(first), Some(second)) = (self.parts.pop_front(), self.parts.front_mut()) {
            second.1 += first.1;
            second.2 += first.2;
        }
        true
    }

    pub(super) fn expire(&mut self, start: i64) {
        while let Some((time, sum, count)) = self.parts.front().copied() {
            if time > start {
                break;
            }
            self.parts.pop_front();
            self.sum -= sum;
            self.count -= count;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    #[expect(clippy::cast_precision_loss, reason = "a statistic that is compared with a float")]
    pub(super) fn sum(&self) -> f64 {
        self.sum as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "a statistic that is compared with a float")]
    pub(super) fn average(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.capacity() * size_of::<(i64, i128, u64)>()
    }
}

/// Numbers in order of time and in order of size.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ranked {
    order: VecDeque<(i64, i64)>,
    sorted: Vec<i64>,
}

impl Ranked {
    /// Whether the oldest was forgotten to stay within `bound`.
    pub(super) fn push(&mut self, time: i64, value: i64, bound: usize) -> bool {
        let over = self.order.len() >= bound.max(1);
        if over {
            self.pop_front();
        }
        self.order.push_back((time, value));
        let place = self.sorted.partition_point(|other| *other < value);
        self.sorted.insert(place, value);
        over
    }

    pub(super) fn expire(&mut self, start: i64) {
        while self.order.front().is_some_and(|(time, _)| *time <= start) {
            self.pop_front();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.order.len()
    }

    /// The smallest value that at least `percent` of all are not above (nearest rank).
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank between 1 and the number of samples"
    )]
    pub(super) fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.sorted.len() as f64).ceil().max(1.0) as usize;
        self.sorted.get(rank.min(self.sorted.len()).saturating_sub(1)).map_or(0.0, |value| *value as f64)
    }

    pub(super) fn bytes(&self) -> usize {
        self.order.capacity() * size_of::<(i64, i64)>() + self.sorted.capacity() * size_of::<i64>()
    }

    fn pop_front(&mut self) {
        if let Some((_, value)) = self.order.pop_front() {
            let place = self.sorted.partition_point(|other| *other < value);
            if self.sorted.get(place) == Some(&value) {
                self.sorted.remove(place);
            }
        }
    }
}
