//! A rule as YAML, in one canonical form.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fmt::Write;

use hemostat_detect::ast::{Expr, Item, Quantifier, Rule, Search, Selector, Value};

pub(crate) fn rule(rule: &Rule) -> String {
    let mut text = format!("title: {}\nlogsource:\n", quoted(&rule.meta.title.value));
    let logsource = &rule.logsource;
    for (key, part) in
        [("category", &logsource.category), ("product", &logsource.product), ("service", &logsource.service)]
    {
        if let Some(part) = part {
            writeln!(text, "  {key}: {}", quoted(&part.value)).unwrap();
        }
    }
    text.push_str("detection:\n");
    let names: Vec<&str> = rule.detection.identifiers.iter().map(|one| one.name.value.as_str()).collect();
    for identifier in &rule.detection.identifiers {
        write!(text, "  {}:", identifier.name.value).unwrap();
        search(&identifier.search, 4, &mut text);
    }
    let conditions: Vec<String> =
        rule.detection.conditions.iter().map(|one| expr(&one.expr, &names)).collect();
    writeln!(
        text,
        "  condition: [{}]",
        conditions.iter().map(|one| quoted(one)).collect::<Vec<_>>().join(", ")
    )
    .unwrap();
    text
}

fn search(of: &Search, indent: usize, text: &mut String) {
    match of {
        Search::Item(item) => {
            text.push('\n');
            item.values
                .iter()
                .for_each(|one| writeln!(text, "{:indent$}- {}", "", value(&one.value.value)).unwrap());
        }
        Search::All(parts, _) => {
            text.push('\n');
            map(parts, &format!("{:indent$}", ""), &format!("{:indent$}", ""), text);
        }
        Search::Any(parts, _) => {
            text.push('\n');
            for part in parts {
                match part {
                    Search::All(items, _) => {
                        map(items, &format!("{:indent$}- ", ""), &format!("{:indent$}  ", ""), text)
                    }
                    Search::Item(item) => {
                        item.values.iter().for_each(|one| {
                            writeln!(text, "{:indent$}- {}", "", value(&one.value.value)).unwrap()
                        });
                    }
                    Search::Any(..) => panic!("not generated"),
                }
            }
        }
    }
}

fn map(items: &[Search], first: &str, rest: &str, text: &mut String) {
    for (position, part) in items.iter().enumerate() {
        let Search::Item(item) = part else { panic!("not generated") };
        text.push_str(if position == 0 { first } else { rest });
        writeln!(
            text,
            "{}: [{}]",
            key(item),
            item.values.iter().map(|one| value(&one.value.value)).collect::<Vec<_>>().join(", ")
        )
        .unwrap();
    }
}

fn key(item: &Item) -> String {
    let mut key = item.field.as_ref().map_or(String::new(), |field| field.text.clone());
    for modifier in &item.modifiers {
        key.push('|');
        key.push_str(modifier.value.name());
    }
    quoted(&key)
}

fn value(of: &Value) -> String {
    match of {
        Value::Text(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => "null".into(),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) fn expr(of: &Expr, names: &[&str]) -> String {
    let join = |parts: &[Expr], word: &str| {
        parts.iter().map(|part| inner(part, of, names)).collect::<Vec<_>>().join(&format!(" {word} "))
    };
    match of {
        Expr::Identifier { index, .. } => names[*index].to_owned(),
        Expr::Of { quantifier, selector, .. } => {
            let how_many = match quantifier {
                Quantifier::All => "all".to_owned(),
                Quantifier::AtLeast(count) => count.to_string(),
            };
            let group = match selector {
                Selector::Them => "them",
                Selector::Pattern(pattern) => pattern,
            };
            format!("{how_many} of {group}")
        }
        Expr::Not(part, _) => format!("not {}", inner(part, of, names)),
        Expr::And(parts, _) => join(parts, "and"),
        Expr::Or(parts, _) => join(parts, "or"),
    }
}

/// With parentheses where they are needed to be read the same.
fn inner(part: &Expr, outer: &Expr, names: &[&str]) -> String {
    let bare = !matches!(part, Expr::And(..) | Expr::Or(..))
        || matches!((part, outer), (Expr::And(..), Expr::Or(..)));
    if bare { expr(part, names) } else { format!("({})", expr(part, names)) }
}
