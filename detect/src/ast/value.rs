//! Values as written, and the tests that they become.

use std::sync::OnceLock;

use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

use super::detection::FieldName;
use crate::limits;

/// A value as written in the rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text; wildcards are in [`Pattern`] form unless a modifier (`re`, `cidr`, …) takes the text verbatim.
    Text(String),
    /// A number.
    Number(Number),
    /// `true`, `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// A number in a rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Whole.
    Int(i64),
    /// With a fraction.
    Float(f64),
}

impl Number {
    /// As a float; exact below 2^53.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact below 2^53, and comparisons of integers use the integers"
    )]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Float(n) => n,
        }
    }

    /// How a field's whole number compares with this one.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "only where the rule's number has a fraction")]
    pub fn compare_with_field(self, field: i64) -> Option<std::cmp::Ordering> {
        match self {
            Self::Int(n) => Some(field.cmp(&n)),
            Self::Float(n) => (field as f64).partial_cmp(&n),
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(n) => n.fmt(f),
            Self::Float(n) => write!(f, "{n:?}"),
        }
    }
}

/// A piece of a text pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// Exactly this text, escapes resolved; never empty.
    Literal(String),
    /// `*`: any number of characters, none included.
    AnyMany,
    /// `?`: exactly one character.
    AnyOne,
}

/// A text with wildcards, matched against the whole field value. Normal form: no two literals and no two `*` in a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Pattern {
    /// In order; empty means the empty text.
    pub parts: Vec<Part>,
}

/// Whether case matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Case {
    /// Compared after [`crate::text::fold_char`]: Sigma's default.
    #[default]
    Insensitive,
    /// `cased`.
    Sensitive,
}

/// One test of one field's value. On a list value the test holds if it holds for any element (of an absent field only
/// `Null` and `Exists(false)` hold).
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// The value's text is the pattern (numbers and addresses by their usual text).
    Text {
        /// What it must look like, over its whole length.
        pattern: Pattern,
        /// Whether case matters.
        case: Case,
    },
    /// The value is this number, or a text that is this number in decimal.
    Number(Number),
    /// The value is this truth value, or the text `true` or `false`.
    Bool(bool),
    /// The field is absent.
    Null,
    /// The field is there, or is not.
    Exists(bool),
    /// Numeric order: the value (a number or a decimal text) `how` `than`.
    Compare {
        /// Which order.
        how: Compare,
        /// The rule's number.
        than: Number,
    },
    /// The value's text contains a match of the expression.
    Regex(RegexTest),
    /// The value is an address in this network.
    Cidr(IpNet),
    /// The value against another field's value.
    FieldRef {
        /// The other field.
        field: FieldName,
        /// How it must stand in the value.
        how: ReferenceMatch,
        /// Whether case matters.
        case: Case,
    },
    /// A part of a point in time, in UTC.
    Time {
        /// Which part.
        part: TimePart,
        /// Which order; `None` is equality.
        how: Option<Compare>,
        /// The rule's number.
        than: Number,
    },
}

/// A checked regular expression (linear time, see the `regex` crate), searched anywhere in the value.
#[derive(Debug, Clone)]
pub struct RegexTest {
    /// As written.
    pub source: String,
    /// `i`, `m`, `s`.
    pub flags: RegexFlags,
    /// Compiled with the first value that it is asked about: the matcher has its own, and most rules are never explained.
    compiled: OnceLock<Option<Regex>>,
}

impl RegexTest {
    /// Checks that it can be compiled.
    ///
    /// # Errors
    /// Those of the `regex` crate, its limit on size included.
    pub fn new(source: &str, flags: RegexFlags) -> Result<Self, regex::Error> {
        compile(source, flags)?;
        Ok(Self { source: source.to_owned(), flags, compiled: OnceLock::new() })
    }

    /// Whether it is found in the text.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| compile(&self.source, self.flags).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

fn compile(source: &str, flags: RegexFlags) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source)
        .case_insensitive(flags.ignore_case)
        .multi_line(flags.multi_line)
        .dot_matches_new_line(flags.dot_all)
        .size_limit(limits::REGEX_BYTES)
        .build()
}

impl PartialEq for RegexTest {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.flags == other.flags
    }
}

/// Flags of a regular expression; without `ignore_case` it is case-sensitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RegexFlags {
    /// `i`.
    pub ignore_case: bool,
    /// `m`: `^` and `$` match at line ends.
    pub multi_line: bool,
    /// `s`: `.` matches a line end.
    pub dot_all: bool,
}

/// Numeric order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Sigma's own names")]
pub enum Compare {
    Lt,
    Lte,
    Gt,
    Gte,
}

impl Compare {
    /// Whether `value ordering than` fulfils it.
    #[must_use]
    pub fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Lt => ordering.is_lt(),
            Self::Lte => ordering.is_le(),
            Self::Gt => ordering.is_gt(),
            Self::Gte => ordering.is_ge(),
        }
    }
}

/// How another field's text must stand in the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Sigma's own names")]
pub enum ReferenceMatch {
    Equals,
    Contains,
    StartsWith,
    EndsWith,
}

/// Part of a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Sigma's own names")]
pub enum TimePart {
    Minute,
    Hour,
    Day,
    /// ISO 8601 week.
    Week,
    Month,
    Year,
}

/// A modifier as written after a field name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Sigma's own names")]
pub enum Modifier {
    Contains,
    StartsWith,
    EndsWith,
    All,
    Exists,
    Cased,
    Neq,
    Lt,
    Lte,
    Gt,
    Gte,
    Re,
    IgnoreCase,
    MultiLine,
    DotAll,
    Windash,
    Base64,
    Base64Offset,
    Wide,
    Utf16Le,
    Utf16Be,
    Utf16,
    Cidr,
    Expand,
    FieldRef,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}
