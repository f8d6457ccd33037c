//! What a thread keeps between events, so that evaluating one allocates nothing.

use regex_automata::meta;

use super::{
    cache::{Cache, Size},
    ruleset::RuleCost,
    texts::Texts,
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
    /// For each predicate: `epoch` if it is known to hold, `epoch + 1` if it is known not to.
    pub(crate) truth: Box<[u32]>,
    /// For each rule: `epoch` if it is already among the candidates.
    pub(crate) judged: Box<[u32]>,
    /// Even; grows by two with each event, so that nothing has to be cleared.
    pub(crate) epoch: u32,
    /// Predicates that the indexes found to hold.
    pub(crate) holding: Vec<u32>,
    /// Rules to look at.
    pub(crate) candidates: Vec<u32>,
    pub(crate) caches: Vec<Cache>,
    pub(crate) regexes: Vec<meta::Cache>,
    pub(crate) texts: Texts,
    pub(crate) costs: Box<[RuleCost]>,
}

impl Scratch {
    /// For an engine; `text_bytes` as in [`super::Options`].
    pub(crate) fn new(numbers: Numbers<'_>, text_bytes: usize) -> Self {
        Self {
            truth: vec![0; numbers.predicates].into(),
            judged: vec![0; numbers.rules].into(),
            epoch: 0,
            holding: Vec::with_capacity(numbers.predicates),
            candidates: Vec::with_capacity(numbers.rules),
            caches: (0..numbers.fields).map(|_| Cache::new(numbers.cache, CACHED_BYTES)).collect(),
            regexes: numbers.regexes.iter().map(meta::Regex::create_cache).collect(),
            texts: Texts::new(text_bytes),
            costs: vec![RuleCost::default(); numbers.rules].into(),
        }
    }

    /// Begins with the next event.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.holding.clear();
        self.texts.clear();
        self.epoch = self.epoch.wrapping_add(2);
        if self.epoch == 0 {
            self.truth.fill(0);
            self.judged.fill(0);
            self.epoch = 2;
        }
    }

    /// Counts that a rule was looked at.
    #[inline]
    pub(crate) fn count(&mut self, rule: u32, matches: bool) {
        let cost = &mut self.costs[rule as usize];
        cost.looked_at += 1;
        cost.matched += u64::from(matches);
    }
}
