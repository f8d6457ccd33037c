//! The CustomResourceDefinitions, from the types. deploy/crds holds them as YAML and docs/resources.md as tables; a test fails when
//! either differs.

mod page;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

pub use page::tables;

use crate::{
    Playbook, ResponsePolicy, approval::Approval, incident::Incident, narrative::Narrative,
    response_action::ResponseAction, rule_set::RuleSet,
};

/// A definition could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The type's schema is none that the API server understands.
    #[error("make the definition of {kind}: {source}")]
    Schema {
        /// Of which kind.
        kind: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The YAML writer could not write it.
    #[error("write the definition of {kind} as YAML: {source}")]
    Yaml {
        /// Of which kind.
        kind: String,
        /// Why.
        source: serde_saphyr::SerializeError,
    },
}

/// All seven, as the API server takes them.
///
/// # Errors
/// When a type's schema is none that the API server understands.
pub fn all() -> Result<Vec<CustomResourceDefinition>, DefinitionError> {
    [
        RuleSet::crd(),
        Playbook::crd(),
        ResponsePolicy::crd(),
        Incident::crd(),
        ResponseAction::crd(),
        Approval::crd(),
        Narrative::crd(),
    ]
    .into_iter()
    .map(|definition| {
        let kind = definition.spec.names.kind.clone();
        let error = |source| DefinitionError::Schema { kind, source };
        let mut value = serde_json::to_value(definition).map_err(error.clone())?;
        if let Some(schema) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
            known_formats(schema);
            if value.pointer("/spec/names/kind") == Some(&json!("Approval")) {
                only_while_pending(&mut value);
            }
        }
        serde_json::from_value(value).map_err(error)
    })
    .collect()
}

/// File names in deploy/crds and their contents.
///
/// # Errors
/// When a definition cannot be made or written.
pub fn files() -> Result<Vec<(String, String)>, DefinitionError> {
    all()?
        .into_iter()
        .map(|definition| {
            let kind = definition.spec.names.kind.clone();
            let text = serde_saphyr::to_string(&definition)
                .map_err(|source| DefinitionError::Yaml { kind, source })?;
            Ok((format!("{}.yaml", definition.spec.names.plural), text))
        })
        .collect()
}

/// Rust's widths of integers are none that Kubernetes knows; it would warn of each at every apply.
fn known_formats(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let most = match map.get("format").and_then(Value::as_str) {
                Some("uint8") => Some(("int32", Some(u32::from(u8::MAX)))),
                Some("uint16") => Some(("int32", Some(u32::from(u16::MAX)))),
                Some("uint32") => Some(("int64", Some(u32::MAX))),
                Some("uint64" | "uint") => Some(("int64", None)),
                _ => None,
            };
            if let Some((format, most)) = most {
                map.insert("format".into(), json!(format));
                if let Some(most) = most
                    && !map.contains_key("maximum")
                {
                    map.insert("maximum".into(), json!(most));
                }
            }
            map.values_mut().for_each(known_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(known_formats),
        _ => {}
    }
}

/// The one rule that needs spec and status together, which a type of the spec cannot carry.
fn only_while_pending(definition: &mut Value) {
    if let Some(Value::Object(schema)) = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        let rule = crate::cel::rule_at(
            ".spec.decision",
            "has(self.spec.decision) == has(oldSelf.spec.decision) || !has(oldSelf.status) || oldSelf.status.state == 'Pending'",
            "the approval is over: it was decided, expired or withdrawn",
        );
        schema.insert("x-kubernetes-validations".into(), json!([rule]));
    }
}
