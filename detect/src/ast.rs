//! What a rule file says, with a source span on every node.
//!
//! Values are given twice: as written ([`Value`]) and as what is to be tested ([`Test`]), with every modifier applied
//! (`windash`, `base64offset`, `expand` … have become alternatives). An engine needs only the tests.

mod condition;
mod correlation;
mod detection;
mod meta;
mod value;

pub use condition::{Condition, Expr, Quantifier, Selector};
pub use correlation::{
    Alias, Bound, Comparison, Correlation, CorrelationCondition, CorrelationKind, Filter, FilterTargets,
    Generate, RuleReference, TemporalExpr,
};
pub use detection::{Detection, FieldName, Identifier, Item, ItemValue, Join, Polarity, Search};
pub use meta::{Extension, Logsource, Meta, Rule, Status};
pub use value::{
    Case, Compare, Modifier, Number, Part, Pattern, ReferenceMatch, RegexFlags, RegexTest, Test, TimePart,
    Value,
};
