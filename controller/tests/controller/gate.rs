//! What people said decides what happens by itself next; the switch; which policy decides what; what is known of an incident.

use std::{fs, sync::Arc};

use hemostat_controller::intel::FeedSource;
use model::*;

use crate::{
    lab::{Lab, new_dir},
    support::{Faint, finding},
};

fn outcome(incident: &Incident) -> Option<GateOutcome> {
    incident.runs.last().map(|run| run.decision.outcome)
}

/// Delivers a finding about a process of its own and waits for its run.
async fn attack(lab: &mut Lab, seq: u64, pid: u32) -> Incident {
    lab.spool(Report::Finding(finding(seq, pid, Level::High)));
    lab.disconnect().await;
    lab.connect(Faint::Never);
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE;
    loop {
        let new = lab.until(|line| line.verdict.is_none() && line.waiting > 0).await;
        if new.findings.iter().any(|one| one.event.process.key.pid.0 == pid)
            && new.runs.iter().all(|run| !run.waiting.is_empty())
        {
            return new;
        }
        assert!(tokio::time::Instant::now() < deadline, "never came: {new:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_false_positive_has_the_next_ask_until_the_record_begins_anew() {
    let mut lab = Lab::start("Auto").await;
    let first = attack(&mut lab, 1, 100).await;
    assert_eq!(outcome(&first), Some(GateOutcome::Automatic));
    let signals = &first.runs[0].decision.signals;
    assert_eq!(signals.len(), 3);
    assert!(
        signals[0].found >= signals[0].needed && signals[0].evidence[0].contains("vouches"),
        "{signals:?}"
    );
    lab.client.judge(first.id.as_str(), Verdict::FalsePositive, "a backup job").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;

    let mut lab = lab.restart().await;
    let second = attack(&mut lab, 2, 200).await;
    assert_eq!(outcome(&second), Some(GateOutcome::Approval), "{:?}", second.runs[0].decision.reasons);
    assert!(
        second.runs[0].waiting[0].because.contains("1 false positives by verdict"),
        "the question has the numbers"
    );
    let told = lab.client.explain(second.id.as_str(), None).await.unwrap();
    assert_eq!((told.playbook.as_str(), told.outcome), ("miner", GateOutcome::Approval));
    assert!(told.settings.iter().any(|one| one.setting == "mode" && one.value == "Auto"));
    assert!(lab.client.explain(second.id.as_str(), Some("other")).await.is_err());

    assert!(lab.client.begin_anew("nothing", "").await.is_err());
    for name in ["rule-miner", "miner"] {
        let said = lab.client.begin_anew(name, "the rule was mended").await.unwrap();
        assert!(said.what.contains("1 cases no longer count"), "{}", said.what);
    }
    let told = lab.client.explain(second.id.as_str(), Some("miner")).await.unwrap();
    assert_eq!(told.outcome, GateOutcome::Automatic, "{:?}", told.reasons);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_everything_automatic_is_paused_runs_ask_also_after_a_restart() {
    let lab = Lab::start("Auto").await;
    let said = lab.client.pause("a fire").await.unwrap();
    assert_eq!(said.paused.as_ref().map(|paused| paused.because.as_str()), Some("a fire"));
    assert!(*lab.handle.paused().borrow());
    let mut lab = lab.restart().await;
    assert!(*lab.handle.paused().borrow());
    let asked = attack(&mut lab, 1, 100).await;
    assert_eq!(outcome(&asked), Some(GateOutcome::Approval));
    assert!(asked.runs[0].waiting[0].because.contains("a fire"));
    assert!(lab.node.lock().unwrap().world().effects.is_empty(), "nothing is done");
    assert!(lab.client.status().await.unwrap().paused.is_some());
    lab.client.resume("it is out").await.unwrap();
    assert!(lab.client.status().await.unwrap().paused.is_none());
    let told = lab.client.explain(asked.id.as_str(), None).await.unwrap();
    assert_eq!(told.outcome, GateOutcome::Automatic, "{:?}", told.reasons);
    // What was asked meanwhile still waits.
    assert_eq!(lab.client.incident(asked.id.as_str()).await.unwrap().incident.runs[0].waiting.len(), 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_feed_says_of_a_connection_stands_in_the_incident_before_anything_is_decided() {
    let dir = new_dir("Approve");
    let path = dir.path().join("feed.csv");
    fs::write(&path, "ip,confidence,description\n198.51.100.0/24,80,a pool\n0.0.0.0/0,99,junk\n").unwrap();
    let feed: FeedSource = format!("csv={}", path.display()).parse().unwrap();
    let mut lab = Lab::start_in(dir, |config| config.feeds = vec![feed]).await;
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE;
    while lab.client.status().await.unwrap().feeds.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the feed was never read");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut connected = finding(1, 100, Level::High);
    let at = |addr: [u8; 4], port| Endpoint { addr: addr.into(), port };
    connected.event.activity = Activity::Connect(Flow {
        protocol: Protocol::Tcp,
        local: at([0, 0, 0, 0], 0),
        remote: at([198, 51, 100, 9], 3333),
    });
    connected.event.process = Arc::clone(&connected.event.process);
    lab.spool(Report::Finding(connected));
    lab.connect(Faint::Never);
    let incident = lab.until(|line| line.waiting == 1).await;
    let [hit] = &incident.enrichment.intelligence[..] else { panic!("{:#?}", incident.enrichment) };
    assert_eq!(
        (hit.indicator.as_str(), hit.relation.as_str(), hit.confidence),
        ("198.51.100.0/24", "within", 80)
    );
    assert_eq!((hit.feed.as_str(), hit.note.as_str()), ("feed.csv", "a pool"));
    assert!(incident.enrichment.missing.iter().any(|one| one.because.contains("no cluster")));
    assert_eq!(lab.client.status().await.unwrap().feeds[0].left_out, 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_context_explains_says_nothing_of_the_rule_elsewhere() {
    let dir = new_dir("Auto");
    let works = dir.path().join("playbooks/works.yaml");
    let policy = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {name: works}\nspec:\n  maintenance:\n    - \
                  {from: 2020-01-01T00:00:00Z, until: 2120-01-01T00:00:00Z, reason: the racks are moved}\n";
    fs::write(&works, policy).unwrap();
    let mut lab = Lab::start_in(dir, |_| {}).await;
    let first = attack(&mut lab, 1, 100).await;
    assert_eq!(outcome(&first), Some(GateOutcome::Approval));
    assert!(first.runs[0].waiting[0].because.contains("the racks are moved"));
    lab.client.judge(first.id.as_str(), Verdict::FalsePositive, "it was us").await.unwrap();

    fs::remove_file(works).unwrap();
    let mut lab = lab.restart().await;
    let second = attack(&mut lab, 2, 200).await;
    assert_eq!(outcome(&second), Some(GateOutcome::Automatic), "{:?}", second.runs[0].decision.reasons);
    // What it then did by itself counts, whatever was said of the other.
    lab.client.judge(second.id.as_str(), Verdict::FalsePositive, "").await.unwrap();
    let third = attack(&mut lab, 3, 300).await;
    assert_eq!(outcome(&third), Some(GateOutcome::Approval));
    lab.stop().await;
}

/// The same scanner, backup or person: asked about from then on, and no further case against the rule, which acts elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_judged_a_false_positive_is_asked_about_and_the_rule_is_not_charged_again() {
    let mut lab = Lab::start("Auto").await;
    let first = attack(&mut lab, 1, 100).await;
    assert_eq!(outcome(&first), Some(GateOutcome::Automatic));
    lab.client.judge(first.id.as_str(), Verdict::FalsePositive, "the backup").await.unwrap();
    lab.until_state(IncidentState::RolledBack).await;
    for (seq, pid) in [(2, 200), (3, 300)] {
        let again = attack(&mut lab, seq, pid).await;
        assert_eq!(outcome(&again), Some(GateOutcome::Approval));
        let because = &again.runs[0].waiting[0].because;
        // One case against the rule however often the same one comes; each against the place.
        assert!(because.contains("rule rule-miner: 0 true and 1 false positives"), "{because}");
        assert!(because.contains(&format!("/app: 0 true and {} false positives", seq - 1)), "{because}");
        lab.client.judge(again.id.as_str(), Verdict::FalsePositive, "the backup").await.unwrap();
    }
    // What was a true positive at first and is judged otherwise does not go on counting as one.
    let fourth = attack(&mut lab, 4, 400).await;
    for verdict in [Verdict::TruePositive, Verdict::FalsePositive] {
        lab.client.judge(fourth.id.as_str(), verdict, "").await.unwrap();
    }
    let fifth = attack(&mut lab, 5, 500).await;
    let because = &fifth.runs[0].waiting[0].because;
    assert!(because.contains("rule rule-miner: 0 true and 2 false positives"), "{because}");
    lab.stop().await;
}

/// What is judged in a drill says nothing of attacks: neither the gate nor the playbook's standing learns of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exercises_cost_neither_trust_nor_the_mode() {
    let dir = new_dir("Auto");
    let drills = dir.path().join("playbooks/drills.yaml");
    let policy = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {name: drills}\nspec:\n  gate: {evidence: Shown}\n";
    fs::write(&drills, policy).unwrap();
    let mut lab = Lab::start_in(dir, |_| {}).await;
    for (seq, pid) in [(1, 100), (2, 200), (3, 300)] {
        let drill = attack(&mut lab, seq, pid).await;
        assert_eq!(outcome(&drill), Some(GateOutcome::Automatic), "{:?}", drill.runs[0].decision.reasons);
        lab.client.judge(drill.id.as_str(), Verdict::FalsePositive, "a drill").await.unwrap();
        lab.until_state(IncidentState::RolledBack).await;
    }
    fs::remove_file(drills).unwrap();
    let mut lab = lab.restart().await;
    let real = attack(&mut lab, 4, 400).await;
    assert_eq!(outcome(&real), Some(GateOutcome::Automatic), "{:?}", real.runs[0].decision.reasons);
    lab.stop().await;
}
