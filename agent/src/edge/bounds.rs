//! How much a node does on its own authority: a rule that is wrong, or that somebody has learned to set off, must not bring it to a stand.

use std::{collections::VecDeque, time::Duration};

use model::{BootNs, RuleRef};

/// At most so many reactions in any minute, by event time. Beyond, the node observes: findings are told, nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReactionBounds {
    /// Of all rules together.
    pub by_node: usize,
    /// Of one rule.
    pub by_rule: usize,
}

impl ReactionBounds {
    /// For measurements only.
    #[must_use]
    pub const fn none() -> Self {
        Self { by_node: usize::MAX, by_rule: usize::MAX }
    }
}

impl Default for ReactionBounds {
    /// An attack on one node rarely needs more than a few; three rules may fail wholly before all others are bounded too.
    fn default() -> Self {
        Self { by_node: 30, by_rule: 10 }
    }
}

/// The reactions of the last minute, never more than [`ReactionBounds::by_node`] (I11).
#[derive(Debug, Default)]
pub(super) struct Budget {
    bounds: ReactionBounds,
    done: VecDeque<(BootNs, String)>,
}

impl Budget {
    const WINDOW: Duration = Duration::from_secs(60);

    pub(super) fn new(bounds: ReactionBounds) -> Self {
        Self { bounds, done: VecDeque::new() }
    }

    /// Whether there is room for a reaction that this rule asks for.
    pub(super) fn has_room(&mut self, rule: &RuleRef, at: BootNs) -> bool {
        let begin = at.0.saturating_sub(Self::WINDOW.as_nanos() as u64);
        // Records of two rings: times may go back a little, so all are looked at.
        self.done.retain(|(when, _)| when.0 >= begin);
        self.done.len() < self.bounds.by_node
            && self.done.iter().filter(|(_, by)| *by == rule.id).count() < self.bounds.by_rule
    }

    pub(super) fn spend(&mut self, rule: &RuleRef, at: BootNs) {
        self.done.push_back((at, rule.id.clone()));
    }
}
