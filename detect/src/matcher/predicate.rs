//! Predicates as the engine knows them: normalised, so that two rules that ask the same share one.

use ipnet::IpNet;

use crate::{
    ast::{Case, Compare, Number, Pattern, ReferenceMatch, RegexFlags, TimePart},
    schema::Field,
};

/// A question about one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Predicate {
    pub(crate) field: Field,
    pub(crate) check: Check,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Check {
    /// A literal text, folded where case does not matter.
    Literal(Anchor, Box<str>, Case),
    /// A text with inner wildcards, folded where case does not matter.
    Glob(Pattern, Case),
    /// A regular expression, searched anywhere in the text as it is.
    Regex(Box<str>, RegexFlags),
    /// The number, or a text that is this number in decimal.
    Number(NumberKey),
    /// The truth value.
    Bool(bool),
    /// The field is absent.
    Absent,
    /// Numeric order.
    Compare(Compare, NumberKey),
    /// An address in the network.
    Net(IpNet),
    /// Another field's text.
    Reference(Field, ReferenceMatch, Case),
    /// Part of a point in time; `None` is equality.
    Time(TimePart, Option<Compare>, NumberKey),
}

/// Where in the value a literal must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Anchor {
    /// It is the value.
    Whole,
    /// The value begins with it.
    Start,
    /// The value ends with it.
    End,
    /// The value contains it.
    Anywhere,
}

/// A rule's number, comparable: floats by their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum NumberKey {
    Int(i64),
    Float(u64),
}

impl From<Number> for NumberKey {
    fn from(number: Number) -> Self {
        match number {
            Number::Int(n) => Self::Int(n),
            Number::Float(n) => Self::Float(n.to_bits()),
        }
    }
}

impl From<NumberKey> for Number {
    fn from(key: NumberKey) -> Self {
        match key {
            NumberKey::Int(n) => Self::Int(n),
            NumberKey::Float(bits) => Self::Float(f64::from_bits(bits)),
        }
    }
}
