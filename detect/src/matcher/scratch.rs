//! What a thread keeps between events, so that evaluating one allocates nothing.

use regex_automata::meta;

use super::{
    cache::{Cache, Size},
    processes::Processes,
    ruleset::RuleCost,
    texts::Texts,
    truth::Marks,
};

/// Longest values that a cache keeps.
const CACHED_BYTES: usize = 128;

/// Sizes of an engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers<'a> {
    pub(crate) predicates: usize,
    pub(crate) rules: usize,
    pub(crate) fields: usize,
    pub(crate) regexes: &'a [meta::Regex],
    pub(crate) cache: Size,
}

/// Working memory for one engine.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Predicates known to hold: first those that the indexes found.
    pub(crate) holding: Marks,
    /// Predicates that were evaluated and do not hold.
    pub(crate) refuted: Marks,
    /// Rules that match by what the indexes found alone.
    pub(crate) certain: Marks,
    /// Rules to look at.
    pub(crate) candidates: Marks,
    /// What is known of processes, and of parents.
    pub(crate) own: Processes,
    pub(crate) parents: Processes,
    /// What is known of values, by field.
    pub(crate) caches: Vec<Cache>,
    pub(crate) regexes: Vec<meta::Cache>,
    pub(crate) texts: Texts,
    pub(crate) costs: Box<[RuleCost]>,
}

impl Scratch {
    /// For an engine; `text_bytes` as in [`super::Options`].
    pub(crate) fn new(numbers: Numbers<'_>, text_bytes: usize) -> Self {
        let cached_bytes = CACHED_BYTES.min(text_bytes);
        Self {
            holding: Marks::new(numbers.predicates),
            refuted: Marks::new(numbers.predicates),
            certain: Marks::new(numbers.rules),
            candidates: Marks::new(numbers.rules),
            own: Processes::new(numbers.cache),
            parents: Processes::new(numbers.cache),
            caches: (0..numbers.fields).map(|_| Cache::new(numbers.cache, cached_bytes)).collect(),
            regexes: numbers.regexes.iter().map(meta::Regex::create_cache).collect(),
            texts: Texts::new(text_bytes),
            costs: vec![RuleCost::default(); numbers.rules].into(),
        }
    }

    /// Begins with the next event.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.holding.clear();
        self.refuted.clear();
        self.certain.clear();
        self.candidates.clear();
        self.texts.clear();
    }
}
