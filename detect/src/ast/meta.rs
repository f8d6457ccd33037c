//! A rule and what it says about itself.

use model::{Level, Reaction};

use crate::{
    ast::Detection,
    schema::{Firing, Routing},
    source::{Span, Spanned},
};

/// A detection rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What all kinds of documents share.
    pub meta: Meta,
    /// Which events it is for.
    pub logsource: Logsource,
    /// The same, as categories and taxonomy of [`crate::schema`].
    pub routing: Routing,
    /// Whether it can fire on the node's own events, and if not, why.
    pub firing: Firing,
    /// What it looks for. Filters that apply to the rule are already joined in.
    pub detection: Detection,
    /// Fields of interest to an analyst.
    pub fields: Vec<Spanned<String>>,
    /// Ids or names of the filters that were joined in.
    pub filters: Vec<String>,
    /// Our own section.
    pub hemostat: Extension,
}

impl Rule {
    /// Its identity: `id`, else `name`, else the file's name and the document's position in it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.meta.key
    }
}

/// What rules, correlations and filters say about themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// The whole document.
    pub span: Span,
    /// See [`Rule::key`]; never empty, unique among all that was loaded.
    pub key: String,
    /// `id`.
    pub id: Option<Spanned<String>>,
    /// `name`.
    pub name: Option<Spanned<String>>,
    /// `title`.
    pub title: Spanned<String>,
    /// `description`.
    pub description: Option<Spanned<String>>,
    /// `author`.
    pub author: Option<Spanned<String>>,
    /// `status`.
    pub status: Option<Spanned<Status>>,
    /// `level`.
    pub level: Option<Spanned<Level>>,
    /// `tags`.
    pub tags: Vec<Spanned<String>>,
    /// `references`.
    pub references: Vec<Spanned<String>>,
    /// `falsepositives`.
    pub false_positives: Vec<Spanned<String>>,
}

impl Meta {
    /// ATT&CK techniques among the tags, for example `T1059.004`.
    #[must_use]
    pub fn techniques(&self) -> Vec<String> {
        self.attack_tags()
            .filter(|tag| tag.starts_with(['t', 'T']) && tag[1..].starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_ascii_uppercase)
            .collect()
    }

    /// ATT&CK tactics among the tags, for example `privilege-escalation`.
    #[must_use]
    pub fn tactics(&self) -> Vec<String> {
        self.attack_tags()
            .filter(|tag| tag.chars().all(|c| c.is_ascii_alphabetic() || c == '-' || c == '_'))
            .map(|tag| tag.to_ascii_lowercase().replace('_', "-"))
            .collect()
    }

    /// The level, `medium` where the rule names none.
    #[must_use]
    pub fn level_or_default(&self) -> Level {
        self.level.as_ref().map_or(Level::Medium, |level| level.value)
    }

    fn attack_tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().filter_map(|tag| tag.value.strip_prefix("attack."))
    }
}

/// `logsource`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Logsource {
    /// Where.
    pub span: Span,
    /// `category`.
    pub category: Option<Spanned<String>>,
    /// `product`.
    pub product: Option<Spanned<String>>,
    /// `service`.
    pub service: Option<Spanned<String>>,
}

/// `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Sigma's own names")]
pub enum Status {
    Stable,
    Test,
    Experimental,
    Deprecated,
    Unsupported,
}

/// The `hemostat` section of a rule.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extension {
    /// `reaction`: what the node does at once, on its own authority.
    pub reaction: Option<Spanned<Reaction>>,
}

impl Extension {
    /// The reaction, `none` where the rule asks for none.
    #[must_use]
    pub fn reaction_or_default(&self) -> Reaction {
        self.reaction.as_ref().map_or(Reaction::None, |reaction| reaction.value)
    }
}
