//! Reading written values.

use model::{FdKind, Timestamp};

use super::{DraftError, DraftValue};
use crate::schema::{Field, names::number_of};

/// A written value and the field that it is for.
pub(super) struct Written<'a> {
    pub(super) field: Field,
    pub(super) value: &'a DraftValue,
}

impl Written<'_> {
    pub(super) fn bad(&self, expected: &str) -> DraftError {
        let value = match self.value {
            DraftValue::One(text) => text.clone(),
            DraftValue::Many(texts) => texts.join(", "),
        };
        DraftError::BadValue { field: self.field.name(), value, expected: expected.into() }
    }

    pub(super) fn text(&self) -> Result<String, DraftError> {
        match self.value {
            DraftValue::One(text) => Ok(text.clone()),
            DraftValue::Many(_) => Err(self.bad("one value")),
        }
    }

    pub(super) fn texts(&self) -> Vec<String> {
        match self.value {
            DraftValue::One(text) => vec![text.clone()],
            DraftValue::Many(texts) => texts.clone(),
        }
    }

    pub(super) fn number(&self) -> Result<u32, DraftError> {
        self.text()?.parse().map_err(|_| self.bad("a whole number"))
    }

    pub(super) fn small(&self) -> Result<u8, DraftError> {
        self.text()?.parse().map_err(|_| self.bad("a number below 256"))
    }

    pub(super) fn wide(&self) -> Result<u64, DraftError> {
        self.text()?.parse().map_err(|_| self.bad("a whole number"))
    }

    pub(super) fn truth(&self) -> Result<bool, DraftError> {
        self.text()?.to_ascii_lowercase().parse().map_err(|_| self.bad("`true` or `false`"))
    }

    pub(super) fn user(&self) -> Result<u32, DraftError> {
        if self.text()? == "root" {
            Ok(0)
        } else {
            self.text()?.parse().map_err(|_| self.bad("`root` or a user id"))
        }
    }

    pub(super) fn word<T: Copy>(&self, known: &[(&str, T)]) -> Result<T, DraftError> {
        let text = self.text()?;
        let found = known.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            self.bad(&names.join(", "))
        })
    }

    pub(super) fn descriptor(&self) -> Result<FdKind, DraftError> {
        self.word(&[
            ("closed", FdKind::Closed),
            ("file", FdKind::File),
            ("pipe", FdKind::Pipe),
            ("socket", FdKind::Socket),
            ("device", FdKind::Device),
        ])
    }

    pub(super) fn bits(&self, table: &[(u64, &str)]) -> Result<u64, DraftError> {
        self.texts().iter().try_fold(0, |bits, name| {
            number_of(name, table).map(|bit| bits | bit).ok_or_else(|| {
                let names: Vec<&str> = table.iter().map(|(_, name)| *name).collect();
                self.bad(&names.join(", "))
            })
        })
    }

    pub(super) fn bits32(&self, table: &[(u64, &str)]) -> Result<u32, DraftError> {
        u32::try_from(self.bits(table)?).map_err(|_| self.bad("flags of 32 bits"))
    }

    /// A number by its name in the table, or the number itself.
    pub(super) fn named(&self, table: &[(u64, &str)]) -> Result<u64, DraftError> {
        let text = self.text()?;
        number_of(&text, table)
            .or_else(|| text.parse().ok())
            .ok_or_else(|| self.bad("a known name or a number"))
    }

    pub(super) fn position(&self, table: &[&str]) -> Result<u32, DraftError> {
        let text = self.text()?;
        let found = table.iter().position(|name| name.eq_ignore_ascii_case(&text));
        let number = found.and_then(|position| u32::try_from(position).ok()).or_else(|| text.parse().ok());
        number.ok_or_else(|| self.bad("a known name or a number"))
    }
}

/// RFC 3339 in UTC to the second, as [`Timestamp`] prints it, its milliseconds optional.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| {
        text.split(by).map(|part| part.parse::<i64>().ok()).collect::<Option<Vec<_>>>()
    };
    let (clock, millis) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = <[i64; 3]>::try_from(numbers(date, '-')?).ok()?;
    let [hour, minute, second] = <[i64; 3]>::try_from(numbers(clock, ':')?).ok()?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let of_march = if month > 2 { month - 3 } else { month + 9 };
    let march_year = year - i64::from(month <= 2);
    let of_era = march_year.rem_euclid(400);
    let of_year = (153 * of_march + 2) / 5 + day - 1;
    let days =
        march_year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let millis: i64 = millis.parse().ok().filter(|millis| (0..1000).contains(millis))?;
    Some(Timestamp(seconds.checked_mul(1_000_000_000)?.checked_add(millis * 1_000_000)?))
}
