//! What looks for known vulnerabilities in images: Trivy or Grype, and what their reports say.
//!
//! Both are run as they are published, with the image to look at as their last word. Their reports are JSON on the standard output, which
//! is the log of their Job's pod. A report is hostile input: it repeats what stands in the image.

use std::{collections::BTreeSet, str::FromStr};

use model::Outputs;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Identities of vulnerabilities that are told to later steps, at most (I11); the rest is counted.
const MAX_TOLD: usize = 50;
/// Vulnerabilities of one report that are looked at, at most (I11).
const MAX_FOUND: usize = 100_000;
/// Bytes of one identity, at most.
const MAX_ID: usize = 64;

/// What is run, from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scanner {
    /// Which.
    pub kind: ScannerKind,
    /// The image that it comes in.
    pub image: String,
    /// Further words of its command, before the image that it looks at: for example where its database comes from.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// A Secret of type `kubernetes.io/dockerconfigjson` in our own namespace, by which it may pull what it looks at.
    #[serde(default)]
    pub pull_secret: Option<String>,
}

/// A scanner whose reports are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScannerKind {
    /// <https://trivy.dev>
    Trivy,
    /// <https://github.com/anchore/grype>
    Grype,
}

/// Why a text names no scanner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not trivy=IMAGE or grype=IMAGE")]
pub struct ScannerError {
    /// The text.
    text: String,
}

/// `trivy=IMAGE` or `grype=IMAGE`.
impl FromStr for Scanner {
    type Err = ScannerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kind = |name: &str| match name {
            "trivy" => Some(ScannerKind::Trivy),
            "grype" => Some(ScannerKind::Grype),
            _ => None,
        };
        text.split_once('=')
            .filter(|(_, image)| !image.is_empty())
            .and_then(|(name, image)| Some((kind(name)?, image)))
            .map(|(kind, image)| Self { kind, image: image.into(), arguments: Vec::new(), pull_secret: None })
            .ok_or_else(|| ScannerError { text: text.into() })
    }
}

/// Why a log is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoReport {
    /// There is no JSON in it, or it is cut.
    #[error("its output is no whole report: {because}")]
    Json {
        /// Where it ends.
        because: String,
    },
    /// It is JSON of another kind.
    #[error("its output is JSON, but no report of {0}")]
    Foreign(&'static str),
}

/// What a report names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    /// Each vulnerability once, by its identity, with the highest severity that it has in the report.
    pub(crate) known: Vec<(String, Severity)>,
    /// How many of them a newer version of their package does not have.
    pub(crate) fixable: usize,
}

/// How bad a vulnerability is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Unknown,
    Negligible,
    Low,
    Medium,
    High,
    Critical,
}

impl Scanner {
    /// The words of its command.
    pub(crate) fn words(&self, image: &str) -> Vec<String> {
        let (first, last): (&[&str], Vec<String>) = match self.kind {
            ScannerKind::Trivy => (
                &["image", "--quiet", "--format", "json", "--scanners", "vuln", "--image-src", "remote"],
                vec!["--".into(), image.into()],
            ),
            // With the place named, no word can be taken for a file or a folder.
            ScannerKind::Grype => (&["--quiet", "--output", "json"], vec![format!("registry:{image}")]),
        };
        first
            .iter()
            .map(|word| (*word).to_owned())
            .chain(self.arguments.iter().cloned())
            .chain(last)
            .collect()
    }

    /// Reads a report out of a log: other lines may stand before and after it.
    pub(crate) fn report(&self, log: &str) -> Result<Findings, NoReport> {
        let report = json_of(log)?;
        match self.kind {
            ScannerKind::Trivy => trivy(&report),
            ScannerKind::Grype => grype(&report),
        }
    }
}

impl ScannerKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trivy => "trivy",
            Self::Grype => "grype",
        }
    }
}

impl Findings {
    /// For later steps.
    pub(crate) fn outputs(&self) -> Outputs {
        let count = |wanted: Severity| self.known.iter().filter(|(_, of)| *of == wanted).count();
        let mut worst: Vec<&(String, Severity)> = self.known.iter().collect();
        worst.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
        let ids: Vec<&str> = worst.iter().take(MAX_TOLD).map(|(id, _)| id.as_str()).collect();
        [
            ("vulnerable", json!(!self.known.is_empty())),
            ("known", json!(self.known.len())),
            ("critical", json!(count(Severity::Critical))),
            ("high", json!(count(Severity::High))),
            ("fixable", json!(self.fixable)),
            ("ids", json!(ids)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    fn of(all: impl Iterator<Item = (String, Severity, bool)>) -> Self {
        let mut known: std::collections::BTreeMap<String, Severity> = std::collections::BTreeMap::new();
        let mut fixable = BTreeSet::new();
        for (id, severity, fixed) in all.take(MAX_FOUND) {
            if fixed {
                fixable.insert(id.clone());
            }
            let entry = known.entry(id).or_insert(severity);
            *entry = (*entry).max(severity);
        }
        Self { known: known.into_iter().collect(), fixable: fixable.len() }
    }
}

/// The first whole JSON object that begins a line.
fn json_of(log: &str) -> Result<Value, NoReport> {
    let mut at = 0;
    let mut because = "there is no JSON in it".to_owned();
    for line in log.split_inclusive('\n') {
        if line.starts_with('{') {
            match serde_json::Deserializer::from_str(&log[at..]).into_iter::<Value>().next() {
                Some(Ok(value @ Value::Object(_))) => return Ok(value),
                Some(Err(error)) => because = error.to_string(),
                _ => {}
            }
            if because.contains("EOF") {
                break;
            }
        }
        at += line.len();
    }
    Err(NoReport::Json { because })
}

/// github.com/aquasecurity/trivy, pkg/types.Report, SchemaVersion 2.
fn trivy(report: &Value) -> Result<Findings, NoReport> {
    if report["SchemaVersion"] != 2 || !report["ArtifactName"].is_string() {
        return Err(NoReport::Foreign("Trivy"));
    }
    let results = report["Results"].as_array().into_iter().flatten();
    let all = results.flat_map(|result| result["Vulnerabilities"].as_array().into_iter().flatten());
    Ok(Findings::of(all.filter_map(|one| {
        let fixed = one["FixedVersion"].as_str().is_some_and(|version| !version.is_empty());
        Some((id(&one["VulnerabilityID"])?, severity(&one["Severity"]), fixed))
    })))
}

/// github.com/anchore/grype, grype/presenter/models.Document.
fn grype(report: &Value) -> Result<Findings, NoReport> {
    let (Some(matches), "grype") =
        (report["matches"].as_array(), report["descriptor"]["name"].as_str().unwrap_or_default())
    else {
        return Err(NoReport::Foreign("Grype"));
    };
    Ok(Findings::of(matches.iter().filter_map(|one| {
        let of = &one["vulnerability"];
        Some((id(&of["id"])?, severity(&of["severity"]), of["fix"]["state"] == "fixed"))
    })))
}

/// `CVE-2021-44228`, `GHSA-…`: what could be anything else is not taken over.
fn id(value: &Value) -> Option<String> {
    let id = value.as_str()?;
    let sound = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (!id.is_empty() && id.len() <= MAX_ID && id.chars().all(sound)).then(|| id.to_owned())
}

fn severity(value: &Value) -> Severity {
    match value.as_str().unwrap_or_default().to_ascii_lowercase().as_str() {
        "critical" => Severity::Critical,
        "high" => Severity::High,
        "medium" => Severity::Medium,
        "low" => Severity::Low,
        "negligible" => Severity::Negligible,
        _ => Severity::Unknown,
    }
}

#[cfg(test)]
mod tests;
