//! Events made from a rule: one that should match, and near misses.

use std::sync::Arc;

use hemostat_detect::{
    ast::{Expr, Item, Join, Part, Pattern, Polarity, Quantifier, Rule, Search, Test},
    schema::{Category, DraftValue, Drafted, Field},
};
use model::{Activity, Created, Endpoint, Event, FilePath, Flow, Process, Protocol, Truncated};

use crate::events::{self, Strings};

/// What an event's texts must begin with, contain and end with.
#[derive(Debug, Clone, Default)]
struct Wanted {
    whole: Option<String>,
    start: String,
    inside: Vec<String>,
    end: String,
}

impl Wanted {
    fn text(&self, otherwise: &str) -> String {
        if let Some(whole) = &self.whole {
            return whole.clone();
        }
        if self.start.is_empty() && self.inside.is_empty() && self.end.is_empty() {
            return otherwise.to_owned();
        }
        format!("{}{}{}", self.start, self.inside.join("~"), self.end)
    }
}

/// Positive first, then for each text of it the same with one character changed.
pub(crate) fn events(rule: &Rule, seed: u64) -> Vec<Event> {
    let mut wanted = std::collections::BTreeMap::<Field, Wanted>::new();
    let detection = &rule.detection;
    if let Some(condition) = detection.conditions.first() {
        satisfy(&condition.expr, rule, seed as usize, &mut wanted);
    }
    let get = |field: Field, otherwise: &str| wanted.get(&field).cloned().unwrap_or_default().text(otherwise);
    const BY_HAND: [Category; 3] =
        [Category::ProcessCreation, Category::FileEvent, Category::NetworkConnection];
    let others = rule.routing.categories.iter().filter(|category| !BY_HAND.contains(category));
    let mut all: Vec<Event> = others.flat_map(|category| drafted(category, &wanted, seed)).collect();
    let Some(category) = rule.routing.categories.iter().find(|category| BY_HAND.contains(category)) else {
        return all;
    };
    let mut event = events::generate(1, seed + 1, Strings::Repeating).remove(0);
    let process = Process {
        exe: get(Field::Image, "/nowhere/else"),
        command_line: get(Field::CommandLine, "else"),
        cwd: get(Field::CurrentDirectory, "/nowhere"),
        credentials: model::Credentials::default(),
        ..(*event.process).clone()
    };
    let parent = Process {
        exe: get(Field::ParentImage, "/nowhere/parent"),
        command_line: get(Field::ParentCommandLine, "parent"),
        ..process.clone()
    };
    event.activity = match category {
        Category::FileEvent => Activity::FileOpen {
            file: FilePath { path: get(Field::TargetFilename, "/nowhere/file"), truncated: Truncated::No },
            flags: 1,
            created: Created::Yes,
        },
        Category::NetworkConnection => {
            let port = get(Field::DestinationPort, "1").parse().unwrap_or(1);
            let addr = get(Field::DestinationIp, "203.0.113.9").parse().unwrap_or([203, 0, 113, 9].into());
            let end = Endpoint { addr, port };
            Activity::Connect(Flow {
                protocol: Protocol::Tcp,
                local: Endpoint { addr: [10, 0, 0, 2].into(), port: 40000 },
                remote: end,
            })
        }
        _ => Activity::Exec { requested: process.exe.clone() },
    };
    event.process = Arc::new(process);
    event.parent = Some(Arc::new(parent));
    all.push(event.clone());
    let mut change = |edit: &dyn Fn(&mut Process)| {
        let mut changed = event.clone();
        let mut process = (*event.process).clone();
        edit(&mut process);
        changed.process = Arc::new(process);
        all.push(changed);
    };
    change(&|process| spoil(&mut process.exe, seed));
    change(&|process| spoil(&mut process.command_line, seed));
    change(&|process| process.exe.push('x'));
    if let Activity::FileOpen { file, .. } = &mut event.activity {
        spoil(&mut file.path, seed);
        all.push(event);
    } else if let Activity::Connect(flow) = &mut event.activity {
        flow.remote.port ^= 1;
        all.push(event);
    }
    all
}

/// An event of any category by its fields, then for each of them the same with one character of it changed, and without it.
fn drafted(category: Category, wanted: &std::collections::BTreeMap<Field, Wanted>, seed: u64) -> Vec<Event> {
    let is_one = |field: &(Field, DraftValue)| Drafted::new(category, std::slice::from_ref(field)).is_ok();
    let fields: Vec<(Field, DraftValue)> = wanted
        .iter()
        .filter(|(field, _)| field.exists_in(category))
        .map(|(field, wanted)| (*field, DraftValue::One(wanted.text(""))))
        .filter(is_one)
        .collect();
    let mut all = vec![fields.clone()];
    for place in 0..fields.len() {
        let mut near = fields.clone();
        if let DraftValue::One(text) = &mut near[place].1 {
            spoil(text, seed);
        }
        all.push(near);
        let mut less = fields.clone();
        less.remove(place);
        all.push(less);
    }
    all.iter()
        .filter_map(|fields| Drafted::new(category, fields).ok())
        .map(|drafted| drafted.event().clone())
        .collect()
}

/// Another character at one place.
fn spoil(text: &mut String, seed: u64) {
    let places: Vec<_> = text.char_indices().map(|(at, c)| at..at + c.len_utf8()).collect();
    if !places.is_empty() {
        text.replace_range(places[seed as usize % places.len()].clone(), "\u{1}");
    }
}

fn satisfy(expr: &Expr, rule: &Rule, seed: usize, wanted: &mut std::collections::BTreeMap<Field, Wanted>) {
    match expr {
        Expr::Identifier { index, .. } => of_search(&rule.detection.identifiers[*index].search, seed, wanted),
        Expr::Of { quantifier, targets, .. } => {
            let count = match quantifier {
                Quantifier::All => targets.len(),
                Quantifier::AtLeast(count) => *count as usize,
            };
            for index in targets.iter().take(count) {
                of_search(&rule.detection.identifiers[*index].search, seed, wanted);
            }
        }
        Expr::Not(..) => {}
        Expr::And(parts, _) => parts.iter().for_each(|part| satisfy(part, rule, seed, wanted)),
        Expr::Or(parts, _) => satisfy(&parts[seed % parts.len()], rule, seed, wanted),
    }
}

fn of_search(search: &Search, seed: usize, wanted: &mut std::collections::BTreeMap<Field, Wanted>) {
    match search {
        Search::Item(item) => of_item(item, seed, wanted),
        Search::All(parts, _) => parts.iter().for_each(|part| of_search(part, seed, wanted)),
        Search::Any(parts, _) => of_search(&parts[seed % parts.len()], seed, wanted),
    }
}

fn of_item(item: &Item, seed: usize, wanted: &mut std::collections::BTreeMap<Field, Wanted>) {
    let (Some(field), Polarity::Must) = (item.field.as_ref().and_then(|name| name.field), item.polarity)
    else {
        return;
    };
    let values = match item.join {
        Join::All => item.values.iter().collect::<Vec<_>>(),
        Join::Any => vec![&item.values[seed % item.values.len()]],
    };
    for value in values {
        let of_field = wanted.entry(field).or_default();
        match &value.tests[0] {
            Test::Text { pattern: Pattern { parts }, .. } => {
                for (position, part) in parts.iter().enumerate() {
                    let Part::Literal(text) = part else { continue };
                    match (position == 0, position + 1 == parts.len()) {
                        (true, true) => of_field.whole = Some(text.clone()),
                        (true, false) => of_field.start = text.clone(),
                        (false, true) => of_field.end = text.clone(),
                        (false, false) => of_field.inside.push(text.clone()),
                    }
                }
            }
            Test::Number(number) => of_field.whole = Some(number.to_string()),
            Test::Cidr(net) => of_field.whole = Some(net.network().to_string()),
            Test::Regex(regex) => of_field.inside.push(example(&regex.source)),
            _ => {}
        }
    }
}

/// A text that the generator's three kinds of expressions match.
fn example(source: &str) -> String {
    if let Some(rest) = source.strip_prefix("(?:") {
        return format!(" {} -ab ", rest.split('|').next().unwrap_or(""));
    }
    if let Some(rest) = source.strip_prefix("\\b") {
        return format!(" {} | bash ", rest.split('\\').next().unwrap_or(""));
    }
    let (word, end) = source.split_once("[0-9]{2,5}\\.").unwrap_or((source, ""));
    format!("{word}123.{end}")
}
