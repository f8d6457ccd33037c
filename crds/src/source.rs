//! From YAML text to resources, with the place of everything, so that each mistake can be shown where it stands.

mod place;
mod rest;
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
/// Values of a wrong type that are told of one resource (I11).
const MAX_MISTAKES: usize = 64;
/// The only version there is.
pub const API_VERSION: &str = "hemostat.dev/v1alpha1";

/// What was found in a file.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// What could be read.
    pub resources: Vec<Resource>,
    /// Resources whose shape is wrong, with the wrong values left out: never to be used, only to be looked through for further mistakes.
    pub damaged: Vec<Resource>,
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
            if let Some((value, shape)) = typed::<Playbook>(text, &document, &places, out) {
                out.take(Resource::Playbook(Box::new(Located { value, places })), shape);
            }
        }
        Some("ResponsePolicy") => {
            if let Some((value, shape)) = typed::<ResponsePolicy>(text, &document, &places, out) {
                out.take(Resource::ResponsePolicy(Box::new(Located { value, places })), shape);
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

/// Whether a document is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Fine,
    Wrong,
}

impl Reading {
    fn take(&mut self, resource: Resource, shape: Shape) {
        match shape {
            Shape::Fine => self.resources.push(resource),
            Shape::Wrong => self.damaged.push(resource),
        }
    }
}

/// The document as `T`, and every problem of its shape. The deserializer stops at the first value of a wrong type: that is told, left out, and
/// it goes on. Where that cannot be done in the text, everything that the type does not have is left out at once.
fn typed<T: DeserializeOwned + CustomResourceExt>(
    text: &str,
    document: &tree::Document,
    places: &Places,
    out: &mut Reading,
) -> Option<(T, Shape)> {
    let mut problems = shape::check(&document.root, &T::crd(), places);
    if document.root.scalar_at("metadata.name").is_none_or(str::is_empty) {
        problems.push(Problem::error(places.of("metadata"), "metadata.name: missing".into()));
    }
    let mut padded = document.padded(text);
    let mut value = None;
    for _ in 0..MAX_MISTAKES {
        match serde_saphyr::from_str::<T>(&padded) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(error) => {
                let problem = from_serde(&error, places);
                let wrong = problem.place.clone();
                if !problems.iter().any(|known| known.place.line == wrong.line) {
                    problems.push(problem);
                }
                match without_value(&padded, &document.root, wrong.line, wrong.column) {
                    Some(rest) => padded = rest,
                    None => break,
                }
            }
        }
    }
    if value.is_none() {
        let (rest, wrong) = rest::of::<T>(&document.root, places);
        value = rest;
        for problem in wrong {
            if !problems.iter().any(|known| known.place == problem.place) {
                problems.push(problem);
            }
        }
    }
    let shape = if problems.is_empty() { Shape::Fine } else { Shape::Wrong };
    out.problems.append(&mut problems);
    value.map(|value| (value, shape))
}

/// The text without the single value that stands there, or on that line if there is only one: without its key where that has a line for itself, so
/// that the default holds, otherwise `null` in its place.
fn without_value(text: &str, root: &tree::Node, line: u32, column: u32) -> Option<String> {
    let mut values = root.scalars_on(line);
    if values.len() > 1 {
        values.retain(|(spot, _)| spot.column == column);
    }
    let [(spot, value)] = values[..] else { return None };
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let found = lines.get_mut(line.checked_sub(1)? as usize)?;
    let start = found.char_indices().nth(spot.column.checked_sub(1)? as usize)?.0;
    let rest = found.get(start..)?;
    let raw = [value.to_owned(), format!("\"{value}\""), format!("'{value}'")];
    let length =
        raw.iter().find(|raw| !raw.is_empty() && *raw != "null" && rest.starts_with(raw.as_str()))?.len();
    let after = found.get(start + length..)?.trim_start();
    let before = found.get(..start)?.trim();
    let has_line = (after.is_empty() || after.starts_with('#'))
        && before.strip_suffix(':').is_some_and(|key| !key.contains([' ', '{', '[', ',', '"', '\'']));
    if has_line {
        found.clear();
    } else {
        found.replace_range(start..start + length, "null");
    }
    Some(lines.join("\n"))
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
