//! Rights that the controller does not have, or has no more: what needs them fails with the reason in its status, what contains without them
//! holds, and an undo waits for them instead of being given up.

use serde_json::Value;

use crate::{
    FREEZE,
    node::miner_in_pod,
    scene::{HOME, Scene, until},
    steps,
};

const MARK: &str = "name: mark, action: cluster.label, target: {kind: Pod}, with: {labels: [quarantine=here]}, onFailure: Continue";

fn of(it: &Value, action: &str) -> Value {
    let all = it["items"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["spec"]["plan"]["action"] == action).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_without_its_right_fails_with_the_reason_and_the_others_hold() {
    let Some(scene) = Scene::new() else { return };
    let (process, node, uid) = scene.opens_with_pod(&steps(&[FREEZE, MARK])).await;
    let before = scene.labels();
    node.tell(miner_in_pod("n1", 41, &uid));
    let all = scene.wait(&["ract", "-n", "pay"], |it| of(it, "cluster.label")["status"]["state"] == "Failed");
    let failed = of(&all, "cluster.label");
    let detail = failed["status"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("cannot patch resource \"pods\""), "{failed:#}");
    assert!(failed["metadata"]["finalizers"].is_null(), "nothing of it is in force: {failed:#}");
    scene.wait(&["ract", "-n", "pay"], |it| of(it, "node.freeze")["status"]["state"] == "Verified");
    assert_eq!(scene.labels(), before);
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
    scene.grant("cluster.label");
    let (process, node, uid) = scene.opens_with_pod(&steps(&[FREEZE, MARK])).await;
    let before = scene.labels();
    node.tell(miner_in_pod("n1", 41, &uid));
    scene.wait(&["ract", "-n", "pay"], |it| of(it, "cluster.label")["status"]["state"] == "Verified");
    assert_eq!(scene.labels()["quarantine"], "here");
    scene.kubectl(&["delete", "clusterrolebinding", "cluster-label"]);
    let incident =
        scene.get(&["inc", "-n", "pay"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    scene.false_positive("pay", &incident);
    let all = scene
        .wait(&["ract", "-n", "pay"], |it| of(it, "cluster.label")["status"]["state"] == "RevertBlocked");
    let blocked = of(&all, "cluster.label");
    let detail = blocked["status"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("cannot patch resource \"pods\""), "{blocked:#}");
    assert_eq!(blocked["metadata"]["finalizers"][0], "hemostat.dev/revert", "it is not given up");
    assert_eq!(scene.labels()["quarantine"], "here");
    // What the node holds is undone all the same.
    until("the node lets go", || node.effects().iter().any(|one| one.starts_with("revert node.freeze")))
        .await;
    scene.wait(&["inc", &incident, "-n", "pay"], |it| it["status"]["summary"]["needs"] == "Drift");

    scene.grant("cluster.label");
    let name = blocked["metadata"]["name"].as_str().unwrap();
    scene.undo("pay", name, "the right is back");
    let over = scene.wait(&["ract", name, "-n", "pay"], |it| it["status"]["state"] == "Reverted");
    assert!(over["metadata"]["finalizers"].is_null(), "{over:#}");
    assert_eq!(scene.labels(), before, "exactly as before");
    node.close().await;
    process.stop();
}

/// Takes a resource out of the rules of a role of the controller: what they were.
fn withheld(scene: &Scene, role: &[&str], resource: &str) -> Value {
    let before = scene.get(role)["rules"].clone();
    let mut rules = before.clone();
    for rule in rules.as_array_mut().into_iter().flatten() {
        if let Some(names) = rule["resources"].as_array_mut() {
            names.retain(|name| name != resource);
        }
    }
    let is_left = |rule: &Value| rule["resources"].as_array().is_none_or(|all| !all.is_empty());
    rules.as_array_mut().unwrap().retain(is_left);
    assert_ne!(rules, before, "{resource} is in no rule");
    give(scene, role, &rules);
    before
}

fn give(scene: &Scene, role: &[&str], rules: &Value) {
    let patch = serde_json::json!({ "rules": rules }).to_string();
    scene.kubectl(&[&["patch"], role, &["--type=merge", "-p", &patch]].concat());
}

/// What holds everywhere, and what in Hemostat's own namespace.
const EVERYWHERE: [&str; 2] = ["clusterrole", "c"];
const AT_HOME: [&str; 4] = ["role", "c", "-n", HOME];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_controller_may_not_read_is_named_in_its_health_and_read_once_it_may() {
    let Some(scene) = Scene::new() else { return };
    let rules = withheld(&scene, &EVERYWHERE, "pods");
    let (process, node) = scene.opens(&steps(&[FREEZE])).await;
    let told = || process.ask("/readyz").unwrap_or_default();
    let blind = "reading: the API server does not tell of Pod: pods is forbidden: User \"controller\" cannot list resource \"pods\"";
    until("health names the right", || told().contains(blind)).await;
    until("it serves: what is in no pod is answered", || told().starts_with("serving")).await;
    let uid = scene.pod_in("pay", "c");
    give(&scene, &EVERYWHERE, &rules);
    until("pods are known again", || !told().contains("reading:")).await;
    node.tell(miner_in_pod("n1", 41, &uid));
    scene.wait(&["inc", "-n", "pay"], |it| it["items"].as_array().is_some_and(|all| all.len() == 1));
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_may_not_read_playbooks_says_so_and_serves_once_it_may() {
    let Some(scene) = Scene::new() else { return };
    let rules = withheld(&scene, &EVERYWHERE, "playbooks");
    let process = scene.spawn("one", "one");
    let told = || process.ask("/readyz").unwrap_or_default();
    until("it says which right", || {
        told().starts_with("loading")
            && told().contains(
                "reading: the API server does not tell of Playbook: playbooks.hemostat.dev is forbidden",
            )
    })
    .await;
    give(&scene, &EVERYWHERE, &rules);
    until("it serves", || told() == "serving\n").await;
    process.stop();
}

/// I4: what an undo needs cannot be kept, so nothing is done that would need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_without_the_right_to_keep_what_was_captured_nothing_is_changed_and_the_reason_is_told() {
    let Some(scene) = Scene::new() else { return };
    scene.grant("cluster.label");
    let (process, node, uid) = scene.opens_with_pod(&steps(&[MARK])).await;
    let before = scene.labels();
    let rules = withheld(&scene, &AT_HOME, "secrets");
    let may = ["auth", "can-i", "create", "secrets", "-n", HOME, "--as=controller", "--as-group=controllers"];
    until("the right is gone", || scene.server.kubectl(&may).is_err()).await;
    node.tell(miner_in_pod("n1", 41, &uid));
    let all = scene.wait(&["ract", "-n", "pay"], |it| of(it, "cluster.label")["status"]["state"] == "Failed");
    let failed = of(&all, "cluster.label");
    let detail = failed["status"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("cannot create resource \"secrets\""), "{failed:#}");
    assert!(failed["metadata"]["finalizers"].is_null(), "nothing of it is in force: {failed:#}");
    assert_eq!(scene.labels(), before);
    // Nor is what nodes report kept any more, for a leader that begins with an empty journal.
    let told = || process.ask("/readyz").unwrap_or_default();
    until("health says so", || told().contains("\nreports: ")).await;
    give(&scene, &AT_HOME, &rules);
    until("it is kept again", || {
        node.tell(miner_in_pod("n1", 42, &uid));
        !told().contains("\nreports: ")
    })
    .await;
    node.close().await;
    process.stop();
}
