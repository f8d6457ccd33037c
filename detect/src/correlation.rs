//! Correlations at work: findings in, correlated findings out, in event time.
//!
//! Hits wait in a bounded buffer until the allowed lateness has passed and are then taken in order of time, so the same hits give the
//! same answers in whatever order they came, and a replay repeats them exactly. Per hit every kind costs O(1) amortised (percentiles
//! and values that are summed: O(bound)); state is bounded per rule and per group, and no group can push another out (I11).

mod compile;
mod distinct;
mod engine;
mod group;
mod pending;
mod samples;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use engine::{Checkpoint, Correlator};

use model::Timestamp;

/// Bounds of the correlations' state, and what happens at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How much later than a newer hit one may come and still be put in order. One that is later yet is counted as
    /// [`Counts::late`] and left out.
    pub lateness: Duration,
    /// How far ahead of the caller's clock a hit may be dated. One that is further ahead is counted as [`Counts::ahead`] and left
    /// out, so that a node with a wrong clock does not fill the buffer.
    pub ahead: Duration,
    /// Hits that wait for their turn. When more come, the oldest are taken before their lateness has passed
    /// ([`Counts::early`]).
    pub waiting: usize,
    /// Groups of one correlation. When they are used up, groups whose window has passed are forgotten; if none has, a hit that
    /// would begin a new group is left out ([`Counts::refused`]). Groups that exist are never pushed out, so noise cannot make a
    /// window that an attack has begun to fill disappear.
    pub groups: usize,
    /// Values of one group whose number no threshold bounds: those of `value_sum` and `value_avg`, which then fold their two
    /// oldest values into one (the sum stays exact, the older of the two leaves the window late), and those of
    /// `value_percentile`, which then forgets the oldest ([`Counts::folded`]).
    pub samples: usize,
    /// Hits remembered per group as evidence; the newest stay.
    pub evidence: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lateness: Duration::from_secs(2),
            ahead: Duration::from_secs(60),
            waiting: 65_536,
            groups: 100_000,
            samples: 1024,
            evidence: 16,
        }
    }
}

/// What became of hits that a limit touched. Part of the known loss (I2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Hits taken in.
    pub seen: u64,
    /// Came after their turn: left out.
    pub late: u64,
    /// Dated too far in the future: left out.
    pub ahead: u64,
    /// Taken before their lateness had passed.
    pub early: u64,
    /// Would have begun a group too many: left out.
    pub refused: u64,
    /// Values folded or forgotten within their own group.
    pub folded: u64,
    /// Without a group's field or value, so that they belong nowhere.
    pub ungrouped: u64,
}

/// A correlation's condition has become true.
///
/// It is told once; again only after it has become false, or its window has emptied.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlated {
    /// `Correlation::meta.key`.
    pub correlation: String,
    /// Time of the hit that made it true.
    pub time: Timestamp,
    /// That hit, as the caller called it.
    pub trigger: u64,
    /// The newest hits of the window, oldest first, as the caller called them; at most [`Limits::evidence`].
    pub evidence: Vec<u64>,
    /// The count or statistic. Counts are exact up to one above the largest number of the condition and then stay there.
    pub value: f64,
}

#[cfg(test)]
mod tests;
