//! What is odd about a rule that is otherwise right: fields that its events cannot have, and rules that cannot fire.

use std::collections::HashMap;

use crate::{
    ast::{Correlation, Detection, Expr, FieldName, Item, Join, Polarity, Quantifier, Rule, Search, Test},
    diagnostic::{Code, Diagnostic, nearest},
    schema::{AUDIT_TYPES, Category, CategorySet, Field, Firing, Taxonomy, known_absent},
    text_match,
};

/// Warns, and sets the rule's [`Firing`].
pub(crate) fn check(rule: &mut Rule, sources: CategorySet, diagnostics: &mut Vec<Diagnostic>) {
    if matches!(rule.firing, Firing::Can) {
        warn_fields(rule, diagnostics);
        rule.firing = firing(rule, sources);
    }
    if let Firing::Cannot { why } = &rule.firing {
        let message = format!("this rule cannot fire: {why}");
        diagnostics.push(Diagnostic::warning(
            Code::CannotFire,
            message,
            rule.logsource.span,
            "its logsource",
        ));
    }
}

/// Warns of correlations that wait for a rule that cannot fire.
pub(crate) fn check_correlations(
    correlations: &[Correlation],
    rules: &[Rule],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let dead: HashMap<&str, &str> = rules
        .iter()
        .filter_map(|rule| match &rule.firing {
            Firing::Cannot { why } => Some((rule.key(), why.as_str())),
            Firing::Can => None,
        })
        .collect();
    for reference in correlations.iter().flat_map(|correlation| &correlation.rules) {
        if let Some(why) = dead.get(reference.key.as_str()) {
            let message = format!("the rule `{}` cannot fire: {why}", reference.text);
            let label = "this correlation waits for it";
            diagnostics.push(Diagnostic::warning(Code::CannotFire, message, reference.span, label));
        }
    }
}

fn warn_fields(rule: &Rule, diagnostics: &mut Vec<Diagnostic>) {
    let mut said: Vec<&str> = vec![];
    for item in rule.detection.identifiers.iter().flat_map(|identifier| identifier.search.items()) {
        let referred = item.values.iter().flat_map(|value| &value.tests).filter_map(|test| match test {
            Test::FieldRef { field, .. } => Some(field),
            _ => None,
        });
        for name in item.field.iter().chain(referred) {
            if said.contains(&name.text.as_str()) {
                continue;
            }
            if let Some(diagnostic) = field_warning(name, rule) {
                said.push(&name.text);
                diagnostics.push(diagnostic);
            }
        }
    }
}

fn field_warning(name: &FieldName, rule: &Rule) -> Option<Diagnostic> {
    let categories = rule.routing.categories;
    let Some(field) = name.field else {
        return Some(match known_absent(&name.text) {
            Some(why) => {
                let message = format!("the field `{}` does not exist in these events", name.text);
                Diagnostic::warning(Code::AbsentField, message, name.span, why)
            }
            None => unknown_field(name, rule.routing.taxonomy, categories),
        });
    };
    let spec = field.spec();
    if !spec.categories.intersection(categories).is_empty() {
        return None;
    }
    let message = format!("the field `{}` cannot exist in {categories} events", name.text);
    let label = format!("only in: {}", spec.categories);
    Some(
        Diagnostic::warning(Code::AbsentField, message, name.span, label)
            .label(rule.logsource.span, "the rule's events"),
    )
}

fn unknown_field(name: &FieldName, taxonomy: Taxonomy, categories: CategorySet) -> Diagnostic {
    let message = format!("unknown field `{}`: it is always absent", name.text);
    let possible =
        Field::ALL.iter().filter(|field| !field.spec().categories.intersection(categories).is_empty());
    let names = possible.flat_map(|field| {
        let spec = field.spec();
        let auditd = if taxonomy == Taxonomy::Auditd { spec.auditd } else { &[] };
        [spec.name].into_iter().chain(spec.aliases.iter().copied()).chain(auditd.iter().copied())
    });
    let near = nearest(&name.text, names);
    let diagnostic = Diagnostic::warning(Code::UnknownField, message, name.span, "no event has it");
    match near {
        Some(near) => diagnostic.help(format!("did you mean `{near}`? Field names are case-sensitive")),
        None => diagnostic.help("docs/fields.md lists all fields"),
    }
}

fn firing(rule: &Rule, sources: CategorySet) -> Firing {
    let fed = rule.routing.categories.intersection(sources);
    if fed.is_empty() {
        let why = format!("no source feeds {} events", rule.routing.categories);
        return Firing::Cannot { why };
    }
    let live = fed.iter().any(|category| {
        rule.detection
            .conditions
            .iter()
            .any(|condition| expr(&condition.expr, &rule.detection, category).can_be_true)
    });
    if live { Firing::Can } else { Firing::Cannot { why: blame(rule, fed) } }
}

/// Why no condition can hold: the items that never can.
fn blame(rule: &Rule, fed: CategorySet) -> String {
    let items = rule.detection.identifiers.iter().flat_map(|identifier| identifier.search.items());
    let mut dead: Vec<String> = vec![];
    for one in items.filter(|one| fed.iter().all(|category| !item(one, category).can_be_true)) {
        let Some(name) = &one.field else { continue };
        let text = if name.field == Some(Field::AuditType) {
            let values: Vec<String> = one.values.iter().map(|value| shown(&value.tests)).collect();
            format!("`{}` is never {}", name.text, values.join(" or "))
        } else {
            format!("no {fed} event has `{}`", name.text)
        };
        if !dead.contains(&text) {
            dead.push(text);
        }
    }
    if dead.is_empty() { "its conditions exclude each other".into() } else { dead.join("; ") }
}

fn shown(tests: &[Test]) -> String {
    match tests.first() {
        Some(Test::Text { pattern, .. }) => format!("`{pattern}`"),
        _ => "that".into(),
    }
}

/// What an expression can come to, whatever the event of one category holds. Both may be possible.
#[derive(Clone, Copy)]
struct Possible {
    can_be_true: bool,
    can_be_false: bool,
}

impl Possible {
    const OPEN: Self = Self { can_be_true: true, can_be_false: true };

    const fn always(value: bool) -> Self {
        Self { can_be_true: value, can_be_false: !value }
    }

    const fn not(self) -> Self {
        Self { can_be_true: self.can_be_false, can_be_false: self.can_be_true }
    }

    fn all(parts: impl Iterator<Item = Self>) -> Self {
        parts.fold(Self::always(true), |both, part| Self {
            can_be_true: both.can_be_true && part.can_be_true,
            can_be_false: both.can_be_false || part.can_be_false,
        })
    }

    fn any(parts: impl Iterator<Item = Self>) -> Self {
        Self::all(parts.map(Self::not)).not()
    }
}

fn expr(of: &Expr, detection: &Detection, category: Category) -> Possible {
    let one = |index: &usize| search(&detection.identifiers[*index].search, category);
    match of {
        Expr::Identifier { index, .. } => one(index),
        Expr::Of { quantifier: Quantifier::All, targets, .. } => Possible::all(targets.iter().map(one)),
        Expr::Of { quantifier: Quantifier::AtLeast(wanted), targets, .. } => {
            let parts: Vec<Possible> = targets.iter().map(one).collect();
            let wanted = *wanted as usize;
            Possible {
                can_be_true: parts.iter().filter(|part| part.can_be_true).count() >= wanted,
                can_be_false: parts.iter().filter(|part| !part.can_be_false).count() < wanted,
            }
        }
        Expr::Not(inner, _) => expr(inner, detection, category).not(),
        Expr::And(parts, _) => Possible::all(parts.iter().map(|part| expr(part, detection, category))),
        Expr::Or(parts, _) => Possible::any(parts.iter().map(|part| expr(part, detection, category))),
    }
}

fn search(of: &Search, category: Category) -> Possible {
    match of {
        Search::Item(one) => item(one, category),
        Search::All(parts, _) => Possible::all(parts.iter().map(|part| search(part, category))),
        Search::Any(parts, _) => Possible::any(parts.iter().map(|part| search(part, category))),
    }
}

fn item(of: &Item, category: Category) -> Possible {
    let values =
        of.values.iter().map(|value| Possible::any(value.tests.iter().map(|one| test(one, of, category))));
    let joined = match of.join {
        Join::Any => Possible::any(values),
        Join::All => Possible::all(values),
    };
    match of.polarity {
        Polarity::Must => joined,
        Polarity::MustNot => joined.not(),
    }
}

fn test(of: &Test, item: &Item, category: Category) -> Possible {
    let Some(name) = &item.field else { return Possible::OPEN };
    let absent = !name.field.is_some_and(|field| field.exists_in(category));
    match of {
        Test::Exists(wanted) if absent => Possible::always(!wanted),
        Test::Null if absent => Possible::always(true),
        _ if absent => Possible::always(false),
        Test::Text { pattern, case } if name.field == Some(Field::AuditType) => {
            let some = AUDIT_TYPES.iter().any(|known| text_match::pattern(pattern, *case, known));
            if some { Possible::OPEN } else { Possible::always(false) }
        }
        Test::FieldRef { field: other, .. }
            if !other.field.is_some_and(|field| field.exists_in(category)) =>
        {
            Possible::always(false)
        }
        _ => Possible::OPEN,
    }
}
