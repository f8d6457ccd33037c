//! JSON patches (RFC 6902) as the objects that they would make.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Operations looked at; a record of the longest kind holds some more.
const MAX_OPERATIONS: usize = 20_000;

/// Values that `copy` may put down altogether: it could double what is there with each operation.
const MAX_COPIED: usize = 20_000;

/// Parts of a path; what rules look at lies less deep.
const MAX_DEPTH: usize = 32;

/// What a patch puts where, as an object, and whether that is all of it. Anything that is no list of operations is as it is.
pub(super) fn as_object(request: &Value) -> (Cow<'_, Value>, bool) {
    let Value::Array(operations) = request else { return (Cow::Borrowed(request), true) };
    let mut object = Value::Object(Map::new());
    let mut whole = operations.len() <= MAX_OPERATIONS;
    let mut may_copy = MAX_COPIED;
    for operation in operations.iter().take(MAX_OPERATIONS) {
        let word = |key: &str| operation.get(key).and_then(Value::as_str);
        let Some(to) = word("path").map(parts) else { continue };
        let value = match word("op") {
            Some("add" | "replace") => operation.get("value").map(Cow::Borrowed),
            // What lay there before is only known where the patch itself has put it.
            Some("move" | "copy") => {
                let from = word("from").map(parts).and_then(|from| find(&object, &from));
                let small = from.filter(|value| {
                    let size = size(value, may_copy);
                    may_copy -= size.min(may_copy);
                    may_copy > 0
                });
                whole &= small.is_some() || is_of_no_interest(&to);
                small.map(|value| Cow::Owned(value.clone()))
            }
            _ => None,
        };
        match value {
            Some(value) if to.len() <= MAX_DEPTH => insert(&mut object, &to, &value),
            Some(_) => whole &= is_of_no_interest(&to),
            None => {}
        }
    }
    (Cow::Owned(object), whole)
}

/// Whether rules never look there.
fn is_of_no_interest(path: &[String]) -> bool {
    path.first().is_some_and(|first| first == "metadata" || first == "status")
}

fn parts(path: &str) -> Vec<String> {
    path.split('/')
        .skip(1)
        .take(MAX_DEPTH + 1)
        .map(|part| part.replace("~1", "/").replace("~0", "~"))
        .collect()
}

fn insert(into: &mut Value, path: &[String], value: &Value) {
    let Some((first, rest)) = path.split_first() else {
        *into = value.clone();
        return;
    };
    if is_element(first) {
        // Which element it is does not matter here: each is looked at.
        let mut element = Value::Null;
        insert(&mut element, rest, value);
        match into {
            Value::Array(items) => items.push(element),
            other => *other = Value::Array(vec![element]),
        }
        return;
    }
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    if let Value::Object(keys) = into {
        insert(keys.entry(first.clone()).or_insert(Value::Null), rest, value);
    }
}

/// What the patch has put at a path; of a list's elements the last that fits.
fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    match value {
        Value::Array(items) if is_element(first) => items.iter().rev().find_map(|item| find(item, rest)),
        Value::Object(keys) => find(keys.get(first)?, rest),
        _ => None,
    }
}

fn is_element(part: &str) -> bool {
    part == "-" || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Values within a value, counted up to a little more than `most`.
fn size(value: &Value, most: usize) -> usize {
    let mut sum: usize = 1;
    let mut add = |inner: &Value| {
        if sum <= most {
            sum += size(inner, most - sum.min(most));
        }
    };
    match value {
        Value::Array(items) => items.iter().for_each(&mut add),
        Value::Object(keys) => keys.values().for_each(&mut add),
        // A long text is more than one value.
        Value::String(text) => return 1 + text.len() / 64,
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_patch_moves_into_place_is_seen_and_what_is_not_known_is_said() {
        let container = json!({"name": "x", "securityContext": {"privileged": true}});
        let (object, whole) = as_object(&json!([
            {"op": "add", "path": "/decoy", "value": container},
            {"op": "move", "from": "/decoy", "path": "/spec/template/spec/containers/-"},
        ]))
        .clone_whole();
        assert_eq!(object.pointer("/spec/template/spec/containers/0"), Some(&container));
        assert!(whole);
        let unknown =
            json!([{"op": "copy", "from": "/metadata/annotations/x", "path": "/spec/containers/0"}]);
        assert!(!as_object(&unknown).1);
        let label = json!([{"op": "move", "from": "/metadata/labels/a", "path": "/metadata/labels/b"}]);
        assert!(as_object(&label).1, "rules do not look there");
    }

    #[test]
    fn i11_a_patch_that_doubles_itself_stays_small() {
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": ["x", "y"]})];
        operations.extend((0..1000).map(|_| json!({"op": "copy", "from": "", "path": "/a/-"})));
        let patch = Value::Array(operations);
        let (object, whole) = as_object(&patch);
        assert!(!whole);
        assert!(size(&object, usize::MAX) < 3 * MAX_COPIED);
    }

    #[test]
    fn no_number_of_operations_hides_one() {
        let mut operations = vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS - 1];
        operations.push(json!({"op": "add", "path": "/spec/hostPID", "value": true}));
        let patch = Value::Array(operations.clone());
        assert_eq!(as_object(&patch).0.pointer("/spec/hostPID"), Some(&json!(true)));
        operations.push(json!({"op": "add", "path": "/spec/hostIPC", "value": true}));
        assert!(!as_object(&Value::Array(operations)).1, "what is beyond the limit is said");
    }

    trait CloneWhole {
        fn clone_whole(self) -> (Value, bool);
    }

    impl CloneWhole for (Cow<'_, Value>, bool) {
        fn clone_whole(self) -> (Value, bool) {
            (self.0.into_owned(), self.1)
        }
    }
}
