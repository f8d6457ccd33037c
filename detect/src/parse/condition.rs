//! Conditions: `selection and not 1 of filter_*`.

use crate::{
    ast::{Condition, Expr, Identifier, Quantifier, Selector, TemporalExpr},
    diagnostic::{Code, Diagnostic},
    limits,
    parse::Cursor,
    source::Span,
    yaml::Node,
};

/// Reads a condition over `identifiers`.
pub(crate) fn parse(node: &Node, identifiers: &[Identifier], cursor: &mut Cursor<'_>) -> Option<Condition> {
    let text = readable(node, cursor)?;
    let names =
        Names { identifiers: identifiers.iter().map(|identifier| identifier.name.value.as_str()).collect() };
    let expr = run(text, node, &names, cursor)?;
    Some(Condition { text: text.to_owned(), span: node.span, expr })
}

/// Reads a temporal correlation's condition over the names of its rules.
pub(crate) fn parse_temporal(node: &Node, rules: &[&str], cursor: &mut Cursor<'_>) -> Option<TemporalExpr> {
    let text = readable(node, cursor)?;
    let expr = run(text, node, &Names { identifiers: rules.to_vec() }, cursor)?;
    Some(temporal(expr))
}

fn readable<'n>(node: &'n Node, cursor: &mut Cursor<'_>) -> Option<&'n str> {
    let Some(text) = node.text().filter(|text| !text.trim().is_empty()) else {
        let message = "a condition must be a text";
        cursor.report(Diagnostic::error(
            Code::BadCondition,
            message,
            node.span,
            format!("this is {}", node.kind()),
        ));
        return None;
    };
    if text.len() > limits::CONDITION_BYTES {
        let message = format!("a condition may have at most {} bytes", limits::CONDITION_BYTES);
        cursor.report(Diagnostic::error(Code::Limit, message, node.span, format!("this has {}", text.len())));
        return None;
    }
    Some(text)
}

fn run(text: &str, node: &Node, names: &Names<'_>, cursor: &mut Cursor<'_>) -> Option<Expr> {
    let source = cursor.file.text.as_str();
    let place = |from: usize, to: usize| node.part(source, from, to);
    let tokens = tokens(text);
    let mut parser = Parser { tokens: &tokens, at: 0, end: text.len(), place: &place, names, depth: 0 };
    let parsed = parser.or().and_then(|expr| parser.finish().map(|()| expr));
    match parsed {
        Ok(expr) => Some(expr),
        Err(diagnostic) => {
            cursor.report(*diagnostic);
            None
        }
    }
}

fn temporal(expr: Expr) -> TemporalExpr {
    match expr {
        Expr::Identifier { index, span } => TemporalExpr::Rule(index, span),
        Expr::Not(inner, span) => TemporalExpr::Not(Box::new(temporal(*inner)), span),
        Expr::And(parts, span) => TemporalExpr::And(parts.into_iter().map(temporal).collect(), span),
        Expr::Or(parts, span) => TemporalExpr::Or(parts.into_iter().map(temporal).collect(), span),
        Expr::Of { quantifier, targets, span, .. } => {
            let rules = targets.into_iter().map(|target| TemporalExpr::Rule(target, span)).collect();
            match quantifier {
                Quantifier::All => TemporalExpr::And(rules, span),
                Quantifier::AtLeast(wanted) => TemporalExpr::AtLeast(wanted, rules, span),
            }
        }
    }
}

struct Names<'a> {
    identifiers: Vec<&'a str>,
}

struct Token<'t> {
    text: &'t str,
    start: usize,
    end: usize,
}

/// Parentheses and `|` stand for themselves; everything else between blanks is a word.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token<'_>> = vec![];
    let mut word: Option<usize> = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let single = matches!(c, '(' | ')' | '|');
        if single || c.is_whitespace() {
            if let Some(start) = word.take() {
                tokens.push(Token { text: &text[start..at], start, end: at });
            }
            if single {
                tokens.push(Token { text: &text[at..=at], start: at, end: at + 1 });
            }
        } else {
            word.get_or_insert(at);
        }
    }
    tokens
}

type Parsed<T> = Result<T, Box<Diagnostic>>;

struct Parser<'p> {
    tokens: &'p [Token<'p>],
    at: usize,
    end: usize,
    place: &'p dyn Fn(usize, usize) -> Span,
    names: &'p Names<'p>,
    depth: usize,
}

impl<'p> Parser<'p> {
    fn or(&mut self) -> Parsed<Expr> {
        let parts = self.chain("or", Self::and)?;
        Ok(joined(parts, Expr::Or))
    }

    fn and(&mut self) -> Parsed<Expr> {
        let parts = self.chain("and", Self::not)?;
        Ok(joined(parts, Expr::And))
    }

    fn chain(&mut self, word: &str, next: fn(&mut Self) -> Parsed<Expr>) -> Parsed<Vec<Expr>> {
        let mut parts = vec![next(self)?];
        while self.take(word).is_some() {
            parts.push(next(self)?);
        }
        Ok(parts)
    }

    fn not(&mut self) -> Parsed<Expr> {
        let Some(word) = self.take("not") else { return self.operand() };
        self.deeper()?;
        let inner = self.not()?;
        self.depth -= 1;
        let span = word.to(inner.span());
        Ok(Expr::Not(Box::new(inner), span))
    }

    fn operand(&mut self) -> Parsed<Expr> {
        let Some(token) = self.tokens.get(self.at) else {
            let before = self.tokens.last().map_or(0, |token| token.start);
            let span = (self.place)(before, self.end);
            return Err(self.wrong(
                span,
                "the condition ends too early",
                "an identifier is expected after this",
            ));
        };
        let span = (self.place)(token.start, token.end);
        self.at += 1;
        match token.text {
            "(" => {
                self.deeper()?;
                let inner = self.or()?;
                self.depth -= 1;
                if self.take(")").is_none() {
                    return Err(self.wrong(span, "a parenthesis is not closed", "opened here"));
                }
                Ok(inner)
            }
            ")" | "|" => Err(self.wrong(span, "an identifier is expected here", "instead of this")),
            word if is_operator(word) => {
                Err(self.wrong(span, "an identifier is expected here", "this joins two identifiers"))
            }
            word if self.peek_is("of") && quantifier(word).is_some() => {
                self.at += 1;
                self.group(quantifier(word).unwrap_or(Quantifier::All), span)
            }
            _ if self.peek_is("of") => Err(self.wrong(
                span,
                "not a quantifier",
                "expected `1`, `all`, `any` or another whole number from 1",
            )),
            word if word.contains('*') => {
                let help = format!("write `1 of {word}` or `all of {word}`");
                let message = "a pattern stands for several identifiers";
                Err(Box::new(self.wrong(span, message, "how many of them?").help(help)))
            }
            word => self.identifier(word, span),
        }
    }

    fn identifier(&self, word: &str, span: Span) -> Parsed<Expr> {
        if let Some(index) = self.names.identifiers.iter().position(|name| *name == word) {
            return Ok(Expr::Identifier { index, span });
        }
        let names = &self.names.identifiers;
        let message = format!("no identifier is called `{word}`");
        let label = if names.is_empty() {
            "there are none".into()
        } else {
            format!("there are: {}", names.join(", "))
        };
        let diagnostic = Diagnostic::error(Code::UnknownIdentifier, message, span, label);
        Err(Box::new(diagnostic.did_you_mean(word, names.iter().copied())))
    }

    /// `them`, or a pattern, after `1 of`.
    fn group(&mut self, quantifier: Quantifier, start: Span) -> Parsed<Expr> {
        let Some(token) = self.tokens.get(self.at).filter(|token| !matches!(token.text, "(" | ")" | "|"))
        else {
            return Err(self.wrong(start, "`of` wants `them` or a pattern", "of what?"));
        };
        self.at += 1;
        let here = (self.place)(token.start, token.end);
        let selector = if token.text.eq_ignore_ascii_case("them") {
            Selector::Them
        } else {
            Selector::Pattern(token.text.to_owned())
        };
        let names = &self.names.identifiers;
        let targets: Vec<usize> =
            (0..names.len()).filter(|index| selects(&selector, names[*index])).collect();
        if targets.is_empty() {
            let message = match &selector {
                Selector::Them => "`them` stands for no identifier: all begin with `_`".to_owned(),
                Selector::Pattern(pattern) => format!("no identifier fits `{pattern}`"),
            };
            let label = format!("there are: {}", names.join(", "));
            let diagnostic = Diagnostic::error(Code::UnknownIdentifier, message, here, label);
            return Err(Box::new(
                diagnostic.did_you_mean(token.text.trim_matches('*'), names.iter().copied()),
            ));
        }
        if let Quantifier::AtLeast(wanted) = quantifier
            && wanted as usize > targets.len()
        {
            let message = format!("{wanted} of {} identifiers can never hold", targets.len());
            return Err(self.wrong(start.to(here), &message, "fewer than that fit"));
        }
        Ok(Expr::Of { quantifier, selector, targets, span: start.to(here) })
    }

    fn finish(&mut self) -> Parsed<()> {
        let Some(token) = self.tokens.get(self.at) else { return Ok(()) };
        let span = (self.place)(token.start, token.end);
        Err(match token.text {
            "|" => {
                let rest = (self.place)(token.start, self.end);
                let message = "aggregations are not part of Sigma 2";
                let help =
                    "write a correlation (`correlation: type: event_count` …) that refers to this rule";
                Box::new(Diagnostic::error(Code::BadCondition, message, rest, "not evaluated").help(help))
            }
            ")" => self.wrong(span, "a parenthesis is closed that was not opened", ""),
            _ => self.wrong(span, "`and` or `or` is expected before this", ""),
        })
    }

    fn deeper(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth <= limits::CONDITION_DEPTH {
            return Ok(());
        }
        let message = format!("nested deeper than {} levels", limits::CONDITION_DEPTH);
        Err(Box::new(Diagnostic::error(Code::Limit, message, (self.place)(0, self.end), "")))
    }

    fn peek_is(&self, word: &str) -> bool {
        self.tokens.get(self.at).is_some_and(|token| token.text.eq_ignore_ascii_case(word))
    }

    fn take(&mut self, word: &str) -> Option<Span> {
        let token = self.tokens.get(self.at).filter(|token| token.text.eq_ignore_ascii_case(word))?;
        self.at += 1;
        Some((self.place)(token.start, token.end))
    }

    fn wrong(&self, span: Span, message: &str, label: &str) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(Code::BadCondition, message, span, label))
    }
}

fn joined(mut parts: Vec<Expr>, join: fn(Vec<Expr>, Span) -> Expr) -> Expr {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let span = parts[0].span().to(parts[parts.len() - 1].span());
    join(parts, span)
}

fn is_operator(word: &str) -> bool {
    ["and", "or", "of"].iter().any(|operator| word.eq_ignore_ascii_case(operator))
}

fn quantifier(word: &str) -> Option<Quantifier> {
    match word.to_ascii_lowercase().as_str() {
        "all" => Some(Quantifier::All),
        "any" => Some(Quantifier::AtLeast(1)),
        number => number.parse().ok().filter(|count| *count > 0).map(Quantifier::AtLeast),
    }
}

/// "All defined search identifiers not starting with an underscore"; a pattern is the same, "but restricted to matching
/// search identifiers". So a pattern reaches those with an underscore only if it begins with one itself.
fn selects(selector: &Selector, name: &str) -> bool {
    match selector {
        Selector::Them => !name.starts_with('_'),
        Selector::Pattern(pattern) => {
            (pattern.starts_with('_') || !name.starts_with('_')) && fits(pattern, name)
        }
    }
}

/// Whether `name` fits `pattern`, where `*` is any number of characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_fit_whole_names() {
        assert!(
            fits("selection*", "selection_a")
                && fits("*", "x")
                && fits("a*b*c", "a1b2c")
                && fits("sel", "sel")
        );
        assert!(!fits("sel", "sela") && !fits("a*b*c", "acb") && !fits("ab*ba", "aba"));
    }
}
