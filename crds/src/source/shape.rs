//! Compares a document with the schema of its type, so that all mistakes of its shape are reported at once; the
//! deserializer would stop at the first.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

use super::{
    place::{Places, Problem},
    tree::{Kind, Node, Spot},
};
use crate::nearest;

/// Everything that does not fit.
pub(super) fn check(root: &Node, crd: &CustomResourceDefinition, places: &Places) -> Vec<Problem> {
    let mut problems = Vec::new();
    let schema = crd.spec.versions.first().and_then(|v| v.schema.as_ref());
    if let Some(schema) = schema.and_then(|s| s.open_api_v3_schema.as_ref()) {
        Walk { places, problems: &mut problems }.node(root, schema, "");
    }
    problems
}

struct Walk<'a> {
    places: &'a Places,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, schema: &JSONSchemaProps, path: &str) {
        match (&node.kind, schema.type_.as_deref()) {
            (Kind::Alias, _) => {}
            (Kind::Scalar(value), _) if value.is_empty() || value == "~" || value == "null" => {}
            (Kind::Map(_), Some("object")) => self.map(node, schema, path),
            (Kind::List(items), Some("array")) => self.list(node, items, schema, path),
            (Kind::Scalar(value), Some("string" | "integer" | "boolean")) => {
                self.scalar(node, value, schema, path);
            }
            (_, None) => {}
            (found, Some(wanted)) => {
                let found = match found {
                    Kind::Scalar(_) => "a single value",
                    Kind::List(_) => "a list",
                    Kind::Map(_) | Kind::Alias => "a mapping",
                };
                let wanted = match wanted {
                    "object" => "a mapping",
                    "array" => "a list",
                    _ => "a single value",
                };
                self.error(node.spot, format!("{path}: expected {wanted}, found {found}"));
            }
        }
    }

    fn map(&mut self, node: &Node, schema: &JSONSchemaProps, path: &str) {
        let Kind::Map(entries) = &node.kind else { return };
        let Some(properties) = schema.properties.as_ref().filter(|p| !p.is_empty()) else { return };
        // the resource's own top level, which the schema of a custom resource leaves out
        let implied: &[&str] = if path.is_empty() { &["apiVersion", "kind", "metadata"] } else { &[] };
        for (index, entry) in entries.iter().enumerate() {
            let inner = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            if entries[..index].iter().any(|earlier| earlier.key == entry.key) {
                self.error(entry.key_spot, format!("{inner}: given twice"));
            }
            match properties.get(&entry.key) {
                Some(schema) => self.node(&entry.value, schema, &inner),
                None if implied.contains(&entry.key.as_str()) => {}
                None => {
                    let known: Vec<&str> =
                        implied.iter().copied().chain(properties.keys().map(String::as_str)).collect();
                    let place = self.places.at(entry.key_spot.line, entry.key_spot.column);
                    let message =
                        format!("unknown field `{}`; expected one of {}", entry.key, known.join(", "));
                    self.problems.push(
                        Problem::error(place, message).meant(nearest(&entry.key, known.iter().copied())),
                    );
                }
            }
        }
        for required in schema.required.iter().flatten() {
            if !entries.iter().any(|entry| entry.key == *required) {
                let at = if path.is_empty() { String::new() } else { format!("{path}.") };
                self.error(node.spot, format!("{at}{required}: missing"));
            }
        }
    }

    fn list(&mut self, node: &Node, items: &[Node], schema: &JSONSchemaProps, path: &str) {
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(most) = schema.max_items.filter(|most| count > *most) {
            self.error(node.spot, format!("{path}: {count} entries; at most {most}"));
        }
        if schema.min_items.is_some_and(|least| count < least) {
            self.error(node.spot, format!("{path}: at least one entry is needed"));
        }
        if let Some(JSONSchemaPropsOrArray::Schema(inner)) = &schema.items {
            for (index, item) in items.iter().enumerate() {
                self.node(item, inner, &format!("{path}[{index}]"));
            }
        }
    }

    fn scalar(&mut self, node: &Node, value: &str, schema: &JSONSchemaProps, path: &str) {
        if schema.type_.as_deref() == Some("integer") {
            match value.parse::<i64>() {
                Err(_) => self.error(node.spot, format!("{path}: expected a whole number, found `{value}`")),
                Ok(number) => self.range(node.spot, number, schema, path),
            }
            return;
        }
        let length = i64::try_from(value.chars().count()).unwrap_or(i64::MAX);
        if schema.max_length.is_some_and(|most| length > most) {
            self.error(
                node.spot,
                format!("{path}: longer than {} characters", schema.max_length.unwrap_or(0)),
            );
        }
        // an action's name is checked with the playbook's other meaning
        if let Some(choices) = schema.enum_.as_ref().filter(|_| !path.ends_with(".action")) {
            let choices: Vec<&str> = choices.iter().filter_map(|choice| choice.0.as_str()).collect();
            if !choices.contains(&value) {
                let place = self.places.at(node.spot.line, node.spot.column);
                let message = format!("{path}: expected one of {}, found `{value}`", choices.join(", "));
                self.problems.push(Problem::error(place, message).meant(nearest(value, choices)));
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "limits in a schema are small")]
    fn range(&mut self, spot: Spot, number: i64, schema: &JSONSchemaProps, path: &str) {
        let (least, most) = (schema.minimum, schema.maximum);
        if least.is_some_and(|least| (number as f64) < least) || most.is_some_and(|most| number as f64 > most)
        {
            let bound = |limit: Option<f64>| limit.map_or("…".into(), |limit| limit.to_string());
            self.error(spot, format!("{path}: {number} is not within {} to {}", bound(least), bound(most)));
        }
    }

    fn error(&mut self, spot: Spot, message: String) {
        self.problems.push(Problem::error(self.places.at(spot.line, spot.column), message));
    }
}
