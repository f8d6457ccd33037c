//! What a playbook would do here, without doing it.

use hemostat_cluster_tests::api_server::repository;

use crate::scene::Scene;

#[test]
fn a_plan_changes_nothing_and_tells_what_the_cluster_says_to_it() {
    let Some(scene) = Scene::new(&["plan"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let head = "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: planned}\nspec:\n  trigger: {minimumLevel: high}\n  mode: Auto\n";
    let good = file(
        "good.yaml",
        &format!(
            "{head}  steps:\n  - {{name: freeze, action: node.freeze}}\n  - {{name: isolate, action: cluster.isolate-pod, needs: [freeze]}}\n  \
             - {{name: kill, action: node.kill, needs: [freeze, isolate], approval: Required}}\n"
        ),
    );
    // The chart gave rights for another action only, and a policy is stricter.
    scene.server.kubectl(&["create", "clusterrole", "c-label", "--verb=get", "--resource=pods"]).unwrap();
    scene.server.kubectl(&["label", "clusterrole", "c-label", "hemostat.dev/action=cluster.label"]).unwrap();
    let policy = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {name: careful, namespace: plan}\n\
                  spec: {mode: Approve, widest: Process, approvals: {approvers: ['user:grace']}, match: {playbooks: [planned]}}\n";
    scene.server.kubectl_as("admin", &["apply", "--server-side", "-f", "-"], Some(policy)).unwrap();
    let said = scene.plugin("admin", 80, &["plan", &good]);
    assert_eq!(said.code, 0, "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines.contains(&"planned: mode Auto"), "{}", said.out);
    assert!(
        lines.iter().all(|line| line.contains(": warning: ") || line.chars().count() <= 120),
        "{}",
        said.out
    );
    let row = |step: &str| (*lines.iter().find(|line| line.starts_with(step)).unwrap()).to_owned();
    assert!(row("freeze").contains(" yes"), "{}", said.out);
    assert!(row("isolate").contains(" no"), "{}", said.out);
    assert!(row("kill").contains("always"), "{}", said.out);
    assert!(said.out.contains("the controller has no right to cluster.isolate-pod"), "{}", said.out);
    assert!(
        said.out
            .contains("policy plan/careful: at most Approve, nothing wider than Process, asks user:grace"),
        "{}",
        said.out
    );
    assert!(scene.server.kubectl(&["get", "playbook", "planned"]).unwrap_err().contains("not found"));

    // Another way that a step may go needs its right, too, and memory is a right of its own.
    for action in ["cluster.detach-pod", "cluster.collect-evidence"] {
        let name = action.replace('.', "-");
        scene.server.kubectl(&["create", "clusterrole", &name, "--verb=get", "--resource=pods"]).unwrap();
        let label = format!("hemostat.dev/action={action}");
        scene.server.kubectl(&["label", "clusterrole", &name, &label]).unwrap();
    }
    let ways = file(
        "ways.yaml",
        &format!(
            "{head}  steps:\n  - name: detach\n    action: cluster.detach-pod\n    alternatives:\n    - {{action: cluster.isolate-pod}}\n  \
             - {{name: memory, action: cluster.collect-evidence, needs: [detach], with: {{memory: Private}}}}\n"
        ),
    );
    let said = scene.plugin("admin", 80, &["plan", &ways]);
    assert_eq!(said.code, 0, "{said:?}");
    let row = |step: &str| said.out.lines().find(|line| line.starts_with(step)).unwrap_or_default();
    assert!(row("detach").contains(" yes"), "{}", said.out);
    assert!(row("  else").contains("cluster.isolate-pod") && row("  else").contains(" no"), "{}", said.out);
    assert!(row("memory").contains(" not memory"), "{}", said.out);
    assert!(said.out.contains("the controller has no right to cluster.isolate-pod: these"), "{}", said.out);
    let memory = act::permissions::CHECKPOINT;
    assert!(
        said.out.contains(&format!("no right to {memory}: memory would collect all but memory; add it")),
        "{}",
        said.out
    );

    let broken = file(
        "broken.yaml",
        &format!(
            "{head}  steps:\n  - {{name: a, action: node.freeze, needs: [b]}}\n  - {{name: b, action: node.frieze, needs: [a], when: '1 +'}}\n"
        ),
    );
    let said = scene.plugin("admin", 80, &["plan", &broken]);
    assert!(said.code != 0 && said.out.is_empty(), "{said:?}");
    for part in [
        "broken.yaml:9:23",
        "unknown action `node.frieze`",
        "did you mean `node.freeze`?",
        "in a circle: `a` needs `b` needs `a`",
        "broken.yaml:9:",
    ] {
        assert!(said.err.contains(part), "no {part:?} in {}", said.err);
    }
    // Who may not write playbooks is told by the API server; the check itself needs no right.
    let said = scene.plugin("eve", 80, &["plan", &good]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("User \"eve\" cannot patch resource \"playbooks\""), "{}", said.err);
    assert!(said.out.contains("you may not list ResponsePolicies") && said.out.contains('?'), "{}", said.out);
    let said = scene.plugin("admin", 80, &["plan", &file("rules.yaml", "title: a rule\n")]);
    assert!(said.code == 1 && said.err.contains("rules.yaml"), "{said:?}");
    let said = scene.plugin("admin", 80, &["plan", "/nonexistent.yaml"]);
    assert!(said.code == 1 && said.err.contains("/nonexistent.yaml"), "{said:?}");
    // What is shipped can be planned.
    for entry in std::fs::read_dir(repository("playbooks/kubernetes")).unwrap().flatten() {
        let path = entry.path();
        if !path.is_file() || path.to_string_lossy().contains(".test.") {
            continue;
        }
        let said = scene.plugin("admin", 80, &["plan", &path.display().to_string()]);
        assert_eq!(said.code, 0, "{}: {said:?}", path.display());
    }
}
