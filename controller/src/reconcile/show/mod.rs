//! What the core knows, as the resources that people see. Pure: the same story gives the same objects, so that nothing is written that
//! stands there already.

mod action;
mod approval;
mod incident;

pub(crate) use action::{action_name, action_plan, action_status, digest, is_settled, is_settled_state};
pub(crate) use approval::{approval_name, approval_spec, approval_summary};
pub(crate) use incident::{incident_spec, incident_status, needs_of};

use crds::{Condition, Holds, Moment};
use model::{Timestamp, short_hash};

/// A name that the API server takes, made of one of ours. Two names of ours never give the same one.
pub(crate) fn object_name(ours: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name: String = ours.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let whole = name == ours && name.len() <= 200;
    let name = name.trim_matches('-');
    if whole && name == ours && !name.is_empty() {
        return name.to_owned();
    }
    let short: String = name.chars().take(180).collect();
    format!("{}-{}", short.trim_matches('-'), short_hash([ours], 5)).trim_start_matches('-').to_owned()
}

/// A text of ours, cut to what the schema takes.
pub(crate) fn bounded(text: &str, most: usize) -> String {
    crds::cut(text, most)
}

/// An observation.
pub(crate) fn condition(
    kind: &str,
    status: Holds,
    reason: &str,
    message: impl AsRef<str>,
    at: Timestamp,
    generation: i64,
) -> Condition {
    Condition {
        kind: kind.into(),
        status,
        reason: reason.into(),
        message: bounded(message.as_ref(), 2048),
        last_transition_time: moment(at),
        observed_generation: generation,
    }
}

/// To the second, as metav1.Time has it: what is compared with what the API server gives back must not differ in what it drops.
pub(crate) fn moment(at: Timestamp) -> Moment {
    Moment(Timestamp(at.unix_seconds().saturating_mul(1_000_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_become_names_of_objects_and_stay_apart() {
        assert_eq!(object_name("act-7f3a-freeze"), "act-7f3a-freeze");
        let names =
            ["act-7f3a-a_b", "act-7f3a-a-b", "act-7f3a-A-b", "act-7f3a-a.b", "-", "_", "ü", "act:n1/7"];
        let made: std::collections::BTreeSet<String> = names.iter().map(|name| object_name(name)).collect();
        assert_eq!(made.len(), names.len(), "{made:?}");
        let long = object_name(&"x".repeat(400));
        assert!(long.len() < 253);
        for name in made.iter().chain([&long]) {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
            assert!(!name.starts_with('-') && !name.ends_with('-'), "{name}");
        }
    }
}
