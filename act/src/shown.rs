//! What of an object may be shown in a difference, a log or a status. What could hold a secret (data of ConfigMaps and Secrets, values of
//! environment variables, commands, annotations) is told apart by a digest and not shown.

use model::short_hash;
use serde_json::{Value, json};

/// Bytes of a value that are shown, at most (I11).
const LONGEST: usize = 200;
/// Fields below `spec` that hold no secret: numbers, switches, names of nodes' taints.
const OPEN_SPEC: [&str; 8] =
    ["automated", "maxReplicas", "minReplicas", "paused", "replicas", "suspend", "syncPolicy", "taints"];

/// What stands at a path of an object, for people. A path that is not known to be harmless is shown by its digest.
pub(crate) fn shown_at(path: &[String], value: Option<&Value>) -> String {
    let Some(value) = value else { return "absent".into() };
    if is_open(path) {
        return shown(Some(value));
    }
    let images = images(value);
    let digest = digest(value);
    if images.is_empty() { digest } else { format!("{} {digest}", images.join(", ")) }
}

/// A value that is known to hold no secret, cut.
pub(crate) fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else { return "absent".into() };
    let mut text = value.to_string();
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

/// An object as it may be kept beside others of a case: values of environment variables and annotations that repeat a whole
/// configuration are told apart by a digest.
pub(crate) fn masked(object: &Value) -> Value {
    match object {
        Value::Object(entries) => entries
            .iter()
            .map(|(name, value)| {
                let masked = match (name.as_str(), value) {
                    ("env", Value::Array(all)) => all.iter().map(masked_variable).collect(),
                    ("kubectl.kubernetes.io/last-applied-configuration", value) => json!(digest(value)),
                    ("data" | "stringData" | "binaryData", value @ Value::Object(_)) => json!(digest(value)),
                    (_, value) => masked(value),
                };
                (name.clone(), masked)
            })
            .collect(),
        Value::Array(items) => items.iter().map(masked).collect(),
        plain => plain.clone(),
    }
}

/// An API server's complaint without the value that it complains of.
pub(crate) fn complaint(text: &str) -> String {
    const VALUE: &str = "Invalid value:";
    match text.find(VALUE) {
        Some(at) => format!("{}{VALUE} (not shown)", &text[..at]),
        None => text.to_owned(),
    }
}

fn masked_variable(variable: &Value) -> Value {
    let mut variable = variable.clone();
    if let Some(value) = variable.get_mut("value") {
        *value = json!(digest(value));
    }
    variable
}

fn is_open(path: &[String]) -> bool {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["rules" | "subjects" | "aggregationRule"] | ["metadata", "labels", ..] => true,
        ["spec", field, ..] => OPEN_SPEC.contains(field),
        _ => false,
    }
}

/// Names and images of a list of containers: nothing else of them is shown.
fn images(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|one| Some(format!("{}={}", one["name"].as_str()?, one["image"].as_str()?))).collect()
}

fn digest(value: &Value) -> String {
    let text = value.to_string();
    format!("({} bytes, sha256 {})", text.len(), short_hash([text.as_str()], 6))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    proptest! {
        #[test]
        fn a_secret_is_shown_in_no_difference(secret in "[a-z0-9]{12,40}", key in "[a-z]{1,8}") {
            let env = json!([{"name": "c", "image": "i:1", "args": ["--password", secret], "env": [{"name": "P", "value": secret}]}]);
            for (parts, value) in [
                (vec!["data"], json!({key.clone(): secret})),
                (vec!["binaryData", &key], json!(secret)),
                (vec!["stringData"], json!({key.clone(): secret})),
                (vec!["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"], json!(secret)),
                (vec!["spec", "template", "spec", "containers"], env.clone()),
                (vec!["spec", "anything", &key], json!(secret)),
            ] {
                let said = shown_at(&path(&parts), Some(&value));
                prop_assert!(!said.contains(&secret), "{said}");
                prop_assert!(said.contains("sha256"), "{said}");
            }
            let pod = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": secret}}, "spec": {"containers": [{"env": [{"name": "P", "value": secret}]}]}, "data": {"k": secret}});
            prop_assert!(!masked(&pod).to_string().contains(&secret));
        }
    }

    #[test]
    fn what_holds_no_secret_is_shown() {
        assert_eq!(shown_at(&path(&["spec", "replicas"]), Some(&json!(3))), "3");
        assert_eq!(shown_at(&path(&["metadata", "labels", "app"]), Some(&json!("api"))), "\"api\"");
        assert_eq!(shown_at(&path(&["data"]), None), "absent");
        let containers = json!([{"name": "c", "image": "api:1"}]);
        let said = shown_at(&path(&["spec", "template", "spec", "containers"]), Some(&containers));
        assert!(said.starts_with("c=api:1 ("), "{said}");
        assert_ne!(digest(&json!("a")), digest(&json!("b")), "told apart");
    }

    #[test]
    fn a_complaint_loses_the_value() {
        let said = complaint("ConfigMap \"x\" is invalid: data: Invalid value: \"s3cret\": too long");
        assert_eq!(said, "ConfigMap \"x\" is invalid: data: Invalid value: (not shown)");
    }
}
