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

/// What the schema cannot know is told in the status with its place, each beside what is in force.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_told_with_its_place_and_policies_that_conflict_say_so() {
    let Some(scene) = Scene::new() else { return };
    let process = scene.start("one");
    let playbooks = [
        (
            "circle",
            "- {name: a, action: node.freeze, needs: [c]}\n    - {name: b, action: node.freeze, needs: [a]}\n    - {name: c, action: node.freeze, needs: [b]}\n    - {name: d, action: node.freeze}",
            &["spec.steps[0].needs", "`a` needs `c` needs `b` needs `a`"][..],
        ),
        (
            "cel",
            "- {name: a, action: node.freeze, when: 'proces.pid > 1'}",
            &["spec.steps[0].when", "unknown variable `proces`"],
        ),
        (
            "order",
            "- {name: a, action: node.freeze}\n    - {name: b, action: node.freeze, when: 'steps.a.succeeded'}",
            &["spec.steps[1].when", "`a` need not be done before this one"],
        ),
        ("parameter", "- {name: a, action: node.freeze, with: {port: 443}}", &["spec.steps[0]", "port"]),
        (
            "address",
            "- {name: a, action: node.block-destination, with: {destination: 'not an address'}}",
            &["spec.steps[0].with.destination"],
        ),
        (
            "wide",
            "- {name: a, action: node.freeze, with: {scope: Cgroup}}\n  blastRadius: {widest: Process}",
            &["spec.steps[0]", "blastRadius.widest is Process"],
        ),
        (
            "early",
            "- {name: a, action: node.kill, approval: Required}",
            &["spec.steps[0].action", "comes before any containment"],
        ),
        (
            "target",
            "- {name: a, action: node.freeze, target: {kind: Account}}",
            &["spec.steps[0].target.kind", "node.freeze is done to"],
        ),
    ];
    for (name, steps, _) in &playbooks {
        scene.apply(&format!(
            "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: {name}}}\nspec:\n  trigger: {{rules: [x]}}\n  steps:\n    {steps}\n"
        ));
    }
    let rules = [
        ("modifier", rule("a", 61, "s").replace("Image|endswith", "Image|endswit"), "endswit"),
        ("regex", rule("a", 62, "s").replace("Image|endswith: /a", "Image|re: '('"), "re"),
        ("bomb", format!("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n{}", rule("a", 63, "s")), ""),
        ("binary", "title: x\n\t- x: [".into(), ""),
        ("twice", rule("one", 64, "s") + "---\n" + &rule("two", 64, "s"), ""),
    ];
    for (name, text, _) in &rules {
        let inline = serde_json::json!({"inline": [{"name": "bad.yml", "sigma": text}, {"name": "good.yml", "sigma": rule(name, 70 + u32::try_from(name.len()).unwrap(), "s")}]});
        scene.apply(&rule_set(name, &inline));
    }
    scene.kubectl(&["create", "namespace", "team"]);
    for (namespace, mode, approver) in [(HOME, "Auto", "ada"), ("team", "Shadow", "bob")] {
        scene.apply(&format!(
            "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {{name: own, namespace: {namespace}}}\n\
             spec: {{mode: {mode}, approvals: {{approvers: ['user:{approver}']}}}}\n"
        ));
    }
    let mut wrong = Vec::new();
    for (name, _, parts) in &playbooks {
        let told = |it: &serde_json::Value| it["status"]["conditions"][0]["status"] == "False";
        let object = scene.wait(&["playbook", name], told);
        let message = object["status"]["conditions"][0]["message"].as_str().unwrap().to_owned();
        for part in *parts {
            if !message.contains(part) {
                wrong.push(format!("{name}: no {part:?} in {message}"));
            }
        }
        assert!(object["status"]["mode"].is_null(), "{name} is not in force");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, _, part) in &rules {
        let object = scene.wait(&["rset", name], |it| it["status"]["failed"].as_u64().is_some_and(|n| n > 0));
        let failure = &object["status"]["failures"][0];
        assert_eq!(failure["file"], "bad.yml", "{object:#}");
        assert!(
            failure["line"].as_u64().unwrap() > 0 && failure["message"].as_str().unwrap().contains(part),
            "{failure}"
        );
        assert!(object["status"]["rules"].as_u64().unwrap() >= 1, "the good one is loaded: {object:#}");
    }
    for (namespace, other, word) in [
        (HOME, "team/own", "mode Shadow and not Auto: Shadow holds"),
        ("team", "hemostat-system/own", "mode Auto and not Shadow: Shadow holds"),
    ] {
        let object =
            scene.wait(&["rpol", "own", "-n", namespace], |it| it.to_string().contains("StricterHolds"));
        let text = object["status"]["conditions"].to_string();
        assert!(text.contains(&format!("{other} says {word}")) && text.contains("nobody is both"), "{text}");
    }
    scene.kubectl(&["delete", "rpol", "own", "-n", "team"]);
    scene.wait(&["rpol", "own", "-n", HOME], |it| {
        let all = it["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter()
            .any(|one| one["type"] == "Conflicting" && one["status"] == "False" && one["reason"] == "NoOther")
    });
    process.stop();
}
