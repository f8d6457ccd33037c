//! Documents that say what rules may rely on: what placeholders stand for, and other taxonomies' names for the fields.
//!
//! They stand in rule files like rules, so that whatever carries rules (a folder, a RuleSet, what nodes are given) carries them too, and they
//! hold for all files that are loaded together, in whatever order.

use std::collections::HashMap;

use crate::{
    diagnostic::{Code, Diagnostic},
    limits,
    load::Options,
    parse::{Cursor, Mapping, is_placeholder, within_value_limit},
    source::{FileId, SourceFile, Span},
    taxonomy,
    yaml::{self, Data, Node},
};

/// One such document that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it gives: `placeholder NAME`, or `taxonomy NAME`.
    pub gives: Vec<String>,
    /// The document.
    pub span: Span,
}

/// What a document is, if it is no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Placeholders,
    Names,
}

/// Whether a document of the file is one of these, and no rule, correlation or filter.
pub(crate) fn is_table(document: &Node, file: &SourceFile) -> bool {
    may_have_one(file) && kind(document).is_some()
}

/// Most files have none, and to parse each twice would take twice as long.
fn may_have_one(file: &SourceFile) -> bool {
    file.text.contains("placeholders") || file.text.contains("fields")
}

fn kind(document: &Node) -> Option<Kind> {
    let Data::Map(pairs) = &document.data else { return None };
    let find = |wanted: &str| pairs.iter().find(|(key, _)| key.text() == Some(wanted)).map(|(_, node)| node);
    if ["detection", "correlation", "filter", "logsource"].iter().any(|key| find(key).is_some()) {
        return None;
    }
    if find("placeholders").is_some() {
        return Some(Kind::Placeholders);
    }
    // A rule's `fields` is a list.
    find("fields").filter(|node| matches!(node.data, Data::Map(_))).map(|_| Kind::Names)
}

/// Reads all such documents of the files into `options`. One with a mistake gives nothing.
pub(crate) fn read(
    files: &[SourceFile],
    options: &mut Options,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Table> {
    let mut tables = Tables { given: HashMap::new(), found: vec![] };
    for (index, file) in files.iter().enumerate() {
        if !may_have_one(file) {
            continue;
        }
        let id = FileId(u32::try_from(index).unwrap_or(u32::MAX));
        // What is wrong with its YAML is said when its rules are read.
        for document in yaml::documents(id, &file.text, &mut vec![]) {
            match kind(&document) {
                Some(Kind::Placeholders) => tables.placeholders(&document, file, options, diagnostics),
                Some(Kind::Names) => tables.names(&document, file, options, diagnostics),
                None => {}
            }
        }
    }
    tables.found
}

struct Tables {
    /// What was given, and where first.
    given: HashMap<String, Span>,
    found: Vec<Table>,
}

impl Tables {
    fn placeholders(
        &mut self,
        document: &Node,
        file: &SourceFile,
        options: &mut Options,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let mut cursor = Cursor::new(file, options, diagnostics);
        let mut table = vec![];
        if let Some(mapping) = Mapping::read(document, "a table of placeholders", &mut cursor) {
            mapping.refuse_unknown(
                &["title", "description", "placeholders"],
                "a table of placeholders",
                &mut cursor,
            );
            let pairs = mapping
                .get("placeholders")
                .and_then(|node| Mapping::read(node, "`placeholders`", &mut cursor));
            for (name, node) in pairs.iter().flat_map(|pairs| &pairs.pairs) {
                if !is_placeholder(name.value) {
                    let message = format!("`{}` cannot be a placeholder's name", name.value);
                    let label = "letters, digits, `_`, `-` and `.`, without percent signs";
                    cursor.report(Diagnostic::error(Code::BadValue, message, name.span, label));
                }
                self.claim(format!("placeholder {}", name.value), name.span, &mut cursor);
                table.push((name.value.to_owned(), values(node, &mut cursor)));
            }
        }
        if cursor.errors() > 0 {
            return;
        }
        let gives = table.iter().map(|(name, _)| format!("placeholder {name}")).collect();
        self.found.push(Table { gives, span: document.span });
        options.placeholders.extend(table);
    }

    fn names(
        &mut self,
        document: &Node,
        file: &SourceFile,
        options: &mut Options,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let mut cursor = Cursor::new(file, options, diagnostics);
        let Some(names) = taxonomy::names(document, &mut cursor) else { return };
        let taxonomy = names.taxonomy;
        for (name, _) in &names.fields {
            let what = format!("name {} of the taxonomy {}", name.value, taxonomy.value);
            self.claim(what, name.span, &mut cursor);
        }
        if taxonomy.value.eq_ignore_ascii_case("sigma") {
            let message = "Sigma's own names cannot be changed";
            let label = "expected the name of another taxonomy";
            cursor.report(Diagnostic::error(Code::BadValue, message, taxonomy.span, label));
        }
        if cursor.errors() > 0 {
            return;
        }
        self.found.push(Table { gives: vec![format!("taxonomy {}", taxonomy.value)], span: document.span });
        let fields = names.fields.into_iter().map(|(name, field)| (name.value, field));
        let known =
            options.taxonomies.iter_mut().find(|one| one.taxonomy.eq_ignore_ascii_case(&taxonomy.value));
        match known {
            Some(known) => known.fields.extend(fields),
            None => options
                .taxonomies
                .push(taxonomy::FieldNames { taxonomy: taxonomy.value, fields: fields.collect() }),
        }
    }

    fn claim(&mut self, what: String, span: Span, cursor: &mut Cursor<'_>) {
        if let Some(first) = self.given.get(&what) {
            let message = format!("the {what} is given twice");
            cursor.report(
                Diagnostic::error(Code::Duplicate, message, span, "again here").label(*first, "first here"),
            );
            return;
        }
        self.given.insert(what, span);
    }
}

/// What a placeholder stands for: one text or a list of them.
fn values(node: &Node, cursor: &mut Cursor<'_>) -> Vec<String> {
    let nodes = match &node.data {
        Data::List(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() {
        let message = "a placeholder must stand for something";
        cursor.report(Diagnostic::error(Code::BadValue, message, node.span, "an empty list"));
    }
    if let Some(beyond) = nodes.get(limits::EXPANSIONS) {
        let message = format!("a placeholder may have at most {} values", limits::EXPANSIONS);
        cursor.report(Diagnostic::error(Code::Limit, message, beyond.span, "one too many"));
    }
    let mut texts = vec![];
    for node in nodes {
        match node.text().filter(|_| !node.is_null()) {
            Some(text) if within_value_limit(text, node.span, cursor) => texts.push(text.to_owned()),
            Some(_) => {}
            None => {
                let label = format!("this is {}", node.kind());
                let message = "what a placeholder stands for must be a text";
                cursor.report(Diagnostic::error(Code::BadValue, message, node.span, label));
            }
        }
    }
    texts
}
