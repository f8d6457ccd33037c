//! Definitions of another version than the controller.

use serde_json::json;

use crate::{
    node::miner,
    playbook,
    scene::{HOME, Scene, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_definition_that_drops_a_field_is_named_and_what_contains_is_done_all_the_same() {
    let Some(scene) = Scene::new() else { return };
    let findings = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/findings";
    let older = json!([{"op": "remove", "path": findings}]).to_string();
    let words = ["patch", "crd", "incidents.hemostat.dev", "--type=json", "-p", &older];
    scene.server.kubectl_as("admin", &words, None).unwrap();
    scene.apply(&playbook("Auto"));
    let process = scene.start("one");
    let node = scene.node(&process, "n1").await;
    scene.wait(&["playbook", "miner"], |it| it["status"]["conditions"][0]["status"] == "True");
    node.tell(miner("n1", 41));
    until("two effects", || node.effects().len() >= 2).await;
    scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["state"] == "NeedsApproval");
    let told = || process.ask("/readyz").unwrap_or_default();
    until("health names the field and what to do", || {
        let told = told();
        told.contains("Incident is older than this controller and drops status.findings: apply deploy/crds")
    })
    .await;
    assert!(told().starts_with("serving"), "no reason to take agents away: {}", told());
    node.close().await;
    process.stop();
}
