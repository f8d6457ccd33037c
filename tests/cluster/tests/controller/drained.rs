//! A node that its operators drain, and one that Hemostat itself cordoned.

use serde_json::json;

use crate::{
    FREEZE,
    node::miner,
    scene::{HOME, Scene, until},
    steps,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_node_that_is_drained_a_person_is_asked_and_on_one_that_hemostat_cordoned_nobody() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(&steps(&[FREEZE]));
    for name in ["n1", "n2"] {
        scene.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string());
    }
    scene.kubectl(&["cordon", "n1"]);
    // As `cluster.cordon` does it.
    let ours = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}, "spec": {"unschedulable": true}});
    let words = ["apply", "--server-side", "--field-manager=hemostat-act-1", "-f", "-"];
    scene.server.kubectl_as("admin", &words, Some(&ours.to_string())).unwrap();
    let process = scene.start("one");
    let (drained, contained) = (scene.node(&process, "n1").await, scene.node(&process, "n2").await);
    scene.accepted();
    until("nodes are told of", || std::fs::read_to_string(&process.log).unwrap().contains(r#"kind="Node""#))
        .await;

    drained.tell(miner("n1", 41));
    contained.tell(miner("n2", 42));
    let asked = scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Pending");
    assert!(asked.to_string().contains("node n1 is cordoned: it is being drained"), "{asked:#}");
    until("the other acts by itself", || {
        contained.effects().iter().any(|one| one.starts_with("apply node.freeze"))
    })
    .await;
    assert_eq!(drained.effects(), Vec::<String>::new());
    let all = scene.get(&["appr", "-n", HOME]);
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1), "{all:#}");
    drained.close().await;
    contained.close().await;
    process.stop();
}
