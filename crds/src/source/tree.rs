//! The YAML as it stands: keys, values and places, before any type is imposed on it.

use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use super::place::{Place, Problem};

/// Nesting of one document, at most (I11).
const MAX_DEPTH: usize = 32;

/// One document of a file.
pub(super) struct Document {
    pub(super) root: Node,
    /// First and one past the last line, from 0.
    lines: (usize, usize),
}

impl Document {
    /// The document's text with as many empty lines before it as keep its line numbers.
    pub(super) fn padded(&self, text: &str) -> String {
        let (first, end) = self.lines;
        let mut padded = "\n".repeat(first);
        for line in text.split_inclusive('\n').skip(first).take(end - first) {
            padded.push_str(line);
        }
        padded
    }
}

pub(super) struct Node {
    pub(super) spot: Spot,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    Alias,
}

pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_spot: Spot,
    pub(super) value: Node,
}

/// Where a node begins, from 1, and how it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) style: Style,
    /// Columns before the content of a block scalar.
    pub(super) block_indent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Quoted,
    Block,
    /// Folded text, lists and maps: positions within are not those of the file.
    Other,
}

impl Node {
    /// The scalar at a path of keys.
    pub(super) fn scalar_at(&self, path: &str) -> Option<&str> {
        let mut node = self;
        for key in path.split('.') {
            let Kind::Map(entries) = &node.kind else { return None };
            node = &entries.iter().find(|entry| entry.key == key)?.value;
        }
        match &node.kind {
            Kind::Scalar(value) => Some(value),
            _ => None,
        }
    }
}

impl Node {
    /// The single values that begin on a line.
    pub(super) fn scalars_on(&self, line: u32) -> Vec<(Spot, &str)> {
        let mut found = vec![];
        self.collect_scalars(line, &mut found);
        found
    }

    fn collect_scalars<'a>(&'a self, line: u32, found: &mut Vec<(Spot, &'a str)>) {
        match &self.kind {
            Kind::Scalar(value) if self.spot.line == line => found.push((self.spot, value)),
            Kind::List(items) => items.iter().for_each(|item| item.collect_scalars(line, found)),
            Kind::Map(entries) => entries.iter().for_each(|entry| entry.value.collect_scalars(line, found)),
            Kind::Scalar(_) | Kind::Alias => {}
        }
    }
}

/// Every document up to the first syntax error, and that error.
pub(super) fn parse(file: &Arc<str>, text: &str) -> (Vec<Document>, Option<Problem>) {
    let mut parser = Parser::new_from_str(text);
    let mut documents: Vec<Document> = Vec::new();
    let total_lines = text.split_inclusive('\n').count();
    let mut begun = 0;
    loop {
        match parser.next() {
            None => break,
            Some(Err(error)) => {
                let spot = spot(error.marker().line(), error.marker().col(), Style::Other);
                let place = Place { file: Arc::clone(file), line: spot.line, column: spot.column };
                return (documents, Some(Problem::error(place, format!("no valid YAML: {}", error.info()))));
            }
            Some(Ok((Event::DocumentStart(..), span))) => {
                begun = if documents.is_empty() { 0 } else { span.start.line().saturating_sub(1) };
                if let Some(last) = documents.last_mut() {
                    last.lines.1 = begun;
                }
            }
            Some(Ok((
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Comment(..),
                _,
            ))) => {}
            Some(Ok((event, span))) => match node(&mut parser, event, span, 0) {
                Ok(root) => {
                    let empty = matches!(&root.kind, Kind::Scalar(value) if value.is_empty() || value == "~");
                    if !empty {
                        documents.push(Document { root, lines: (begun, total_lines) });
                    }
                }
                Err((line, column, message)) => {
                    let place = Place { file: Arc::clone(file), line, column };
                    return (documents, Some(Problem::error(place, message)));
                }
            },
        }
    }
    (documents, None)
}

type Broken = (u32, u32, String);

fn node<'t>(
    parser: &mut Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    event: Event<'t>,
    span: Span,
    depth: usize,
) -> Result<Node, Broken> {
    let (line, col) = (span.start.line(), span.start.col());
    if depth > MAX_DEPTH {
        let at = spot(line, col, Style::Other);
        return Err((at.line, at.column, format!("nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(match event {
        Event::Scalar(value, style, _, _) => {
            Node { spot: spot(line, col, style_of(style)), kind: Kind::Scalar(value.into_owned()) }
        }
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(parser)? {
                    (Event::SequenceEnd, _) => break,
                    (event, span) => items.push(node(parser, event, span, depth + 1)?),
                }
            }
            Node { spot: spot(line, col, Style::Other), kind: Kind::List(items) }
        }
        Event::MappingStart(..) => {
            let mut entries = Vec::new();
            loop {
                let (event, span) = next(parser)?;
                if matches!(event, Event::MappingEnd) {
                    break;
                }
                let key = node(parser, event, span, depth + 1)?;
                let (event, span) = next(parser)?;
                let value = node(parser, event, span, depth + 1)?;
                let name = match key.kind {
                    Kind::Scalar(name) => name,
                    _ => String::new(),
                };
                entries.push(Entry { key: name, key_spot: key.spot, value });
            }
            Node { spot: spot(line, col, Style::Other), kind: Kind::Map(entries) }
        }
        _ => Node { spot: spot(line, col, Style::Other), kind: Kind::Alias },
    })
}

fn next<'t>(
    parser: &mut Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
) -> Result<(Event<'t>, Span), Broken> {
    loop {
        match parser.next() {
            Some(Ok((Event::Comment(..), _))) => {}
            Some(Ok(found)) => return Ok(found),
            Some(Err(error)) => {
                let at = spot(error.marker().line(), error.marker().col(), Style::Other);
                return Err((at.line, at.column, format!("no valid YAML: {}", error.info())));
            }
            None => return Err((1, 1, "no valid YAML: the text ends within a document".into())),
        }
    }
}

/// The parser counts lines from 1 and columns from 0.
fn spot(line: usize, column: usize, style: Style) -> Spot {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Spot { line: number(line), column: number(column).saturating_add(1), style, block_indent: 0 }
}

fn style_of(style: ScalarStyle) -> Style {
    match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
        ScalarStyle::Literal => Style::Block,
        ScalarStyle::Folded => Style::Other,
    }
}
