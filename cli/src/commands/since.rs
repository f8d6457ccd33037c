//! A moment as a person writes it: so long ago, or a time in UTC.

use std::{str::FromStr, time::Duration};

use model::Timestamp;

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

impl Since {
    /// As a point in time.
    pub(crate) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(length) => {
                Timestamp(now.0.saturating_sub(i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)))
            }
            Self::At(time) => time,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ago(text).map(Self::Ago).or_else(|| moment(text).map(Self::At)).ok_or_else(|| {
            "write how long ago (`30s`, `90m`, `2h`, `7d`) or a time in UTC (`2026-11-22T12:04:05Z`)".into()
        })
    }
}

fn ago(text: &str) -> Option<Duration> {
    let unit = text.chars().last().filter(char::is_ascii)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    Some(Duration::from_secs(count.checked_mul(seconds)?))
}

/// `2026-11-22`, `2026-11-22T12:04:05Z`, `2026-11-22T12:04:05.678Z` (RFC 3339 in UTC).
fn moment(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let [year, month, day] = numbers(date, '-')?;
    let (clock, fraction) = time.strip_suffix('Z')?.split_once('.').unwrap_or((time.strip_suffix('Z')?, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    let fine = (1970..=2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61
        && fraction.len() <= 9
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let nanos: i64 = format!("{fraction:0<9}").parse().ok().filter(|_| fine)?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Timestamp(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let mut parts = text.split(between).map(|part| {
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten()
    });
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

/// Days since 1970-01-01. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_printed() {
        for nanos in [0, 951_782_400_000_000_000, 1_795_349_045_678_000_000] {
            let time = Timestamp(nanos);
            assert_eq!(time.to_string().parse(), Ok(Since::At(time)));
        }
        assert_eq!("1970-01-02".parse(), Ok(Since::At(Timestamp(86_400_000_000_000))));
        assert_eq!("90m".parse(), Ok(Since::Ago(Duration::from_secs(5400))));
        assert_eq!(Since::Ago(Duration::from_secs(1)).at(Timestamp(3_000_000_000)), Timestamp(2_000_000_000));
    }

    #[test]
    fn what_is_neither_is_refused_with_what_is_expected() {
        for text in [
            "",
            "h",
            "-1h",
            "5x",
            "2026-13-01",
            "2026-11-22T25:00:00Z",
            "2026-11-22T12:00:00",
            "99999999999999999999d",
            "é",
        ] {
            let error = text.parse::<Since>().unwrap_err();
            assert!(error.contains("90m"), "{text}: {error}");
        }
    }
}
