//! What a correlation means, written down as plainly as it can be: with each hit, all hits so far are looked at again. O(n²), exact, no bounds.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;

use hemostat_detect::{
    ast::{Bound, Comparison, Correlation, CorrelationKind, TemporalExpr},
    load::Loaded,
};

use crate::stream::At;

/// What must be told.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) correlation: String,
    /// Milliseconds from the start.
    pub(crate) time: i64,
    pub(crate) trigger: u64,
    pub(crate) value: f64,
    /// It is a count, which the runtime keeps up to one above `above` only.
    pub(crate) counted: bool,
    pub(crate) above: f64,
}

/// A hit as one correlation sees it.
#[derive(Debug, Clone)]
struct Seen {
    time: i64,
    /// Which of the correlation's rules.
    position: usize,
    number: u32,
    tuple: Vec<String>,
}

#[derive(Default)]
struct Group {
    seen: Vec<Seen>,
    held: bool,
}

/// Hits by their number, each a hit of a rule at a time: what is told, in order.
pub(crate) fn run(loaded: &Loaded, hits: &[(u64, At)]) -> Vec<Told> {
    let mut ordered = hits.to_vec();
    ordered.sort_by_key(|(reference, at)| (at.time, *reference));
    let mut groups = HashMap::<(usize, Vec<String>), Group>::new();
    let mut told = vec![];
    for (reference, at) in &ordered {
        // The rule, and each correlation that this hit makes true, in order.
        let mut sources = vec![at.rule().to_owned()];
        let mut next = 0;
        while let Some(source) = sources.get(next).cloned() {
            next += 1;
            for (index, correlation) in loaded.correlations.iter().enumerate() {
                for position in positions(correlation, &source) {
                    let Some(group) = group_of(correlation, position, at) else { continue };
                    let Some(seen) = see(correlation, position, at) else { continue };
                    let group = groups.entry((index, group)).or_default();
                    if let Some(value) = feed(correlation, group, seen) {
                        told.push(Told {
                            correlation: correlation.meta.key.clone(),
                            time: at.time,
                            trigger: *reference,
                            value,
                            counted: matches!(
                                correlation.kind.value,
                                CorrelationKind::EventCount | CorrelationKind::ValueCount
                            ),
                            above: correlation
                                .condition
                                .bounds
                                .iter()
                                .map(|bound| bound.than)
                                .fold(0.0, f64::max),
                        });
                        sources.push(correlation.meta.key.clone());
                    }
                }
            }
        }
    }
    told
}

/// The places of a rule in a correlation, the last first, so that a hit is not its own predecessor; what is counted is counted once.
fn positions(correlation: &Correlation, source: &str) -> Vec<usize> {
    let all = correlation
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.key == source)
        .map(|(position, _)| position);
    let mut all: Vec<usize> = all.collect();
    if !matches!(correlation.kind.value, CorrelationKind::Temporal | CorrelationKind::TemporalOrdered) {
        all.truncate(1);
    }
    all.reverse();
    all
}

/// The values of the fields that make the group; `None` if one is absent.
fn group_of(correlation: &Correlation, position: usize, at: &At) -> Option<Vec<String>> {
    let of = |name: &str| {
        let alias = correlation.aliases.iter().find(|alias| alias.name.value == name);
        let real = alias.map_or(name, |alias| {
            let of_rule = alias.fields.iter().find(|(rule, _)| rule.key == correlation.rules[position].key);
            &of_rule.unwrap().1.value
        });
        at.field(real)
    };
    correlation.group_by.iter().map(|field| of(&field.value)).collect()
}

fn see(correlation: &Correlation, position: usize, at: &At) -> Option<Seen> {
    let tuple: Option<Vec<String>> =
        correlation.condition.fields.iter().map(|field| at.field(&field.value)).collect();
    Some(Seen { time: at.time, position, number: at.value, tuple: tuple? })
}

/// The value if the condition has become true with this hit.
fn feed(correlation: &Correlation, group: &mut Group, seen: Seen) -> Option<f64> {
    let span = i64::try_from(correlation.timespan.value.as_millis()).unwrap();
    let (now, held) = (seen.time, group.held);
    // A window that has emptied is a new one.
    let alone = group.seen.last().is_none_or(|last| last.time <= now - span);
    group.seen.push(seen);
    let inside: Vec<&Seen> = group.seen.iter().filter(|one| one.time > now - span).collect();
    let (value, holds) = judge(correlation, &inside);
    group.held = holds;
    (holds && (alone || !held)).then_some(value)
}

fn judge(correlation: &Correlation, inside: &[&Seen]) -> (f64, bool) {
    let condition = &correlation.condition;
    let count = inside.len() as f64;
    let sum = f64::from(inside.iter().map(|one| one.number).sum::<u32>());
    let matched = |position: usize| inside.iter().any(|one| one.position == position);
    let value = match correlation.kind.value {
        CorrelationKind::EventCount => count,
        CorrelationKind::ValueCount => {
            let mut tuples: Vec<&Vec<String>> = inside.iter().map(|one| &one.tuple).collect();
            tuples.sort();
            tuples.dedup();
            tuples.len() as f64
        }
        CorrelationKind::ValueSum => sum,
        CorrelationKind::ValueAvg => sum / count,
        CorrelationKind::ValuePercentile => {
            let percent = condition.percentile.as_ref().unwrap().value as u32;
            f64::from(percentile(&inside.iter().map(|one| one.number).collect::<Vec<_>>(), percent))
        }
        CorrelationKind::Temporal => {
            (0..correlation.rules.len()).filter(|position| matched(*position)).count() as f64
        }
        CorrelationKind::TemporalOrdered => {
            let wanted: Vec<usize> = match &condition.expr {
                None => (0..correlation.rules.len()).collect(),
                Some(expr) => {
                    (0..correlation.rules.len()).filter(|position| asks_for(expr, *position, true)).collect()
                }
            };
            longest_beginning(&wanted, inside) as f64
        }
    };
    let holds = match (&condition.expr, correlation.kind.value) {
        (Some(expr), CorrelationKind::TemporalOrdered) => {
            let wanted =
                (0..correlation.rules.len()).filter(|position| asks_for(expr, *position, true)).count();
            let forbidden = (0..correlation.rules.len())
                .any(|position| asks_for(expr, position, false) && matched(position));
            value >= wanted as f64 && !forbidden
        }
        (Some(expr), _) => true_of(expr, &matched),
        (None, CorrelationKind::Temporal | CorrelationKind::TemporalOrdered)
            if condition.bounds.is_empty() =>
        {
            value >= correlation.rules.len() as f64
        }
        _ => condition.bounds.iter().all(|bound| within(bound, value)),
    };
    (value, holds)
}

/// How many of these rules, from the first, stand in the window one after the other.
fn longest_beginning(wanted: &[usize], inside: &[&Seen]) -> usize {
    let mut rest = inside.iter();
    wanted.iter().take_while(|position| rest.any(|one| one.position == **position)).count()
}

/// Whether the expression names the rule, outside of `not` or within.
fn asks_for(expr: &TemporalExpr, position: usize, outside: bool) -> bool {
    match expr {
        TemporalExpr::Rule(named, _) => *named == position && outside,
        TemporalExpr::Not(inner, _) => asks_for(inner, position, !outside),
        TemporalExpr::And(parts, _) | TemporalExpr::Or(parts, _) | TemporalExpr::AtLeast(_, parts, _) => {
            parts.iter().any(|part| asks_for(part, position, outside))
        }
    }
}

fn true_of(expr: &TemporalExpr, matched: &dyn Fn(usize) -> bool) -> bool {
    match expr {
        TemporalExpr::Rule(position, _) => matched(*position),
        TemporalExpr::Not(inner, _) => !true_of(inner, matched),
        TemporalExpr::And(parts, _) => parts.iter().all(|part| true_of(part, matched)),
        TemporalExpr::Or(parts, _) => parts.iter().any(|part| true_of(part, matched)),
        TemporalExpr::AtLeast(wanted, parts, _) => {
            parts.iter().filter(|part| true_of(part, matched)).count() as u32 >= *wanted
        }
    }
}

pub(crate) fn within(bound: &Bound, value: f64) -> bool {
    match bound.how {
        Comparison::Lt => value < bound.than,
        Comparison::Lte => value <= bound.than,
        Comparison::Gt => value > bound.than,
        Comparison::Gte => value >= bound.than,
        Comparison::Eq => value == bound.than,
        Comparison::Neq => value != bound.than,
    }
}

/// The smallest number that at least so many percent of all are not above.
fn percentile(numbers: &[u32], percent: u32) -> u32 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let enough = |number: &&u32| {
        let not_above = sorted.iter().filter(|other| *other <= *number).count();
        not_above * 100 >= percent as usize * sorted.len()
    };
    *sorted.iter().find(enough).unwrap()
}

/// Whether a percentile of the hits within `span` before the last is at least `than`.
pub(crate) fn percentile_holds(hits: &[At], now: &At, span: i64, percent: u32, than: u32) -> bool {
    let inside: Vec<u32> = hits.iter().filter(|at| at.time > now.time - span).map(|at| at.value).collect();
    percentile(&inside, percent) >= than
}
