//! What every step of the parser carries along.

use crate::{
    diagnostic::{Diagnostic, Severity},
    load::Options,
    schema::{Field, Taxonomy},
    source::SourceFile,
    taxonomy::FieldNames,
};

/// Where the parser is and what it has found wrong.
pub(crate) struct Cursor<'a> {
    pub(crate) file: &'a SourceFile,
    pub(crate) options: &'a Options,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
    /// Of the document at hand.
    pub(crate) taxonomy: Taxonomy,
    /// Names of the document's own taxonomy.
    pub(crate) names: Option<&'a FieldNames>,
    /// Tests made for the document at hand, against [`crate::limits::TESTS`].
    pub(crate) tests: usize,
    errors: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(
        file: &'a SourceFile,
        options: &'a Options,
        diagnostics: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self { file, options, diagnostics, taxonomy: Taxonomy::default(), names: None, tests: 0, errors: 0 }
    }

    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        self.diagnostics.push(diagnostic);
    }

    /// Errors so far: a document loads only if parsing it has added none.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// The field of a name in the document.
    pub(crate) fn field(&self, name: &str) -> Option<Field> {
        let own = self.names.and_then(|names| names.fields.get(name)).copied();
        own.or_else(|| self.taxonomy.resolve(name))
    }
}
