//! Paths into JSON. serde_json refuses more than 128 levels, and a record is at most [`super::MAX_RECORD`] long.

use std::{borrow::Cow, net::IpAddr};

use detect::schema::{Field, Kind, RecordBuilder};
use model::Timestamp;
use serde::Deserialize;

pub(super) use self::node::{Json, Node};
use super::{MAX_LIST, Rejected, Told, time};

mod node;

/// Parses a line.
pub(super) fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Rejected> {
    // What is known to be UTF-8 need not be looked at once more text by text.
    let parsed = match std::str::from_utf8(line) {
        Ok(line) => serde_json::from_str(line),
        Err(_) => serde_json::from_slice(line),
    };
    parsed.map_err(|error| Rejected::at(format!("column {}", error.column()), error.to_string()))
}

/// Reads an object, each of a list, or each of the list under one of `wrappers`. Nothing is an answer: not every event is of interest.
pub(super) fn each<'a, T: Node + Deserialize<'a>>(
    line: &'a [u8],
    wrappers: &[&str],
    read: fn(&T) -> Result<Option<Told>, Rejected>,
    told: &mut Vec<Told>,
) -> Result<(), Rejected> {
    let value: T = parse(line)?;
    let wrapped = wrappers.iter().find_map(|name| value.get(name)?.items());
    let items = wrapped.or(value.items());
    list(items.unwrap_or(std::slice::from_ref(&value)), items.is_some(), read, told)
}

/// Reads each of a list; the first that is wrong is told after the others are read.
pub(super) fn list<T>(
    items: &[T],
    numbered: bool,
    read: impl Fn(&T) -> Result<Option<Told>, Rejected>,
    told: &mut Vec<Told>,
) -> Result<(), Rejected> {
    if items.len() > MAX_LIST {
        return Err(Rejected::at("list", format!("{} records, at most {MAX_LIST}", items.len())));
    }
    let mut wrong = None;
    for (number, item) in items.iter().enumerate() {
        match read(item) {
            Ok(one) => told.extend(one),
            Err(rejected) if numbered => {
                wrong.get_or_insert(Rejected { place: format!("[{number}].{}", rejected.place), ..rejected });
            }
            Err(rejected) => return Err(rejected),
        }
    }
    wrong.map_or(Ok(()), Err)
}

/// The values at a path, lists flattened: all of them, so that nothing hides behind many others. A record's length bounds how many there are.
pub(super) fn at<'a, T: Node>(value: &'a T, path: &str) -> Vec<&'a T> {
    let mut found = vec![];
    each_at(value, path, &mut |one| found.push(one));
    found
}

/// As [`at`], without a list of them.
fn each_at<'a, T: Node>(value: &'a T, path: &str, take: &mut dyn FnMut(&'a T)) {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    flatten(value, &mut |inner| {
        let Some(next) = inner.get(key) else { return };
        match rest {
            Some(rest) => each_at(next, rest, take),
            None => flatten(next, &mut |leaf| {
                if !leaf.is_null() {
                    take(leaf);
                }
            }),
        }
    });
}

fn flatten<'a, T: Node>(value: &'a T, take: &mut dyn FnMut(&'a T)) {
    match value.items() {
        Some(items) => items.iter().for_each(|item| flatten(item, take)),
        None => take(value),
    }
}

/// The text of a string, number or truth value.
pub(super) fn scalar<T: Node>(value: &T) -> Option<Cow<'_, str>> {
    value.scalar()
}

/// The first text at a path, not empty.
pub(super) fn text<'a, T: Node>(value: &'a T, path: &str) -> Option<Cow<'a, str>> {
    let mut first = None;
    each_at(value, path, &mut |one| {
        if first.is_none() {
            first = one.scalar();
        }
    });
    first.filter(|text| !text.is_empty())
}

/// The text at a path that a record cannot be without.
pub(super) fn required<'a, T: Node>(value: &'a T, path: &str) -> Result<Cow<'a, str>, Rejected> {
    text(value, path).ok_or_else(|| Rejected::at(path, "missing"))
}

/// The address at a path.
pub(super) fn address<T: Node>(value: &T, path: &str) -> Option<IpAddr> {
    text(value, path)?.parse().ok()
}

/// The RFC 3339 time at a path.
pub(super) fn rfc3339<T: Node>(value: &T, path: &str) -> Result<Timestamp, Rejected> {
    let text = required(value, path)?;
    time::rfc3339(&text).ok_or_else(|| Rejected::at(path, "not an RFC 3339 time"))
}

/// Gives a field what stands at the first of `paths` that has something.
pub(super) fn put<T: Node>(builder: &mut RecordBuilder, field: Field, value: &T, paths: &[&str]) {
    for path in paths {
        let (mut first, mut more) = (None, Vec::new());
        each_at(value, path, &mut |one| {
            let Some(text) = one.scalar() else { return };
            if first.is_none() {
                first = Some(text);
            } else {
                more.push(text);
            }
        });
        let Some(first) = first else { continue };
        if field.spec().kind == Kind::List {
            builder.list(field, std::iter::once(&first).chain(&more).map(AsRef::as_ref));
        } else {
            builder.text(field, &first);
        }
        return;
    }
}

/// Gives each field what stands at the path of its own name.
pub(super) fn put_named<T: Node>(builder: &mut RecordBuilder, value: &T, fields: &[Field]) {
    for field in fields {
        put(builder, *field, value, &[field.name()]);
    }
}
