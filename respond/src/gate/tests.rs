use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::source::{Resource, read};
use model::{
    Activity, AgentEpoch, BootNs, CgroupId, Credentials, Event, EventClass, EventId, ExeFile, FindingId,
    IncidentId, IncidentState, Level, LossWindow, Namespaces, Pid, Process, ProcessKey, ProcessOrigin,
    Reaction, RuleRef, Seq, Truncated,
};

use super::*;
use crate::trigger::choose;

pub(super) fn process(path: &str) -> Process {
    Process {
        key: ProcessKey { pid: Pid(77), start: BootNs(9) },
        parent: None,
        exe: "/tmp/x".into(),
        exe_file: ExeFile { inode: 5, device: 6, ..ExeFile::default() },
        command_line: "/tmp/x -o pool".into(),
        args: vec!["/tmp/x".into()],
        args_truncated: Truncated::No,
        cwd: "/".into(),
        comm: "x".into(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: model::Stdio::default(),
        cgroup: CgroupId(4),
        workload: Arc::new(Workload::unit("job.service", path)),
        origin: ProcessOrigin::Exec,
        exit: None,
    }
}

fn finding(rule: &str, level: Level, seq: u64) -> Finding {
    let id = EventId { node: NodeId::new("n1"), epoch: AgentEpoch(1), seq: Seq(seq) };
    Finding {
        id: FindingId::derive(&id, rule),
        rule: RuleRef {
            id: rule.into(),
            title: rule.into(),
            level,
            techniques: vec!["T1059.004".into()],
            tactics: Vec::new(),
            reaction: Reaction::None,
        },
        event: Event {
            id,
            time: Timestamp(i64::try_from(seq).unwrap()),
            process: Arc::new(process("/work.slice/job.service")),
            parent: None,
            ancestors: Arc::from(Vec::new()),
            exposure: model::Exposure::default(),
            activity: Activity::Exec { requested: "/tmp/x".into() },
        },
        matched: BTreeMap::new(),
        count: 1,
        first: Timestamp(i64::try_from(seq).unwrap()),
        last: Timestamp(i64::try_from(seq).unwrap()),
        ancestors: Vec::new(),
        context: Vec::new(),
        reactions: Vec::new(),
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}

fn incident(findings: Vec<Finding>) -> Incident {
    Incident {
        id: IncidentId::new("inc-1"),
        title: "t".into(),
        severity: Level::High,
        state: IncidentState::Open,
        entities: Vec::new(),
        pods: Vec::new(),
        sessions: Vec::new(),
        findings,
        findings_dropped: 0,
        techniques: vec!["T1059.004".into()],
        first_event: Timestamp(1),
        opened: Timestamp(1),
        updated: Timestamp(1),
        contained: None,
        verdict: None,
        enrichment: model::Enrichment::default(),
        actions: Vec::new(),
        runs: Vec::new(),
        timeline: Vec::new(),
    }
}

fn plan(trigger: &str, mode: &str, name: &str) -> Arc<Plan> {
    let text = format!(
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: {name}}}\nspec:\n  mode: {mode}\n  trigger: \
         {trigger}\n  steps:\n  - {{name: freeze, action: node.freeze}}\n  - {{name: cut, action: node.net-quarantine}}\n"
    );
    let reading = read("p", &text);
    let [Resource::Playbook(playbook)] = &reading.resources[..] else { panic!("{:?}", reading.problems) };
    Arc::new(Plan::check(playbook, &BTreeSet::new()).plan.unwrap())
}

pub(super) fn policy(spec: &str) -> (String, ResponsePolicySpec) {
    let text = format!(
        "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {{name: careful}}\nspec:\n{spec}"
    );
    let reading = read("p", &text);
    let [Resource::ResponsePolicy(policy)] = &reading.resources[..] else { panic!("{:?}", reading.problems) };
    ("careful".into(), policy.value.spec.clone())
}

fn decided(
    mode: &str,
    policies: &[(String, ResponsePolicySpec)],
    change: impl Fn(&mut Incident),
) -> RunStart {
    decided_with(mode, policies, &Evidence::nothing_yet(), None, Timestamp(1_000), change)
}

pub(super) fn decided_with(
    mode: &str,
    policies: &[(String, ResponsePolicySpec)],
    evidence: &Evidence,
    paused: Option<&Paused>,
    now: Timestamp,
    change: impl Fn(&mut Incident),
) -> RunStart {
    with_situation(mode, policies, (evidence, paused, now), change, decide)
}

pub(super) fn explained(
    mode: &str,
    policies: &[(String, ResponsePolicySpec)],
    evidence: &Evidence,
    now: Timestamp,
) -> Explanation {
    with_situation(mode, policies, (evidence, None, now), |_| {}, explain)
}

fn with_situation<T>(
    mode: &str,
    policies: &[(String, ResponsePolicySpec)],
    (evidence, paused, now): (&Evidence, Option<&Paused>, Timestamp),
    change: impl Fn(&mut Incident),
    ask: impl Fn(&Plan, &Situation<'_>) -> T,
) -> T {
    let mut incident = incident(vec![finding("r1", Level::High, 1)]);
    change(&mut incident);
    let situation = Situation {
        incident: &incident,
        finding: &incident.findings[0],
        node: &NodeId::new("n1"),
        policies,
        used: Usage { runs: 3, actions: 9, ..Usage::default() },
        reactions: &[],
        evidence,
        paused,
        now,
    };
    ask(&plan("{rules: [r1]}", mode, "shell"), &situation)
}

/// Puts the finding into a pod that is known, in which `user` has a session.
pub(super) fn in_pod(incident: &mut Incident, namespace: &str, user: &str) {
    let mut process = process("/kubepods/pod1/c1");
    process.workload = Arc::new(Workload::Container {
        runtime: model::Runtime::Containerd,
        container_id: "c1".into(),
        pod_uid: Some("u1".into()),
        cgroup_path: "/kubepods/pod1/c1".into(),
    });
    incident.findings[0].event.process = Arc::new(process);
    let pod = model::PodFacts {
        uid: "u1".into(),
        namespace: namespace.into(),
        name: "api".into(),
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        namespace_annotations: BTreeMap::new(),
        owners: Vec::new(),
        chain: model::OwnerChain::Whole,
        service_account: None,
        node: Some(NodeId::new("n1")),
        network: model::PodNetwork::Pod,
        origin: model::PodOrigin::Api,
        addresses: Vec::new(),
        created: Timestamp(0),
        deleted: None,
        secrets: Vec::new(),
        doors: Vec::new(),
        peers: Vec::new(),
    };
    let attribution = model::Attribution::Resolved {
        pod: Box::new(pod),
        container: None,
        known: Timestamp(0),
        source: model::PodSource::Watch,
    };
    incident.pods = vec![model::AttributedPod {
        cgroup_uid: "u1".into(),
        container_id: "c1".into(),
        node: NodeId::new("n1"),
        asked: Timestamp(0),
        attribution,
    }];
    incident.sessions = vec![model::ExecSession {
        user: model::Principal { realm: "kubernetes".into(), name: user.into() },
        origin: None,
        at: Timestamp(0),
        command: "sh".into(),
        pod: format!("{namespace}/api"),
        audit_id: "a".into(),
    }];
}

pub(super) fn strictness(outcome: GateOutcome) -> u8 {
    match outcome {
        GateOutcome::Automatic => 0,
        GateOutcome::Approval => 1,
        GateOutcome::Shadow => 2,
    }
}

fn outcome(mode: &str, policies: &[(String, ResponsePolicySpec)]) -> GateOutcome {
    decided(mode, policies, |_| {}).decision.outcome
}

#[test]
fn the_mode_of_the_playbook_decides_and_policies_only_tighten() {
    assert_eq!(outcome("Auto", &[]), GateOutcome::Automatic);
    assert_eq!(outcome("Approve", &[]), GateOutcome::Approval);
    assert_eq!(outcome("Shadow", &[]), GateOutcome::Shadow);
    assert_eq!(outcome("Auto", &[policy("  mode: Approve\n")]), GateOutcome::Approval);
    assert_eq!(outcome("Approve", &[policy("  mode: Auto\n")]), GateOutcome::Approval);
    let elsewhere = policy("  match: {units: [other.service]}\n  mode: Shadow\n");
    assert_eq!(outcome("Auto", &[elsewhere]), GateOutcome::Automatic);
    let here = policy("  match: {cgroupPaths: [/work.slice], techniques: [T1059]}\n  mode: Shadow\n");
    assert_eq!(outcome("Auto", &[here]), GateOutcome::Shadow);
}

#[test]
fn exclusions_and_budgets_hold_and_say_why() {
    let excluded = policy("  exclusions: [{match: {units: [job.service]}, reason: a load test}]\n");
    let start = decided("Auto", &[excluded], |_| {});
    assert_eq!(start.decision.outcome, GateOutcome::Shadow);
    assert!(start.decision.reasons.iter().any(|r| r.contains("a load test")));
    let over = policy(
        "  exclusions: [{match: {units: [job.service]}, reason: over, expires: 1970-01-01T00:00:00Z}]\n",
    );
    assert_eq!(outcome("Auto", &[over]), GateOutcome::Automatic, "an exclusion ends when it says");
    assert_eq!(outcome("Auto", &[policy("  budgets: {runsPerHour: 3}\n")]), GateOutcome::Approval);
    assert_eq!(outcome("Auto", &[policy("  budgets: {runsPerHour: 4}\n")]), GateOutcome::Automatic);
    assert_eq!(outcome("Auto", &[policy("  budgets: {actionsPerHour: 10}\n")]), GateOutcome::Approval);
}

#[test]
fn a_rollout_a_drain_and_not_knowing_of_them_ask_and_say_so() {
    let asked = |name: &str, is: Underway| {
        let mut evidence = Evidence::nothing_yet();
        *(if name == "a drain" { &mut evidence.drain } else { &mut evidence.rollout }) = is;
        let start = decided_with("Auto", &[], &evidence, None, Timestamp(1_000), |_| {});
        (start.decision.outcome, format!("{:?}", start.decision))
    };
    for name in ["a rollout", "a drain"] {
        assert_eq!(asked(name, Underway::None).0, GateOutcome::Automatic, "{name}");
        let (outcome, says) = asked(name, Underway::Goes("node n1 is cordoned".into()));
        assert!(outcome == GateOutcome::Approval && says.contains("node n1 is cordoned"), "{name}: {says}");
        let (outcome, says) = asked(name, Underway::Unknown("blind".into()));
        let words = format!("whether {name} goes on is not known: blind");
        assert!(outcome == GateOutcome::Approval && says.contains(&words), "{name}: {says}");
    }
}

#[test]
fn i2_lost_events_ask_a_person() {
    let start = decided("Auto", &[], |incident| {
        incident.findings[0].loss.lost.insert(EventClass::Exec, 7);
    });
    assert_eq!(start.decision.outcome, GateOutcome::Approval);
    assert!(start.decision.reasons.iter().any(|reason| reason.contains("7 Exec")), "{:?}", start.decision);
}

#[test]
fn i2_a_loss_of_something_else_is_said_and_does_not_switch_the_response_off() {
    let lost = |class, count| {
        let start = decided("Auto", &[], |incident| {
            incident.findings[0].loss.lost.insert(class, count);
        });
        let said = start.decision.reasons.join("; ");
        assert!(said.contains(&format!("{count} {class:?}")), "{said}");
        start.decision.outcome
    };
    for class in EventClass::ALL {
        let depends = [EventClass::Exec, EventClass::Fork, EventClass::Credentials].contains(&class);
        let one = if depends { GateOutcome::Approval } else { GateOutcome::Automatic };
        assert_eq!(lost(class, 1), one, "{class:?}");
    }
    assert_eq!(lost(EventClass::FileOpen, 100), GateOutcome::Automatic);
    assert_eq!(lost(EventClass::FileOpen, 101), GateOutcome::Approval, "the node did not keep up");
    // What a finding of the incident is made of, is what it depends on.
    let start = decided("Auto", &[], |incident| {
        let mut opened = finding("r2", Level::Low, 2);
        opened.event.activity = Activity::MemfdCreate { name: "x".into(), flags: 0 };
        incident.findings.push(opened);
        incident.findings[0].loss.lost.insert(EventClass::Memfd, 1);
    });
    assert_eq!(start.decision.outcome, GateOutcome::Approval);
    // Another finding's window is not this one's.
    let start = decided("Auto", &[], |incident| {
        let mut earlier = finding("r2", Level::Low, 2);
        earlier.loss.lost.insert(EventClass::Exec, 500);
        incident.findings.push(earlier);
    });
    assert_eq!(start.decision.outcome, GateOutcome::Automatic);
}

#[test]
fn i6_and_i9_are_known_before_anything_begins() {
    let protected = policy("  match: {units: [other.service]}\n  protected: {cgroupPaths: [/work.slice]}\n");
    let start = decided("Auto", &[protected], |_| {});
    assert_eq!(start.decision.outcome, GateOutcome::Shadow, "protection does not ask whom a policy is for");
    assert!(start.decision.reasons.iter().any(|reason| reason.contains("(I6)")));
    let start = decided("Auto", &[], |incident| {
        let mut lost = process("/");
        lost.workload = Arc::new(Workload::Unresolved { cgroup: CgroupId(4) });
        incident.findings[0].event.process = Arc::new(lost);
    });
    assert_eq!(start.decision.outcome, GateOutcome::Approval, "the process is certain, its cgroup is not");
    assert!(start.decision.reasons.iter().any(|reason| reason.contains("step cut will not be done (I9)")));
}

#[test]
fn standing_approvals_end_and_name_their_playbook() {
    let standing = |playbook: &str, expires: &str| {
        policy(&format!(
            "  standingApprovals: [{{action: node.kill, playbooks: [{playbook}], approvedBy: 'user:ada', reason: x, expires: \
             {expires}}}]\n"
        ))
    };
    let granted = |p| decided("Auto", &[p], |_| {}).grants.standing;
    assert_eq!(granted(standing("shell", "2030-01-01T00:00:00Z")).len(), 1);
    assert_eq!(granted(standing("other", "2030-01-01T00:00:00Z")).len(), 0);
    assert_eq!(granted(standing("shell", "1970-01-01T00:00:00Z")).len(), 0);
}

#[test]
fn the_most_specific_playbook_answers_the_weightiest_finding() {
    let by_level = plan("{minimumLevel: medium}", "Auto", "a");
    let by_technique = plan("{techniques: [T1059]}", "Auto", "b");
    let by_rule = plan("{rules: [r2], when: \"process.exe == '/tmp/x'\"}", "Auto", "c");
    let findings = vec![
        finding("r1", Level::Low, 1),
        finding("r1", Level::Critical, 3),
        finding("r2", Level::High, 2),
        finding("r1", Level::Critical, 4),
    ];
    let incident = incident(findings);
    let node = NodeId::new("n1");
    let pick = |plans: &[Arc<Plan>]| {
        let search = choose(plans, &incident, &node);
        assert!(search.faults.is_empty());
        search.choice.map(|c| (c.plan.name().to_string(), c.finding.event.id.seq.0))
    };
    let all = [Arc::clone(&by_level), Arc::clone(&by_technique), by_rule];
    assert_eq!(pick(&all), Some(("c".into(), 2)));
    assert_eq!(pick(&all[..2]), Some(("b".into(), 3)));
    assert_eq!(pick(&all[..1]), Some(("a".into(), 3)));
    let never = plan("{minimumLevel: low, when: 'process.pid == 1'}", "Auto", "d");
    assert_eq!(pick(&[never]), None);
    let elsewhere = NodeId::new("n2");
    assert!(
        choose(&all, &incident, &elsewhere).choice.is_none(),
        "another node's findings are not acted on here"
    );
}

#[test]
fn expressions_know_exactly_the_fields_that_there_are_at_every_depth() {
    let facts = Facts::of(
        &incident(vec![finding("r", Level::Low, 1)]),
        &finding("r", Level::Low, 1),
        &NodeId::new("n"),
    );
    for (name, value) in [
        ("incident", &facts.incident),
        ("finding", &facts.finding),
        ("process", &facts.process),
        ("node", &facts.node),
    ] {
        fits(crate::expression::variable(name), value, name);
    }
}

/// Mappings with certain keys have just those, at every depth; an event has those of its kind.
fn fits(kind: crate::expression::Kind, value: &serde_json::Value, path: &str) {
    use crate::expression::Kind;
    match (kind, value) {
        (Kind::Record(record), serde_json::Value::Object(found)) => {
            let names: BTreeSet<&str> = record.fields.iter().map(|(name, _)| *name).collect();
            let there: BTreeSet<&str> = found.keys().map(String::as_str).collect();
            if path == "finding.event" {
                assert!(there.is_subset(&names), "{path}: {there:?} of {names:?}");
            } else {
                assert_eq!(there, names, "{path}");
            }
            for (name, inner) in found {
                let kind = record.fields.iter().find(|(known, _)| known == name).unwrap().1;
                fits(kind, inner, &format!("{path}.{name}"));
            }
        }
        (Kind::List(entry), serde_json::Value::Array(found)) => {
            found.iter().for_each(|inner| fits(*entry, inner, path));
        }
        (Kind::Map(inner), serde_json::Value::Object(found)) => {
            found.values().for_each(|value| fits(*inner, value, path));
        }
        (Kind::OneOf(choices), value) => {
            assert!(choices.contains(&value.as_str().unwrap()), "{path}: {value}")
        }
        (Kind::Text, value) => assert!(value.is_string(), "{path}: {value}"),
        (Kind::Number, value) => assert!(value.is_number(), "{path}: {value}"),
        (Kind::Truth, value) => assert!(value.is_boolean(), "{path}: {value}"),
        (kind, value) => panic!("{path}: {value} is no {kind:?}"),
    }
}
