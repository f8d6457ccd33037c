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
    let (process, node) = scene.opens(&playbook("Auto")).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_a_newer_version_are_named_and_left_as_they_are_and_hide_no_others() {
    let Some(scene) = Scene::new() else { return };
    let state = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/state/enum/-";
    let newer = json!([{"op": "add", "path": state, "value": "Postponed"}]).to_string();
    let words = ["patch", "crd", "approvals.hemostat.dev", "--type=json", "-p", &newer];
    scene.server.kubectl_as("admin", &words, None).unwrap();
    let request = json!({"incident": "inc-of-tomorrow", "run": "run-1", "playbook": "p", "action": "run", "would": "x", "because": "x",
        "requestedBy": "controller", "expires": "2030-01-01T00:00:00Z"});
    let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "Approval", "spec": {"request": request},
        "metadata": {"name": "appr-of-tomorrow", "namespace": HOME, "labels": {"hemostat.dev/incident": "inc-of-tomorrow"}}});
    scene.apply(&object.to_string());
    let status = json!({"status": {"state": "Postponed"}}).to_string();
    let words = [
        "patch",
        "-n",
        HOME,
        "appr",
        "appr-of-tomorrow",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    // The API server takes the new word a moment after it has the definition.
    until("the newer state is taken", || scene.server.kubectl(&words).is_ok()).await;
    let (process, node) = scene.opens(&playbook("Auto")).await;
    node.tell(miner("n1", 41));
    scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["state"] == "NeedsApproval");
    until("health names it", || {
        let told = process.ask("/readyz").unwrap_or_default();
        told.contains(
            "1 of kind Approval cannot be read by this version and are left as they are: appr-of-tomorrow",
        )
    })
    .await;
    let left = scene.get(&["appr", "appr-of-tomorrow", "-n", HOME]);
    assert_eq!(left["status"]["state"], "Postponed", "{left:#}");
    node.close().await;
    process.stop();
}
