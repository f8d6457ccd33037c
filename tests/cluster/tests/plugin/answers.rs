//! Yes, no and undo: bound to who says it, once, and never more than was meant.

use serde_json::{Value, json};

use crate::scene::{Said, Scene, captured};

fn open(scene: &Scene, namespace: &str, name: &str) {
    scene.incident(
        namespace,
        name,
        "A miner",
        1,
        &json!({"state": "NeedsApproval", "severity": "High", "target": "pod"}),
    );
}

#[track_caller]
fn refused(said: Said, code: i32, part: &str) {
    assert_eq!(said.code, code, "{said:?}");
    assert!(said.err.contains(part) && said.err.starts_with("error: "), "no {part:?} in {}", said.err);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
}

fn decision(scene: &Scene, namespace: &str, name: &str) -> Value {
    scene.get(namespace, &format!("approval/{name}"))["spec"]["decision"].clone()
}

#[test]
fn an_answer_is_given_once_in_ones_own_name_with_its_reason() {
    let Some(scene) = Scene::new(&["yes"]) else { return };
    open(&scene, "yes", "inc-aa01");
    let one = scene.question("yes", "inc-aa01", "kill", |_| {});
    let two = scene.question("yes", "inc-aa01", "evict", |_| {});
    let said = scene.plugin("ada", 80, &["approve", &one, "-m", "no doubt"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out, "run-aa01-kill: Approve by ada: kill pid 4711 (xmrig) and its descendants\n");
    assert_eq!(
        decision(&scene, "yes", &one),
        json!({"answer": "Approve", "by": "ada", "reason": "no doubt"})
    );
    assert!(decision(&scene, "yes", &two).is_null(), "nothing else was meant");
    refused(scene.plugin("bob", 80, &["deny", &one]), 6, "ada has answered already");
    // By its incident: what still waits.
    assert_eq!(scene.plugin("bob", 80, &["deny", "aa01"]).code, 0);
    assert_eq!(decision(&scene, "yes", &two)["answer"], "Deny");
    refused(scene.plugin("bob", 80, &["deny", "inc-aa01"]), 6, "none of the 2 questions of inc-aa01 waits");
    // What is over says how.
    let late = scene.question("yes", "inc-aa01", "late", |_| {});
    scene
        .server
        .kubectl(&[
            "patch",
            "-n",
            "yes",
            &format!("approval/{late}"),
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status": {"state": "Expired"}}"#,
        ])
        .unwrap();
    refused(scene.plugin("ada", 80, &["approve", &late]), 6, "nobody answered in time, which is a no");
}

#[test]
fn who_may_not_answer_is_told_why() {
    let Some(scene) = Scene::new(&["who"]) else { return };
    open(&scene, "who", "inc-bb01");
    let own = scene.question("who", "inc-bb01", "own", |it| it["requestedBy"] = "ada".into());
    refused(
        scene.plugin("ada", 80, &["approve", &own]),
        4,
        "nobody decides on what they asked for themselves",
    );
    let party = scene.question("who", "inc-bb01", "party", |it| it["parties"] = json!(["bob"]));
    refused(
        scene.plugin("bob", 80, &["approve", &party]),
        4,
        "nobody decides on an incident that they are part of",
    );
    let named = scene.question("who", "inc-bb01", "named", |it| it["approvers"] = json!(["user:grace"]));
    refused(scene.plugin("ada", 80, &["approve", &named]), 4, "ada is none of the approvers: user:grace");
    let group =
        scene.question("who", "inc-bb01", "group", |it| it["approvers"] = json!(["group:soc-oncall"]));
    refused(scene.plugin("ada", 80, &["approve", &group]), 4, "none of the approvers");
    assert_eq!(scene.plugin("bob", 80, &["approve", &group]).code, 0);
    for name in [own, party, named] {
        assert!(decision(&scene, "who", &name).is_null());
    }
}

#[test]
fn what_is_not_there_or_not_certain_is_not_answered() {
    let Some(scene) = Scene::new(&["sure", "also"]) else { return };
    for name in ["inc-cc001", "inc-cc002"] {
        open(&scene, "sure", name);
        scene.question("sure", name, "kill", |_| {});
    }
    let twice = scene.question("also", "inc-cc001", "kill", |_| {});
    for verb in ["approve", "deny", "revert"] {
        refused(scene.plugin("ada", 80, &[verb, "inc-nowhere"]), 5, "there is no incident inc-nowhere");
        refused(
            scene.plugin("ada", 80, &[verb, "cc00"]),
            5,
            "cc00 fits 2 incidents: sure/inc-cc001, sure/inc-cc002",
        );
        // Too little of one, and a beginning of nothing, is none.
        refused(scene.plugin("ada", 80, &[verb, "cc0"]), 5, "at least 4 characters");
        for nothing in ["", "inc-"] {
            refused(scene.plugin("ada", 80, &[verb, nothing]), 5, "which incident?");
        }
    }
    for verb in ["show", "timeline"] {
        refused(scene.plugin("ada", 80, &[verb, "inc-nowhere"]), 5, "there is no incident inc-nowhere");
        refused(scene.plugin("ada", 80, &[verb, "cc00"]), 5, "cc00 fits 2 incidents");
    }
    // The same name in two namespaces.
    refused(scene.plugin("ada", 80, &["approve", &twice]), 5, "choose with -n");
    assert_eq!(scene.plugin("ada", 80, &["approve", &twice, "-n", "also"]).code, 0);
    assert!(decision(&scene, "sure", &twice).is_null());
    assert!(decision(&scene, "sure", "run-cc002-kill").is_null());
}

#[test]
fn an_undo_is_asked_for_one_action_or_for_all_that_is_in_force() {
    let Some(scene) = Scene::new(&["undo"]) else { return };
    open(&scene, "undo", "inc-dd01");
    let held = |state: &str| json!({"state": state, "capture": captured(1), "target": "process 4711"});
    for (step, state) in [("one", "Verified"), ("two", "Unverified"), ("three", "Reverted")] {
        scene.action("undo", "inc-dd01", step, "node.freeze", &held(state));
    }
    let end = |step: &str| scene.get("undo", &format!("ract/act-dd01-{step}"))["spec"]["end"].clone();
    let said = scene.plugin("ada", 80, &["revert", "act-dd01-one", "-m", "a drill"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "act-dd01-one: node.freeze is to be undone\n"),
        "{said:?}"
    );
    let one = end("one");
    assert_eq!(
        (&one["how"], &one["by"], &one["reason"]),
        (&json!("Revert"), &json!("ada"), &json!("a drill"))
    );
    assert!(end("two").is_null());
    refused(
        scene.plugin("ada", 80, &["revert", "act-dd01-three"]),
        6,
        "nothing of act-dd01-three is in force",
    );
    let said = scene.plugin("ada", 80, &["revert", "dd01"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(end("two")["by"], "ada");
    assert!(end("three").is_null(), "what is undone is left alone");
}

#[test]
fn a_verdict_is_given_once_in_ones_own_name() {
    let Some(scene) = Scene::new(&["judge"]) else { return };
    open(&scene, "judge", "inc-ff01");
    let verdict = || scene.get("judge", "inc/inc-ff01")["spec"]["verdict"].clone();
    refused(scene.plugin("ada", 80, &["verdict", "inc-nowhere", "true-positive"]), 5, "there is no incident");
    let said = scene.plugin("ada", 80, &["verdict", "ff01", "perhaps"]);
    assert!(said.code == 2 && verdict().is_null(), "{said:?}");
    let said = scene.plugin("ada", 80, &["verdict", "ff01", "false-positive", "-m", "a load test"]);
    let told = "inc-ff01: FalsePositive by ada: everything that can be undone is to be undone\n";
    assert_eq!((said.code, said.out.as_str()), (0, told), "{said:?}");
    assert_eq!(verdict(), json!({"is": "FalsePositive", "by": "ada", "reason": "a load test"}));
    let said = scene.plugin("eve", 80, &["verdict", "ff01", "true-positive", "-n", "judge"]);
    assert_eq!(said.code, 4, "{said:?}");
}
