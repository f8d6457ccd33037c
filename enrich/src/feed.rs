//! A feed: what it is called, how far it is believed, what came of reading it.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    index::Index,
    indicator::{Private, Refusal},
};

/// How a feed is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One value a line; `#`, `;` and `//` begin a comment; a hosts file too.
    Plain,
    /// Comma-separated, with or without a heading (RFC 4180; a value holds no line break).
    Csv,
    /// A MISP event, a list of events, or a list of attributes.
    Misp,
    /// A STIX 2.1 bundle.
    Stix,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "plain" => Self::Plain,
            "csv" => Self::Csv,
            "misp" => Self::Misp,
            "stix" => Self::Stix,
            other => return Err(format!("no feed format is called {other:?}: plain, csv, misp or stix")),
        })
    }
}

/// How a feed is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSpec {
    /// Its name.
    pub name: String,
    /// How it is written.
    pub format: Format,
    /// The confidence, 0 to 100, of what states none.
    pub confidence: u8,
    /// What states no end holds for so long after it was last seen, or, where that is not stated either, after the feed was written.
    pub age: Duration,
    /// Whether private addresses are taken.
    pub private: Private,
}

impl FeedSpec {
    /// When nothing else is said: a hundred things of a feed may be wrong, so it is believed by half.
    pub const CONFIDENCE: u8 = 50;
    /// When nothing else is said: addresses change hands within weeks.
    pub const AGE: Duration = Duration::from_secs(90 * 86_400);

    /// With the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, format: Format) -> Self {
        Self {
            name: name.into(),
            format,
            confidence: Self::CONFIDENCE,
            age: Self::AGE,
            private: Private::Refused,
        }
    }
}

/// Bounds of one feed (I11). At each the rest is counted and left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes; a longer one is not read at all, and what was in force stays.
    pub bytes: usize,
    /// Indicators kept.
    pub indicators: usize,
    /// Bytes of a line; a longer one is left out.
    pub line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1 << 30, indicators: 4_000_000, line: 16 * 1024 }
    }
}

/// A feed that was read: what it says can be looked up.
#[derive(Debug)]
pub struct Feed {
    /// As it was to be taken.
    pub spec: FeedSpec,
    /// When it was written, as far as that is known.
    pub written: Timestamp,
    /// What came of reading it.
    pub report: FeedReport,
    pub(crate) index: Index,
}

/// What came of reading a feed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FeedReport {
    /// Values looked at: lines, attributes, conditions of patterns.
    pub read: u64,
    /// Indicators in force.
    pub kept: u64,
    /// The same again.
    pub duplicates: u64,
    /// What was left out, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// The first few of those: number of the line or object, and the value, shortened.
    pub examples: Vec<Example>,
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Line or object, from 1.
    pub at: u64,
    /// Why.
    pub because: Refusal,
    /// The value, shortened, control characters escaped.
    pub what: String,
}

impl FeedReport {
    /// Examples kept (I11).
    pub const MAX_EXAMPLES: usize = 8;
    const MAX_SHOWN: usize = 80;

    /// All that was left out.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.refused.values().sum()
    }

    pub(crate) fn refuse(&mut self, at: u64, because: Refusal, what: &str) {
        *self.refused.entry(because).or_default() += 1;
        if self.examples.len() < Self::MAX_EXAMPLES {
            let cut = what.floor_char_boundary(Self::MAX_SHOWN);
            self.examples.push(Example { at, because, what: what[..cut].escape_debug().to_string() });
        }
    }
}
