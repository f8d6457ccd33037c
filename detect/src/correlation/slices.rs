//! Numbers added up over a window: hit by hit while there is room, then by slices of time.
//!
//! The first half of the bound is kept hit by hit, so few hits leave the window exactly when they should. Beyond it hits of one slice of
//! the window (a fraction of 2 ÷ bound of it) become one part that leaves when the newest of them would: a hit may count for up to one
//! slice too long, never too short, and every number is exact for the hits that count. O(1) amortised per hit, whatever comes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// What can be added up: the totals are kept by adding what comes and subtracting what leaves.
pub(super) trait Number: Copy + Default {
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($number:ty),*) => { $(impl Number for $number {
        // A checkpoint may hold anything, and nothing that a window can hold comes near the ends.
        fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
        fn minus(self, other: Self) -> Self { self.wrapping_sub(other) }
    })* };
}

numbers!(u64, i128);

/// How finely a window is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grain {
    /// Length of the window in nanoseconds.
    pub(super) span: i64,
    /// Parts that a group keeps; a few more where slices do not fall together with the window's ends.
    pub(super) bound: usize,
}

impl Grain {
    fn half(self) -> usize {
        (self.bound / 2).max(1)
    }

    fn slice_of(self, time: i64) -> i64 {
        let parts = i64::try_from(self.half()).unwrap_or(i64::MAX);
        time.div_euclid((self.span / parts).max(1))
    }
}

/// Some numbers per hit, each with its total over the window.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Written<N>", into = "Written<N>", bound(serialize = "N: Number + Serialize"))]
pub(super) struct Slices<N: Number> {
    /// When each part leaves the window one span later, oldest first.
    times: VecDeque<i64>,
    /// As many numbers for each part as there are totals.
    lanes: VecDeque<N>,
    totals: Vec<N>,
}

/// Written out without the totals, so that they are always the totals of what is there.
#[derive(Serialize, Deserialize)]
struct Written<N> {
    lanes: usize,
    parts: Vec<(i64, Vec<N>)>,
}

/// More lanes than any condition has.
const MOST_LANES: usize = 64;

impl<N: Number> From<Slices<N>> for Written<N> {
    fn from(slices: Slices<N>) -> Self {
        let width = slices.totals.len();
        let mut lanes = slices.lanes.into_iter();
        let parts = slices.times.into_iter().map(|time| (time, lanes.by_ref().take(width).collect()));
        Self { parts: parts.collect(), lanes: width }
    }
}

impl<N: Number> From<Written<N>> for Slices<N> {
    fn from(written: Written<N>) -> Self {
        let mut slices = Self::new(written.lanes.min(MOST_LANES));
        for (time, lanes) in written.parts {
            slices.times.push_back(time);
            let width = slices.totals.len();
            slices.lanes.extend(lanes.into_iter().chain(std::iter::repeat(N::default())).take(width));
            let last = slices.lanes.iter().rev().take(width).copied().collect::<Vec<N>>();
            slices.totals.iter_mut().rev().zip(last).for_each(|(total, lane)| *total = total.plus(lane));
        }
        slices
    }
}

impl<N: Number> Slices<N> {
    /// With so many numbers per hit.
    pub(super) fn new(lanes: usize) -> Self {
        Self { times: VecDeque::new(), lanes: VecDeque::new(), totals: vec![N::default(); lanes] }
    }

    /// Takes a hit's numbers in. Whether it will stay for longer than the window since it shares a slice.
    pub(super) fn push(&mut self, time: i64, grain: Grain, lanes: impl Iterator<Item = N>) -> bool {
        let width = self.totals.len();
        let last = self.times.back().copied();
        let shares = last.is_some_and(|last| {
            last != time && self.times.len() >= grain.half() && grain.slice_of(last) == grain.slice_of(time)
        });
        if shares || last == Some(time) {
            if let Some(last) = self.times.back_mut() {
                *last = time;
            }
            let start = self.lanes.len().saturating_sub(width);
            for ((place, total), lane) in self.lanes.range_mut(start..).zip(&mut self.totals).zip(lanes) {
                *place = place.plus(lane);
                *total = total.plus(lane);
            }
        } else {
            self.times.push_back(time);
            for (total, lane) in self.totals.iter_mut().zip(lanes) {
                *total = total.plus(lane);
                self.lanes.push_back(lane);
            }
        }
        shares
    }

    /// Forgets what is not after `start`.
    pub(super) fn expire(&mut self, start: i64) {
        while self.times.front().is_some_and(|time| *time <= start) {
            self.times.pop_front();
            let width = self.totals.len().min(self.lanes.len());
            for (total, lane) in self.totals.iter_mut().zip(self.lanes.drain(..width)) {
                *total = total.minus(lane);
            }
        }
    }

    /// The total of one of the numbers; nothing where there is none.
    pub(super) fn total(&self, lane: usize) -> N {
        self.totals.get(lane).copied().unwrap_or_default()
    }

    pub(super) fn totals(&self) -> &[N] {
        &self.totals
    }

    pub(super) fn bytes(&self) -> usize {
        self.times.capacity() * size_of::<i64>()
            + (self.lanes.capacity() + self.totals.capacity()) * size_of::<N>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRAIN: Grain = Grain { span: 1000, bound: 20 };

    /// What is counted is what the window holds and at most what has left it within the last slice.
    fn within_a_slice(slices: &Slices<u64>, times: &[(i64, u64)], now: i64) -> bool {
        let slice = GRAIN.span / 10;
        let since =
            |start: i64| times.iter().filter(|(time, _)| *time > start).map(|(_, value)| value).sum::<u64>();
        (since(now - GRAIN.span)..=since(now - GRAIN.span - slice)).contains(&slices.total(0))
    }

    proptest! {
        #[test]
        fn i11_what_counts_is_the_window_to_within_one_slice(gaps in prop::collection::vec((0_i64..30, 1_u64..9), 1..600)) {
            let (mut slices, mut times, mut now) = (Slices::<u64>::new(1), vec![], 0);
            let mut shared = false;
            for (gap, value) in gaps {
                now += gap;
                times.push((now, value));
                slices.expire(now - GRAIN.span);
                shared |= slices.push(now, GRAIN, std::iter::once(value));
                prop_assert!(within_a_slice(&slices, &times, now));
                let exact: u64 = times.iter().filter(|(time, _)| *time > now - GRAIN.span).map(|(_, value)| value).sum();
                prop_assert!(shared || slices.total(0) == exact, "nothing was folded yet");
                prop_assert!(slices.times.len() <= GRAIN.bound + 2, "{}", slices.times.len());
            }
            let again: Slices<u64> = serde_json::from_str(&serde_json::to_string(&slices).unwrap()).unwrap();
            prop_assert_eq!((again.times, again.lanes, again.totals), (slices.times, slices.lanes, slices.totals));
        }
    }

    #[test]
    fn i11_a_flood_that_never_ends_does_not_add_up_for_ever() {
        let mut slices = Slices::<i128>::new(2);
        for time in 0..200_000 {
            slices.expire(time - GRAIN.span);
            slices.push(time, GRAIN, [3, 1].into_iter());
            assert!(slices.total(1) <= 1100 && slices.total(0) == 3 * slices.total(1), "{time}");
        }
        assert!(
            slices.total(1) >= 1000 && slices.bytes() < 4000,
            "{} in {}",
            slices.total(1),
            slices.bytes()
        );
    }

    #[test]
    fn hits_of_one_moment_are_one_part_and_nothing_is_folded() {
        let mut slices = Slices::<u64>::new(1);
        assert!((0..1000).all(|_| !slices.push(5, GRAIN, std::iter::once(1))));
        assert_eq!((slices.times.len(), slices.total(0)), (1, 1000));
        slices.expire(4);
        assert_eq!(slices.total(0), 1000);
        slices.expire(5);
        assert_eq!((slices.total(0), slices.lanes.len()), (0, 0));
    }
}
