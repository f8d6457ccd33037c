//! The playbooks for pods: what they do by themselves, and that a ticket is opened only where a scan names a known vulnerability.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests, and what they share")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
};

use crds::{
    Playbook, Protected, Radius,
    source::{Resource, read},
};
use hemostat_respond::{
    facts::{Facts, Subject},
    plan::Plan,
    run::{Effect, Grants, Input, Run, RunStart, Transition},
};
use model::{
    Account, ActionFailure, Actor, BootNs, CgroupId, CommandOutcome, Effect as Seen, GateOutcome, IncidentId,
    NodeCommand, NodeId, ObjectRef, Outputs, Phase, PhaseDone, Pid, PlaybookName, ProcessKey, RollbackState,
    RunId, Target, Timestamp,
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
        playbook: PlaybookName::new("cryptominer-in-pod"),
        spec: playbook.spec,
        decision: serde_json::from_value(json!({"outcome": GateOutcome::Automatic, "reasons": []})).unwrap(),
        grants: Grants {
            standing: BTreeMap::new(),
            approvers: Vec::new(),
            approval_timeout_ms: 1_000,
            widest: Radius::Namespace,
            protected: Protected::default(),
        },
        facts: Facts {
            incident: json!({}),
            findings: json!([]),
            finding: json!({}),
            process: json!({}),
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

/// What was done to what, when nobody says yes to anything.
fn done(scan: Scan) -> Vec<(String, Target, serde_json::Value)> {
    let playbook =
        playbooks().into_iter().find(|one| one.metadata.name.as_deref() == Some("cryptominer-in-pod"));
    let mut now = Timestamp(1_000_000_000_000);
    let (mut run, effects) = Run::begin(start(playbook.unwrap()), now).unwrap();
    let (mut effects, mut journal, mut all) = (VecDeque::from(effects), Vec::<Transition>::new(), Vec::new());
    for _ in 0..2_000 {
        let input = match effects.pop_front() {
            Some(Effect::Journal(transition)) => {
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
                    all.push((command.action.name().to_owned(), command.target.clone(), action));
                }
                let (action_id, at, result) = (command.action_id.clone(), now, answer(&command, scan));
                let phase = command.phase.name().into();
                Input::Outcome(Box::new(CommandOutcome { key: command.key, action_id, phase, at, result }))
            }
            Some(Effect::AskApproval(request)) => {
                let (by, groups, because) = (Actor::new("user:ada"), Vec::new(), "not now".into());
                Input::Deny { step: request.step, by, groups, because }
            }
            Some(Effect::Audit(_) | Effect::Notify(_)) => continue,
            None if run.is_over() => return all,
            None => {
                now = now.max(run.next_deadline().unwrap());
                Input::Tick
            }
        };
        effects.extend(run.step(now, input));
    }
    panic!("no end");
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

#[test]
fn the_playbooks_for_pods_are_sound() {
    assert_eq!(playbooks().len(), 5);
}

#[test]
fn a_ticket_is_opened_only_where_the_scan_names_a_known_vulnerability() {
    let ticket = Target::Channel { name: "tickets".into() };
    for (scan, tickets) in [(Scan::Names(2), 1), (Scan::Names(0), 0), (Scan::Fails, 0)] {
        let all = done(scan);
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
