//! Paths into JSON. serde_json refuses more than 128 levels, and a record is at most [`super::MAX_RECORD`] long.

use std::{borrow::Cow, net::IpAddr};

use detect::schema::{Field, Kind, RecordBuilder};
use model::Timestamp;
use serde_json::Value;

use super::{MAX_LIST, Rejected, Told, time};

/// Parses a line.
pub(super) fn parse(line: &[u8]) -> Result<Value, Rejected> {
    serde_json::from_slice(line)
        .map_err(|error| Rejected::at(format!("column {}", error.column()), error.to_string()))
}

/// Reads an object, each of a list, or each of the list under one of `wrappers`. Nothing is an answer: not every event is of interest.
pub(super) fn each(
    line: &[u8],
    wrappers: &[&str],
    read: fn(&Value) -> Result<Option<Told>, Rejected>,
    told: &mut Vec<Told>,
) -> Result<(), Rejected> {
    let value = parse(line)?;
    let wrapped = wrappers.iter().find_map(|name| value.get(name)?.as_array());
    let items = wrapped.map(Vec::as_slice).or(value.as_array().map(Vec::as_slice));
    list(items.unwrap_or(std::slice::from_ref(&value)), items.is_some(), read, told)
}

/// Reads each of a list; the first that is wrong is told after the others are read.
pub(super) fn list(
    items: &[Value],
    numbered: bool,
    read: impl Fn(&Value) -> Result<Option<Told>, Rejected>,
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
pub(super) fn at<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![value];
    for key in path.split('.') {
        let mut next = vec![];
        for one in found {
            flatten(one, &mut |inner| next.extend(inner.get(key)));
        }
        found = next;
    }
    let mut flat = vec![];
    for one in found {
        flatten(one, &mut |inner| {
            if !inner.is_null() {
                flat.push(inner);
            }
        });
    }
    flat
}

fn flatten<'a>(value: &'a Value, take: &mut impl FnMut(&'a Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, take)),
        one => take(one),
    }
}

/// The text of a string, number or truth value.
pub(super) fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(truth) => Some(truth.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The first text at a path, not empty.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> Option<Cow<'a, str>> {
    at(value, path).into_iter().find_map(scalar).filter(|text| !text.is_empty())
}

/// The text at a path that a record cannot be without.
pub(super) fn required<'a>(value: &'a Value, path: &str) -> Result<Cow<'a, str>, Rejected> {
    text(value, path).ok_or_else(|| Rejected::at(path, "missing"))
}

/// The address at a path.
pub(super) fn address(value: &Value, path: &str) -> Option<IpAddr> {
    text(value, path)?.parse().ok()
}

/// The RFC 3339 time at a path.
pub(super) fn rfc3339(value: &Value, path: &str) -> Result<Timestamp, Rejected> {
    let text = required(value, path)?;
    time::rfc3339(&text).ok_or_else(|| Rejected::at(path, "not an RFC 3339 time"))
}

/// Gives a field what stands at the first of `paths` that has something.
pub(super) fn put(builder: &mut RecordBuilder, field: Field, value: &Value, paths: &[&str]) {
    for path in paths {
        let found: Vec<Cow<'_, str>> = at(value, path).into_iter().filter_map(scalar).collect();
        if found.is_empty() {
            continue;
        }
        if field.spec().kind == Kind::List {
            builder.list(field, found.iter().map(AsRef::as_ref));
        } else {
            builder.text(field, &found[0]);
        }
        return;
    }
}

/// Gives each field what stands at the path of its own name.
pub(super) fn put_named(builder: &mut RecordBuilder, value: &Value, fields: &[Field]) {
    for field in fields {
        put(builder, *field, value, &[field.name()]);
    }
}
