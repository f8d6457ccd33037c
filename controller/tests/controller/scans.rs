//! What a scan finds in an image is known of the incident that it was made for at once, and of the next pod of that image before anything is
//! decided about it, after a restart, too.

use std::time::{Duration, Instant};

use hemostat_controller::{
    attribute::{Pods, index::Limits, listed},
    wall_clock,
};
use model::*;
use serde_json::json;
use wire::link::{AgentLink, in_process};

use crate::{
    lab::{Lab, PATIENCE, new_dir},
    support::{Faint, within},
};

const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

const PLAYBOOK: &str = "apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata: {name: miner}
spec:
  description: Look into the image.
  mode: Auto
  trigger: {rules: [rule-miner]}
  blastRadius: {widest: Workload, maximumTargets: 4}
  steps:
    - {name: scan, action: cluster.scan-image, target: {kind: Pod}, timeout: 10m}
";

/// Two pods of one image, and one of another.
fn objects() -> String {
    let pod = |uid: &str, digest: &str| {
        json!({
            "kind": "Pod",
            "metadata": {"name": uid, "namespace": "pay", "uid": uid, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "web", "image": "shop:1"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "web", "image": "shop:1", "imageID": format!("registry.example/shop@{digest}"), "ready": true, "restartCount": 0,
                "containerID": format!("containerd://c-{uid}")}]},
        })
    };
    let other = DIGEST.replace('0', "f");
    json!({"items": [pod("one", DIGEST), pod("two", DIGEST), pod("other", &other)]}).to_string()
}

/// A process in that pod did what a rule finds.
fn found_in(seq: u32, rule: &str, uid: &str) -> Finding {
    let mut found = within(seq, uid);
    found.rule.id = rule.into();
    found.id = FindingId::derive(&found.event.id, rule);
    found
}

/// Who carries out what is done in the API server: a scanner that finds two.
async fn scanner(mut link: AgentLink) {
    let hello = Up::Hello { node: NodeId::cluster(), epoch: AgentEpoch(1) };
    link.up.send(hello).await.unwrap();
    let found = json!({
        "vulnerable": true, "known": 2, "critical": 1, "high": 1, "fixable": 2, "ids": ["CVE-2021-44228", "CVE-2014-0160"],
        "scanner": "trivy", "image": format!("registry.example/shop@{DIGEST}"), "bundle": "scan-1",
    });
    while let Some(down) = link.down.recv().await {
        let Down::Command(command) = down else { continue };
        let done = match &command.phase {
            Phase::Capture => PhaseDone::Captured { rollback: RollbackState::Nothing },
            Phase::Apply { .. } => {
                PhaseDone::Applied { outputs: serde_json::from_value(found.clone()).unwrap() }
            }
            Phase::Verify { .. } => PhaseDone::Verified { effect: Effect::InForce },
            Phase::Revert { .. } => PhaseDone::Reverted { detail: String::new() },
        };
        let outcome = CommandOutcome {
            key: command.key.clone(),
            action_id: command.action_id.clone(),
            phase: command.phase.name().into(),
            at: crate::support::now(),
            result: Ok(done),
        };
        if link.up.send(Up::Outcome(Box::new(outcome))).await.is_err() {
            return;
        }
    }
}

/// What is known of the image of the incident whose finding is in that pod.
async fn image_of(lab: &Lab, pod: &str) -> (Vec<String>, Vec<String>) {
    let (mut since, until) = (0, Instant::now() + PATIENCE);
    let incident = loop {
        since = lab.client.watch(since, Duration::from_secs(1)).await.unwrap().revision;
        let mut found = None;
        assert!(
            Instant::now() < until,
            "no incident of {pod}: {:#?}",
            lab.client.incidents(10).await.unwrap()
        );
        for line in lab.client.incidents(10).await.unwrap().incidents {
            let incident = lab.client.incident(line.id.as_str()).await.unwrap().incident;
            found = Some(incident).filter(|one| one.pod_path().is_some_and(|path| path == pod)).or(found);
        }
        if let Some(found) = found {
            break found;
        }
    };
    let facts = incident.enrichment.facts.iter();
    let scans = facts.filter(|fact| fact.what.starts_with("image ")).map(|fact| fact.what.clone());
    (scans.collect(), incident.enrichment.missing.iter().map(|one| one.what.clone()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_scan_found_is_known_of_its_own_incident_and_of_the_next_pod_of_that_image() {
    let pods = Pods::new(Limits::default(), wall_clock());
    let marks = enrich::Classes::default().annotations();
    listed::facts(objects().as_bytes(), &marks).unwrap().into_iter().for_each(|(_, fact)| pods.tell(fact));
    let dir = new_dir("Auto");
    std::fs::write(dir.path().join("playbooks/miner.yaml"), PLAYBOOK).unwrap();
    let known = pods.clone();
    let mut lab = Lab::start_in(dir, |config| config.pods = Some(known)).await;
    let (agent, link) = in_process(NodeId::cluster(), 16);
    lab.handle.attach(link);
    let scanning = tokio::spawn(scanner(agent));
    lab.spool(Report::Finding(found_in(1, "rule-miner", "one")));
    lab.connect(Faint::Never);
    lab.until(|line| line.state == IncidentState::Remediated).await;
    let told = "2 known vulnerabilities (1 critical, 1 high, 2 fixable): CVE-2021-44228, CVE-2014-0160";
    let told = [format!("image shop:1 ({DIGEST}): {told}")];
    let (known, missing) = image_of(&lab, "pay/one").await;
    assert_eq!(known, told, "no further finding came");
    assert!(!missing.contains(&"vulnerabilities of shop:1".to_owned()), "{missing:?}");

    let mut lab = lab.restart_with(|config| config.pods = Some(pods)).await;
    scanning.await.unwrap();
    lab.spool(Report::Finding(found_in(2, "rule-other", "two")));
    lab.spool(Report::Finding(found_in(3, "rule-other", "other")));
    lab.connect(Faint::Never);
    let (known, missing) = image_of(&lab, "pay/two").await;
    assert_eq!(known, told);
    assert!(!missing.contains(&"vulnerabilities of shop:1".to_owned()), "{missing:?}");
    let (known, missing) = image_of(&lab, "pay/other").await;
    assert_eq!(known, [] as [String; 0], "another image of the same name");
    assert!(missing.contains(&"vulnerabilities of shop:1".to_owned()), "{missing:?}");
    lab.stop().await;
}
