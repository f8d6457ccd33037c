//! Correlations at work: findings in, correlated findings out, in event time.
//!
//! Hits wait in a bounded buffer until the allowed lateness has passed and are then taken in order of time, so the same hits give the
//! same answers in whatever order they came, and a replay repeats them exactly. Per hit every kind costs O(1) amortised; state is
//! bounded per rule and per group, and no group can push another out (I11).

mod compile;
mod distinct;
mod durable;
mod engine;
mod group;
mod pending;
mod samples;
mod slices;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use durable::Row;
pub use engine::{Checkpoint, Correlator};

use model::Timestamp;

use crate::{
    ast::{Correlation, Generate, Rule},
    diagnostic::Diagnostic,
    schema::Field,
};

/// Bounds of the correlations' state, and what happens at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How much later than a newer hit one may come and still be put in order. One that is later yet is counted as
    /// [`Counts::late`] and left out, but for [`Limits::catch_up`].
    pub lateness: Duration,
    /// How old a hit may be by the caller's clock and still be taken although its turn has passed, as those of a node that was cut off:
    /// in the order of its own groups, one lateness after it came. Groups are kept for so long after their window, while there is room.
    /// One whose group has gone on beyond it is [`Counts::late`]. Zero: none is taken.
    pub catch_up: Duration,
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
    /// Memory of one correlation's groups, in bytes, nearly. Above it no new group begins, as with [`Limits::groups`]; those that exist
    /// go on, each within its own bounds.
    pub bytes: usize,
    /// Hits of one group that are remembered one by one where no threshold bounds their number: of `value_sum`, `value_avg`,
    /// `value_percentile`, and of `event_count` with a threshold above it. Beyond half of it, hits of one slice of the window, 2 ÷ this
    /// number of it long, leave the window together with the newest of them ([`Counts::folded`]): a hit may count for one slice too long.
    /// All that is counted, summed, averaged or ranked is exact for the hits that count.
    pub samples: usize,
    /// Hits remembered per group as evidence; the newest stay.
    pub evidence: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lateness: Duration::from_secs(2),
            catch_up: Duration::ZERO,
            ahead: Duration::from_secs(60),
            waiting: 65_536,
            groups: 100_000,
            bytes: 256 << 20,
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
    /// Stay in their own group's window for up to one slice too long ([`Limits::samples`]).
    pub folded: u64,
    /// Without a group's field or value, so that they belong nowhere.
    pub ungrouped: u64,
    /// Repetitions of which the values that a correlation looks at are not known ([`Values::Mixed`]): left out.
    #[serde(default)]
    pub mixed: u64,
}

impl Counts {
    /// Hits that were left out, in whole or for one correlation.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.late + self.ahead + self.refused + self.mixed
    }
}

/// A hit that stands for several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folded {
    /// What the caller calls it by.
    pub reference: u64,
    /// How many times it was seen; 0 is nothing. They count together, at the event's time.
    pub count: u32,
    /// Whether the event's values are those of all of them.
    pub values: Values,
}

/// Whether the event's values are those of all hits that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Values {
    /// They are.
    Same,
    /// Only those that one executable in one cgroup always has; the others differ and are not known.
    Mixed,
}

/// Keys of the rules and correlations that report nothing by themselves: some correlation refers to them, and none of those that do has
/// `generate: true`.
#[must_use]
pub fn quiet(correlations: &[Correlation]) -> BTreeSet<String> {
    let referred = |generate: Generate| {
        correlations
            .iter()
            .filter(move |one| one.generate == generate)
            .flat_map(|one| one.rules.iter().map(|rule| rule.key.clone()))
    };
    let loud: BTreeSet<String> = referred(Generate::RulesToo).collect();
    referred(Generate::Correlation).filter(|key| !loud.contains(key)).collect()
}

/// What is odd about correlations over these rules: hits that lack a field that is asked of them.
pub(crate) fn warnings(correlations: &[Correlation], rules: &[Rule]) -> Vec<Diagnostic> {
    compile::compile(correlations, rules).1
}

/// By rule key: the fields that correlations look at in its hits. Hits that differ in one of them must not be folded into one.
#[must_use]
pub fn fields(correlations: &[Correlation], rules: &[Rule]) -> BTreeMap<String, BTreeSet<Field>> {
    let (compiled, _) = compile::compile(correlations, rules);
    let of = |routes: Vec<compile::Route>| {
        routes.into_iter().flat_map(|route| route.group_by.into_iter().chain(route.values)).collect()
    };
    compiled.routes.into_iter().map(|(key, routes)| (key, of(routes))).collect()
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
    /// The count or statistic. Counts are exact up to one above the largest number of the condition and then stay there. A
    /// percentile is that of the newest [`Limits::samples`] hits of the window; whether it fulfils the condition is judged by all.
    pub value: f64,
}

#[cfg(test)]
mod tests;
