//! Conditions over identifiers.

use crate::source::Span;

/// A condition, as written and as parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// As written.
    pub text: String,
    /// Where.
    pub span: Span,
    /// What it says.
    pub expr: Expr,
}

/// A condition's expression. Precedence: `not` before `and` before `or`.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// An identifier holds.
    Identifier {
        /// Position in [`crate::ast::Detection::identifiers`].
        index: usize,
        /// Where.
        span: Span,
    },
    /// So many of a group of identifiers hold.
    Of {
        /// How many.
        quantifier: Quantifier,
        /// The group as written.
        selector: Selector,
        /// The group: positions in [`crate::ast::Detection::identifiers`]; never empty.
        targets: Vec<usize>,
        /// Where.
        span: Span,
    },
    /// It does not hold.
    Not(Box<Expr>, Span),
    /// All hold; at least two.
    And(Vec<Expr>, Span),
    /// One holds; at least two.
    Or(Vec<Expr>, Span),
}

impl Expr {
    /// Where.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Identifier { span, .. }
            | Self::Of { span, .. }
            | Self::Not(_, span)
            | Self::And(_, span)
            | Self::Or(_, span) => *span,
        }
    }

    /// Positions of all identifiers that it names, with repetitions.
    pub fn identifiers(&self) -> Vec<usize> {
        match self {
            Self::Identifier { index, .. } => vec![*index],
            Self::Of { targets, .. } => targets.clone(),
            Self::Not(inner, _) => inner.identifiers(),
            Self::And(parts, _) | Self::Or(parts, _) => parts.iter().flat_map(Self::identifiers).collect(),
        }
    }
}

/// How many of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantifier {
    /// `1 of`, `any of`, `3 of`.
    AtLeast(u32),
    /// `all of`.
    All,
}

/// Which group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `them`: all but those that begin with `_`.
    Them,
    /// A name with `*`.
    Pattern(String),
}
