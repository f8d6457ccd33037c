//! What is wrong with a rule file, as plain data and as text in the form of rustc's.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::source::{FileId, SourceFile, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The rule loads.
    Warning,
    /// The rule does not load; the others do.
    Error,
}

/// What kind of mistake, for filters and documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Not YAML, or YAML that rule files may not use (aliases, tags).
    Yaml,
    /// A limit of [`crate::limits`] was passed.
    Limit,
    /// A section that must be there is not.
    Missing,
    /// A value of the wrong type or outside its set.
    BadValue,
    /// A key that is probably a misspelling.
    UnknownKey,
    /// The same key, id or name twice.
    Duplicate,
    /// A modifier that does not exist.
    UnknownModifier,
    /// Modifiers that do not go together, or not with this value.
    ModifierMisuse,
    /// A regular expression that cannot be used.
    BadRegex,
    /// Not a network in CIDR notation.
    BadCidr,
    /// A placeholder that is not in the table.
    UnknownPlaceholder,
    /// A condition that cannot be read.
    BadCondition,
    /// A condition that names an identifier that does not exist.
    UnknownIdentifier,
    /// An identifier that no condition names.
    UnusedIdentifier,
    /// A reference to a rule that is not loaded.
    UnknownRule,
    /// Correlations that refer to each other in a circle.
    Cycle,
    /// A field that this product does not know.
    UnknownField,
    /// A field that cannot exist in the rule's events.
    AbsentField,
    /// The rule can never fire on these sources.
    CannotFire,
    /// It loads, but probably does not mean what was meant.
    Suspicious,
}

impl Code {
    /// Its name in diagnostics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Limit => "limit",
            Self::Missing => "missing",
            Self::BadValue => "bad-value",
            Self::UnknownKey => "unknown-key",
            Self::Duplicate => "duplicate",
            Self::UnknownModifier => "unknown-modifier",
            Self::ModifierMisuse => "modifier-misuse",
            Self::BadRegex => "bad-regex",
            Self::BadCidr => "bad-cidr",
            Self::UnknownPlaceholder => "unknown-placeholder",
            Self::BadCondition => "bad-condition",
            Self::UnknownIdentifier => "unknown-identifier",
            Self::UnusedIdentifier => "unused-identifier",
            Self::UnknownRule => "unknown-rule",
            Self::Cycle => "cycle",
            Self::UnknownField => "unknown-field",
            Self::AbsentField => "absent-field",
            Self::CannotFire => "cannot-fire",
            Self::Suspicious => "suspicious",
        }
    }
}

/// A place that a diagnostic points at, with a word about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What about it; may be empty.
    pub text: String,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// What kind.
    pub code: Code,
    /// In one line.
    pub message: String,
    /// Where; the first is the place that file:line:column names.
    pub labels: Vec<Label>,
    /// What was expected, or what to do.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error at a place.
    #[must_use]
    pub fn error(code: Code, message: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message, span, label)
    }

    /// A warning at a place.
    #[must_use]
    pub fn warning(code: Code, message: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message, span, label)
    }

    fn new(
        severity: Severity,
        code: Code,
        message: impl Into<String>,
        span: Span,
        label: impl Into<String>,
    ) -> Self {
        let labels = vec![Label { span, text: label.into() }];
        Self { severity, code, message: message.into(), labels, help: vec![] }
    }

    /// With another place.
    #[must_use]
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// With a piece of advice.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// With `did you mean`, if one of `known` is near enough to `given`.
    #[must_use]
    pub fn did_you_mean<'a>(self, given: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(given, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    /// `(name, line, column)` of the first label, both from 1; the column counts characters.
    #[must_use]
    pub fn place<'f>(&self, files: &'f [SourceFile]) -> Option<(&'f str, usize, usize)> {
        let span = self.labels.first()?.span;
        let file = files.get(span.file.0 as usize)?;
        let before = file.text.get(..span.start as usize)?;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Some((&file.name, before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }
}

/// The known word nearest to `given`, if it is near enough to be a misspelling of it.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = given.to_ascii_lowercase();
    let allowed = (given.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&folded, &word.to_ascii_lowercase()), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// Whether rendered text carries terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Colour {
    /// None.
    #[default]
    Plain,
    /// ANSI escapes.
    Ansi,
}

/// Text in the form of rustc's: severity, code, message, place, the source with the text underlined, advice.
///
/// Control characters of hostile files come out escaped, so that a rule file cannot drive the reader's terminal.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], files: &[SourceFile], colour: Colour) -> String {
    let renderer = match colour {
        Colour::Plain => Renderer::plain(),
        Colour::Ansi => Renderer::styled(),
    };
    diagnostics.iter().map(|diagnostic| render_one(diagnostic, files, &renderer) + "\n\n").collect()
}

fn render_one(diagnostic: &Diagnostic, files: &[SourceFile], renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group =
        Group::with_title(level.primary_title(visible(&diagnostic.message)).id(diagnostic.code.name()));
    for file in files_of(diagnostic) {
        let Some(source) = files.get(file.0 as usize) else { continue };
        let mut snippet = Snippet::source(without_controls(&source.text)).path(visible(&source.name));
        for (position, label) in
            diagnostic.labels.iter().enumerate().filter(|(_, label)| label.span.file == file)
        {
            let kind = if position == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            snippet =
                snippet.annotation(kind.span(inside(label.span, &source.text)).label(visible(&label.text)));
        }
        group = group.element(snippet);
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(visible(help)));
    }
    renderer.render(&[group])
}

/// Files that the labels point into, each once, in the order of the labels.
fn files_of(diagnostic: &Diagnostic) -> Vec<FileId> {
    let mut files = vec![];
    for label in &diagnostic.labels {
        if !files.contains(&label.span.file) {
            files.push(label.span.file);
        }
    }
    files
}

/// The span as a range that lies inside the text, on character boundaries, within its first line.
fn inside(span: Span, text: &str) -> std::ops::Range<usize> {
    let mut start = (span.start as usize).min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = (span.end as usize).clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let end = text[start..end].find('\n').map_or(end, |line| start + line);
    start..end.max(start)
}

/// Control characters (but line ends and tabs) replaced by blanks of the same byte length, so that spans stay right.
fn without_controls(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let hide = c.is_control() && c != '\n' && c != '\t';
            let (shown, times) = if hide { (' ', c.len_utf8()) } else { (c, 1) };
            std::iter::repeat_n(shown, times)
        })
        .collect()
}

/// Control characters escaped.
fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
