//! A person's yes is the person's own.

use serde_json::{Value, json};

use crate::{
    node::{Node, miner},
    playbook,
    scene::{HOME, Process, Scene, until},
};

async fn asked(scene: &Scene) -> (Process, Node, String) {
    let (process, node) = scene.opens(&playbook("Auto")).await;
    node.tell(miner("n1", 41));
    let asked = scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Pending");
    let name = asked["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    (process, node, name)
}

pub(crate) fn decide(scene: &Scene, user: &str, name: &str, answer: &str) -> Result<String, String> {
    let patch =
        json!({"spec": {"decision": {"answer": answer, "by": user, "reason": "a drill"}}}).to_string();
    scene.server.kubectl_as(
        user,
        &["patch", "-n", HOME, "approval", name, "--type=merge", "-p", &patch],
        None,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_yes_of_another_user_is_carried_out_and_the_controllers_own_is_refused() {
    let Some(scene) = Scene::new() else { return };
    let (process, node, name) = asked(&scene).await;
    let refused = decide(&scene, "controller", &name, "Approve").unwrap_err();
    assert!(refused.contains("spec.decision"), "{refused}");
    assert!(!node.effects().iter().any(|one| one.contains("node.kill")));
    decide(&scene, "ada", &name, "Approve").unwrap();
    until("the kill", || node.effects().iter().any(|one| one.starts_with("apply node.kill"))).await;
    let over = scene.wait(&["appr", &name, "-n", HOME], |it| it["status"]["state"] == "Approved");
    assert_eq!(over["status"]["conditions"][0]["reason"], "Applied", "{over:#}");
    assert_eq!(over["status"]["summary"]["by"], "ada");
    // The journal names the yes by which it was done (I5).
    let kill = |it: &Value| {
        let all = it["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["spec"]["plan"]["action"] == "node.kill")
    };
    let actions = scene
        .wait(&["ract", "-n", HOME], |it| kill(it).is_some_and(|one| one["status"]["state"] == "Verified"));
    let kill = kill(&actions).unwrap();
    assert_eq!(kill["spec"]["plan"]["approval"], name.as_str(), "{kill:#}");
    assert_eq!(kill["spec"]["plan"]["undo"]["class"], "Irreversible");
    scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Remediated");
    let log = scene.folder.path().join("one/audit/audit.jsonl");
    assert!(std::fs::read_to_string(log).unwrap().contains("user:ada"));
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_admission_policy_nobody_is_believed() {
    let Some(scene) = Scene::new() else { return };
    let (process, node, name) = asked(&scene).await;
    scene.kubectl(&["delete", "validatingadmissionpolicybinding", "approvals.hemostat.dev"]);
    // The API server forgets a policy a moment later; until then it refuses a false name, which is well.
    let patch = json!({"spec": {"decision": {"answer": "Approve", "by": "grace"}}}).to_string();
    let words = ["patch", "-n", HOME, "approval", name.as_str(), "--type=merge", "-p", patch.as_str()];
    until("the policy is out of force", || scene.server.kubectl_as("bob", &words, None).is_ok()).await;
    let over = scene.wait(&["appr", &name, "-n", HOME], |it| it["status"]["state"] == "Withdrawn");
    assert_eq!(over["status"]["conditions"][0]["reason"], "Refused", "{over:#}");
    assert!(!node.effects().iter().any(|one| one.contains("node.kill")));
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_ends_the_step_and_a_deleted_question_is_asked_again() {
    let Some(scene) = Scene::new() else { return };
    let (process, node, name) = asked(&scene).await;
    scene.kubectl(&["delete", "approval", &name, "-n", HOME]);
    scene.wait(&["appr", &name, "-n", HOME], |it| it["status"]["state"] == "Pending");
    decide(&scene, "bob", &name, "Deny").unwrap();
    scene.wait(&["appr", &name, "-n", HOME], |it| it["status"]["state"] == "Denied");
    assert!(!node.effects().iter().any(|one| one.contains("node.kill")));
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_answers_in_time_is_a_no_and_stays_one() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(
        &json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponsePolicy", "metadata": {"name": "soon", "namespace": HOME},
            "spec": {"approvals": {"timeout": "3s"}}})
        .to_string(),
    );
    let (process, node) = scene.opens(&playbook("Auto")).await;
    scene.wait(&["rpol", "soon", "-n", HOME], |it| it["status"]["conditions"][0]["status"] == "True");
    node.tell(miner("n1", 41));
    let over = scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Expired");
    let approval = &over["items"][0];
    assert_eq!(approval["status"]["conditions"][0]["reason"], "Expired", "{approval:#}");
    // What contains stays; the rest of the playbook is not done, and a yes comes too late.
    scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Remediated");
    let name = approval["metadata"]["name"].as_str().unwrap();
    let refused = decide(&scene, "ada", name, "Approve").unwrap_err();
    assert!(refused.contains("the approval is over"), "{refused}");
    let effects = node.effects();
    assert!(effects.iter().any(|one| one.starts_with("apply node.freeze")), "{effects:?}");
    assert!(!effects.iter().any(|one| one.contains("node.kill") || one.starts_with("revert")), "{effects:?}");
    node.close().await;
    process.stop();
}
