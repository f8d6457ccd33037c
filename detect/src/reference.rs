//! The meaning of a rule, written down plainly: an interpreter of the AST.
//!
//! Slow and clear. It is what the compiled matcher is tested against, what [`crate::explain`] tells from, and what rule
//! tests run beside the matcher.

use std::{cmp::Ordering, net::IpAddr};

use model::Timestamp;

use crate::{
    ast::{
        Case, Detection, Expr, Item, ItemValue, Join, Number, Polarity, Quantifier, ReferenceMatch, Rule,
        Search, Test, TimePart,
    },
    schema::{Field, FieldValue, Scratch, View},
    text::fold,
    text_match,
};

/// Whether the rule matches the event: the event is of a category that the rule is for, and a condition holds.
#[must_use]
pub fn matches(rule: &Rule, view: &View<'_>) -> bool {
    rule.routing.categories.contains(view.category())
        && rule.detection.conditions.iter().any(|condition| expr(&condition.expr, &rule.detection, view))
}

pub(crate) fn expr(of: &Expr, detection: &Detection, view: &View<'_>) -> bool {
    let named = |index: &usize| search(&detection.identifiers[*index].search, view);
    match of {
        Expr::Identifier { index, .. } => named(index),
        Expr::Of { quantifier: Quantifier::All, targets, .. } => targets.iter().all(named),
        Expr::Of { quantifier: Quantifier::AtLeast(wanted), targets, .. } => {
            targets.iter().filter(|index| named(index)).count() >= *wanted as usize
        }
        Expr::Not(inner, _) => !expr(inner, detection, view),
        Expr::And(parts, _) => parts.iter().all(|part| expr(part, detection, view)),
        Expr::Or(parts, _) => parts.iter().any(|part| expr(part, detection, view)),
    }
}

pub(crate) fn search(of: &Search, view: &View<'_>) -> bool {
    match of {
        Search::Item(one) => item(one, view),
        Search::All(parts, _) => !parts.is_empty() && parts.iter().all(|part| search(part, view)),
        Search::Any(parts, _) => parts.iter().any(|part| search(part, view)),
    }
}

pub(crate) fn item(of: &Item, view: &View<'_>) -> bool {
    let joined = match of.join {
        Join::Any => of.values.iter().any(|one| value(one, of, view)),
        Join::All => of.values.iter().all(|one| value(one, of, view)),
    };
    match of.polarity {
        Polarity::Must => joined,
        Polarity::MustNot => !joined,
    }
}

/// One value of an item: any of its tests, on the item's field or, for keywords, on any keyword field.
pub(crate) fn value(of: &ItemValue, item: &Item, view: &View<'_>) -> bool {
    of.tests.iter().any(|one| match &item.field {
        Some(name) => test(one, field_value(name.field, view), view),
        None => view.category().keyword_fields().any(|field| test(one, view.get(field), view)),
    })
}

/// The value of a field; a field that is unknown or not of the event's category is absent.
pub(crate) fn field_value<'a>(field: Option<Field>, view: &View<'a>) -> FieldValue<'a> {
    match field {
        Some(field) if field.exists_in(view.category()) => view.get(field),
        _ => FieldValue::Absent,
    }
}

/// One test on one field's value.
fn test(of: &Test, value: FieldValue<'_>, view: &View<'_>) -> bool {
    match of {
        Test::Null => value.is_absent(),
        Test::Exists(wanted) => *wanted != value.is_absent(),
        _ => value.any(|one| test_one(of, one, view)),
    }
}

/// One test on one value that is there and no list.
fn test_one(of: &Test, value: FieldValue<'_>, view: &View<'_>) -> bool {
    match of {
        Test::Null => false,
        Test::Exists(wanted) => *wanted,
        Test::Text { pattern, case } => {
            text(value).is_some_and(|text| text_match::pattern(pattern, *case, &text))
        }
        Test::Regex(wanted) => text(value).is_some_and(|text| wanted.is_match(&text)),
        Test::Number(wanted) => ordering(value, *wanted).is_some_and(Ordering::is_eq),
        Test::Compare { how, than } => ordering(value, *than).is_some_and(|ordering| how.holds(ordering)),
        Test::Bool(wanted) => match value {
            FieldValue::Bool(given) => given == *wanted,
            FieldValue::Str(text) => text.eq_ignore_ascii_case(&wanted.to_string()),
            _ => false,
        },
        Test::Cidr(network) => match value {
            FieldValue::Ip(address) => network.contains(&address),
            FieldValue::Str(text) => text.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)),
            _ => false,
        },
        Test::FieldRef { field, how, case } => {
            let Some(this) = text(value) else { return false };
            field_value(field.field, view)
                .any(|other| text(other).is_some_and(|other| refers(&this, &other, *how, *case)))
        }
        Test::Time { part, how, than } => match value {
            FieldValue::Time(time) => {
                let ordering = than.compare_with_field(part_of(time, *part));
                ordering.is_some_and(|ordering| how.map_or(ordering.is_eq(), |how| how.holds(ordering)))
            }
            _ => false,
        },
    }
}

fn text(value: FieldValue<'_>) -> Option<String> {
    value.text(&mut Scratch::new()).map(str::to_owned)
}

/// How a number, or a text that is a decimal number (digits, a sign, a point; no exponent), compares with the rule's.
fn ordering(value: FieldValue<'_>, than: Number) -> Option<Ordering> {
    match value {
        FieldValue::Num(given) => than.compare_with_field(given),
        FieldValue::Str(text) => {
            if let Ok(given) = text.parse::<i64>() {
                return than.compare_with_field(given);
            }
            let decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b".+-".contains(&byte));
            let given: f64 = decimal.then(|| text.parse().ok()).flatten()?;
            given.partial_cmp(&than.as_f64())
        }
        _ => None,
    }
}

fn refers(this: &str, other: &str, how: ReferenceMatch, case: Case) -> bool {
    let folded = |text: &str| if case == Case::Insensitive { fold(text) } else { text.to_owned() };
    let (this, other) = (folded(this), folded(other));
    match how {
        ReferenceMatch::Equals => this == other,
        ReferenceMatch::Contains => this.contains(&other),
        ReferenceMatch::StartsWith => this.starts_with(&other),
        ReferenceMatch::EndsWith => this.ends_with(&other),
    }
}

/// Parts of a point in time, in UTC, read off its RFC 3339 text; the week is ISO 8601's.
fn part_of(time: Timestamp, part: TimePart) -> i64 {
    let shown = time.to_string();
    // Years beyond 9999 or before 0 have more characters; everything is counted from the end.
    let digits = |from_end: usize, length: usize| {
        let start = shown.len().saturating_sub(from_end);
        shown.get(start..start + length).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    match part {
        TimePart::Minute => digits(10, 2),
        TimePart::Hour => digits(13, 2),
        TimePart::Day => digits(16, 2),
        TimePart::Month => digits(19, 2),
        TimePart::Year => year(time),
        TimePart::Week => {
            let thursday = thursday_of(time);
            let january =
                (0..53).take_while(|weeks| year(weeks_before(thursday, *weeks)) == year(thursday)).count();
            i64::try_from(january).unwrap_or(0)
        }
    }
}

fn year(time: Timestamp) -> i64 {
    let shown = time.to_string();
    // The text ends with `-MM-DDTHH:MM:SS.mmmZ`: 20 characters.
    shown.get(..shown.len().saturating_sub(20)).and_then(|year| year.parse().ok()).unwrap_or(0)
}

/// The Thursday of its week: by ISO 8601 a week belongs to the year of its Thursday. 1970-01-01 was one.
fn thursday_of(time: Timestamp) -> Timestamp {
    const DAY: i64 = 86_400_000_000_000;
    let day = time.0.div_euclid(DAY);
    // Monday is 0.
    let weekday = (day + 3).rem_euclid(7);
    Timestamp((day - weekday + 3).saturating_mul(DAY))
}

fn weeks_before(time: Timestamp, weeks: i64) -> Timestamp {
    Timestamp(time.0.saturating_sub(weeks.saturating_mul(7 * 86_400_000_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_time_are_utc_and_iso_weeks() {
        // 2024-12-30T23:59:30Z, a Monday of week 1 of 2025.
        let time = Timestamp(1_735_603_170_000_000_000);
        let parts = [
            TimePart::Minute,
            TimePart::Hour,
            TimePart::Day,
            TimePart::Month,
            TimePart::Year,
            TimePart::Week,
        ];
        assert_eq!(parts.map(|part| part_of(time, part)), [59, 23, 30, 12, 2024, 1]);
        // 2020-12-31: week 53.
        assert_eq!(part_of(Timestamp(1_609_372_800_000_000_000), TimePart::Week), 53);
    }
}
