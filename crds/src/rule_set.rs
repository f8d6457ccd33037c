//! `RuleSet`: detection rules in Git and in the cluster. An object holds at most about 1 MB: larger sets come as several RuleSets, from
//! ConfigMaps, or as an OCI artifact.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, cel::rule};

/// Where rules come from. All sources together are one set; what cannot be compiled is named in the status and the others are loaded.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hemostat.dev",
    version = "v1alpha1",
    kind = "RuleSet",
    derive = "PartialEq",
    status = "RuleSetStatus",
    shortname = "rset",
    category = "hemostat",
    doc = "Sigma rules, inline, from ConfigMaps or from an OCI artifact, and on how many nodes which generation of them is loaded.",
    printcolumn(name = "Rules", type_ = "integer", json_path = ".status.rules"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.summary.nodes"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(
        name = "First failure",
        type_ = "string",
        json_path = ".status.summary.firstFailure",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("(has(self.inline) && self.inline.size() > 0) || (has(self.configMaps) && self.configMaps.size() > 0) || has(self.artifact)",
        "at least one of inline, configMaps and artifact is given"),
]))]
pub struct RuleSetSpec {
    /// What it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub description: String,
    /// Files of Sigma rules as they stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub inline: Vec<Inline>,
    /// ConfigMaps, each key of which is a file of Sigma rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace", "name"]))]
    pub config_maps: Vec<ConfigMapSource>,
    /// A bundle in a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// Ids of rules that are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub disabled: Vec<String>,
}

/// One file of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inline {
    /// The file's name, for messages.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"))]
    pub name: String,
    /// One or more Sigma documents.
    #[schemars(length(min = 1, max = 65536))]
    pub sigma: String,
}

/// Rules in a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapSource {
    /// Where.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9-]*$"))]
    pub namespace: String,
    /// Which.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9][a-z0-9.-]*$"))]
    pub name: String,
    /// Only these keys; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub keys: Vec<String>,
}

/// Rules in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// `registry/repository@sha256:…`, the digest of its manifest: a tag may be moved, so one before the `@` is for people only.
    #[schemars(
        length(min = 1, max = 512),
        regex(
            pattern = r"^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9._-]*)?@sha256:[a-f0-9]{64}$"
        )
    )]
    pub reference: String,
    /// Secret of type kubernetes.io/dockerconfigjson in Hemostat's namespace, named in the chart's `artifacts.pullSecrets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9][a-z0-9.-]*$"))]
    pub pull_secret: Option<String>,
    /// ConfigMap in Hemostat's namespace whose key `ca.crt` holds the authorities to trust, in PEM; the system's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9][a-z0-9.-]*$"))]
    pub ca_config_map: Option<String>,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleSetStatus {
    /// The generation of the spec that was taken in.
    pub observed_generation: i64,
    /// Rules that are compiled.
    pub rules: u32,
    /// Rules that are not.
    pub failed: u32,
    /// Which, and where in them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = RuleSetStatus::MAX_FAILURES))]
    pub failures: Vec<Failure>,
    /// Failures beyond that limit, counted.
    pub failures_omitted: u32,
    /// On how many nodes which generation is loaded, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["generation"]))]
    pub loaded: Vec<Loaded>,
    /// Nodes with an agent.
    pub nodes: u32,
    /// The artifact whose rules are in force: another than the spec's while that one cannot be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub artifact: Option<String>,
    /// SHA-256 of all rules together.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 71))]
    pub digest: String,
    /// What is shown in tables.
    pub summary: Summary,
    /// `Ready`, `Fetched`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Condition::MAX), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl RuleSetStatus {
    /// Failures that are named (I11).
    pub const MAX_FAILURES: u32 = 64;
}

/// A rule that is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Its id, or its title, or nothing where it could not be read so far.
    #[schemars(length(max = 256))]
    pub rule: String,
    /// The file: a name of `inline`, `namespace/name/key` of a ConfigMap, a path in the artifact.
    #[schemars(length(max = 512))]
    pub file: String,
    /// Line in the file, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// How far a generation came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Loaded {
    /// Which generation of the spec.
    pub generation: i64,
    /// On how many nodes.
    pub nodes: u32,
}

/// What is shown in tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Summary {
    /// Nodes on which the newest generation is loaded, of all: `12/12`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16))]
    pub nodes: String,
    /// The first failure as `file:line: message`, cut.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub first_failure: String,
}
