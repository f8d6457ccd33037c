//! A change of mode as a patch for Git: a unified diff of the file, so that a person reviews and applies it.

use std::fmt::Write as _;

use crds::{
    Mode,
    source::{Resource, Severity, read},
};

/// Lines shown around the change.
const AROUND: usize = 3;

/// One file's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// The file, as seen from where the patch is applied, with `/`.
    pub path: String,
    /// Text of the change.
    pub diff: String,
}

/// Why there is no diff.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPatch {
    /// It is not in the text that was read.
    #[error("{kind} {name} is not in this text any more")]
    Absent {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It is written in a way in which one line cannot be changed alone.
    #[error("the mode of {name} is written in a way that a diff of one line cannot change")]
    Unusual {
        /// Its name.
        name: String,
    },
}

/// What is changed the mode of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Playbook,
    ResponsePolicy,
}

/// The change of the mode of a playbook (or, with `policy`, of a policy) in `text`, which is the content of `path`. What the change does is read
/// back: nothing but the mode is another one after it.
///
/// # Errors
/// Where it is not in the text, or is written so that no change of a line does it.
pub fn mode_hunk(path: &str, text: &str, name: &str, policy: bool, to: Mode) -> Result<Hunk, NoPatch> {
    let kind = if policy { Kind::ResponsePolicy } else { Kind::Playbook };
    let before = modes(text);
    let Some(at) = before.iter().position(|one| one.kind == kind && one.name == name) else {
        let kind = if policy { "policy" } else { "playbook" };
        return Err(NoPatch::Absent { kind, name: name.to_owned() });
    };
    let unusual = || NoPatch::Unusual { name: name.to_owned() };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let one = &before[at];
    let mut changed: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
    let (place, removed) = match one.mode_line {
        Some(line) => {
            let place = line.checked_sub(1).filter(|place| *place < lines.len()).ok_or_else(unusual)?;
            let (start, value) =
                (one.mode_column.saturating_sub(1), format!("{:?}", one.mode.unwrap_or_default()));
            let old = lines[place];
            let from = old.char_indices().nth(start).map(|(byte, _)| byte).ok_or_else(unusual)?;
            let quoted = usize::from(old[from..].starts_with(['"', '\'']));
            let rest = &old[from + quoted..];
            if !rest.starts_with(&value) {
                return Err(unusual());
            }
            changed[place] = format!("{}{to:?}{}", &old[..from + quoted], &rest[value.len()..]);
            (place, 1)
        }
        None => {
            // Nothing is said of it: a line of its own, where the specification begins.
            let place =
                one.spec_line.checked_sub(1).filter(|place| *place < lines.len()).ok_or_else(unusual)?;
            let indent: String = " ".repeat(one.spec_column.saturating_sub(1));
            if indent.is_empty() || !lines[place].starts_with(&indent) {
                return Err(unusual());
            }
            changed.insert(place, format!("{indent}mode: {to:?}\n"));
            (place, 0)
        }
    };
    let after_text = changed.concat();
    let mut wanted = before.clone();
    wanted[at].mode = Some(to);
    if modes(&after_text).iter().map(Said::essence).ne(wanted.iter().map(Said::essence)) {
        return Err(unusual());
    }
    Ok(Hunk { path: path.to_owned(), diff: unified(path, &lines, &changed, place, removed) })
}

/// A whole patch: what it is for first, which `git apply` and `patch -p1` skip.
#[must_use]
pub fn patch(subject: &str, evidence: &[String], hunks: &[Hunk]) -> String {
    let mut out = format!("Subject: {}\n\n", one_line(subject));
    for line in evidence {
        let _never_fails = writeln!(out, "- {}", one_line(line));
    }
    out.push('\n');
    for hunk in hunks {
        out.push_str(&hunk.diff);
    }
    out
}

/// What a text says of one resource.
#[derive(Debug, Clone)]
struct Said {
    kind: Kind,
    name: String,
    mode: Option<Mode>,
    /// Everything else, as JSON.
    rest: String,
    mode_line: Option<usize>,
    mode_column: usize,
    spec_line: usize,
    spec_column: usize,
}

impl Said {
    fn essence(&self) -> (Kind, String, Option<Mode>, String) {
        (self.kind, self.name.clone(), self.mode, self.rest.clone())
    }
}

fn modes(text: &str) -> Vec<Said> {
    let reading = read("", text);
    if reading.problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Vec::new();
    }
    let said = |resource: &Resource| {
        let (kind, metadata, mode, places, rest) = match resource {
            Resource::Playbook(one) => {
                let mut value = one.value.clone();
                let mode = std::mem::take(&mut value.spec.mode);
                (Kind::Playbook, &one.value.metadata, Some(mode), &one.places, serde_json::to_string(&value))
            }
            Resource::ResponsePolicy(one) => {
                let mut value = one.value.clone();
                let mode = value.spec.mode.take();
                (Kind::ResponsePolicy, &one.value.metadata, mode, &one.places, serde_json::to_string(&value))
            }
        };
        let (mode_at, spec_at) = (places.of("spec.mode"), places.of("spec"));
        // What has no place of its own is given that of what is around it.
        let own = (mode_at.line, mode_at.column) != (spec_at.line, spec_at.column);
        Said {
            kind,
            name: metadata.name.clone().unwrap_or_default(),
            mode,
            rest: rest.unwrap_or_default(),
            mode_line: own.then_some(mode_at.line as usize),
            mode_column: mode_at.column as usize,
            spec_line: spec_at.line as usize,
            spec_column: spec_at.column as usize,
        }
    };
    reading.resources.iter().map(said).collect()
}

/// The unified format (POSIX `diff -u`) of one change of at most one line at `place`.
fn unified(path: &str, before: &[&str], after: &[String], place: usize, removed: usize) -> String {
    let path = one_line(path);
    let first = place.saturating_sub(AROUND);
    let end = (place + removed + AROUND).min(before.len());
    let (old, new) = (end - first, end - first + 1 - removed);
    let mut out = format!("--- a/{path}\n+++ b/{path}\n@@ -{},{old} +{},{new} @@\n", first + 1, first + 1);
    let mut line = |sign: char, text: &str| {
        out.push(sign);
        out.push_str(text);
        if !text.ends_with('\n') {
            out.push_str("\n\\ No newline at end of file\n");
        }
    };
    for text in &before[first..place] {
        line(' ', text);
    }
    for text in &before[place..place + removed] {
        line('-', text);
    }
    line('+', &after[place]);
    for text in &before[place + removed..end] {
        line(' ', text);
    }
    out
}

/// Without what would begin a line of its own: a name must not forge a part of the patch.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c) { ' ' } else { c })
        .collect()
}
