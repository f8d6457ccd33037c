//! What policies make of a situation: of each setting the strictest word, and whose it is.

use crds::{BeginningRule, EvidenceRule, Maintenance, Mode, Radius, ResponsePolicySpec};

use crate::{plan::Plan, target::narrowest};

/// Judged runs from which on a playbook's accuracy counts, when no policy says.
pub(super) const JUDGED_RUNS: u32 = 20;
/// Targets of one playbook within ten minutes, when no policy says.
pub(super) const TARGETS: u32 = 10;
/// Namespaces of one actor within an hour, when no policy says.
pub(super) const NAMESPACES: u32 = 4;

/// A setting that holds, and whose word it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting<'a, T> {
    /// What holds.
    pub(super) value: T,
    /// The policy that says so; `None` for the playbook's own word or what holds when nobody says.
    pub(super) by: Option<&'a str>,
    /// What other policies said.
    pub(super) overruled: Vec<(&'a str, T)>,
}

/// All settings of the gate.
#[derive(Debug, Clone)]
pub(super) struct Rules<'a> {
    pub(super) mode: Setting<'a, Mode>,
    pub(super) widest: Setting<'a, Radius>,
    pub(super) evidence: Setting<'a, EvidenceRule>,
    pub(super) beginning: Setting<'a, BeginningRule>,
    pub(super) judged_runs: Setting<'a, u32>,
    pub(super) targets: Setting<'a, u32>,
    pub(super) namespaces: Setting<'a, u32>,
    pub(super) maintenance: Vec<(&'a str, &'a Maintenance)>,
}

impl<'a> Rules<'a> {
    pub(super) fn of(plan: &Plan, matching: &[&'a (String, ResponsePolicySpec)]) -> Self {
        let least = |of: &dyn Fn(&ResponsePolicySpec) -> Option<u32>, otherwise| {
            strictest(matching, otherwise, of, |new, old| new < old)
        };
        let mut mode = strictest(matching, plan.spec.mode, &|policy| policy.mode, |new, old| new < old);
        if mode.value > plan.spec.mode {
            // A policy does not widen a playbook.
            mode.overruled.extend(mode.by.take().map(|by| (by, mode.value)));
            mode.value = plan.spec.mode;
        }
        Self {
            mode,
            widest: strictest(
                matching,
                narrowest(std::iter::empty()),
                &|policy| policy.widest,
                |new, old| new < old,
            ),
            evidence: strictest(
                matching,
                EvidenceRule::default(),
                &|policy| policy.gate.evidence,
                |new, old| new > old,
            ),
            beginning: strictest(
                matching,
                BeginningRule::default(),
                &|policy| policy.gate.beginning,
                |new, old| new > old,
            ),
            judged_runs: strictest(matching, JUDGED_RUNS, &|policy| policy.gate.judged_runs, |new, old| {
                new > old
            }),
            targets: least(&|policy| policy.gate.targets, TARGETS),
            namespaces: least(&|policy| policy.gate.namespaces, NAMESPACES),
            maintenance: matching
                .iter()
                .flat_map(|(name, policy)| policy.maintenance.iter().map(move |one| (name.as_str(), one)))
                .collect(),
        }
    }
}

/// Of what policies say the strictest word; `otherwise` only where none says.
pub(super) fn strictest<'a, T: Copy + PartialEq>(
    matching: &[&'a (String, ResponsePolicySpec)],
    otherwise: T,
    of: &dyn Fn(&ResponsePolicySpec) -> Option<T>,
    is_stricter: impl Fn(T, T) -> bool,
) -> Setting<'a, T> {
    let mut found: Option<(&str, T)> = None;
    let mut overruled = Vec::new();
    for (name, policy) in matching {
        let Some(value) = of(policy) else { continue };
        match found {
            Some((_, known)) if !is_stricter(value, known) => overruled.push((name.as_str(), value)),
            _ => overruled.extend(found.replace((name, value))),
        }
    }
    match found {
        Some((by, value)) => Setting { value, by: Some(by), overruled },
        None => Setting { value: otherwise, by: None, overruled },
    }
}
