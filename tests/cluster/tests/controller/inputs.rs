//! What is wrong with what users apply stands in its status, with the place; the rest is in force, on nodes too.

use crate::scene::{HOME, Scene, until};

fn rule(name: &str, n: u32, condition: &str) -> String {
    format!(
        "title: {name}\nid: 11111111-1111-4111-8111-{n:012}\nlogsource: {{product: linux, category: process_creation}}\n\
         detection:\n  s:\n    Image|endswith: /{name}\n  condition: {condition}\nlevel: high\n"
    )
}

fn rule_set(name: &str, spec: &serde_json::Value) -> String {
    serde_json::json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "RuleSet", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rule_sets_the_broken_rule_is_named_with_its_place_and_nodes_load_the_others_without_a_restart()
 {
    let Some(scene) = Scene::new() else { return };
    let process = scene.start("one");
    let node = scene.node(&process, "n1").await;
    let two = format!("{}---\n{}", rule("two", 2, "s"), rule("three", 3, "nobody"));
    scene.apply(&rule_set(
        "good",
        &serde_json::json!({"inline": [{"name": "one.yml", "sigma": rule("one", 1, "s")}]}),
    ));
    scene.apply(&rule_set(
        "mixed",
        &serde_json::json!({
            "inline": [{"name": "two.yml", "sigma": two}],
            "configMaps": [{"namespace": HOME, "name": "more"}, {"namespace": HOME, "name": "nowhere"}],
        }),
    ));
    scene.kubectl(&[
        "create",
        "configmap",
        "more",
        "-n",
        HOME,
        &format!("--from-literal=four.yml={}", rule("four", 4, "s")),
    ]);
    let good = scene.wait(&["rset", "good"], |it| {
        it["status"]["summary"]["nodes"] == "1/1" && it["status"]["rules"] == 1
    });
    assert_eq!(good["status"]["loaded"][0]["generation"], 1);
    let mixed = scene.wait(&["rset", "mixed"], |it| {
        it["status"]["rules"] == 2 && it["status"]["summary"]["nodes"] == "1/1"
    });
    let failure = &mixed["status"]["failures"][0];
    assert_eq!(failure["rule"], "11111111-1111-4111-8111-000000000003", "{mixed:#}");
    assert_eq!(failure["file"], "two.yml");
    assert_eq!(
        failure["line"],
        u64::try_from(two.lines().position(|line| line.contains("nobody")).unwrap()).unwrap() + 1
    );
    let conditions = mixed["status"]["conditions"].to_string();
    assert!(conditions.contains("there is no ConfigMap") && conditions.contains("nowhere"), "{conditions}");
    assert!(
        node.world
            .lock()
            .unwrap()
            .rules
            .as_ref()
            .unwrap()
            .files
            .iter()
            .any(|file| file.text.contains("/four"))
    );
    // Another generation is told and loaded.
    scene.apply(&rule_set(
        "good",
        &serde_json::json!({"inline": [{"name": "one.yml", "sigma": rule("five", 5, "s")}]}),
    ));
    scene.wait(&["rset", "good"], |it| {
        it["status"]["loaded"][0]["generation"] == 2 && it["status"]["summary"]["nodes"] == "1/1"
    });
    until("the new rule", || {
        node.world
            .lock()
            .unwrap()
            .rules
            .as_ref()
            .unwrap()
            .files
            .iter()
            .any(|file| file.text.contains("/five"))
    })
    .await;
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_playbook_that_cannot_be_run_says_why_and_where_and_another_is_in_force() {
    let Some(scene) = Scene::new() else { return };
    let process = scene.start("one");
    scene.apply(&crate::playbook("Shadow"));
    scene.apply(
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: broken}\nspec:\n  trigger: {rules: [x]}\n  steps:\n    \
         - {name: a, action: node.freeze, target: {kind: Process}, needs: [c]}\n    - {name: b, action: node.freeze, target: {kind: Process}}\n    \
         - {name: c, action: node.freeze, target: {kind: Process}, needs: [a], when: '1 +'}\n",
    );
    let broken = scene.wait(&["playbook", "broken"], |it| it["status"]["conditions"][0]["status"] == "False");
    let condition = &broken["status"]["conditions"][0];
    assert_eq!(condition["type"], "Accepted");
    assert_eq!(condition["observedGeneration"], 1);
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("spec.steps[2].when") && message.contains("circle"), "{message}");
    let fine = scene.wait(&["playbook", "miner"], |it| it["status"]["conditions"][0]["status"] == "True");
    assert_eq!(fine["status"]["mode"], "Shadow");
    process.stop();
}
