//! The `correlation` section.

use std::time::Duration;

use crate::{
    ast::{
        Alias, Bound, Comparison, Correlation, CorrelationCondition, CorrelationKind, Generate, Meta, Number,
        RuleReference, Value,
    },
    diagnostic::{Code, Diagnostic},
    limits,
    parse::{
        Cursor, condition,
        document::{reference, references},
        lower::typed,
        mapping::{Mapping, text_of},
    },
    source::Spanned,
    yaml::{Data, Node, Style},
};

const KINDS: &[(&str, CorrelationKind)] = &[
    ("event_count", CorrelationKind::EventCount),
    ("value_count", CorrelationKind::ValueCount),
    ("temporal", CorrelationKind::Temporal),
    ("temporal_ordered", CorrelationKind::TemporalOrdered),
    ("value_sum", CorrelationKind::ValueSum),
    ("value_avg", CorrelationKind::ValueAvg),
    ("value_percentile", CorrelationKind::ValuePercentile),
];

const COMPARISONS: &[(&str, Comparison)] = &[
    ("lt", Comparison::Lt),
    ("lte", Comparison::Lte),
    ("gt", Comparison::Gt),
    ("gte", Comparison::Gte),
    ("eq", Comparison::Eq),
    ("neq", Comparison::Neq),
];

const KEYS: &[&str] = &["type", "rules", "group-by", "timespan", "condition", "aliases", "generate"];

impl CorrelationKind {
    /// Whether it looks at which rules matched, not at how often.
    #[must_use]
    pub fn is_temporal(self) -> bool {
        matches!(self, Self::Temporal | Self::TemporalOrdered)
    }

    /// Whether it looks at a field's values.
    #[must_use]
    pub fn is_valued(self) -> bool {
        matches!(self, Self::ValueCount | Self::ValueSum | Self::ValueAvg | Self::ValuePercentile)
    }
}

/// Reads the section.
pub(crate) fn parse(
    node: &Node,
    document: &Mapping<'_>,
    meta: Meta,
    cursor: &mut Cursor<'_>,
) -> Option<Correlation> {
    let section = Mapping::read(node, "`correlation`", cursor)?;
    section.refuse_unknown(KEYS, "`correlation`", cursor);
    section.require("type", "`correlation`", cursor);
    let kind = section.word("type", KINDS, cursor);
    let rules = section.require("rules", "`correlation`", cursor);
    let rules = rules.map(|node| references(node, "`rules`", cursor)).unwrap_or_default();
    if rules.len() > limits::CORRELATION_RULES {
        let message = format!("a correlation may refer to at most {} rules", limits::CORRELATION_RULES);
        cursor.report(Diagnostic::error(
            Code::Limit,
            message,
            rules[limits::CORRELATION_RULES].span,
            "one too many",
        ));
    }
    let timespan = timespan(&section, cursor);
    let aliases = aliases(&section, &rules, cursor);
    let generate = generate(section.get("generate").or_else(|| document.get("generate")), cursor);
    let kind = kind?;
    let mut condition = read_condition(&section, node, kind, &rules, cursor)?;
    let mut group_by = section.texts("group-by", cursor);
    let mut aliases = aliases;
    let of_aliases = aliases.iter_mut().flat_map(|alias| &mut alias.fields).map(|(_, field)| field);
    group_by
        .iter_mut()
        .chain(&mut condition.fields)
        .chain(of_aliases)
        .for_each(|name| use_our_name(name, cursor));
    Some(Correlation { meta, kind, group_by, timespan: timespan?, condition, aliases, generate, rules })
}

/// A field under Sigma's name where the document's taxonomy calls it otherwise: a correlation joins rules of any taxonomy.
fn use_our_name(name: &mut Spanned<String>, cursor: &Cursor<'_>) {
    if let Some(field) = cursor.names.and_then(|names| names.fields.get(&name.value)) {
        field.name().clone_into(&mut name.value);
    }
}

/// `number + letter`: s, m, h, d (and w).
fn timespan(section: &Mapping<'_>, cursor: &mut Cursor<'_>) -> Option<Spanned<Duration>> {
    section.require("timespan", "`correlation`", cursor)?;
    let given = section.text("timespan", cursor)?;
    let letter = given.value.chars().last().unwrap_or_default();
    let unit: Option<u64> = match letter {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(24 * 3600),
        'w' => Some(7 * 24 * 3600),
        _ => None,
    };
    let digits = &given.value[..given.value.len() - letter.len_utf8().min(given.value.len())];
    let seconds = digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    match seconds {
        Some(seconds) if (1..=limits::TIMESPAN_SECONDS).contains(&seconds) => {
            Some(Spanned::new(Duration::from_secs(seconds), given.span))
        }
        Some(_) => {
            let message =
                format!("a window may last from 1 second to {} days", limits::TIMESPAN_SECONDS / 86_400);
            cursor.report(Diagnostic::error(Code::Limit, message, given.span, ""));
            None
        }
        None => {
            let message = format!("`{}` is not a length of time", given.value);
            let help = "a whole number and one of s, m, h, d: `90m` is an hour and a half";
            cursor.report(Diagnostic::error(Code::BadValue, message, given.span, "").help(help));
            None
        }
    }
}

fn generate(node: Option<&Node>, cursor: &mut Cursor<'_>) -> Generate {
    let Some(node) = node else { return Generate::default() };
    match node.text().map(|text| typed(text, Style::Plain)) {
        Some(Value::Bool(true)) => Generate::RulesToo,
        Some(Value::Bool(false)) => Generate::Correlation,
        _ => {
            let message = "`generate` must be `true` or `false`";
            cursor.report(Diagnostic::error(Code::BadValue, message, node.span, ""));
            Generate::default()
        }
    }
}

fn aliases(section: &Mapping<'_>, rules: &[RuleReference], cursor: &mut Cursor<'_>) -> Vec<Alias> {
    let Some(node) = section.get("aliases").filter(|node| !node.is_null()) else { return vec![] };
    let Some(aliases) = Mapping::read(node, "`aliases`", cursor) else { return vec![] };
    let mut found = vec![];
    for (name, node) in &aliases.pairs {
        let Some(fields) = Mapping::read(node, &format!("the alias `{}`", name.value), cursor) else {
            continue;
        };
        let mut by_rule = vec![];
        for (rule, field) in &fields.pairs {
            if !rules.iter().any(|other| other.text == rule.value) {
                let message = format!("`{}` is not among the correlation's rules", rule.value);
                let known = rules.iter().map(|rule| rule.text.as_str());
                cursor.report(
                    Diagnostic::error(Code::UnknownRule, message, rule.span, "")
                        .did_you_mean(rule.value, known),
                );
            }
            if let Some(field) = text_of(field, "an alias's field", cursor) {
                by_rule.push((reference(rule.map(str::to_owned)), field));
            }
        }
        found.push(Alias { name: name.map(str::to_owned), fields: by_rule });
    }
    found
}

fn read_condition(
    section: &Mapping<'_>,
    whole: &Node,
    kind: Spanned<CorrelationKind>,
    rules: &[RuleReference],
    cursor: &mut Cursor<'_>,
) -> Option<CorrelationCondition> {
    let mut condition = CorrelationCondition {
        span: whole.span,
        bounds: vec![],
        fields: vec![],
        percentile: None,
        expr: None,
    };
    let node = if kind.value.is_temporal() {
        section.get("condition")
    } else {
        Some(section.require("condition", "`correlation`", cursor)?)
    };
    let Some(node) = node else { return Some(condition) };
    condition.span = node.span;
    match &node.data {
        Data::Scalar { .. } if kind.value.is_temporal() => {
            let names: Vec<&str> = rules.iter().map(|rule| rule.text.as_str()).collect();
            let expr = condition::parse_temporal(node, &names, cursor)?;
            if kind.value == CorrelationKind::TemporalOrdered && expr.sequence().is_none() {
                let message = "`temporal_ordered` wants rules that follow one another";
                let help = "join rules with `and`, and put `not` before those that must not match meanwhile; `temporal` takes any expression";
                let label = "this leaves open which of them";
                cursor.report(Diagnostic::error(Code::BadCondition, message, node.span, label).help(help));
                return None;
            }
            condition.expr = Some(expr);
        }
        _ => bounds(node, kind, &mut condition, cursor)?,
    }
    Some(condition)
}

fn bounds(
    node: &Node,
    kind: Spanned<CorrelationKind>,
    condition: &mut CorrelationCondition,
    cursor: &mut Cursor<'_>,
) -> Option<()> {
    let section = Mapping::read(node, "`condition`", cursor)?;
    let errors = cursor.errors();
    for (key, value) in &section.pairs {
        match key.value {
            "field" if kind.value.is_valued() => condition.fields = section.texts("field", cursor),
            "percentile" if kind.value == CorrelationKind::ValuePercentile => {
                let given = number(value, cursor).filter(|given| (0.0..=100.0).contains(given));
                if given.is_none() {
                    let message = "a percentile lies between 0 and 100";
                    cursor.report(Diagnostic::error(Code::BadValue, message, value.span, ""));
                }
                condition.percentile = given.map(|given| Spanned::new(given, value.span));
            }
            other => match COMPARISONS.iter().find(|(name, _)| *name == other) {
                Some((_, how)) => {
                    let than = number(value, cursor)?;
                    condition.bounds.push(Bound { how: *how, than, span: key.span.to(value.span) });
                }
                None => {
                    let mut known: Vec<&str> = COMPARISONS.iter().map(|(name, _)| *name).collect();
                    known.extend(kind.value.is_valued().then_some("field"));
                    known.extend((kind.value == CorrelationKind::ValuePercentile).then_some("percentile"));
                    let message = format!("`{other}` is not a condition of this kind of correlation");
                    let label = format!("expected one of: {}", known.join(", "));
                    cursor.report(
                        Diagnostic::error(Code::UnknownKey, message, key.span, label)
                            .did_you_mean(other, known),
                    );
                }
            },
        }
    }
    if condition.bounds.is_empty() && cursor.errors() == errors {
        let message = "the condition compares with nothing";
        cursor.report(Diagnostic::error(Code::Missing, message, node.span, "for example `gte: 10`"));
    }
    check_fields(node, &section, kind, condition, cursor);
    Some(())
}

fn check_fields(
    node: &Node,
    section: &Mapping<'_>,
    kind: Spanned<CorrelationKind>,
    condition: &mut CorrelationCondition,
    cursor: &mut Cursor<'_>,
) {
    if kind.value.is_valued() && condition.fields.is_empty() {
        let message = "this kind of correlation looks at a field's values: which field?";
        cursor.report(
            Diagnostic::error(Code::Missing, message, node.span, "`field` is expected here")
                .label(kind.span, "kind"),
        );
    }
    if let Some(second) = condition.fields.get(1).filter(|_| kind.value != CorrelationKind::ValueCount) {
        let message = "only `value_count` takes several fields";
        cursor.report(Diagnostic::error(Code::BadValue, message, second.span, "one too many"));
    }
    let most = limits::DISTINCT_VALUES as f64;
    if let Some(bound) =
        condition.bounds.iter().find(|bound| kind.value == CorrelationKind::ValueCount && bound.than > most)
    {
        let message = format!("at most {most} different values are counted");
        cursor.report(Diagnostic::error(Code::Limit, message, bound.span, "never reached"));
    }
    let named = section.get("percentile").is_some();
    if kind.value == CorrelationKind::ValuePercentile && !named {
        let message = "`value_percentile` wants `percentile`";
        cursor.report(Diagnostic::error(Code::Missing, message, node.span, "for example `percentile: 95`"));
    }
}

fn number(node: &Node, cursor: &mut Cursor<'_>) -> Option<f64> {
    let given = node.text().map(|text| typed(text, Style::Plain));
    let Some(Value::Number(number)) = given else {
        let message = "expected a number";
        cursor.report(Diagnostic::error(
            Code::BadValue,
            message,
            node.span,
            format!("this is {}", node.kind()),
        ));
        return None;
    };
    Some(Number::as_f64(number))
}
