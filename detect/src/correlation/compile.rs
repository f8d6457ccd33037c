//! Correlations ready to run: fields resolved, thresholds turned into bounds, who feeds whom.

use std::collections::HashMap;

use super::samples::{Cut, cuts};
use crate::{
    ast::{Bound, Comparison, Correlation, CorrelationKind, Rule, TemporalExpr},
    diagnostic::{Code, Diagnostic},
    schema::{Field, Taxonomy},
};

/// A correlation ready to run.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) key: String,
    /// What the definition was, so that state of another definition is not taken up again.
    pub(super) definition: String,
    /// Names both in rows. Every turn of a controller asks for it.
    pub(super) tag: u64,
    pub(super) kind: CorrelationKind,
    /// Nanoseconds.
    pub(super) span: i64,
    pub(super) bounds: Vec<Bound>,
    pub(super) percentile: f64,
    pub(super) expr: Option<TemporalExpr>,
    /// How many rules it refers to.
    pub(super) positions: usize,
    /// Counts are exact up to this.
    pub(super) exact: usize,
    /// What is counted to judge a percentile.
    pub(super) cuts: Vec<Cut>,
    /// Positions of the rules that must match one after the other, in order (`temporal_ordered`).
    pub(super) chain: Vec<usize>,
    /// Positions of those that must not match in the window (`temporal_ordered` with an expression).
    pub(super) without: Vec<usize>,
}

/// One way in which a hit of a rule feeds a correlation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Position in the programs.
    pub(super) program: usize,
    /// Which of the correlation's rules it is.
    pub(super) position: usize,
    /// `None`: the rule itself. Otherwise only once this correlation has come true with this hit.
    pub(super) after: Option<usize>,
    pub(super) group_by: Vec<Field>,
    pub(super) values: Vec<Field>,
}

/// Programs, and for each rule's key its routes: direct ones first, then those after a correlation, in an order in which each comes
/// after what it waits for.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) programs: Vec<Program>,
    pub(super) routes: HashMap<String, Vec<Route>, foldhash::fast::FixedState>,
}

pub(super) fn compile(correlations: &[Correlation], rules: &[Rule]) -> (Compiled, Vec<Diagnostic>) {
    let mut diagnostics = vec![];
    let mut compiled =
        Compiled { programs: correlations.iter().map(program).collect(), ..Compiled::default() };
    for rule in rules {
        let mut routes = vec![];
        let mut open: Vec<(String, Option<usize>)> = vec![(rule.key().to_owned(), None)];
        let mut at = 0;
        // A chain of correlations is no longer than their number, since circles were refused at loading.
        while let Some((source, after)) = open.get(at).cloned() {
            at += 1;
            for (index, correlation) in correlations.iter().enumerate() {
                let fed =
                    correlation.rules.iter().enumerate().filter(|(_, reference)| reference.key == source);
                let mut positions: Vec<usize> = fed.map(|(position, _)| position).collect();
                // What is counted is counted once, also of a rule that stands twice.
                if !correlation.kind.value.is_temporal() {
                    positions.truncate(1);
                }
                // Later positions first: a hit of a rule that stands twice must not be its own predecessor.
                for position in positions.iter().rev().copied() {
                    routes.extend(route(correlation, index, position, after, rule, &mut diagnostics));
                }
                if !positions.is_empty() && !open.iter().any(|(_, other)| *other == Some(index)) {
                    open.push((correlation.meta.key.clone(), Some(index)));
                }
            }
        }
        if !routes.is_empty() {
            compiled.routes.insert(rule.key().to_owned(), routes);
        }
    }
    (compiled, diagnostics)
}

fn program(correlation: &Correlation) -> Program {
    let bounds = correlation.condition.bounds.clone();
    let largest = bounds.iter().map(|bound| bound.than).fold(0.0, f64::max);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a small range before"
    )]
    let exact = largest.clamp(0.0, 1e15).floor() as usize + 1;
    let expr = correlation.condition.expr.clone();
    let (chain, without) = match expr.as_ref().and_then(TemporalExpr::sequence) {
        Some(sequence) => (sequence.chain, sequence.without),
        None => ((0..correlation.rules.len()).collect(), vec![]),
    };
    let cuts = match correlation.kind.value {
        CorrelationKind::ValuePercentile => cuts(&bounds),
        _ => vec![],
    };
    let definition = definition(correlation);
    Program {
        key: correlation.meta.key.clone(),
        tag: tag(&correlation.meta.key, &definition),
        definition,
        kind: correlation.kind.value,
        span: i64::try_from(correlation.timespan.value.as_nanos()).unwrap_or(i64::MAX),
        bounds,
        percentile: correlation.condition.percentile.as_ref().map_or(50.0, |percentile| percentile.value),
        expr,
        positions: correlation.rules.len(),
        exact,
        cuts,
        chain,
        without,
    }
}

/// Names a correlation and what it is.
fn tag(key: &str, definition: &str) -> u64 {
    let text = model::short_hash([key, definition], 8);
    u64::from_str_radix(&text, 16).unwrap_or(0)
}

/// Everything that the meaning of a group's state depends on.
fn definition(correlation: &Correlation) -> String {
    let rules: Vec<&str> = correlation.rules.iter().map(|rule| rule.key.as_str()).collect();
    let bounds: Vec<(Comparison, f64)> =
        correlation.condition.bounds.iter().map(|bound| (bound.how, bound.than)).collect();
    let groups: Vec<&str> = correlation.group_by.iter().map(|field| field.value.as_str()).collect();
    let fields: Vec<&str> = correlation.condition.fields.iter().map(|field| field.value.as_str()).collect();
    let aliases: Vec<_> = correlation
        .aliases
        .iter()
        .map(|alias| {
            let fields: Vec<_> =
                alias.fields.iter().map(|(rule, field)| (rule.key.as_str(), field.value.as_str())).collect();
            (alias.name.value.as_str(), fields)
        })
        .collect();
    let percentile = correlation.condition.percentile.as_ref().map(|percentile| percentile.value);
    let expr = correlation.condition.expr.as_ref().map(TemporalExpr::without_spans);
    format!(
        "{:?} {rules:?} {:?} {bounds:?} {groups:?} {fields:?} {aliases:?} {percentile:?} {expr:?}",
        correlation.kind.value, correlation.timespan.value
    )
}

fn route(
    correlation: &Correlation,
    program: usize,
    position: usize,
    after: Option<usize>,
    rule: &Rule,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Route> {
    let reference = &correlation.rules[position];
    let mut resolve = |name: &str, span| {
        let aliased = correlation.aliases.iter().find(|alias| alias.name.value == name).and_then(|alias| {
            alias
                .fields
                .iter()
                .find(|(rule, _)| rule.key == reference.key)
                .map(|(_, field)| field.value.as_str())
        });
        let real = aliased.unwrap_or(name);
        let found = rule.routing.taxonomy.resolve(real).or_else(|| Taxonomy::Sigma.resolve(real));
        let possible = found.filter(|field| {
            rule.routing.categories.is_empty()
                || !field.spec().categories.intersection(rule.routing.categories).is_empty()
        });
        if possible.is_none() {
            let message =
                format!("hits of `{}` have no field `{real}`, so they belong to no group", rule.key());
            diagnostics.push(
                Diagnostic::warning(Code::AbsentField, message, span, "asked for here")
                    .label(reference.span, "of this rule"),
            );
        }
        possible
    };
    let group_by: Option<Vec<Field>> =
        correlation.group_by.iter().map(|field| resolve(&field.value, field.span)).collect();
    let values: Option<Vec<Field>> =
        correlation.condition.fields.iter().map(|field| resolve(&field.value, field.span)).collect();
    Some(Route { program, position, after, group_by: group_by?, values: values? })
}

impl Program {
    /// Whether the condition holds for a count or statistic.
    pub(super) fn within(&self, value: f64) -> bool {
        self.bounds.iter().all(|bound| within(bound, value))
    }

    /// The position whose rule must have matched before this one's; `None` for the first and for one that must not match.
    pub(super) fn before(&self, position: usize) -> Option<usize> {
        let place = self.chain.iter().position(|other| *other == position)?;
        self.chain.get(place.checked_sub(1)?).copied()
    }
}

#[expect(clippy::float_cmp, reason = "Sigma's eq and neq compare exactly")]
pub(super) fn within(bound: &Bound, value: f64) -> bool {
    match bound.how {
        Comparison::Lt => value < bound.than,
        Comparison::Lte => value <= bound.than,
        Comparison::Gt => value > bound.than,
        Comparison::Gte => value >= bound.than,
        Comparison::Eq => value == bound.than,
        Comparison::Neq => value != bound.than,
    }
}
