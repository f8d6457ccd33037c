//! Correlations and filters.

use std::time::Duration;

use crate::{
    ast::{Detection, Logsource, Meta},
    schema::Routing,
    source::{Span, Spanned},
};

/// A correlation of findings in a window of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlation {
    /// What all kinds of documents share.
    pub meta: Meta,
    /// Which kind.
    pub kind: Spanned<CorrelationKind>,
    /// Rules or other correlations, in order; never empty.
    pub rules: Vec<RuleReference>,
    /// Fields or aliases whose values make a group.
    pub group_by: Vec<Spanned<String>>,
    /// Length of the window.
    pub timespan: Spanned<Duration>,
    /// What must hold in the window.
    pub condition: CorrelationCondition,
    /// Names for fields that are called differently in each rule.
    pub aliases: Vec<Alias>,
    /// Whether the rules referred to also report by themselves.
    pub generate: Generate,
}

/// Kind of correlation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Sigma's own names")]
pub enum CorrelationKind {
    EventCount,
    ValueCount,
    Temporal,
    TemporalOrdered,
    ValueSum,
    ValueAvg,
    ValuePercentile,
}

impl CorrelationKind {
    /// Sigma's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EventCount => "event_count",
            Self::ValueCount => "value_count",
            Self::Temporal => "temporal",
            Self::TemporalOrdered => "temporal_ordered",
            Self::ValueSum => "value_sum",
            Self::ValueAvg => "value_avg",
            Self::ValuePercentile => "value_percentile",
        }
    }
}

/// A rule or correlation that is referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleReference {
    /// Its `id` or `name`, as written.
    pub text: String,
    /// Where.
    pub span: Span,
    /// [`Meta::key`] of what it refers to.
    pub key: String,
}

/// What must hold in the window.
#[derive(Debug, Clone, PartialEq)]
pub struct CorrelationCondition {
    /// Where; the correlation's own span if it names no condition.
    pub span: Span,
    /// All must hold for the count or statistic. Empty only for temporal kinds, where it means all rules.
    pub bounds: Vec<Bound>,
    /// The fields that value kinds look at; several make a tuple (`value_count` only).
    pub fields: Vec<Spanned<String>>,
    /// Which percentile, 0 to 100 (`value_percentile` only).
    pub percentile: Option<Spanned<f64>>,
    /// A boolean expression over the rules (temporal kinds only).
    pub expr: Option<TemporalExpr>,
}

/// A boolean expression over the rules of a temporal correlation: each name holds if that rule matched in the window.
#[derive(Debug, Clone, PartialEq)]
pub enum TemporalExpr {
    /// Position in [`Correlation::rules`].
    Rule(usize, Span),
    /// It does not hold.
    Not(Box<TemporalExpr>, Span),
    /// All hold.
    And(Vec<TemporalExpr>, Span),
    /// One holds.
    Or(Vec<TemporalExpr>, Span),
    /// So many hold.
    AtLeast(u32, Vec<TemporalExpr>, Span),
}

/// Rules that must match one after the other, while others do not: all that `temporal_ordered` can mean by an expression.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sequence {
    /// Positions in [`Correlation::rules`], in their order there.
    pub chain: Vec<usize>,
    /// Positions of those that must not match in the window.
    pub without: Vec<usize>,
}

impl TemporalExpr {
    /// The expression as a sequence; `None` if it leaves a choice, so that no order is asked for.
    #[must_use]
    pub fn sequence(&self) -> Option<Sequence> {
        let mut sequence = Sequence::default();
        self.collect(&mut sequence)?;
        sequence.chain.sort_unstable();
        sequence.chain.dedup();
        sequence.without.sort_unstable();
        sequence.without.dedup();
        (!sequence.chain.is_empty()).then_some(sequence)
    }

    fn collect(&self, sequence: &mut Sequence) -> Option<()> {
        match self {
            Self::Rule(position, _) => sequence.chain.push(*position),
            Self::And(parts, _) => parts.iter().try_for_each(|part| part.collect(sequence))?,
            Self::Or(parts, _) | Self::AtLeast(1, parts, _) if parts.len() == 1 => {
                parts.iter().try_for_each(|part| part.collect(sequence))?;
            }
            Self::Not(inner, _) => inner.collect_absent(sequence)?,
            Self::Or(..) | Self::AtLeast(..) => return None,
        }
        Some(())
    }

    fn collect_absent(&self, sequence: &mut Sequence) -> Option<()> {
        match self {
            Self::Rule(position, _) => sequence.without.push(*position),
            Self::Or(parts, _) | Self::AtLeast(1, parts, _) => {
                parts.iter().try_for_each(|part| part.collect_absent(sequence))?;
            }
            _ => return None,
        }
        Some(())
    }

    /// What it means, wherever it stands.
    #[must_use]
    pub fn without_spans(&self) -> Self {
        let none = Span::default();
        let all = |parts: &[Self]| parts.iter().map(Self::without_spans).collect();
        match self {
            Self::Rule(position, _) => Self::Rule(*position, none),
            Self::Not(inner, _) => Self::Not(Box::new(inner.without_spans()), none),
            Self::And(parts, _) => Self::And(all(parts), none),
            Self::Or(parts, _) => Self::Or(all(parts), none),
            Self::AtLeast(wanted, parts, _) => Self::AtLeast(*wanted, all(parts), none),
        }
    }
}

/// One bound of a count or statistic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Which order.
    pub how: Comparison,
    /// The number; spec 2.1 allows fractions.
    pub than: f64,
    /// Where.
    pub span: Span,
}

/// Order of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Sigma's own names")]
pub enum Comparison {
    Lt,
    Lte,
    Gt,
    Gte,
    Eq,
    Neq,
}

/// A name for fields that are called differently in each rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Alias {
    /// The name.
    pub name: Spanned<String>,
    /// For each rule, the field.
    pub fields: Vec<(RuleReference, Spanned<String>)>,
}

/// Whether the rules referred to also report by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Generate {
    /// Only the correlation reports: the default.
    #[default]
    Correlation,
    /// `generate: true`: they report too.
    RulesToo,
}

/// A filter: its condition is joined to those of the rules that it names.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// What all kinds of documents share.
    pub meta: Meta,
    /// Which rules' logsource it is for.
    pub logsource: Logsource,
    /// The same, as categories and taxonomy.
    pub routing: Routing,
    /// Which rules.
    pub targets: FilterTargets,
    /// What must also hold for them.
    pub detection: Detection,
}

/// Which rules a filter is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterTargets {
    /// `any`: all of its logsource.
    Any,
    /// These.
    Rules(Vec<RuleReference>),
}
