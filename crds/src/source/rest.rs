//! What is left of a document once everything that its type does not have is left out: never to be used, only to be looked through for
//! further mistakes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    MAX_MISTAKES,
    place::{Places, Problem},
    tree::{Kind, Node},
};

/// The rest as `T`, and what had to be left out besides what the schema tells.
pub(super) fn of<T: DeserializeOwned + CustomResourceExt>(
    root: &Node,
    places: &Places,
) -> (Option<T>, Vec<Problem>) {
    let crd = T::crd();
    let schema = crd.spec.versions.first().and_then(|version| version.schema.as_ref());
    let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_ref()) else {
        return (None, Vec::new());
    };
    let mut rest = known(root, schema, Level::Resource).unwrap_or_default();
    let mut problems = Vec::new();
    for _ in 0..MAX_MISTAKES {
        match serde_path_to_error::deserialize(rest.clone()) {
            Ok(value) => return (Some(value), problems),
            Err(error) => {
                let path = error.path().to_string();
                if !remove(&mut rest, error.path()) {
                    break;
                }
                problems.push(Problem::error(places.of(&path), error.inner().to_string()));
            }
        }
    }
    (None, problems)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Its schema leaves out what every resource has.
    Resource,
    Within,
}

fn known(node: &Node, schema: &JSONSchemaProps, level: Level) -> Option<Value> {
    match (&node.kind, schema.type_.as_deref()) {
        (Kind::Map(entries), Some("object")) => {
            let properties = schema.properties.as_ref().filter(|properties| !properties.is_empty());
            let mut map = Map::new();
            for entry in entries {
                let value = match properties.and_then(|properties| properties.get(&entry.key)) {
                    Some(inner) => known(&entry.value, inner, Level::Within),
                    None if properties.is_none() || level == Level::Resource => plain(&entry.value),
                    None => None,
                };
                map.extend(value.map(|value| (entry.key.clone(), value)));
            }
            if level == Level::Resource {
                map.retain(|key, _| {
                    ["apiVersion", "kind", "metadata"].contains(&key.as_str())
                        || properties.is_some_and(|properties| properties.contains_key(key))
                });
            }
            Some(Value::Object(map))
        }
        (Kind::List(items), Some("array")) => {
            let inner = match &schema.items {
                Some(JSONSchemaPropsOrArray::Schema(inner)) => Some(inner),
                _ => None,
            };
            let values = items.iter().filter_map(|item| match inner {
                Some(inner) => known(item, inner, Level::Within),
                None => plain(item),
            });
            Some(Value::Array(values.collect()))
        }
        (Kind::Scalar(text), Some("integer")) => text.parse::<i64>().ok().map(Value::from),
        (Kind::Scalar(text), Some("boolean")) => text.parse::<bool>().ok().map(Value::from),
        (Kind::Scalar(text), Some("string")) => Some(Value::from(text.as_str())),
        (_, None) => plain(node),
        _ => None,
    }
}

fn plain(node: &Node) -> Option<Value> {
    match &node.kind {
        Kind::Scalar(text) => Some(Value::from(text.as_str())),
        Kind::List(items) => Some(Value::Array(items.iter().filter_map(plain).collect())),
        Kind::Map(entries) => {
            let all = entries.iter().filter_map(|entry| Some((entry.key.clone(), plain(&entry.value)?)));
            Some(Value::Object(all.collect()))
        }
        Kind::Alias => None,
    }
}

/// Whether there was something at `path` to take away.
fn remove(root: &mut Value, path: &serde_path_to_error::Path) -> bool {
    use serde_path_to_error::Segment;
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, before)) = segments.split_last() else { return false };
    let mut node = root;
    for segment in before {
        let inner = match segment {
            Segment::Seq { index } => node.get_mut(*index),
            Segment::Map { key } => node.get_mut(key.as_str()),
            _ => None,
        };
        let Some(inner) = inner else { return false };
        node = inner;
    }
    match (last, node) {
        (Segment::Seq { index }, Value::Array(items)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        (Segment::Map { key }, Value::Object(map)) => map.remove(key).is_some(),
        _ => false,
    }
}
