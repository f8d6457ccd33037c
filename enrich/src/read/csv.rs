//! Comma-separated values: columns by their heading, also one in a comment (as abuse.ch writes it), or by what is in them.

use std::borrow::Cow;

use super::{Said, Taker, lines, time};
use crate::{
    feed::FeedSpec,
    indicator::{Refusal, Value},
};

/// Fields of a row looked at.
const MAX_FIELDS: usize = 64;

const VALUES: [&str; 22] = [
    "indicator",
    "ioc",
    "ioc_value",
    "value",
    "ip",
    "ip_address",
    "dst_ip",
    "src_ip",
    "address",
    "domain",
    "host",
    "hostname",
    "url",
    "hash",
    "sha256",
    "sha256_hash",
    "sha1",
    "sha1_hash",
    "md5",
    "md5_hash",
    "network",
    "cidr",
];
const CONFIDENCE: [&str; 3] = ["confidence", "confidence_level", "score"];
const SEEN: [&str; 6] =
    ["last_seen", "last_seen_utc", "lastseen", "last_online", "first_seen_utc", "first_seen"];
const FROM: [&str; 2] = ["valid_from", "validfrom"];
const EXPIRES: [&str; 5] = ["valid_until", "validuntil", "expires", "expiration", "expiry"];
const NOTES: [&str; 8] =
    ["description", "malware_printable", "malware", "threat", "threat_type", "tags", "signature", "comment"];

/// Which column is what.
#[derive(Debug, Clone, Default)]
struct Columns {
    values: Vec<usize>,
    confidence: Option<usize>,
    from: Option<usize>,
    seen: Option<usize>,
    expires: Option<usize>,
    note: Option<usize>,
    fields: usize,
}

pub(super) fn read(bytes: &[u8], taker: &mut Taker<'_>) {
    let mut columns: Option<Columns> = None;
    let mut comment: Option<Columns> = None;
    lines(bytes, taker, |taker, number, line| {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        if let Some(said) = line.strip_prefix('#') {
            comment = fields(said.trim()).and_then(|names| heading(&names)).or(comment.take());
            return;
        }
        let Some(row) = fields(line) else { return taker.refuse(number, Refusal::Malformed, line) };
        if columns.is_none() {
            if let Some(named) = heading(&row) {
                columns = Some(named);
                return;
            }
            let told = comment.take().filter(|told| told.fields == row.len());
            let found = told.or_else(|| by_content(&row, taker.spec));
            if found.is_none() {
                return taker.refuse(number, Refusal::NotAnIndicator, line);
            }
            columns = found;
        }
        if let Some(columns) = &columns {
            take(columns, &row, number, line, taker);
        }
    });
}

fn take(columns: &Columns, row: &[Cow<'_, str>], number: u64, line: &str, taker: &mut Taker<'_>) {
    let field = |at: Option<usize>| at.and_then(|at| row.get(at)).map_or("", |text| text.trim());
    let said = Said {
        confidence: confidence(field(columns.confidence)),
        from: time(field(columns.from)),
        seen: time(field(columns.seen)),
        expires: time(field(columns.expires)),
        note: field(columns.note),
    };
    let is_given = |text: &&str| !text.is_empty() && !matches!(*text, "-" | "n/a" | "N/A" | "None" | "null");
    let mut any = false;
    for value in columns.values.iter().filter_map(|at| row.get(*at)).map(|text| text.trim()).filter(is_given)
    {
        taker.take(number, value, said);
        any = true;
    }
    if !any {
        taker.refuse(number, Refusal::Malformed, line);
    }
}

fn heading(names: &[Cow<'_, str>]) -> Option<Columns> {
    let names: Vec<String> = names.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    let at = |wanted: &[&str]| wanted.iter().find_map(|name| names.iter().position(|known| known == name));
    let values: Vec<usize> = (0..names.len()).filter(|at| VALUES.contains(&names[*at].as_str())).collect();
    (!values.is_empty()).then(|| Columns {
        values,
        confidence: at(&CONFIDENCE),
        from: at(&FROM),
        seen: at(&SEEN),
        expires: at(&EXPIRES),
        note: at(&NOTES),
        fields: names.len(),
    })
}

/// Without a heading: the first column that holds an indicator.
fn by_content(row: &[Cow<'_, str>], spec: &FeedSpec) -> Option<Columns> {
    let at = row.iter().position(|text| Value::parse(text, spec.private).is_ok())?;
    Some(Columns { values: vec![at], fields: row.len(), ..Columns::default() })
}

/// 0 to 100; a share of one counts as a hundred times that.
fn confidence(text: &str) -> Option<u8> {
    let number: f64 = text.trim_end_matches('%').parse().ok().filter(|n: &f64| n.is_finite())?;
    let hundred = if text.contains('.') && number <= 1.0 { number * 100.0 } else { number };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
    Some(hundred.clamp(0.0, 100.0).round() as u8)
}

/// The fields of a row; none where a quote is not closed.
fn fields(line: &str) -> Option<Vec<Cow<'_, str>>> {
    let separator = if line.contains(',') || !line.contains('\t') { ',' } else { '\t' };
    let mut all = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.trim_start_matches(' ');
        let (field, after) = if let Some(quoted) = start.strip_prefix('"') {
            let (text, after) = unquoted(quoted)?;
            let after = after.trim_start_matches(' ');
            (text, after.strip_prefix(separator).map(Some).or_else(|| after.is_empty().then_some(None))?)
        } else {
            match rest.split_once(separator) {
                Some((field, after)) => (Cow::Borrowed(field), Some(after)),
                None => (Cow::Borrowed(rest), None),
            }
        };
        if all.len() < MAX_FIELDS {
            all.push(field);
        }
        match after {
            Some(after) => rest = after,
            None => return Some(all),
        }
    }
}

/// Up to the closing quote; two quotes are one.
fn unquoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut from = 0;
    loop {
        let end = from + text.get(from..)?.find('"')?;
        if text[end + 1..].starts_with('"') {
            from = end + 2;
            continue;
        }
        let inside = &text[..end];
        let inside = if inside.contains("\"\"") {
            Cow::Owned(inside.replace("\"\"", "\""))
        } else {
            Cow::Borrowed(inside)
        };
        return Some((inside, &text[end + 1..]));
    }
}
