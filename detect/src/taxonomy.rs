//! Other taxonomies' names for Sigma's fields, from mapping files.
//!
//! A rule with `taxonomy: ecs` calls fields by the names of that file; names that the file does not have are Sigma's own.

use std::collections::BTreeMap;

use crate::{
    diagnostic::{Code, Diagnostic},
    load::Options,
    parse::{Cursor, Mapping, text_of},
    schema::{CategorySet, Field, Taxonomy},
    source::{FileId, SourceFile, Spanned},
    yaml::{self, Node},
};

/// The names of one taxonomy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldNames {
    /// What rules call it by.
    pub taxonomy: String,
    /// Its names and what they are here.
    pub fields: BTreeMap<String, Field>,
}

/// ECS and OCSF.
#[must_use]
pub fn built_in() -> Vec<FieldNames> {
    [("ecs.yml", include_str!("taxonomy/ecs.yml")), ("ocsf.yml", include_str!("taxonomy/ocsf.yml"))]
        .into_iter()
        .filter_map(|(name, text)| read(&SourceFile { name: name.into(), text: text.into() }, FileId(0)).ok())
        .collect()
}

/// Reads a mapping file: `taxonomy` and `fields`, a mapping of its names to Sigma's.
///
/// # Errors
/// What is wrong with it; their places are in file `id`.
pub fn read(file: &SourceFile, id: FileId) -> Result<FieldNames, Vec<Diagnostic>> {
    let mut diagnostics = vec![];
    let documents = yaml::documents(id, &file.text, &mut diagnostics);
    // Reading a mapping file needs none of the mappings.
    let options = Options { placeholders: BTreeMap::new(), sources: CategorySet::EMPTY, taxonomies: vec![] };
    let mut cursor = Cursor::new(file, &options, &mut diagnostics);
    let names = documents.first().and_then(|document| names(document, &mut cursor));
    let plain = |names: Names| FieldNames {
        taxonomy: names.taxonomy.value,
        fields: names.fields.into_iter().map(|(name, field)| (name.value, field)).collect(),
    };
    names.filter(|_| cursor.errors() == 0).map(plain).ok_or(diagnostics)
}

/// What a mapping file says, with places.
pub(crate) struct Names {
    pub(crate) taxonomy: Spanned<String>,
    pub(crate) fields: Vec<(Spanned<String>, Field)>,
}

/// Reads a document of a mapping file; what is wrong is reported, and the rest may still be returned.
pub(crate) fn names(document: &Node, cursor: &mut Cursor<'_>) -> Option<Names> {
    let mapping = Mapping::read(document, "a mapping file", cursor)?;
    mapping.refuse_unknown(&["title", "description", "taxonomy", "fields"], "a mapping file", cursor);
    mapping.require("taxonomy", "the mapping file", cursor);
    let taxonomy = mapping.text("taxonomy", cursor);
    let fields = mapping.require("fields", "the mapping file", cursor)?;
    let pairs = Mapping::read(fields, "`fields`", cursor)?;
    let mut found = vec![];
    for (name, node) in &pairs.pairs {
        let Some(ours) = text_of(node, "a field's name", cursor) else { continue };
        match Taxonomy::Sigma.resolve(&ours.value) {
            Some(field) => found.push((name.map(str::to_owned), field)),
            None => {
                let known = Field::ALL.iter().map(|field| field.name());
                let message = format!("unknown field `{}`", ours.value);
                let diagnostic =
                    Diagnostic::error(Code::UnknownField, message, ours.span, "docs/fields.md has all");
                cursor.report(diagnostic.did_you_mean(&ours.value, known));
            }
        }
    }
    Some(Names { taxonomy: taxonomy?, fields: found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_files_are_right() {
        for (name, text) in
            [("ecs", include_str!("taxonomy/ecs.yml")), ("ocsf", include_str!("taxonomy/ocsf.yml"))]
        {
            let names = read(&SourceFile { name: name.into(), text: text.into() }, FileId(0)).unwrap();
            assert_eq!(names.taxonomy, name);
            assert!(names.fields.len() > 25);
        }
        assert_eq!(built_in().len(), 2);
    }

    #[test]
    fn mistakes_are_diagnosed() {
        let file =
            SourceFile { name: "m.yml".into(), text: "taxonomy: x\nfields: {a: Imag}\nfoo: 1\n".into() };
        let codes: Vec<Code> = read(&file, FileId(0)).unwrap_err().iter().map(|one| one.code).collect();
        assert_eq!(codes, [Code::UnknownKey, Code::UnknownField]);
    }
}
