//! Changing the rules while events flow.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Matcher, RuleSet};

/// The rule set in force. Threads follow it through a [`Follower`] each.
#[derive(Debug)]
pub struct Swap {
    current: ArcSwap<Generation>,
}

/// A rule set and its number.
#[derive(Debug)]
struct Generation {
    number: u64,
    set: Arc<RuleSet>,
}

impl Swap {
    /// Begins with `set`, generation 1.
    #[must_use]
    pub fn new(set: Arc<RuleSet>) -> Self {
        Self { current: ArcSwap::from_pointee(Generation { number: 1, set }) }
    }

    /// Puts `set` in force from each follower's next event on, and returns its generation.
    pub fn replace(&self, set: Arc<RuleSet>) -> u64 {
        let before =
            self.current.rcu(|current| Generation { number: current.number + 1, set: Arc::clone(&set) });
        before.number + 1
    }

    /// The set in force and its generation.
    #[must_use]
    pub fn current(&self) -> (u64, Arc<RuleSet>) {
        let current = self.current.load();
        (current.number, Arc::clone(&current.set))
    }

    /// A matcher that follows the set in force.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Follower {
        let (generation, set) = self.current();
        Follower { swap: Arc::clone(self), generation, matcher: set.matcher() }
    }
}

/// One thread's matcher, always of the set in force.
#[derive(Debug)]
pub struct Follower {
    swap: Arc<Swap>,
    generation: u64,
    matcher: Matcher,
}

impl Follower {
    /// The matcher for the next event, with the generation of its rule set. An event is evaluated against one set only.
    pub fn matcher(&mut self) -> (u64, &mut Matcher) {
        let current = self.swap.current.load();
        if current.number != self.generation {
            self.generation = current.number;
            self.matcher = current.set.matcher();
        }
        (self.generation, &mut self.matcher)
    }
}
