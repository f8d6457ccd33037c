//! What holds of promotion and demotion whatever was recorded.

use model::{Actor, GateOutcome, IncidentId, RunId, RunState};
use proptest::prelude::*;

use super::*;

const TERMS: Terms = Terms::SHIPPED;

#[test]
fn a_policy_may_ask_for_more_and_never_for_less() {
    let rules = |days, judged_runs, auto: &str| crds::ResponsePolicySpec {
        promotion: crds::PromotionRules {
            days: Some(days),
            judged_runs: Some(judged_runs),
            approve_above: None,
            auto_above: auto.parse().ok(),
        },
        ..crds::ResponsePolicySpec::default()
    };
    let name = PlaybookName::new("miner");
    let (strict, loose) = (rules(45, 40, "99.9%"), rules(1, 1, "10%"));
    let terms = Terms::of(&name, [&loose, &strict, &loose]);
    let days = |n: u64| std::time::Duration::from_secs(n * 86_400);
    assert_eq!((terms.window, terms.judged, terms.to_auto), (days(45), 40, Share(9_990)));
    assert_eq!(Terms::of(&name, [&loose]), Terms::SHIPPED);
    let mut other = strict;
    other.matches.playbooks = vec!["another".into()];
    assert_eq!(Terms::of(&name, [&other]), Terms::SHIPPED, "it speaks of another playbook");
}

const DAY: i64 = 86_400 * 1_000_000_000;
const START: Timestamp = Timestamp(1_790_000_000_000_000_000);

fn name() -> PlaybookName {
    PlaybookName::new("p")
}

fn at(days: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "days of a test")]
    Timestamp(START.0 + (days * DAY as f64) as i64)
}

fn run(n: usize, began: Timestamp, word: Option<Word>) -> Comparison {
    Comparison {
        playbook: name(),
        run: RunId::new(format!("run-{n:04}")),
        incident: IncidentId::new(format!("inc-{n:04}")),
        began,
        mode: Mode::Shadow,
        outcome: GateOutcome::Shadow,
        would: Vec::new(),
        did: Vec::new(),
        word,
        judged: word.map(|_| began.plus(Duration::from_secs(600))),
        end: Some(RunEnd::Good),
    }
}

fn standing(mode: Mode) -> Standing {
    Standing { mode, since: START, content: "c".into(), demoted: None, proposed: None }
}

/// One run a day, all agreed with.
fn good_month(days: usize) -> Vec<Comparison> {
    (0..days).map(|day| run(day, at(day as f64), Some(Word::Right))).collect()
}

fn reviewed(known: &Standing, runs: &[Comparison], now: Timestamp) -> (Standing, Vec<Moved>) {
    review(&name(), known, &runs.iter().collect::<Vec<_>>(), &TERMS, now)
}

#[test]
fn thirty_days_above_the_target_and_not_a_day_less_earn_a_proposal() {
    let runs = good_month(40);
    let first = runs[0].judged.unwrap();
    let just_before = Timestamp(first.0 + 30 * DAY - 1);
    assert_eq!(reviewed(&standing(Mode::Shadow), &runs[..30], just_before).1, []);
    let (proposed, moved) = reviewed(&standing(Mode::Shadow), &runs[..30], Timestamp(first.0 + 30 * DAY));
    let [Moved::Proposed(proposal)] = &moved[..] else { panic!("{moved:?}") };
    assert_eq!((proposal.from, proposal.to), (Mode::Shadow, Mode::Approve));
    assert!(proposal.evidence[0].contains("30 of 30"), "{proposal:?}");
    assert_eq!(proposed.in_force(), Mode::Shadow, "it is proposed, not made");
    let (_, moved) = reviewed(&standing(Mode::Approve), &runs[..30], at(31.0));
    assert!(matches!(&moved[..], [Moved::Proposed(p)] if p.to == Mode::Auto));
    assert_eq!(reviewed(&standing(Mode::Auto), &runs, at(90.0)).1, [], "beyond Auto there is nothing");
}

#[test]
fn a_wrong_one_begins_the_thirty_days_anew_and_withdraws_what_was_proposed() {
    let mut runs = good_month(31);
    let (proposed, _) = reviewed(&standing(Mode::Approve), &runs, at(31.0));
    assert!(proposed.proposed.is_some());
    runs.push(run(99, at(31.2), Some(Word::Wrong)));
    let (after, moved) = reviewed(&proposed, &runs, at(31.5));
    assert!(after.proposed.is_none());
    assert!(matches!(&moved[..], [Moved::Withdrawn { to: Mode::Auto, .. }]), "{moved:?}");
    // For Approve, 31 of 32 is above 95 %, but not for 30 days where the wrong one came second.
    let mut early = good_month(31);
    early[1].word = Some(Word::Wrong);
    assert_eq!(reviewed(&standing(Mode::Shadow), &early, at(31.0)).1, []);
    let why = missing(&name(), &standing(Mode::Shadow), &early.iter().collect::<Vec<_>>(), &TERMS, at(31.0))
        .unwrap();
    assert!(why.contains("days are needed"), "{why}");
}

#[test]
fn one_afternoon_few_judgements_and_few_runs_are_not_enough() {
    let afternoon: Vec<Comparison> = (0..60).map(|n| run(n, at(0.1), Some(Word::Right))).collect();
    assert_eq!(reviewed(&standing(Mode::Shadow), &afternoon, at(40.0)).1, [], "one day");
    let mut unjudged = good_month(31);
    unjudged.extend((100..140).map(|n| run(n, at(5.0), None)));
    assert_eq!(reviewed(&standing(Mode::Shadow), &unjudged, at(40.0)).1, [], "less than half judged");
    assert_eq!(reviewed(&standing(Mode::Shadow), &good_month(19), at(40.0)).1, [], "19 of 20");
}

#[test]
fn two_false_positives_of_automatic_runs_cost_auto_and_a_row_of_failures_does() {
    let automatic = |n, day, word| Comparison {
        outcome: GateOutcome::Automatic,
        mode: Mode::Auto,
        ..run(n, at(day), word)
    };
    let mut runs: Vec<Comparison> = (0..30).map(|n| automatic(n, n as f64, Some(Word::Right))).collect();
    runs.push(automatic(40, 30.0, Some(Word::Wrong)));
    assert_eq!(reviewed(&standing(Mode::Auto), &runs, at(30.5)).1, [], "after one the gate asks by itself");
    runs.push(automatic(41, 30.1, Some(Word::Wrong)));
    let (demoted, moved) = reviewed(&standing(Mode::Auto), &runs, at(30.5));
    assert_eq!(demoted.in_force(), Mode::Approve);
    assert!(matches!(&moved[..], [Moved::Demoted(d)] if d.because.contains("2 of 31")), "{moved:?}");
    assert_eq!(reviewed(&demoted, &runs, at(30.6)).1, [], "once for the same reason");

    let mut failing: Vec<Comparison> = (0..10).map(|n| automatic(n, n as f64, None)).collect();
    for run in &mut failing[7..] {
        run.end = None;
        assert!(run.ended(RunState::Failed));
        assert!(!run.ended(RunState::RolledBack), "it failed, although it was undone");
    }
    let (demoted, _) = reviewed(&standing(Mode::Auto), &failing, at(11.0));
    assert!(demoted.demoted.unwrap().because.contains("3 of its last 10"));
}

#[test]
fn a_playbook_that_people_refuse_stops_asking() {
    let asked = |n, word| Comparison { outcome: GateOutcome::Approval, ..run(n, at(n as f64), Some(word)) };
    let runs: Vec<Comparison> =
        (0..10).map(|n| asked(n, if n < 4 { Word::Agreed } else { Word::Refused })).collect();
    let (after, _) = reviewed(&standing(Mode::Approve), &runs, at(10.0));
    assert_eq!(after.in_force(), Mode::Shadow);
    let (lifted, moved) = load(Some(&after), Mode::Shadow, "c", at(11.0));
    assert!(
        lifted.demoted.is_none() && matches!(moved[..], [Moved::ModeChanged { .. }, Moved::Lifted { .. }])
    );
    let (still, moved) = load(Some(&after), Mode::Approve, "another content", at(11.0));
    assert!(still.demoted.is_some() && moved == [Moved::ContentChanged], "nobody said that this mends it");
    assert!(begin_anew(&still, "user:ada", at(12.0)).0.demoted.is_none());
}

#[test]
fn agreement_is_told_by_weeks() {
    let mut runs = good_month(15);
    runs[0].word = Some(Word::Refused);
    let weeks = weeks(&runs.iter().collect::<Vec<_>>(), 10);
    assert_eq!(weeks.iter().map(|week| week.score.runs).sum::<u32>(), 15);
    assert!(weeks.windows(2).all(|pair| pair[1].from.0 - pair[0].from.0 == 7 * DAY));
    assert_eq!(weeks[0].score.judged - weeks[0].score.agreed, 1);
    // 1970-01-05 was the first Monday.
    assert!(weeks.iter().all(|week| (week.from.unix_seconds() - 4 * 86_400) % (7 * 86_400) == 0));
}

#[test]
fn a_record_is_bounded_and_a_verdict_holds_over_an_answer() {
    let mut one = run(1, START, None);
    for n in 0..100 {
        one.step(&format!("step {n} {}", "é".repeat(1000)));
        one.deed(START, &Actor::new("user:ada"), &n.to_string());
    }
    assert_eq!((one.would.len(), one.did.len()), (Comparison::MAX_LINES, Comparison::MAX_DEEDS));
    assert!(one.would[0].chars().count() <= 241 && one.did[15].what == "99");
    assert!(one.say(Word::Agreed, START) && one.say(Word::Wrong, START) && !one.say(Word::Agreed, at(1.0)));
    assert_eq!(one.word, Some(Word::Wrong));
}

fn words() -> impl Strategy<Value = Option<Word>> {
    prop_oneof![
        2 => Just(None),
        12 => Just(Some(Word::Right)),
        4 => Just(Some(Word::Agreed)),
        1 => Just(Some(Word::Wrong)),
        1 => Just(Some(Word::Refused)),
    ]
}

fn record() -> impl Strategy<Value = Vec<Comparison>> {
    let one = (0.0..60.0_f64, words(), 0..3_u8, prop::bool::weighted(0.9));
    prop::collection::vec(one, 0..120).prop_map(|all| {
        let make = |(n, (day, word, outcome, good)): (usize, (f64, Option<Word>, u8, bool))| {
            let mut one = run(n, at(day), word);
            one.outcome =
                [GateOutcome::Shadow, GateOutcome::Approval, GateOutcome::Automatic][usize::from(outcome)];
            one.end = Some(if good { RunEnd::Good } else { RunEnd::Failed });
            one
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

fn modes() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Shadow, Mode::Approve, Mode::Auto])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_is_proposed_before_thirty_days_and_never_more_than_one_step(
        runs in record(), mode in modes(), days in 0.0..80.0_f64,
    ) {
        let (after, moved) = reviewed(&standing(mode), &runs, at(days));
        prop_assert!(after.in_force() <= mode, "no review gives more than Git does");
        if let Some(proposal) = &after.proposed {
            prop_assert!(days >= 30.0);
            prop_assert!(matches!((proposal.from, proposal.to), (Mode::Shadow, Mode::Approve) | (Mode::Approve, Mode::Auto)));
            prop_assert_eq!(proposal.from, mode);
            prop_assert!(after.demoted.is_none(), "what is taken back is not proposed");
            let score = Score::of(&runs);
            prop_assert!(score.is_above(TERMS.target(mode)) && score.judged >= TERMS.judged);
        }
        let (again, nothing) = reviewed(&after, &runs, at(days));
        prop_assert_eq!((again, nothing), (after.clone(), Vec::new()), "reviewed twice");
        // What is kept is all that counts (I7): the same from its stored form.
        let stored: Standing = serde_json::from_str(&serde_json::to_string(&standing(mode)).unwrap()).unwrap();
        let kept: Vec<Comparison> = serde_json::from_str(&serde_json::to_string(&runs).unwrap()).unwrap();
        prop_assert_eq!(reviewed(&stored, &kept, at(days)), (after, moved));
    }

    #[test]
    fn one_more_wrong_word_never_earns_a_mode_nor_keeps_one(
        runs in record(), mode in modes(), days in 0.0..80.0_f64, which in any::<prop::sample::Index>(),
    ) {
        prop_assume!(!runs.is_empty());
        let before = reviewed(&standing(mode), &runs, at(days)).0;
        let mut worse = runs.clone();
        let one = which.get(&runs).run.clone();
        for run in worse.iter_mut().filter(|run| run.run == one && run.word.is_some()) {
            run.word = Some(Word::Wrong);
        }
        let after = reviewed(&standing(mode), &worse, at(days)).0;
        prop_assert!(before.proposed.is_some() || after.proposed.is_none());
        prop_assert!(after.in_force() <= before.in_force());
    }

    #[test]
    fn only_git_or_a_person_ends_a_demotion(runs in record(), mode in modes(), days in 0.0..80.0_f64, later in 0.0..90.0_f64) {
        let mut known = reviewed(&standing(mode), &runs, at(days)).0;
        let to = if mode == Mode::Auto { Mode::Approve } else { Mode::Shadow };
        known.demoted.get_or_insert(Demotion { from: mode, to, at: at(days), because: "seen".into() });
        known.proposed = None;
        let after = reviewed(&known, &[], at(days + later)).0;
        prop_assert_eq!(after.in_force(), known.in_force(), "time alone gives nothing back");
        if mode > to {
            let (reloaded, _) = load(Some(&known), mode, "c", at(days + later));
            prop_assert_eq!(reloaded.in_force(), known.in_force());
        }
        let (lifted, _) = load(Some(&known), known.in_force(), "c", at(days + later));
        prop_assert!(lifted.demoted.is_none() && lifted.in_force() == known.in_force());
    }

    #[test]
    fn what_was_recorded_before_the_mode_or_the_playbook_changed_does_not_count(runs in record(), mode in modes()) {
        let now = at(61.0);
        let (fresh, _) = load(Some(&standing(mode)), mode, "another", now);
        prop_assert_eq!(fresh.since, now);
        let (after, _) = reviewed(&fresh, &runs, at(100.0));
        prop_assert!(after.proposed.is_none() && after.demoted.is_none());
    }

    #[test]
    fn any_text_gives_a_patch_that_changes_the_mode_alone_or_none(text in "[ a-z:#\\n-]{0,60}", to in modes()) {
        let file = format!("# {}\napiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: p}}\nspec:\n  description: |\n    mode: Auto\n    {}\n  mode: Shadow # {}\n  trigger: {{rules: [r]}}\n  steps: [{{name: s, action: node.freeze, target: {{kind: Process}}}}]\n",
            text.replace('\n', " "), text.replace('\n', "\n    "), text.replace('\n', " "));
        if let Ok(hunk) = mode_hunk("p.yaml", &file, "p", false, to) {
            let removed: Vec<&str> = hunk.diff.lines().filter(|l| l.starts_with('-') && !l.starts_with("---")).collect();
            prop_assert!(removed.len() == 1 && removed[0].contains("mode: Shadow"), "{}", hunk.diff);
        }
    }
}
