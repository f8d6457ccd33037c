//! Field keys: the name and its modifiers, and whether they go together.

use crate::{
    ast::{Case, Compare, FieldName, Join, Modifier, Polarity, ReferenceMatch, RegexFlags, TimePart},
    diagnostic::{Code, Diagnostic},
    parse::Cursor,
    source::{Span, Spanned},
    yaml::Node,
};

/// Names of modifiers.
pub(crate) const NAMES: &[(&str, Modifier)] = &[
    ("contains", Modifier::Contains),
    ("startswith", Modifier::StartsWith),
    ("endswith", Modifier::EndsWith),
    ("all", Modifier::All),
    ("exists", Modifier::Exists),
    ("cased", Modifier::Cased),
    ("neq", Modifier::Neq),
    ("lt", Modifier::Lt),
    ("lte", Modifier::Lte),
    ("gt", Modifier::Gt),
    ("gte", Modifier::Gte),
    ("re", Modifier::Re),
    ("i", Modifier::IgnoreCase),
    ("m", Modifier::MultiLine),
    ("s", Modifier::DotAll),
    ("windash", Modifier::Windash),
    ("base64", Modifier::Base64),
    ("base64offset", Modifier::Base64Offset),
    ("wide", Modifier::Wide),
    ("utf16le", Modifier::Utf16Le),
    ("utf16be", Modifier::Utf16Be),
    ("utf16", Modifier::Utf16),
    ("cidr", Modifier::Cidr),
    ("expand", Modifier::Expand),
    ("fieldref", Modifier::FieldRef),
    ("minute", Modifier::Minute),
    ("hour", Modifier::Hour),
    ("day", Modifier::Day),
    ("week", Modifier::Week),
    ("month", Modifier::Month),
    ("year", Modifier::Year),
];

impl Modifier {
    /// Its name in a rule.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, other)| *other == self).map_or("", |(name, _)| name)
    }
}

/// What a value is compared as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sort {
    /// A text with wildcards, or a number, truth value or null.
    Plain,
    /// A text with `*` at its ends.
    Shaped {
        before: bool,
        after: bool,
    },
    Regex(RegexFlags),
    Cidr,
    Exists,
    Compare(Compare),
    FieldRef(ReferenceMatch),
    Time(TimePart, Option<Compare>),
}

/// A field key with its modifiers sorted out.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) field: Option<FieldName>,
    pub(crate) modifiers: Vec<Spanned<Modifier>>,
    pub(crate) sort: Sort,
    pub(crate) case: Case,
    pub(crate) join: Join,
    pub(crate) polarity: Polarity,
    /// `windash` and the encodings, in order.
    pub(crate) transforms: Vec<Spanned<Modifier>>,
    pub(crate) expand: bool,
}

impl Key {
    /// For values in a list without a key.
    pub(crate) fn keywords() -> Self {
        Self {
            field: None,
            modifiers: vec![],
            sort: Sort::Shaped { before: true, after: true },
            case: Case::Insensitive,
            join: Join::Any,
            polarity: Polarity::Must,
            transforms: vec![],
            expand: false,
        }
    }

    /// Reads `Name|modifier|modifier`.
    pub(crate) fn read(node: &Node, cursor: &mut Cursor<'_>) -> Option<Self> {
        let text = node.text()?;
        let errors = cursor.errors();
        let mut pieces = vec![];
        let mut at = 0;
        for piece in text.split('|') {
            pieces.push(Spanned::new(piece, node.part(&cursor.file.text, at, at + piece.len())));
            at += piece.len() + 1;
        }
        let name = pieces.remove(0);
        let modifiers: Vec<_> = pieces.into_iter().filter_map(|piece| read_modifier(piece, cursor)).collect();
        let field = (!name.value.is_empty()).then(|| FieldName {
            text: name.value.to_owned(),
            span: name.span,
            field: cursor.field(name.value),
        });
        let mut key = Self { field, ..Self::keywords() };
        key.sort = sort(&modifiers, key.field.is_none(), node.span, cursor);
        for modifier in &modifiers {
            match modifier.value {
                Modifier::All => key.join = Join::All,
                Modifier::Cased => key.case = Case::Sensitive,
                Modifier::Neq => key.polarity = Polarity::MustNot,
                Modifier::Expand => key.expand = true,
                value if is_transform(value) => key.transforms.push(*modifier),
                _ => {}
            }
        }
        key.modifiers = modifiers;
        key.check_transforms(cursor);
        (cursor.errors() == errors).then_some(key)
    }

    fn check_transforms(&self, cursor: &mut Cursor<'_>) {
        let textual = matches!(self.sort, Sort::Plain | Sort::Shaped { .. });
        for modifier in self.transforms.iter().filter(|_| !textual) {
            let message =
                format!("`{}` changes texts, but another modifier makes this no text", modifier.value.name());
            cursor.report(Diagnostic::error(Code::ModifierMisuse, message, modifier.span, ""));
        }
        let cased = self.modifiers.iter().find(|modifier| modifier.value == Modifier::Cased);
        let caseless = !textual && !matches!(self.sort, Sort::FieldRef(_));
        if let Some(cased) = cased.filter(|_| caseless) {
            let message = "`cased` has no effect here";
            let help = "regular expressions are case-sensitive unless `i` follows `re`";
            cursor.report(Diagnostic::warning(Code::ModifierMisuse, message, cased.span, "").help(help));
        }
    }
}

fn read_modifier(piece: Spanned<&str>, cursor: &mut Cursor<'_>) -> Option<Spanned<Modifier>> {
    let found = NAMES.iter().find(|(name, _)| *name == piece.value);
    if found.is_none() {
        let names = NAMES.iter().map(|(name, _)| *name);
        let (message, label) = if piece.value.is_empty() {
            ("a modifier is missing after `|`".to_owned(), "nothing here")
        } else {
            (format!("unknown modifier `{}`", piece.value), "not a modifier of Sigma 2.1")
        };
        cursor.report(
            Diagnostic::error(Code::UnknownModifier, message, piece.span, label)
                .did_you_mean(piece.value, names),
        );
    }
    found.map(|(_, modifier)| Spanned::new(*modifier, piece.span))
}

fn is_transform(modifier: Modifier) -> bool {
    matches!(
        modifier,
        Modifier::Windash
            | Modifier::Base64
            | Modifier::Base64Offset
            | Modifier::Wide
            | Modifier::Utf16Le
            | Modifier::Utf16Be
            | Modifier::Utf16
    )
}

/// What the modifiers make of the values; at most one may decide, but `fieldref` takes a shape and a part of time a
/// comparison.
fn sort(modifiers: &[Spanned<Modifier>], keyword: bool, span: Span, cursor: &mut Cursor<'_>) -> Sort {
    let mut decided: Option<(Sort, Spanned<Modifier>)> = None;
    let mut flags: Vec<Spanned<Modifier>> = vec![];
    for modifier in modifiers {
        let next = match modifier.value {
            Modifier::Contains => Sort::Shaped { before: true, after: true },
            Modifier::StartsWith => Sort::Shaped { before: false, after: true },
            Modifier::EndsWith => Sort::Shaped { before: true, after: false },
            Modifier::Re => Sort::Regex(RegexFlags::default()),
            Modifier::Cidr => Sort::Cidr,
            Modifier::Exists => Sort::Exists,
            Modifier::Lt => Sort::Compare(Compare::Lt),
            Modifier::Lte => Sort::Compare(Compare::Lte),
            Modifier::Gt => Sort::Compare(Compare::Gt),
            Modifier::Gte => Sort::Compare(Compare::Gte),
            Modifier::FieldRef => Sort::FieldRef(ReferenceMatch::Equals),
            Modifier::Minute => Sort::Time(TimePart::Minute, None),
            Modifier::Hour => Sort::Time(TimePart::Hour, None),
            Modifier::Day => Sort::Time(TimePart::Day, None),
            Modifier::Week => Sort::Time(TimePart::Week, None),
            Modifier::Month => Sort::Time(TimePart::Month, None),
            Modifier::Year => Sort::Time(TimePart::Year, None),
            Modifier::IgnoreCase | Modifier::MultiLine | Modifier::DotAll => {
                flags.push(*modifier);
                continue;
            }
            _ => continue,
        };
        decided = match decided {
            None => Some((next, *modifier)),
            Some((before, first)) => {
                let Some(both) = combine(before, next) else {
                    let message = format!(
                        "`{}` and `{}` do not go together",
                        first.value.name(),
                        modifier.value.name()
                    );
                    cursor.report(
                        Diagnostic::error(Code::ModifierMisuse, message, modifier.span, "and this one")
                            .label(first.span, "this one"),
                    );
                    continue;
                };
                Some((both, *modifier))
            }
        };
    }
    let mut sort = decided.map(|(sort, _)| sort).unwrap_or(Sort::Plain);
    apply_flags(&mut sort, &flags, cursor);
    match sort {
        Sort::Plain if keyword => Sort::Shaped { before: true, after: true },
        Sort::Shaped { .. } if keyword => Sort::Shaped { before: true, after: true },
        Sort::Regex(_) => sort,
        _ if keyword => {
            let message = "this modifier needs a field";
            cursor.report(Diagnostic::error(Code::ModifierMisuse, message, span, "keywords have no field"));
            sort
        }
        _ => sort,
    }
}

fn combine(first: Sort, second: Sort) -> Option<Sort> {
    match (first, second) {
        (Sort::FieldRef(_), Sort::Shaped { before, after })
        | (Sort::Shaped { before, after }, Sort::FieldRef(_)) => {
            Some(Sort::FieldRef(match (before, after) {
                (true, true) => ReferenceMatch::Contains,
                (false, _) => ReferenceMatch::StartsWith,
                (true, false) => ReferenceMatch::EndsWith,
            }))
        }
        (Sort::Time(part, None), Sort::Compare(how)) | (Sort::Compare(how), Sort::Time(part, None)) => {
            Some(Sort::Time(part, Some(how)))
        }
        _ => None,
    }
}

fn apply_flags(sort: &mut Sort, given: &[Spanned<Modifier>], cursor: &mut Cursor<'_>) {
    for flag in given {
        let Sort::Regex(flags) = sort else {
            let message = format!("`{}` is a flag of `re`, which is not here", flag.value.name());
            let mut diagnostic = Diagnostic::error(Code::ModifierMisuse, message, flag.span, "");
            if flag.value == Modifier::IgnoreCase {
                diagnostic =
                    diagnostic.help("texts are compared without regard to case already; leave it out");
            }
            cursor.report(diagnostic);
            continue;
        };
        match flag.value {
            Modifier::IgnoreCase => flags.ignore_case = true,
            Modifier::MultiLine => flags.multi_line = true,
            _ => flags.dot_all = true,
        }
    }
}
