//! The `detection` section.

use crate::{
    ast::{
        condition::Condition,
        value::{Modifier, Test, Value},
    },
    schema::Field,
    source::{Span, Spanned},
};

/// Named searches and the conditions over them.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Where.
    pub span: Span,
    /// In the order of the file. Those that filters brought follow, under names that begin with `_filter`.
    pub identifiers: Vec<Identifier>,
    /// At least one; the rule matches if any of them holds.
    pub conditions: Vec<Condition>,
}

/// A named search.
#[derive(Debug, Clone, PartialEq)]
pub struct Identifier {
    /// Its name.
    pub name: Spanned<String>,
    /// What it looks for.
    pub search: Search,
}

/// What an identifier looks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Search {
    /// One field, or keywords.
    Item(Item),
    /// A mapping: all must hold. Empty holds never (the loader refuses it).
    All(Vec<Search>, Span),
    /// A list: any must hold.
    Any(Vec<Search>, Span),
}

impl Search {
    /// Where.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Item(item) => item.span,
            Self::All(_, span) | Self::Any(_, span) => *span,
        }
    }

    /// Every item below, in the order of the file.
    pub fn items(&self) -> Vec<&Item> {
        match self {
            Self::Item(item) => vec![item],
            Self::All(parts, _) | Self::Any(parts, _) => parts.iter().flat_map(Self::items).collect(),
        }
    }
}

/// One field with its modifiers and values, or keywords.
///
/// It holds if `join` over `values` of (any of the value's `tests`) holds, turned round if `polarity` says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Key and values.
    pub span: Span,
    /// Which field; `None` for keywords, which look into every text field of the event (see
    /// [`crate::schema::Category::keyword_fields`]): each value then holds if it holds for any of those fields. Keyword
    /// patterns already carry the `*` on both sides that "applied to the full log message" means.
    pub field: Option<FieldName>,
    /// As written.
    pub modifiers: Vec<Spanned<Modifier>>,
    /// Never empty.
    pub values: Vec<ItemValue>,
    /// Any or all of the values.
    pub join: Join,
    /// Turned round by `neq`.
    pub polarity: Polarity,
}

/// One value of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemValue {
    /// As written.
    pub value: Spanned<Value>,
    /// What it means with the modifiers applied: holds if any of these does. Never empty.
    pub tests: Vec<Test>,
}

/// Whether one or all must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Join {
    /// One suffices.
    #[default]
    Any,
    /// `all`.
    All,
}

/// Whether an item must hold or must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Polarity {
    /// Must hold.
    #[default]
    Must,
    /// `neq`: must not; so it also holds where the field is absent.
    MustNot,
}

/// A field's name in a rule and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName {
    /// As written, without modifiers.
    pub text: String,
    /// Where.
    pub span: Span,
    /// The field by the rule's taxonomy. `None`: unknown, so always absent.
    pub field: Option<Field>,
}
