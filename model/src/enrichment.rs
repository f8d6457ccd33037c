//! What is known of an incident beside its findings, each fact with where it is from and since when it is known. What is not known says so.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What is known of an incident beside its findings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Enrichment {
    /// When it was put together.
    pub at: Timestamp,
    /// What threat intelligence says of what was seen, the most believed first; at most [`Enrichment::MAX_INTELLIGENCE`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intelligence: Vec<IntelligenceMatch>,
    /// Other facts; at most [`Enrichment::MAX_FACTS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<StatedFact>,
    /// What the data classification policy says of its pods, each class once, sorted; at most [`Enrichment::MAX_CLASSES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// What was asked for and is not known, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingFact>,
}

impl Enrichment {
    /// Matches kept (I11).
    pub const MAX_INTELLIGENCE: usize = 32;
    /// Facts kept (I11).
    pub const MAX_FACTS: usize = 64;
    /// Classes kept (I11).
    pub const MAX_CLASSES: usize = 16;
}

/// What a scan found in an image, as it is remembered for whatever happens in that image later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageScan {
    /// When it was over.
    pub at: Timestamp,
    /// Who looked, for example `trivy`.
    pub scanner: String,
    /// Known vulnerabilities.
    pub known: u64,
    /// Critical ones of them.
    pub critical: u64,
    /// Those of high severity.
    pub high: u64,
    /// Those that a newer package mends.
    pub fixable: u64,
    /// The worst of them; at most [`ImageScan::MAX_IDS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
}

impl ImageScan {
    /// Vulnerabilities named (I11).
    pub const MAX_IDS: usize = 8;
}

/// Something that was seen is in a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntelligenceMatch {
    /// What was seen.
    pub observed: String,
    /// Where it was seen: the finding's id and in which way.
    pub seen_in: String,
    /// What the feed has.
    pub indicator: String,
    /// How the one fits the other: `same`, `within`, `below`, `host`.
    pub relation: String,
    /// The feed.
    pub feed: String,
    /// 0 to 100, by the feed's own account or by ours of it.
    pub confidence: u8,
    /// When the feed's source saw it last, where it tells.
    pub seen: Option<Timestamp>,
    /// Until when it holds.
    pub expires: Option<Timestamp>,
    /// When the feed was written.
    pub written: Timestamp,
    /// What the feed says of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactKind {
    /// Where it is: owners, node, network, account.
    Topology,
    /// What is at stake.
    Sensitivity,
    /// What was there before.
    History,
    /// What runs.
    Image,
}

/// A fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedFact {
    /// What it is about.
    pub kind: FactKind,
    /// In a person's words.
    pub what: String,
    /// Who says so.
    pub source: String,
    /// Since when it is known.
    pub known: Timestamp,
}

/// Something that is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFact {
    /// What.
    pub what: String,
    /// Why not.
    pub because: String,
}
