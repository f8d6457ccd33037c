//! Resources of another version than this program: a definition that is older drops fields that are written, and an object that a newer one
//! wrote may hold what cannot be read here. Neither is lost in silence: health names it.

use std::{collections::BTreeMap, sync::PoisonError};

use crds::{approval::Approval, incident::Incident, response_action::ResponseAction};
use kube::{Resource, ResourceExt as _};
use serde_json::Value;

use super::{follow::Known, mirror::Mirror, people::parsed};
use crate::health::Part;

/// Names that are given of what is many.
const NAMED: usize = 3;

impl Mirror {
    /// Notes what a definition dropped of `sent`; `stands` is what the API server kept of it.
    pub(crate) fn note_dropped<K>(&self, sent: &Value, stands: Option<&Value>)
    where
        K: Resource<DynamicType = ()>,
    {
        let mut lost = Vec::new();
        dropped(sent, stands.unwrap_or(&Value::Null), "status", &mut lost);
        let mut skewed = self.skewed.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = K::kind(&()).into_owned();
        match lost.first() {
            None => drop(skewed.remove(&kind)),
            Some(first) => {
                let what = format!(
                    "the CustomResourceDefinition of {kind} is older than this controller and drops {first}: apply deploy/crds"
                );
                skewed.insert(kind, what);
            }
        }
    }

    /// Tells what is of another version.
    pub(crate) fn look_for_skew(&self) {
        let mut all: BTreeMap<String, String> =
            self.skewed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (kind, unread) in [
            ("Incident", unread::<Incident>(&self.incidents)),
            ("ResponseAction", unread::<ResponseAction>(&self.actions)),
            ("Approval", unread::<Approval>(&self.approvals)),
        ] {
            if !unread.is_empty() {
                let first = unread.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
                let what = format!(
                    "{} of kind {kind} cannot be read by this version and are left as they are: {first}",
                    unread.len()
                );
                all.insert(format!("{kind}/unread"), what);
            }
        }
        let told = all.into_values().collect::<Vec<_>>().join("; ");
        match told.is_empty() {
            true => self.health.restored(Part::Version),
            false if self.health.says(Part::Version).as_deref() == Some(told.as_str()) => {}
            false => self.health.degraded(Part::Version, told),
        }
    }
}

/// Those of a kind that another version wrote.
fn unread<K>(known: &Known) -> Vec<String>
where
    K: Resource + serde::de::DeserializeOwned,
{
    let all = known.all();
    let mut names: Vec<String> =
        all.iter().filter(|object| parsed::<K>(object).is_none()).map(|object| object.name_any()).collect();
    names.sort();
    names
}

/// Paths of what was sent and does not stand there.
fn dropped(sent: &Value, stands: &Value, path: &str, lost: &mut Vec<String>) {
    match (sent, stands) {
        (Value::Object(sent), Value::Object(stands)) => {
            for (key, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match stands.get(key) {
                    Some(stands) => dropped(value, stands, &path, lost),
                    None => lost.push(path),
                }
            }
        }
        // Lists of maps may stand in another order; what is dropped is dropped in each.
        (Value::Array(sent), Value::Array(stands)) if sent.len() == stands.len() => {
            for (sent, stands) in sent.iter().zip(stands) {
                dropped(sent, stands, path, lost);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_older_definition_drops_is_found_by_its_path() {
        let lost = |sent: Value, stands: Value| {
            let mut lost = Vec::new();
            dropped(&sent, &stands, "status", &mut lost);
            lost
        };
        assert!(lost(json!({"a": 1, "b": {"c": null}}), json!({"a": 2, "b": {}, "more": 1})).is_empty());
        assert_eq!(lost(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 1}})), ["status.a.c"]);
        assert_eq!(lost(json!({"l": [{"x": 1, "y": 1}]}), json!({"l": [{"x": 1}]})), ["status.l.y"]);
    }
}
