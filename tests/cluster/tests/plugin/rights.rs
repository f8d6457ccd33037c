//! Whoever may not, or reaches nobody, is told so in one line, with what helps.

use serde_json::json;

use crate::scene::Scene;

#[test]
fn a_user_without_rights_is_told_which_one_is_lacking() {
    let Some(scene) = Scene::new(&["none"]) else { return };
    let verbs: [&[&str]; 7] = [
        &["triage"],
        &["show", "inc-1"],
        &["timeline", "inc-1"],
        &["approve", "inc-1"],
        &["deny", "inc-1"],
        &["revert", "inc-1"],
        &["triage", "-n", "none"],
    ];
    for words in verbs {
        let said = scene.plugin("eve", 80, words);
        assert_eq!((said.code, said.out.as_str()), (4, ""), "{words:?}: {said:?}");
        assert!(said.err.contains("User \"eve\" cannot list resource"), "{words:?}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
        let hint = said.err.contains("with -n NAMESPACE only that one is asked about");
        assert_eq!(hint, !words.contains(&"-n"), "{words:?}: {}", said.err);
    }
    // One who may read and not answer.
    scene
        .server
        .kubectl(&[
            "create",
            "role",
            "reads",
            "-n",
            "none",
            "--verb=get,list",
            "--resource=incidents.hemostat.dev,approvals.hemostat.dev,responseactions.hemostat.dev",
        ])
        .unwrap();
    scene
        .server
        .kubectl(&["create", "rolebinding", "reads", "-n", "none", "--role=reads", "--user=eve"])
        .unwrap();
    scene.incident(
        "none",
        "inc-ee01",
        "A miner",
        1,
        &json!({"state": "Open", "severity": "High", "target": "pod"}),
    );
    let asked = scene.question("none", "inc-ee01", "kill", |_| {});
    let granted = || scene.plugin("eve", 80, &["triage", "-n", "none"]).code == 0;
    hemostat_cluster_tests::wait_until(granted).unwrap();
    let said = scene.plugin("eve", 80, &["approve", &asked, "-n", "none"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("cannot patch resource \"approvals\""), "{}", said.err);
}

#[test]
fn a_server_that_is_away_a_strange_token_and_no_kubeconfig_are_told_apart() {
    let Some(scene) = Scene::new(&[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let write = |server: &str, token: &str| {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        std::fs::write(&file, text.to_string()).unwrap();
    };
    // Bound and never listened on: nobody answers there.
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    write(&format!("https://{held}"), "x");
    let said = scene.plugin_with(&file, 80, &["triage"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("the API server cannot be reached"), "{}", said.err);
    write(&scene.server.address(), "strange");
    let said = scene.plugin_with(&file, 80, &["triage"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(
        said.err.contains("Unauthorized") && said.err.contains("a user whom this cluster knows"),
        "{}",
        said.err
    );
    let said = scene.plugin_with(&folder.path().join("nowhere"), 80, &["triage"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("nowhere"), "{}", said.err);
    write(&scene.server.address(), "ada-token");
    let said = scene.plugin_with(&file, 80, &["triage", "--context", "another"]);
    assert!(said.code == 1 && said.err.contains("another"), "{said:?}");
}
