//! Evaluating one predicate on one value: for those that no index has answered.

use std::{cmp::Ordering, net::IpAddr, str::FromStr};

use memchr::memmem;
use model::Timestamp;

use super::{
    predicate::{Anchor, Check},
    texts::Texts,
};
use crate::{
    ast::{Case, Number, Part, ReferenceMatch, TimePart},
    schema::{FieldValue, View},
};

/// A predicate's check in the form in which it is quickest to evaluate.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// See [`Check::Literal`].
    Literal(Anchor, Box<[u8]>, Case),
    /// A literal anywhere, with its search tables.
    Anywhere(Box<memmem::Finder<'static>>, Case),
    /// Position in the engine's expressions.
    Regex(usize),
    /// Any other.
    Other(Check),
}

impl Prepared {
    /// From a check; `regex` gives the position of an expression's compiled form.
    pub(crate) fn new(check: &Check, regex: usize) -> Self {
        match check {
            Check::Literal(Anchor::Anywhere, text, case) => {
                Self::Anywhere(Box::new(memmem::Finder::new(text.as_bytes()).into_owned()), *case)
            }
            Check::Literal(anchor, text, case) => Self::Literal(*anchor, text.as_bytes().into(), *case),
            Check::Regex(..) => Self::Regex(regex),
            other => Self::Other(other.clone()),
        }
    }

    /// Memory that it holds beside itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Literal(_, text, _) => text.len(),
            Self::Anywhere(finder, _) => size_of::<memmem::Finder<'static>>() + finder.needle().len(),
            Self::Regex(_) => 0,
            Self::Other(Check::Glob(pattern, _)) => pattern.parts.len() * (size_of::<Part>() + 16),
            Self::Other(_) => 0,
        }
    }
}

/// Whether a literal stands where it must in a text.
#[inline]
pub(crate) fn literal(anchor: Anchor, text: &[u8], literal: &[u8]) -> bool {
    match anchor {
        Anchor::Whole => text == literal,
        Anchor::Start => text.starts_with(literal),
        Anchor::End => text.ends_with(literal),
        Anchor::Anywhere => memmem::find(text, literal).is_some(),
    }
}

/// Whether the text, over its whole length, is the pattern. Both are folded where case does not matter. Time is at most the
/// product of the two lengths.
pub(crate) fn glob(parts: &[Part], text: &str) -> bool {
    // Greedy with one point to go back to: the last `*`, which then takes one character more.
    let (mut at, mut rest) = (0, text);
    let mut back: Option<(usize, &str)> = None;
    loop {
        let step = match parts.get(at) {
            None if rest.is_empty() => return true,
            None => None,
            Some(Part::AnyMany) if at + 1 == parts.len() => return true,
            Some(Part::AnyMany) => {
                back = Some((at + 1, rest));
                Some(rest)
            }
            Some(Part::AnyOne) => {
                let mut characters = rest.chars();
                characters.next().map(|_| characters.as_str())
            }
            Some(Part::Literal(literal)) => rest.strip_prefix(literal.as_str()),
        };
        match (step, &mut back) {
            (Some(left), _) => (at, rest) = (at + 1, left),
            (None, None) => return false,
            (None, Some((after, from))) => {
                let mut characters = from.chars();
                if characters.next().is_none() {
                    return false;
                }
                *from = characters.as_str();
                // The literal after a `*` is looked for, not tried at each place.
                if let Some(Part::Literal(literal)) = parts.get(*after) {
                    let Some(found) = memmem::find(from.as_bytes(), literal.as_bytes()) else { return false };
                    *from = from.get(found..).unwrap_or("");
                }
                (at, rest) = (*after, *from);
            }
        }
    }
}

/// Any check but literals and expressions, on a value.
pub(crate) fn other(check: &Check, value: FieldValue<'_>, view: &View<'_>, texts: &mut Texts) -> bool {
    match check {
        Check::Absent => value.is_absent(),
        Check::Glob(pattern, case) => {
            value.any(|one| texts.of(one, *case, |text| glob(&pattern.parts, text)))
        }
        Check::Number(number) => {
            value.any(|one| ordering(one, (*number).into()).is_some_and(Ordering::is_eq))
        }
        Check::Compare(how, than) => {
            value.any(|one| ordering(one, (*than).into()).is_some_and(|ordering| how.holds(ordering)))
        }
        Check::Bool(truth) => value.any(|one| match one {
            FieldValue::Bool(value) => value == *truth,
            FieldValue::Str(text) => text.eq_ignore_ascii_case(if *truth { "true" } else { "false" }),
            _ => false,
        }),
        Check::Net(net) => value.any(|one| match one {
            FieldValue::Ip(address) => net.contains(&address),
            FieldValue::Str(text) => IpAddr::from_str(text).is_ok_and(|address| net.contains(&address)),
            _ => false,
        }),
        Check::Reference(field, how, case) => {
            let other = view.get(*field);
            value.any(|one| other.any(|other| reference(one, other, *how, *case, texts)))
        }
        Check::Time(part, how, than) => value.any(|one| match one {
            FieldValue::Time(time) => {
                let ordering = Number::from(*than).compare_with_field(part_of(time, *part));
                ordering.is_some_and(|ordering| how.map_or(ordering.is_eq(), |how| how.holds(ordering)))
            }
            _ => false,
        }),
        Check::Literal(..) | Check::Regex(..) => false,
    }
}

fn reference(
    one: FieldValue<'_>,
    other: FieldValue<'_>,
    how: ReferenceMatch,
    case: Case,
    texts: &mut Texts,
) -> bool {
    let anchor = match how {
        ReferenceMatch::Equals => Anchor::Whole,
        ReferenceMatch::StartsWith => Anchor::Start,
        ReferenceMatch::EndsWith => Anchor::End,
        ReferenceMatch::Contains => Anchor::Anywhere,
    };
    texts.of_two(one, other, case, |text, other| literal(anchor, text.as_bytes(), other.as_bytes()))
}

/// How the value, a number or a decimal text, compares with the rule's number.
fn ordering(value: FieldValue<'_>, than: Number) -> Option<Ordering> {
    match value {
        FieldValue::Num(number) => than.compare_with_field(number),
        FieldValue::Str(text) => match i64::from_str(text) {
            Ok(number) => than.compare_with_field(number),
            Err(_) => decimal(text)?.partial_cmp(&than.as_f64()),
        },
        _ => None,
    }
}

/// A text that is a plain decimal number: no exponent, no `inf`.
fn decimal(text: &str) -> Option<f64> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-' || byte == b'+');
    plain.then(|| f64::from_str(text).ok()).flatten()
}

/// A part of a point in time, in UTC.
fn part_of(time: Timestamp, part: TimePart) -> i64 {
    let seconds = time.unix_seconds();
    let days = seconds.div_euclid(86_400);
    let of_day = seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    match part {
        TimePart::Minute => of_day / 60 % 60,
        TimePart::Hour => of_day / 3600,
        TimePart::Day => day,
        TimePart::Month => month,
        TimePart::Year => year,
        TimePart::Week => {
            // The week of a day is that of its Thursday (ISO 8601); 1970-01-01 was one.
            let thursday = days - days.rem_euclid(7) + if days.rem_euclid(7) < 4 { 0 } else { 7 };
            let first = (0..366).map(|back| thursday - back).find(|day| {
                let (_, month, of_month) = civil(*day);
                month == 1 && of_month == 1
            });
            (thursday - first.unwrap_or(thursday)) / 7 + 1
        }
    }
}

/// Days since 1970-01-01 to (year, month, day): Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let index = (5 * day_of_year + 2) / 153;
    let month = if index < 10 { index + 3 } else { index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * index + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plainly(parts: &[Part], text: &str) -> bool {
        let Some((first, rest)) = parts.split_first() else { return text.is_empty() };
        match first {
            Part::Literal(literal) => {
                text.strip_prefix(literal.as_str()).is_some_and(|left| plainly(rest, left))
            }
            Part::AnyOne => text.chars().next().is_some_and(|c| plainly(rest, &text[c.len_utf8()..])),
            Part::AnyMany => {
                let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
                ends.any(|at| plainly(rest, &text[at..]))
            }
        }
    }

    proptest! {
        #[test]
        fn a_glob_is_what_trying_every_length_says(
            parts in prop::collection::vec(prop_oneof![
                "[aä]{1,2}".prop_map(Part::Literal), Just(Part::AnyMany), Just(Part::AnyOne)], 0..7),
            text in "[aäb]{0,9}",
        ) {
            prop_assert_eq!(glob(&parts, &text), plainly(&parts, &text));
        }
    }

    #[test]
    fn weeks_are_those_of_iso_8601() {
        for (days, week, year) in
            [(0, 1, 1970), (18_627, 53, 2020), (18_631, 1, 2021), (19_722, 52, 2023), (20_088, 1, 2024)]
        {
            let time = Timestamp(days * 86_400_000_000_000);
            assert_eq!(
                (part_of(time, TimePart::Week), part_of(time, TimePart::Year)),
                (week, year),
                "day {days}"
            );
        }
    }
}
