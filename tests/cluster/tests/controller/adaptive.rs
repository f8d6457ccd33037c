//! An adaptive run on a real API server, by the playbook that is shipped: the pod is isolated, the shell is back all the same, and the
//! declared alternative comes in addition; all of it is undone in the end.

use hemostat_cluster_tests::api_server::repository;
use model::{Activity, EventId, FindingId, Level, NodeId, Pid, ProcessKey, Report, Seq, Workload};
use serde_json::Value;

use crate::{
    node::miner_in_pod,
    scene::{HOME, Scene, until},
};

const PLAYBOOK: &str = "reverse-shell-in-pod";

/// A shell in a container of a pod, found by `rule`.
fn shell(pid: u32, (uid, container): (&str, &str), rule: (&str, Level), techniques: &[&str]) -> Report {
    let Report::Finding(mut finding) = miner_in_pod("n1", pid, uid) else {
        unreachable!("a miner is a finding")
    };
    let id = EventId { seq: Seq(u64::from(pid)), ..finding.event.id.clone() };
    finding.id = FindingId::derive(&id, rule.0);
    finding.event.id = id;
    (finding.rule.id, finding.rule.title, finding.rule.level) = (rule.0.into(), "A shell".into(), rule.1);
    finding.rule.techniques = techniques.iter().map(|one| (*one).to_owned()).collect();
    let mut process = (*finding.event.process).clone();
    process.exe = "/bin/bash".into();
    process.command_line = "bash -i".into();
    process.key = ProcessKey { pid: Pid(pid), ..process.key };
    if let Workload::Container { runtime, .. } = (*process.workload).clone() {
        let (container_id, cgroup_path) = (container.repeat(64), format!("/kubepods/pod{uid}/{container}"));
        let pod_uid = Some(uid.to_owned());
        process.workload =
            std::sync::Arc::new(Workload::Container { runtime, container_id, pod_uid, cgroup_path });
    }
    finding.event.process = std::sync::Arc::new(process);
    finding.event.activity = Activity::Exec { requested: "/bin/bash".into() };
    finding.event.id.node = NodeId::new("n1");
    Report::Finding(finding)
}

/// State and target of each action of a step, in the order of what they were tried.
fn ways(it: &Value, step: &str) -> Vec<(String, String)> {
    let all = it["items"].as_array().cloned().unwrap_or_default();
    let mut of_step: Vec<&Value> = all.iter().filter(|one| one["spec"]["plan"]["step"] == step).collect();
    of_step.sort_by_key(|one| one["spec"]["plan"]["action"].as_str().unwrap_or_default().to_owned());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_step.iter().map(|one| (text(&one["spec"]["plan"]["action"]), text(&one["status"]["state"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_that_is_back_after_the_isolation_of_its_pod_has_its_container_frozen_and_all_is_undone() {
    let Some(scene) = Scene::new() else { return };
    scene.grant("cluster.isolate-pod");
    scene.kubectl(&[
        "apply",
        "--server-side",
        "-f",
        &repository(&format!("playbooks/kubernetes/{PLAYBOOK}.yaml")),
    ]);
    let process = scene.start("one");
    let node = scene.node(&process, "n1").await;
    let uid = scene.pod_in("pay", "c");
    let before = scene.labels();
    scene.wait(&["playbook", PLAYBOOK], |it| it["status"]["mode"] == "Auto");
    let socket = ("rule-shell", Level::Critical);
    node.tell(shell(41, (&uid, "c"), socket, &["T1059.004"]));
    scene.wait(&["ract", "-n", "pay"], |it| {
        ways(it, "isolate") == [("cluster.isolate-pod".to_owned(), "Verified".to_owned())]
    });
    let policies = || scene.get(&["networkpolicies", "-n", "pay"])["items"].as_array().map_or(0, Vec::len);
    assert_eq!(policies(), 1, "the second wall stands");
    let frozen = || node.effects().iter().filter(|one| one.starts_with("apply node.freeze")).count();
    assert_eq!(frozen(), 1, "the shell, and no more: {:?}", node.effects());

    // A weak rule, which no playbook answers, sees the same program started in the same pod.
    node.tell(shell(77, (&uid, "c"), ("rule-shell-in-container", Level::Low), &[]));
    let held = scene.wait(&["ract", "-n", "pay"], |it| {
        let verified = |action: &str| (action.to_owned(), "Verified".to_owned());
        ways(it, "isolate") == [verified("cluster.isolate-pod"), verified("node.freeze")]
    });
    let all = held["items"].as_array().unwrap();
    let whole = all.iter().find(|one| {
        one["spec"]["plan"]["step"] == "isolate" && one["spec"]["plan"]["action"] == "node.freeze"
    });
    let target = &whole.unwrap()["spec"]["plan"]["target"];
    assert_eq!(target["cgroup"]["path"], format!("/kubepods/pod{uid}/c"), "{target:#}");
    assert_eq!((frozen(), policies()), (2, 1), "in addition to what holds already");
    // Why stands in the audit log.
    let log = std::fs::read_to_string(scene.folder.path().join("one/audit/audit.jsonl")).unwrap();
    assert_eq!(log.matches("observed (Return): pid 77 (/bin/bash) was started").count(), 1, "{log}");
    assert!(log.contains("the attack goes on (Return)") && log.contains("alternative 1 is tried"), "{log}");

    // A false alarm: everything comes back as it was.
    let incident =
        scene.get(&["inc", "-n", "pay"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    scene.false_positive("pay", &incident);
    scene.wait(&["inc", &incident, "-n", "pay"], |it| it["status"]["state"] == "RolledBack");
    assert_eq!(scene.labels(), before);
    assert_eq!(policies(), 0);
    let count = |verb: &str, action: &str| {
        node.effects().iter().filter(|one| one.starts_with(&format!("{verb} {action}"))).count()
    };
    until("the node lets go", || {
        count("revert", "node.freeze") == 2 && count("revert", "node.net-quarantine") == 1
    })
    .await;
    let left = scene.get(&["ract", "-n", "pay"]);
    for one in left["items"].as_array().unwrap() {
        assert!(one["metadata"]["finalizers"].is_null(), "nothing is orphaned in {HOME} or pay: {one:#}");
    }
    node.close().await;
    process.stop();
}
