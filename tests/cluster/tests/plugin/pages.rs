//! What people see at 80 and at 200 columns: golden text. To write it anew: `HEMOSTAT_WRITE_TABLES=1 cargo test -p hemostat-cluster-tests
//! --test plugin`.

use hemostat_cluster_tests::api_server::repository;
use serde_json::json;

use crate::scene::{Scene, ago, captured};

const GOLDEN: &str = "tests/cluster/tests/plugin/pages.txt";

fn play(scene: &Scene) {
    let summary = |target: &str, more: serde_json::Value| {
        let mut summary = json!({"target": target});
        summary.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        summary
    };
    let done = json!({"playbook": "cryptominer", "actions": "2/3", "timeToContain": "38ms", "technique": "T1496.001", "node": "node-1"});
    let mut waits = summary("shop/api-5d9c7…-x2kq4", done.clone());
    waits["needs"] = "Approval".into();
    let run = |state: &str, because: &str| json!([{"name": "run-7f3a9c21", "playbook": "cryptominer", "state": state, "because": because}]);
    scene.incident(
        "shop",
        "inc-7f3a9c21",
        // From an event: it must not drive the terminal.
        "A miner by its arguments \u{1b}[31mred\u{1b}[0m\rover",
        42,
        &json!({"state": "NeedsApproval", "severity": "Critical", "confidence": 99, "target": "pod shop/api-5d9c7bd6f-x2kq4, process 4711 (xmrig)",
            "techniques": ["T1496.001", "T1059.004"], "contained": ago(41), "summary": waits,
            "runs": run("Running", "every containment is in force; killing cannot be undone, so a person is asked")}),
    );
    scene.action(
        "shop",
        "inc-7f3a9c21",
        "freeze",
        "node.freeze",
        &json!({"state": "Verified", "capture": captured(42), "applied": ago(42), "target": "process 4711 (xmrig)", "summary": {"took": "2.4ms"}}),
    );
    scene.action(
        "shop",
        "inc-7f3a9c21",
        "isolate",
        "cluster.isolate-pod",
        &json!({"state": "RevertBlocked", "capture": captured(41), "applied": ago(41), "target": "pod shop/api-5d9c7bd6f-x2kq4",
            "summary": {"took": "38ms", "detail": "somebody changed the policy"}}),
    );
    scene.question("shop", "inc-7f3a9c21", "kill", |_| {});
    scene.incident(
        "shop",
        "inc-7e99aa00",
        "Many logins that fail, then one that does not, of a user from another country, followed by kubectl exec",
        200,
        &json!({"state": "Open", "severity": "High", "target": "host", "summary": summary("host/sshd.service", json!({"technique": "T1110"}))}),
    );
    scene.incident(
        "batch",
        "inc-7d000001",
        "A shell that speaks to somewhere else",
        300,
        &json!({"state": "Remediated", "severity": "High", "target": "pod", "summary": summary("batch/job-11-abc", done.clone())}),
    );
    scene.incident(
        "batch",
        "inc-7d000002",
        "A service account's token is read by a shell",
        301,
        &json!({"state": "Remediated", "severity": "Medium", "target": "pod", "summary": summary("batch/job-12-abc", json!({"needs": "Verdict"}))}),
    );
}

#[test]
fn pages_serve_at_80_and_at_200_columns() {
    let Some(scene) = Scene::alone(&["shop", "batch"]) else { return };
    play(&scene);
    let commands: [&[&str]; 6] = [
        &["triage"],
        &["triage", "--all"],
        &["triage", "-n", "batch"],
        &["show", "inc-7f3a9c21"],
        &["show", "7e99"],
        &["timeline", "7f3a"],
    ];
    let mut shown = String::new();
    for (width, words) in [80, 200].into_iter().flat_map(|width| commands.map(|words| (width, words))) {
        let said = scene.plugin("ada", width, words);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{words:?}: {}", said.out);
        let plain = said.out.chars().all(|c| c == '\n' || !c.is_control());
        assert!(plain, "text of an event drives the terminal: {:?}", said.out);
        for line in said.out.lines() {
            let longest = if words[0] == "show" { 200 } else { width as usize };
            assert!(line.chars().count() <= longest, "{width}: {line}");
        }
        let said = timeless(&said.out);
        shown.push_str(&format!("# {width} columns\n$ kubectl hemostat {}\n{said}\n", words.join(" ")));
    }
    let path = repository(GOLDEN);
    if std::env::var_os("HEMOSTAT_WRITE_TABLES").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == shown, "{GOLDEN} is otherwise:\n{shown}");
}

/// Times as `2026-11-22T10:00:00Z` become a word of the same length.
fn timeless(text: &str) -> String {
    let is_time = |word: &str| word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let line = |line: &str| {
        let words = line.split(' ').map(|word| if is_time(word) { "yyyy-mm-ddThh:mm:ssZ" } else { word });
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    text.lines().map(line).collect()
}
