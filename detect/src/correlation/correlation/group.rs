//! One group of one correlation.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    Counts, Limits,
    compile::Program,
    distinct::Distinct,
    samples::{Ranked, Sum},
    window::Newest,
};
use crate::ast::{CorrelationKind, TemporalExpr};

/// A hit as a correlation sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fed {
    pub(super) time: i64,
    pub(super) position: usize,
    /// A number, or the hash of a value that is counted; 0 where the kind looks at none.
    pub(super) value: i64,
    pub(super) reference: u64,
    /// How many times it was seen; at least one.
    pub(super) count: u32,
}

/// What a group remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Group {
    state: State,
    /// The condition held at the last hit, so it is not told again.
    told: Told,
    /// Time of the last hit.
    pub(super) last: i64,
    evidence: VecDeque<(i64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Told {
    No,
    Yes,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum State {
    Count(Newest),
    Distinct(Distinct),
    Sum(Sum),
    Ranked(Ranked),
    /// By position: when that rule last matched.
    Live(Vec<i64>),
    /// By position: the latest possible beginning of a chain of hits of the rules up to this one, in order.
    Ordered(Vec<i64>),
}

/// No such time: before every window.
const NEVER: i64 = i64::MIN;

impl Group {
    pub(super) fn new(program: &Program, time: i64) -> Self {
        let state = match program.kind {
            CorrelationKind::EventCount => State::Count(Newest::default()),
            CorrelationKind::ValueCount => State::Distinct(Distinct::default()),
            CorrelationKind::ValueSum | CorrelationKind::ValueAvg => State::Sum(Sum::default()),
            CorrelationKind::ValuePercentile => State::Ranked(Ranked::default()),
            CorrelationKind::Temporal => State::Live(vec![NEVER; program.positions]),
            CorrelationKind::TemporalOrdered => State::Ordered(vec![NEVER; program.positions]),
        };
        Self { state, told: Told::No, last: time, evidence: VecDeque::new() }
    }

    /// Takes a hit; the count or statistic if the condition has become true with it.
    pub(super) fn feed(
        &mut self,
        fed: Fed,
        program: &Program,
        limits: &Limits,
        counts: &mut Counts,
    ) -> Option<f64> {
        let start = fed.time.saturating_sub(program.span);
        if self.last <= start {
            self.told = Told::No;
        }
        self.last = fed.time;
        self.remember(fed, start, limits);
        let folded = self.state.take(fed, start, program, limits);
        counts.folded += u64::from(folded);
        let (value, holds) = self.state.judge(start, program);
        let was = self.told;
        self.told = if holds { Told::Yes } else { Told::No };
        (holds && was == Told::No).then_some(value)
    }

    /// References of the window's newest hits.
    pub(super) fn evidence(&self) -> Vec<u64> {
        self.evidence.iter().map(|(_, reference)| *reference).collect()
    }

    /// Memory beside the group itself, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let state = match &self.state {
            State::Count(newest) => newest.bytes(),
            State::Distinct(distinct) => distinct.bytes(),
            State::Sum(sum) => sum.bytes(),
            State::Ranked(ranked) => ranked.bytes(),
            State::Live(times) | State::Ordered(times) => times.capacity() * size_of::<i64>(),
        };
        state + self.evidence.capacity() * size_of::<(i64, u64)>()
    }

    fn remember(&mut self, fed: Fed, start: i64, limits: &Limits) {
        while self.evidence.front().is_some_and(|(time, _)| *time <= start) {
            self.evidence.pop_front();
        }
        if self.evidence.back().is_some_and(|(_, last)| *last == fed.reference) || limits.evidence == 0 {
            return;
        }
        if self.evidence.len() >= limits.evidence {
            self.evidence.pop_front();
        }
        self.evidence.push_back((fed.time, fed.reference));
    }
}

impl State {
    /// Whether a limit touched the group's values.
    fn take(&mut self, fed: Fed, start: i64, program: &Program, limits: &Limits) -> bool {
        match self {
            Self::Count(newest) => {
                newest.expire(start);
                // More than count at all need not be kept.
                for _ in 0..program.exact.min(fed.count as usize) {
                    newest.push(fed.time, program.exact);
                }
                false
            }
            Self::Distinct(distinct) => {
                distinct.expire(start);
                distinct.push(fed.time, fed.value.cast_unsigned(), program.exact);
                false
            }
            Self::Sum(sum) => {
                sum.expire(start);
                sum.push(fed.time, fed.value, fed.count, limits.samples)
            }
            Self::Ranked(ranked) => {
                ranked.expire(start);
                let mut folded = false;
                for _ in 0..limits.samples.max(1).min(fed.count as usize) {
                    folded |= ranked.push(fed.time, fed.value, limits.samples);
                }
                folded
            }
            Self::Live(times) => {
                if let Some(time) = times.get_mut(fed.position) {
                    *time = fed.time;
                }
                false
            }
            Self::Ordered(begins) => {
                let begin = match fed.position {
                    0 => fed.time,
                    later => begins.get(later - 1).copied().unwrap_or(NEVER),
                };
                if let Some(best) = begins.get_mut(fed.position) {
                    *best = begin.max(*best);
                }
                false
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn judge(&self, start: i64, program: &Program) -> (f64, bool) {
        let value = match self {
            Self::Count(newest) => newest.len() as f64,
            Self::Distinct(distinct) => distinct.len() as f64,
            Self::Sum(sum) if program.kind == CorrelationKind::ValueSum => sum.sum(),
            Self::Sum(sum) => sum.average(),
            Self::Ranked(ranked) => ranked.percentile(program.percentile),
            Self::Live(times) => times.iter().filter(|time| **time > start).count() as f64,
            Self::Ordered(begins) => {
                begins.iter().rposition(|begin| *begin > start).map_or(0.0, |last| (last + 1) as f64)
            }
        };
        let holds = match (self, &program.expr) {
            (Self::Live(times), Some(expr)) => {
                alive(expr, &|position| times.get(position).is_some_and(|time| *time > start))
            }
            (Self::Live(_) | Self::Ordered(_), _) if program.bounds.is_empty() => {
                value >= program.positions as f64
            }
            (Self::Sum(sum), _) if sum.count() == 0 => false,
            (Self::Ranked(ranked), _) if ranked.count() == 0 => false,
            _ => program.within(value),
        };
        (value, holds)
    }
}

fn alive(expr: &TemporalExpr, live: &dyn Fn(usize) -> bool) -> bool {
    match expr {
        TemporalExpr::Rule(position, _) => live(*position),
        TemporalExpr::Not(inner, _) => !alive(inner, live),
        TemporalExpr::And(parts, _) => parts.iter().all(|part| alive(part, live)),
        TemporalExpr::Or(parts, _) => parts.iter().any(|part| alive(part, live)),
    }
}
