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
pub(crate) use mapping::{Mapping, text_of};
pub(crate) use pattern::parse_pattern;
