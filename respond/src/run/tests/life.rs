//! What a run does when nothing crashes.

use model::{ActionState, AuditKind, GateOutcome, OnDrift, Phase, RunState, StepName};

use super::{super::*, sim::*};

const WHOLE: &str = r#"
    - {name: freeze, action: node.freeze}
    - {name: cut, action: node.net-quarantine}
    - {name: keep, action: node.capture-evidence, needs: [freeze]}
    - {name: kill, action: node.kill, needs: [keep, cut], approval: Required}
"#;

fn states(world: &World) -> Vec<(String, ActionState)> {
    world.run().records().into_iter().map(|r| (r.step.unwrap().to_string(), r.state)).collect()
}

#[test]
fn contains_keeps_evidence_asks_and_ends() {
    let mut world = World::of(WHOLE);
    world.play();
    assert_eq!(world.run().state(), RunState::Succeeded);
    assert!(states(&world).iter().all(|(_, state)| *state == ActionState::Verified), "{:?}", states(&world));
    assert!(world.run().contained().is_some());
    assert_eq!(world.node.gone.len(), 1);
    let kinds: Vec<AuditKind> = world.audit.iter().map(|fact| fact.kind).collect();
    assert_eq!(kinds[0], AuditKind::Decision);
    assert!(kinds.contains(&AuditKind::Human));
    assert_eq!(kinds.iter().filter(|kind| **kind == AuditKind::Intent).count(), 4);
}

#[test]
fn parallel_steps_begin_together() {
    let mut world = World::of(WHOLE);
    world.play();
    let first: Vec<_> = world.node.commands.iter().take(2).map(|c| c.action.name()).collect();
    assert_eq!(first, ["node.freeze", "node.net-quarantine"]);
}

#[test]
fn i5_what_cannot_be_undone_waits_for_a_person() {
    let yaml = WHOLE.replace(", approval: Required", "");
    let mut world = World::of(&yaml);
    world.answers_people = false;
    world.play();
    assert!(world.node.gone.is_empty(), "nobody said yes");
    assert_eq!(world.run().state(), RunState::Succeeded);
    assert!(world.run().because().contains("refused: kill"), "{}", world.run().because());
    assert_eq!(world.node.in_force.len(), 2, "containment stays");

    let mut with_standing = start(spec(&yaml), GateOutcome::Automatic);
    with_standing.grants.standing.insert("node.kill".into(), "user:grace".into());
    let mut world = World::new(with_standing);
    world.answers_people = false;
    world.play();
    assert_eq!(world.node.gone.len(), 1, "a standing approval suffices");
}

#[test]
fn i5_an_irreversible_alternative_waits_for_a_person_too() {
    let mut world = World::of(
        r#"
    - {name: freeze, action: node.freeze}
    - {name: keep, action: node.capture-evidence, needs: [freeze]}
    - {name: cut, action: node.net-quarantine, needs: [keep], alternatives: [{action: node.kill}]}
"#,
    );
    world.faults.insert("cut", Fault::Unsupported);
    world.refuses.insert("cut");
    world.play();
    assert!(world.node.gone.is_empty());
    assert!(world.run().because().contains("refused: cut"), "{}", world.run().because());
}

#[test]
fn only_named_people_approve_and_never_the_system() {
    let mut begun = start(spec(WHOLE), GateOutcome::Approval);
    begun.grants.approvers = vec!["user:grace".into()];
    let (mut run, _) = Run::begin(begun, Timestamp(1)).unwrap();
    assert_eq!(run.state(), RunState::Waiting);
    let asked = run.summary().waiting;
    assert_eq!(asked.len(), 1);
    assert!(asked[0].would.contains("node.freeze pid 77"), "{asked:?}");
    for who in ["user:ada", "system:controller", "grace"] {
        let refusal = run.may_decide(&whole_run(), &Actor::new(who), &[]).unwrap_err();
        assert!(matches!(refusal, Refusal::NotAllowed { .. }), "{who}");
        let yes = Input::Approve { step: whole_run(), by: Actor::new(who), groups: vec![] };
        assert_eq!(run.step(Timestamp(2), yes), []);
    }
    assert!(matches!(
        run.may_decide(&StepName::new("kill"), &Actor::new("user:grace"), &[]),
        Err(Refusal::NotWaiting(_))
    ));
    let yes = Input::Approve { step: whole_run(), by: Actor::new("user:grace"), groups: vec![] };
    let effects = run.step(Timestamp(2), yes);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Send(_))));
}

#[test]
fn a_named_group_approves_by_its_members_and_the_record_says_so() {
    let mut begun = start(spec(WHOLE), GateOutcome::Approval);
    begun.grants.approvers = vec!["user:grace".into(), "group:soc-oncall".into()];
    let (mut run, _) = Run::begin(begun, Timestamp(1)).unwrap();
    let bob = Actor::new("user:bob");
    for groups in [vec![], vec!["people".to_owned()], vec!["group:soc-oncall".to_owned()]] {
        assert!(run.may_decide(&whole_run(), &bob, &groups).is_err(), "{groups:?}");
    }
    // A user who is called like the group is none of it, and the system is in no group.
    let oncall = vec!["soc-oncall".to_owned()];
    assert!(run.may_decide(&whole_run(), &Actor::new("user:soc-oncall"), &[]).is_err());
    assert!(run.may_decide(&whole_run(), &Actor::new("system:controller"), &oncall).is_err());
    let effects = run.step(Timestamp(2), Input::Approve { step: whole_run(), by: bob, groups: oncall });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Send(_))));
    let said = |effect: &Effect| matches!(effect, Effect::Audit(fact) if fact.what.contains("as one of group:soc-oncall"));
    assert!(effects.iter().any(said), "{effects:?}");
}

#[test]
fn a_refused_run_does_nothing_and_says_so() {
    let mut world = World::new(start(spec(WHOLE), GateOutcome::Approval));
    world.refuses.insert("run");
    world.play();
    assert_eq!(world.run().state(), RunState::Denied);
    assert!(world.node.commands.is_empty());
    let mut world = World::new(start(spec(WHOLE), GateOutcome::Approval));
    world.answers_people = false;
    world.play();
    assert_eq!(world.run().state(), RunState::Denied, "nobody answered in time");
}

#[test]
fn i8_shadow_sends_nothing_and_asks_nothing() {
    let begun = start(spec(WHOLE), GateOutcome::Shadow);
    let (mut run, effects) = Run::begin(begun, Timestamp(1)).unwrap();
    assert!(
        effects.iter().all(|effect| matches!(effect, Effect::Journal(_) | Effect::Audit(_))),
        "{effects:?}"
    );
    assert_eq!(run.state(), RunState::Shadow);
    assert!(run.is_over());
    let inputs = [
        Input::Tick,
        Input::NodeBack(model::NodeId::new("n1")),
        Input::Approve { step: whole_run(), by: actor(), groups: vec![] },
        Input::Rollback {
            scope: RollbackScope::Run,
            by: actor(),
            because: String::new(),
            on_drift: OnDrift::Ask,
        },
    ];
    for input in inputs {
        assert_eq!(run.step(Timestamp(2), input), []);
    }
    let would = effects.iter().filter(|e| {
        matches!(e, Effect::Journal(Transition { change: Change::Would { what, .. }, .. }) if what.contains("node.") )
    });
    assert_eq!(would.count(), 4);
}

#[test]
fn i9_an_uncertain_target_is_not_touched_and_a_person_is_told() {
    let mut begun = start(spec("    - {name: freeze, action: node.freeze}\n"), GateOutcome::Automatic);
    begun.facts.subject.process = None;
    let mut world = World::new(begun);
    world.play();
    assert!(world.node.commands.is_empty());
    assert!(world.notices.iter().any(|notice| notice.contains("no certain process")), "{:?}", world.notices);
    assert_eq!(world.run().state(), RunState::Failed);
}

#[test]
fn i6_what_is_protected_or_too_wide_is_not_touched() {
    let quarantine = "    - {name: cut, action: node.net-quarantine}\n";
    for (path, why) in [
        ("/", "many workloads"),
        ("/system.slice", "many workloads"),
        ("/kubepods/burstable", "many workloads"),
        ("/system.slice/kubelet.service", "kubelet.service"),
        ("/system.slice/hemostat.service/x", "hemostat.service"),
        ("/a/../b", "not absolute and plain"),
        ("/keep/this/one", "a policy protects /keep"),
        ("/safe", "it holds /safe/inner"),
    ] {
        let mut begun = start(spec(quarantine), GateOutcome::Automatic);
        begun.grants.protected.cgroup_paths = vec!["/keep".into(), "/safe/inner".into()];
        begun.facts.subject.cgroup = Some((model::CgroupId(1), path.into()));
        let mut world = World::new(begun);
        world.play();
        assert!(world.node.commands.is_empty(), "{path}");
        assert!(world.notices.iter().any(|notice| notice.contains(why)), "{path}: {:?}", world.notices);
    }
    for (pid, path) in [(1, "/x/y"), (2, "/x/y"), (77, "/system.slice/sshd.service")] {
        let mut begun = start(spec("    - {name: freeze, action: node.freeze}\n"), GateOutcome::Automatic);
        begun.facts.subject.process =
            Some(model::ProcessKey { pid: model::Pid(pid), start: model::BootNs(1) });
        begun.facts.subject.cgroup = Some((model::CgroupId(1), path.into()));
        let mut world = World::new(begun);
        assert!(world.play().node.commands.is_empty(), "{pid}");
    }
    let mut begun = start(spec(quarantine), GateOutcome::Automatic);
    begun.grants.widest = crds::Radius::Process;
    assert!(World::new(begun).play().node.commands.is_empty(), "wider than the policy allows");
    let mut begun = start(spec("    - {name: file, action: node.quarantine-file}\n"), GateOutcome::Automatic);
    begun.facts.subject.executable = Some(("/usr/bin/bash".into(), 1, 1));
    assert!(World::new(begun).play().node.commands.is_empty(), "a program of the whole machine");
}

#[test]
fn i6_what_runs_in_a_pod_of_a_protected_namespace_is_not_touched_on_its_node() {
    let pod = |namespace: &str| model::ObjectRef {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: Some(namespace.into()),
        name: "p".into(),
        uid: "u".into(),
        as_of: None,
    };
    for step in ["node.freeze", "node.net-quarantine"] {
        for (namespace, refused) in [("kube-system", true), ("pay", true), ("shop", false)] {
            let mut begun =
                start(spec(&format!("    - {{name: it, action: {step}}}\n")), GateOutcome::Automatic);
            begun.grants.protected.namespaces = vec!["pay".into()];
            begun.facts.subject.pod = Some(pod(namespace));
            let mut world = World::new(begun);
            world.play();
            assert_eq!(world.node.commands.is_empty(), refused, "{step} in {namespace}");
            let told = world.notices.iter().any(|notice| notice.contains(&format!("namespace {namespace}")));
            assert_eq!(told, refused, "{step}: {:?}", world.notices);
        }
    }
}

#[test]
fn i6_protected_and_wide_networks_are_not_blocked() {
    let block = "    - {name: block, action: node.block-destination}\n";
    let begun = |destination: std::net::IpAddr, kept: &[&str]| {
        let mut begun = start(spec(block), GateOutcome::Automatic);
        begun.facts.subject.destination = Some(destination);
        begun.grants.protected.networks =
            kept.iter().map(|text| crds::Network(text.parse().unwrap())).collect();
        begun
    };
    for (destination, kept, why) in [
        ([10, 0, 0, 53].into(), ["10.0.0.53/32"], "a policy protects 10.0.0.53/32"),
        ([10, 0, 0, 53].into(), ["10.0.0.0/8"], "a policy protects 10.0.0.0/8"),
        ([0, 0, 0, 0].into(), ["192.0.2.9/32"], "no address of one peer"),
        ([224, 0, 0, 1].into(), ["192.0.2.9/32"], "no address of one peer"),
    ] {
        let mut world = World::new(begun(destination, &kept));
        world.play();
        assert!(world.node.commands.is_empty(), "{destination}");
        assert!(
            world.notices.iter().any(|notice| notice.contains(why)),
            "{destination}: {:?}",
            world.notices
        );
    }
    let mut world = World::new(begun([10, 0, 0, 53].into(), &["10.0.0.54/32"]));
    assert!(!world.play().node.commands.is_empty(), "its neighbour is no reason");
}

#[test]
fn an_effect_that_is_not_seen_leads_to_the_alternative() {
    let yaml = r#"
    - name: cut
      action: node.block-destination
      verify: {attempts: 2, interval: 1s}
      alternatives: [{action: node.net-quarantine}, {action: node.freeze}]
"#;
    let mut world = World::of(yaml);
    world.faults.insert("cut", Fault::Nothing);
    world.play();
    let records = world.run().records();
    assert_eq!(records.len(), 3, "each alternative once: bounded");
    assert!(records.iter().all(|record| record.state == ActionState::Unverified));
    assert_eq!(world.run().state(), RunState::Failed);
    let mut world = World::of(yaml);
    world.faults.insert("cut", Fault::Slow);
    world.play();
    assert_eq!(states(&world), [("cut".to_owned(), ActionState::Verified)], "seen at the second look");
}

#[test]
fn a_target_that_is_gone_is_no_failure() {
    let mut world = World::of(WHOLE);
    world.faults.insert("freeze", Fault::Gone);
    world.play();
    assert_eq!(states(&world)[0], ("freeze".into(), ActionState::Vacuous));
    assert_eq!(world.run().state(), RunState::Succeeded);
}

#[test]
fn on_failure_decides_what_becomes_of_the_run() {
    let yaml = |on_failure: &str| {
        format!(
            "    - {{name: freeze, action: node.freeze}}\n    - {{name: cut, action: node.net-quarantine, needs: [freeze], \
             onFailure: {on_failure}}}\n    - {{name: keep, action: node.capture-evidence, needs: [cut]}}\n    - {{name: \
             late, action: node.capture-evidence, needs: [freeze], when: steps.freeze.succeeded}}\n"
        )
    };
    let ends = |on_failure: &str| {
        let mut world = World::of(&yaml(on_failure));
        world.faults.insert("cut", Fault::Half);
        world.play();
        (world.run().state(), world.node.in_force.len(), world.node.half.len())
    };
    assert_eq!(ends("Continue"), (RunState::Succeeded, 1, 0));
    assert_eq!(ends("Stop"), (RunState::Failed, 1, 0), "what contains stays in force");
    assert_eq!(ends("Rollback"), (RunState::RolledBack, 0, 0));
}

#[test]
fn a_false_condition_skips_and_outputs_reach_later_steps() {
    let mut world = World::of(
        r#"
    - {name: keep, action: node.capture-evidence}
    - {name: never, action: node.freeze, needs: [keep], when: steps.keep.outputs.bundle == 'other'}
    - {name: after, action: node.freeze, needs: [never], when: steps.keep.outputs.bundle == 'evd-1' && steps.never.state == 'Skipped'}
"#,
    );
    world.play();
    assert_eq!(world.node.in_force.len(), 1);
    let done: Vec<String> = states(&world).into_iter().map(|(step, _)| step).collect();
    assert_eq!(done, ["keep", "after"]);
}

#[test]
fn an_answer_that_never_comes_is_asked_for_and_found() {
    let mut world = World::of("    - {name: freeze, action: node.freeze, timeout: 5s}\n");
    world.faults.insert("freeze", Fault::Silent);
    world.play();
    assert_eq!(states(&world), [("freeze".to_owned(), ActionState::Verified)]);
    let phases: Vec<_> = world.node.commands.iter().map(|c| c.phase.name()).collect();
    assert_eq!(phases, ["capture", "apply", "verify"]);
}

#[test]
fn i4_a_journal_that_gives_back_something_else_stops_the_action() {
    let begun = start(spec("    - {name: freeze, action: node.freeze}\n"), GateOutcome::Automatic);
    for lie in [None, Some("other")] {
        let (mut run, effects) = Run::begin(begun.clone(), Timestamp(1)).unwrap();
        let capture = effects.iter().find_map(|e| match e {
            Effect::Send(command) => Some(command.clone()),
            _ => None,
        });
        let capture = capture.unwrap();
        let rollback = model::RollbackState::Network { pins: "real".into(), cgroup: "/x".into() };
        let outcome = model::CommandOutcome {
            key: capture.key,
            action_id: capture.action_id.clone(),
            phase: "capture".into(),
            at: Timestamp(2),
            result: Ok(model::PhaseDone::Captured { rollback }),
        };
        let effects = run.step(Timestamp(2), Input::Outcome(Box::new(outcome)));
        let [Effect::Journal(_), Effect::ReadBack { seq }] = &effects[..] else { panic!("{effects:?}") };
        let found = lie.map(|pins| {
            let rollback = model::RollbackState::Network { pins: pins.into(), cgroup: "/x".into() };
            let change = Change::Captured { action: capture.action_id.clone(), rollback };
            Box::new(Transition { run: run.id().clone(), seq: *seq, at: Timestamp(2), change })
        });
        let effects = run.step(Timestamp(3), Input::ReadBack { seq: *seq, found });
        let applies = |e: &Effect| matches!(e, Effect::Send(c) if matches!(c.phase, Phase::Apply { .. }));
        assert!(!effects.iter().any(applies));
        assert_eq!(run.records()[0].state, ActionState::Failed);
    }
}

#[test]
fn a_node_that_is_away_is_waited_for_and_asked_again() {
    let begun =
        start(spec("    - {name: freeze, action: node.freeze, timeout: 5s}\n"), GateOutcome::Automatic);
    let mut world = World::new(begun);
    world.faults.insert("freeze", Fault::Silent);
    world.play();
    // the same, by hand: lost after the apply was sent
    let cut = world.journal.iter().position(|t| matches!(t.change, Change::Applying { .. })).unwrap();
    let mut run = Run::replay(&world.journal[..=cut]).unwrap();
    let later = world.journal[cut].at.plus(Duration::from_secs(60));
    let _ = run.step(world.journal[cut].at, Input::NodeLost(model::NodeId::new("n1")));
    assert_eq!(run.step(later, Input::Tick), [], "nothing is given up while the node is away");
    assert!(run.next_deadline().is_some_and(|due| due > later), "and yet there is a deadline");
    let effects = run.step(later, Input::NodeBack(model::NodeId::new("n1")));
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Send(c) if matches!(c.phase, Phase::Verify { .. }))),
        "{effects:?}"
    );
}

#[test]
fn i7_what_is_held_waits_for_a_person_and_what_has_begun_comes_to_its_end() {
    let mut world = World::of(WHOLE);
    world.answers_people = false;
    let (mut run, mut effects) =
        Run::begin(start(spec(WHOLE), GateOutcome::Automatic), Timestamp(1)).unwrap();
    let hold = || Input::Hold { because: "a fire".into() };
    let held = run.step(Timestamp(2), hold());
    let asked = held.iter().find_map(|effect| match effect {
        Effect::AskApproval(request) => Some(request.clone()),
        _ => None,
    });
    let asked = asked.unwrap();
    assert_eq!((asked.step, asked.because.as_str()), (whole_run(), "a fire"));
    assert!(run.step(Timestamp(2), hold()).is_empty(), "once is enough");
    effects.extend(held);
    let journal: Vec<Transition> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Journal(transition) => Some(transition.clone()),
            _ => None,
        })
        .collect();
    let again = Run::replay(&journal).unwrap();
    assert_eq!((again.summary(), again.records()), (run.summary(), run.records()));
    // In the midst of a run: what has begun ends well, nothing further begins until a person says so.
    world.tell(hold());
    world.play();
    let done = states(&world);
    assert!(done.iter().all(|(step, _)| step == "freeze" || step == "cut"), "{done:?}");
    assert_eq!(world.run().state(), RunState::Failed, "nobody answered in time");
    assert_eq!(world.node.in_force.len(), done.len(), "what was done stays");
    assert!(world.run().because().contains("said no"), "{}", world.run().because());
    let mut world = World::of(WHOLE);
    world.tell(hold());
    world.play();
    assert_eq!(world.run().state(), RunState::Succeeded, "a person said yes");
}
