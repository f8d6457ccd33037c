//! What contains is taken away behind our back, as GitOps that puts back what is in Git does: it is said, on the action, the incident and the
//! pod, and goes away when it is back.

use serde_json::Value;

use crate::{
    node::miner_in_pod,
    scene::{Scene, until},
    steps,
};

const ISOLATE: &str = "name: isolate, action: cluster.isolate-pod, target: {kind: Pod}";

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["type"] == kind).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containment_that_somebody_undoes_in_the_api_server_is_missed_told_and_known_when_it_is_back() {
    let Some(scene) = Scene::new() else { return };
    scene.grant("cluster.isolate-pod");
    let (process, node, uid) = scene.opens_with_pod(&steps(&[ISOLATE])).await;
    let before = scene.labels();
    node.tell(miner_in_pod("n1", 41, &uid));
    let contained =
        scene.wait(&["inc", "-n", "pay"], |it| condition(&it["items"][0], "Contained")["status"] == "True");
    let name = contained["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let mut policy = scene.get(&["networkpolicies", "-n", "pay"])["items"][0].clone();
    let policy_name = policy["metadata"]["name"].as_str().unwrap().to_owned();
    scene.kubectl(&["delete", "networkpolicy", &policy_name, "-n", "pay"]);

    let missed =
        scene.wait(&["ract", "-n", "pay"], |it| condition(&it["items"][0], "Verified")["reason"] == "Gone");
    let told = condition(&missed["items"][0], "Verified");
    assert_eq!(told["status"], "False", "{told:#}");
    assert_eq!(missed["items"][0]["status"]["state"], "Verified", "nobody undid it on our behalf");
    assert_eq!(missed["items"][0]["metadata"]["finalizers"][0], "hemostat.dev/revert");
    let incident =
        scene.wait(&["inc", &name, "-n", "pay"], |it| condition(it, "Contained")["reason"] == "Gone");
    assert_eq!(condition(&incident, "Contained")["status"], "False");
    assert_eq!(incident["status"]["summary"]["needs"], "Drift", "{incident:#}");
    let of_pod = |it: &Value| {
        let all = it["items"].as_array().cloned().unwrap_or_default();
        all.iter()
            .any(|one| one["reason"] == "ContainmentGone" && one["involvedObject"]["uid"] == uid.as_str())
    };
    scene.wait(&["events", "-n", "pay"], of_pod);
    let gone = || scene.get(&["networkpolicies", "-n", "pay"])["items"].as_array().is_some_and(Vec::is_empty);
    assert!(gone(), "nothing is put back by itself: two who do that in turn help nobody");

    // Somebody puts it back as it was.
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        policy["metadata"].as_object_mut().unwrap().remove(field);
    }
    scene.server.create("admin", &policy.to_string(), &[]).unwrap();
    scene.wait(&["inc", &name, "-n", "pay"], |it| condition(it, "Contained")["status"] == "True");
    scene.wait(&["ract", "-n", "pay"], |it| condition(&it["items"][0], "Verified")["status"] == "True");
    // And it is undone as ever.
    scene.false_positive("pay", &name);
    scene.wait(&["ract", "-n", "pay"], |it| it["items"][0]["metadata"]["finalizers"].is_null());
    until("the pod is as before", || scene.labels() == before).await;
    node.close().await;
    process.stop();
}
