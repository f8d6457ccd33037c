//! Adaptive runs: the effect is there, and the sensors tell whether the attack goes on.

use std::collections::VecDeque;

use model::{
    ActionState, AuditKind, BootNs, CgroupId, GateOutcome, NodeId, Pid, ProcessKey, RunState, Timestamp,
};
use proptest::prelude::*;

use super::{super::*, sim::*};

const ADAPTIVE: &str = r#"
    - name: cut
      action: node.net-quarantine
      observe: {for: 10s, against: [Connections, Return, Spread]}
      alternatives:
        - {action: node.freeze, target: {kind: Cgroup}, with: {scope: Cgroup}}
        - {action: node.quarantine-file}
    - {name: keep, action: node.capture-evidence, needs: [cut], when: size(steps.cut.observed) > 0}
"#;

/// Something by a process that is not the one of the finding, `ms` after the effect was seen.
fn sight(happened: Happened, exe: &str, cgroup: &str, ms: i64) -> Sight {
    Sight {
        at: Timestamp(ms * 1_000_000),
        node: NodeId::new("n1"),
        happened,
        process: Some(ProcessKey { pid: Pid(99), start: BootNs(50) }),
        ancestors: Vec::new(),
        exe: exe.into(),
        cgroup: Some((CgroupId(5), cgroup.into())),
        pod: None,
        rule: Some("a-rule".into()),
        source: "finding f-2".into(),
    }
}

const HERE: &str = "/work.slice/job.service";

fn accepts(ms: i64) -> Sight {
    sight(Happened::Connected { remote: None }, "/usr/bin/x", HERE, ms)
}

fn starts_again(ms: i64) -> Sight {
    sight(Happened::Started, "/tmp/x", HERE, ms)
}

fn elsewhere(ms: i64) -> Sight {
    sight(Happened::Other, "/tmp/y", "/other.slice", ms)
}

/// Of no account: another program here; an attempt, which a cut-off process may make; another rule elsewhere; what was before.
fn idle() -> Vec<Sight> {
    let tried = Happened::Tried { remote: [192, 0, 2, 9].into() };
    vec![
        sight(Happened::Started, "/usr/bin/ls", HERE, 5),
        sight(tried, "/tmp/x", HERE, 5),
        Sight { rule: Some("another".into()), ..elsewhere(5) },
        starts_again(-5),
        accepts(11_000),
    ]
}

fn watched(sights: Vec<Vec<Sight>>) -> World {
    let mut world = World::of(ADAPTIVE);
    world.sights.insert("cut", sights.into());
    world.play();
    world
}

fn observed(world: &World) -> Vec<&Change> {
    world.journal.iter().map(|t| &t.change).filter(|c| matches!(c, Change::Observed { .. })).collect()
}

#[test]
fn what_stays_quiet_is_done_and_nothing_else_is() {
    let world = watched(vec![idle()]);
    assert_eq!(world.run().state(), RunState::Succeeded);
    assert_eq!(observed(&world), Vec::<&Change>::new());
    assert!(world.journal.iter().any(|t| matches!(t.change, Change::Quiet { .. })));
    assert_eq!(world.run().records().len(), 1, "`when` was false: nothing was observed");
    let watching = world.journal.iter().find(|t| matches!(t.change, Change::Watching { .. })).unwrap();
    assert_eq!(
        world.run().contained(),
        Some(watching.at),
        "it holds from the seen effect on, not from the end of watching"
    );
}

#[test]
fn a_sign_leads_to_the_alternative_and_the_rest_of_the_plan_adjusts() {
    for (sign, name) in
        [(accepts(20), "Connections"), (starts_again(20), "Return"), (elsewhere(20), "Spread")]
    {
        let mut early = idle();
        early.extend([sign.clone(), sign.clone()]);
        let world = watched(vec![early]);
        assert_eq!(world.run().state(), RunState::Succeeded, "{name}");
        assert_eq!(observed(&world).len(), 1, "{name}: doubled, it is one sign");
        let done: Vec<_> = world.run().records().into_iter().map(|r| (r.action.name(), r.state)).collect();
        let names: Vec<_> = done.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["node.net-quarantine", "node.freeze", "node.capture-evidence"], "{name}");
        assert!(
            done.iter().all(|(_, state)| *state == ActionState::Verified),
            "the first stays in force: {done:?}"
        );
        let told: Vec<_> = world.audit.iter().filter(|fact| fact.what.starts_with("observed (")).collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].kind == AuditKind::Outcome && told[0].what.contains(name), "{told:?}");
        assert!(world.audit.iter().any(|fact| fact.what.contains("alternative 1 is tried")));
        let frozen = world.run().records()[1].applied.unwrap();
        assert!(world.run().contained().unwrap() >= frozen, "it was not contained before");
    }
}

#[test]
fn when_every_way_is_answered_with_a_sign_the_step_fails_and_a_person_is_told() {
    let world = watched(vec![vec![accepts(1)], vec![starts_again(1)], vec![elsewhere(1)], vec![accepts(1)]]);
    assert_eq!(world.run().state(), RunState::Failed);
    assert_eq!(observed(&world).len(), 3);
    assert_eq!(world.node.in_force.len(), 3, "what contains stays");
    assert_eq!(world.run().contained(), None);
    assert!(world.notices.iter().any(|n| n.contains("the attack goes on (Spread)")), "{:?}", world.notices);
    let yaml = ADAPTIVE.replace(
        "action: node.net-quarantine\n",
        "action: node.net-quarantine\n      verify: {policy: Observe}\n",
    );
    let mut world = World::of(&yaml);
    world.sights.insert("cut", VecDeque::from(vec![vec![accepts(1)], vec![accepts(1)], vec![elsewhere(1)]]));
    world.play();
    assert_eq!(world.run().state(), RunState::Succeeded, "recorded, and the run goes on");
    assert_eq!((observed(&world).len(), world.run().contained()), (3, None));
}

#[test]
fn a_person_who_wants_all_back_need_not_wait_for_the_end_of_watching() {
    let mut world = World::of(ADAPTIVE);
    let (mut run, _) = Run::begin(start(spec(ADAPTIVE), GateOutcome::Automatic), Timestamp(1)).unwrap();
    assert!(!run.is_watching());
    world.play();
    let cut = world.journal.iter().position(|t| matches!(t.change, Change::Watching { .. })).unwrap();
    run = Run::replay(&world.journal[..=cut]).unwrap();
    assert!(
        run.is_watching()
            && run.heeds(&Sight {
                at: world.journal[cut].at.plus(std::time::Duration::from_secs(1)),
                ..accepts(0)
            })
    );
    let back = Input::Rollback {
        scope: RollbackScope::Run,
        by: actor(),
        because: "no".into(),
        on_drift: model::OnDrift::Ask,
    };
    let effects = run.step(world.journal[cut].at, back);
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Send(c) if matches!(c.phase, model::Phase::Revert { .. })))
    );
    assert!(!run.is_watching());
}

fn any_sight() -> impl Strategy<Value = Sight> {
    let happened = prop_oneof![
        Just(Happened::Started),
        Just(Happened::Tried { remote: [192, 0, 2, 9].into() }),
        Just(Happened::Connected { remote: Some([192, 0, 2, 9].into()) }),
        Just(Happened::Other),
    ];
    let place = prop_oneof![Just(HERE), Just("/work.slice/job.service/below"), Just("/other.slice")];
    let rule = prop_oneof![Just(Some("a-rule".to_owned())), Just(None)];
    (happened, any::<bool>(), place, rule, -20_000_i64..20_000).prop_map(
        |(happened, same, place, rule, ms)| Sight {
            rule,
            ..sight(happened, if same { "/tmp/x" } else { "/bin/y" }, place, ms)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the sensors say, in whatever order and however often, and wherever the controller is killed: a run ends, each way is
    /// tried once and takes one sign at most, each sign is of after the effect, and all of it stands in the journal.
    #[test]
    fn an_adaptive_run_is_bounded_ends_and_writes_down_what_it_observed(
        streams in prop::collection::vec(prop::collection::vec(any_sight(), 0..6), 0..6),
        order in any::<u64>(),
        crashes in prop::collection::btree_set(0_usize..120, 0..4),
        loses_mail in any::<bool>(),
        extra in any_sight(),
    ) {
        let mut world = World::of(ADAPTIVE);
        let calm = crashes.is_empty();
        (world.order, world.crashes, world.loses_mail) = (order, crashes, loses_mail);
        world.sights.insert("cut", streams.into());
        world.tell(Input::Sight(Box::new(extra)));
        world.play();
        prop_assert!(world.run().is_over() && !world.run().is_watching());
        let ways = 3;
        let signs = observed(&world);
        prop_assert!(signs.len() <= ways && world.run().records().len() <= ways + 1);
        let mut seen = std::collections::BTreeSet::new();
        for change in &signs {
            let Change::Observed { action, at, what, .. } = change else { continue };
            prop_assert!(seen.insert(action.clone()), "one sign for each way");
            let applied = world.run().records().into_iter().find(|r| r.id == *action).and_then(|r| r.applied);
            prop_assert!(applied.is_some_and(|applied| *at > applied));
            prop_assert!(what.chars().count() <= 256);
            let told = world.audit.iter().filter(|f| f.action.as_ref() == Some(action) && f.what.contains(what.as_str())).count();
            prop_assert!(!calm || told == 1, "each is in the audit log, once");
        }
        let again = Run::replay(&world.journal).unwrap();
        prop_assert_eq!(again.records(), world.run().records());
        prop_assert_eq!((again.state(), again.contained()), (world.run().state(), world.run().contained()));
        let _ = world.end();
    }
}
