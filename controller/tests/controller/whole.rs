//! The controller as a whole, with a node whose world is a file.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc};

use crate::lab::{Lab, PATIENCE, config};
use crate::support::{Faint, Trace, finding, reaction};
use hemostat_controller::{
    Controller,
    api::{ApiErrorKind, Condition},
    audit::{Anchor, AuditKey, verify},
    client::ClientError,
    crash::{CrashPoints, Moment},
};
use model::*;

fn sorted(mut effects: Vec<String>) -> Vec<String> {
    effects.sort();
    effects
}

pub(crate) fn names(world: &crate::support::World) -> Vec<String> {
    let short = |e: &String| e.split(' ').take(2).collect::<Vec<_>>().join(" ");
    sorted(world.effects.iter().map(short).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_way_from_a_finding_to_its_rollback() {
    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert!(incident.contained.is_some(), "contained before a person is asked");
    assert_eq!(incident.runs[0].waiting[0].step.as_str(), "kill");
    lab.client.approve(incident.id.as_str(), None, "it is real").await.unwrap();
    let incident = lab.until_state(IncidentState::Remediated).await;
    assert!(
        incident.timeline.iter().any(|line| line.what.contains("it is real")),
        "{:#?}",
        incident.timeline
    );
    // A short id does.
    let short = &incident.id.as_str()[..8];
    lab.client.rollback_incident(short, "drill").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;
    let world = lab.until_world(|w| w.in_force.is_empty()).await;
    assert_eq!(
        names(&world),
        [
            "apply node.capture-evidence",
            "apply node.freeze",
            "apply node.kill",
            "apply node.net-quarantine",
            "revert node.freeze",
            "revert node.net-quarantine"
        ]
    );
    let dir = lab.stop().await;
    let config = config(dir.path());
    let key = AuditKey::load(&config.audit_key).unwrap();
    let log = fs::read(&config.audit_log).unwrap();
    let anchor = Anchor::read(&config.audit_anchor).unwrap();
    assert!(verify(&log[..], &key, Some(&anchor)).unwrap().is_whole());
    let text = String::from_utf8(log).unwrap();
    for word in ["\"intent\"", "\"outcome\"", "\"decision\"", "\"human\"", "\"system\""] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_shadow_makes_no_command() {
    let mut lab = Lab::start("Shadow").await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| !line.playbooks.is_empty()).await;
    assert_eq!(incident.runs[0].state, RunState::Shadow);
    lab.until_world(|w| w.spool.is_empty()).await;
    let metrics = lab.client.metrics().await.unwrap();
    assert!(!metrics.contains("hemostat_controller_commands_total{"), "{metrics}");
    let world = lab.node.lock().unwrap().world().clone();
    assert!(world.answers.is_empty() && world.effects.is_empty());
    let said = incident.timeline.iter().map(|l| l.what.as_str()).collect::<Vec<_>>().join("\n");
    assert!(said.contains("freeze"), "what would have been done is recorded:\n{said}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_repeated_deliveries_have_one_effect() {
    let mut lab = Lab::start("Auto").await;
    let first = finding(1, 100, Level::High);
    lab.spool(Report::Finding(first.clone()));
    lab.spool(Report::Finding(first.clone()));
    lab.spool(Report::Repeat {
        finding: first.id.clone(),
        count: 7,
        last: first.last,
        moments: model::Moments::default(),
    });
    lab.spool(Report::Repeat {
        finding: first.id.clone(),
        count: 5,
        last: first.last,
        moments: model::Moments::default(),
    });
    lab.connect(Faint::Never);
    lab.until_world(|w| w.spool.is_empty()).await;
    lab.until_state(IncidentState::NeedsApproval).await;
    // Restarted with the same reports in the spool again, as if no acknowledgement had arrived.
    let mut lab = lab.restart().await;
    {
        let mut node = lab.node.lock().unwrap();
        node.forget_acks();
        node.spool(Report::Finding(first.clone()));
    }
    lab.connect(Faint::Never);
    lab.until_world(|w| w.spool.is_empty()).await;
    let list = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(list.len(), 1);
    let incident = lab.client.incident(list[0].id.as_str()).await.unwrap().incident;
    assert_eq!((incident.findings.len(), incident.findings[0].count, incident.runs.len()), (1, 7, 1));
    let world = lab.node.lock().unwrap().world().clone();
    let mut once = world.effects.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), world.effects.len());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_the_node_dies_at_every_command() {
    let story = async |faint: Option<Faint>| {
        let mut lab = Lab::start("Auto").await;
        lab.spool(Report::Finding(finding(1, 100, Level::High)));
        let mut fainted = false;
        if let Some(faint) = faint {
            lab.connect(faint);
            // Either the node faints, or the story comes to where it waits for a person.
            tokio::select! {
                _ = lab.disconnected() => fainted = true,
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
        lab.connect(Faint::Never);
        let incident = lab.until_state(IncidentState::NeedsApproval).await;
        lab.client.rollback_incident(incident.id.as_str(), "drill").await.unwrap();
        lab.until_state(IncidentState::RolledBack).await;
        let world = lab.until_world(|w| w.in_force.is_empty()).await;
        lab.stop().await;
        (names(&world), fainted)
    };
    let (clean, _) = story(None).await;
    // freeze, isolate and evidence: a capture, an apply and a verify each, at most.
    for n in 1..=6 {
        for faint in [Faint::Before(n), Faint::After(n)] {
            let (effects, fainted) = story(Some(faint)).await;
            assert!(fainted, "{faint:?} came to pass");
            assert_eq!(effects, clean, "{faint:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_own_reaction_is_adopted_and_undone_with_the_incident() {
    let mut lab = Lab::start("Auto").await;
    // No playbook answers this rule: the reaction alone is what there is.
    let mut alone = finding(1, 100, Level::High);
    alone.rule.id = "another".into();
    alone.reactions = vec![reaction("act-own", 100)];
    lab.spool(Report::Finding(alone));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::Contained).await;
    assert_eq!(incident.actions.len(), 1);
    assert!(incident.contained.is_some());
    let in_force = lab.client.actions_in_force().await.unwrap();
    assert_eq!((in_force.len(), in_force[0].node.as_str()), (1, crate::support::NODE));
    lab.client.rollback_action("act-own", "false alarm").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;
    let world = lab.until_world(|w| !w.effects.is_empty()).await;
    assert_eq!(names(&world), ["revert node.freeze"]);
    assert!(lab.client.actions_in_force().await.unwrap().is_empty());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_on_the_node_is_known() {
    let mut lab = Lab::start("Auto").await;
    let mut alone = finding(1, 100, Level::High);
    alone.rule.id = "another".into();
    alone.reactions = vec![reaction("act-own", 100)];
    lab.spool(Report::Finding(alone));
    let lifted = ActionRecord { state: ActionState::Reverted, ..reaction("act-own", 100) };
    lab.spool(Report::Reaction(lifted));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::RolledBack).await;
    assert_eq!(incident.actions[0].state, ActionState::Reverted);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_findings_wait_for_a_strong_one() {
    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(finding(1, 100, Level::Low)));
    lab.connect(Faint::Never);
    lab.until_world(|w| w.spool.is_empty()).await;
    assert!(lab.client.incidents(10).await.unwrap().incidents.is_empty());
    let mut lab = lab.restart().await;
    lab.spool(Report::Finding(finding(2, 101, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.findings == 2).await;
    assert_eq!((incident.severity, incident.findings[0].rule.level), (Level::High, Level::Low));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_attacker_in_the_same_incident_is_answered_too() {
    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.spool(Report::Finding(finding(2, 100, Level::High)));
    lab.spool(Report::Finding(finding(3, 200, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.waiting == 2).await;
    assert_eq!(incident.runs.len(), 2, "one run for each process, not for each finding");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_findings_of_one_incident_are_bounded() {
    let mut lab = Lab::start("Shadow").await;
    for n in 1..=300 {
        lab.spool(Report::Finding(finding(n, 100, Level::High)));
    }
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.findings == 300).await;
    assert_eq!((incident.findings.len(), incident.findings_dropped), (Incident::MAX_FINDINGS, 44));
    let lab = lab.restart().await;
    let incident = lab.until(|line| line.findings == 300).await;
    assert_eq!((incident.findings.len(), incident.findings_dropped), (Incident::MAX_FINDINGS, 44));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_speaks_only_for_itself() {
    let mut lab = Lab::start("Auto").await;
    let mut foreign = finding(1, 100, Level::High);
    foreign.event.id.node = NodeId::new("another-node");
    lab.spool(Report::Finding(foreign));
    lab.connect(Faint::Never);
    lab.until_world(|w| w.spool.is_empty()).await;
    assert!(lab.client.incidents(10).await.unwrap().incidents.is_empty());
    let health = lab.client.health().await.unwrap();
    assert_eq!(health.condition, Condition::Degraded);
    assert!(health.problems[0].what.contains("another-node"), "{health:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_playbook_is_named_and_the_others_are_used() {
    let lab = Lab::start("Auto").await;
    fs::write(lab.dir.path().join("playbooks/broken.yaml"), "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: b}\nspec:\n  trigger: {minimumLevel: high}\n  steps:\n    - {name: a, action: node.freez}\n").unwrap();
    let shown = lab.client.reload_playbooks().await.unwrap();
    assert_eq!(shown.loaded.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["miner"]);
    assert!(shown.broken[0].contains("broken.yaml") && shown.broken[0].contains(":7"), "{:?}", shown.broken);
    assert_eq!(lab.client.health().await.unwrap().condition, Condition::Degraded);
    fs::remove_file(lab.dir.path().join("playbooks/broken.yaml")).unwrap();
    lab.handle.reload().await.unwrap();
    assert_eq!(lab.client.health().await.unwrap().condition, Condition::Good);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_playbook_that_breaks_while_it_is_used_still_answers_and_its_place_is_told() {
    let mut lab = Lab::start("Auto").await;
    let file = lab.dir.path().join("playbooks/miner.yaml");
    let sound = fs::read_to_string(&file).unwrap();
    fs::write(&file, sound.replacen("node.freeze", "node.freez", 1)).unwrap();
    lab.handle.reload().await.unwrap();
    let health = lab.client.health().await.unwrap();
    let told = &health.problems[0].what;
    let line = 1 + sound.lines().position(|line| line.contains("node.freeze")).unwrap();
    assert!(told.contains(&format!("miner.yaml:{line}:")) && told.contains("stays in force"), "{told}");
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    lab.until(|line| line.actions_in_force == 2 && line.waiting == 1).await;
    // half of it, nothing of it, and no file at all: a folder that is away is a mistake, too
    fs::write(&file, &sound[..sound.len() / 2]).unwrap();
    assert_eq!(lab.client.reload_playbooks().await.unwrap().loaded.len(), 1);
    fs::write(&file, "").unwrap();
    assert_eq!(lab.client.reload_playbooks().await.unwrap().loaded.len(), 1);
    fs::remove_file(&file).unwrap();
    let shown = lab.client.reload_playbooks().await.unwrap();
    assert!(
        shown.loaded.len() == 1 && shown.broken[0].contains("holds no playbook file any more"),
        "{shown:?}"
    );
    fs::write(&file, sound).unwrap();
    lab.handle.reload().await.unwrap();
    assert_eq!(lab.client.health().await.unwrap().condition, Condition::Good);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_closed_to_others_and_one_controller_owns_the_state() {
    let lab = Lab::start("Auto").await;
    let socket = lab.client.socket();
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    let second = Controller::start(config(lab.dir.path())).await;
    let error = second.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("journal.redb"), "{error}");
    assert!(lab.client.status().await.is_ok(), "the first still answers");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cannot_be_met_say_why() {
    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    let refused = |result: Result<_, ClientError>| match result {
        Err(ClientError::Refused(error)) => error.kind,
        other => panic!("{other:?}"),
    };
    let id = incident.id.as_str();
    assert_eq!(refused(lab.client.approve("inc-none", None, "").await), ApiErrorKind::Unknown);
    // The only incident there is: a word that names none, as of an unset variable, still does not mean it.
    let step = || Some(StepName::new("kill"));
    for none in ["", "inc-", "inc", "i", &id[..6]] {
        for kind in [
            refused(lab.client.approve(none, step(), "").await),
            refused(lab.client.deny(none, step(), "").await),
            refused(lab.client.rollback_incident(none, "").await),
            refused(lab.client.judge(none, Verdict::FalsePositive, "").await),
            refused(lab.client.close(none, "").await),
        ] {
            let short = if none.trim_start_matches("inc-").is_empty() {
                ApiErrorKind::Malformed
            } else {
                ApiErrorKind::Unknown
            };
            assert_eq!(kind, short, "{none:?}");
        }
    }
    assert_eq!(lab.client.incident(id).await.unwrap().incident.runs[0].waiting.len(), 1, "it still waits");
    // Of a step that does not wait it is said which do.
    match lab.client.approve(id, Some(StepName::new("nope")), "").await {
        Err(ClientError::Refused(error)) => {
            assert_eq!(error.kind, ApiErrorKind::Conflict);
            assert!(
                error.message.contains("\"nope\"") && error.message.contains("those that do: kill"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    let book = lab.client.playbooks().await.unwrap();
    let shown = &book.loaded[0];
    assert_eq!((shown.mode.as_str(), shown.in_force.as_str()), ("Auto", "Auto"));
    assert!(shown.trigger.contains("rule-miner"), "{shown:?}");
    assert_eq!(refused(lab.client.rollback_action("act-none", "").await), ApiErrorKind::Unknown);
    assert_eq!(refused(lab.client.close(id, "").await), ApiErrorKind::Conflict);
    lab.client.deny(id, None, "no").await.unwrap();
    lab.until(|line| line.waiting == 0).await;
    assert_eq!(refused(lab.client.approve(id, None, "").await), ApiErrorKind::Conflict);
    // What is so already is told as such, and nothing is written down of it.
    lab.client.rollback_incident(id, "").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;
    assert_eq!(lab.client.close(id, "").await.unwrap().what, ["closed; what is in force stays in force"]);
    lab.client.pause("a fire").await.unwrap();
    let before = lab.client.audit(0, 1000).await.unwrap().anchor;
    assert_eq!(lab.client.close(id, "").await.unwrap().what, ["closed already; nothing was changed"]);
    let said = lab.client.pause("again").await.unwrap();
    assert!(said.what.contains("paused already") && said.what.contains("a fire"), "{}", said.what);
    assert_eq!(said.paused.unwrap().because, "a fire", "who came first is kept");
    assert_eq!(lab.client.audit(0, 1000).await.unwrap().anchor, before);
    assert!(!lab.client.resume("").await.unwrap().what.contains("already"));
    let said = lab.client.resume("").await.unwrap();
    assert!(said.what.contains("goes on already") && said.paused.is_none(), "{}", said.what);
    let page = lab.client.audit(0, 1000).await.unwrap();
    assert_eq!(page.entries.iter().filter(|entry| entry.what.contains("automatic")).count(), 2, "one each");
    assert_eq!(page.anchor.head.count, page.entries.last().unwrap().seq);
    lab.stop().await;
}

/// Writes down what the journal and the audit log hold, when they hold it.
struct Recorder(Trace);

impl CrashPoints for Recorder {
    fn reached(&self, moment: Moment, transitions: &[String]) {
        let mut trace = self.0.lock().unwrap();
        trace.extend(transitions.iter().map(|name| format!("{moment:?} {name}")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_nothing_is_applied_before_its_rollback_state_is_stored_and_read_back() {
    let trace = Trace::default();
    let recorder = Recorder(trace.clone());
    let mut lab = Lab::start_with("Auto", |config| config.crash = Arc::new(recorder)).await;
    lab.node.lock().unwrap().trace = trace.clone();
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    lab.client.approve(incident.id.as_str(), None, "").await.unwrap();
    lab.until_state(IncidentState::Remediated).await;
    lab.stop().await;
    let trace = trace.lock().unwrap().clone();
    let stored = |change: &str| {
        let end = format!("/{change}");
        trace.iter().filter(|l| l.starts_with("AfterAudit") && l.ends_with(&end)).count()
    };
    for (n, line) in trace.iter().enumerate().filter(|(_, line)| line.starts_with("apply ")) {
        let before = &trace[..n];
        let has = |change: &str| {
            let end = format!("/{change}");
            before.iter().filter(|l| l.starts_with("AfterAudit") && l.ends_with(&end)).count()
        };
        let applies = before.iter().filter(|l| l.starts_with("apply ")).count() + 1;
        for change in ["captured", "prepared", "applying"] {
            assert!(has(change) >= applies, "{line}: {change} was stored before it\n{before:#?}");
        }
    }
    assert_eq!((stored("captured"), stored("prepared"), stored("applying")), (4, 4, 4));
    // Read back in a turn of its own: no write holds both a capture and what it permits.
    let captured = |l: &&String| l.starts_with("BeforeWrite") && l.ends_with("/captured");
    assert_eq!(trace.iter().filter(captured).count(), 4);
}

/// A finding in a cgroup of its own.
pub(crate) fn apart(seq: u64, pid: u32, cgroup: u64) -> Finding {
    let mut finding = finding(seq, pid, Level::High);
    let mut process = (*finding.event.process).clone();
    process.cgroup = CgroupId(cgroup);
    process.workload = Arc::new(Workload::Host { cgroup_path: format!("/app-{cgroup}") });
    finding.event.process = Arc::new(process);
    finding
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incidents_that_turn_out_to_be_one_are_merged_with_their_runs() {
    let mut lab = Lab::start("Auto").await;
    lab.spool(Report::Finding(apart(1, 100, 10)));
    lab.spool(Report::Finding(apart(2, 200, 20)));
    lab.connect(Faint::Never);
    lab.until_world(|w| w.in_force.len() == 4).await;
    lab.until(|_| true).await;
    assert_eq!(lab.client.incidents(10).await.unwrap().incidents.len(), 2);
    // The same process, seen in the other cgroup: it moved.
    let mut lab = lab.restart().await;
    lab.spool(Report::Finding(apart(3, 200, 10)));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.findings == 3).await;
    let shown = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(shown.len(), 1, "the other is not shown any more: {shown:#?}");
    assert_eq!((incident.runs.len(), shown[0].actions_in_force), (2, 4));
    let view = lab.client.incident(incident.id.as_str()).await.unwrap();
    let other = lab.client.incident(view.absorbed[0].as_str()).await.unwrap();
    assert_eq!((other.merged_into, other.incident.state), (Some(incident.id.clone()), IncidentState::Closed));
    lab.client.rollback_incident(incident.id.as_str(), "drill").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;
    lab.until_world(|w| w.in_force.is_empty()).await;
    lab.stop().await;
}

/// Not a test: how long it takes from a report to its first containment command, for docs and reports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures; run with --ignored --nocapture"]
async fn figures_from_report_to_command() {
    let lab = Lab::start("Auto").await;
    let (mut agent, link) = crate::support::link();
    lab.handle.attach(link);
    let hello = Up::Hello { node: NodeId::new(crate::support::NODE), epoch: AgentEpoch(1) };
    agent.up.send(hello).await.unwrap();
    let (mut stored, mut applied) = (Vec::new(), Vec::new());
    for n in 1..=300u32 {
        let report = Report::Finding(apart(u64::from(n), 1000 + n, 1000 + u64::from(n)));
        let begun = std::time::Instant::now();
        agent.up.send(Up::Report { seq: Seq(u64::from(n)), report: Box::new(report) }).await.unwrap();
        let mut applies = 0;
        while applies < 2 {
            match agent.down.recv().await.unwrap() {
                Down::Ack { .. } => stored.push(begun.elapsed()),
                Down::Rules(_) | Down::Guard(_) => {}
                Down::Command(command) => {
                    if matches!(command.phase, Phase::Apply { .. })
                        && command.action.undo() == UndoClass::Exact
                    {
                        applies += 1;
                        if applies == 2 {
                            applied.push(begun.elapsed());
                        }
                    }
                    let outcome = lab.node.lock().unwrap().obey(&command);
                    agent.up.send(Up::Outcome(Box::new(outcome))).await.unwrap();
                }
            }
        }
    }
    for (what, mut times) in [("report stored", stored), ("both containments commanded", applied)] {
        times.sort();
        let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
        println!("{what}: p50 {:?} p99 {:?} max {:?}", at(0.5), at(0.99), at(1.0));
    }
    drop(agent);
    lab.stop().await;
}
