//! What a playbook has to show before its next mode is proposed.

use std::{borrow::Cow, fmt, str::FromStr};

use model::Share;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a playbook has to show before its next mode is proposed, besides what holds when nobody says (docs/gate.md): no policy asks for
/// less, and of several the strictest word wins, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PromotionRules {
    /// Days above the target without interruption; 30 when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 365))]
    pub days: Option<u32>,
    /// Judged runs; 20 when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 500))]
    pub judged_runs: Option<u32>,
    /// Agreement above which Approve is proposed; 95% when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approve_above: Option<Percent>,
    /// Agreement above which Auto is proposed; 99.5% when no policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_above: Option<Percent>,
}

impl PromotionRules {
    /// Nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A share as people write it: `99.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(pub Share);

/// A text that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no share: expected a number below 100 with at most two decimals and a percent sign, for example 99.5%"
)]
pub struct PercentError {
    text: String,
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let parsed = || {
            let number = text.strip_suffix('%')?;
            let (whole, part) = number.split_once('.').unwrap_or((number, ""));
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let fits = (1..=2).contains(&whole.len()) && part.len() <= 2 && digits(whole) && digits(part);
            let pointed = !number.contains('.') || !part.is_empty();
            let hundredths: u32 = format!("{part:0<2}").parse().ok()?;
            (fits && pointed).then_some(whole.parse::<u32>().ok()? * 100 + hundredths)
        };
        parsed().map(|share| Self(Share(share))).ok_or_else(|| PercentError { text: text.into() })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0.0 / 100, self.0.0 % 100);
        match (part, part % 10) {
            (0, _) => write!(f, "{whole}%"),
            (_, 0) => write!(f, "{whole}.{}%", part / 10),
            _ => write!(f, "{whole}.{part:02}%"),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 6, "pattern": r"^[0-9]{1,2}(\.[0-9]{1,2})?%$" })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_as_people_write_them() {
        for (text, share) in [("95%", 9_500), ("99.5%", 9_950), ("99.05%", 9_905), ("0%", 0)] {
            assert_eq!(text.parse::<Percent>().map(|one| one.0), Ok(Share(share)));
            assert_eq!(Percent(Share(share)).to_string(), text);
        }
        for text in ["100%", "95", "9.%", "-1%", "99.555%", "%", "9 5%", ""] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
