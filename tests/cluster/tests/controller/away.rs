//! The API server is away, the controller is killed, another one leads: nothing is lost and nothing is done twice.

use std::time::Duration;

use crate::{
    node::miner,
    playbook,
    scene::{HOME, Scene, all_undone, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_away_attacks_are_contained_and_it_is_told_of_them_when_it_is_back() {
    let Some(scene) = Scene::new() else { return };
    let (process, node) = scene.opens(&playbook("Auto")).await;
    node.tell(miner("n1", 41));
    scene.wait(&["ract", "-n", HOME], |it| it["items"].as_array().is_some_and(|all| all.len() == 2));
    scene.server.stun();
    // Longer than the lease holds.
    tokio::time::sleep(Duration::from_secs(20)).await;
    // Fewer than make the gate ask whether it is a migration.
    for pid in 50..58 {
        node.tell(miner("n1", pid));
    }
    until("all are contained", || node.effects().iter().filter(|one| one.starts_with("apply")).count() >= 18)
        .await;
    assert_eq!(process.readiness().as_deref(), Some("serving"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    scene.server.wake();
    scene.wait(&["ract", "-n", HOME], |it| {
        it["items"]
            .as_array()
            .is_some_and(|all| all.len() == 18 && all.iter().all(|one| one["status"]["state"] == "Verified"))
    });
    let incidents =
        scene.wait(&["inc", "-n", HOME], |it| it["items"].as_array().is_some_and(|all| all.len() == 9));
    assert!(
        incidents["items"].as_array().unwrap().iter().all(|one| one["status"]["state"] == "NeedsApproval")
    );
    let effects = node.effects();
    let distinct: std::collections::BTreeSet<&String> = effects.iter().collect();
    assert_eq!(distinct.len(), effects.len(), "nothing twice");
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_followed_by_the_other_which_goes_on_where_it_was() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(&playbook("Auto"));
    let mut first = scene.start("shared");
    let second = scene.spawn("second", "shared");
    until("it stands by", || second.readiness().as_deref() == Some("standing by")).await;
    let node = scene.node(&first, "n1").await;
    scene.accepted();
    node.tell(miner("n1", 41));
    let asked = scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Pending");
    let name = asked["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    first.kill();
    let mut second = second;
    second.wait_to_serve();
    let effects = node.effects();
    node.close().await;
    // The same node, at the other one's door, with the token that it has.
    let node = scene.node(&second, "n1").await;
    let patch = serde_json::json!({"spec": {"decision": {"answer": "Approve", "by": "ada"}}}).to_string();
    scene
        .server
        .kubectl_as("ada", &["patch", "-n", HOME, "approval", &name, "--type=merge", "-p", &patch], None)
        .unwrap();
    until("the kill", || node.effects().iter().any(|one| one.starts_with("apply node.kill"))).await;
    assert_eq!(
        node.effects().len(),
        1,
        "what was done is not done again: {effects:?}, then {:?}",
        node.effects()
    );
    let incidents = scene.get(&["inc", "-A"]);
    assert_eq!(incidents["items"].as_array().unwrap().len(), 1, "the same incident");
    let lease = scene.get(&["lease", "hemostat-controller", "-n", HOME]);
    assert_eq!(lease["spec"]["holderIdentity"], "second");
    // Asked to stop, it gives the lease back at once.
    second.stop();
    let lease = scene.get(&["lease", "hemostat-controller", "-n", HOME]);
    assert!(lease["spec"]["holderIdentity"].is_null(), "{lease:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_of_a_lost_journal_are_taken_over_and_can_still_be_undone() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(&playbook("Auto"));
    let mut first = scene.start("lost");
    let node = scene.node(&first, "n1").await;
    scene.accepted();
    node.tell(miner("n1", 41));
    scene.wait(&["ract", "-n", HOME], |it| {
        it["items"]
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["status"]["state"] == "Verified"))
    });
    first.kill();
    node.close().await;
    // Another volume: nothing of the journal is there.
    let second = scene.start("fresh");
    let node = scene.node(&second, "n1").await;
    let taken = scene.wait(&["ract", "-n", HOME], |it| {
        it["items"].as_array().is_some_and(|all| {
            all.iter()
                .all(|one| one["status"]["detail"].as_str().is_some_and(|said| said.contains("taken over")))
        })
    });
    assert!(!taken.to_string().contains("Orphaned"), "{taken:#}");
    for action in taken["items"].as_array().unwrap() {
        let name = action["metadata"]["name"].as_str().unwrap();
        scene.undo(HOME, name, "after the loss");
    }
    until("both undone", || node.effects().iter().filter(|one| one.starts_with("revert")).count() == 2).await;
    scene.wait(&["ract", "-n", HOME], all_undone);
    node.close().await;
    second.stop();
}
