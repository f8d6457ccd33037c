//! The resources on a real API server: what is taken, what is refused and with which words, who may say what, and how tables look.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test of its own; what cannot be done fails it")]

mod answers;
mod refused;
mod tables;

use hemostat_cluster_tests::api_server::{ApiServer, repository};
use serde_json::Value;

/// The example of a kind in docs/resources.md, as JSON.
fn example(server: &ApiServer, kind: &str) -> Value {
    let page = std::fs::read_to_string(repository("docs/resources.md")).unwrap();
    let block = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains(&format!("kind: {kind}\n")))
        .unwrap_or_else(|| panic!("docs/resources.md has no example of {kind}"));
    let words = ["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"];
    let mut object: Value =
        serde_json::from_str(&server.kubectl_as("admin", &words, Some(block)).unwrap()).unwrap();
    // The namespaces of the page are not made, but one.
    if !object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "pay".into();
    }
    object
}

const KINDS: [&str; 6] = ["RuleSet", "Playbook", "ResponsePolicy", "Incident", "ResponseAction", "Approval"];

#[test]
fn what_the_page_shows_and_what_is_shipped_is_taken() {
    let Some(server) = ApiServer::here() else { return };
    for kind in KINDS {
        let mut object = example(&server, kind);
        // A person's words are not there when the controller makes the object.
        for words in ["verdict", "end"] {
            object["spec"].as_object_mut().unwrap().remove(words);
        }
        server.create("admin", &object.to_string(), &["--dry-run=server", "--validate=strict"]).unwrap();
    }
    let shipped = repository("playbooks");
    let said = server
        .kubectl(&["apply", "--server-side", "--validate=strict", "--recursive", "-f", &shipped])
        .unwrap();
    let below = |folder: &str| {
        std::fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().is_file()).count()
    };
    let files = below(&shipped) + below(&format!("{shipped}/kubernetes"));
    assert_eq!(said.lines().count(), files, "{said}");
    // Defaults are filled in from the schema.
    let playbook = server.kubectl(&["get", "playbook", "cryptominer", "-o", "json"]).unwrap();
    let playbook: Value = serde_json::from_str(&playbook).unwrap();
    assert_eq!(playbook["spec"]["steps"][0]["verify"]["attempts"], 3);
    assert_eq!(playbook["spec"]["blastRadius"]["shortestPrefixV4"], 32);
    // All six are found by one word and by their short names.
    let all = server.kubectl(&["api-resources", "--categories=hemostat", "--no-headers"]).unwrap();
    for short in ["rset", "pb", "rpol", "inc", "ract", "appr"] {
        assert!(all.lines().any(|line| line.split_whitespace().nth(1) == Some(short)), "{short}: {all}");
    }
}
