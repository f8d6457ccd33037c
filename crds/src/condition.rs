//! Conditions, as Kubernetes has them: what was observed, of which generation, and why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Moment;

/// One observation about a resource (the form of metav1.Condition).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is observed, for example `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Whether it holds.
    pub status: Holds,
    /// Why, in one word for programs.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Moment,
    /// The generation of the spec that was looked at.
    #[serde(default)]
    pub observed_generation: i64,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Condition {
    /// Conditions of one resource, at most (I11).
    pub const MAX: u32 = 16;

    /// Puts `new` in the place of the condition of its kind. The time of the change stays when the status is the same.
    pub fn set(conditions: &mut Vec<Self>, mut new: Self) {
        match conditions.iter_mut().find(|known| known.kind == new.kind) {
            Some(known) => {
                if known.status == new.status {
                    new.last_transition_time = known.last_transition_time;
                }
                *known = new;
            }
            None => conditions.push(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: Holds, at: &str, generation: i64) -> Condition {
        Condition {
            kind: "Ready".into(),
            status,
            reason: "Said".into(),
            message: String::new(),
            last_transition_time: at.parse().unwrap(),
            observed_generation: generation,
        }
    }

    #[test]
    fn the_time_of_a_change_is_that_of_the_status() {
        let mut all = Vec::new();
        Condition::set(&mut all, ready(Holds::True, "2026-01-01T00:00:00Z", 1));
        Condition::set(&mut all, ready(Holds::True, "2026-01-02T00:00:00Z", 2));
        assert_eq!(all, [ready(Holds::True, "2026-01-01T00:00:00Z", 2)]);
        Condition::set(&mut all, ready(Holds::False, "2026-01-03T00:00:00Z", 2));
        assert_eq!(all, [ready(Holds::False, "2026-01-03T00:00:00Z", 2)]);
    }
}
