//! Rules of a schema that need CEL (`x-kubernetes-validations`): the API server refuses what breaks one, with its message.

use serde_json::{Value, json};

/// `rule` must hold; else `message` is shown.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

/// Like [`rule`], shown at `field` (a path below the place of the rule: `.name`).
pub(crate) fn rule_at(field: &str, rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message, "fieldPath": field })
}

/// A change: `oldSelf` is an optional, empty when the object is made.
pub(crate) fn rule_from_the_start(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message, "optionalOldSelf": true })
}

/// What was written once stays.
pub(crate) fn immutable(what: &str) -> Value {
    rule("self == oldSelf", &format!("{what} cannot be changed"))
}
