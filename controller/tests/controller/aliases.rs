//! Two incidents that turn out to be one: it is known only later who opened the sessions in their pods. And what puts no two together.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hemostat_controller::{
    attribute::{
        Pods,
        fact::{ExecSeen, Fact},
        index::Limits,
        listed,
    },
    config::Clock,
};
use model::*;

use crate::{
    lab::Lab,
    support::{Faint, now, within},
    whole::apart,
};

const PODS: &str = r#"{"items": [
  {"kind": "Pod", "metadata": {"name": "web-1", "namespace": "pay", "uid": "u-web", "resourceVersion": "1",
                               "creationTimestamp": "2026-01-01T00:00:00Z"},
   "spec": {"containers": [{"name": "web"}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.7"}]}},
  {"kind": "Pod", "metadata": {"name": "db-1", "namespace": "pay", "uid": "u-db", "resourceVersion": "2",
                               "creationTimestamp": "2026-01-01T00:00:00Z"},
   "spec": {"containers": [{"name": "db"}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.8"}]}},
  {"kind": "Pod", "metadata": {"name": "decoy", "namespace": "mallory", "uid": "u-decoy", "resourceVersion": "3",
                               "creationTimestamp": "2026-01-01T00:00:00Z"},
   "spec": {"containers": [{"name": "decoy"}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.9"}]}}
]}"#;

/// The same finding, about a process that dials the address of a pod.
fn dialling(mut with: Finding, to: [u8; 4]) -> Finding {
    let end = |addr: [u8; 4]| Endpoint { addr: IpAddr::from(addr), port: 8080 };
    let (local, remote) = (end([10, 244, 0, 9]), end(to));
    with.event.activity = Activity::Connect(Flow { protocol: Protocol::Tcp, local, remote });
    with
}

/// What no playbook answers.
fn unanswered(mut finding: Finding) -> Finding {
    finding.rule.id = "rule-other".into();
    finding.id = FindingId::derive(&finding.event.id, "rule-other");
    finding
}

/// Dana asked for what the findings are about in both pods of `pay`.
fn tell_sessions(pods: &Pods, about: &Finding) {
    for pod in ["web-1", "db-1"] {
        pods.tell(Fact::Exec(ExecSeen {
            audit_id: format!("audit-{pod}"),
            at: about.event.time,
            user: Principal { realm: "kubernetes".into(), name: "dana".into() },
            origin: None,
            namespace: "pay".into(),
            pod: pod.into(),
            command: about.event.process.command_line.clone(),
        }));
    }
}

fn tell_pods(pods: &Pods) {
    for (_, fact) in listed::facts(PODS.as_bytes(), &enrich::Classes::default().annotations()).unwrap() {
        pods.tell(fact);
    }
}

/// A clock that is slow, so that a busy machine does not miss how long it is waited for word of a pod.
fn slow_clock() -> Clock {
    let (began, since) = (now(), Instant::now());
    Arc::new(move || began.plus(since.elapsed() / 20))
}

async fn start(mode: &str) -> (Lab, Pods) {
    let clock = slow_clock();
    let pods = Pods::new(Limits::default(), Arc::clone(&clock));
    let known = pods.clone();
    let lab = Lab::start_with(mode, move |config| {
        config.pods = Some(known);
        config.clock = clock;
    })
    .await;
    (lab, pods)
}

fn said(incident: &Incident, words: &str) -> bool {
    incident.timeline.iter().any(|line| line.what.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dials_a_pod_does_not_get_its_incident_into_his_own() {
    let (mut lab, pods) = start("Approval").await;
    // A pod dials one, and a process of the node's own another.
    lab.spool(Report::Finding(dialling(within(1, "u-decoy"), [10, 244, 0, 7])));
    lab.spool(Report::Finding(within(2, "u-web")));
    lab.spool(Report::Finding(dialling(apart(3, 300, 30), [10, 244, 0, 8])));
    lab.spool(Report::Finding(within(4, "u-db")));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    // Whether it is known before or after: all of it is attributed, and nothing is merged.
    tell_pods(&pods);
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let all = lab.client.incidents(10).await.unwrap().incidents;
        assert_eq!(all.len(), 4, "another pod's story: {all:#?}");
        let mut paths = Vec::new();
        for line in &all {
            paths.extend(lab.client.incident(line.id.as_str()).await.unwrap().incident.pod_path());
        }
        paths.sort();
        if paths == ["mallory/decoy", "pay/db-1", "pay/web-1"] {
            break;
        }
        assert!(Instant::now() < until, "the pods are not told: {paths:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut lab = lab.restart_with(|config| config.pods = Some(pods)).await;
    lab.spool(Report::Finding(dialling(within(5, "u-decoy"), [10, 244, 0, 7])));
    lab.spool(Report::Finding(dialling(apart(6, 600, 30), [10, 244, 0, 8])));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let all = lab.client.incidents(10).await.unwrap().incidents;
    let mut sizes: Vec<_> = all.iter().map(|line| line.findings).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 2, 2], "{all:#?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_incidents_that_turn_out_to_be_of_one_account_are_merged_with_a_trace() {
    let (mut lab, pods) = start("Approval").await;
    let (one, two) = (within(1, "u-web"), within(2, "u-db"));
    lab.spool(Report::Finding(one.clone()));
    lab.spool(Report::Finding(two.clone()));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let parted = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(parted.len(), 2, "nothing links them: {parted:#?}");
    assert!(parted.iter().all(|line| line.merged_into.is_none()));

    tell_pods(&pods);
    tell_sessions(&pods, &one);
    let both = lab.until(|line| line.findings == 2).await;
    let other = parted.iter().find(|line| line.id != both.id).unwrap();
    let view = lab.client.incident(other.id.as_str()).await.unwrap();
    let gone = view.incident;
    assert_eq!(view.merged_into.as_ref(), Some(&both.id));
    let into = lab.client.incident(both.id.as_str()).await.unwrap();
    assert_eq!(into.absorbed, std::slice::from_ref(&gone.id));
    let told: Vec<&FindingId> = into.incident.findings.iter().map(|finding| &finding.id).collect();
    assert!(told.len() == 2 && told.contains(&&one.id) && told.contains(&&two.id), "{told:?}");
    let by = "(account dana@kubernetes)";
    assert!(said(&into.incident, &format!("is the same story {by}")), "{:#?}", into.incident.timeline);
    assert!(said(&gone, &format!("the same story as {} {by}", into.incident.id)), "{:#?}", gone.timeline);
    // What is found out about either is found out about the one story.
    let until = Instant::now() + Duration::from_secs(120);
    while lab.client.incident(into.incident.id.as_str()).await.unwrap().incident.pods.len() != 2 {
        assert!(Instant::now() < until, "the pods are not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It stays so after a restart, and whatever comes again.
    lab.node.lock().unwrap().forget_acks();
    let mut lab = lab.restart().await;
    lab.spool(Report::Finding(two));
    lab.spool(Report::Finding(one));
    lab.connect(Faint::Never);
    lab.until_world(|world| world.spool.is_empty()).await;
    let all = lab.client.incidents(10).await.unwrap().incidents;
    assert_eq!(
        all.iter().map(|line| (&line.id, line.findings)).collect::<Vec<_>>(),
        [(&both.id, 2)],
        "{all:#?}"
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_and_turns_out_to_be_of_one_that_is_over_opens_it_again() {
    let (mut lab, pods) = start("Auto").await;
    tell_pods(&pods);
    let (one, two) = (within(1, "u-web"), unanswered(within(2, "u-db")));
    lab.spool(Report::Finding(one.clone()));
    lab.spool(Report::Finding(two));
    lab.connect(Faint::Never);
    let asks = lab.until_state(IncidentState::NeedsApproval).await;
    lab.client.approve(asks.id.as_str(), None, "it is real").await.unwrap();
    let over = lab.until_state(IncidentState::Remediated).await;
    assert_eq!(lab.client.incidents(10).await.unwrap().incidents.len(), 2);

    tell_sessions(&pods, &one);
    let both = lab.until(|line| line.findings == 2).await;
    assert_eq!((&both.id, both.state), (&over.id, IncidentState::Open), "{:#?}", both.timeline);
    assert!(said(&both, "it is open again"), "{:#?}", both.timeline);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_finding_of_a_node_is_in_its_session_at_once() {
    let (mut lab, pods) = start("Approval").await;
    let (one, two) = (within(1, "u-web"), within(2, "u-db"));
    tell_pods(&pods);
    tell_sessions(&pods, &one);
    lab.spool(Report::Finding(one.clone()));
    lab.connect(Faint::Never);
    lab.until(|line| line.findings == 1).await;
    // Who starts anew knows no node's clock.
    let clock = slow_clock();
    let pods = Pods::new(Limits::default(), Arc::clone(&clock));
    tell_pods(&pods);
    tell_sessions(&pods, &one);
    let mut lab = lab
        .restart_with(move |config| {
            config.pods = Some(pods);
            config.clock = clock;
        })
        .await;
    lab.spool(Report::Finding(two));
    lab.connect(Faint::Never);
    let both = lab.until(|line| line.findings == 2).await;
    assert!(!said(&both, "is the same story"), "it was in another one first: {:#?}", both.timeline);
    assert_eq!(lab.client.incidents(10).await.unwrap().incidents.len(), 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_pods_beyond_the_limit_are_counted_and_health_says_that_they_are_not_known() {
    let clock = slow_clock();
    let pods = Pods::new(Limits { pods: 1, ..Limits::default() }, Arc::clone(&clock));
    tell_pods(&pods);
    let lab = Lab::start_with("Approval", move |config| {
        config.pods = Some(pods);
        config.clock = clock;
    })
    .await;
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let health = lab.client.health().await.unwrap();
        if let Some(problem) = health.problems.iter().find(|problem| problem.part == "attribution") {
            assert!(problem.what.contains("more pods"), "{}", problem.what);
            break;
        }
        assert!(Instant::now() < until, "{health:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = lab.client.metrics().await.unwrap();
    assert!(text.contains("hemostat_controller_pods_known 1\n"), "{text}");
    assert!(!text.contains("hemostat_controller_pods_left_out 0\n"), "{text}");
    lab.stop().await;
}
