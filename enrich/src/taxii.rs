//! What a TAXII 2.1 server says (docs.oasis-open.org/cti/taxii/v2.1), kept as one STIX bundle: pages of a collection's objects in, the newest
//! version of each out. The requests are for who has a socket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The only media type that is asked for and taken (TAXII 2.1, §1.6.8.1).
pub const MEDIA_TYPE: &str = "application/taxii+json;version=2.1";
/// Objects of one page that are asked for; a server may give fewer.
pub const PAGE: usize = 5_000;
/// Bytes of one page (I11).
pub const MAX_PAGE: usize = 64 << 20;
/// Pages of one fetch (I11).
pub const MAX_PAGES: usize = 10_000;
/// Bytes of one object; a longer one is left out and counted.
const MAX_OBJECT: usize = 256 << 10;
/// Bytes of an id, of a time and of a server's word for the next page.
const MAX_TEXT: usize = 1024;

/// Why a page or a mirror is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaxiiError {
    /// It is no envelope.
    #[error("what the server gives is no TAXII envelope: {0}")]
    Malformed(String),
    /// The server says that there is more, and not where.
    #[error("the server says that there is more and does not say how to ask for it")]
    Nowhere,
    /// More than is kept.
    #[error("the collection holds more than {0}")]
    TooMuch(String),
}

/// A page of a collection.
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    more: bool,
    next: Option<String>,
    #[serde(default, borrow)]
    objects: Vec<&'a RawValue>,
}

/// What is looked at of an object; all of it is kept.
#[derive(Debug, Deserialize)]
struct Seen {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    modified: String,
}

/// One collection as it was fetched so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirror {
    /// `added_after` of the next fetch: when the server took in the newest object that was fetched, in its own words.
    pub added_after: Option<String>,
    /// By id: when it was changed, and its text.
    objects: BTreeMap<String, (String, Box<str>)>,
    bytes: usize,
    /// Objects that were too long or had no id.
    pub left_out: u64,
}

/// How it is written: a STIX bundle with a field of our own.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'static str,
    x_hemostat_added_after: Option<&'a str>,
    objects: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Known<'a> {
    x_hemostat_added_after: Option<String>,
    #[serde(default, borrow)]
    objects: Vec<&'a RawValue>,
}

/// What is asked for next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This page.
    Page(String),
    /// Nothing: that was all.
    Nothing,
}

impl Mirror {
    /// As it was written.
    ///
    /// # Errors
    /// When it is no bundle.
    pub fn read(bytes: &[u8]) -> Result<Self, TaxiiError> {
        let known: Known<'_> =
            serde_json::from_slice(bytes).map_err(|error| TaxiiError::Malformed(error.to_string()))?;
        let mut this = Self { added_after: known.x_hemostat_added_after, ..Self::default() };
        known.objects.into_iter().for_each(|object| this.put(object));
        Ok(this)
    }

    /// As a STIX bundle, in order of the ids.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let objects = self.objects.values().filter_map(|(_, text)| serde_json::from_str(text).ok()).collect();
        let written = Written {
            kind: "bundle",
            id: "bundle--00000000-0000-4000-8000-000000000000",
            x_hemostat_added_after: self.added_after.as_deref(),
            objects,
        };
        // Texts that were JSON when they came still are.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// How many objects it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Takes a page in; `last` is its `X-TAXII-Date-Added-Last`. Indicators are kept in their newest version, which may be a revocation;
    /// everything else is left out.
    ///
    /// # Errors
    /// [`TaxiiError`]; what was taken in before stays.
    pub fn take(
        &mut self,
        page: &[u8],
        last: Option<&str>,
        limits: &crate::Limits,
    ) -> Result<Next, TaxiiError> {
        let envelope: Envelope<'_> =
            serde_json::from_slice(page).map_err(|error| TaxiiError::Malformed(error.to_string()))?;
        for object in envelope.objects {
            self.put(object);
        }
        if self.objects.len() > limits.indicators {
            return Err(TaxiiError::TooMuch(format!("{} indicators", limits.indicators)));
        }
        if self.bytes > limits.bytes {
            return Err(TaxiiError::TooMuch(format!("{} bytes", limits.bytes)));
        }
        if let Some(last) = last.filter(|last| is_time(last)) {
            // Times of one server in one form: their texts are in their order.
            let newer = self.added_after.as_deref().is_none_or(|known| known < last);
            if newer {
                self.added_after = Some(last.to_owned());
            }
        }
        match envelope.next.filter(|next| !next.is_empty() && next.len() <= MAX_TEXT) {
            Some(next) if envelope.more => Ok(Next::Page(next)),
            None if envelope.more => Err(TaxiiError::Nowhere),
            _ => Ok(Next::Nothing),
        }
    }

    fn put(&mut self, object: &RawValue) {
        let text = object.get();
        let seen = serde_json::from_str::<Seen>(text).ok().filter(|seen| {
            text.len() <= MAX_OBJECT
                && !seen.id.is_empty()
                && seen.id.len().max(seen.modified.len()) <= MAX_TEXT
        });
        let Some(seen) = seen else {
            self.left_out += 1;
            return;
        };
        if seen.kind != "indicator" {
            return;
        }
        let known = self.objects.get(&seen.id);
        if known.is_some_and(|(modified, _)| *modified > seen.modified) {
            return;
        }
        self.bytes += text.len();
        if let Some((_, before)) = self.objects.insert(seen.id, (seen.modified, text.into())) {
            self.bytes = self.bytes.saturating_sub(before.len());
        }
    }
}

/// Whether it looks like an RFC 3339 time: it goes into an address again.
fn is_time(text: &str) -> bool {
    text.len() <= 40
        && text.chars().all(|one| one.is_ascii_digit() || matches!(one, '-' | ':' | '.' | 'T' | 'Z' | '+'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn page(objects: &str, tail: &str) -> Vec<u8> {
        format!("{{\"objects\":[{objects}]{tail}}}").into_bytes()
    }

    fn indicator(id: u32, modified: &str, more: &str) -> String {
        format!(
            "{{\"type\":\"indicator\",\"id\":\"indicator--{id}\",\"modified\":\"{modified}\",\"pattern_type\":\"stix\",\"pattern\":\"[ipv4-addr:value = '198.51.100.{id}']\"{more}}}"
        )
    }

    #[test]
    fn the_newest_version_of_each_is_kept_and_a_mirror_survives_being_written() {
        let (mut mirror, limits) = (Mirror::default(), Limits::default());
        let first = page(
            &[indicator(1, "2026-01-01T00:00:00Z", ""), indicator(2, "2026-01-02T00:00:00Z", "")].join(","),
            ",\"more\":true,\"next\":\"p2\"",
        );
        let next = mirror.take(&first, Some("2026-02-01T00:00:00.000Z"), &limits);
        assert_eq!(next, Ok(Next::Page("p2".into())));
        let revoked = indicator(1, "2026-03-01T00:00:00Z", ",\"revoked\":true");
        let older = indicator(2, "2025-01-02T00:00:00Z", "");
        let second =
            page(&[revoked, older, "{\"type\":\"malware\",\"id\":\"malware--1\"}".into()].join(","), "");
        assert_eq!(mirror.take(&second, Some("2026-03-01T00:00:00.000Z"), &limits), Ok(Next::Nothing));
        assert_eq!((mirror.len(), mirror.added_after.as_deref()), (2, Some("2026-03-01T00:00:00.000Z")));
        let text = String::from_utf8(mirror.write()).unwrap();
        assert!(
            text.contains("\"revoked\":true") && text.contains("2026-01-02") && !text.contains("2025-01-02")
        );
        assert_eq!(Mirror::read(text.as_bytes()).unwrap(), mirror);
    }

    #[test]
    fn hostile_pages_are_bounded_and_said() {
        let (mut mirror, limits) = (Mirror::default(), Limits { indicators: 2, ..Limits::default() });
        assert!(matches!(mirror.take(b"<html>", None, &limits), Err(TaxiiError::Malformed(_))));
        assert_eq!(mirror.take(&page("", ",\"more\":true"), None, &limits), Err(TaxiiError::Nowhere));
        let long = indicator(9, "x", &format!(",\"description\":\"{}\"", "y".repeat(MAX_OBJECT)));
        assert_eq!(mirror.take(&page(&long, ""), Some("2026\r\nX: y"), &limits), Ok(Next::Nothing));
        assert_eq!((mirror.len(), mirror.left_out, mirror.added_after.as_deref()), (0, 1, None));
        let many: Vec<String> = (0..3).map(|n| indicator(n, "a", "")).collect();
        assert!(matches!(
            mirror.take(&page(&many.join(","), ""), None, &limits),
            Err(TaxiiError::TooMuch(_))
        ));
    }
}
