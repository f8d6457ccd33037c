//! I7: killed before and after every journal entry and every effect, a run comes to the same end or to a full rollback.

use std::{collections::BTreeSet, time::Duration};

use model::OnDrift;
use proptest::prelude::*;

use super::{super::*, sim::*};

/// State of the run, what is in force, what is gone for good.
type End = (model::RunState, BTreeSet<model::ActionId>, BTreeSet<model::ActionId>);

/// How a world is made, again and again.
#[derive(Debug, Clone)]
struct Case {
    yaml: String,
    outcome: GateOutcome,
    faults: Vec<(&'static str, Fault)>,
    refuses: Vec<&'static str>,
    rollback: bool,
    /// For how long nobody is there after a crash.
    downtime: Duration,
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl Case {
    fn of(yaml: &str) -> Self {
        Self {
            yaml: yaml.into(),
            outcome: GateOutcome::Automatic,
            faults: Vec::new(),
            refuses: Vec::new(),
            rollback: false,
            downtime: Duration::ZERO,
        }
    }

    fn world(&self) -> World {
        let mut world = World::new(start(spec(&self.yaml), self.outcome));
        world.faults = self.faults.iter().copied().collect();
        world.refuses = self.refuses.iter().copied().collect();
        world.downtime = self.downtime;
        world
    }

    /// Every end that some order of answers gives without a crash: where steps run side by side and one fails, the order
    /// decides how far the others came.
    fn ends(&self, orders: u64) -> Vec<End> {
        let mut ends: Vec<End> = Vec::new();
        for order in 0..orders {
            let end = self.play_in(order.wrapping_mul(0x9e37_79b9_7f4a_7c15), &[], true).end();
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        ends
    }

    fn play(&self, crashes: &[usize], loses_mail: bool) -> World {
        self.play_in(0, crashes, loses_mail)
    }

    fn play_in(&self, order: u64, crashes: &[usize], loses_mail: bool) -> World {
        let mut world = self.world();
        world.order = order;
        world.crashes = crashes.iter().copied().collect::<BTreeSet<_>>();
        world.loses_mail = loses_mail;
        world.play();
        if self.rollback {
            // a request that died with the controller was not answered, so the person repeats it
            while !world
                .journal
                .iter()
                .any(|t| matches!(t.change, Change::RollbackBegan { ref by, .. } if *by == actor()))
            {
                if world.run().may_roll_back(&RollbackScope::Run).is_err() {
                    break;
                }
                let scope = RollbackScope::Run;
                let on_drift = OnDrift::Ask;
                world.tell(Input::Rollback { scope, by: actor(), because: "all back".into(), on_drift });
                world.play();
            }
        }
        world
    }

    /// Every crash point, alone.
    fn check_all_points(&self) -> usize {
        let whole = self.play(&[], true);
        let wanted = self.ends(8);
        for point in 0..whole.points {
            for loses_mail in [true, false] {
                self.check(&[point], loses_mail, &wanted);
            }
        }
        whole.points
    }

    fn check(&self, crashes: &[usize], loses_mail: bool, wanted: &[End]) {
        let world = self.play(crashes, loses_mail);
        let found = world.end();
        let back = found.1.is_empty() && matches!(found.0, model::RunState::RolledBack);
        assert!(
            wanted.contains(&found) || back || self.ends(2000).contains(&found),
            "I7: killed at {crashes:?} (mail lost: {loses_mail}) of {self:#?}\nwanted {wanted:?}\nfound  {found:?}\n{:#?}",
            world.journal.iter().map(|t| &t.change).skip(1).collect::<Vec<_>>()
        );
        let again = Run::replay(&world.journal).unwrap();
        assert_eq!(again.records(), world.run().records(), "the journal tells the whole story");
        assert_eq!(again.state(), world.run().state());
    }
}

const WHOLE: &str = r#"
    - {name: a, action: node.freeze}
    - {name: b, action: node.net-quarantine, alternatives: [{action: node.freeze, with: {scope: Cgroup}}]}
    - {name: c, action: node.capture-evidence, needs: [a]}
    - {name: d, action: node.kill, needs: [b, c], approval: Required}
    - {name: e, action: node.quarantine-file, needs: [d], when: steps.d.succeeded}
"#;

#[test]
fn i7_crash_at_every_point_of_a_whole_playbook() {
    let points = Case::of(WHOLE).check_all_points();
    assert!(points > 60, "{points} points");
    let asked = Case { outcome: GateOutcome::Approval, ..Case::of(WHOLE) };
    asked.check_all_points();
    Case { outcome: GateOutcome::Shadow, ..Case::of(WHOLE) }.check_all_points();
}

#[test]
fn i7_time_in_which_nobody_looks_after_a_run_takes_none_of_its_steps_time() {
    for downtime in [Duration::from_secs(6), Duration::from_secs(600)] {
        let yaml = WHOLE.replace("node.freeze}\n", "node.freeze, timeout: 5s}\n");
        let case = Case { downtime, ..Case::of(&yaml) };
        assert!(case.check_all_points() > 60);
    }
}

#[test]
fn i7_crash_at_every_pair_of_points() {
    let case = Case {
        rollback: true,
        ..Case::of(
            "    - {name: a, action: node.freeze}\n    - {name: b, action: node.net-quarantine, needs: [a]}\n",
        )
    };
    let whole = case.play(&[], true);
    let wanted = [whole.end()];
    for first in 0..whole.points {
        for second in first + 1..whole.points + 8 {
            case.check(&[first, second], true, &wanted);
        }
    }
}

#[test]
fn i7_crash_at_every_point_with_every_fault() {
    let faults = [
        Fault::Capture,
        Fault::Half,
        Fault::Unsupported,
        Fault::Nothing,
        Fault::Slow,
        Fault::Silent,
        Fault::Gone,
        Fault::Drift,
        Fault::UndoTwice,
    ];
    for fault in faults {
        for step in ["a", "b", "d"] {
            for rollback in [false, true] {
                Case { faults: vec![(step, fault)], rollback, ..Case::of(WHOLE) }.check_all_points();
            }
        }
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Capture),
        Just(Fault::Half),
        Just(Fault::Unsupported),
        Just(Fault::Nothing),
        Just(Fault::Slow),
        Just(Fault::Silent),
        Just(Fault::Gone),
        Just(Fault::Drift),
        Just(Fault::UndoTwice),
    ]
}

prop_compose! {
    /// A step that needs some of those before it.
    fn step()(
        action in 0..6_usize,
        needs in proptest::collection::vec(any::<bool>(), 6),
        on_failure in prop_oneof![Just("Stop"), Just("Continue"), Just("Rollback")],
        policy in prop_oneof![Just("Required"), Just("Observe"), Just("Skip")],
        approval in prop_oneof![3 => Just("AsNeeded"), 1 => Just("Required")],
        alternative in any::<bool>(),
        when in any::<bool>(),
    ) -> (usize, Vec<bool>, &'static str, &'static str, &'static str, bool, bool) {
        (action, needs, on_failure, policy, approval, alternative, when)
    }
}

prop_compose! {
    fn case()(
        steps in proptest::collection::vec(step(), 1..6),
        faults in proptest::collection::vec((0..6_usize, fault()), 0..3),
        refuses in proptest::collection::vec(0..6_usize, 0..2),
        whole in any::<bool>(),
        rollback in any::<bool>(),
    ) -> Case {
        let mut yaml = String::from("    - {name: a, action: node.freeze}\n");
        for (index, (action, needed, on_failure, policy, approval, alternative, when)) in steps.iter().enumerate() {
            let index = index + 1;
            let mut needs: Vec<&str> = (0..index).filter(|&n| needed[n]).map(|n| NAMES[n]).collect();
            let actions = ["node.freeze", "node.net-quarantine", "node.capture-evidence", "node.quarantine-file",
                "node.block-destination", "node.kill"];
            if actions[*action] == "node.kill" && !needs.contains(&"a") {
                needs.push("a");
            }
            let condition = match needs.first() {
                Some(first) if *when => format!(", when: \"steps.{first}.succeeded\""),
                _ => String::new(),
            };
            let otherwise = match (*alternative, *policy) {
                (false, _) => "",
                (true, "Skip") => ", alternatives: [{action: node.freeze}]",
                (true, _) => ", observe: {for: 5s, against: [Return]}, alternatives: [{action: node.freeze}]",
            };
            yaml.push_str(&format!(
                "    - {{name: {}, action: {}, needs: [{}], onFailure: {on_failure}, verify: {{policy: {policy}}}, approval: \
                 {approval}{condition}{otherwise}}}\n",
                NAMES[index], actions[*action], needs.join(", ")));
        }
        Case { downtime: Duration::ZERO,
            yaml,
            outcome: if whole { GateOutcome::Approval } else { GateOutcome::Automatic },
            faults: faults.into_iter().map(|(n, fault)| (NAMES[n], fault)).collect(),
            refuses: refuses.into_iter().map(|n| NAMES[n]).collect(),
            rollback,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn i7_crash_at_every_point_of_any_playbook(case in case()) {
        case.check_all_points();
    }
}
