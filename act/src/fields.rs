//! Changes of single fields, as pure functions of an object: where a change stands, and which patch brings it forward or back.

use model::{FieldChange, ItemChange};
use serde_json::{Map, Value, json};

use crate::shown::shown_at;

/// Which way a change is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To what the action wants.
    Forward,
    /// To what was before.
    Back,
}

/// Where a change stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// As it was.
    Before,
    /// As the action left it.
    After,
    /// Neither: somebody else changed it.
    Drifted {
        /// What stands there.
        now: String,
    },
}

/// Captures the change of a value; `None` where it is as wanted already.
pub(crate) fn set(object: &Value, path: &[&str], after: Option<Value>) -> Option<FieldChange> {
    let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
    let before = lookup(object, &path).cloned();
    if before == after {
        return None;
    }
    Some(FieldChange::Value { known: known(object, &path), path, before, after })
}

/// Captures the removal of a list's element.
pub(crate) fn take(object: &Value, path: &[&str], at: usize) -> Option<FieldChange> {
    let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
    let item = lookup(object, &path)?.as_array()?.get(at)?.clone();
    let known = known(object, &path);
    Some(FieldChange::Item { path, item, key: None, at, how: ItemChange::Take, known })
}

/// Captures the addition of an element to a list's end; `None` where it is there already.
pub(crate) fn put(object: &Value, path: &[&str], item: Value, key: Option<&str>) -> Option<FieldChange> {
    let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
    let list = lookup(object, &path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.contains(&item) {
        return None;
    }
    let (known, at) = (known(object, &path), list.len());
    Some(FieldChange::Item { path, item, key: key.map(str::to_owned), at, how: ItemChange::Put, known })
}

/// Where a change stands in the object as it is now.
pub(crate) fn standing(object: &Value, change: &FieldChange) -> Standing {
    match change {
        FieldChange::Value { path, before, after, .. } => {
            let now = lookup(object, path);
            if now == after.as_ref() {
                Standing::After
            } else if now == before.as_ref() {
                Standing::Before
            } else {
                Standing::Drifted { now: shown_at(path, now) }
            }
        }
        FieldChange::Item { path, item, key, how, .. } => {
            let list = lookup(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let there = list.contains(item);
            if !there && let Some(other) = namesake(list, item, key.as_deref()) {
                return Standing::Drifted { now: shown_at(path, Some(other)) };
            }
            if there == (*how == ItemChange::Put) { Standing::After } else { Standing::Before }
        }
    }
}

/// The patch (RFC 6902) that brings all of `changes` that way, from the object as it is now. Changes that are there already add
/// nothing to it.
pub(crate) fn patch(object: &Value, changes: &[FieldChange], way: Way) -> Vec<Value> {
    // Each operation is made for the object as those before it leave it.
    let mut work = object.clone();
    let mut out = Vec::new();
    for change in changes {
        let done = if way == Way::Forward { Standing::After } else { Standing::Before };
        if standing(&work, change) == done {
            continue;
        }
        match change {
            FieldChange::Value { path, known, before, after } => {
                let wanted = if way == Way::Forward { after } else { before };
                match wanted {
                    Some(value) => add(&mut work, path, value.clone(), &mut out),
                    None => remove(&mut work, path, *known, &mut out),
                }
            }
            FieldChange::Item { path, item, key, at, how, known } => {
                let put = (*how == ItemChange::Put) == (way == Way::Forward);
                let at = if way == Way::Forward { usize::MAX } else { *at };
                if put {
                    insert(&mut work, path, item.clone(), at, &mut out);
                } else {
                    // Where somebody else's element has its place, that one goes: it is asked for only where drift is overwritten.
                    let list = lookup(&work, path).and_then(Value::as_array).map(Vec::as_slice);
                    let list = list.unwrap_or_default();
                    let there =
                        if list.contains(item) { Some(item) } else { namesake(list, item, key.as_deref()) };
                    if let Some(there) = there.cloned() {
                        pull(&mut work, path, &there, *known, &mut out);
                    }
                }
            }
        }
    }
    out
}

/// `metadata.labels.app: was "a", ours absent, now "b"`.
pub(crate) fn difference(change: &FieldChange, now: &str) -> String {
    match change {
        FieldChange::Value { path, before, after, .. } => {
            let (was, ours) = (shown_at(path, before.as_ref()), shown_at(path, after.as_ref()));
            format!("{}: was {was}, ours {ours}, now {now}", path.join("."))
        }
        FieldChange::Item { path, item, how, .. } => {
            let item = shown_at(path, Some(item));
            let (was, ours) = match how {
                ItemChange::Put => ("without it".to_owned(), item),
                ItemChange::Take => (item, "without it".to_owned()),
            };
            format!("{}: was {was}, ours {ours}, now {now}", path.join("."))
        }
    }
}

/// Whether `now` has everything that `wanted` has: what the server adds by itself does not count.
pub(crate) fn covers(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, value)| now.get(name).map_or(is_nothing(value), |now| covers(now, value))),
        (Value::Array(now), Value::Array(wanted)) => {
            now.len() == wanted.len() && now.iter().zip(wanted).all(|(now, wanted)| covers(now, wanted))
        }
        (now, wanted) => now == wanted,
    }
}

/// Typed objects leave out empty lists and maps.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

pub(crate) fn lookup<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |at, part| at.get(part)).filter(|value| !value.is_null())
}

/// An element that the same name stands for.
fn namesake<'a>(list: &'a [Value], item: &Value, key: Option<&str>) -> Option<&'a Value> {
    let key = key?;
    list.iter().find(|other| other.get(key).is_some() && other.get(key) == item.get(key))
}

/// How many parts of the path are there.
fn known(object: &Value, path: &[String]) -> usize {
    (0..path.len()).take_while(|depth| lookup(object, &path[..=*depth]).is_some()).count()
}

fn add(work: &mut Value, path: &[String], value: Value, out: &mut Vec<Value>) {
    let there = known(work, path);
    let depth = there.min(path.len() - 1);
    let mut nested = value;
    for part in path[depth + 1..].iter().rev() {
        nested = Value::Object(Map::from_iter([(part.clone(), nested)]));
    }
    out.push(json!({"op": "add", "path": pointer(&path[..=depth]), "value": nested}));
    if let Some(Value::Object(parent)) = reach(work, &path[..depth]) {
        parent.insert(path[depth].clone(), nested);
    }
}

/// Takes a value away, and the maps and lists around it that were made for it and are empty now.
fn remove(work: &mut Value, path: &[String], known: usize, out: &mut Vec<Value>) {
    let mut depth = path.len();
    while depth - 1 > known && depth >= 2 {
        let alone = match lookup(work, &path[..depth - 1]) {
            Some(Value::Object(parent)) => parent.len() == 1,
            _ => false,
        };
        if !alone {
            break;
        }
        depth -= 1;
    }
    if lookup(work, &path[..depth]).is_none() {
        return;
    }
    out.push(json!({"op": "remove", "path": pointer(&path[..depth])}));
    if let Some(Value::Object(parent)) = reach(work, &path[..depth - 1]) {
        parent.remove(&path[depth - 1]);
    }
}

fn insert(work: &mut Value, path: &[String], item: Value, at: usize, out: &mut Vec<Value>) {
    match reach(work, path) {
        Some(Value::Array(list)) => {
            let at = at.min(list.len());
            out.push(json!({"op": "add", "path": format!("{}/{at}", pointer(path)), "value": item}));
            list.insert(at, item);
        }
        _ => add(work, path, json!([item]), out),
    }
}

fn pull(work: &mut Value, path: &[String], item: &Value, known: usize, out: &mut Vec<Value>) {
    let Some(Value::Array(list)) = reach(work, path) else { return };
    let Some(at) = list.iter().position(|other| other == item) else { return };
    if list.len() == 1 && known < path.len() {
        return remove(work, path, known, out);
    }
    out.push(json!({"op": "remove", "path": format!("{}/{at}", pointer(path))}));
    list.remove(at);
}

fn reach<'a>(work: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(work, |at, part| at.get_mut(part))
}

/// RFC 6901.
fn pointer(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
mod tests;
