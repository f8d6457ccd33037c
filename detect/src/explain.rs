//! Why a rule did or did not match an event, predicate by predicate.
//!
//! Values are shown as the event holds them; the agent masks secrets in command lines before an event is made.

use std::fmt::Write;

use crate::{
    ast::{
        Case, Compare, Detection, Expr, Item, ItemValue, Join, Polarity, Quantifier, ReferenceMatch, Rule,
        Search, Selector, Test,
    },
    reference,
    schema::{FieldValue, Firing, Scratch, View},
    source::Span,
};

/// Longest value shown, in characters.
const SHOWN: usize = 300;

/// The whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// [`Rule::key`].
    pub rule: String,
    /// `title`.
    pub title: String,
    /// The rule matches the event.
    pub matched: bool,
    /// Why the event is none that the rule looks at; `None` if it is.
    pub not_for: Option<String>,
    /// One step per condition.
    pub conditions: Vec<Step>,
}

/// A part of the rule and whether it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What it says.
    pub what: String,
    /// It holds.
    pub holds: bool,
    /// Where it stands in the rule.
    pub span: Span,
    /// For a field: what the event has.
    pub found: Option<String>,
    /// What it is made of.
    pub parts: Vec<Step>,
}

/// Explains one rule on one event.
#[must_use]
pub fn explain(rule: &Rule, view: &View<'_>) -> Explanation {
    let conditions = rule.detection.conditions.iter().map(|condition| {
        let step = of_expr(&condition.expr, &rule.detection, view);
        Step {
            what: format!("condition: {}", condition.text),
            span: condition.span,
            holds: step.holds,
            found: None,
            parts: vec![step],
        }
    });
    let not_for = (!rule.routing.categories.contains(view.category())).then(|| match &rule.firing {
        Firing::Cannot { why } => why.clone(),
        Firing::Can => format!(
            "the event is of category {}, the rule is for {}",
            view.category().name(),
            rule.routing.categories
        ),
    });
    Explanation {
        rule: rule.key().to_owned(),
        title: rule.meta.title.value.clone(),
        matched: reference::matches(rule, view),
        not_for,
        conditions: conditions.collect(),
    }
}

/// A tree in text: `+` holds, `-` does not.
#[must_use]
pub fn render(explanation: &Explanation) -> String {
    let verdict = if explanation.matched { "matches" } else { "does not match" };
    let mut text = format!("{} ({}) {verdict}\n", explanation.title, explanation.rule);
    if let Some(why) = &explanation.not_for {
        let _ = writeln!(text, "  - {why}");
    }
    for step in &explanation.conditions {
        render_step(step, 1, &mut text);
    }
    text
}

fn render_step(step: &Step, depth: usize, text: &mut String) {
    let mark = if step.holds { '+' } else { '-' };
    let _ = write!(text, "{:indent$}{mark} {}", "", step.what, indent = depth * 2);
    if let Some(found) = &step.found {
        let _ = write!(text, "   the event has {found}");
    }
    text.push('\n');
    for part in &step.parts {
        render_step(part, depth + 1, text);
    }
}

fn of_expr(expr: &Expr, detection: &Detection, view: &View<'_>) -> Step {
    let named = |index: &usize| {
        let identifier = &detection.identifiers[*index];
        let step = of_search(&identifier.search, view);
        let parts = if step.parts.is_empty() { vec![step] } else { step.parts };
        let holds = reference::search(&identifier.search, view);
        Step { what: identifier.name.value.clone(), holds, span: identifier.name.span, found: None, parts }
    };
    let (what, parts) = match expr {
        Expr::Identifier { index, .. } => return named(index),
        Expr::Of { quantifier, selector, targets, .. } => {
            let group = match selector {
                Selector::Them => "them",
                Selector::Pattern(pattern) => pattern,
            };
            let what = match quantifier {
                Quantifier::All => format!("all of {group}"),
                Quantifier::AtLeast(count) => format!("{count} of {group}"),
            };
            (what, targets.iter().map(named).collect())
        }
        Expr::Not(inner, _) => ("not".to_owned(), vec![of_expr(inner, detection, view)]),
        Expr::And(parts, _) => {
            ("all of these".to_owned(), parts.iter().map(|part| of_expr(part, detection, view)).collect())
        }
        Expr::Or(parts, _) => {
            ("one of these".to_owned(), parts.iter().map(|part| of_expr(part, detection, view)).collect())
        }
    };
    Step { what, holds: reference::expr(expr, detection, view), span: expr.span(), found: None, parts }
}

fn of_search(search: &Search, view: &View<'_>) -> Step {
    let (what, parts) = match search {
        Search::Item(item) => return of_item(item, view),
        Search::All(parts, _) => ("all of these", parts),
        Search::Any(parts, _) => ("one of these", parts),
    };
    let parts = parts.iter().map(|part| of_search(part, view)).collect();
    Step {
        what: what.into(),
        holds: reference::search(search, view),
        span: search.span(),
        found: None,
        parts,
    }
}

fn of_item(item: &Item, view: &View<'_>) -> Step {
    let holds = reference::item(item, view);
    let name = item.field.as_ref().map_or("keywords", |field| &field.text);
    let found = item.field.as_ref().map(|field| shown(reference::field_value(field.field, view)));
    let not = if item.polarity == Polarity::MustNot { " not" } else { "" };
    if let [only] = item.values.as_slice() {
        return Step {
            what: format!("{name}{not} {}", wanted(only)),
            holds,
            span: item.span,
            found,
            parts: vec![],
        };
    }
    let joined = match item.join {
        Join::Any => "one of",
        Join::All => "all of",
    };
    let parts = item.values.iter().map(|one| Step {
        what: wanted(one),
        holds: reference::value(one, item, view),
        span: one.value.span,
        found: None,
        parts: vec![],
    });
    Step { what: format!("{name}{not} {joined}"), holds, span: item.span, found, parts: parts.collect() }
}

/// What a value asks for. One that modifiers have multiplied is shown by its first form.
fn wanted(value: &ItemValue) -> String {
    let more = value.tests.len().saturating_sub(1);
    let first = value.tests.first().map_or_else(String::new, one_test);
    if more == 0 { first } else { format!("{first} (or {more} other forms of it)") }
}

fn one_test(test: &Test) -> String {
    match test {
        Test::Text { pattern, case: Case::Insensitive } => format!("is `{pattern}`"),
        Test::Text { pattern, case: Case::Sensitive } => format!("is `{pattern}` (case matters)"),
        Test::Number(number) => format!("is {number}"),
        Test::Bool(truth) => format!("is {truth}"),
        Test::Null | Test::Exists(false) => "is absent".into(),
        Test::Exists(true) => "is there".into(),
        Test::Compare { how, than } => format!("is {} {than}", compared(*how)),
        Test::Regex(regex) => format!("contains a match of `{}`", regex.source),
        Test::Cidr(network) => format!("lies in {network}"),
        Test::FieldRef { field, how, .. } => {
            let how = match how {
                ReferenceMatch::Equals => "is the value of",
                ReferenceMatch::Contains => "contains the value of",
                ReferenceMatch::StartsWith => "begins with the value of",
                ReferenceMatch::EndsWith => "ends with the value of",
            };
            format!("{how} `{}`", field.text)
        }
        Test::Time { part, how, than } => {
            format!("has a {part:?} {} {than}", how.map_or("equal to", compared)).to_lowercase()
        }
    }
}

fn compared(how: Compare) -> &'static str {
    match how {
        Compare::Lt => "less than",
        Compare::Lte => "at most",
        Compare::Gt => "greater than",
        Compare::Gte => "at least",
    }
}

/// A field's value for people, cut at a length and with control characters escaped.
pub(crate) fn shown(value: FieldValue<'_>) -> String {
    let mut scratch = Scratch::new();
    match value {
        FieldValue::Absent => "no such field".into(),
        FieldValue::List(list) => {
            let parts: Vec<String> = list.iter().map(|text| format!("`{}`", visible(text))).collect();
            cut(&parts.join(", "))
        }
        one => format!("`{}`", cut(&visible(one.text(&mut scratch).unwrap_or_default()))),
    }
}

fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
