//! The tables of docs/resources.md, made from the schemas.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

/// Field by field: what it is, its type and limits, its default; then what the API server refuses by rule.
#[must_use]
pub fn tables(definition: &CustomResourceDefinition) -> String {
    let mut page = Page::default();
    let schema = definition.spec.versions.first().and_then(|version| version.schema.as_ref());
    if let Some(root) = schema.and_then(|schema| schema.open_api_v3_schema.as_ref()) {
        page.rules("", root);
        for part in ["spec", "status"] {
            if let Some(schema) = root.properties.as_ref().and_then(|all| all.get(part)) {
                page.rules(part, schema);
                page.fields(part, schema);
            }
        }
    }
    let mut text = String::from("| field | type | default | what |\n| --- | --- | --- | --- |\n");
    text.push_str(&page.rows);
    if !page.refused.is_empty() {
        text.push_str("\nRefused by rule, with this message:\n\n");
        text.push_str(&page.refused);
    }
    text
}

#[derive(Default)]
struct Page {
    rows: String,
    refused: String,
}

impl Page {
    fn fields(&mut self, path: &str, schema: &JSONSchemaProps) {
        let required = schema.required.clone().unwrap_or_default();
        for (name, field) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            let default = match &field.default {
                // An object's default repeats those of its fields.
                Some(value) if !value.0.is_object() => format!("`{}`", shown(&value.0)),
                _ if required.contains(name) => "required".into(),
                _ => String::new(),
            };
            let what = cell(field.description.as_deref().unwrap_or_default());
            self.rows.push_str(&format!("| `{path}` | {} | {default} | {what} |\n", kind(field)));
            self.rules(&path, field);
            self.fields(&path, field);
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
                let path = format!("{path}[]");
                self.rules(&path, items);
                self.fields(&path, items);
            }
        }
    }

    fn rules(&mut self, path: &str, schema: &JSONSchemaProps) {
        for rule in schema.x_kubernetes_validations.iter().flatten() {
            let at = format!("{path}{}", rule.field_path.as_deref().unwrap_or_default());
            let message = rule.message.as_deref().unwrap_or(&rule.rule);
            self.refused.push_str(&format!("- `{}`: {message}\n", at.trim_start_matches('.')));
        }
    }
}

/// Type and limits in few words.
fn kind(schema: &JSONSchemaProps) -> String {
    if let Some(choices) = &schema.enum_ {
        let choices: Vec<String> = choices.iter().map(|choice| format!("`{}`", shown(&choice.0))).collect();
        return choices.join(", ");
    }
    let mut text = match (schema.type_.as_deref(), &schema.items) {
        (Some("array"), Some(JSONSchemaPropsOrArray::Schema(items))) => format!("list of {}", kind(items)),
        (Some("string"), _) => schema.format.as_deref().map_or("text", |_| "date-time").into(),
        (Some(other), _) => other.to_owned(),
        (None, _) => "any".into(),
    };
    let (least, most) = match schema.type_.as_deref() {
        Some("array") => (schema.min_items, schema.max_items),
        Some("string") => (schema.min_length, schema.max_length),
        _ => (whole(schema.minimum), whole(schema.maximum)),
    };
    match (least.filter(|least| *least != 0), most) {
        (None, None) => {}
        (Some(least), None) => text.push_str(&format!(", at least {least}")),
        (None, Some(most)) => text.push_str(&format!(", at most {most}")),
        (Some(least), Some(most)) => text.push_str(&format!(", {least} to {most}")),
    }
    if let Some(pattern) = &schema.pattern {
        text.push_str(&format!(", `{}`", pattern.replace('|', "\\|")));
    }
    text
}

#[expect(clippy::cast_possible_truncation, reason = "limits in a schema are whole and small")]
fn whole(limit: Option<f64>) -> Option<i64> {
    limit.map(|limit| limit as i64)
}

fn shown(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A description in one line of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
