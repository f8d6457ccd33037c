//! Two incidents in two namespaces turn out to be one story.

use serde_json::Value;

use crate::{
    FREEZE,
    node::{miner_at_terminal, miner_in_pod},
    scene::{Scene, all_undone, until},
    steps,
};

fn all(it: &Value) -> Vec<Value> {
    it["items"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merged_incident_names_the_one_that_it_went_into_and_its_actions_stay_where_they_are_and_are_undone_with_it()
 {
    let Some(scene) = Scene::new() else { return };
    let (process, node) = scene.opens(&steps(&[FREEZE])).await;
    scene.kubectl(&["create", "namespace", "shop"]);
    let (pay, shop) = (scene.pod_in("pay", "c"), scene.pod_in("shop", "d"));
    node.tell(miner_in_pod("n1", 41, &pay));
    node.tell(miner_at_terminal("n1", 42, (&shop, "d")));
    let frozen = |namespace: &str| {
        scene.wait(&["ract", "-n", namespace], |it| {
            all(it).len() == 1 && all(it).iter().all(|one| one["status"]["state"] == "Verified")
        })
    };
    let (there, other) = (frozen("pay"), frozen("shop"));
    // Somebody at the same terminal is seen in the first pod, too.
    node.tell(miner_at_terminal("n1", 43, (&pay, "c")));
    let incidents = scene.wait(&["inc", "-A"], |it| {
        all(it).iter().any(|one| one["status"]["mergedInto"].as_str().is_some_and(|into| into.contains('/')))
    });
    let merged = all(&incidents).into_iter().find(|one| !one["status"]["mergedInto"].is_null()).unwrap();
    let into = merged["status"]["mergedInto"].as_str().unwrap().to_owned();
    let (place, name) = into.split_once('/').unwrap();
    assert_ne!(merged["metadata"]["namespace"], place, "they were in two namespaces: {into}");
    // The objects did not move; the label tells whose they are now.
    for before in [&there, &other] {
        let before = &all(before)[0];
        let namespace = before["metadata"]["namespace"].as_str().unwrap();
        let object = before["metadata"]["name"].as_str().unwrap();
        let now = scene.wait(&["ract", object, "-n", namespace], |it| {
            it["metadata"]["labels"]["hemostat.dev/incident"] == name
        });
        assert_eq!(now["metadata"]["uid"], before["metadata"]["uid"]);
    }
    scene.false_positive(place, name);
    scene.wait(&["ract", "-A"], |it| all(it).len() >= 2 && all_undone(it));
    until("all is undone on the node", || {
        let effects = node.effects();
        let count = |begin: &str| effects.iter().filter(|one| one.starts_with(begin)).count();
        count("revert node.freeze") == count("apply node.freeze")
    })
    .await;
    node.close().await;
    process.stop();
}
