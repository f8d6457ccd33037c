//! What holds of the gate whatever was recorded.

use std::collections::BTreeMap;

use crds::ResponsePolicySpec;
use model::{GateOutcome, PlaybookName, SignalSays};
use proptest::prelude::*;

use super::{
    tests::{decided_with, policy, strictness},
    *,
};

fn cases() -> impl Strategy<Value = Cases> {
    let number = || prop_oneof![0..4_u32, 0..300_u32, 5_000..6_000_u32];
    (number(), number(), number(), number(), number()).prop_map(
        |(right, wrong, in_shadow, agreed, refused)| Cases { right, wrong, in_shadow, agreed, refused },
    )
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let corpus =
        prop::option::of((0..40_u32, 0..2_u32).prop_map(|(passed, failed)| Corpus { passed, failed }));
    let want = (0..14_u8, 0..6_u8, -10_i64..4000).prop_map(|(target, namespace, ago)| Want {
        playbook: PlaybookName::new("shell"),
        target: format!("t{target}"),
        namespace: Some(format!("n{namespace}")),
        actors: vec!["account x".into()],
        at: Timestamp(NOW.0 - ago * 1_000_000_000),
    });
    let underway = || {
        prop_oneof![
            16 => Just(Underway::None),
            1 => Just(Underway::Goes("it goes".into())),
            1 => Just(Underway::Unknown("why".into())),
        ]
    };
    let known = |cases| prop::option::weighted(0.9, cases);
    (
        known(cases()),
        corpus,
        known(cases()),
        prop::option::weighted(0.9, prop::collection::vec(want, 0..30)),
        prop::option::weighted(0.9, prop::collection::btree_map("image [a-c]", cases(), 0..3)),
        (underway(), underway()),
    )
        .prop_map(|(pattern, corpus, playbook, wants, entities, (rollout, drain))| Evidence {
            pattern,
            corpus,
            playbook,
            wants,
            entities,
            rollout,
            drain,
            demoted: None,
        })
}

const NOW: Timestamp = Timestamp(1_790_000_000_000_000_000);

fn policies() -> impl Strategy<Value = Vec<(String, ResponsePolicySpec)>> {
    let text = prop::sample::subsequence(
        vec![
            "  gate: {evidence: Shown}\n",
            "  gate: {evidence: Enforced, targets: 3}\n",
            "  gate: {beginning: Ask, judgedRuns: 40}\n",
            "  gate: {namespaces: 2}\n",
            "  mode: Approve\n",
            "  budgets: {runsPerHour: 4, actionsPerHourAndNamespace: 2}\n",
            "  maintenance: [{from: 2020-01-01T00:00:00Z, until: 2030-01-01T00:00:00Z, reason: a move}]\n",
        ],
        0..4,
    );
    text.prop_map(|texts| texts.into_iter().map(policy).collect())
}

fn outcome(evidence: &Evidence, policies: &[(String, ResponsePolicySpec)], mode: &str) -> RunStart {
    decided_with(mode, policies, evidence, None, NOW, |_| {})
}

fn paused() -> Paused {
    Paused { by: Actor::new("user:ada"), at: NOW, because: "a fire".into() }
}

/// What the confidence is, where it is known.
fn found(start: &RunStart) -> Option<model::Share> {
    start.decision.signals[0].found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn more_false_positives_never_raise_the_confidence_nor_free_a_run(
        evidence in evidence(), policies in policies(), more in 1..50_u32,
    ) {
        let before = outcome(&evidence, &policies, "Auto");
        let mut worse = evidence.clone();
        for cases in [&mut worse.pattern, &mut worse.playbook].into_iter().flatten() {
            cases.wrong += more;
        }
        for cases in worse.entities.iter_mut().flat_map(BTreeMap::values_mut) {
            cases.wrong += more;
        }
        let after = outcome(&worse, &policies, "Auto");
        prop_assert!(found(&after) <= found(&before), "{:?} {:?}", found(&before), found(&after));
        prop_assert!(strictness(after.decision.outcome) >= strictness(before.decision.outcome));
    }

    #[test]
    fn a_playbook_that_was_taken_back_never_does_more_than_that(
        evidence in evidence(), policies in policies(), mode in prop::sample::select(vec!["Shadow", "Approve", "Auto"]),
        to in prop::sample::select(vec![crds::Mode::Shadow, crds::Mode::Approve]),
    ) {
        let before = outcome(&evidence, &policies, mode);
        let demoted = promotion::Demotion { from: crds::Mode::Auto, to, at: NOW, because: "two were wrong".into() };
        let after = outcome(&Evidence { demoted: Some(demoted), ..evidence }, &policies, mode);
        prop_assert!(strictness(after.decision.outcome) >= strictness(before.decision.outcome));
        prop_assert!(strictness(after.decision.outcome) >= strictness(of_mode(to)));
        prop_assert!(after.decision.reasons.iter().any(|reason| reason.contains("two were wrong")));
    }

    #[test]
    fn a_case_that_is_judged_false_never_helps_whatever_it_counted_as_before(cases in cases(), prior in 0..70_u32) {
        let of = |cases: &Cases| {
            let good = f64::from(prior) + f64::from(cases.right) + 0.5 * f64::from(cases.agreed);
            lower_bound(good, f64::from(cases.wrong) + 0.5 * f64::from(cases.refused))
        };
        let mut judged = Vec::new();
        for (field, from) in [("right", cases.right), ("agreed", cases.agreed), ("refused", cases.refused)] {
            if from == 0 {
                continue;
            }
            let mut after = cases;
            match field {
                "right" => after.right -= 1,
                "agreed" => after.agreed -= 1,
                _ => after.refused -= 1,
            }
            after.wrong += 1;
            judged.push(after);
        }
        for after in judged {
            prop_assert!(of(&after) <= of(&cases));
        }
    }

    #[test]
    fn i9_what_cannot_be_read_never_frees_a_run(evidence in evidence(), policies in policies()) {
        let before = outcome(&evidence, &policies, "Auto");
        let unread: [fn(&mut Evidence); 6] = [
            |evidence| evidence.pattern = None,
            |evidence| evidence.playbook = None,
            |evidence| evidence.wants = None,
            |evidence| evidence.entities = None,
            |evidence| evidence.rollout = Underway::Unknown("blind".into()),
            |evidence| evidence.drain = Underway::Unknown("blind".into()),
        ];
        for (which, forget) in unread.into_iter().enumerate() {
            let mut less = evidence.clone();
            forget(&mut less);
            let after = outcome(&less, &policies, "Auto");
            prop_assert!(strictness(after.decision.outcome) >= strictness(before.decision.outcome));
            let enforced = policies.is_empty();
            if enforced {
                prop_assert_ne!(after.decision.outcome, GateOutcome::Automatic, "{}", which);
            }
        }
    }

    #[test]
    fn a_run_acts_by_itself_only_if_every_signal_lets_it(evidence in evidence()) {
        let start = outcome(&evidence, &[], "Auto");
        let all = start.decision.signals.iter().all(|signal| signal.says == SignalSays::Act);
        prop_assert_eq!(start.decision.outcome == GateOutcome::Automatic, all);
        prop_assert_eq!(start.decision.signals.len(), 3);
        prop_assert!(start.decision.signals.iter().all(|signal| !signal.evidence.is_empty()));
        // I8: nothing that was recorded frees a playbook from its own mode.
        prop_assert_eq!(outcome(&evidence, &[], "Shadow").decision.outcome, GateOutcome::Shadow);
        prop_assert_ne!(outcome(&evidence, &[], "Approve").decision.outcome, GateOutcome::Automatic);
    }

    #[test]
    fn the_switch_holds_whatever_else_is_said(evidence in evidence(), policies in policies()) {
        let paused = paused();
        let start = decided_with("Auto", &policies, &evidence, Some(&paused), NOW, |_| {});
        prop_assert_ne!(start.decision.outcome, GateOutcome::Automatic);
        prop_assert!(start.decision.reasons.iter().any(|reason| reason.contains("a fire")));
    }

    #[test]
    fn one_policy_more_never_frees_a_run_but_by_its_own_explicit_word(
        evidence in evidence(), policies in policies(), more in policies(),
    ) {
        let shows = |all: &[(String, ResponsePolicySpec)]| {
            all.iter().any(|(_, policy)| policy.gate.evidence == Some(EvidenceRule::Shown))
        };
        prop_assume!(!shows(&more));
        // `judgedRuns` and numbers above the ones that hold when nobody says are explicit words, too.
        prop_assume!(more.iter().all(|(_, policy)| policy.gate.judged_runs.is_none()));
        let all = [policies.clone(), more].concat();
        let (before, after) = (outcome(&evidence, &policies, "Auto"), outcome(&evidence, &all, "Auto"));
        prop_assert!(strictness(after.decision.outcome) >= strictness(before.decision.outcome));
    }
}

#[test]
fn on_the_first_day_mode_auto_acts_and_a_policy_can_have_it_ask() {
    let evidence = Evidence::nothing_yet();
    let start = outcome(&evidence, &[], "Auto");
    assert_eq!(start.decision.outcome, GateOutcome::Automatic);
    let said = start.decision.reasons.join("\n");
    assert!(said.contains("mode Auto vouches for it") && said.contains("95.00 % needed"), "{said}");
    let careful = [policy("  gate: {beginning: Ask}\n")];
    assert_eq!(outcome(&evidence, &careful, "Auto").decision.outcome, GateOutcome::Approval);
    // What was earned needs nobody's word.
    let earned = Cases { right: 300, ..Cases::default() };
    let earned = Evidence { pattern: Some(earned), playbook: Some(earned), ..Evidence::nothing_yet() };
    assert_eq!(outcome(&earned, &careful, "Auto").decision.outcome, GateOutcome::Automatic);
}

#[test]
fn one_false_positive_takes_the_word_of_the_owner_away() {
    let once = |wrong: Cases| Evidence {
        pattern: Some(wrong),
        playbook: Some(Cases::default()),
        ..Evidence::nothing_yet()
    };
    let start = outcome(&once(Cases { wrong: 1, ..Cases::default() }), &[], "Auto");
    assert_eq!(start.decision.outcome, GateOutcome::Approval);
    let drill = [policy("  gate: {evidence: Shown}\n")];
    let start = outcome(&once(Cases { wrong: 1, ..Cases::default() }), &drill, "Auto");
    assert_eq!(
        start.decision.outcome,
        GateOutcome::Automatic,
        "a policy says that these judgements are of drills"
    );
    assert!(start.decision.reasons.iter().any(|reason| reason.contains("policy careful shows it")));
    let both = [policy("  gate: {evidence: Shown}\n"), policy("  gate: {evidence: Enforced}\n")];
    let start = outcome(&once(Cases { wrong: 1, ..Cases::default() }), &both, "Auto");
    assert_eq!(start.decision.outcome, GateOutcome::Approval, "the strictest word wins");
}

#[test]
fn who_was_judged_a_false_positive_is_asked_about_whatever_rule_finds_it_and_nobody_else_is() {
    let of = |entity: &str, cases: Cases, policies: &[(String, ResponsePolicySpec)]| {
        let entities = Some(BTreeMap::from([(entity.to_owned(), cases)]));
        // The rule and the playbook have long earned it.
        let earned = Some(Cases { right: 5_000, ..Cases::default() });
        let evidence = Evidence { pattern: earned, playbook: earned, entities, ..Evidence::nothing_yet() };
        outcome(&evidence, policies, "Auto")
    };
    let judged = |right, wrong| Cases { right, wrong, ..Cases::default() };
    assert_eq!(of("image scanner:1", judged(0, 0), &[]).decision.outcome, GateOutcome::Automatic);
    let start = of("image scanner:1", judged(3, 1), &[]);
    assert_eq!(start.decision.outcome, GateOutcome::Approval);
    let said = start.decision.signals[0].evidence.join("; ");
    assert!(said.contains("image scanner:1: 3 true and 1 false positives"), "{said}");
    assert_eq!(of("image scanner:1", judged(33, 1), &[]).decision.outcome, GateOutcome::Automatic);
    let drill = [policy("  gate: {evidence: Shown}\n")];
    assert_eq!(of("image x", judged(0, 1), &drill).decision.outcome, GateOutcome::Automatic, "a drill");
}

#[test]
fn the_history_counts_from_enough_judged_runs_on_and_is_compared_exactly() {
    let of = |right, wrong| {
        let cases = Some(Cases { right, wrong, ..Cases::default() });
        let pattern = Some(Cases { right: 5_000, ..Cases::default() });
        let evidence = Evidence { pattern, playbook: cases, ..Evidence::nothing_yet() };
        outcome(&evidence, &[], "Auto").decision.outcome
    };
    assert_eq!(of(19, 0), GateOutcome::Automatic);
    assert_eq!(of(18, 1), GateOutcome::Approval);
    assert_eq!(of(199, 1), GateOutcome::Approval, "99.5 % is not more than 99.5 %");
    assert_eq!(of(200, 1), GateOutcome::Automatic);
    assert_eq!(of(0, 20), GateOutcome::Approval);
}

#[test]
fn i6_a_playbook_that_wants_many_targets_pauses_and_asks_and_the_fourteen_namespaces_ask() {
    let want = |n: u32, ago: i64, actor: &str| Want {
        playbook: PlaybookName::new("shell"),
        target: format!("team-{n}/Deployment/db"),
        namespace: Some(format!("team-{n}")),
        actors: vec![actor.into()],
        at: Timestamp(NOW.0 - ago * 1_000_000_000),
    };
    let wanted = |wants: Vec<Want>, policies: &[(String, ResponsePolicySpec)]| {
        let evidence = Evidence { wants: Some(wants), ..Evidence::nothing_yet() };
        outcome(&evidence, policies, "Auto")
    };
    // The present one is a further target.
    let nine = (0..9).map(|n| want(n, 60, "a")).collect();
    assert_eq!(wanted(nine, &[]).decision.outcome, GateOutcome::Automatic);
    let ten: Vec<Want> = (0..10).map(|n| want(n, 60, "a")).collect();
    let start = wanted(ten.clone(), &[]);
    assert_eq!(start.decision.outcome, GateOutcome::Approval);
    assert!(
        start.decision.reasons.iter().any(|reason| reason.contains("wants 11 targets within 10 minutes"))
    );
    let old =
        ten.iter().cloned().map(|want| Want { at: Timestamp(NOW.0 - 700_000_000_000), ..want }).collect();
    assert_eq!(wanted(old, &[]).decision.outcome, GateOutcome::Automatic, "that is over");
    let wide = [policy("  gate: {targets: 50}\n")];
    assert_eq!(wanted(ten, &wide).decision.outcome, GateOutcome::Automatic, "by a policy's explicit word");
    // One account in many namespaces: a migration before it is an attack.
    let actor = "account dana@kubernetes";
    let across = |n: u32| {
        let evidence = Evidence {
            wants: Some((0..n).map(|n| want(n, 1800, actor)).collect()),
            ..Evidence::nothing_yet()
        };
        decided_with("Auto", &[], &evidence, None, NOW, |incident| {
            super::tests::in_pod(incident, "team-x", "dana")
        })
    };
    assert_eq!(across(3).decision.outcome, GateOutcome::Automatic);
    let start = across(13);
    assert_eq!(start.decision.outcome, GateOutcome::Approval);
    let said = start.decision.signals[1].evidence.join("; ");
    assert!(said.contains("dana@kubernetes is seen in 14 namespaces"), "{said}");
}

/// Nobody keeps the gate from acting by what he calls his own program or cgroup.
#[test]
fn names_that_anybody_may_give_explain_nothing() {
    let policies = [policy("  exclusions: [{match: {units: [excluded.service]}, reason: a load test}]\n")];
    let plain = |change: &dyn Fn(&mut Incident)| {
        let nothing = Evidence::nothing_yet();
        let start = decided_with("Auto", &policies, &nothing, None, NOW, |incident| change(incident));
        assert_eq!(start.decision.outcome, GateOutcome::Automatic, "{:?}", start.decision);
    };
    for path in [
        "/user.slice/user-1000.slice/user@1000.service/app.slice/cron.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/gitlab-runner.service",
        "/system.slice/web.service/atd.service",
        "/own/system.slice/jenkins.service",
        // Protected (I6) and excluded by the policy below, were they what they are called.
        "/user.slice/user-1000.slice/user@1000.service/app.slice/kubelet.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/excluded.service",
    ] {
        plain(&|incident| {
            let mut process = super::tests::process(path);
            let unit = path.rsplit('/').next().unwrap();
            process.workload = std::sync::Arc::new(model::Workload::unit(unit, path));
            incident.findings[0].event.process = std::sync::Arc::new(process);
        });
    }
    let container = model::Workload::Container {
        runtime: model::Runtime::Docker,
        container_id: "c".repeat(64),
        pod_uid: None,
        cgroup_path: format!("/system.slice/docker-{}.scope", "c".repeat(64)),
    };
    let host = |path: &str| model::Workload::Host { cgroup_path: path.into() };
    let web = model::Workload::unit("web.service", "/system.slice/web.service");
    for (exe, uid, workload) in [
        ("/tmp/cron", 0, &web),
        ("/home/eve/bin/crond", 1000, &web),
        ("/usr/sbin/cron", 1000, &web),
        ("/usr/sbin/cron", 0, &container),
        ("/usr/sbin/cron", 0, &host("/lxc.payload.web/cron")),
    ] {
        plain(&|incident| {
            let mut cron = super::tests::process("/system.slice/web.service");
            cron.exe = exe.into();
            cron.workload = std::sync::Arc::new(workload.clone());
            (cron.credentials.uid, cron.credentials.euid) = (uid, uid);
            incident.findings[0].ancestors.push(std::sync::Arc::new(cron));
        });
    }
}

#[test]
fn planned_work_schedules_pipelines_and_the_label_ask() {
    let plain = |change: &dyn Fn(&mut Incident)| {
        decided_with("Auto", &[], &Evidence::nothing_yet(), None, NOW, |incident| change(incident))
    };
    let asks = |change: &dyn Fn(&mut Incident), why: &str| {
        let start = plain(change);
        assert_eq!(start.decision.outcome, GateOutcome::Approval, "{why}");
        let said = start.decision.signals[1].evidence.join("; ");
        assert!(said.contains(why), "{said}");
    };
    let pod = |incident: &mut Incident, change: &dyn Fn(&mut model::PodFacts)| {
        super::tests::in_pod(incident, "shop", "ada");
        if let model::Attribution::Resolved { pod, .. } = &mut incident.pods[0].attribution {
            change(pod);
        }
    };
    assert_eq!(plain(&|incident| pod(incident, &|_| {})).decision.outcome, GateOutcome::Automatic);
    let owner = |kind: &str| model::Owner {
        api_version: "batch/v1".into(),
        kind: kind.into(),
        name: "nightly".into(),
        uid: "u".into(),
    };
    asks(
        &|incident| pod(incident, &|pod| pod.owners = vec![owner("Job"), owner("CronJob")]),
        "CronJob nightly",
    );
    asks(
        &|incident| pod(incident, &|pod| drop(pod.labels.insert("tekton.dev/taskRun".into(), "x".into()))),
        "pipeline",
    );
    asks(
        &|incident| pod(incident, &|pod| drop(pod.labels.insert(SWITCH.into(), "off".into()))),
        "keeps automatic response away",
    );
    asks(
        &|incident| pod(incident, &|pod| drop(pod.namespace_labels.insert(SWITCH.into(), "off".into()))),
        "of namespace shop",
    );
    let cron = |incident: &mut Incident| {
        let mut crond = super::tests::process("/system.slice/cron.service");
        crond.exe = "/usr/sbin/cron".into();
        incident.findings[0].ancestors.push(std::sync::Arc::new(crond));
    };
    asks(&cron, "a scheduled job");
    let by_schedule = plain(&|incident| {
        cron(incident);
        incident.findings[0].rule.techniques = vec!["T1053.003".into()];
    });
    assert_eq!(by_schedule.decision.outcome, GateOutcome::Automatic, "the schedule is what was found");
    let unit = |incident: &mut Incident, path: &str, started_by: &model::StartedBy| {
        let mut process = super::tests::process(path);
        let unit = path.rsplit('/').next().unwrap().to_owned();
        let (cgroup_path, started_by) = (path.to_owned(), started_by.clone());
        process.workload = std::sync::Arc::new(model::Workload::Unit { unit, cgroup_path, started_by });
        incident.findings[0].event.process = std::sync::Arc::new(process);
    };
    let timer = model::StartedBy::Timer { timer: "backup.timer".into() };
    asks(
        &|incident| unit(incident, "/system.slice/job.service", &timer),
        "backup.timer starts unit job.service",
    );
    asks(
        &|incident| unit(incident, "/system.slice/job.service", &model::StartedBy::Unknown),
        "could not be read",
    );
    asks(
        &|incident| unit(incident, "/system.slice/atd.service", &model::StartedBy::Other),
        "a scheduled job",
    );
    asks(
        &|incident| {
            unit(incident, "/user.slice/user-26.slice/session-c1.scope", &model::StartedBy::Other);
            let mut script = super::tests::process("/system.slice/pg-backup.service");
            script.workload = std::sync::Arc::new(model::Workload::Unit {
                unit: "pg-backup.service".into(),
                cgroup_path: "/system.slice/pg-backup.service".into(),
                started_by: timer.clone(),
            });
            incident.findings[0].ancestors.push(std::sync::Arc::new(script));
        },
        "backup.timer starts unit pg-backup.service",
    );
    asks(
        &|incident| unit(incident, "/system.slice/jenkins.service/x", &model::StartedBy::Other),
        "pipelines",
    );
    let window = [policy(
        "  maintenance: [{from: 2020-01-01T00:00:00Z, until: 2030-01-01T00:00:00Z, reason: a move}]\n",
    )];
    let start = outcome(&Evidence::nothing_yet(), &window, "Auto");
    assert_eq!(start.decision.outcome, GateOutcome::Approval);
    assert!(
        start
            .decision
            .reasons
            .iter()
            .any(|reason| reason.contains("planned work until") && reason.contains("a move"))
    );
}

#[test]
fn which_policy_decides_what_is_told() {
    let mut policies = [
        policy("  mode: Approve\n  budgets: {runsPerHour: 9}\n"),
        policy("  mode: Auto\n  budgets: {runsPerHour: 4}\n  gate: {targets: 3}\n"),
        policy("  match: {units: [other.service]}\n  mode: Shadow\n"),
    ];
    for (at, name) in ["one", "two", "three"].into_iter().enumerate() {
        policies[at].0 = name.into();
    }
    let told = super::tests::explained("Auto", &policies, &Evidence::nothing_yet(), NOW);
    let of = |name: &str| {
        let one = told.settings.iter().find(|one| one.setting == name).unwrap();
        (one.value.as_str(), one.by.as_str(), one.overruled.join(" "))
    };
    assert_eq!(of("mode"), ("Approve", "policy one", "two: Auto".into()));
    assert_eq!(of("budgets.runsPerHour"), ("4", "policy two", "one: 9".into()));
    assert_eq!(of("gate.targets"), ("3", "policy two", String::new()));
    assert_eq!(of("gate.judgedRuns"), ("20", "when no policy says", String::new()));
    let fails: Vec<Option<&str>> = told.policies.iter().map(|one| one.fails.as_deref()).collect();
    assert_eq!(fails, [None, None, Some("units")]);
    assert_eq!(told.outcome, GateOutcome::Approval);
    let mut planned = [policy(
        "  exclusions:\n    - {match: {units: [job.service]}, reason: a load test, expires: 2199-01-01T00:00:00Z}\n    - {match: {units: [other.service]}, reason: another}\n    - {match: {units: [job.service]}, reason: past, expires: 1970-01-01T00:00:00Z}\n  maintenance:\n    - {from: 1970-01-01T00:00:00Z, until: 2199-01-01T00:00:00Z, reason: a move}\n    - {from: 2198-01-01T00:00:00Z, until: 2199-01-01T00:00:00Z, every: 7d, reason: patches}\n",
    )];
    planned[0].0 = "shop".into();
    let told = super::tests::explained("Auto", &planned, &Evidence::nothing_yet(), NOW);
    let times =
        told.settings.iter().filter(|one| ["exclusions", "maintenance"].contains(&one.setting.as_str()));
    let times: Vec<&str> =
        times.filter(|one| one.by == "policy shop").map(|one| one.value.as_str()).collect();
    assert_eq!(
        times,
        [
            "only recorded until 2199-01-01T00:00:00.000Z: a load test",
            "not this incident: its match.units does not fit: another",
            "it ended 1970-01-01T00:00:00.000Z: past",
            "a person is asked now: 1970-01-01T00:00:00.000Z to 2199-01-01T00:00:00.000Z: a move",
            "not now: 2198-01-01T00:00:00.000Z to 2199-01-01T00:00:00.000Z, again every 7d: patches",
        ]
    );
    assert_eq!(told.outcome, GateOutcome::Shadow);
    let wider = [policy("  mode: Auto\n")];
    let told = super::tests::explained("Approve", &wider, &Evidence::nothing_yet(), NOW);
    let mode = told.settings.iter().find(|one| one.setting == "mode").unwrap();
    assert_eq!((mode.value.as_str(), mode.by.as_str()), ("Approve", "the playbook"));
}
