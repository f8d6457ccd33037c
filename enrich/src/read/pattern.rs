//! STIX patterns that are a list of values: comparisons joined by OR. What must hold together (AND, FOLLOWEDBY), is negated, or is matched by
//! an expression is no single indicator, and taking a part of it alone would say what its author did not.

use crate::indicator::Refusal;

/// Comparisons of one pattern, at most (I11).
const MAX_COMPARISONS: usize = 1024;
/// Parentheses within each other, at most.
const MAX_DEPTH: usize = 16;

/// A value that a pattern looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// For example `ipv4-addr:value`.
    pub path: String,
    /// As it stands in quotes.
    pub value: String,
}

/// The values of a pattern, any of which makes it hold.
///
/// # Errors
/// [`Refusal::Pattern`] for what is more than that, [`Refusal::Malformed`] for what is no pattern.
pub fn conditions(pattern: &str) -> Result<Vec<Comparison>, Refusal> {
    let mut parser = Parser { rest: pattern, found: Vec::new(), depth: 0 };
    parser.expression()?;
    parser.skip();
    if parser.rest.is_empty() { Ok(parser.found) } else { Err(parser.unfinished()) }
}

struct Parser<'a> {
    rest: &'a str,
    found: Vec<Comparison>,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Observations, joined by OR.
    fn expression(&mut self) -> Result<(), Refusal> {
        loop {
            if self.take("(") {
                self.deeper(Self::expression)?;
                self.expect(")")?;
            } else {
                self.expect("[")?;
                self.comparisons()?;
                self.expect("]")?;
            }
            if !self.word("OR") {
                return Ok(());
            }
        }
    }

    fn comparisons(&mut self) -> Result<(), Refusal> {
        loop {
            if self.take("(") {
                self.deeper(Self::comparisons)?;
                self.expect(")")?;
            } else {
                self.comparison()?;
            }
            if !self.word("OR") {
                return Ok(());
            }
        }
    }

    fn deeper(&mut self, inside: impl Fn(&mut Self) -> Result<(), Refusal>) -> Result<(), Refusal> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Refusal::Malformed);
        }
        inside(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn comparison(&mut self) -> Result<(), Refusal> {
        self.skip();
        let path = self.path()?;
        if !is_known(path) {
            return Err(Refusal::Pattern);
        }
        self.skip();
        if self.take("!=") || self.word("NOT") {
            return Err(Refusal::Pattern);
        }
        if self.take("=") || self.word("ISSUBSET") {
            let value = self.text()?;
            return self.found(path, value);
        }
        if self.word("IN") {
            self.expect("(")?;
            loop {
                let value = self.text()?;
                self.found(path, value)?;
                if !self.take(",") {
                    return self.expect(")");
                }
            }
        }
        Err(Refusal::Pattern)
    }

    fn found(&mut self, path: &str, value: String) -> Result<(), Refusal> {
        if self.found.len() >= MAX_COMPARISONS {
            return Err(Refusal::TooMany);
        }
        self.found.push(Comparison { path: path.to_owned(), value });
        Ok(())
    }

    /// `file:hashes.'SHA-256'`: quotes belong to it.
    fn path(&mut self) -> Result<&'a str, Refusal> {
        let mut quoted = false;
        let end = self.rest.char_indices().find(|(_, c)| {
            quoted ^= *c == '\'';
            !quoted && *c != '\'' && (c.is_whitespace() || matches!(c, '=' | '!' | '<' | '>' | ']' | ')'))
        });
        let (path, rest) = self.rest.split_at(end.map_or(self.rest.len(), |(at, _)| at));
        self.rest = rest;
        if path.contains(':') { Ok(path) } else { Err(self.unfinished()) }
    }

    /// `'…'` with `\'` and `\\` within.
    fn text(&mut self) -> Result<String, Refusal> {
        self.expect("'")?;
        let mut value = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\'' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(value);
                }
                '\\' => value.extend(chars.next().map(|(_, next)| next)),
                _ => value.push(c),
            }
        }
        Err(Refusal::Malformed)
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, text: &str) -> bool {
        self.skip();
        self.rest.strip_prefix(text).map(|rest| self.rest = rest).is_some()
    }

    fn word(&mut self, word: &str) -> bool {
        self.skip();
        let follows = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
        match self.rest.get(..word.len()).filter(|start| start.eq_ignore_ascii_case(word)) {
            Some(_) if follows(&self.rest[word.len()..]) => {
                self.rest = &self.rest[word.len()..];
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), Refusal> {
        if self.take(text) { Ok(()) } else { Err(self.unfinished()) }
    }

    /// What stands where something else should: a word of the language, or nothing known.
    fn unfinished(&mut self) -> Refusal {
        let words = ["AND", "FOLLOWEDBY", "WITHIN", "REPEATS", "START", "NOT", "EXISTS", "LIKE", "MATCHES"];
        if words.iter().any(|word| self.word(word)) { Refusal::Pattern } else { Refusal::Malformed }
    }
}

/// What can be looked up.
fn is_known(path: &str) -> bool {
    matches!(
        path,
        "ipv4-addr:value"
            | "ipv6-addr:value"
            | "domain-name:value"
            | "url:value"
            | "network-traffic:dst_ref.value"
    ) || path.starts_with("file:hashes.")
        || path.starts_with("artifact:hashes.")
}
