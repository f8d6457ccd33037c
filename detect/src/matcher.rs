//! The compiled matcher: the cost of an event hardly depends on the number of rules.
//!
//! Rules become logic over predicates that they share (`lower`). The literals, numbers and networks without which rules
//! cannot match (`necessary`) stand in one index per field (`index`: hashes, tries over four bytes at a time, and a filter
//! over four-byte grams for substrings). A value is looked up once, or found in a cache of values seen before; what is found
//! names the few rules to look at, whose logic has become jumps (`program`) that ask for the rest only if it matters.

mod anchored;
mod background;
mod cache;
mod check;
mod compile;
mod engine;
mod fold;
mod frozen;
mod grams;
mod index;
mod lower;
mod necessary;
mod options;
mod places;
mod predicate;
mod processes;
mod program;
mod required;
mod ruleset;
mod scratch;
mod swap;
mod texts;
mod triggers;
mod truth;

pub use options::Options;
pub use ruleset::{Evaluation, Matcher, RuleCost, RuleIndex, RuleSet};
pub use swap::{Follower, Swap};

pub(crate) use lower::Interner;
pub(crate) use necessary::{Necessary, necessary};
pub(crate) use predicate::{Anchor, Check, NumberKey, Predicate};
pub(crate) use program::Logic;
