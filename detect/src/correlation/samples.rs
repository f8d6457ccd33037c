//! Numbers of a window: sums, averages and percentiles.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    compile::Program,
    slices::{Grain, Slices},
};
use crate::ast::Comparison;

/// Numbers with their sum: (sum, how many).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sum(Slices<i128>);

impl Default for Sum {
    fn default() -> Self {
        Self(Slices::new(2))
    }
}

impl Sum {
    /// Takes a value in that was seen `times` times. Whether it will stay longer than the window.
    pub(super) fn push(&mut self, time: i64, value: i64, times: u32, grain: Grain) -> bool {
        let times = i128::from(times);
        self.0.push(time, grain, [i128::from(value) * times, times].into_iter())
    }

    pub(super) fn expire(&mut self, start: i64) {
        self.0.expire(start);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.total(1) == 0
    }

    #[expect(clippy::cast_precision_loss, reason = "a statistic that is compared with a float")]
    pub(super) fn sum(&self) -> f64 {
        self.0.total(0) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "a statistic that is compared with a float")]
    pub(super) fn average(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.0.total(0) as f64 / self.0.total(1) as f64 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// Whether a percentile lies on one side of a threshold, without putting the numbers in order: the smallest number that at least p % of
/// n are not above is below T exactly if at least ⌈p·n/100⌉ of them are. So for each threshold it is counted how many lie
/// below it, in O(1) amortised per hit and exactly for the hits that count ([`Slices`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ranked {
    /// How many numbers, then for each of [`cuts`] how many of them it has on its lower side.
    counts: Slices<u64>,
    /// The newest numbers, oldest first, to say which one it is.
    newest: VecDeque<i64>,
}

/// Divides numbers into those on its lower side and the others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    Below(f64),
    UpTo(f64),
}

impl Cut {
    #[expect(clippy::cast_precision_loss, reason = "a number that is compared with a float")]
    fn has(self, value: i64) -> bool {
        match self {
            Self::Below(than) => (value as f64) < than,
            Self::UpTo(than) => value as f64 <= than,
        }
    }
}

/// What must be counted to judge these bounds, in their order.
pub(super) fn cuts(bounds: &[crate::ast::Bound]) -> Vec<Cut> {
    let of = |bound: &crate::ast::Bound| match bound.how {
        Comparison::Lt | Comparison::Gte => vec![Cut::Below(bound.than)],
        Comparison::Lte | Comparison::Gt => vec![Cut::UpTo(bound.than)],
        Comparison::Eq | Comparison::Neq => vec![Cut::Below(bound.than), Cut::UpTo(bound.than)],
    };
    bounds.iter().flat_map(of).collect()
}

impl Ranked {
    pub(super) fn new(program: &Program) -> Self {
        Self { counts: Slices::new(1 + program.cuts.len()), newest: VecDeque::new() }
    }

    /// Takes a value in that was seen `times` times. Whether it will stay longer than the window.
    pub(super) fn push(
        &mut self,
        time: i64,
        value: i64,
        times: u32,
        program: &Program,
        grain: Grain,
    ) -> bool {
        let weigh = |cut: &Cut| if cut.has(value) { u64::from(times) } else { 0 };
        let lanes = std::iter::once(u64::from(times)).chain(program.cuts.iter().map(weigh));
        let folded = self.counts.push(time, grain, lanes);
        let bound = grain.bound.max(1);
        for _ in 0..bound.min(times as usize) {
            if self.newest.len() >= bound {
                self.newest.pop_front();
            }
            self.newest.push_back(value);
        }
        folded
    }

    pub(super) fn expire(&mut self, start: i64) {
        self.counts.expire(start);
        let count = usize::try_from(self.counts.total(0)).unwrap_or(usize::MAX);
        let gone = self.newest.len().saturating_sub(count);
        self.newest.drain(..gone);
    }

    /// Whether the percentile is within all bounds.
    pub(super) fn holds(&self, program: &Program) -> bool {
        let Some((count, mut below)) =
            self.counts.totals().split_first().map(|(count, rest)| (*count, rest.iter()))
        else {
            return false;
        };
        let rank = nearest_rank(program.percentile, count);
        // Whether the percentile is on the lower side of the next cut.
        let mut is_below = || below.next().is_some_and(|below| *below >= rank);
        count > 0
            && program.bounds.iter().all(|bound| match bound.how {
                Comparison::Lt | Comparison::Lte => is_below(),
                Comparison::Gt | Comparison::Gte => !is_below(),
                Comparison::Eq => {
                    let (below, up_to) = (is_below(), is_below());
                    !below && up_to
                }
                Comparison::Neq => {
                    let (below, up_to) = (is_below(), is_below());
                    below || !up_to
                }
            })
    }

    /// The percentile: of all numbers of the window while they are remembered, and else of the newest. Where those alone lie beyond a threshold
    /// that all together do not, that threshold. O(numbers remembered), so only for what is told.
    #[expect(clippy::cast_precision_loss, reason = "a statistic that is compared with a float")]
    pub(super) fn percentile(&self, program: &Program) -> f64 {
        let mut newest: Vec<i64> = self.newest.iter().copied().collect();
        let rank = nearest_rank(program.percentile, newest.len() as u64);
        let place = usize::try_from(rank).unwrap_or(usize::MAX).min(newest.len()).saturating_sub(1);
        if newest.is_empty() {
            return 0.0;
        }
        let value = *newest.select_nth_unstable(place).1 as f64;
        let broken = program.bounds.iter().find(|bound| !super::compile::within(bound, value));
        broken.map_or(value, |bound| bound.than)
    }

    pub(super) fn bytes(&self) -> usize {
        self.counts.bytes() + self.newest.capacity() * size_of::<i64>()
    }
}

/// The rank, from 1, of the smallest of `count` numbers that at least `percent` of all are not above.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank between 1 and a number of hits, far below 2^53"
)]
fn nearest_rank(percent: f64, count: u64) -> u64 {
    // Multiplied first: 7 % of 100 is 7, and 0.07 × 100 is a little more.
    (percent * count as f64 / 100.0).ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::nearest_rank;

    #[test]
    fn ranks_of_whole_percentages_are_those_of_whole_numbers() {
        for percent in 0..=100_u32 {
            for count in 1..=2000_u64 {
                let exact = (u64::from(percent) * count).div_ceil(100).max(1);
                assert_eq!(nearest_rank(f64::from(percent), count), exact, "{percent} % of {count}");
            }
        }
        assert_eq!(nearest_rank(99.9, 1000), 999);
    }
}
