//! Times as logs write them.

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

/// RFC 3164's `Nov 22 15:04:05`, taken for UTC, in the year that brings it nearest to before `now` (a day ahead is let pass).
pub(super) fn rfc3164(text: &str, now: Timestamp) -> Option<Timestamp> {
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
        let time = Timestamp(seconds.checked_mul(SECOND)?);
        (time.0 <= now.0.saturating_add(DAY * SECOND)).then_some(time)
    })
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
        assert_eq!(shown(rfc3164("Dec 31 23:59:58", january)), "2026-12-31T23:59:58.000Z");
        assert_eq!(shown(rfc3164("Jan  1 00:09:00", january)), "2027-01-01T00:09:00.000Z");
        assert_eq!(rfc3164("Foo 1 00:09:00", january), None);
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
