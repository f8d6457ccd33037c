//! YAML nodes to the AST, with a diagnostic for everything that is wrong.

mod condition;
mod correlation;
mod cursor;
mod detection;
mod document;
mod lower;
mod mapping;
mod modifiers;
mod pattern;

pub(crate) use cursor::Cursor;
pub(crate) use detection::join_filter;
pub(crate) use document::{Document, parse_document};
pub(crate) use lower::is_placeholder;
pub(crate) use mapping::{Mapping, text_of, within_value_limit};
pub(crate) use pattern::parse_pattern;
