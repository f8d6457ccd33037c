//! Times as logs write them.

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use model::Timestamp;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// RFC 3339 with any fraction and offset: `2026-11-22T15:04:05.123456+01:00`. A space for the `T` and a missing offset (UTC) are taken too.
pub(super) fn rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    if bytes.len() < 19 || bytes.len() > 40 || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let number = |from: usize, to: usize| digits(text.get(from..to)?);
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| bytes[*at] != *mark) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        let kept = fraction.get(..end.min(9))?;
        nanos = digits(kept)? * 10_i64.pow(9 - u32::try_from(kept.len()).ok()?);
        rest = fraction.get(end..)?;
    }
    let offset = match rest {
        "" | "Z" | "z" => 0,
        _ => {
            let sign = match rest.as_bytes()[0] {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let zone = rest.get(1..)?.replace(':', "");
            if zone.len() != 4 {
                return None;
            }
            sign * (digits(&zone[..2])? * 3600 + digits(&zone[2..])? * 60)
        }
    };
    let seconds = civil(year, month, day, hour, minute, second)? - offset;
    Some(Timestamp(seconds.checked_mul(SECOND)?.checked_add(nanos)?))
}

/// RFC 3339, or a local time of `zone` where it names no offset.
pub(super) fn stamped(text: &str, zone: &Zone) -> Option<Timestamp> {
    let utc = rfc3339(text)?;
    let rest = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    if rest.is_empty() { zone.to_utc(utc, utc) } else { Some(utc) }
}

/// RFC 3164's `Nov 22 15:04:05`, a local time of `zone`, in the year that brings it nearest to before `now` (a day ahead is let pass).
pub(super) fn rfc3164(text: &str, now: Timestamp, zone: &Zone) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_ascii_whitespace();
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)?;
    let day = digits(parts.next()?)?;
    let clock: Vec<i64> = parts.next()?.split(':').map(digits).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    let this_year: i64 = now.to_string().get(..4)?.parse().ok()?;
    [this_year + 1, this_year, this_year - 1].into_iter().find_map(|year| {
        let seconds = civil(year, i64::try_from(month).ok()? + 1, day, hour, minute, second)?;
        let time = zone.to_utc(Timestamp(seconds.checked_mul(SECOND)?), now)?;
        (time.0 <= now.0.saturating_add(DAY * SECOND)).then_some(time)
    })
}

/// The zone of times that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// Why a text is no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time zone: UTC, an offset such as +01:00, or a name such as Europe/Berlin that /usr/share/zoneinfo has"
)]
pub struct ZoneError(String);

impl Zone {
    /// UTC.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// This machine's: of `TZ`, else of /etc/localtime, else UTC.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// The moment of a local time that is written as if it were UTC. One that comes twice, when clocks are set back, is the later of the two
    /// unless that is still to come.
    fn to_utc(&self, local: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let at = |offset: Offset| {
            local.0.checked_sub(i64::from(offset.seconds()).checked_mul(SECOND)?).map(Timestamp)
        };
        let seconds = jiff::Timestamp::from_second(local.0.div_euclid(SECOND)).ok()?;
        let civil = Offset::UTC.to_datetime(seconds);
        match self.0.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => at(offset),
            AmbiguousOffset::Gap { before, .. } => at(before),
            AmbiguousOffset::Fold { before, after } => {
                at(after).filter(|later| *later <= now).or_else(|| at(before))
            }
        }
    }
}

impl std::str::FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let unknown = || ZoneError(text.into());
        if text.eq_ignore_ascii_case("utc") || text == "Z" {
            return Ok(Self::UTC);
        }
        if let Some(rest) = text.strip_prefix(['+', '-']) {
            let rest = rest.replace(':', "");
            let number = |from: usize, to: usize| rest.get(from..to).and_then(digits);
            let (hours, minutes) = (number(0, 2).ok_or_else(unknown)?, number(2, 4).unwrap_or(0));
            if !matches!(rest.len(), 2 | 4) || hours > 14 || minutes > 59 {
                return Err(unknown());
            }
            let seconds = i32::try_from(hours * 3600 + minutes * 60).map_err(|_| unknown())?;
            let offset = Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds });
            return offset.map(|offset| Self(TimeZone::fixed(offset))).map_err(|_| unknown());
        }
        TimeZone::get(text).map(Self).map_err(|_| unknown())
    }
}

/// A number of seconds, milliseconds, microseconds or nanoseconds since 1970, by its size.
pub(super) fn epoch(number: i64) -> Option<Timestamp> {
    let nanos = match number {
        0..100_000_000_000 => number.checked_mul(SECOND)?,
        100_000_000_000..100_000_000_000_000 => number.checked_mul(1_000_000)?,
        100_000_000_000_000..100_000_000_000_000_000 => number.checked_mul(1000)?,
        100_000_000_000_000_000.. => number,
        _ => return None,
    };
    Some(Timestamp(nanos))
}

fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Seconds since 1970. Days: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn civil(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> Option<i64> {
    let fits = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !fits {
        return None;
    }
    let of_march = if month > 2 { month - 3 } else { month + 9 };
    let march_year = year - i64::from(month <= 2);
    let (era, of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let of_year = (153 * of_march + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * DAY + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(time: Option<Timestamp>) -> String {
        time.map_or_else(|| "none".into(), |time| time.to_string())
    }

    #[test]
    fn times_are_read_as_written() {
        assert_eq!(shown(rfc3339("2026-11-22T15:04:05Z")), "2026-11-22T15:04:05.000Z");
        assert_eq!(shown(rfc3339("2026-11-22T15:04:05.123456+01:00")), "2026-11-22T14:04:05.123Z");
        assert_eq!(shown(rfc3339("2026-11-22T00:04:05.9-0130")), "2026-11-22T01:34:05.900Z");
        for wrong in [
            "",
            "2026-11-22",
            "2026-13-22T15:04:05Z",
            "2026-11-22T15:04:05+1",
            "2026-11-22T15:04:05.Z",
            "ääääääääääääääääääää",
        ] {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_year_is_found_where_none_is_written() {
        let january = rfc3339("2027-01-01T00:10:00Z").unwrap();
        let read = |text| rfc3164(text, january, &Zone::UTC);
        assert_eq!(shown(read("Dec 31 23:59:58")), "2026-12-31T23:59:58.000Z");
        assert_eq!(shown(read("Jan  1 00:09:00")), "2027-01-01T00:09:00.000Z");
        assert_eq!(read("Foo 1 00:09:00"), None);
    }

    #[test]
    fn a_time_without_a_zone_is_one_of_the_zone_that_was_given() {
        let now = rfc3339("2026-11-22T20:00:00Z").unwrap();
        let zone = |text: &str| text.parse::<Zone>().unwrap();
        let read = |zone: &Zone| shown(rfc3164("Nov 22 15:04:05", now, zone));
        assert_eq!(read(&Zone::UTC), "2026-11-22T15:04:05.000Z");
        assert_eq!(read(&zone("+01:00")), "2026-11-22T14:04:05.000Z");
        assert_eq!(read(&zone("-0330")), "2026-11-22T18:34:05.000Z");
        assert_eq!(shown(stamped("2026-11-22T15:04:05.5", &zone("+01"))), "2026-11-22T14:04:05.500Z");
        assert_eq!(shown(stamped("2026-11-22T15:04:05+02:00", &zone("+01"))), "2026-11-22T13:04:05.000Z");
        for wrong in ["", "Berlin/Europe", "+1", "+99:00", "../../etc/passwd"] {
            assert!(wrong.parse::<Zone>().is_err(), "{wrong}");
        }
        // New year's eve there is new year here.
        let january = rfc3339("2027-01-01T03:10:00Z").unwrap();
        let told = rfc3164("Dec 31 22:09:00", january, &zone("-05:00"));
        assert_eq!(shown(told), "2027-01-01T03:09:00.000Z");
        let Ok(berlin) = "Europe/Berlin".parse::<Zone>() else {
            return println!("SKIPPED: there is no /usr/share/zoneinfo/Europe/Berlin here");
        };
        let summer = rfc3164("Jul  1 12:00:00", now, &berlin);
        assert_eq!(shown(summer), "2026-07-01T10:00:00.000Z");
        // 02:30 comes twice on the morning of 25 October 2026.
        let between = rfc3339("2026-10-25T00:40:00Z").unwrap();
        assert_eq!(shown(rfc3164("Oct 25 02:30:00", between, &berlin)), "2026-10-25T00:30:00.000Z");
        assert_eq!(shown(rfc3164("Oct 25 02:30:00", now, &berlin)), "2026-10-25T01:30:00.000Z");
    }

    #[test]
    fn epochs_are_told_apart_by_size() {
        let expected = "2026-11-22T15:04:05.000Z";
        let seconds = 1_795_359_845;
        for scale in [1, 1000, 1_000_000, 1_000_000_000] {
            assert_eq!(shown(epoch(seconds * scale)), expected);
        }
        assert_eq!(epoch(-1), None);
    }
}
