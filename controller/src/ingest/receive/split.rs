//! One body to its records, which are not read here: each is a text of its own in the inbox, so that one that is broken spoils no other.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::{
    inbox::{Entry, Key},
    read::{Format, MAX_LIST, Rejected, without_mark},
};

/// The records of one JSON text: itself, those of a list, or those of the list under one of the format's wrappers.
pub(crate) fn split(format: Format, body: &[u8]) -> Result<Vec<&RawValue>, Rejected> {
    let broken = |error: &serde_json::Error| Rejected {
        place: format!("line {} column {}", error.line(), error.column()),
        reason: error.to_string(),
    };
    let whole: &RawValue = serde_json::from_slice(without_mark(body)).map_err(|error| broken(&error))?;
    let mut items = vec![whole];
    for wrapper in format.wrappers() {
        if let Some(list) = list_at(whole, wrapper).map_err(|error| broken(&error))? {
            items = list;
            break;
        }
    }
    if whole.get().starts_with('[') {
        items = serde_json::from_str(whole.get()).map_err(|error| broken(&error))?;
    }
    if items.len() > MAX_LIST {
        let reason = format!("{} records, at most {MAX_LIST}", items.len());
        return Err(Rejected { place: "list".into(), reason });
    }
    Ok(items)
}

/// The list at a path of keys, if there is one.
fn list_at<'a>(value: &'a RawValue, path: &str) -> Result<Option<Vec<&'a RawValue>>, serde_json::Error> {
    let mut at = value;
    for key in path.split('.') {
        if !at.get().starts_with('{') {
            return Ok(None);
        }
        let object: BTreeMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(at.get())?;
        match object.get(key) {
            Some(inner) => at = inner,
            None => return Ok(None),
        }
    }
    if at.get().starts_with('[') { serde_json::from_str(at.get()).map(Some) } else { Ok(None) }
}

/// What goes into the inbox for one record.
pub(super) fn entry(format: Format, record: &RawValue) -> Entry<'_> {
    let text = record.get();
    let audited = (format == Format::KubernetesAudit).then(|| audit_key(text)).flatten();
    let key = audited.unwrap_or_else(|| Key::of(&[text.as_bytes()]));
    Entry { key, body: Ok(text.as_bytes()) }
}

/// What names a stage of a request: its audit id and stage, and what the client cannot choose with them. The id alone may be the client's own
/// word (the Audit-ID header): a second request under the id of a harmless first must not pass for a repetition.
fn audit_key(text: &str) -> Option<Key> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Audited<'a> {
        #[serde(rename = "auditID", borrow)]
        audit_id: Cow<'a, str>,
        #[serde(borrow)]
        stage: Cow<'a, str>,
        #[serde(borrow, default)]
        request_received_timestamp: Cow<'a, str>,
        #[serde(borrow, default)]
        stage_timestamp: Cow<'a, str>,
        #[serde(borrow, default)]
        verb: Cow<'a, str>,
        #[serde(rename = "requestURI", borrow, default)]
        uri: Cow<'a, str>,
        #[serde(default)]
        user: User,
    }
    #[derive(Deserialize, Default)]
    struct User {
        #[serde(default)]
        username: String,
    }
    let one: Audited<'_> = serde_json::from_str(text).ok()?;
    let parts = [
        &one.audit_id,
        &one.stage,
        &one.request_received_timestamp,
        &one.stage_timestamp,
        &one.verb,
        &one.uri,
    ];
    let mut parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    parts.push(one.user.username.as_bytes());
    Some(Key::of(&parts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(format: Format, body: &str) -> Vec<String> {
        split(format, body.as_bytes()).unwrap().iter().map(|one| one.get().to_owned()).collect()
    }

    #[test]
    fn bodies_are_split_as_their_senders_wrap_them() {
        assert_eq!(
            texts(Format::KubernetesAudit, r#"{"kind":"EventList","items":[{"a":1}, {"b":2}]}"#),
            [r#"{"a":1}"#, r#"{"b":2}"#]
        );
        assert_eq!(texts(Format::CloudTrail, r#" {"Records": [{"a": 1}]} "#), [r#"{"a": 1}"#]);
        assert_eq!(texts(Format::Okta, r#"{"data":{"events":[{"uuid":"x"}]}}"#), [r#"{"uuid":"x"}"#]);
        assert_eq!(texts(Format::Okta, r#"{"uuid":"x","data":{}}"#), [r#"{"uuid":"x","data":{}}"#]);
        assert_eq!(texts(Format::Events, "[1, {}]"), ["1", "{}"]);
        assert_eq!(texts(Format::Entra, "\u{feff}{\"value\":[{}]}"), ["{}"]);
        let error = split(Format::Events, b"{\n\"a\": ").unwrap_err();
        assert!(error.place.starts_with("line 2 column"), "{error}");
        let many = format!("[{}1]", "1,".repeat(MAX_LIST));
        assert!(split(Format::Events, many.as_bytes()).unwrap_err().reason.contains("at most"));
    }

    #[test]
    fn i3_a_stage_comes_once_and_another_request_under_its_id_does_not_pass_for_it() {
        let key = |id: &str, stage: &str, user: &str, received: &str| {
            let text = serde_json::json!({"auditID": id, "stage": stage, "user": {"username": user}, "verb": "get",
                "requestURI": "/x", "requestReceivedTimestamp": received, "annotations": {"a": "b"}});
            let raw = serde_json::value::to_raw_value(&text).unwrap();
            entry(Format::KubernetesAudit, &raw).key
        };
        let one = key("a", "ResponseComplete", "eve", "1");
        assert_eq!(one, key("a", "ResponseComplete", "eve", "1"));
        assert_ne!(one, key("a", "ResponseStarted", "eve", "1"));
        assert_ne!(one, key("a", "ResponseComplete", "eve", "2"));
        assert_ne!(one, key("a", "ResponseComplete", "root", "1"));
    }

    #[test]
    fn i11_deep_nesting_does_not_end_us() {
        let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        let _either = split(Format::Events, deep.as_bytes());
        let deep = format!("{{\"items\":[{}1{}]}}", "{\"a\":".repeat(1 << 20), "}".repeat(1 << 20));
        let _either = split(Format::KubernetesAudit, deep.as_bytes());
    }

    proptest! {
        #[test]
        fn any_body_is_split_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in Format::ALL {
                let _either = split(format, &body);
            }
        }
    }
}
