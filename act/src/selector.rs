//! Label selectors: whether one selects, and which labels would have to go for it not to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Whether a selector selects an object of these labels. An empty one selects all; an absent one none.
pub(crate) fn selects(selector: Option<&Value>, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return false };
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    equal.into_iter().all(|(name, value)| labels.get(name).map(String::as_str) == value.as_str())
        && expressions(selector).all(|expression| holds(expression, labels))
}

/// Labels whose removal takes the object out of a selector that selects it: one of them suffices. Empty: none does.
pub(crate) fn ways_out(selector: &Value) -> BTreeSet<String> {
    let equal = selector["matchLabels"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let positive = expressions(selector)
        .filter(|expression| matches!(expression["operator"].as_str(), Some("In" | "Exists")))
        .filter_map(|expression| expression["key"].as_str().map(str::to_owned));
    equal.chain(positive).collect()
}

/// A selector as the API server takes it in a list. An expression that is not understood selects nothing away.
pub(crate) fn query(selector: &Value) -> String {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut all: Vec<String> =
        equal.filter_map(|(name, value)| value.as_str().map(|value| format!("{name}={value}"))).collect();
    all.extend(expressions(selector).filter_map(|expression| {
        let key = expression["key"].as_str()?;
        let values = expression["values"].as_array().into_iter().flatten();
        let values = values.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        match expression["operator"].as_str()? {
            "In" => Some(format!("{key} in ({values})")),
            "NotIn" => Some(format!("{key} notin ({values})")),
            "Exists" => Some(key.to_owned()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    }));
    all.join(",")
}

fn expressions(selector: &Value) -> impl Iterator<Item = &Value> {
    selector["matchExpressions"].as_array().into_iter().flatten()
}

fn holds(expression: &Value, labels: &BTreeMap<String, String>) -> bool {
    let value = expression["key"].as_str().and_then(|key| labels.get(key));
    let named = || {
        let values = expression["values"].as_array().into_iter().flatten();
        value.is_some_and(|value| values.filter_map(Value::as_str).any(|other| other == value))
    };
    match expression["operator"].as_str() {
        Some("In") => named(),
        Some("NotIn") => !named(),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        // What is not understood is taken to select: nothing is overlooked.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_selects_as_kubernetes_says() {
        let labels = BTreeMap::from([("app".to_owned(), "api".to_owned())]);
        let yes = [
            json!({}),
            json!({"matchLabels": {"app": "api"}}),
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "web"]}]}),
            json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
            json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}]}),
        ];
        let no = [
            json!({"matchLabels": {"app": "web"}}),
            json!({"matchLabels": {"app": "api", "tier": "x"}}),
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["api"]}]}),
            json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
        ];
        for selector in yes {
            assert!(selects(Some(&selector), &labels), "{selector}");
        }
        for selector in no {
            assert!(!selects(Some(&selector), &labels), "{selector}");
        }
        assert!(!selects(None, &labels));
        assert!(ways_out(&json!({})).is_empty());
        assert!(
            ways_out(&json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]})).is_empty()
        );
        assert_eq!(ways_out(&json!({"matchLabels": {"app": "api"}})), BTreeSet::from(["app".into()]));
    }

    #[test]
    fn a_selector_is_asked_as_the_api_server_takes_it() {
        let selector = json!({"matchLabels": {"app": "api"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "NotIn", "values": ["c"]},
            {"key": "y", "operator": "Exists"}, {"key": "example.org/z", "operator": "DoesNotExist"},
        ]});
        assert_eq!(query(&selector), "app=api,tier in (a,b),x notin (c),y,!example.org/z");
        assert_eq!(query(&json!({})), "");
    }
}
