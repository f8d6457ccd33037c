//! The first signal: how surely what a rule finds is an attack.
//!
//! What was judged makes a Beta posterior; its 5 % quantile is the confidence, so that with probability 95 % the truth is better. docs/gate.md
//! has the formula, the prior and what it means on the first day.

use crds::{BeginningRule, Mode};
use model::{Share, Signal, SignalKind, SignalSays};
use serde::{Deserialize, Serialize};

use super::{Situation, loss, rules::Rules};
use crate::plan::Plan;

/// The least confidence with which a run acts by itself.
pub(super) const NEEDED: Share = Share(9_500);
/// Cases that the word of whoever set the mode to Auto is worth: with them, and nothing else, the bound is just above [`NEEDED`], and one
/// verdict against it brings it below.
pub(super) const VOUCHED: u32 = 60;
/// The most that a rule's own tests are worth: they say that it does what its author meant, not that attackers do it.
const CORPUS: f64 = 2.0;
/// What one passed test is worth.
const PER_TEST: f64 = 0.1;
/// What a person's yes or no to a run is worth beside a verdict.
const ANSWER: f64 = 0.5;
/// The probability that the truth lies below the bound.
const TAIL: f64 = 0.05;

/// What was said of the findings of one rule, or of the runs of one playbook; each case once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cases {
    /// Judged true positives.
    pub right: u32,
    /// Judged false positives.
    pub wrong: u32,
    /// Of those judged, the ones where the playbook only said what it would have done.
    pub in_shadow: u32,
    /// Not judged, but a person said yes to the run.
    pub agreed: u32,
    /// Not judged, but a person said no to the run.
    pub refused: u32,
}

/// What came of a rule's own tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Corpus {
    /// As expected.
    pub passed: u32,
    /// Not as expected.
    pub failed: u32,
}

/// Of whose word a playbook in mode Auto has the benefit.
pub(super) fn vouched(plan: &Plan, rules: &Rules<'_>) -> bool {
    plan.spec.mode == Mode::Auto && rules.beginning.value == BeginningRule::Act
}

pub(super) fn signal(plan: &Plan, situation: &Situation<'_>, rules: &Rules<'_>) -> Signal {
    let rule = &situation.finding.rule.id;
    let mut evidence = Vec::new();
    let Some(cases) = situation.evidence.pattern else {
        evidence.push(format!("what was said of rule {rule} cannot be read"));
        return Signal {
            kind: SignalKind::PatternConfidence,
            says: SignalSays::Ask,
            found: None,
            needed: Some(NEEDED),
            evidence,
        };
    };
    let prior = if vouched(plan, rules) {
        evidence.push(format!("mode Auto vouches for it: as good as {VOUCHED} cases"));
        f64::from(VOUCHED)
    } else {
        evidence.push("nobody vouches for it".into());
        0.0
    };
    evidence.push(format!(
        "rule {rule}: {} true and {} false positives by verdict ({} of them in shadow), {} runs agreed to and {} refused",
        cases.right, cases.wrong, cases.in_shadow, cases.agreed, cases.refused
    ));
    let (mut good, mut bad) = (
        prior + f64::from(cases.right) + ANSWER * f64::from(cases.agreed),
        f64::from(cases.wrong) + ANSWER * f64::from(cases.refused),
    );
    match situation.evidence.corpus {
        Some(Corpus { passed, failed }) => {
            evidence.push(format!("its own tests: {passed} as expected, {failed} not"));
            good += (PER_TEST * f64::from(passed)).min(CORPUS);
            bad += f64::from(failed);
        }
        None => evidence.push("its own tests are not known here".into()),
    }
    let lost = loss::relevant(situation);
    if lost > 0 {
        evidence.push(format!(
            "{lost} events that it depends on were lost in the window: each weighs as one case against it"
        ));
        #[expect(clippy::cast_precision_loss, reason = "a weight")]
        let weight = lost as f64;
        bad += weight;
    }
    let mut found = Some(lower_bound(good, bad));
    match &situation.evidence.entities {
        Some(entities) => {
            for (entity, cases) in entities.iter().filter(|(_, cases)| cases.wrong > 0) {
                let own = of_entity(*cases);
                found = found.map(|found| found.min(own));
                evidence.push(format!(
                    "{entity}: {} true and {} false positives by verdict, whatever rule found it, so no more than {own}",
                    cases.right, cases.wrong
                ));
            }
        }
        None => {
            found = None;
            evidence.push("what was said of who did it, and of where, cannot be read".into());
        }
    }
    let says = if found.is_some_and(|found| found >= NEEDED) { SignalSays::Act } else { SignalSays::Ask };
    Signal { kind: SignalKind::PatternConfidence, says, found, needed: Some(NEEDED), evidence }
}

/// How sure one may be of what somebody does who was judged a false positive: as of a rule that its owner vouches for, so that the same
/// scanner, backup or person is not acted on again before dozens of right verdicts about it.
fn of_entity(cases: Cases) -> Share {
    lower_bound(f64::from(VOUCHED) + f64::from(cases.right), f64::from(cases.wrong))
}

/// The 5 % quantile of Beta(1 + good, 1 + bad), rounded down. By bisection: no step depends on a derivative that vanishes at the ends.
#[must_use]
pub fn lower_bound(good: f64, bad: f64) -> Share {
    if !(good.is_finite() && bad.is_finite()) || good < 0.0 || bad < 0.0 {
        return Share(0);
    }
    let (a, b) = (1.0 + good.min(1e7), 1.0 + bad.min(1e7));
    let (mut low, mut high) = (0_u32, Share::ONE.0);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if incomplete_beta(f64::from(middle) / f64::from(Share::ONE.0), a, b) <= TAIL {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Share(low)
}

/// The regularised incomplete beta function: the probability that a Beta(a, b) lies below `x` (DLMF 8.17).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    // The fraction converges fast on this side of the mean.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(x, a, b) / a
    } else {
        1.0 - front * fraction(1.0 - x, b, a) / b
    }
}

/// The continued fraction DLMF 8.17.22, by Lentz's method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / away(1.0 - (a + b) * x / (a + 1.0)));
    let mut result = d;
    // It needs about the root of the larger parameter.
    for step in 1..20_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away(1.0 + even * d);
        c = away(1.0 + even / c);
        result *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away(1.0 + odd * d);
        c = away(1.0 + odd / c);
        let change = d * c;
        result *= change;
        if (change - 1.0).abs() < 1e-13 {
            break;
        }
    }
    result
}

/// The logarithm of the gamma function for arguments from 1 on: Stirling's series (DLMF 5.11.1) after a shift.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_quantile_of_the_tables() {
        // Beta(n + 1, 1) has the quantile p^(1/(n + 1)).
        for n in [0_u32, 1, 9, 57, 60, 500] {
            let exact = TAIL.powf(1.0 / f64::from(n + 1)) * 10_000.0;
            let found = f64::from(lower_bound(f64::from(n), 0.0).0);
            assert!(found <= exact && exact - found < 1.001, "{n}: {found} {exact}");
            // And by symmetry Beta(1, n + 1) has 1 - (1 - p)^(1/(n + 1)).
            let exact = (1.0 - (1.0 - TAIL).powf(1.0 / f64::from(n + 1))) * 10_000.0;
            let found = f64::from(lower_bound(0.0, f64::from(n)).0);
            assert!(found <= exact + 1e-6 && exact - found < 1.001, "{n}: {found} {exact}");
        }
        // Beta(5, 5): 0.2514; Beta(2, 3): 0.0976 (tables of the incomplete beta function).
        assert_eq!((lower_bound(4.0, 4.0), lower_bound(1.0, 2.0)), (Share(2513), Share(976)));
        assert_eq!(lower_bound(f64::NAN, 0.0), Share(0));
    }

    #[test]
    fn on_the_first_day_the_word_of_the_owner_is_just_enough_and_one_verdict_against_it_is_too_much() {
        assert!(lower_bound(f64::from(VOUCHED), 0.0) >= NEEDED);
        assert!(lower_bound(f64::from(VOUCHED), 1.0) < NEEDED);
        assert!(lower_bound(f64::from(VOUCHED) + CORPUS, 0.5) < NEEDED, "nor does it outweigh a refusal");
        assert!(
            lower_bound(f64::from(VOUCHED) + 33.0, 1.0) >= NEEDED,
            "33 true positives outweigh one false one"
        );
        assert!(
            lower_bound(57.0, 0.0) < NEEDED && lower_bound(58.0, 0.0) >= NEEDED,
            "or 58 without anybody's word"
        );
    }
}
