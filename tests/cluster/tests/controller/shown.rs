//! A finding becomes objects, and a table for triage.

use crate::{
    node::miner,
    playbook,
    scene::{HOME, Scene, all_undone, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_is_seen_with_kubectl_its_actions_are_journalled_before_their_effect_and_a_false_positive_undoes_them()
 {
    let Some(scene) = Scene::new() else { return };
    let (process, node) = scene.opens(&playbook("Auto")).await;
    node.tell(miner("n1", 41));
    until("two effects", || node.effects().len() >= 2).await;
    let actions = scene.wait(&["ract", "-n", HOME], |it| {
        it["items"]
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["status"]["state"] == "Verified"))
    });
    for action in actions["items"].as_array().unwrap() {
        assert_eq!(action["metadata"]["finalizers"][0], "hemostat.dev/revert", "{action:#}");
        assert!(action["status"]["capture"]["here"].as_str().unwrap().contains("network"), "{action:#}");
        assert_eq!(action["spec"]["plan"]["node"], "n1");
    }
    // Asked for the third.
    let asked = scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Pending");
    assert_eq!(asked["items"][0]["spec"]["request"]["action"], "node.kill");
    assert_eq!(asked["items"][0]["spec"]["request"]["requestedBy"], "controller");
    let shown = scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["state"] == "NeedsApproval");
    let incident = &shown["items"][0];
    assert_eq!(incident["spec"]["title"], "Cryptominer");
    assert_eq!(incident["status"]["severity"], "Critical");
    let table = scene.kubectl(&["get", "incidents", "-n", HOME]);
    let wide = scene.kubectl(&["get", "incidents", "-n", HOME, "-o", "wide"]);
    assert!(
        table.lines().all(|line| line.len() <= 80) && wide.lines().all(|line| line.len() <= 200),
        "{table}{wide}"
    );
    assert!(table.contains("Critical") && table.contains("NeedsApproval"), "{table}");
    assert!(wide.contains("Approval") && wide.contains("miner") && wide.contains("2/2"), "{wide}");

    // An analyst's word undoes it all, with what was captured; the objects may go then.
    let name = incident["metadata"]["name"].as_str().unwrap();
    scene.false_positive(HOME, name);
    until("both undone", || node.effects().iter().filter(|one| one.starts_with("revert")).count() == 2).await;
    scene.wait(&["ract", "-n", HOME], all_undone);
    scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["state"] == "RolledBack");
    scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Withdrawn");
    // What happened is told with Events.
    let events =
        scene.wait(&["events", "-n", HOME], |it| it["items"].as_array().is_some_and(|all| all.len() >= 3));
    assert!(events.to_string().contains("IncidentOpened"), "{events:#}");
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_action_is_undone_and_only_then_gone_and_a_playbook_waits_for_that() {
    let Some(scene) = Scene::new() else { return };
    let (process, node) = scene.opens(&playbook("Auto")).await;
    node.tell(miner("n1", 41));
    scene.wait(&["ract", "-n", HOME], |it| {
        it["items"]
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["status"]["state"] == "Verified"))
    });
    scene.wait(&["playbook", "miner"], |it| it["metadata"]["finalizers"][0] == "hemostat.dev/revert");
    scene.kubectl(&["delete", "playbook", "miner", "--wait=false"]);
    let held = scene.wait(&["playbook", "miner"], |it| it.to_string().contains("ActionsInForce"));
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        node.effects().iter().filter(|one| one.starts_with("revert")).count(),
        0,
        "it is offered, not done"
    );
    scene.kubectl(&["delete", "ract", "--all", "-n", HOME, "--wait=false"]);
    until("both undone", || node.effects().iter().filter(|one| one.starts_with("revert")).count() == 2).await;
    scene.wait(&["ract", "-n", HOME], |it| it["items"].as_array().is_some_and(Vec::is_empty));
    scene.wait(&["playbook"], |it| it["items"].as_array().is_some_and(Vec::is_empty));
    node.close().await;
    process.stop();
}
