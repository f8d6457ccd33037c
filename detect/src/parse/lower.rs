//! Values with their modifiers to tests.

use regex_syntax::hir::{Hir, HirKind, Repetition};

use crate::{
    ast::{FieldName, ItemValue, Modifier, Number, Pattern, RegexFlags, RegexTest, Test, Value},
    diagnostic::{Code, Diagnostic},
    limits,
    parse::{
        Cursor,
        mapping::within_value_limit,
        modifiers::{Key, Sort},
        parse_pattern,
        pattern::{Utf16, base64, base64_offset, utf16, windash},
    },
    source::{Span, Spanned},
    yaml::{Node, Style, is_null},
};

/// One value of an item and what it means.
pub(crate) fn lower(node: &Node, key: &Key, cursor: &mut Cursor<'_>) -> Option<ItemValue> {
    let crate::yaml::Data::Scalar { text, style } = &node.data else {
        let message = "a value must be a text, a number, `true`, `false` or `null`";
        cursor.report(Diagnostic::error(
            Code::BadValue,
            message,
            node.span,
            format!("this is {}", node.kind()),
        ));
        return None;
    };
    if !within_value_limit(text, node.span, cursor) {
        return None;
    }
    let value = Spanned::new(typed(text, *style), node.span);
    let tests = tests(&value, text, key, node, cursor)?;
    cursor.tests += tests.len();
    if cursor.tests > limits::TESTS {
        let message = format!("the rule makes more than {} tests", limits::TESTS);
        cursor.report(
            Diagnostic::error(Code::Limit, message, node.span, "here the limit is passed")
                .help("`windash`, `base64offset` and `expand` multiply values"),
        );
        return None;
    }
    (!tests.is_empty()).then_some(ItemValue { value, tests })
}

/// The type of a scalar by YAML 1.2's core schema; whole numbers beyond 64 bits stay texts.
pub(crate) fn typed(text: &str, style: Style) -> Value {
    if style == Style::Quoted {
        return Value::Text(text.to_owned());
    }
    match text {
        _ if is_null(text) => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::Text(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(Number::Int);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8).ok().map(Number::Int);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Number::Int);
    }
    let float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.contains(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    float.then(|| text.parse().ok().filter(|number: &f64| number.is_finite()).map(Number::Float)).flatten()
}

fn tests(
    value: &Spanned<Value>,
    text: &str,
    key: &Key,
    node: &Node,
    cursor: &mut Cursor<'_>,
) -> Option<Vec<Test>> {
    let span = value.span;
    match (key.sort, &value.value) {
        (Sort::Exists, Value::Bool(wanted)) => Some(vec![Test::Exists(*wanted)]),
        (Sort::Exists, _) => misuse(cursor, span, "`exists` wants `true` or `false`"),
        (Sort::Plain, Value::Null) if key.field.is_some() && key.transforms.is_empty() => {
            Some(vec![Test::Null])
        }
        (_, Value::Null) => misuse(cursor, span, "`null` cannot be changed by modifiers, and is no keyword"),
        (Sort::Plain, Value::Bool(wanted)) if key.transforms.is_empty() => Some(vec![Test::Bool(*wanted)]),
        (Sort::Plain, Value::Number(wanted)) if key.transforms.is_empty() => {
            Some(vec![Test::Number(*wanted)])
        }
        (Sort::Compare(how), _) => Some(vec![Test::Compare { how, than: numeric(value, text, cursor)? }]),
        (Sort::Time(part, how), _) => {
            Some(vec![Test::Time { part, how, than: numeric(value, text, cursor)? }])
        }
        (Sort::FieldRef(how), _) => {
            let field = cursor.field(text);
            let field =
                FieldName { text: text.to_owned(), span: node.part(&cursor.file.text, 0, text.len()), field };
            Some(vec![Test::FieldRef { field, how, case: key.case }])
        }
        (Sort::Regex(flags), _) => expanded(text, key, span, cursor)?
            .iter()
            .map(|source| regex_test(source.text(), flags, span, cursor).map(Test::Regex))
            .collect(),
        (Sort::Cidr, _) => expanded(text, key, span, cursor)?
            .iter()
            .map(|network| cidr(network.text(), span, cursor).map(Test::Cidr))
            .collect(),
        (Sort::Plain | Sort::Shaped { .. }, _) => {
            let mut tests = vec![];
            for source in expanded(text, key, span, cursor)? {
                if source.1.wildcards() > limits::WILDCARDS {
                    let message = format!("a value may have at most {} wildcards", limits::WILDCARDS);
                    cursor.report(Diagnostic::error(Code::Limit, message, span, "more of them here"));
                    return None;
                }
                for pattern in transformed(source.pattern(), key, span, cursor)? {
                    let pattern = match key.sort {
                        Sort::Shaped { before, after } => pattern.wrapped(before, after),
                        _ => pattern,
                    };
                    tests.push(Test::Text { pattern, case: key.case });
                }
            }
            Some(tests)
        }
    }
}

fn misuse<T>(cursor: &mut Cursor<'_>, span: Span, message: &str) -> Option<T> {
    cursor.report(Diagnostic::error(Code::BadValue, message, span, "this is something else"));
    None
}

fn numeric(value: &Spanned<Value>, text: &str, cursor: &mut Cursor<'_>) -> Option<Number> {
    let found = match value.value {
        Value::Number(given) => Some(given),
        Value::Text(_) => number(text.trim()),
        _ => None,
    };
    if found.is_none() {
        cursor.report(Diagnostic::error(
            Code::BadValue,
            "this modifier compares numbers",
            value.span,
            "not a number",
        ));
    }
    found
}

/// A text after placeholders were filled in: whole, or in pieces of which the placeholders' may hold wildcards.
struct Source(String, Pattern);

impl Source {
    fn text(&self) -> &str {
        &self.0
    }

    fn pattern(self) -> Pattern {
        self.1
    }
}

/// Fills in placeholders. "If the tool isn't able to handle placeholders, it must reject the rule": unknown ones are
/// errors. `\%` is a plain percent sign.
fn expanded(text: &str, key: &Key, span: Span, cursor: &mut Cursor<'_>) -> Option<Vec<Source>> {
    if !key.expand {
        return Some(vec![Source(text.to_owned(), parse_pattern(text))]);
    }
    let mut made = vec![String::new()];
    let mut rest = text;
    while !rest.is_empty() {
        let next = rest.find(['%', '\\']).unwrap_or(rest.len());
        made.iter_mut().for_each(|text| text.push_str(&rest[..next]));
        rest = &rest[next..];
        if let Some(after) = rest.strip_prefix("\\%") {
            made.iter_mut().for_each(|text| text.push('%'));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('\\') {
            // Keeps an escaped character together with its backslash.
            let escaped = after.chars().next().map_or("", |c| &after[..c.len_utf8()]);
            made.iter_mut().for_each(|text| text.extend(["\\", escaped]));
            rest = &after[escaped.len()..];
        } else if let Some(after) = rest.strip_prefix('%') {
            let Some((name, after)) = after.split_once('%').filter(|(name, _)| is_placeholder(name)) else {
                made.iter_mut().for_each(|text| text.push('%'));
                rest = after;
                continue;
            };
            let values = placeholder(name, span, cursor)?;
            if made.len() * values.len() > limits::EXPANSIONS {
                let message = format!("`expand` makes more than {} values of this one", limits::EXPANSIONS);
                cursor.report(Diagnostic::error(Code::Limit, message, span, ""));
                return None;
            }
            made = made
                .iter()
                .flat_map(|text| values.iter().map(move |value| format!("{text}{value}")))
                .collect();
            rest = after;
        }
    }
    Some(made.into_iter().map(|text| Source(text.clone(), parse_pattern(&text))).collect())
}

/// Whether a placeholder may be called so.
pub(crate) fn is_placeholder(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn placeholder(name: &str, span: Span, cursor: &mut Cursor<'_>) -> Option<Vec<String>> {
    let found = cursor.options.placeholders.get(name).filter(|values| !values.is_empty()).cloned();
    if found.is_none() {
        let message = format!("unknown placeholder `%{name}%`");
        let known = cursor.options.placeholders.keys().map(String::as_str);
        let diagnostic =
            Diagnostic::error(Code::UnknownPlaceholder, message, span, "not in the table of placeholders")
                .did_you_mean(name, known)
                .help("a document `placeholders: {NAME: [VALUE, …]}` in the rule files gives values");
        cursor.report(diagnostic);
    }
    found
}

/// Applies `windash` and the encodings in the order in which they are written.
fn transformed(pattern: Pattern, key: &Key, span: Span, cursor: &mut Cursor<'_>) -> Option<Vec<Pattern>> {
    let mut made = vec![Made::Pattern(pattern)];
    for modifier in &key.transforms {
        let mut next = vec![];
        for source in made {
            match transform(source, modifier.value) {
                Ok(results) => next.extend(results),
                Err(why) => {
                    let message = format!("`{}` cannot be applied to this value", modifier.value.name());
                    cursor.report(
                        Diagnostic::error(Code::ModifierMisuse, message, span, why)
                            .label(modifier.span, "asked for here"),
                    );
                    return None;
                }
            }
        }
        made = next;
    }
    made.into_iter()
        .map(|made| match made {
            Made::Pattern(pattern) => Some(pattern),
            Made::Bytes(bytes) => {
                let text = String::from_utf8(bytes).ok();
                if text.is_none() {
                    let message = "the encoded value is not a text that an event could hold";
                    cursor.report(
                        Diagnostic::error(Code::ModifierMisuse, message, span, "its bytes are not UTF-8")
                            .help("`base64` or `base64offset` usually follows `wide` and `utf16…`"),
                    );
                }
                text.map(Pattern::literal)
            }
        })
        .collect()
}

enum Made {
    Pattern(Pattern),
    Bytes(Vec<u8>),
}

impl Made {
    /// The bytes to encode.
    fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Pattern(pattern) => match pattern.as_literal() {
                Some(text) => Ok(text.as_bytes().to_vec()),
                None => Err("a wildcard has no encoding; escape it if the character itself is meant".into()),
            },
        }
    }

    fn text(self) -> Result<String, String> {
        String::from_utf8(self.bytes()?).map_err(|_| "already encoded to bytes that are no text".into())
    }
}

fn transform(source: Made, modifier: Modifier) -> Result<Vec<Made>, String> {
    let wide = |form| source_text_to(form);
    Ok(match modifier {
        Modifier::Windash => {
            let Made::Pattern(pattern) = source else {
                return Err("it must stand before the encodings".into());
            };
            let too_many =
                || format!("more than {} dashes and slashes: 5^n texts", limits::WINDASH_CHARACTERS);
            let variants = windash(&pattern, limits::WINDASH_CHARACTERS).ok_or_else(too_many)?;
            variants.into_iter().map(Made::Pattern).collect()
        }
        Modifier::Base64 => vec![Made::Bytes(base64(&source.bytes()?).into_bytes())],
        Modifier::Base64Offset => {
            let variants = base64_offset(&source.bytes()?);
            if variants.len() < 3 {
                return Err("too short: its Base64 has no part that is the same at every position".into());
            }
            variants.into_iter().map(|text| Made::Bytes(text.into_bytes())).collect()
        }
        Modifier::Wide | Modifier::Utf16Le => wide(Utf16::Little)(source)?,
        Modifier::Utf16Be => wide(Utf16::Big)(source)?,
        Modifier::Utf16 => wide(Utf16::Marked)(source)?,
        _ => vec![source],
    })
}

fn source_text_to(form: Utf16) -> impl Fn(Made) -> Result<Vec<Made>, String> {
    move |source| Ok(vec![Made::Bytes(utf16(&source.text()?, form))])
}

fn regex_test(source: &str, flags: RegexFlags, span: Span, cursor: &mut Cursor<'_>) -> Option<RegexTest> {
    // What cannot be parsed is told below.
    let copies = regex_syntax::parse(source).map_or(0, |hir| copied(&hir));
    if copies > limits::REGEX_COPIES {
        let message = "this regular expression repeats too much";
        let label =
            format!("its repetitions stand for {copies} characters more, at most {}", limits::REGEX_COPIES);
        let help =
            "each may have to be tried at each character of a text; `{100,}` often does as well as `{5000}`";
        cursor.report(Diagnostic::error(Code::BadRegex, message, span, label).help(help));
        return None;
    }
    match RegexTest::new(source, flags) {
        Ok(test) => Some(test),
        Err(error) => {
            // The crate's message draws the expression over several lines; its last line says what is wrong.
            let whole = error.to_string();
            let reason = whole.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let mut diagnostic =
                Diagnostic::error(Code::BadRegex, "this regular expression cannot be used", span, reason);
            if whole.contains("look-around") || whole.contains("backreference") {
                diagnostic = diagnostic.help(
                    "look-around and backreferences take unbounded time; Sigma 2.1 lists them among the unsupported \
                     metacharacters. Use `not` in the condition instead",
                );
            }
            cursor.report(diagnostic);
            None
        }
    }
}

/// Characters that counted repetitions add: those of the expression written out, less those of it as it stands.
fn copied(hir: &Hir) -> u64 {
    fn characters(hir: &Hir, copies: impl Fn(&Repetition) -> u64 + Copy) -> u64 {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => 0,
            HirKind::Literal(literal) => literal.0.len() as u64,
            HirKind::Class(_) => 1,
            HirKind::Capture(capture) => characters(&capture.sub, copies),
            HirKind::Repetition(repetition) => {
                characters(&repetition.sub, copies).saturating_mul(copies(repetition))
            }
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().fold(0, |sum, part| sum.saturating_add(characters(part, copies)))
            }
        }
    }
    let written_out = |repetition: &Repetition| u64::from(repetition.max.unwrap_or(repetition.min).max(1));
    characters(hir, written_out).saturating_sub(characters(hir, |_| 1))
}

fn cidr(text: &str, span: Span, cursor: &mut Cursor<'_>) -> Option<ipnet::IpNet> {
    let network = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from));
    match network {
        Ok(network) => {
            let cut = network.trunc();
            if cut != network {
                let message = format!("the network `{network}` has bits set beyond its prefix");
                cursor.report(Diagnostic::warning(
                    Code::Suspicious,
                    message,
                    span,
                    format!("read as `{cut}`"),
                ));
            }
            Some(cut)
        }
        Err(_) => {
            let message = format!("`{text}` is not a network");
            cursor.report(
                Diagnostic::error(
                    Code::BadCidr,
                    message,
                    span,
                    "expected an address, `/` and a prefix length",
                )
                .help("for example `10.0.0.0/8` or `2001:db8::/32`"),
            );
            None
        }
    }
}
