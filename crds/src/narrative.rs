//! `Narrative`: an incident as one document from which a person decides. It stands beside its Incident, for those who may read that namespace,
//! and goes with it. A kind of its own, so that whoever keeps it needs no right to anybody's ConfigMaps.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Moment, cel::immutable};

/// Most bytes of a document: far below what an object may have, since there are many.
pub const MOST_BYTES: usize = 256 * 1024;

/// The document.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hemostat.dev",
    version = "v1alpha1",
    kind = "Narrative",
    namespaced,
    derive = "PartialEq",
    shortname = "narr",
    doc = "An incident as one document: what is asked, what fell short, what happened. `kubectl hemostat show INCIDENT --narrative` shows it.",
    printcolumn(name = "Questions", type_ = "integer", json_path = ".spec.questions"),
    printcolumn(name = "Told", type_ = "date", json_path = ".spec.told"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct NarrativeSpec {
    /// The incident, in this namespace.
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [immutable("the incident")]))]
    pub incident: String,
    /// When it was told: what came later is not in it.
    pub told: Moment,
    /// Questions that waited for a yes then.
    pub questions: u32,
    /// JSON (docs/narrative.md).
    #[schemars(length(min = 2, max = 262_144))]
    pub document: String,
}
