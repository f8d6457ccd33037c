//! Places in files, and problems that have one.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::tree::{Node, Spot, Style};

/// A place in a file, counted from 1. Line 0: the resource was not read from a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// As it was given to [`super::read`].
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

impl Place {
    /// The first character of a file.
    #[must_use]
    pub fn start_of(file: &Arc<str>) -> Self {
        Self { file: Arc::clone(file), line: 1, column: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value and where each of its parts stands.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// What was read.
    pub value: T,
    /// Where.
    pub places: Places,
}

impl<T> Located<T> {
    /// A value that was made by a program or came from the API server: `origin` stands in for the file.
    pub fn nowhere(value: T, origin: &str) -> Self {
        Self { value, places: Places { file: origin.into(), spots: BTreeMap::new() } }
    }
}

/// Where each part of a document stands, by path: `spec.steps[2].when`.
#[derive(Debug, Clone)]
pub struct Places {
    file: Arc<str>,
    spots: BTreeMap<String, Spot>,
}

impl Places {
    pub(super) fn new(file: Arc<str>, root: &Node, text: &str) -> Self {
        let mut spots = BTreeMap::new();
        collect(root, String::new(), &mut spots);
        let lines: Vec<&str> = text.lines().collect();
        for spot in spots.values_mut().filter(|spot| spot.style == Style::Block) {
            let content = lines.get(spot.line as usize).copied().unwrap_or_default();
            let indent = content.chars().take_while(|c| *c == ' ').count();
            spot.block_indent = u32::try_from(indent).unwrap_or(0);
        }
        Self { file, spots }
    }

    /// The place of `path`, or of the nearest thing around it that has one.
    #[must_use]
    pub fn of(&self, path: &str) -> Place {
        let spot = self.spot(path);
        self.at(spot.map_or(0, |s| s.line), spot.map_or(0, |s| s.column))
    }

    /// A place within the text at `path`: `line` and `column` count from 1 within that text.
    #[must_use]
    pub fn within(&self, path: &str, line: u32, column: u32) -> Place {
        match self.spot(path) {
            Some(Spot { line: first, style: Style::Block, block_indent, .. }) => {
                self.at(first + line, block_indent + column)
            }
            Some(Spot { line: first, column: start, style, .. }) if line == 1 => {
                let quote = u32::from(*style == Style::Quoted);
                self.at(*first, start + quote + column - 1)
            }
            _ => self.of(path),
        }
    }

    pub(super) fn at(&self, line: u32, column: u32) -> Place {
        Place { file: Arc::clone(&self.file), line, column }
    }

    fn spot(&self, path: &str) -> Option<&Spot> {
        let mut path = path;
        loop {
            if let Some(spot) = self.spots.get(path) {
                return Some(spot);
            }
            if path.is_empty() {
                return None;
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }
}

fn collect(node: &Node, path: String, spots: &mut BTreeMap<String, Spot>) {
    match &node.kind {
        super::tree::Kind::Map(entries) => {
            for entry in entries {
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                collect(&entry.value, path, spots);
            }
        }
        super::tree::Kind::List(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{path}[{index}]"), spots);
            }
        }
        super::tree::Kind::Scalar(_) | super::tree::Kind::Alias => {}
    }
    spots.insert(path, node.spot);
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It works, and yet it is probably not what is wanted.
    Warning,
    /// It cannot be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Something wrong, where it stands, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// How bad.
    pub severity: Severity,
    /// What is wrong and what was expected.
    pub message: String,
    /// The next step, where there is a likely one.
    pub help: Option<String>,
}

impl Problem {
    /// It cannot be used.
    #[must_use]
    pub fn error(place: Place, message: String) -> Self {
        Self { place, severity: Severity::Error, message, help: None }
    }

    /// It works, and yet it is probably not what is wanted.
    #[must_use]
    pub fn warning(place: Place, message: String) -> Self {
        Self { place, severity: Severity::Warning, message, help: None }
    }

    /// With the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With what was probably meant.
    #[must_use]
    pub fn meant(mut self, candidate: Option<&str>) -> Self {
        if let Some(candidate) = candidate {
            self.help = Some(format!("did you mean `{candidate}`?"));
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.severity, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}
