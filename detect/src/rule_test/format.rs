//! Reading test files.

use std::time::Duration;

use model::Timestamp;

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
    pub(super) subject: Subject,
}

/// What a case is about.
pub(super) enum Subject {
    /// One event, for a rule.
    Event(Written),
    /// Events one after another, for a correlation; never empty, at most [`MAX_EVENTS`] with repetitions.
    Sequence(Vec<Written>),
}

/// An event as written.
pub(super) struct Written {
    /// When, from the beginning of the case; only in sequences.
    pub(super) at: Duration,
    /// How many times, a second apart; only in sequences.
    pub(super) times: u32,
    category: Category,
    span: Span,
    fields: Vec<(Spanned<String>, Spanned<DraftValue>)>,
}

/// Events of one sequence, repetitions included.
const MAX_EVENTS: u32 = 10_000;

/// When sequences begin.
const BEGIN: Timestamp = Timestamp(1_767_225_600_000_000_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Match,
    NoMatch,
}

const CASE_KEYS: &[&str] = &["name", "rule", "event", "events", "expect", "why"];

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
    let subject = match mapping.get("events") {
        Some(node) => Subject::Sequence(read_sequence(node, cursor)?),
        None => Subject::Event(read_event(mapping.require("event", "the case", cursor)?, &[], cursor)?),
    };
    if cursor.errors() > errors {
        return None;
    }
    Some(Case {
        name: name?.value,
        span: mapping.pairs.first().map_or(node.span, |(key, value)| key.span.to(value.span)),
        rule: own_rule.or_else(|| rule.cloned()),
        expected: expected?.value,
        subject,
    })
}

fn read_sequence(node: &Node, cursor: &mut Cursor<'_>) -> Option<Vec<Written>> {
    let nodes = match &node.data {
        Data::List(nodes) if !nodes.is_empty() => nodes,
        _ => {
            let message = "`events` must be a list of events";
            let label = format!("this is {}", node.kind());
            cursor.report(Diagnostic::error(Code::BadValue, message, node.span, label));
            return None;
        }
    };
    let events: Option<Vec<Written>> =
        nodes.iter().map(|node| read_event(node, &["at", "times"], cursor)).collect();
    let events = events?;
    let total: u32 = events.iter().fold(0, |total, event| total.saturating_add(event.times));
    if total > MAX_EVENTS {
        let message = format!("a sequence may have at most {MAX_EVENTS} events");
        cursor.report(Diagnostic::error(Code::Limit, message, node.span, format!("this has {total}")));
        return None;
    }
    Some(events)
}

/// An event; `extra` are keys that are no fields.
fn read_event(node: &Node, extra: &[&str], cursor: &mut Cursor<'_>) -> Option<Written> {
    let errors = cursor.errors();
    let fields = Mapping::read(node, "an event", cursor)?;
    let names: Vec<(&str, Category)> =
        Category::ALL.iter().map(|category| (category.name(), *category)).collect();
    fields.require("category", "the event", cursor);
    let category = fields.word("category", &names, cursor);
    let (mut at, mut times) = (Duration::ZERO, 1);
    if extra.contains(&"at") {
        at = duration(&fields, "at", cursor).unwrap_or_default();
        times = repetitions(&fields, cursor).unwrap_or(1);
    }
    let written: Vec<_> = fields
        .pairs
        .iter()
        .filter(|(key, _)| key.value != "category" && !extra.contains(&key.value))
        .filter_map(|(key, node)| Some((key.map(str::to_owned), value_of(node, cursor)?)))
        .collect();
    (cursor.errors() == errors).then_some(())?;
    Some(Written { at, times, category: category?.value, span: node.span, fields: written })
}

/// A whole number and one of s, m, h, d.
fn duration(mapping: &Mapping<'_>, key: &str, cursor: &mut Cursor<'_>) -> Option<Duration> {
    let given = mapping.text(key, cursor)?;
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let seconds = units.iter().find_map(|(letter, unit)| {
        given.value.strip_suffix(letter)?.parse::<u64>().ok()?.checked_mul(*unit).filter(|all| *all < 1 << 32)
    });
    if seconds.is_none() {
        let message = format!("`{}` is not a length of time", given.value);
        cursor.report(Diagnostic::error(Code::BadValue, message, given.span, "for example `90s` or `5m`"));
    }
    seconds.map(Duration::from_secs)
}

fn repetitions(mapping: &Mapping<'_>, cursor: &mut Cursor<'_>) -> Option<u32> {
    let given = mapping.text("times", cursor)?;
    let times = given.value.parse().ok().filter(|times| *times > 0);
    if times.is_none() {
        let message = "`times` must be a whole number from 1";
        cursor.report(Diagnostic::error(Code::BadValue, message, given.span, ""));
    }
    times
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

impl Written {
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

    /// The same event at each of its times.
    pub(super) fn times(&self) -> impl Iterator<Item = Timestamp> {
        let begin = BEGIN.plus(self.at);
        (0..self.times).map(move |n| begin.plus(Duration::from_secs(u64::from(n))))
    }

    fn explain(&self, error: &DraftError, taxonomy: Taxonomy) -> Diagnostic {
        let (code, field) = match error {
            DraftError::NoField { field, .. } => (Code::AbsentField, Some(*field)),
            DraftError::BadValue { field, .. } | DraftError::Derived { field, .. } => {
                (Code::BadValue, Some(*field))
            }
        };
        let is_it = |name: &str| taxonomy.resolve(name).is_some_and(|known| Some(known.name()) == field);
        let place = self.fields.iter().find(|(name, _)| is_it(&name.value));
        let of_place = |(name, value): &(Spanned<String>, Spanned<DraftValue>)| {
            if code == Code::AbsentField { name.span } else { value.span }
        };
        Diagnostic::error(code, error.to_string(), place.map_or(self.span, of_place), "")
    }
}
