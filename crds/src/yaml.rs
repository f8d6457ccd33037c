//! The generated CustomResourceDefinitions (crds/yaml). A test fails when a file differs from its type.

use kube::CustomResourceExt;

use crate::{Playbook, ResponsePolicy};

/// A file's name in crds/yaml and its content.
///
/// # Errors
/// When the YAML writer cannot write a schema.
pub fn definitions() -> Result<Vec<(&'static str, String)>, serde_saphyr::SerializeError> {
    Ok(vec![
        ("playbooks.yaml", serde_saphyr::to_string(&Playbook::crd())?),
        ("responsepolicies.yaml", serde_saphyr::to_string(&ResponsePolicy::crd())?),
    ])
}
