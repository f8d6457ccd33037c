//! From YAML text to resources, with the place of everything, so that each mistake can be shown where it stands.

mod place;
mod shape;
mod tree;

use std::sync::Arc;

use kube::CustomResourceExt;
pub use place::{Located, Place, Places, Problem, Severity};
use serde::de::DeserializeOwned;

use crate::{Playbook, ResponsePolicy, nearest};

/// Bytes of one file, at most (I11).
pub const MAX_FILE: usize = 1 << 20;
/// Resources in one file, at most (I11).
pub const MAX_DOCUMENTS: usize = 256;
/// The only version there is.
pub const API_VERSION: &str = "hemostat.dev/v1alpha1";

/// What was found in a file.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// What could be read.
    pub resources: Vec<Resource>,
    /// What could not, each with its place.
    pub problems: Vec<Problem>,
}

/// One resource of a file.
#[derive(Debug, Clone)]
pub enum Resource {
    /// A playbook.
    Playbook(Box<Located<Playbook>>),
    /// A policy.
    ResponsePolicy(Box<Located<ResponsePolicy>>),
}

/// Reads every resource in `text`. `file` is only for the places. One document's mistakes do not hide another's.
#[must_use]
pub fn read(file: &str, text: &str) -> Reading {
    let file: Arc<str> = file.into();
    let mut reading = Reading::default();
    if text.len() > MAX_FILE {
        let message = format!("the file has {} bytes; at most {MAX_FILE} are read", text.len());
        reading.problems.push(Problem::error(Place::start_of(&file), message));
        return reading;
    }
    let (documents, broken) = tree::parse(&file, text);
    reading.problems.extend(broken);
    for document in documents.into_iter().take(MAX_DOCUMENTS) {
        read_document(&file, text, document, &mut reading);
    }
    reading
}

fn read_document(file: &Arc<str>, text: &str, document: tree::Document, out: &mut Reading) {
    let places = Places::new(Arc::clone(file), &document.root, text);
    let root = &document.root;
    match root.scalar_at("apiVersion") {
        Some(API_VERSION) => {}
        found => {
            let found = found.map_or("nothing".into(), |v| format!("`{v}`"));
            let message = format!("apiVersion: expected `{API_VERSION}`, found {found}");
            out.problems.push(Problem::error(places.of("apiVersion"), message));
        }
    }
    match root.scalar_at("kind") {
        Some("Playbook") => {
            if let Some(value) = typed::<Playbook>(text, &document, &places, out) {
                out.resources.push(Resource::Playbook(Box::new(Located { value, places })));
            }
        }
        Some("ResponsePolicy") => {
            if let Some(value) = typed::<ResponsePolicy>(text, &document, &places, out) {
                out.resources.push(Resource::ResponsePolicy(Box::new(Located { value, places })));
            }
        }
        other => {
            let kinds = ["Playbook", "ResponsePolicy"];
            let message = format!(
                "kind: expected one of {}, found {}",
                kinds.join(", "),
                other.map_or("nothing".into(), |v| format!("`{v}`"))
            );
            out.problems.push(
                Problem::error(places.of("kind"), message).meant(other.and_then(|v| nearest(v, kinds))),
            );
        }
    }
}

/// The document as `T`, and every problem of its shape.
fn typed<T: DeserializeOwned + CustomResourceExt>(
    text: &str,
    document: &tree::Document,
    places: &Places,
    out: &mut Reading,
) -> Option<T> {
    let mut problems = shape::check(&document.root, &T::crd(), places);
    if document.root.scalar_at("metadata.name").is_none_or(str::is_empty) {
        problems.push(Problem::error(places.of("metadata"), "metadata.name: missing".into()));
    }
    let value = match serde_saphyr::from_str::<T>(&document.padded(text)) {
        Ok(value) => Some(value),
        Err(error) => {
            let problem = from_serde(&error, places);
            if !problems.iter().any(|known| known.place.line == problem.place.line) {
                problems.push(problem);
            }
            None
        }
    };
    let fine = problems.is_empty();
    out.problems.append(&mut problems);
    value.filter(|_| fine)
}

fn from_serde(error: &serde_saphyr::Error, places: &Places) -> Problem {
    let error = error.without_snippet();
    let place = error.location().map_or_else(
        || places.of(""),
        |at| places.at(at.line().try_into().unwrap_or(u32::MAX), at.column().try_into().unwrap_or(u32::MAX)),
    );
    let (message, meant) = match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => (
            format!("unknown field `{field}`; expected one of {}", expected.join(", ")),
            nearest(field, expected.iter().copied()),
        ),
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => (
            format!("unknown value `{variant}`; expected one of {}", expected.join(", ")),
            nearest(variant, expected.iter().copied()),
        ),
        serde_saphyr::Error::Message { msg, .. } => (msg.clone(), None),
        other => (first_line(&other.to_string()), None),
    };
    Problem::error(place, message).meant(meant)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
