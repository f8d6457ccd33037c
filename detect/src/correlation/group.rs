//! One group of one correlation.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    Counts, Limits,
    compile::Program,
    distinct::Distinct,
    samples::{Ranked, Sum},
    slices::{Grain, Slices},
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
    /// For thresholds above what is kept hit by hit.
    Many(Box<Slices<u64>>),
    Distinct(Box<Distinct>),
    Sum(Box<Sum>),
    Ranked(Box<Ranked>),
    /// By position: when that rule last matched.
    Live(Vec<i64>),
    /// By position: for a rule of [`Program::chain`] the latest possible beginning of a chain of hits of those up to this one, in order;
    /// for one that must be absent when it last matched.
    Ordered(Vec<i64>),
}

/// No such time: before every window.
const NEVER: i64 = i64::MIN;

impl Group {
    pub(super) fn new(program: &Program, time: i64, limits: &Limits) -> Self {
        let state = match program.kind {
            CorrelationKind::EventCount if program.exact > limits.samples => {
                State::Many(Box::new(Slices::new(1)))
            }
            CorrelationKind::EventCount => State::Count(Newest::default()),
            CorrelationKind::ValueCount => State::Distinct(Box::default()),
            CorrelationKind::ValueSum | CorrelationKind::ValueAvg => State::Sum(Box::default()),
            CorrelationKind::ValuePercentile => State::Ranked(Box::new(Ranked::new(program))),
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
        let holds = self.state.holds(start, program);
        let was = self.told;
        self.told = if holds { Told::Yes } else { Told::No };
        (holds && was == Told::No).then(|| self.state.value(start, program))
    }

    /// References of the window's newest hits.
    pub(super) fn evidence(&self) -> Vec<u64> {
        self.evidence.iter().map(|(_, reference)| *reference).collect()
    }

    /// Memory beside the group itself, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let state = match &self.state {
            State::Count(newest) => newest.bytes(),
            State::Many(slices) => size_of::<Slices<u64>>() + slices.bytes(),
            State::Distinct(distinct) => size_of::<Distinct>() + distinct.bytes(),
            State::Sum(sum) => size_of::<Sum>() + sum.bytes(),
            State::Ranked(ranked) => size_of::<Ranked>() + ranked.bytes(),
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
        let grain = Grain { span: program.span, bound: limits.samples };
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
            Self::Many(slices) => {
                slices.expire(start);
                slices.push(fed.time, grain, std::iter::once(u64::from(fed.count)))
            }
            Self::Sum(sum) => {
                sum.expire(start);
                sum.push(fed.time, fed.value, fed.count, grain)
            }
            Self::Ranked(ranked) => {
                ranked.expire(start);
                ranked.push(fed.time, fed.value, fed.count, program, grain)
            }
            Self::Live(times) => {
                if let Some(time) = times.get_mut(fed.position) {
                    *time = fed.time;
                }
                false
            }
            Self::Ordered(begins) => {
                let begin = match program.before(fed.position) {
                    None => fed.time,
                    Some(before) => begins.get(before).copied().unwrap_or(NEVER),
                };
                if let Some(best) = begins.get_mut(fed.position) {
                    *best = begin.max(*best);
                }
                false
            }
        }
    }

    fn holds(&self, start: i64, program: &Program) -> bool {
        let alive_at = |times: &[i64], position: usize| times.get(position).is_some_and(|time| *time > start);
        match (self, &program.expr) {
            (Self::Live(times), Some(expr)) => alive(expr, &|position| alive_at(times, position)),
            (Self::Ordered(times), Some(_)) => {
                !program.without.iter().any(|position| alive_at(times, *position))
                    && program.chain.last().is_some_and(|last| alive_at(times, *last))
            }
            (Self::Live(_) | Self::Ordered(_), _) if program.bounds.is_empty() => {
                self.value(start, program) >= as_number(program.positions)
            }
            (Self::Ranked(ranked), _) => ranked.holds(program),
            (Self::Sum(sum), _) if sum.is_empty() => false,
            _ => program.within(self.value(start, program)),
        }
    }

    /// The count or statistic.
    fn value(&self, start: i64, program: &Program) -> f64 {
        match self {
            Self::Count(newest) => as_number(newest.len()),
            Self::Many(slices) => as_number(usize::try_from(slices.total(0)).unwrap_or(usize::MAX)),
            Self::Distinct(distinct) => as_number(distinct.len()),
            Self::Sum(sum) if program.kind == CorrelationKind::ValueSum => sum.sum(),
            Self::Sum(sum) => sum.average(),
            Self::Ranked(ranked) => ranked.percentile(program),
            Self::Live(times) => as_number(times.iter().filter(|time| **time > start).count()),
            Self::Ordered(begins) => {
                let reached = |position: &usize| begins.get(*position).is_some_and(|begin| *begin > start);
                as_number(program.chain.iter().rposition(reached).map_or(0, |last| last + 1))
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn as_number(count: usize) -> f64 {
    count as f64
}

fn alive(expr: &TemporalExpr, live: &dyn Fn(usize) -> bool) -> bool {
    match expr {
        TemporalExpr::Rule(position, _) => live(*position),
        TemporalExpr::Not(inner, _) => !alive(inner, live),
        TemporalExpr::And(parts, _) => parts.iter().all(|part| alive(part, live)),
        TemporalExpr::Or(parts, _) => parts.iter().any(|part| alive(part, live)),
        TemporalExpr::AtLeast(wanted, parts, _) => {
            parts.iter().filter(|part| alive(part, live)).count() >= *wanted as usize
        }
    }
}
