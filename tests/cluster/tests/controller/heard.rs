//! What a leader says of all nodes while it has not heard them all.

use serde_json::{Value, json};

use crate::{playbook, scene::Scene};

/// Waits until the playbook says this of the nodes that go by it: the message.
fn on_nodes(scene: &Scene, status: &str, reason: &str) -> String {
    let said = |it: &Value| {
        let all = it["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["type"] == "OnNodes").unwrap_or_default()
    };
    let found = scene.wait(&["playbook", "miner"], |it| {
        let said = said(it);
        said["status"] == status && said["reason"] == reason
    });
    said(&found)["message"].as_str().unwrap_or_default().to_owned()
}

fn rules(names: &[&str]) -> String {
    let file = |(n, name): (usize, &&str)| {
        let sigma = format!(
            "title: {name}\nid: 22222222-1111-4111-8111-{n:012}\nlogsource: {{product: linux, category: process_creation}}\n\
             detection:\n  s:\n    Image|endswith: /{name}\n  condition: s\nlevel: high\n"
        );
        json!({"name": format!("{name}.yml"), "sigma": sigma})
    };
    let inline: Vec<Value> = names.iter().enumerate().map(file).collect();
    json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "RuleSet", "metadata": {"name": "own"}, "spec": {"inline": inline}}).to_string()
}

fn loaded_on(scene: &Scene, nodes: &str) {
    scene.wait(&["ruleset", "own"], |it| it["status"]["summary"]["nodes"] == nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_just_come_speaks_of_all_nodes_only_once_it_has_heard_each_that_has_an_agent() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(&playbook("Auto"));
    scene.apply(&rules(&["one"]));
    let mut first = scene.start("a");
    let (one, two) = (scene.node(&first, "n1").await, scene.node(&first, "n2").await);
    on_nodes(&scene, "True", "Loaded");
    loaded_on(&scene, "2/2");
    first.kill();
    one.close().await;
    two.close().await;

    let second = scene.start("b");
    on_nodes(&scene, "Unknown", "NoNodes");
    loaded_on(&scene, "0/2");
    let one = scene.node(&second, "n1").await;
    let message = on_nodes(&scene, "Unknown", "NotHeard");
    assert!(message.contains("1 with an agent"), "{message}");
    loaded_on(&scene, "1/2");
    let two = scene.node(&second, "n2").await;
    on_nodes(&scene, "True", "Loaded");
    loaded_on(&scene, "2/2");

    // One that is away does not hear of what is new.
    two.close().await;
    scene.apply(&rules(&["one", "two"]));
    on_nodes(&scene, "Unknown", "NotLinked");
    one.close().await;
    second.stop();
}
