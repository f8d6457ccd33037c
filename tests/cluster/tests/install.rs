//! The chart on a real API server, by helm itself: installed, changed, and removed only when nothing is in force. There is no node here, so
//! that the test does what the Job of the removal would: it runs its command line with the account that the chart made for it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test of its own; what cannot be done fails it; the runner counts lines of skips"
)]

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use hemostat_cluster_tests::{
    api_server::{ApiServer, repository},
    cache, wait_until,
};
use serde_json::{Value, json};

const HOME: &str = "hemostat-system";

struct Scene {
    server: Arc<ApiServer>,
    helm: PathBuf,
    program: PathBuf,
}

impl Scene {
    fn new() -> Option<Self> {
        let Some(program) = std::env::var_os("HEMOSTAT_PROGRAM").map(PathBuf::from) else {
            println!("SKIPPED: the chart's life: HEMOSTAT_PROGRAM does not name the hemostat program");
            return None;
        };
        let Some(helm) = cache().map(|cache| cache.join("cluster/bin/helm")).filter(|helm| helm.exists())
        else {
            println!("SKIPPED: the chart's life: `cargo xtask cluster build` builds helm");
            return None;
        };
        Some(Self { server: ApiServer::bare()?, helm, program })
    }

    fn helm(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.helm);
        command.args(words).args(["--namespace", HOME, "--kubeconfig"]).arg(self.server.kubeconfig("admin"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn helm_does(&self, words: &[&str]) -> String {
        let output = self.helm(words).output().unwrap();
        assert!(output.status.success(), "helm {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.server.kubectl(words).unwrap_or_else(|error| panic!("kubectl {words:?}: {error}"))
    }

    fn get(&self, words: &[&str]) -> Option<Value> {
        let text = self.server.kubectl(&[&["get", "-o", "json"], words].concat()).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    fn may(&self, account: &str, words: &[&str]) -> bool {
        let who = format!("--as=system:serviceaccount:{HOME}:{account}");
        self.server.kubectl(&[&["auth", "can-i", "--quiet"], words, &[who.as_str()]].concat()).is_ok()
    }

    /// Everything that the chart made and that is not kept.
    fn left(&self) -> String {
        let kinds = "deployments,daemonsets,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,jobs,\
                     networkpolicies,poddisruptionbudgets,priorityclasses,validatingadmissionpolicies,validatingadmissionpolicybindings";
        self.kubectl(&["get", kinds, "-A", "--selector=app.kubernetes.io/part-of=hemostat", "-o", "name"])
    }

    /// What the Job controller and the kubelet would do with the Job of the removal: how it ended, and what it said.
    fn run_job(&self) -> Output {
        wait_until(|| self.get(&["job", "-n", HOME, "hemostat-uninstall"]).is_some()).unwrap();
        let job = self.get(&["job", "-n", HOME, "hemostat-uninstall"]).unwrap();
        let pod = &job["spec"]["template"]["spec"];
        let account = pod["serviceAccountName"].as_str().unwrap();
        let token = self.kubectl(&["create", "token", account, "-n", HOME]);
        let words: Vec<&str> = pod["containers"][0]["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        let output = Command::new(&self.program)
            .args(words)
            .env("KUBECONFIG", self.server.kubeconfig_of("job", token.trim()))
            .output()
            .unwrap();
        let now = "2026-01-01T00:00:00Z";
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": "X", "message": "played by the test", "lastTransitionTime": now,
                "lastProbeTime": now})
        };
        let status = if output.status.success() {
            json!({"startTime": now, "completionTime": now, "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]})
        } else {
            json!({"startTime": now, "failed": 1, "conditions": [condition("FailureTarget"), condition("Failed")]})
        };
        let patch = json!({"status": status}).to_string();
        let job = "job/hemostat-uninstall";
        self.kubectl(&["patch", "-n", HOME, job, "--subresource=status", "--type=merge", "-p", &patch]);
        output
    }

    fn uninstall(&self) -> Child {
        self.helm(&["uninstall", "hemostat", "--timeout=60s"]).spawn().unwrap()
    }

    fn patch_status(&self, what: &str, status: &Value) {
        let patch = json!({"status": status}).to_string();
        self.kubectl(&["patch", "-n", "pay", what, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    /// An action in force, as the controller shows it.
    fn action(&self, name: &str) {
        let plan = json!({"run": "run-1", "step": "freeze", "action": "node.freeze", "node": "n", "key": "12345678",
            "undo": {"class": "Exact"}, "radius": "Process", "deadline": "2030-01-01T00:00:00Z", "target": {"process": {"pid": 4711, "start": 99}}});
        let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponseAction", "spec": {"plan": plan},
            "metadata": {"name": name, "namespace": "pay", "finalizers": ["hemostat.dev/revert"]}});
        self.server.create("admin", &object.to_string(), &[]).unwrap();
        let capture = json!({"at": "2026-01-01T00:00:00Z", "digest": format!("sha256:{}", "0".repeat(64)), "here": "{}"});
        self.patch_status(
            &format!("ract/{name}"),
            &json!({"state": "Verified", "capture": capture, "target": "process 4711"}),
        );
    }
}

#[test]
fn the_chart_is_installed_changed_and_removed_but_not_while_something_is_in_force() {
    let Some(scene) = Scene::new() else { return };
    let chart = repository("deploy/chart");
    scene.helm_does(&["install", "hemostat", &chart, "--create-namespace"]);
    // What is installed can be used at once.
    scene.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    scene.kubectl(&["create", "namespace", "pay"]);
    // The rights are those of the enabled actions.
    let rights = |verb: &str, what: &str| scene.may("hemostat-controller", &[verb, what, "-A"]);
    wait_until(|| rights("patch", "pods")).unwrap();
    for (verb, what, expected) in [
        ("list", "pods", true),
        ("create", "networkpolicies.networking.k8s.io", true),
        ("patch", "incidents.hemostat.dev", true),
        ("delete", "pods", false),
        ("create", "pods", false),
        ("get", "secrets", false),
        ("patch", "nodes", true),
        ("update", "clusterrolebindings.rbac.authorization.k8s.io", false),
        ("impersonate", "users", false),
        ("*", "*", false),
    ] {
        assert_eq!(rights(verb, what), expected, "{verb} {what}");
    }
    let secret =
        |name: &str| scene.may("hemostat-controller", &["get", &format!("secret/{name}"), "-n", HOME]);
    assert!(secret("hemostat-ca"));
    for (verb, what) in [
        ("get", "pods"),
        ("get", "nodes"),
        ("list", "incidents.hemostat.dev"),
        ("get", "configmaps"),
        ("create", "events"),
    ] {
        assert!(!scene.may("hemostat-agent", &[verb, what, "-n", HOME]), "the agent may {verb} {what}");
    }

    // Changed: other actions, a pull secret.
    let more = [
        "--set",
        "actions.enabled={cluster.cordon}",
        "--set",
        "artifacts.pullSecrets={rules-pull}",
        "--set",
        "uninstall.timeoutSeconds=20",
    ];
    scene.helm_does(&[&["upgrade", "hemostat", &chart][..], &more].concat());
    wait_until(|| secret("rules-pull")).unwrap();
    assert!(
        !rights("create", "networkpolicies.networking.k8s.io"),
        "the rights of an action that is no longer enabled are gone"
    );
    assert!(rights("patch", "nodes"));

    // Something is in force: it is named, and nothing is removed.
    scene.action("act-one");
    let removal = scene.uninstall();
    let said = scene.run_job();
    assert_eq!(said.status.code(), Some(6), "{said:?}");
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout).into_owned(),
        String::from_utf8_lossy(&said.stderr).into_owned(),
    );
    assert!(out.contains("pay") && out.contains("act-one") && out.contains("node.freeze"), "{out}");
    assert!(err.contains("1 actions are in force: undo it"), "{err}");
    let ended = removal.wait_with_output().unwrap();
    assert!(!ended.status.success(), "{ended:?}");
    assert!(
        scene.get(&["deployment", "-n", HOME, "hemostat-controller"]).is_some(),
        "the controller is still there to undo it"
    );
    assert!(scene.get(&["daemonset", "-n", HOME, "hemostat-agent"]).is_some());

    // It is undone, and the same command goes on.
    scene.patch_status("ract/act-one", &json!({"state": "Reverted"}));
    // The one that failed stays for its log; helm makes another.
    scene.kubectl(&["delete", "job", "-n", HOME, "hemostat-uninstall"]);
    let removal = scene.uninstall();
    let said = scene.run_job();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "nothing is in force\n", "{said:?}");
    assert!(removal.wait_with_output().unwrap().status.success());
    assert_eq!(scene.left(), "", "helm uninstall leaves nothing");

    // Installed again over the definitions that stayed, and told to undo what is in force: the controller is played, since there is none here.
    scene.helm_does(
        &[&["install", "hemostat", &chart, "--set", "uninstall.inForce=Revert"][..], &more].concat(),
    );
    scene.action("act-two");
    let removal = scene.uninstall();
    let said = std::thread::scope(|threads| {
        let job = threads.spawn(|| scene.run_job());
        let asked = || {
            scene
                .get(&["ract", "-n", "pay", "act-two"])
                .is_some_and(|it| it["spec"]["end"]["how"] == "Revert")
        };
        wait_until(asked).unwrap();
        scene.patch_status("ract/act-two", &json!({"state": "Reverted"}));
        job.join().unwrap()
    });
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).contains("all of it is undone"));
    let by = scene.get(&["ract", "-n", "pay", "act-two"]).unwrap()["spec"]["end"]["by"].clone();
    assert_eq!(by, format!("system:serviceaccount:{HOME}:hemostat-uninstall"), "in its own name");
    let ended = removal.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(scene.left(), "", "helm uninstall leaves nothing");
    // The definitions stay, and with them what was done.
    assert!(scene.get(&["ract", "-n", "pay", "act-two"]).is_some());
}
