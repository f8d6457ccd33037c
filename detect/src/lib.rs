//! Detection, pure: Sigma rules in, findings out. No clock, no socket, no file: texts and events come in as values.
//!
//! - [`ast`]: what a rule file says, with a source span on every node
//! - [`correlation`]: correlations at work
//! - [`coverage`]: ATT&CK techniques and the rules for them
//! - [`fold`]: what repeats is one finding with a count
//! - [`incident`]: findings that belong together
//! - [`matcher`]: rules compiled, events evaluated
//! - [`plan`]: what the kernel may drop
//! - [`keep`]: rule files over time, so that a broken one keeps what it had
//! - [`load`]: rule files to rules, with [`diagnostic`]s for what is wrong
//! - [`reference`]: the meaning of a rule, written down plainly; [`explain`]: why a rule did or did not match
//! - [`rule_test`]: rule tests as data
//! - [`schema`]: the categories and fields of events, and Sigma's names for them
//! - [`source`]: rule texts and places in them
//! - [`specimen`]: events made from rules
//! - [`tables`]: documents that give placeholders their values and taxonomies their names; [`taxonomy`]: other taxonomies' names for the fields
//! - [`text`]: how texts are compared

pub mod ast;
pub mod correlation;
pub mod coverage;
pub mod diagnostic;
pub mod explain;
pub mod fold;
pub mod incident;
pub mod keep;
pub mod limits;
mod lint;
pub mod load;
pub mod matcher;
mod parse;
pub mod plan;
pub mod reference;
pub mod rule_test;
pub mod schema;
pub mod source;
pub mod specimen;
pub mod tables;
pub mod taxonomy;
pub mod tenant;
pub mod text;
mod text_match;
mod yaml;
