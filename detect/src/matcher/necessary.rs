//! The cheapest predicates without which a rule cannot match: only when one of them holds is the rule looked at.

use super::program::Logic;

/// A set of predicates of which at least one holds whenever the rule matches.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Necessary {
    /// Not empty, sorted, each once.
    pub(crate) predicates: Vec<u32>,
    /// Estimated share of events for which one of them holds (more than 1 says: nearly always).
    pub(crate) share: f32,
}

/// The cheapest such set; `None` if the rule must be looked at for every event.
///
/// `share` is `None` for predicates that no index finds, `implied` says what follows from those.
pub(crate) fn necessary<'a>(
    logic: &'a Logic,
    share: &impl Fn(u32) -> Option<f32>,
    implied: &impl Fn(u32) -> Option<&'a Logic>,
) -> Option<Necessary> {
    match logic {
        Logic::Constant(_) | Logic::Not(_) => None,
        Logic::Holds(predicate) => match share(*predicate) {
            Some(share) => Some(Necessary { predicates: vec![*predicate], share }),
            None => necessary(implied(*predicate)?, share, implied),
        },
        Logic::All(parts) => parts.iter().filter_map(|part| necessary(part, share, implied)).min_by(cheaper),
        Logic::Any(parts) => {
            let sets: Option<Vec<_>> = parts.iter().map(|part| necessary(part, share, implied)).collect();
            Some(union(sets?))
        }
        // If n of m hold, one holds among any m - n + 1 of them.
        Logic::AtLeast(count, parts) => {
            let enough = parts.len() + 1 - *count as usize;
            let mut sets: Vec<_> = parts.iter().filter_map(|part| necessary(part, share, implied)).collect();
            sets.sort_by(cheaper);
            (sets.len() >= enough).then(|| {
                sets.truncate(enough);
                union(sets)
            })
        }
    }
}

fn cheaper(one: &Necessary, other: &Necessary) -> std::cmp::Ordering {
    one.share.total_cmp(&other.share).then(one.predicates.len().cmp(&other.predicates.len()))
}

fn union(sets: Vec<Necessary>) -> Necessary {
    let share = sets.iter().map(|set| set.share).sum();
    let mut predicates: Vec<_> = sets.into_iter().flat_map(|set| set.predicates).collect();
    predicates.sort_unstable();
    predicates.dedup();
    Necessary { predicates, share }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(logic: &Logic, truth: u32) -> bool {
        match logic {
            Logic::Constant(known) => *known,
            Logic::Holds(p) => truth & (1 << p) != 0,
            Logic::Not(inner) => !holds(inner, truth),
            Logic::All(parts) => parts.iter().all(|p| holds(p, truth)),
            Logic::Any(parts) => parts.iter().any(|p| holds(p, truth)),
            Logic::AtLeast(n, parts) => parts.iter().filter(|p| holds(p, truth)).count() >= *n as usize,
        }
    }

    fn logic() -> impl Strategy<Value = Logic> {
        let leaf = (0_u32..8).prop_map(Logic::Holds);
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(Logic::not),
                prop::collection::vec(inner.clone(), 1..5).prop_map(Logic::all),
                prop::collection::vec(inner.clone(), 1..5).prop_map(Logic::any),
                (1_u32..4, prop::collection::vec(inner, 1..5)).prop_map(|(n, l)| Logic::at_least(n, l)),
            ]
        })
    }

    proptest! {
        /// Predicate 7 cannot be found by an index and implies predicate 3; predicate 6 cannot be found at all.
        #[test]
        fn a_match_never_comes_without_one_of_the_set(logic in logic(), shares in prop::array::uniform8(0.01_f32..1.0)) {
            let implication = Logic::Holds(3);
            let share = |p: u32| (p < 6).then(|| shares[p as usize]);
            let implied = |p: u32| (p == 7).then_some(&implication);
            if let Some(set) = necessary(&logic, &share, &implied) {
                prop_assert!(!set.predicates.is_empty());
                for truth in (0..256_u32).filter(|truth| truth & 0b1000_0000 == 0 || truth & 0b1000 != 0) {
                    if holds(&logic, truth) {
                        prop_assert!(set.predicates.iter().any(|p| truth & (1 << p) != 0), "{logic:?} {set:?} {truth:b}");
                    }
                }
            }
        }
    }
}
