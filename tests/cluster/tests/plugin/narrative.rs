//! The story as one document, read from the API server; what stands there may be anybody's.

use hemostat_cluster_tests::api_server::repository;
use serde_json::{Value, json};

use crate::scene::Scene;

/// A document as the controller makes it, of an incident that waits for a person.
fn document() -> Value {
    let text = std::fs::read_to_string(repository("narrate/tests/golden/incident.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn open(scene: &Scene, namespace: &str, name: &str) {
    let status = json!({"state": "NeedsApproval", "severity": "High", "target": "pod"});
    scene.incident(namespace, name, "A miner", 1, &status);
}

#[test]
fn the_narrative_of_an_incident_is_shown_in_its_three_forms() {
    let Some(scene) = Scene::new(&["tale"]) else { return };
    open(&scene, "tale", "inc-aa71");
    let told = document();
    scene.narrative("tale", "inc-aa71", &told.to_string());
    let show = |form: &str| {
        let said = scene.plugin("ada", 80, &["show", "aa71", "--narrative", form]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{form}: {}", said.out);
        said.out
    };
    let (html, md, json) = (show("html"), show("md"), show("json"));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), told);
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"), "{html}");
    for page in [&html, &md] {
        for needed in [
            "fell short",
            "92.50 %",
            "cut nginx.service off the network",
            "xmrig",
            "approve inc-7f3a9c21 run",
        ] {
            assert!(page.to_lowercase().contains(needed), "{needed} is missing:\n{page}");
        }
    }
    // In a table: how much is asked, and when it was told.
    let table = scene.server.kubectl(&["get", "narratives", "-n", "tale"]).unwrap();
    assert!(table.contains("QUESTIONS") && table.lines().all(|line| line.len() <= 80), "{table}");
}

#[test]
fn an_incident_without_a_narrative_a_reader_without_rights_and_a_document_of_somebody_else_are_told_apart() {
    let Some(scene) = Scene::new(&["odd"]) else { return };
    open(&scene, "odd", "inc-bb71");
    let show =
        |user: &str, name: &str| scene.plugin(user, 80, &["show", name, "-n", "odd", "--narrative", "md"]);
    let said = show("ada", "bb71");
    assert_eq!((said.code, said.out.as_str()), (5, ""), "{said:?}");
    assert!(said.err.contains("no narrative is kept of inc-bb71"), "{}", said.err);
    // One who may read incidents and not what is told of them.
    let reads =
        ["create", "role", "reads", "-n", "odd", "--verb=get,list", "--resource=incidents.hemostat.dev"];
    scene.server.kubectl(&reads).unwrap();
    scene
        .server
        .kubectl(&["create", "rolebinding", "reads", "-n", "odd", "--role=reads", "--user=eve"])
        .unwrap();
    let granted = || scene.plugin("eve", 80, &["triage", "-n", "odd"]).code == 0;
    hemostat_cluster_tests::wait_until(granted).unwrap();
    let said = show("eve", "bb71");
    assert_eq!((said.code, said.out.as_str()), (4, ""), "{said:?}");
    assert!(said.err.contains("cannot get resource \"narratives\""), "{}", said.err);

    // What is none of ours is not shown, and what is meant for a terminal does not reach it.
    let mut hostile = document();
    hostile["title"] = "\u{1b}[2Jgone\u{202e}".into();
    hostile["timeline"][0]["what"] = "\u{1b}]0;owned\u{7}".into();
    let mut looped = document();
    looped["processes"][0]["parent"] = 1.into();
    let mut nowhere = document();
    nowhere["graph"]["links"][0]["to"] = 9_999.into();
    for (name, text, code) in [
        ("inc-cc71", hostile.to_string(), 0),
        ("inc-cc72", looped.to_string(), 1),
        ("inc-cc73", nowhere.to_string(), 1),
        ("inc-cc74", "{}".to_owned(), 1),
        ("inc-cc75", "not json".to_owned(), 1),
        ("inc-cc76", "[".repeat(5_000), 1),
    ] {
        open(&scene, "odd", name);
        scene.narrative("odd", name, &text);
        for form in ["md", "html", "json"] {
            let said = scene.plugin("ada", 80, &["show", name, "--narrative", form]);
            assert_eq!(said.code, code, "{name} {form}: {said:?}");
            let plain = |text: &str| text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}'));
            assert!(plain(&said.out) && plain(&said.err), "{name} {form} drives the terminal");
            assert_eq!(code != 0, said.out.is_empty(), "{name} {form}");
        }
    }
}

#[test]
fn nobody_but_the_controller_writes_what_people_copy_commands_from() {
    let Some(scene) = Scene::new(&["forge"]) else { return };
    open(&scene, "forge", "inc-dd71");
    let server = &scene.server;
    let verbs = "--verb=get,list,create,update,patch";
    server
        .kubectl(&["create", "role", "all", "-n", "forge", verbs, "--resource=narratives.hemostat.dev"])
        .unwrap();
    server.kubectl(&["create", "rolebinding", "all", "-n", "forge", "--role=all", "--user=eve"]).unwrap();
    let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "Narrative",
        "metadata": {"name": "inc-dd71", "namespace": "forge"},
        "spec": {"incident": "inc-dd71", "told": "2026-01-01T00:00:00Z", "questions": 0, "document": "{}"}})
    .to_string();
    let refused = || server.create("eve", &object, &[]).unwrap_err();
    hemostat_cluster_tests::wait_until(|| refused().contains("by Hemostat's controller only")).unwrap();
    scene.narrative("forge", "inc-dd71", &document().to_string());
    let patch = r#"{"spec": {"document": "{}"}}"#;
    let words = ["patch", "-n", "forge", "narrative/inc-dd71", "--type=merge", "-p", patch];
    let refused = server.kubectl_as("eve", &words, None).unwrap_err();
    assert!(refused.contains("by Hemostat's controller only"), "{refused}");
    // More than there is room for is refused by the schema.
    let long = object.replace("{}", &"x".repeat(262_145)).replace("inc-dd71", "inc-dd72");
    let refused = server.create("admin", &long, &[]).unwrap_err();
    assert!(refused.contains("spec.document") && refused.contains("262144"), "{refused}");
}
