//! Reading a mapping by its keys.

use crate::{
    diagnostic::{Code, Diagnostic, nearest},
    limits,
    parse::Cursor,
    source::{Span, Spanned},
    yaml::{Data, Node},
};

/// A mapping whose keys are texts, each once.
pub(crate) struct Mapping<'n> {
    pub(crate) span: Span,
    pub(crate) pairs: Vec<(Spanned<&'n str>, &'n Node)>,
}

impl<'n> Mapping<'n> {
    /// Reads `node`, called `what` in messages.
    pub(crate) fn read(node: &'n Node, what: &str, cursor: &mut Cursor<'_>) -> Option<Self> {
        let Data::Map(nodes) = &node.data else {
            let message = format!("{what} must be a mapping");
            cursor.report(Diagnostic::error(
                Code::BadValue,
                message,
                node.span,
                format!("this is {}", node.kind()),
            ));
            return None;
        };
        let mut pairs: Vec<(Spanned<&str>, &Node)> = Vec::with_capacity(nodes.len());
        let mut seen = std::collections::HashMap::new();
        for (key, value) in nodes {
            let Some(text) = key.text() else {
                let message = "a key must be a single value";
                cursor.report(Diagnostic::error(
                    Code::BadValue,
                    message,
                    key.span,
                    format!("this is {}", key.kind()),
                ));
                continue;
            };
            if let Some(first) = seen.insert(text, key.span) {
                let message = format!("`{text}` stands here twice");
                cursor.report(
                    Diagnostic::error(Code::Duplicate, message, key.span, "again here")
                        .label(first, "first here"),
                );
                continue;
            }
            pairs.push((Spanned::new(text, key.span), value));
        }
        Some(Self { span: node.span, pairs })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.pairs.iter().find(|(other, _)| other.value == key).map(|(_, value)| *value)
    }

    /// The value of a key that must be there.
    pub(crate) fn require(&self, key: &str, what: &str, cursor: &mut Cursor<'_>) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() {
            let here = self.pairs.first().map_or(self.span, |(key, _)| key.span);
            let keys = self.pairs.iter().map(|(key, _)| key.value);
            let misspelled =
                nearest(key, keys).and_then(|near| self.pairs.iter().find(|(key, _)| key.value == near));
            let missing = format!("{what} has no `{key}`");
            cursor.report(match misspelled {
                Some((near, _)) => {
                    Diagnostic::error(Code::Missing, missing, near.span, format!("is this `{key}`?"))
                }
                None => Diagnostic::error(
                    Code::Missing,
                    missing,
                    here,
                    format!("`{key}` is expected beside this"),
                ),
            });
        }
        found
    }

    /// A text, if the key is there and not null.
    pub(crate) fn text(&self, key: &str, cursor: &mut Cursor<'_>) -> Option<Spanned<String>> {
        let node = self.get(key).filter(|node| !node.is_null())?;
        text_of(node, &format!("`{key}`"), cursor)
    }

    /// Texts: a list of them, or one.
    pub(crate) fn texts(&self, key: &str, cursor: &mut Cursor<'_>) -> Vec<Spanned<String>> {
        let Some(node) = self.get(key).filter(|node| !node.is_null()) else { return vec![] };
        let what = format!("each of `{key}`");
        match &node.data {
            Data::List(nodes) => nodes.iter().filter_map(|node| text_of(node, &what, cursor)).collect(),
            _ => text_of(node, &format!("`{key}`"), cursor).into_iter().collect(),
        }
    }

    /// A word out of a fixed set, if the key is there.
    pub(crate) fn word<T: Copy>(
        &self,
        key: &str,
        known: &[(&str, T)],
        cursor: &mut Cursor<'_>,
    ) -> Option<Spanned<T>> {
        let given = self.text(key, cursor)?;
        let found = known.iter().find(|(name, _)| *name == given.value.to_ascii_lowercase());
        if found.is_none() {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let message = format!("`{}` is no {key}", given.value);
            cursor.report(
                Diagnostic::error(
                    Code::BadValue,
                    message,
                    given.span,
                    format!("expected one of: {}", names.join(", ")),
                )
                .did_you_mean(&given.value, names),
            );
        }
        found.map(|(_, value)| Spanned::new(*value, given.span))
    }

    /// Warns of keys that are not known but near to one that is; Sigma allows "arbitrary custom fields".
    pub(crate) fn warn_misspelled(&self, known: &[&str], cursor: &mut Cursor<'_>) {
        for (key, _) in &self.pairs {
            if known.contains(&key.value) {
                continue;
            }
            if let Some(near) =
                nearest(key.value, known.iter().copied()).filter(|near| self.get(near).is_none())
            {
                let message = format!("`{}` is not a key of Sigma and has no effect", key.value);
                cursor.report(
                    Diagnostic::warning(Code::UnknownKey, message, key.span, "")
                        .help(format!("did you mean `{near}`?")),
                );
            }
        }
    }

    /// Refuses keys that are not known: in sections of our own, where a misspelling must not pass.
    pub(crate) fn refuse_unknown(&self, known: &[&str], what: &str, cursor: &mut Cursor<'_>) {
        for (key, _) in self.pairs.iter().filter(|(key, _)| !known.contains(&key.value)) {
            let message = format!("`{}` is not a key of {what}", key.value);
            let expected = format!("expected one of: {}", known.join(", "));
            cursor.report(
                Diagnostic::error(Code::UnknownKey, message, key.span, expected)
                    .did_you_mean(key.value, known.iter().copied()),
            );
        }
    }
}

/// A single value's text, within the length limit.
pub(crate) fn text_of(node: &Node, what: &str, cursor: &mut Cursor<'_>) -> Option<Spanned<String>> {
    let Some(text) = node.text() else {
        let message = format!("{what} must be a text");
        cursor.report(Diagnostic::error(
            Code::BadValue,
            message,
            node.span,
            format!("this is {}", node.kind()),
        ));
        return None;
    };
    // `description` may have 65,535 characters by the specification.
    if text.len() > 4 * 65_536 {
        let message = format!("{what} is too long: {} bytes", text.len());
        cursor.report(Diagnostic::error(Code::Limit, message, node.span, ""));
        return None;
    }
    Some(Spanned::new(text.to_owned(), node.span))
}

/// Checks a value's length.
pub(crate) fn within_value_limit(text: &str, span: Span, cursor: &mut Cursor<'_>) -> bool {
    let fits = text.len() <= limits::VALUE_BYTES;
    if !fits {
        let message = format!("a value may have at most {} bytes", limits::VALUE_BYTES);
        cursor.report(Diagnostic::error(Code::Limit, message, span, format!("this has {}", text.len())));
    }
    fits
}
