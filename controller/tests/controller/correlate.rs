//! Correlations in the controller: what nodes find is counted in event time, once, whatever is repeated, late or out of order, and what
//! comes of it is an incident like any other.

use std::{
    fs,
    time::{Duration, Instant},
};

use detect::correlation::Limits;
use hemostat_controller::api::Condition;
use model::*;
use tempfile::TempDir;

use crate::{
    lab::{Lab, new_dir},
    support::{Faint, NODE, finding, now},
};

/// Five steps of one program within ten minutes. A step says nothing by itself, though its level is high.
pub(crate) const RULES: &str = "title: A Step
id: rule-step
logsource: {product: linux, category: process_creation}
detection: {s: {Image|endswith: /xmrig}, condition: s}
level: high
---
title: Many Steps
id: rule-many
correlation:
  type: event_count
  rules: [rule-step]
  group-by: [Image]
  timespan: 10m
  condition: {gte: 5}
level: high
tags: [attack.t1496]
";

/// Of rule-step, at a time so many seconds ago.
fn step(seq: u64, ago: u64) -> Finding {
    let mut step = finding(seq, 100, Level::High);
    step.rule.id = "rule-step".into();
    step.rule.title = "A Step".into();
    step.id = FindingId::derive(&step.event.id, "rule-step");
    let at = Timestamp(now().0 - i64::try_from(ago).unwrap() * 1_000_000_000);
    (step.event.time, step.first, step.last) = (at, at, at);
    step
}

fn again(of: &Finding, count: u64, ago: u64) -> Report {
    let last = Timestamp(now().0 - i64::try_from(ago).unwrap() * 1_000_000_000);
    Report::Repeat { finding: of.id.clone(), count, last, moments: model::Moments::default() }
}

/// Two findings that come to five steps with what is folded into them.
pub(crate) fn five_steps() -> Vec<Report> {
    let (one, two) = (step(1, 9), step(2, 8));
    let folded = [again(&one, 3, 7), again(&two, 2, 6)];
    [Report::Finding(one), Report::Finding(two)].into_iter().chain(folded).collect()
}

pub(crate) fn dir_with(rules: &str) -> TempDir {
    let dir = new_dir("Auto");
    let many = crate::support::playbook("Auto")
        .replace("name: miner", "name: many")
        .replace("rule-miner", "rule-many");
    fs::write(dir.path().join("playbooks/many.yaml"), many).unwrap();
    fs::create_dir(dir.path().join("rules")).unwrap();
    fs::write(dir.path().join("rules/many.yml"), rules).unwrap();
    dir
}

async fn lab(rules: &str) -> Lab {
    Lab::start_in(dir_with(rules), |_| {}).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_correlation_tells_is_an_incident_with_its_evidence_and_is_answered() {
    let mut lab = lab(RULES).await;
    for report in five_steps() {
        lab.spool(report);
    }
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!((incident.title.as_str(), incident.severity), ("Many Steps", Level::High));
    let told = &incident.findings[0];
    assert_eq!((told.rule.id.as_str(), told.matched["value"].as_str()), ("rule-many", "5"));
    assert_eq!(told.matched["correlation"], "event_count");
    let evidence: Vec<(&str, u64)> =
        incident.findings[1..].iter().map(|f| (f.rule.id.as_str(), f.count)).collect();
    assert_eq!(evidence, [("rule-step", 3), ("rule-step", 2)], "what it was made of stands beside it");
    assert_eq!(told.event.id, incident.findings[2].event.id, "it is about what made it true");
    assert_eq!(incident.techniques, ["T1496"]);
    assert!(incident.timeline.iter().any(|line| line.what.contains("event_count is 5 within 600s")));
    assert_eq!(incident.runs.len(), 1);
    assert_eq!(incident.runs[0].playbook.as_str(), "many");
    assert_eq!(lab.client.incidents(10).await.unwrap().incidents.len(), 1);
    assert_eq!(lab.client.status().await.unwrap().correlations, 1);
    lab.stop().await;
}

/// Three steps folded into one before anybody asked, two told later: the history tells of five, and in the order in which they were done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_correlation_counted_is_told_one_by_one_and_in_order() {
    let mut lab = lab(RULES).await;
    let (one, two) = (step(1, 9), step(2, 7));
    let moments = |of: &[(u64, i64)]| {
        let at = |second: i64| Timestamp(one.first.0 + second * 1_000_000_000);
        of.iter().map(|(nth, second)| Moment::new(*nth, at(*second), format!("at {second}"))).collect()
    };
    let folded = |of: &Finding, count: u64, last: i64, told: &[(u64, i64)]| Report::Repeat {
        finding: of.id.clone(),
        count,
        last: Timestamp(one.first.0 + last * 1_000_000_000),
        moments: moments(told),
    };
    lab.spool(Report::Finding(one.clone()));
    lab.spool(Report::Finding(two.clone()));
    lab.spool(folded(&two, 2, 4, &[(2, 4)]));
    lab.spool(folded(&one, 3, 3, &[(2, 1), (3, 3)]));
    lab.connect(Faint::Never);
    let of_steps = |incident: &Incident| -> Vec<String> {
        let history = incident.history();
        let steps = history.iter().filter(|line| line.what.starts_with("A Step"));
        steps.map(|line| format!("{} {}", (line.at.0 - one.first.0) / 1_000_000_000, line.what)).collect()
    };
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    let event = |of: &Finding| format!("{} ({})", of.event.process.command_line, of.event.id);
    let wanted = [
        format!("0 A Step: {}", event(&one)),
        "1 A Step (2 of 3): at 1".into(),
        format!("2 A Step: {}", event(&two)),
        "3 A Step (3 of 3): at 3".into(),
        "4 A Step (2 of 2): at 4".into(),
    ];
    assert_eq!(of_steps(&incident), wanted);
    // Once, however often it comes, and what comes later in its place; what is kept stays so over a restart.
    let mut lab = lab.restart().await;
    lab.spool(folded(&one, 3, 3, &[(2, 1), (3, 3)]));
    lab.spool(folded(&one, 4, 8, &[(4, 8)]));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let lab = lab.restart().await;
    let id = lab.client.incidents(10).await.unwrap().incidents[0].id.clone();
    let incident = lab.client.incident(id.as_str()).await.unwrap().incident;
    let told = of_steps(&incident);
    assert_eq!(told.len(), 6, "{told:#?}");
    assert_eq!(told[5], "8 A Step (4 of 4): at 8");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_steps_say_nothing_and_a_fifth_after_a_restart_does() {
    let mut lab = lab(RULES).await;
    let (one, two) = (step(1, 9), step(2, 8));
    lab.spool(Report::Finding(one.clone()));
    lab.spool(Report::Finding(two.clone()));
    lab.spool(again(&one, 3, 7));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let mut lab = lab.restart().await;
    assert_eq!(lab.client.incidents(10).await.unwrap().incidents, [], "four are not enough");
    // Everything again, as if no acknowledgement had arrived, and one more.
    lab.node.lock().unwrap().forget_acks();
    lab.spool(Report::Finding(one.clone()));
    lab.spool(Report::Finding(two.clone()));
    lab.spool(again(&one, 3, 7));
    lab.spool(again(&two, 2, 6));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!(incident.findings[0].matched["value"], "5", "each is counted once");
    assert_eq!(lab.client.health().await.unwrap().condition, Condition::Good);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_in_any_order_and_however_often_it_comes_it_is_the_same() {
    let steps: Vec<Finding> = (1..=5).map(|n| step(n, 20 - n)).collect();
    let mut told = Vec::new();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
        told.push(in_order(&steps, order).await);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
}

/// What is told of steps that come in this order, each twice. Only what comes within one lateness is put in order, and a machine may be too
/// busy to deliver them in that time: then once more.
async fn in_order(steps: &[Finding], order: [usize; 5]) -> (FindingId, Event, Vec<String>) {
    let deadline = Instant::now() + crate::lab::PATIENCE;
    loop {
        let mut lab = lab(RULES).await;
        for at in order {
            lab.spool(Report::Finding(steps[at].clone()));
            lab.spool(Report::Finding(steps[at].clone()));
        }
        let begun = Instant::now();
        lab.connect(Faint::Never);
        lab.until_world(|world| world.spool.is_empty()).await;
        if begun.elapsed() >= Limits::default().lateness {
            assert!(Instant::now() < deadline, "never delivered in time");
            lab.stop().await;
            continue;
        }
        let incident = lab.until_state(IncidentState::NeedsApproval).await;
        let mut ids: Vec<String> = incident.findings.iter().map(|f| f.id.to_string()).collect();
        ids.sort();
        let told = (incident.findings[0].id.clone(), incident.findings[0].event.clone(), ids);
        lab.stop().await;
        return told;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_shall_report_too_does_and_its_incident_is_joined() {
    let mut lab = lab(&RULES.replace("timespan: 10m", "timespan: 10m\n  generate: true")).await;
    let one = step(1, 9);
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    let opened = lab.until(|line| line.findings == 1).await;
    assert_eq!(opened.title, "A Step");
    lab.disconnect().await;
    lab.spool(again(&one, 5, 1));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!(incident.id, opened.id, "the same story");
    let rules: Vec<&str> = incident.findings.iter().map(|f| f.rule.id.as_str()).collect();
    assert_eq!(rules, ["rule-step", "rule-many"]);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_fills_again_is_told_again_as_a_repetition() {
    let mut lab = lab(&RULES.replace("timespan: 10m", "timespan: 2s")).await;
    let one = step(1, 100);
    lab.spool(Report::Finding(one.clone()));
    for (count, ago) in [(6, 99), (7, 80), (12, 79)] {
        lab.spool(again(&one, count, ago));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let incident = lab.until(|line| line.findings == 2).await;
    let mut counts = incident.findings[0].count;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while counts < 2 {
        assert!(tokio::time::Instant::now() < deadline, "{incident:#?}");
        tokio::task::yield_now().await;
        counts = lab.client.incident(incident.id.as_str()).await.unwrap().incident.findings[0].count;
    }
    assert_eq!(counts, 2, "twice true");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_what_correlations_cannot_count_is_said() {
    let mut lab = lab(RULES).await;
    let mut future = step(1, 0);
    future.event.time = Timestamp(now().0 + 3_600_000_000_000);
    lab.spool(Report::Finding(future));
    lab.spool(Report::Finding(step(2, 7200)));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE;
    let problem = loop {
        let health = lab.client.health().await.unwrap();
        if let Some(problem) = health.problems.into_iter().find(|p| p.part == "correlation") {
            break problem;
        }
        assert!(tokio::time::Instant::now() < deadline, "never said");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(problem.what.contains("1 were dated ahead"), "{problem:?}");
    let metrics = lab.client.metrics().await.unwrap();
    assert!(metrics.contains("hemostat_controller_correlation_hits{kind=\"ahead\"} 1"), "{metrics}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_findings_that_are_remembered_for_correlations_are_bounded_and_what_is_forgotten_is_said() {
    let mut lab = Lab::start_in(dir_with(RULES), |config| config.limits.fed = 3).await;
    let steps: Vec<Finding> = (1..=4).map(|n| step(n, 20 - n)).collect();
    for step in &steps {
        lab.spool(Report::Finding(step.clone()));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let deadline = tokio::time::Instant::now() + crate::lab::PATIENCE;
    while !lab.client.metrics().await.unwrap().contains("correlation_hits{kind=\"forgotten\"} 1") {
        assert!(tokio::time::Instant::now() < deadline, "never said");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One that is forgotten is counted no more; the others are.
    lab.disconnect().await;
    lab.spool(again(&steps[3], 2, 1));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!(incident.findings[0].matched["value"], "5");
    assert_eq!(incident.findings.len(), 4, "the evidence that is still there");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_whoever_tells_much_makes_nobody_else_s_findings_be_forgotten() {
    let mut lab = Lab::start_in(dir_with(RULES), |config| config.limits.fed = 3).await;
    let in_pod = |mut step: Finding, uid: &str| {
        let workload = Workload::Container {
            runtime: Runtime::Containerd,
            container_id: format!("c-{uid}"),
            pod_uid: Some(uid.into()),
            cgroup_path: format!("/kubepods/{uid}"),
        };
        std::sync::Arc::make_mut(&mut step.event.process).workload = workload.into();
        step
    };
    let quiet = in_pod(step(1, 19), "quiet");
    lab.spool(Report::Finding(quiet.clone()));
    for n in 2..=4 {
        lab.spool(Report::Finding(in_pod(step(n, 20 - n), "loud")));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let deadline = Instant::now() + crate::lab::PATIENCE;
    while !lab.client.metrics().await.unwrap().contains("correlation_hits{kind=\"forgotten\"} 1") {
        assert!(Instant::now() < deadline, "never said");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It came first and is remembered: also after a restart.
    let mut lab = lab.restart_with(|config| config.limits.fed = 3).await;
    lab.spool(again(&quiet, 2, 1));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!(incident.findings[0].matched["value"], "5");
    assert_eq!(incident.findings.len(), 4, "one of the loud ones is forgotten");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_are_read_again_go_on_where_they_are_the_same_and_broken_ones_are_named() {
    let mut lab = lab(RULES).await;
    lab.spool(Report::Finding(step(1, 9)));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let file = lab.dir.path().join("rules/other.yml");
    fs::write(
        &file,
        "title: Broken\nid: b\nlogsource: {category: process_creation}\ndetection: {condition: s}\n",
    )
    .unwrap();
    lab.handle.reload().await.unwrap();
    let health = lab.client.health().await.unwrap();
    let problem = health.problems.iter().find(|p| p.part == "rules").unwrap();
    assert!(
        problem.what.contains("other.yml:4:") && problem.what.contains("hemostat rules check"),
        "{problem:?}"
    );
    fs::remove_file(&file).unwrap();
    lab.handle.reload().await.unwrap();
    assert_eq!(lab.client.health().await.unwrap().condition, Condition::Good);
    lab.disconnect().await;
    for n in 2..=5 {
        lab.spool(Report::Finding(step(n, 9 - n)));
    }
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!(incident.findings[0].matched["value"], "5", "the first of before counts");
    assert_eq!(incident.findings[0].event.id.node.as_str(), NODE);
    lab.stop().await;
}

/// A finding that says nothing by itself lies in no incident; told again before it is stored, it is a repetition all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_quiet_finding_that_comes_again_before_it_is_stored_is_counted_once() {
    let mut lab = lab(RULES).await;
    let one = step(1, 9);
    for _ in 0..30 {
        lab.spool(Report::Finding(one.clone()));
        lab.spool(again(&one, 4, 7));
    }
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let mut lab = lab.restart().await;
    assert_eq!(lab.client.incidents(10).await.unwrap().incidents, [], "it was seen four times");
    lab.spool(again(&one, 5, 6));
    lab.connect(Faint::Never);
    let incident = lab.until_state(IncidentState::NeedsApproval).await;
    assert_eq!(incident.findings[0].matched["value"], "5");
    lab.stop().await;
}
