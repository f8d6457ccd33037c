//! Two controllers with journals of their own and nothing shared but the API server: one acts, and when it is lost the other takes over what
//! it did and undoes it exactly.

use serde_json::{Value, json};

use crate::{
    FREEZE,
    answers::decide,
    node::{Node, miner, miner_in_pod},
    scene::{HOME, Process, SERVICE, Scene, all_undone, until},
    steps,
};

const MARK: &str = "name: mark, action: cluster.label, target: {kind: Pod}, with: {labels: [quarantine=here]}, needs: [freeze]";

/// The playbook, and the rights that the chart gives where `cluster.label` is enabled.
fn may_label(scene: &Scene) {
    scene.grant("cluster.label");
    scene.apply(&steps(&[FREEZE, MARK]));
}

fn action(it: &Value, name: &str) -> Option<Value> {
    let all = it["items"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["spec"]["plan"]["action"] == name)
}

fn state(it: &Value, name: &str) -> String {
    action(it, name)
        .map(|one| one["status"]["state"].as_str().unwrap_or_default().to_owned())
        .unwrap_or_default()
}

fn secrets(scene: &Scene) -> Vec<String> {
    let all = scene.get(&["secret", "-n", HOME, "-l", "hemostat.dev/capture=true"]);
    let all = all["items"].as_array().unwrap();
    all.iter().map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Another controller that stands by, and a node of the first one with a miner in its pod, whose labels were these.
async fn attacked(scene: &Scene, first: &Process) -> (Process, Node, Value) {
    let second = standby(scene).await;
    let node = scene.node(first, "n1").await;
    scene.accepted();
    let uid = scene.pod_in("pay", "c");
    let before = scene.labels();
    node.tell(miner_in_pod("n1", 41, &uid));
    (second, node, before)
}

/// The one that stands by is ready, too, and gets nobody sent.
fn sends_agents_to(scene: &Scene, leader: &str) {
    let slice = scene.wait(&["endpointslice", &format!("{SERVICE}-leader"), "-n", HOME], |it| {
        it["endpoints"][0]["targetRef"]["name"] == leader
    });
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], SERVICE);
    assert_eq!(slice["endpoints"].as_array().unwrap().len(), 1, "{slice:#}");
    assert_eq!(slice["ports"][0]["name"], "agents");
}

async fn standby(scene: &Scene) -> Process {
    let second = scene.spawn("second", "b");
    until("it stands by", || second.readiness().as_deref() == Some("standing by")).await;
    second
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_what_a_lost_leader_did_in_the_api_server_is_taken_over_by_one_with_an_empty_journal_and_undone_exactly()
 {
    let Some(scene) = Scene::new() else { return };
    may_label(&scene);
    let mut first = scene.start("a");
    let (mut second, node, before) = attacked(&scene, &first).await;
    scene.wait(&["ract", "-n", "pay"], |it| {
        state(it, "cluster.label") == "Verified" && state(it, "node.freeze") == "Verified"
    });
    assert_eq!(scene.labels()["quarantine"], "here");
    assert_eq!(second.readiness().as_deref(), Some("standing by"), "one acts");
    assert_eq!(node.effects().len(), 1, "{:?}", node.effects());
    // What the undos need stands in the API server, and cannot be changed there; what is shown of it is its digest.
    let kept = secrets(&scene);
    assert_eq!(kept.len(), 2, "{kept:?}");
    let shown = action(&scene.get(&["ract", "-n", "pay"]), "cluster.label").unwrap();
    assert!(shown["status"]["capture"]["here"].is_null(), "{shown:#}");
    let stored = shown["status"]["capture"]["stored"].as_str().unwrap().strip_prefix("secret/").unwrap();
    assert!(kept.iter().any(|name| name == stored), "{stored}: {kept:?}");
    let patch = r#"{"stringData": {"captured.json": "{}"}}"#;
    let changed = scene.server.kubectl(&["patch", "secret", stored, "-n", HOME, "--type=merge", "-p", patch]);
    assert!(changed.unwrap_err().contains("immutable"));
    let incidents = scene.get(&["inc", "-A"]);
    sends_agents_to(&scene, "a");
    first.kill();
    second.wait_to_serve();
    sends_agents_to(&scene, "second");
    let effects = node.effects();
    node.close().await;
    let node = scene.node_again(&second, effects).await;
    // Taken over, into the same incident: nothing is orphaned, and nothing is done again.
    let lease = scene.get(&["lease", "hemostat-controller", "-n", HOME]);
    assert_eq!(lease["spec"]["holderIdentity"], "second");
    scene.wait(&["inc", "-A"], |it| it["items"][0]["status"]["summary"]["actions"] == "2/2");
    let now = scene.get(&["inc", "-A"]);
    assert_eq!(now["items"].as_array().unwrap().len(), 1);
    assert_eq!(now["items"][0]["metadata"]["uid"], incidents["items"][0]["metadata"]["uid"]);
    assert_eq!(now["items"][0]["status"]["rules"], incidents["items"][0]["status"]["rules"]);
    assert_eq!(scene.labels()["quarantine"], "here", "it holds on");
    assert!(!scene.get(&["ract", "-A"]).to_string().contains("Orphaned"));
    let name = now["items"][0]["metadata"]["name"].as_str().unwrap();
    scene.false_positive("pay", name);
    let over = scene.wait(&["ract", "-n", "pay"], all_undone);
    assert_eq!(over["items"].as_array().unwrap().len(), 2, "{over:#}");
    assert_eq!(scene.labels(), before, "exactly as before");
    assert_eq!(node.effects().iter().filter(|one| one.starts_with("revert")).count(), 1);
    until("nothing is kept of what is over", || secrets(&scene).is_empty()).await;
    node.close().await;
    second.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_leader_killed_in_the_middle_of_a_cluster_action_leaves_nothing_half_done() {
    let Some(scene) = Scene::new() else { return };
    may_label(&scene);
    let mut first = scene.spawn_to_die("first", "a", "-mark");
    first.wait_to_serve();
    let (mut second, node, before) = attacked(&scene, &first).await;
    // Between what is written down and the command.
    first.wait_for_death();
    assert_eq!(state(&scene.get(&["ract", "-n", "pay"]), "cluster.label"), "Applying");
    assert_eq!(secrets(&scene).len(), 2);
    second.wait_to_serve();
    let effects = node.effects();
    node.close().await;
    let node = scene.node_again(&second, effects).await;
    // Nobody knows how far it had come: it is looked at, and what is not wholly there is undone exactly.
    let over = scene.wait(&["ract", "-n", "pay"], |it| state(it, "cluster.label") == "Failed");
    assert!(
        action(&over, "cluster.label").unwrap()["status"]["detail"].as_str().unwrap().contains("not there")
    );
    assert_eq!(scene.labels(), before);
    // What holds the attack on the node holds on, in the same incident.
    scene.wait(&["inc", "-A"], |it| {
        it["items"][0]["status"]["summary"]["actions"].as_str().is_some_and(|n| n.starts_with("1/"))
    });
    scene.wait(&["ract", "-n", "pay"], |it| state(it, "node.freeze") == "Verified");
    assert!(!scene.get(&["ract", "-A"]).to_string().contains("Orphaned"));
    until("one is kept", || secrets(&scene).len() == 1).await;
    node.close().await;
    second.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_what_was_acknowledged_by_a_leader_that_is_lost_with_its_journal_is_heard_by_the_next() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(&crate::playbook("Approve"));
    let mut first = scene.start("a");
    let mut second = standby(&scene).await;
    let node = scene.node(&first, "n1").await;
    scene.accepted();
    node.tell(miner("n1", 41));
    node.tell(miner("n1", 42));
    let asked = |it: &Value| {
        let all = it["items"].as_array().cloned().unwrap_or_default();
        all.len() == 2 && all.iter().all(|one| one["status"]["state"] == "Pending")
    };
    let questions = scene.wait(&["appr", "-n", HOME], asked);
    // One is over before it is lost, and stays so.
    let name = |at: usize| questions["items"][at]["metadata"]["name"].as_str().unwrap().to_owned();
    decide(&scene, "bob", &name(0), "Deny").unwrap();
    scene.wait(&["appr", &name(0), "-n", HOME], |it| it["status"]["state"] == "Denied");
    until("both are acknowledged", || node.is_told()).await;
    let kept = scene.get(&["secret", "-n", HOME, "-l", "hemostat.dev/reports=true"]);
    assert_eq!(kept["items"].as_array().unwrap().len(), 1, "what came within the hour is added to one");
    let incidents = scene.get(&["inc", "-n", HOME]);
    first.kill();
    second.wait_to_serve();
    node.close().await;
    // Its spool is empty: it tells nothing again.
    let node = scene.node_again(&second, Vec::new()).await;
    // What nobody answered is asked again, in a question of its own: a yes to the first one would be a yes to what is gone.
    let waits = |it: &Value| {
        let all = it["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["status"]["state"] == "Pending")
    };
    let asked = scene.wait(&["appr", "-n", HOME], |it| {
        waits(it).is_some_and(|one| one["metadata"]["name"] != name(1).as_str())
    });
    let question = waits(&asked).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    decide(&scene, "ada", &question, "Approve").unwrap();
    until("the node does it", || node.effects().iter().any(|one| one.starts_with("apply node.freeze"))).await;
    scene.wait(&["appr", &question, "-n", HOME], |it| it["status"]["state"] == "Approved");
    let now = scene.get(&["inc", "-n", HOME]);
    let of = |it: &Value| {
        let all = it["items"].as_array().cloned().unwrap_or_default();
        all.iter()
            .map(|one| (one["metadata"]["uid"].clone(), one["status"]["findings"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&now), of(&incidents), "the same two, with what they had");
    assert_eq!(
        state(&scene.get(&["ract", "-n", HOME]), "node.kill"),
        "",
        "a yes to the run is none to its kill"
    );
    let frozen = node.effects().iter().filter(|one| one.starts_with("apply node.freeze")).count();
    assert_eq!(frozen, 1, "what somebody refused is not done: {:?}", node.effects());
    node.close().await;
    second.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_somebody_made_up_in_a_status_is_not_believed() {
    let Some(scene) = Scene::new() else { return };
    let process = scene.start("a");
    let node = scene.node(&process, "n1").await;
    let captured =
        json!({"of": "network", "pins": "node.net-quarantine", "cgroup": "/somebody-else"}).to_string();
    let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponseAction",
        "metadata": {"name": "act-made-up", "namespace": "pay", "finalizers": ["hemostat.dev/revert"],
            "annotations": {"hemostat.dev/action": "act-made-up"}},
        "spec": {"plan": {"action": "node.net-quarantine", "target": {"cgroup": {"id": 7, "path": "/x"}}, "node": "n1",
            "undo": {"class": "Exact"}, "radius": "Workload", "key": "n1/act-made-up", "deadline": "2027-01-01T00:00:00Z"}}});
    scene.apply(&object.to_string());
    let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let status = json!({"status": {"state": "Verified", "capture": {"at": "2026-01-01T00:00:00Z", "digest": digest, "here": captured}}});
    let words = [
        "patch",
        "-n",
        "pay",
        "ract",
        "act-made-up",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ];
    scene.kubectl(&words);
    let flagged = scene.wait(&["ract", "act-made-up", "-n", "pay"], |it| {
        it["status"]["conditions"].to_string().contains("Orphaned")
    });
    assert!(flagged["status"]["conditions"].to_string().contains("there is no Secret"), "{flagged:#}");
    scene.undo("pay", "act-made-up", "let it go");
    // Another action goes its way meanwhile, so that the controller has looked at both.
    scene.apply(&crate::playbook("Auto"));
    scene.accepted();
    node.tell(miner("n1", 41));
    scene.wait(&["ract", "-n", HOME], |it| state(it, "node.freeze") == "Verified");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(!node.effects().iter().any(|one| one.contains("act-made-up")), "{:?}", node.effects());
    node.close().await;
    process.stop();
}
