//! A wall clock that is set while a run waits: no time has passed, and none comes twice.

use std::collections::{BTreeMap, BTreeSet};

use model::{GateOutcome, Timestamp};

use super::{super::*, sim::*};

const HOUR: i64 = 3_600_000_000_000;
const WHOLE: &str = r#"
    - {name: freeze, action: node.freeze}
    - {name: cut, action: node.net-quarantine}
    - {name: keep, action: node.capture-evidence, needs: [freeze]}
    - {name: kill, action: node.kill, needs: [keep, cut], approval: Required}
"#;

fn world(fault: Option<(&'static str, Fault)>, people: bool) -> World {
    let mut world = World::of(WHOLE);
    world.faults.extend(fault);
    world.answers_people = people;
    world
}

/// How each step and action ended, and how long the whole took by a clock that nobody sets.
fn told(world: &World, set: i64) -> (String, i64) {
    let records: Vec<_> = world
        .run()
        .records()
        .into_iter()
        .map(|record| (record.id, record.state, record.detail, record.rollback))
        .collect();
    let (state, in_force, gone) = world.end();
    let took = world.now.0 - set - 1_000_000_000_000;
    (format!("{state:?} {in_force:?} {gone:?} {records:?}"), took)
}

/// Set by hours, forward and back, before every single effect of a run: with a node that answers, one that is silent, and with nobody who
/// says yes or no, it comes to the same end after the same time.
#[test]
fn i7_a_clock_that_is_set_at_any_point_changes_no_end_and_no_wait() {
    for fault in [None, Some(("freeze", Fault::Silent)), Some(("cut", Fault::Silent))] {
        for people in [true, false] {
            let mut plain = world(fault, people);
            let points = plain.play().points;
            let end = told(&plain, 0);
            for point in 0..points {
                for by in [30 * HOUR, -5 * HOUR] {
                    let mut set = world(fault, people);
                    set.sets = BTreeMap::from([(point, by)]);
                    set.play();
                    let moved = if set.sets.is_empty() { by } else { 0 };
                    assert_eq!(told(&set, moved), end, "{fault:?}, people {people}, {by} before {point}");
                    let again = Run::replay(&set.journal).unwrap();
                    assert_eq!(again.summary(), set.run().summary(), "what is stored says the same");
                }
            }
        }
    }
}

/// The controller dies somewhere after the clock was set: what is stored knows of it.
#[test]
fn i7_a_crash_after_the_clock_was_set_expires_nothing() {
    let mut plain = world(None, true);
    let points = plain.play().points;
    let end = plain.end();
    let mut told = 0;
    for point in 0..points {
        for crash in (point + 1..points).step_by(3) {
            let mut set = world(None, true);
            set.sets = BTreeMap::from([(point, 30 * HOUR)]);
            set.crashes = BTreeSet::from([crash]);
            let known =
                |world: &World| world.journal.iter().any(|t| matches!(t.change, Change::ClockSet { .. }));
            set.play();
            // What was set before anything of it was stored is as what was set while no controller ran.
            if known(&set) {
                assert_eq!(set.end(), end, "set before {point}, dead before {crash}");
                told += 1;
            }
        }
    }
    assert!(told > points, "{told} of them were set and known");
}

#[test]
fn an_approval_is_as_far_away_as_before_and_still_expires() {
    let (mut run, _) = Run::begin(start(spec(WHOLE), GateOutcome::Approval), Timestamp(1)).unwrap();
    let due = run.next_deadline().unwrap();
    let mut now = 2;
    for by in [30 * HOUR, -40 * HOUR, 10 * HOUR] {
        now += by;
        let effects = run.step(Timestamp(now), Input::ClockSet { by });
        assert!(
            matches!(&effects[..], [Effect::Journal(Transition { change: Change::ClockSet { .. }, .. })]),
            "it is asked still: {effects:?}"
        );
    }
    assert_eq!(run.next_deadline(), Some(due), "forth and back is nothing");
    assert!(
        run.step(due, Input::Tick).iter().any(|effect| matches!(effect, Effect::Journal(_))),
        "it expires"
    );
    // A run that waits for nothing has nothing to write down, and one is not written to for nothing.
    assert_eq!(run.step(due, Input::ClockSet { by: 0 }), []);
}
