//! The third signal: how often a playbook was right.

use model::{Share, Signal, SignalKind, SignalSays};

use super::{Situation, confidence::vouched, rules::Rules};
use crate::plan::Plan;

/// A playbook must have been right in more than this.
pub(super) const NEEDED: Share = Share(9_950);

pub(super) fn signal(plan: &Plan, situation: &Situation<'_>, rules: &Rules<'_>) -> Signal {
    let name = &plan.name;
    let signal = |says, found, what| Signal {
        kind: SignalKind::PlaybookHistory,
        says,
        found,
        needed: Some(NEEDED),
        evidence: vec![what],
    };
    let Some(cases) = situation.evidence.playbook else {
        return signal(SignalSays::Ask, None, format!("how {name} was judged cannot be read"));
    };
    let (judged, enough) = (cases.right.saturating_add(cases.wrong), rules.judged_runs.value);
    let found = (judged > 0).then(|| {
        let share = u64::from(cases.right) * u64::from(Share::ONE.0) / u64::from(judged);
        Share(u32::try_from(share).unwrap_or(0))
    });
    let told = format!("{name} was right in {} of {judged} judged runs", cases.right);
    if judged < enough {
        let by_word = vouched(plan, rules) && cases.wrong == 0;
        let (says, why) = match (by_word, cases.wrong) {
            (true, _) => (SignalSays::Act, "mode Auto vouches for it until then"),
            (false, 0) => (SignalSays::Ask, "nobody vouches for it until then"),
            (false, _) => (SignalSays::Ask, "it was wrong already"),
        };
        return signal(says, found, format!("{told}; {enough} are needed before they count: {why}"));
    }
    // Compared exactly, not as rounded: right / judged > 99.5 %.
    let right = u64::from(cases.right) * u64::from(Share::ONE.0) > u64::from(judged) * u64::from(NEEDED.0);
    signal(if right { SignalSays::Act } else { SignalSays::Ask }, found, told)
}
