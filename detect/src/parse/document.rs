//! One document: a rule, a correlation or a filter.

use model::{Level, Reaction};

use crate::{
    ast::{
        Correlation, Detection, Extension, Filter, FilterTargets, Logsource, Meta, Rule, RuleReference,
        Status,
    },
    diagnostic::{Code, Diagnostic},
    parse::{
        Cursor, correlation,
        detection::parse_detection,
        mapping::{Mapping, text_of},
    },
    schema::{Firing, Routing, route},
    source::{Span, Spanned},
    yaml::{Data, Node},
};

/// What a document holds.
#[derive(Debug)]
pub(crate) enum Document {
    Rule(Box<Rule>),
    Correlation(Box<Correlation>),
    Filter(Box<Filter>),
}

const META: &[&str] = &[
    "title",
    "id",
    "name",
    "related",
    "taxonomy",
    "status",
    "description",
    "license",
    "references",
    "author",
    "date",
    "modified",
    "falsepositives",
    "level",
    "tags",
    "scope",
    "fields",
    "logsource",
    "detection",
    "correlation",
    "filter",
    "hemostat",
    "simulation",
    "regression_tests_path",
];

const LEVELS: &[(&str, Level)] = &[
    ("informational", Level::Informational),
    ("low", Level::Low),
    ("medium", Level::Medium),
    ("high", Level::High),
    ("critical", Level::Critical),
];

const STATUSES: &[(&str, Status)] = &[
    ("stable", Status::Stable),
    ("test", Status::Test),
    ("experimental", Status::Experimental),
    ("deprecated", Status::Deprecated),
    ("unsupported", Status::Unsupported),
];

const REACTIONS: &[(&str, Reaction)] =
    &[("none", Reaction::None), ("freeze", Reaction::Freeze), ("stop", Reaction::Stop)];

/// Reads a document; `None` if it has errors, which are then reported. `fallback` is the key of a document without `id`.
pub(crate) fn parse_document(node: &Node, fallback: &str, cursor: &mut Cursor<'_>) -> Option<Document> {
    let errors = cursor.errors();
    let mapping = Mapping::read(node, "a document of a rule file", cursor)?;
    if let Some(action) = mapping.get("action") {
        let message = "`action` documents are not part of Sigma 2";
        let help = "write each rule out, or use a correlation";
        cursor.report(Diagnostic::error(Code::BadValue, message, action.span, "").help(help));
        return None;
    }
    mapping.warn_misspelled(META, cursor);
    let meta = meta(&mapping, fallback, cursor);
    let document = match (mapping.get("correlation"), mapping.get("filter")) {
        (Some(node), _) => correlation::parse(node, &mapping, meta?, cursor)
            .map(|found| Document::Correlation(Box::new(found))),
        (None, Some(node)) => {
            filter(node, &mapping, meta?, cursor).map(|found| Document::Filter(Box::new(found)))
        }
        (None, None) => rule(&mapping, meta, cursor).map(|found| Document::Rule(Box::new(found))),
    };
    document.filter(|_| cursor.errors() == errors)
}

fn meta(mapping: &Mapping<'_>, fallback: &str, cursor: &mut Cursor<'_>) -> Option<Meta> {
    let id = mapping.text("id", cursor).filter(|id| !id.value.is_empty());
    let name = mapping.text("name", cursor).filter(|name| !name.value.is_empty());
    let key = id.as_ref().or(name.as_ref()).map_or(fallback, |text| &text.value).to_owned();
    if let Some(given) = mapping.text("taxonomy", cursor) {
        take_taxonomy(&given, cursor);
    }
    let tags = mapping.texts("tags", cursor);
    for tag in tags.iter().filter(|tag| !tag.value.contains('.') || tag.value.contains(' ')) {
        let message = format!("`{}` is not a tag", tag.value);
        cursor.report(Diagnostic::warning(Code::BadValue, message, tag.span, "expected `namespace.name`"));
    }
    let meta = Meta {
        span: mapping.span,
        key,
        id,
        name,
        title: mapping.text("title", cursor).unwrap_or_default(),
        description: mapping.text("description", cursor),
        author: mapping.text("author", cursor),
        status: mapping.word("status", STATUSES, cursor),
        level: mapping.word("level", LEVELS, cursor),
        tags,
        references: mapping.texts("references", cursor),
        false_positives: mapping.texts("falsepositives", cursor),
    };
    let titled = mapping.require("title", "the document", cursor).is_some() && !meta.title.value.is_empty();
    titled.then_some(meta)
}

fn take_taxonomy(given: &Spanned<String>, cursor: &mut Cursor<'_>) {
    if given.value.eq_ignore_ascii_case("sigma") {
        return;
    }
    let known = &cursor.options.taxonomies;
    cursor.names = known.iter().find(|names| names.taxonomy.eq_ignore_ascii_case(&given.value));
    if cursor.names.is_none() {
        let names: Vec<&str> =
            ["sigma"].into_iter().chain(known.iter().map(|names| names.taxonomy.as_str())).collect();
        let message = format!("the taxonomy `{}` is not known", given.value);
        let label = format!("expected one of: {}", names.join(", "));
        let diagnostic = Diagnostic::error(Code::BadValue, message, given.span, label)
            .did_you_mean(&given.value, names)
            .help("a mapping file can add it: `taxonomy`, and `fields` with its names and Sigma's");
        cursor.report(diagnostic);
    }
}

fn rule(mapping: &Mapping<'_>, meta: Option<Meta>, cursor: &mut Cursor<'_>) -> Option<Rule> {
    let (logsource, routing, firing) = logsource(mapping, cursor)?;
    let node = mapping.require("detection", "the rule", cursor);
    let detection = node
        .and_then(|node| Mapping::read(node, "`detection`", cursor))
        .and_then(|section| parse_detection(&section, &[], "`detection`", cursor));
    let hemostat = extension(mapping, cursor);
    let fields = mapping.texts("fields", cursor);
    let (meta, detection) = (meta?, detection?);
    Some(Rule { meta, logsource, routing, firing, detection, fields, filters: vec![], hemostat })
}

fn logsource(mapping: &Mapping<'_>, cursor: &mut Cursor<'_>) -> Option<(Logsource, Routing, Firing)> {
    let node = mapping.require("logsource", "the document", cursor)?;
    let section = Mapping::read(node, "`logsource`", cursor)?;
    section.warn_misspelled(&["category", "product", "service", "definition"], cursor);
    let logsource = Logsource {
        span: node.span,
        category: section.text("category", cursor),
        product: section.text("product", cursor),
        service: section.text("service", cursor),
    };
    let (routing, firing) = match route(&logsource) {
        Ok(routing) => (routing, Firing::Can),
        Err(why) => (Routing::default(), Firing::Cannot { why }),
    };
    cursor.taxonomy = routing.taxonomy;
    Some((logsource, routing, firing))
}

fn extension(mapping: &Mapping<'_>, cursor: &mut Cursor<'_>) -> Extension {
    let section = mapping.get("hemostat").and_then(|node| Mapping::read(node, "`hemostat`", cursor));
    let Some(section) = section else { return Extension::default() };
    section.refuse_unknown(&["reaction"], "the `hemostat` section", cursor);
    Extension { reaction: section.word("reaction", REACTIONS, cursor) }
}

fn filter(node: &Node, mapping: &Mapping<'_>, meta: Meta, cursor: &mut Cursor<'_>) -> Option<Filter> {
    let (logsource, routing, _) = logsource(mapping, cursor)?;
    let section = Mapping::read(node, "`filter`", cursor)?;
    let rules = section.require("rules", "`filter`", cursor)?;
    let targets = match rules.text() {
        Some(text) if text.eq_ignore_ascii_case("any") => FilterTargets::Any,
        _ => FilterTargets::Rules(references(rules, "`rules`", cursor)),
    };
    let detection = parse_detection(&section, &["rules"], "`filter`", cursor)?;
    warn_positive(&detection, cursor);
    Some(Filter { meta, logsource, routing, targets, detection })
}

/// A filter's condition is joined with `and`, as the reference implementation does: without a `not` it keeps what it
/// selects, which is hardly ever meant.
fn warn_positive(detection: &Detection, cursor: &mut Cursor<'_>) {
    use crate::ast::Expr;
    for condition in &detection.conditions {
        if matches!(condition.expr, Expr::Identifier { .. } | Expr::Of { .. }) {
            let message = "this filter lets only events through that its searches match";
            cursor.report(
                Diagnostic::warning(
                    Code::Suspicious,
                    message,
                    condition.span,
                    "joined to the rules with `and`",
                )
                .help(format!("to suppress them write `not {}`", condition.text)),
            );
        }
    }
}

/// A list of ids and names of rules, or one.
pub(crate) fn references(node: &Node, what: &str, cursor: &mut Cursor<'_>) -> Vec<RuleReference> {
    let nodes = match &node.data {
        Data::List(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() {
        cursor.report(Diagnostic::error(
            Code::BadValue,
            format!("{what} is empty"),
            node.span,
            "expected rules",
        ));
    }
    nodes.iter().filter_map(|node| text_of(node, &format!("each of {what}"), cursor)).map(reference).collect()
}

/// A reference that is not resolved yet.
pub(crate) fn reference(text: Spanned<String>) -> RuleReference {
    let span: Span = text.span;
    RuleReference { key: text.value.clone(), text: text.value, span }
}
