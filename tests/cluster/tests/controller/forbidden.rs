//! Rights that the controller does not have, or has no more: what needs them fails with the reason in its status, what contains without them
//! holds, and an undo waits for them instead of being given up.

use serde_json::{Value, json};

use crate::{
    adaptive::grant,
    node::miner_in_pod,
    scene::{Scene, until},
    takeover::pod_in,
};

const PLAYBOOK: &str = "apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata: {name: miner}
spec:
  mode: Auto
  trigger: {rules: [rule-miner]}
  steps:
    - {name: freeze, action: node.freeze, target: {kind: Process}, timeout: 30s}
    - {name: mark, action: cluster.label, target: {kind: Pod}, with: {labels: [quarantine=here]}, timeout: 30s, onFailure: Continue}
";

fn of(it: &Value, action: &str) -> Value {
    let all = it["items"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["spec"]["plan"]["action"] == action).unwrap_or_default()
}

fn labels(scene: &Scene) -> Value {
    scene.get(&["pod", "api-0", "-n", "pay"])["metadata"]["labels"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_without_its_right_fails_with_the_reason_and_the_others_hold() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(PLAYBOOK);
    let process = scene.start("one");
    let node = scene.node(&process, "n1").await;
    let uid = pod_in(&scene, "pay", "c");
    let before = labels(&scene);
    scene.wait(&["playbook", "miner"], |it| it["status"]["mode"] == "Auto");
    node.tell(miner_in_pod("n1", 41, &uid));
    let all = scene.wait(&["ract", "-n", "pay"], |it| of(it, "cluster.label")["status"]["state"] == "Failed");
    let failed = of(&all, "cluster.label");
    let detail = failed["status"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("cannot patch resource \"pods\""), "{failed:#}");
    assert!(failed["metadata"]["finalizers"].is_null(), "nothing of it is in force: {failed:#}");
    scene.wait(&["ract", "-n", "pay"], |it| of(it, "node.freeze")["status"]["state"] == "Verified");
    assert_eq!(labels(&scene), before);
    // Told on the pod that it is about, too.
    let events = scene.wait(&["events", "-n", "pay"], |it| {
        it["items"].as_array().is_some_and(|all| all.iter().any(|one| one["involvedObject"]["kind"] == "Pod"))
    });
    assert!(events.to_string().contains("\"uid\":\"{uid}\"".replace("{uid}", &uid).as_str()), "{events:#}");
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_an_undo_whose_right_was_taken_away_says_so_and_is_done_exactly_once_it_is_back() {
    let Some(scene) = Scene::new() else { return };
    grant(&scene, "cluster.label");
    scene.apply(PLAYBOOK);
    let process = scene.start("one");
    let node = scene.node(&process, "n1").await;
    let uid = pod_in(&scene, "pay", "c");
    let before = labels(&scene);
    scene.wait(&["playbook", "miner"], |it| it["status"]["mode"] == "Auto");
    node.tell(miner_in_pod("n1", 41, &uid));
    scene.wait(&["ract", "-n", "pay"], |it| of(it, "cluster.label")["status"]["state"] == "Verified");
    assert_eq!(labels(&scene)["quarantine"], "here");
    scene.kubectl(&["delete", "clusterrolebinding", "cluster-label"]);
    let incident =
        scene.get(&["inc", "-n", "pay"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let verdict =
        json!({"spec": {"verdict": {"is": "FalsePositive", "by": "ada", "reason": "a drill"}}}).to_string();
    let patch = |what: &str, patch: &str| {
        let words = ["patch", "-n", "pay", what, "--type=merge", "-p", patch];
        scene.server.kubectl_as("ada", &words, None).unwrap();
    };
    patch(&format!("inc/{incident}"), &verdict);
    let all = scene
        .wait(&["ract", "-n", "pay"], |it| of(it, "cluster.label")["status"]["state"] == "RevertBlocked");
    let blocked = of(&all, "cluster.label");
    let detail = blocked["status"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("cannot patch resource \"pods\""), "{blocked:#}");
    assert_eq!(blocked["metadata"]["finalizers"][0], "hemostat.dev/revert", "it is not given up");
    assert_eq!(labels(&scene)["quarantine"], "here");
    // What the node holds is undone all the same.
    until("the node lets go", || node.effects().iter().any(|one| one.starts_with("revert node.freeze")))
        .await;
    scene.wait(&["inc", &incident, "-n", "pay"], |it| it["status"]["summary"]["needs"] == "Drift");

    grant(&scene, "cluster.label");
    let name = blocked["metadata"]["name"].as_str().unwrap();
    let end =
        json!({"spec": {"end": {"how": "Revert", "by": "ada", "reason": "the right is back"}}}).to_string();
    patch(&format!("ract/{name}"), &end);
    let over = scene.wait(&["ract", name, "-n", "pay"], |it| it["status"]["state"] == "Reverted");
    assert!(over["metadata"]["finalizers"].is_null(), "{over:#}");
    assert_eq!(labels(&scene), before, "exactly as before");
    node.close().await;
    process.stop();
}
