//! Reading test files.

use crate::{
    diagnostic::{Code, Diagnostic},
    load::Options,
    parse::{Cursor, Mapping},
    schema::{Category, DraftError, DraftValue, Drafted, Field, Taxonomy},
    source::{FileId, SourceFile, Span, Spanned},
    yaml::{self, Data, Node},
};

/// One case as written.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) span: Span,
    pub(super) rule: Option<Spanned<String>>,
    pub(super) expected: Expected,
    category: Category,
    event: Span,
    fields: Vec<(Spanned<String>, Spanned<DraftValue>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Match,
    NoMatch,
}

const CASE_KEYS: &[&str] = &["name", "rule", "event", "expect", "why"];

/// The cases of a file: `tests` of its only document, with `rule` beside it for all of them.
pub(super) fn read(id: FileId, file: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> Vec<Case> {
    let documents = yaml::documents(id, &file.text, diagnostics);
    let options = Options::default();
    let mut cursor = Cursor::new(file, &options, diagnostics);
    documents.iter().flat_map(|document| read_document(document, &mut cursor)).collect()
}

fn read_document(document: &Node, cursor: &mut Cursor<'_>) -> Vec<Case> {
    let Some(mapping) = Mapping::read(document, "a test file", cursor) else { return vec![] };
    mapping.refuse_unknown(&["rule", "tests"], "a test file", cursor);
    let rule = mapping.text("rule", cursor);
    let Some(node) = mapping.require("tests", "the test file", cursor) else { return vec![] };
    let Data::List(nodes) = &node.data else {
        let message = "`tests` must be a list of cases";
        cursor.report(Diagnostic::error(
            Code::BadValue,
            message,
            node.span,
            format!("this is {}", node.kind()),
        ));
        return vec![];
    };
    nodes.iter().filter_map(|node| read_case(node, rule.as_ref(), cursor)).collect()
}

fn read_case(node: &Node, rule: Option<&Spanned<String>>, cursor: &mut Cursor<'_>) -> Option<Case> {
    let errors = cursor.errors();
    let mapping = Mapping::read(node, "a case", cursor)?;
    mapping.refuse_unknown(CASE_KEYS, "a case", cursor);
    mapping.require("name", "the case", cursor);
    mapping.require("expect", "the case", cursor);
    let name = mapping.text("name", cursor);
    let known = [("match", Expected::Match), ("no match", Expected::NoMatch)];
    let expected = mapping.word("expect", &known, cursor);
    let own_rule = mapping.text("rule", cursor);
    let event = mapping.require("event", "the case", cursor)?;
    let fields = Mapping::read(event, "`event`", cursor)?;
    let names: Vec<(&str, Category)> =
        Category::ALL.iter().map(|category| (category.name(), *category)).collect();
    fields.require("category", "`event`", cursor);
    let category = fields.word("category", &names, cursor);
    let written: Vec<_> = fields
        .pairs
        .iter()
        .filter(|(key, _)| key.value != "category")
        .filter_map(|(key, node)| Some((key.map(str::to_owned), value_of(node, cursor)?)))
        .collect();
    if cursor.errors() > errors {
        return None;
    }
    Some(Case {
        name: name?.value,
        span: mapping.pairs.first().map_or(node.span, |(key, value)| key.span.to(value.span)),
        rule: own_rule.or_else(|| rule.cloned()),
        expected: expected?.value,
        category: category?.value,
        event: event.span,
        fields: written,
    })
}

fn value_of(node: &Node, cursor: &mut Cursor<'_>) -> Option<Spanned<DraftValue>> {
    let texts =
        |nodes: &[Node]| nodes.iter().map(|node| node.text().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let value = match &node.data {
        Data::Scalar { text, .. } => Some(DraftValue::One(text.clone())),
        Data::List(nodes) => texts(nodes).map(DraftValue::Many),
        Data::Map(_) => None,
    };
    if value.is_none() {
        let message = "a field's value must be a single value or a list of them";
        cursor.report(Diagnostic::error(
            Code::BadValue,
            message,
            node.span,
            format!("this is {}", node.kind()),
        ));
    }
    value.map(|value| Spanned::new(value, node.span))
}

impl Case {
    /// The event, its fields named as the rule names them.
    pub(super) fn draft(&self, taxonomy: Taxonomy) -> Result<Drafted, Box<Diagnostic>> {
        let mut fields: Vec<(Field, DraftValue)> = vec![];
        for (name, value) in &self.fields {
            let Some(field) = taxonomy.resolve(&name.value) else {
                let known = self.category.fields().map(Field::name);
                let message = format!("unknown field `{}`", name.value);
                let diagnostic = Diagnostic::error(Code::UnknownField, message, name.span, "no event has it");
                return Err(Box::new(diagnostic.did_you_mean(&name.value, known)));
            };
            fields.push((field, value.value.clone()));
        }
        Drafted::new(self.category, &fields).map_err(|error| Box::new(self.explain(&error, taxonomy)))
    }

    fn explain(&self, error: &DraftError, taxonomy: Taxonomy) -> Diagnostic {
        let (code, field) = match error {
            DraftError::NoEvent(_) => (Code::BadValue, None),
            DraftError::NoField { field, .. } => (Code::AbsentField, Some(*field)),
            DraftError::BadValue { field, .. } | DraftError::Derived { field, .. } => {
                (Code::BadValue, Some(*field))
            }
        };
        let is_it = |name: &str| taxonomy.resolve(name).is_some_and(|known| Some(known.name()) == field);
        let place = self.fields.iter().find(|(name, _)| is_it(&name.value));
        let span = place.map_or(
            self.event,
            |(name, value)| if code == Code::AbsentField { name.span } else { value.span },
        );
        Diagnostic::error(code, error.to_string(), span, "")
    }
}
