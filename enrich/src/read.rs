//! Feeds as bytes → [`Feed`]. Whatever is in them is somebody's word: junk is counted and told, and never ends the reading of the rest.

mod csv;
mod loose;
mod misp;
mod pattern;
mod plain;
mod stix;

use model::Timestamp;

use crate::{
    feed::{Feed, FeedReport, FeedSpec, Format, Limits},
    index::{Builder, Detail},
    indicator::{Refusal, Value},
};

pub use pattern::{Comparison, conditions};

/// A feed that cannot be used as a whole; what was read of it before stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// It is longer than the limit.
    #[error("it has {bytes} bytes, and at most {limit} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It is cut off, or of another format.
    #[error("it is no {format:?} document: {because}")]
    Malformed {
        /// What was expected.
        format: Format,
        /// Where it breaks.
        because: String,
    },
    /// Nothing in it can be used, though there is something: probably of another format, or an error page.
    #[error("none of its {read} values can be used; the first: {first}")]
    Nothing {
        /// Values looked at.
        read: u64,
        /// Why not.
        first: String,
    },
}

/// Reads a feed that was written at `written`, as it stands at `now`.
///
/// # Errors
/// When nothing of it can be used. An empty feed is a feed.
pub fn read(
    bytes: &[u8],
    spec: FeedSpec,
    limits: &Limits,
    written: Timestamp,
    now: Timestamp,
) -> Result<Feed, FeedError> {
    if bytes.len() > limits.bytes {
        return Err(FeedError::TooLong { bytes: bytes.len(), limit: limits.bytes });
    }
    let mut taker = Taker {
        spec: &spec,
        limits,
        written: written.unix_seconds(),
        now: now.unix_seconds(),
        builder: Builder::default(),
        report: FeedReport::default(),
    };
    match spec.format {
        Format::Plain => plain::read(bytes, &mut taker),
        Format::Csv => csv::read(bytes, &mut taker),
        Format::Misp => misp::read(bytes, &mut taker)?,
        Format::Stix => stix::read(bytes, &mut taker)?,
    }
    let Taker { builder, mut report, .. } = taker;
    // What was all once good and is over now is a feed that says nothing, not a broken one.
    let over = [Refusal::Expired, Refusal::Revoked, Refusal::NotForDetection];
    let unusable: u64 = report.refused.iter().filter(|(why, _)| !over.contains(why)).map(|(_, n)| n).sum();
    if builder.len() == 0 && unusable > 0 && unusable == report.left_out() {
        let first = report.examples.first().map(|one| format!("{:?}: {}", one.what, one.because));
        return Err(FeedError::Nothing { read: report.read, first: first.unwrap_or_default() });
    }
    let index = builder.finish(&mut report);
    Ok(Feed { spec, written, report, index })
}

/// Takes what a format's reader finds.
pub(crate) struct Taker<'a> {
    spec: &'a FeedSpec,
    limits: &'a Limits,
    written: i64,
    now: i64,
    builder: Builder,
    report: FeedReport,
}

/// What a feed says of one indicator; times in seconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said<'a> {
    pub(crate) confidence: Option<u8>,
    pub(crate) from: Option<i64>,
    pub(crate) seen: Option<i64>,
    pub(crate) expires: Option<i64>,
    pub(crate) note: &'a str,
}

impl Taker<'_> {
    /// One value at line or object `at`.
    pub(crate) fn take(&mut self, at: u64, text: &str, said: Said<'_>) {
        let value = Value::parse(text, self.spec.private);
        self.take_value(at, text, value, said);
    }

    pub(crate) fn take_value(&mut self, at: u64, text: &str, value: Result<Value, Refusal>, said: Said<'_>) {
        self.report.read += 1;
        if let Err(because) = value.and_then(|value| self.put(&value, said)) {
            self.report.refuse(at, because, text);
        }
    }

    /// Something without a value.
    pub(crate) fn refuse(&mut self, at: u64, because: Refusal, what: &str) {
        self.report.read += 1;
        self.report.refuse(at, because, what);
    }

    fn put(&mut self, value: &Value, said: Said<'_>) -> Result<(), Refusal> {
        if self.builder.len() >= self.limits.indicators {
            return Err(Refusal::TooMany);
        }
        // A source whose clock is ahead, or that lies, does not make an indicator last longer.
        let known = |at: &i64| *at > 0 && *at <= self.now.saturating_add(86_400);
        let seen = said.seen.filter(known);
        let age = i64::try_from(self.spec.age.as_secs()).unwrap_or(i64::MAX);
        let expires = said.expires.unwrap_or_else(|| seen.unwrap_or(self.written).saturating_add(age));
        if expires <= self.now {
            return Err(Refusal::Expired);
        }
        let confidence = said.confidence.unwrap_or(self.spec.confidence);
        let detail = Detail { confidence, from: said.from, seen, expires: Some(expires), note: said.note };
        self.builder.add(value, detail)
    }
}

/// Lines with their numbers from 1, without line ends; too long ones and what is not text are refused here.
fn lines<'b>(bytes: &'b [u8], taker: &mut Taker<'_>, mut each: impl FnMut(&mut Taker<'_>, u64, &'b str)) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > taker.limits.line {
            let start = String::from_utf8_lossy(&line[..64]);
            taker.refuse(number, Refusal::TooLong, &start);
            continue;
        }
        match std::str::from_utf8(line) {
            Ok(line) => each(taker, number, line),
            Err(_) => {
                taker.refuse(number, Refusal::NotText, &String::from_utf8_lossy(&line[..line.len().min(64)]))
            }
        }
    }
}

/// A point in time as feeds write it: RFC 3339, `2026-11-22 12:00:00`, `2026-11-22`, or seconds since 1970.
pub(crate) fn time(text: &str) -> Option<i64> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|_| (9..=11).contains(&text.len()));
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let is = |at: usize, of: &[u8]| text.as_bytes().get(at).is_some_and(|byte| of.contains(byte));
    if !is(4, b"-") || !is(7, b"-") {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut seconds = days(year, month, day) * 86_400;
    if is(10, b"T ") {
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19).unwrap_or(0));
        seconds += hour * 3600 + minute * 60 + second;
        let rest = text.get(19..).unwrap_or_default();
        let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        if let (Some(sign), Some(hours)) = (zone.get(..1), zone.get(1..3).and_then(|h| h.parse::<i64>().ok()))
        {
            let minutes = zone.get(4..6).and_then(|m| m.parse::<i64>().ok()).unwrap_or(0);
            let offset = hours * 3600 + minutes * 60;
            match sign {
                "+" => seconds -= offset,
                "-" => seconds += offset,
                _ => {}
            }
        }
    }
    Some(seconds)
}

/// Days from 1970-01-01: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests;
