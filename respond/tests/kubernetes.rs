//! The playbooks for pods: what each answers, what it does by itself and what it asks, that a false positive undoes it all, that a ticket is
//! opened only where a scan names a known vulnerability, and that what sensors see after an isolation leads to the next way.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests, and what they share")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use crds::{
    Playbook, Protected, Radius,
    source::{Resource, read},
};
use hemostat_respond::{
    facts::{Facts, Subject},
    plan::Plan,
    run::{Change, Effect, Grants, Happened, Input, RollbackScope, Run, RunStart, Sight, Transition},
    trigger::choose,
};
use model::{
    Account, ActionFailure, Activity, Actor, AgentEpoch, BootNs, CgroupId, CommandOutcome, Credentials,
    Effect as Seen, Event, EventId, ExeFile, Exposure, Finding, FindingId, GateOutcome, Incident, IncidentId,
    IncidentState, Level, LossWindow, Namespaces, NodeCommand, NodeId, ObjectRef, OnDrift, Outputs, Phase,
    PhaseDone, Pid, PlaybookName, Process, ProcessKey, ProcessOrigin, Reaction, RollbackState, RuleRef,
    RunId, RunState, Runtime, Seq, Stdio, Target, Timestamp, Truncated, Workload,
};
use serde_json::json;

fn playbooks() -> Vec<Playbook> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../playbooks/kubernetes");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let reading = read(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        assert_eq!(reading.problems, [], "{}", path.display());
        for resource in reading.resources {
            if let Resource::Playbook(playbook) = resource {
                let checked = Plan::check(&playbook, &BTreeSet::new());
                assert!(checked.plan.is_some(), "{}: {:?}", path.display(), checked.problems);
                all.push(playbook.value);
            }
        }
    }
    all
}

fn object(kind: &str, namespace: Option<&str>, name: &str) -> ObjectRef {
    let api_version = if kind == "Deployment" { "apps/v1" } else { "v1" }.into();
    let uid = format!("uid-{name}");
    ObjectRef {
        api_version,
        kind: kind.into(),
        namespace: namespace.map(str::to_owned),
        name: name.into(),
        uid,
        as_of: None,
    }
}

fn start(playbook: Playbook) -> RunStart {
    let subject = Subject {
        process: Some(ProcessKey { pid: Pid(77), start: BootNs(9) }),
        cgroup: Some((CgroupId(5), "/kubepods/burstable/pod1/c1".into())),
        pod: Some(object("Pod", Some("pay"), "api-0")),
        namespace: Some(object("Namespace", None, "pay")),
        host: Some(object("Node", None, "n1")),
        account: Some(Account::of_user("system:serviceaccount:pay:api")),
        image: Some("registry.example/miner:1".into()),
        ..Subject::default()
    };
    RunStart {
        run: RunId::new("run-1"),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("n1"),
        playbook: PlaybookName::new(playbook.metadata.name.unwrap_or_default()),
        spec: playbook.spec,
        decision: serde_json::from_value(json!({"outcome": GateOutcome::Automatic, "reasons": []})).unwrap(),
        grants: Grants {
            standing: BTreeMap::new(),
            approvers: Vec::new(),
            approval_timeout_ms: 1_000,
            widest: Radius::Cluster,
            protected: Protected::default(),
        },
        facts: Facts {
            incident: json!({}),
            findings: json!([]),
            finding: json!({}),
            process: json!({"exe": "/bin/bash"}),
            node: json!({}),
            subject,
        },
        reactions: Vec::new(),
    }
}

/// What a scan came to.
#[derive(Clone, Copy)]
enum Scan {
    Names(u64),
    Fails,
}

/// What a playbook did when nobody said yes to anything, and how it ended.
struct Story {
    /// Actions that were done, with their targets.
    done: Vec<(String, Target, serde_json::Value)>,
    /// Signs that were written down.
    signs: Vec<String>,
    /// What people were told.
    told: Vec<String>,
    /// Steps that they were asked about.
    asked: Vec<String>,
    state: RunState,
    contained: bool,
    /// What was undone when a person said that it was a false positive, in order.
    undone: Vec<String>,
}

/// Plays a playbook; `sights` are what sensors see once the first, the second way of a step is watched, and so on.
fn play(name: &str, scan: Scan, sights: Vec<Vec<Sight>>) -> Story {
    let playbook = playbooks().into_iter().find(|one| one.metadata.name.as_deref() == Some(name));
    let mut now = Timestamp(1_000_000_000_000);
    let (mut run, effects) = Run::begin(start(playbook.unwrap()), now).unwrap();
    let (mut effects, mut journal, mut done) =
        (VecDeque::from(effects), Vec::<Transition>::new(), Vec::new());
    let (mut sights, mut seen, mut signs) = (VecDeque::from(sights), VecDeque::new(), Vec::new());
    let (mut told, mut asked, mut undone, mut ended) = (Vec::new(), Vec::new(), Vec::new(), None);
    let mut contained = false;
    for _ in 0..2_000 {
        contained |= ended.is_none() && run.contained().is_some();
        let input = match effects.pop_front() {
            Some(Effect::Journal(transition)) => {
                match &transition.change {
                    Change::Watching { .. } => seen.extend(sights.pop_front().unwrap_or_default()),
                    Change::Observed { sign, .. } => signs.push(sign.to_string()),
                    _ => {}
                }
                journal.push(transition);
                continue;
            }
            Some(Effect::ReadBack { seq }) => {
                let found = journal.iter().find(|transition| transition.seq == seq).cloned();
                Input::ReadBack { seq, found: found.map(Box::new) }
            }
            Some(Effect::Send(command)) => {
                if matches!(command.phase, Phase::Apply { .. }) {
                    let action = json!(command.action);
                    done.push((command.action.name().to_owned(), command.target.clone(), action));
                }
                if matches!(command.phase, Phase::Revert { .. }) {
                    undone.push(command.action.name().to_owned());
                }
                let (action_id, at, result) = (command.action_id.clone(), now, answer(&command, scan));
                let phase = command.phase.name().into();
                Input::Outcome(Box::new(CommandOutcome { key: command.key, action_id, phase, at, result }))
            }
            Some(Effect::AskApproval(request)) => {
                asked.push(request.step.to_string());
                let (by, groups, because) = (Actor::new("user:ada"), Vec::new(), "not now".into());
                Input::Deny { step: request.step, by, groups, because }
            }
            Some(Effect::Notify(what)) => {
                told.push(what);
                continue;
            }
            Some(Effect::Audit(_)) => continue,
            None if run.is_over() => match ended {
                Some(state) => return Story { done, signs, told, asked, state, contained, undone },
                None => {
                    ended = Some(run.state());
                    let (by, because) = (Actor::new("user:ada"), "a false positive".into());
                    Input::Rollback { scope: RollbackScope::Run, by, because, on_drift: OnDrift::Ask }
                }
            },
            None => match seen.pop_front() {
                Some(sight) => {
                    now = now.plus(Duration::from_millis(20));
                    Input::Sight(Box::new(Sight { at: now, ..sight }))
                }
                None => {
                    now = now.max(run.next_deadline().unwrap());
                    Input::Tick
                }
            },
        };
        effects.extend(run.step(now, input));
    }
    panic!("no end");
}

/// Something that a sensor tells of the attacked pod; when is said by who plays it.
fn sight(happened: Happened, exe: &str) -> Sight {
    Sight {
        at: Timestamp(0),
        node: NodeId::new("n1"),
        happened,
        process: Some(ProcessKey { pid: Pid(99), start: BootNs(50) }),
        ancestors: Vec::new(),
        exe: exe.into(),
        cgroup: Some((CgroupId(6), "/kubepods/burstable/pod1/c2".into())),
        pod: Some("uid-api-0".into()),
        rule: Some("another-rule".into()),
        source: "finding f-2".into(),
    }
}

fn answer(command: &NodeCommand, scan: Scan) -> Result<PhaseDone, ActionFailure> {
    Ok(match &command.phase {
        Phase::Capture => PhaseDone::Captured { rollback: RollbackState::Nothing },
        Phase::Apply { .. } if command.action.name() == "cluster.scan-image" => match scan {
            Scan::Names(known) => PhaseDone::Applied {
                outputs: Outputs::from([
                    ("vulnerable".to_owned(), json!(known > 0)),
                    ("known".to_owned(), json!(known)),
                    ("critical".to_owned(), json!(known.min(1))),
                    (
                        "ids".to_owned(),
                        json!((0..known).map(|n| format!("CVE-2021-{n}")).collect::<Vec<_>>()),
                    ),
                ]),
            },
            Scan::Fails => {
                let (operation, because) = ("cluster.scan-image".into(), "the scanner failed".into());
                return Err(ActionFailure::Unsupported { operation, because });
            }
        },
        Phase::Apply { .. } => PhaseDone::Applied { outputs: Outputs::new() },
        Phase::Verify { .. } => PhaseDone::Verified { effect: Seen::InForce },
        Phase::Revert { .. } => PhaseDone::Reverted { detail: "as before".into() },
    })
}

/// A finding in a container of a pod, or on the host.
fn finding(seq: u64, rule: &str, techniques: &[&str], level: Level, pod: Option<&str>) -> Finding {
    let cgroup_path = "/kubepods/burstable/pod1/c1".to_owned();
    let workload = match pod {
        Some(uid) => Workload::Container {
            runtime: Runtime::Containerd,
            container_id: "c".repeat(64),
            pod_uid: Some(uid.into()),
            cgroup_path,
        },
        None => Workload::Host { cgroup_path: "/user.slice".into() },
    };
    let process = Process {
        key: ProcessKey { pid: Pid(77), start: BootNs(9) },
        parent: None,
        exe: "/bin/bash".into(),
        exe_file: ExeFile::default(),
        command_line: "bash -i".into(),
        args: Vec::new(),
        args_truncated: Truncated::No,
        cwd: "/".into(),
        comm: "bash".into(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(5),
        workload: Arc::new(workload),
        origin: ProcessOrigin::Exec,
        exit: None,
    };
    let id = EventId { node: NodeId::new("n1"), epoch: AgentEpoch(1), seq: Seq(seq) };
    let rule = RuleRef {
        id: rule.into(),
        title: "a rule".into(),
        level,
        techniques: techniques.iter().map(|one| (*one).to_owned()).collect(),
        tactics: Vec::new(),
        reaction: Reaction::None,
    };
    Finding {
        id: FindingId::derive(&id, &rule.id),
        rule,
        event: Event {
            id,
            time: Timestamp(1),
            process: Arc::new(process),
            parent: None,
            ancestors: Arc::new([]),
            exposure: Exposure::None,
            activity: Activity::Exec { requested: "bash".into() },
        },
        matched: BTreeMap::new(),
        count: 1,
        first: Timestamp(1),
        last: Timestamp(1),
        ancestors: Vec::new(),
        context: Vec::new(),
        reactions: Vec::new(),
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}

fn incident(findings: &[Finding]) -> Incident {
    serde_json::from_value(json!({
        "id": "inc-1", "title": "t", "severity": "high", "state": IncidentState::Open, "entities": [], "pods": [], "findings": findings,
        "findings_dropped": 0, "techniques": [], "first_event": 1, "opened": 1, "updated": 1, "contained": null, "verdict": null,
        "actions": [], "runs": [], "timeline": [],
    }))
    .unwrap()
}

/// What answers an incident, of all the playbooks for pods.
fn answer_to(findings: &[Finding]) -> Option<String> {
    let plan = |one: Playbook| {
        Arc::new(Plan::of(&PlaybookName::new(one.metadata.name.unwrap_or_default()), &one.spec).unwrap())
    };
    let plans: Vec<Arc<Plan>> = playbooks().into_iter().map(plan).collect();
    let incident = incident(findings);
    let search = choose(&plans, &incident, &NodeId::new("n1"));
    assert!(search.faults.is_empty(), "{:?}", search.faults);
    search.choice.map(|choice| choice.plan.name().to_string())
}

const TOKEN: &str = "acd9ae38-86f5-4c7c-a997-90b13d220108";
const EXEC: &str = "f392b7d4-bdea-5330-956c-313748b8cb90";
const GUESSED: &str = "20ca9d76-df79-535f-b3c4-a9d037281f0b";

#[test]
fn each_playbook_answers_its_attack_in_a_pod_and_no_other() {
    assert_eq!(playbooks().len(), 5);
    let pod = Some("uid-api-0");
    let one =
        |rule: &str, technique: &str, level, pod| answer_to(&[finding(1, rule, &[technique], level, pod)]);
    let of_technique = [
        ("T1496.001", Level::High, Level::Medium, "cryptominer-in-pod"),
        ("T1059.004", Level::Critical, Level::High, "reverse-shell-in-pod"),
        ("T1611", Level::High, Level::Medium, "container-escape-attempt"),
    ];
    for (technique, level, weaker, name) in of_technique {
        assert_eq!(one("a-rule", technique, level, pod).as_deref(), Some(name));
        assert_eq!(one("a-rule", technique, weaker, pod), None, "{name}: too weak a rule");
        assert_eq!(one("a-rule", technique, level, None), None, "{name}: no pod");
    }
    assert_eq!(one(TOKEN, "T1528", Level::High, pod).as_deref(), Some("service-account-token-theft"));
    assert_eq!(one(TOKEN, "T1528", Level::High, None), None);
    // A command in a pod is every day's work; after a guessed password it is not. Neither alone is answered.
    let exec = finding(1, EXEC, &["T1609"], Level::Medium, None);
    let guessed = finding(2, GUESSED, &["T1110"], Level::High, None);
    assert_eq!(answer_to(std::slice::from_ref(&exec)), None);
    assert_eq!(answer_to(std::slice::from_ref(&guessed)), None);
    assert_eq!(answer_to(&[exec, guessed]).as_deref(), Some("ssh-brute-force-then-exec"));
    assert_eq!(
        one("a-rule", "T1105", Level::Critical, pod),
        None,
        "nothing is done about what no playbook is for"
    );
}

/// What each does by itself, what it asks a person about, and that a false positive takes back all that can be, the newest first.
#[test]
fn each_playbook_does_by_itself_only_what_can_be_undone_and_asks_about_the_rest() {
    let contain = ["node.freeze", "node.net-quarantine"];
    let seen = ["node.capture-evidence", "cluster.collect-evidence", "notify.send"];
    let table: [(&str, &[&str], &[&str]); 5] = [
        (
            "cryptominer-in-pod",
            &["cluster.isolate-pod", "cluster.scan-image"],
            &["kill", "refuse_image", "end_tokens"],
        ),
        ("reverse-shell-in-pod", &["cluster.isolate-pod"], &["kill", "replace"]),
        ("container-escape-attempt", &["cluster.isolate-pod", "cluster.cordon"], &["kill"]),
        ("service-account-token-theft", &["cluster.subtract-subject"], &["end_tokens"]),
        ("ssh-brute-force-then-exec", &["cluster.deny-exec", "cluster.subtract-subject", "notify.send"], &[]),
    ];
    for (name, own, asks) in table {
        let story = play(name, Scan::Names(0), Vec::new());
        let mut wanted: Vec<&str> = own.to_vec();
        if name != "ssh-brute-force-then-exec" {
            wanted.extend(contain.iter().chain(&seen));
        }
        wanted.sort_unstable();
        let mut did: Vec<&str> = story.done.iter().map(|(name, ..)| name.as_str()).collect();
        let applied = did.clone();
        did.sort_unstable();
        assert_eq!((did, story.state), (wanted, RunState::Succeeded), "{name}");
        let mut asked: Vec<&str> = story.asked.iter().map(String::as_str).collect();
        asked.sort_unstable();
        let mut questions = asks.to_vec();
        questions.sort_unstable();
        assert_eq!(asked, questions, "{name}");
        assert!(story.contained, "{name}: what is left to people does not hold that up");
        let exact = |action: &&str| !seen.contains(action) && *action != "cluster.scan-image";
        let back: Vec<&str> = applied.into_iter().rev().filter(exact).collect();
        assert_eq!(story.undone, back, "{name}: the newest first");
    }
}

#[test]
fn a_ticket_is_opened_only_where_the_scan_names_a_known_vulnerability() {
    let ticket = Target::Channel { name: "tickets".into() };
    for (scan, tickets) in [(Scan::Names(2), 1), (Scan::Names(0), 0), (Scan::Fails, 0)] {
        let all = play("cryptominer-in-pod", scan, Vec::new()).done;
        let names: Vec<&str> = all.iter().map(|(name, _, _)| name.as_str()).collect();
        for contained in ["node.freeze", "node.net-quarantine", "cluster.isolate-pod", "cluster.scan-image"] {
            assert!(names.contains(&contained), "{names:?}");
        }
        assert!(!names.contains(&"node.kill"), "nobody said yes");
        let opened: Vec<_> = all.iter().filter(|(_, target, _)| *target == ticket).collect();
        assert_eq!(opened.len(), tickets, "{names:?}");
        for (_, _, action) in opened {
            let message = action["with"]["message"].as_str().unwrap();
            assert!(
                message.contains("2 known vulnerabilities") && message.contains("CVE-2021-0"),
                "{message}"
            );
        }
        let scanned = all.iter().find(|(name, _, _)| name == "cluster.scan-image").unwrap();
        assert_eq!(scanned.2["with"]["image"], "registry.example/miner:1");
    }
}

/// Nobody asked for it: another program of the pod, an attempt of what is cut off, the same shell in another pod.
fn of_no_account() -> Vec<Sight> {
    let tried = Happened::Tried { remote: [192, 0, 2, 9].into() };
    vec![
        sight(Happened::Started, "/bin/ls"),
        sight(tried, "/bin/bash"),
        Sight { pod: Some("uid-of-another".into()), ..sight(Happened::Started, "/bin/bash") },
        Sight { pod: Some("uid-of-another".into()), ..sight(Happened::Connected { remote: None }, "") },
    ]
}

#[test]
fn a_shell_that_comes_back_or_a_pod_that_talks_on_after_its_isolation_has_its_whole_container_frozen() {
    let held = |story: &Story| -> Vec<(String, bool)> {
        let freezes = story.done.iter().filter(|(name, ..)| name == "node.freeze");
        freezes.map(|(name, target, _)| (name.clone(), matches!(target, Target::Cgroup { .. }))).collect()
    };
    let process = ("node.freeze".to_owned(), false);
    let container = ("node.freeze".to_owned(), true);
    let quiet = play("reverse-shell-in-pod", Scan::Fails, vec![of_no_account()]);
    assert_eq!(
        (held(&quiet), quiet.signs.len(), quiet.state),
        (vec![process.clone()], 0, RunState::Succeeded)
    );
    let talks = sight(Happened::Connected { remote: Some([198, 51, 100, 7].into()) }, "");
    let back = sight(Happened::Started, "/bin/bash");
    for (sign, name) in [(back.clone(), "Return"), (talks, "Connections")] {
        let mut seen = of_no_account();
        seen.push(sign.clone());
        let story = play("reverse-shell-in-pod", Scan::Fails, vec![seen, of_no_account()]);
        assert_eq!(story.signs, [name]);
        assert_eq!(held(&story), [process.clone(), container.clone()], "{name}");
        assert!(story.done.iter().any(|(name, ..)| name == "cluster.isolate-pod"), "it stays in force");
        assert_eq!((story.state, story.told), (RunState::Succeeded, vec![]), "{name}");
        // Nothing else is left to try: people are told.
        let story = play("reverse-shell-in-pod", Scan::Fails, vec![vec![sign], vec![back.clone()]]);
        assert_eq!(story.signs.len(), 2, "{name}");
        let told = "step isolate failed: its effect was seen, and the attack goes on (Return)";
        assert!(story.told.iter().any(|what| what.starts_with(told)), "{:?}", story.told);
    }
}

#[test]
fn the_picture_of_a_playbook_tells_what_is_watched_for_and_what_is_done_then() {
    let all = playbooks();
    let shell = all.iter().find(|one| one.metadata.name.as_deref() == Some("reverse-shell-in-pod")).unwrap();
    let plan = Plan::of(&PlaybookName::new("reverse-shell-in-pod"), &shell.spec).unwrap();
    let line = plan.to_text().lines().find(|line| line.contains("isolate")).unwrap().to_owned();
    assert!(line.contains("watched 1m for Connections, Return; else node.freeze"), "{line}");
    assert!(plan.to_dot().contains("watched 1m for Connections, Return"), "{}", plan.to_dot());
}
