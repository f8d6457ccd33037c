//! Detection, pure: Sigma rules in, findings out. No clock, no socket, no file: texts and events come in as values.
//!
//! - [`ast`]: what a rule file says, with a source span on every node
//! - [`incident`]: findings that belong together
//! - [`schema`]: the categories and fields of events, and Sigma's names for them
//! - [`source`]: rule texts and places in them
//! - [`text`]: how texts are compared

pub mod ast;
pub mod incident;
pub mod schema;
pub mod source;
pub mod text;
