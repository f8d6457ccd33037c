//! The `detection` section, also of filters.

use crate::{
    ast::{Detection, Identifier, Item, Join, Modifier, Search},
    diagnostic::{Code, Diagnostic},
    limits,
    parse::{Cursor, condition, lower::lower, mapping::Mapping, modifiers::Key},
    source::{Span, Spanned},
    yaml::{Data, Node},
};

/// Keys of the section that are not identifiers.
const RESERVED: [&str; 2] = ["condition", "timeframe"];

/// Reads the section; `extra` are further keys that are not identifiers.
pub(crate) fn parse_detection(
    mapping: &Mapping<'_>,
    extra: &[&str],
    what: &str,
    cursor: &mut Cursor<'_>,
) -> Option<Detection> {
    let mut identifiers = vec![];
    for (name, node) in &mapping.pairs {
        if RESERVED.contains(&name.value) || extra.contains(&name.value) {
            continue;
        }
        if identifiers.len() >= limits::IDENTIFIERS {
            let message = format!("a rule may have at most {} identifiers", limits::IDENTIFIERS);
            cursor.report(Diagnostic::error(Code::Limit, message, name.span, "one too many"));
            return None;
        }
        // An identifier that cannot be read still exists, so that conditions that name it are not wrong too.
        let search = parse_search(node, name.value, cursor).unwrap_or(Search::Any(vec![], node.span));
        identifiers.push(Identifier { name: name.map(str::to_owned), search });
    }
    if let Some((key, _)) = mapping.pairs.iter().find(|(key, _)| key.value == "timeframe") {
        let message = "`timeframe` belongs to aggregations, which Sigma 2 replaced by correlations";
        cursor.report(Diagnostic::warning(Code::Suspicious, message, key.span, "has no effect"));
    }
    let node = mapping.require("condition", what, cursor)?;
    let texts: Vec<&Node> = match &node.data {
        Data::List(nodes) => nodes.iter().collect(),
        _ => vec![node],
    };
    if texts.is_empty() {
        cursor.report(Diagnostic::error(Code::Missing, "the list of conditions is empty", node.span, ""));
        return None;
    }
    let conditions: Vec<_> =
        texts.iter().filter_map(|node| condition::parse(node, &identifiers, cursor)).collect();
    if conditions.len() < texts.len() {
        return None;
    }
    warn_unused(&identifiers, &conditions, cursor);
    Some(Detection { span: mapping.span, identifiers, conditions })
}

fn warn_unused(identifiers: &[Identifier], conditions: &[crate::ast::Condition], cursor: &mut Cursor<'_>) {
    let used: Vec<usize> = conditions.iter().flat_map(|condition| condition.expr.identifiers()).collect();
    for (index, identifier) in identifiers.iter().enumerate().filter(|(index, _)| !used.contains(index)) {
        let _ = index;
        let message = format!("`{}` is in no condition", identifier.name.value);
        let mut diagnostic =
            Diagnostic::warning(Code::UnusedIdentifier, message, identifier.name.span, "has no effect");
        for condition in conditions {
            diagnostic = diagnostic.label(condition.span, "not named here");
        }
        cursor.report(diagnostic);
    }
}

fn parse_search(node: &Node, name: &str, cursor: &mut Cursor<'_>) -> Option<Search> {
    match &node.data {
        Data::Map(_) => parse_map(node, name, cursor),
        Data::List(nodes) if nodes.is_empty() => empty(node, name, cursor),
        Data::List(nodes) => parse_list(node, nodes, name, cursor),
        Data::Scalar { .. } if node.is_null() => empty(node, name, cursor),
        Data::Scalar { .. } => {
            item(Key::keywords(), node.span, std::slice::from_ref(node), cursor).map(Search::Item)
        }
    }
}

fn empty<T>(node: &Node, name: &str, cursor: &mut Cursor<'_>) -> Option<T> {
    let message = format!("`{name}` is empty");
    cursor.report(Diagnostic::error(
        Code::BadValue,
        message,
        node.span,
        "expected fields and values, or a list of keywords",
    ));
    None
}

fn parse_map(node: &Node, name: &str, cursor: &mut Cursor<'_>) -> Option<Search> {
    let errors = cursor.errors();
    let mapping = Mapping::read(node, &format!("`{name}`"), cursor)?;
    if mapping.pairs.is_empty() {
        return empty(node, name, cursor);
    }
    let mut items = vec![];
    let Data::Map(pairs) = &node.data else { return None };
    for (key_node, value) in pairs {
        let Some(key) = Key::read(key_node, cursor) else { continue };
        let values = match &value.data {
            Data::List(nodes) => nodes.as_slice(),
            _ => std::slice::from_ref(value),
        };
        if values.is_empty() {
            let message = "an empty list of values never matches";
            cursor.report(Diagnostic::error(
                Code::BadValue,
                message,
                value.span,
                "expected at least one value",
            ));
            continue;
        }
        warn_single_all(&key, values, cursor);
        items.extend(item(key, key_node.span.to(value.span), values, cursor).map(Search::Item));
    }
    (cursor.errors() == errors).then_some(Search::All(items, node.span))
}

/// "Single item values are not allowed to have an `all` modifier".
fn warn_single_all(key: &Key, values: &[Node], cursor: &mut Cursor<'_>) {
    let all = key.modifiers.iter().find(|modifier| modifier.value == Modifier::All);
    if let (Some(all), [only]) = (all, values) {
        let message = "`all` has no effect on a single value";
        cursor.report(
            Diagnostic::warning(Code::ModifierMisuse, message, all.span, "")
                .label(only.span, "the only value"),
        );
    }
}

fn parse_list(node: &Node, nodes: &[Node], name: &str, cursor: &mut Cursor<'_>) -> Option<Search> {
    let errors = cursor.errors();
    let is_keyword = |node: &Node| matches!(node.data, Data::Scalar { .. });
    if nodes.iter().all(is_keyword) {
        return item(Key::keywords(), node.span, nodes, cursor).map(Search::Item);
    }
    let mut parts = vec![];
    for run in nodes.chunk_by(|a, b| is_keyword(a) && is_keyword(b)) {
        match &run[0].data {
            Data::Scalar { .. } => {
                let span = run[0].span.to(run[run.len() - 1].span);
                parts.extend(item(Key::keywords(), span, run, cursor).map(Search::Item));
            }
            Data::Map(_) => parts.extend(parse_map(&run[0], name, cursor)),
            Data::List(inner) if inner.is_empty() => return empty(&run[0], name, cursor),
            Data::List(inner) => parts.extend(parse_list(&run[0], inner, name, cursor)),
        }
    }
    (cursor.errors() == errors).then_some(Search::Any(parts, node.span))
}

fn item(key: Key, span: Span, nodes: &[Node], cursor: &mut Cursor<'_>) -> Option<Item> {
    let values: Vec<_> = nodes.iter().filter_map(|node| lower(node, &key, cursor)).collect();
    (values.len() == nodes.len()).then(|| Item {
        span,
        field: key.field,
        modifiers: key.modifiers,
        values,
        join: if nodes.len() == 1 { Join::Any } else { key.join },
        polarity: key.polarity,
    })
}

/// Puts a filter's searches and conditions beside a rule's: all of the rule's conditions must hold with it.
pub(crate) fn join_filter(rule: &mut Detection, filter: &Detection, number: usize) {
    use crate::ast::{Condition, Expr};
    let offset = rule.identifiers.len();
    rule.identifiers.extend(filter.identifiers.iter().map(|identifier| Identifier {
        name: Spanned::new(format!("_filter{number}_{}", identifier.name.value), identifier.name.span),
        search: identifier.search.clone(),
    }));
    let parts: Vec<Expr> =
        filter.conditions.iter().map(|condition| shifted(&condition.expr, offset)).collect();
    let joined = match <[Expr; 1]>::try_from(parts) {
        Ok([one]) => one,
        Err(many) => Expr::Or(many, filter.span),
    };
    let join = |condition: Condition| Condition {
        expr: Expr::And(vec![condition.expr, joined.clone()], condition.span),
        ..condition
    };
    rule.conditions = std::mem::take(&mut rule.conditions).into_iter().map(join).collect();
}

fn shifted(expr: &crate::ast::Expr, offset: usize) -> crate::ast::Expr {
    use crate::ast::Expr;
    match expr {
        Expr::Identifier { index, span } => Expr::Identifier { index: index + offset, span: *span },
        Expr::Of { quantifier, selector, targets, span } => Expr::Of {
            quantifier: *quantifier,
            selector: selector.clone(),
            targets: targets.iter().map(|target| target + offset).collect(),
            span: *span,
        },
        Expr::Not(inner, span) => Expr::Not(Box::new(shifted(inner, offset)), *span),
        Expr::And(parts, span) => Expr::And(parts.iter().map(|part| shifted(part, offset)).collect(), *span),
        Expr::Or(parts, span) => Expr::Or(parts.iter().map(|part| shifted(part, offset)).collect(), *span),
    }
}
