//! From facts to measures: the formulas of docs/metrics.md. Pure: facts and the present are values.

use std::{collections::BTreeMap, time::Duration};

use model::{Level, Timestamp, Verdict};

use super::facts::{Asked, Facts};

/// Stretches of time that are measured, by the moment at which incidents were opened.
pub(crate) const WINDOWS: [(&str, Duration); 3] = [
    ("1d", Duration::from_secs(86_400)),
    ("7d", Duration::from_secs(7 * 86_400)),
    ("30d", Duration::from_secs(30 * 86_400)),
];
/// All playbooks together; no playbook can be called so.
pub(crate) const ALL: &str = "*";
/// Playbooks beyond those told apart.
pub(crate) const OTHER: &str = "(other)";
/// Playbooks that are told apart (I11).
pub(crate) const MAX_PLAYBOOKS: usize = 64;

/// Levels, as labels.
const LEVELS: [Level; 5] = [Level::Informational, Level::Low, Level::Medium, Level::High, Level::Critical];

/// A share of cases; nothing is known where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ratio {
    pub(crate) of: u64,
    pub(crate) part: u64,
}

impl Ratio {
    fn count(&mut self, counts: bool) {
        self.of += 1;
        self.part += u64::from(counts);
    }

    pub(crate) fn value(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        (self.of > 0).then(|| self.part as f64 / self.of as f64)
    }
}

/// Lengths of time, in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Spans(Vec<f64>);

impl Spans {
    /// Mean and the quantiles 0.5 and 0.95 (nearest rank); nothing where there is none.
    pub(crate) fn values(&self) -> Option<[(&'static str, f64); 3]> {
        let count = self.0.len();
        if count == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean = self.0.iter().sum::<f64>() / count as f64;
        let rank = |percent: usize| self.0[(count * percent).div_ceil(100).clamp(1, count) - 1];
        Some([("mean", mean), ("p50", rank(50)), ("p95", rank(95))])
    }
}

/// Measures of one stretch of time and one playbook.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Measures {
    pub(crate) incidents: u64,
    pub(crate) alerts: u64,
    pub(crate) detect: Spans,
    pub(crate) contain: Spans,
    pub(crate) remediate: Spans,
    pub(crate) false_positive: Ratio,
    pub(crate) automation: Ratio,
    pub(crate) precision: Ratio,
    pub(crate) escalation: Ratio,
    pub(crate) rollback: Ratio,
}

impl Measures {
    /// Names and values of the shares.
    pub(crate) fn ratios(&self) -> [(&'static str, Ratio); 5] {
        [
            ("false_positive", self.false_positive),
            ("automation_coverage", self.automation),
            ("containment_precision", self.precision),
            ("escalation_quality", self.escalation),
            ("rollback", self.rollback),
        ]
    }

    fn add(&mut self, facts: &Facts) {
        let after = |at: Timestamp| at.since(facts.first_event).as_secs_f64();
        self.incidents += 1;
        self.alerts += facts.alerts;
        self.detect.0.push(after(facts.opened));
        self.contain.0.extend(facts.contained.map(after));
        self.remediate.0.extend(facts.remediated.map(after));
        if let Some(verdict) = facts.verdict {
            let wrong = verdict == Verdict::FalsePositive;
            self.false_positive.count(wrong);
            if facts.contained_alone {
                self.precision.count(!wrong);
            }
        }
        if facts.over {
            let by_itself = facts.remediated.is_some_and(|end| facts.person.is_none_or(|at| at > end));
            self.automation.count(by_itself && facts.asked.is_none());
        }
        match (facts.asked, facts.verdict) {
            // A verdict holds over an answer.
            (Some(_), Some(verdict)) => self.escalation.count(verdict == Verdict::TruePositive),
            (Some(Asked::Agreed), None) => self.escalation.count(true),
            (Some(Asked::Refused), None) => self.escalation.count(false),
            (Some(Asked::Open) | None, _) => {}
        }
        self.rollback.of += u64::from(facts.automatic);
        self.rollback.part += u64::from(facts.undone);
    }

    fn finish(&mut self) {
        for spans in [&mut self.detect, &mut self.contain, &mut self.remediate] {
            spans.0.sort_by(f64::total_cmp);
        }
    }
}

/// All that is measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Measured {
    /// By stretch of time and playbook.
    pub(crate) by_playbook: BTreeMap<(&'static str, String), Measures>,
    /// Incidents and findings, by stretch of time and level.
    pub(crate) volume: BTreeMap<(&'static str, &'static str), (u64, u64)>,
}

impl Measured {
    /// Of these facts. `playbooks` are those in use: the names that labels may have.
    pub(crate) fn of<'a>(
        facts: impl Iterator<Item = &'a Facts> + Clone,
        playbooks: &[String],
        now: Timestamp,
    ) -> Self {
        let mut this = Self::default();
        for (window, long) in WINDOWS {
            this.by_playbook.insert((window, ALL.to_owned()), Measures::default());
            for level in LEVELS {
                this.volume.insert((window, super::level(level)), (0, 0));
            }
            for facts in facts.clone().filter(|facts| now.since(facts.opened) <= long) {
                let volume = this.volume.entry((window, super::level(facts.severity))).or_default();
                *volume = (volume.0 + 1, volume.1 + facts.alerts);
                let mut names: Vec<&str> =
                    facts.playbooks.iter().map(|name| label(name, playbooks)).collect();
                names.push(ALL);
                names.sort_unstable();
                names.dedup();
                for name in names {
                    this.by_playbook.entry((window, name.to_owned())).or_default().add(facts);
                }
            }
        }
        this.by_playbook.values_mut().for_each(Measures::finish);
        this
    }
}

/// The label of a playbook.
fn label<'a>(name: &'a str, playbooks: &[String]) -> &'a str {
    if playbooks.iter().take(MAX_PLAYBOOKS).any(|known| known == name) { name } else { OTHER }
}

#[cfg(test)]
mod tests {
    use model::IncidentId;
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000_000_000);

    fn facts(n: u32) -> Facts {
        let opened = Timestamp(NOW.0 - 3_600_000_000_000);
        Facts {
            id: IncidentId::new(format!("inc-{n}")),
            severity: Level::High,
            first_event: Timestamp(opened.0 - 2_000_000_000),
            opened,
            contained: Some(Timestamp(opened.0 + i64::from(n) * 1_000_000_000)),
            remediated: Some(Timestamp(opened.0 + 8_000_000_000)),
            over: true,
            person: None,
            verdict: None,
            alerts: 3,
            playbooks: vec!["miner".into()],
            asked: None,
            automatic: 2,
            undone: 0,
            contained_alone: true,
        }
    }

    fn all(facts: &[Facts]) -> Measures {
        Measured::of(facts.iter(), &["miner".into()], NOW).by_playbook[&("1d", ALL.to_owned())].clone()
    }

    #[test]
    fn the_formulas_of_the_page() {
        let judged = |n, verdict| Facts { verdict: Some(verdict), person: Some(NOW), ..facts(n) };
        let (right, wrong) = (Verdict::TruePositive, Verdict::FalsePositive);
        let measured = all(&[
            judged(1, right),
            judged(2, right),
            Facts { undone: 2, ..judged(3, wrong) },
            facts(4),
            Facts { asked: Some(Asked::Agreed), ..facts(5) },
            Facts { asked: Some(Asked::Refused), ..facts(6) },
            Facts {
                asked: Some(Asked::Open),
                over: false,
                remediated: None,
                contained: None,
                contained_alone: false,
                automatic: 0,
                ..facts(7)
            },
            Facts { asked: Some(Asked::Refused), ..judged(8, right) },
        ]);
        assert_eq!((measured.incidents, measured.alerts), (8, 24));
        assert_eq!(measured.detect.values().unwrap()[0], ("mean", 2.0));
        let contain = measured.contain.values().unwrap();
        assert_eq!((contain[1], contain[2]), (("p50", 6.0), ("p95", 10.0)), "of 3, 4, 5, 6, 7, 8, 10");
        assert_eq!(measured.remediate.values().unwrap()[0], ("mean", 10.0));
        assert_eq!(measured.false_positive, Ratio { of: 4, part: 1 });
        assert_eq!(measured.precision, Ratio { of: 4, part: 3 });
        assert_eq!(measured.automation, Ratio { of: 7, part: 4 }, "a verdict afterwards is no hand in it");
        assert_eq!(measured.escalation, Ratio { of: 3, part: 2 }, "a verdict holds over an answer");
        assert_eq!(measured.rollback, Ratio { of: 14, part: 2 });
        assert_eq!(Ratio::default().value(), None, "nothing is not zero");
    }

    #[test]
    fn incidents_count_in_the_stretch_in_which_they_were_opened() {
        let at = |days: i64| Facts { opened: Timestamp(NOW.0 - days * 86_400_000_000_000), ..facts(1) };
        let measured = Measured::of([at(0), at(3), at(20), at(40)].iter(), &[], NOW);
        let counts = WINDOWS.map(|(window, _)| measured.by_playbook[&(window, ALL.to_owned())].incidents);
        assert_eq!(counts, [1, 2, 3]);
        assert_eq!(measured.volume[&("30d", "high")], (3, 9));
        assert_eq!(measured.volume[&("30d", "low")], (0, 0));
    }

    proptest! {
        #[test]
        fn i11_labels_are_those_of_playbooks_in_use_whatever_is_recorded(names in prop::collection::vec("[a-z*()\\n\"]{0,8}", 0..200)) {
            let in_use: Vec<String> = (0..80).map(|n| format!("p{n}")).collect();
            let many: Vec<Facts> = names.iter().map(|name| Facts { playbooks: vec![name.clone(), "p70".into(), "p7".into()], ..facts(1) }).collect();
            let measured = Measured::of(many.iter(), &in_use, NOW);
            for (_, name) in measured.by_playbook.keys() {
                prop_assert!(name == ALL || name == OTHER || in_use[..MAX_PLAYBOOKS].contains(name), "{name}");
            }
            let every = &measured.by_playbook[&("7d", ALL.to_owned())];
            prop_assert_eq!(every.incidents, many.len() as u64, "an incident counts once in all");
        }
    }
}
