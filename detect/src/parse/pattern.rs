//! Texts with wildcards and escapes; encodings.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::ast::{Part, Pattern};

/// Reads a text with wildcards. Sigma specification, "Escaping": a backslash before `*`, `?` or a backslash takes away
/// the special meaning; before anything else, and at the end, it is itself.
pub(crate) fn parse_pattern(text: &str) -> Pattern {
    let mut pattern = Pattern::default();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => pattern.push(Part::AnyMany),
            '?' => pattern.push(Part::AnyOne),
            '\\' => match chars.next_if(|next| matches!(next, '*' | '?' | '\\')) {
                Some(escaped) => pattern.push_char(escaped),
                None => pattern.push_char('\\'),
            },
            plain => pattern.push_char(plain),
        }
    }
    pattern
}

impl Pattern {
    /// The text itself, without wildcards.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { parts: if text.is_empty() { vec![] } else { vec![Part::Literal(text)] } }
    }

    /// Adds a part, keeping the normal form.
    pub fn push(&mut self, part: Part) {
        match (self.parts.last_mut(), part) {
            (Some(Part::AnyMany), Part::AnyMany) => {}
            (Some(Part::Literal(before)), Part::Literal(text)) => before.push_str(&text),
            (_, Part::Literal(text)) if text.is_empty() => {}
            (_, part) => self.parts.push(part),
        }
    }

    fn push_char(&mut self, c: char) {
        match self.parts.last_mut() {
            Some(Part::Literal(text)) => text.push(c),
            _ => self.parts.push(Part::Literal(c.to_string())),
        }
    }

    /// With `*` before, after, or both.
    #[must_use]
    pub(crate) fn wrapped(self, before: bool, after: bool) -> Self {
        let mut wrapped = Self::default();
        if before {
            wrapped.push(Part::AnyMany);
        }
        for part in self.parts {
            wrapped.push(part);
        }
        if after {
            wrapped.push(Part::AnyMany);
        }
        wrapped
    }

    /// How many wildcards.
    pub(crate) fn wildcards(&self) -> usize {
        self.parts.iter().filter(|part| !matches!(part, Part::Literal(_))).count()
    }

    /// The text, if it has no wildcard.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// As a rule would write it.
impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in &self.parts {
            match part {
                Part::AnyMany => f.write_str("*")?,
                Part::AnyOne => f.write_str("?")?,
                Part::Literal(text) => {
                    for c in text.chars() {
                        if matches!(c, '*' | '?' | '\\') {
                            f.write_str("\\")?;
                        }
                        write!(f, "{c}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The characters that `windash` exchanges for one another (modifiers appendix 2.1).
pub(crate) const DASHES: [char; 5] = ['-', '/', '\u{2013}', '\u{2014}', '\u{2015}'];

/// Every text that comes of exchanging dashes; `None` if there are more than `limit` of them.
pub(crate) fn windash(pattern: &Pattern, limit: usize) -> Option<Vec<Pattern>> {
    let mut variants = vec![Pattern::default()];
    let mut dashes = 0;
    for part in &pattern.parts {
        let Part::Literal(text) = part else {
            variants.iter_mut().for_each(|variant| variant.push(part.clone()));
            continue;
        };
        for c in text.chars() {
            if DASHES.contains(&c) {
                dashes += 1;
                if dashes > limit {
                    return None;
                }
                variants = variants
                    .iter()
                    .flat_map(|variant| {
                        DASHES.iter().map(|dash| {
                            let mut variant = variant.clone();
                            variant.push_char(*dash);
                            variant
                        })
                    })
                    .collect();
            } else {
                variants.iter_mut().for_each(|variant| variant.push_char(c));
            }
        }
    }
    Some(variants)
}

/// UTF-16 byte orders.
#[derive(Clone, Copy)]
pub(crate) enum Utf16 {
    Little,
    Big,
    /// Little-endian after its byte order mark FF FE.
    Marked,
}

/// The text's UTF-16 bytes.
pub(crate) fn utf16(text: &str, form: Utf16) -> Vec<u8> {
    let units = text.encode_utf16();
    match form {
        Utf16::Little => units.flat_map(u16::to_le_bytes).collect(),
        Utf16::Big => units.flat_map(u16::to_be_bytes).collect(),
        Utf16::Marked => [0xFF, 0xFE].into_iter().chain(units.flat_map(u16::to_le_bytes)).collect(),
    }
}

/// Base64 of the bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The parts of the bytes' Base64 that do not depend on what stands before and after them, for each of the three
/// positions that they can have within a group of three (modifiers appendix: "except the first and last byte the encoded
/// values have a static part in the middle"). Empty ones are left out.
pub(crate) fn base64_offset(bytes: &[u8]) -> Vec<String> {
    // The first characters that depend only on our bytes, and how many at the end do not, by position and length.
    const FIRST: [usize; 3] = [0, 2, 3];
    const LAST: [usize; 3] = [0, 3, 2];
    (0..3)
        .filter_map(|shift| {
            let mut shifted = vec![b' '; shift];
            shifted.extend_from_slice(bytes);
            let encoded = base64(&shifted);
            let end = encoded.len() - LAST[shifted.len() % 3];
            encoded.get(FIRST[shift]..end).filter(|part| !part.is_empty()).map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_as_the_specification_lists_them() {
        let shown = |text: &str| format!("{:?}", parse_pattern(text).parts);
        assert_eq!(shown(r"C:\Windows\a"), r#"[Literal("C:\\Windows\\a")]"#);
        assert_eq!(shown(r"a\\b"), r#"[Literal("a\\b")]"#);
        assert_eq!(shown(r"\*\?"), r#"[Literal("*?")]"#);
        assert_eq!(shown(r"\\*"), r#"[Literal("\\"), AnyMany]"#);
        assert_eq!(shown(r"\\\*"), r#"[Literal("\\*")]"#);
        assert_eq!(shown(r"\\\"), r#"[Literal("\\\\")]"#);
        assert_eq!(shown(r"\\\\"), r#"[Literal("\\\\")]"#);
        assert_eq!(shown("a**b?"), r#"[Literal("a"), AnyMany, Literal("b"), AnyOne]"#);
    }

    #[test]
    fn base64_offsets_are_found_in_every_position() {
        let needle = "/bin/bash";
        let variants = base64_offset(needle.as_bytes());
        assert_eq!(variants.len(), 3);
        for before in ["", "a", "ab", "abc", "abcd"] {
            for after in ["", "x", "xy", "xyz"] {
                let whole = base64(format!("{before}{needle}{after}").as_bytes());
                assert!(variants.iter().any(|variant| whole.contains(variant.as_str())), "{before}|{after}");
            }
        }
    }

    #[test]
    fn windash_has_five_dashes() {
        let variants = windash(&parse_pattern(" -a /b"), 4).unwrap();
        assert_eq!(variants.len(), 25);
        assert!(variants.contains(&parse_pattern(" \u{2015}a -b")));
        assert!(windash(&parse_pattern("-----"), 4).is_none());
    }
}
