//! YAML with a span on every node, within the bounds of [`crate::limits`].
//!
//! No aliases (they multiply) and no tags. Each document of a file is parsed by itself, so that a syntax error in one
//! leaves the others alone: a line that begins with `---` always begins a document.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use crate::{
    diagnostic::{Code, Diagnostic},
    limits,
    source::{FileId, Span},
};

/// A node and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) data: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    Scalar { text: String, style: Style },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// Only plain scalars can be numbers, truth values or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
}

impl Node {
    /// For messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.data {
            Data::Scalar { text, style: Style::Plain } if is_null(text) => "nothing",
            Data::Scalar { .. } => "a single value",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar { text, style: Style::Plain } if is_null(text))
    }

    /// Where bytes `from..to` of the scalar's text stand in the file: exact if the text stands there as it is, otherwise
    /// the whole node.
    pub(crate) fn part(&self, source: &str, from: usize, to: usize) -> Span {
        let Some(text) = self.text() else { return self.span };
        let verbatim = source.get(self.span.range()).and_then(|written| written.find(text));
        let Some(offset) = verbatim else { return self.span };
        let start = self.span.start as usize + offset;
        Span { file: self.span.file, start: clip(start + from), end: clip(start + to) }
    }
}

/// YAML 1.2 core schema.
pub(crate) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The documents of a file. Empty ones are left out.
pub(crate) fn documents(file: FileId, text: &str, diagnostics: &mut Vec<Diagnostic>) -> Vec<Node> {
    if text.len() > limits::FILE_BYTES {
        let message = format!("the file is larger than {} bytes", limits::FILE_BYTES);
        diagnostics.push(Diagnostic::error(Code::Limit, message, Span { file, start: 0, end: 0 }, ""));
        return vec![];
    }
    let mut found = vec![];
    for (number, (start, chunk)) in chunks(text).into_iter().enumerate() {
        if number == limits::DOCUMENTS {
            let message = format!("the file has more than {} documents", limits::DOCUMENTS);
            let span = Span { file, start: clip(start), end: clip(start) };
            diagnostics.push(Diagnostic::error(Code::Limit, message, span, "the rest is not loaded"));
            break;
        }
        match Builder::new(file, start, chunk).build() {
            Ok(nodes) => found.extend(nodes.into_iter().filter(|node| !node.is_null())),
            Err(diagnostic) => diagnostics.push(*diagnostic),
        }
    }
    found
}

/// Pieces that begin at the lines that begin with `---`, with their byte offsets.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let marks = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if at > 0 && marks {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(&start, end)| (start, &text[start..end])).collect()
}

struct Builder<'t> {
    file: FileId,
    base: usize,
    text: &'t str,
    /// Byte offset of each character; empty for ASCII, where they are the same.
    offsets: Vec<usize>,
    parser: Parser<'t, StrInput<'t>>,
    nodes: usize,
}

/// A list or mapping that is not finished, and the nodes in it so far.
struct Open {
    start: Marker,
    is_map: bool,
    children: Vec<Node>,
}

impl<'t> Builder<'t> {
    fn new(file: FileId, base: usize, text: &'t str) -> Self {
        let offsets = if text.is_ascii() { vec![] } else { text.char_indices().map(|(at, _)| at).collect() };
        Self { file, base, text, offsets, parser: Parser::new_from_str(text), nodes: 0 }
    }

    fn build(mut self) -> Result<Vec<Node>, Box<Diagnostic>> {
        let mut roots = vec![];
        let mut open: Vec<Open> = vec![];
        while let Some(next) = self.parser.next_event() {
            let (event, span) = next.map_err(|error| self.syntax_error(&error))?;
            let here = self.span(span.start, span.end);
            let finished = match event {
                Event::Scalar(text, style, _, tag) => {
                    self.refuse_tag(tag.is_some(), here)?;
                    let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                    Node { span: here, data: Data::Scalar { text: text.into_owned(), style } }
                }
                Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) if tag.is_some() => {
                    return Err(Self::tag_error(here));
                }
                Event::SequenceStart(..) | Event::MappingStart(..) => {
                    if open.len() >= limits::DEPTH {
                        let message = format!("nested deeper than {} levels", limits::DEPTH);
                        return Err(Box::new(Diagnostic::error(Code::Limit, message, here, "")));
                    }
                    let is_map = matches!(event, Event::MappingStart(..));
                    open.push(Open { start: span.start, is_map, children: vec![] });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(done) = open.pop() else { continue };
                    self.close(done, span.end)
                }
                Event::Alias(_) => {
                    let message = "aliases are not allowed in rule files";
                    return Err(Box::new(
                        Diagnostic::error(Code::Yaml, message, here, "this is an alias")
                            .help("write the value out; quote it if it is a text that begins with `*`"),
                    ));
                }
                _ => continue,
            };
            self.nodes += 1;
            if self.nodes > limits::NODES {
                return Err(too_much(finished.span));
            }
            match open.last_mut() {
                Some(parent) => parent.children.push(finished),
                None => roots.push(finished),
            }
        }
        Ok(roots)
    }

    fn close(&self, done: Open, end: Marker) -> Node {
        // The parser puts the end of a block at the next token: the last child's end is nearer to what people see.
        let start = self.span(done.start, done.start);
        let last = done.children.last().map_or(self.span(done.start, end).end, |child| child.span.end);
        let span = Span { end: last.max(start.end), ..start };
        let data = if done.is_map {
            let mut pairs = vec![];
            let mut children = done.children.into_iter();
            while let (Some(key), Some(value)) = (children.next(), children.next()) {
                pairs.push((key, value));
            }
            Data::Map(pairs)
        } else {
            Data::List(done.children)
        };
        Node { span, data }
    }

    fn refuse_tag(&self, tagged: bool, here: Span) -> Result<(), Box<Diagnostic>> {
        if tagged { Err(Self::tag_error(here)) } else { Ok(()) }
    }

    fn tag_error(here: Span) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(
            Code::Yaml,
            "YAML tags are not allowed in rule files",
            here,
            "this value has a tag",
        ))
    }

    fn syntax_error(&self, error: &ScanError) -> Box<Diagnostic> {
        let here = self.span(*error.marker(), *error.marker());
        Box::new(
            Diagnostic::error(
                Code::Yaml,
                format!("not YAML: {}", error.info()),
                here,
                "the reader stopped here",
            )
            .help(
                "this document is not loaded; texts with `: `, `#`, or a leading `*`, `%`, `'` want quotes",
            ),
        )
    }

    fn span(&self, start: Marker, end: Marker) -> Span {
        Span { file: self.file, start: clip(self.byte(start)), end: clip(self.byte(end)) }
    }

    fn byte(&self, marker: Marker) -> usize {
        let within = if self.offsets.is_empty() {
            marker.index()
        } else {
            self.offsets.get(marker.index()).copied().unwrap_or(self.text.len())
        };
        self.base + within.min(self.text.len())
    }
}

fn too_much(here: Span) -> Box<Diagnostic> {
    let message = format!("the document has more than {} values", limits::NODES);
    Box::new(Diagnostic::error(Code::Limit, message, here, ""))
}

/// Files are far shorter than 4 GiB (`limits::FILE_BYTES`).
fn clip(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Node>, Vec<Diagnostic>) {
        let mut diagnostics = vec![];
        let nodes = documents(FileId(0), text, &mut diagnostics);
        (nodes, diagnostics)
    }

    #[test]
    fn spans_are_bytes_of_the_file_also_after_other_scripts() {
        let text = "title: Größe\nlist:\n  - 'ein wört'\n  - zwei\n---\na: b\n";
        let (nodes, diagnostics) = read(text);
        assert_eq!(diagnostics, []);
        let Data::Map(pairs) = &nodes[0].data else { panic!() };
        assert_eq!(&text[pairs[0].1.span.range()], "Größe");
        let Data::List(items) = &pairs[1].1.data else { panic!() };
        assert_eq!(&text[items[0].span.range()], "'ein wört'");
        assert_eq!(&text[items[0].part(text, 4, 9).range()], "wört");
        assert_eq!(&text[items[1].span.range()], "zwei");
        let Data::Map(pairs) = &nodes[1].data else { panic!() };
        assert_eq!(&text[pairs[0].0.span.range()], "a");
    }

    #[test]
    fn a_broken_document_leaves_the_others() {
        let (nodes, diagnostics) = read("a: 1\n---\nb: [1,\n---\nc: 3\n");
        assert_eq!((nodes.len(), diagnostics.len()), (2, 1));
        assert_eq!(diagnostics[0].code, Code::Yaml);
    }

    #[test]
    fn i11_aliases_tags_and_depth_are_refused() {
        assert_eq!(read("a: &x [1]\nb: *x\n").1[0].code, Code::Yaml);
        assert_eq!(read("a: !!binary aGk=\n").1[0].code, Code::Yaml);
        assert_eq!(read(&format!("a: {}{}", "[".repeat(40), "]".repeat(40))).1[0].code, Code::Limit);
    }
}
