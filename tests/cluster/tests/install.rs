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

/// Every part of values.yaml, set to something else than nothing.
fn all_values() -> Value {
    json!({
        "image": {"tag": "test", "pullSecrets": [{"name": "pull"}]},
        "controller": {"replicas": 2, "auditLog": "/var/log/kubernetes/audit.log", "tolerations": [{"operator": "Exists"}],
            "persistentVolumeClaim": "journal", "extraArgs": ["--certificate-seconds=1800"],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference":
                {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["control"]}]}}]}}},
        "agent": {"privileged": false, "extraArgs": ["--reactions=off"], "controllerAddress": "$(HOST_IP):7443"},
        "actions": {"enabled": ["cluster.isolate-pod", "cluster.scan-image", "notify.send"]},
        "notifications": {"channels": [
            {"name": "soc", "kind": "slack", "secret": {"name": "slack", "key": "url"}},
            {"name": "tickets", "kind": "jira", "url": "https://jira.example", "project": "SEC", "issueType": "Bug",
                "secret": {"name": "jira", "key": "token"}},
            {"name": "duty", "kind": "pagerDuty", "secret": {"name": "duty", "key": "key"}},
            {"name": "code", "kind": "gitHub", "repository": "org/repo", "secret": {"name": "code", "key": "token"}},
            {"name": "hook", "kind": "webhook", "url": "http://hook.example/"}]},
        "classes": [{"class": "restricted", "because": "cards", "namespaces": ["pay-*"]}, {"class": "public"}],
        "scanner": {"kind": "trivy", "image": "registry.example/trivy:1", "arguments": ["--offline-scan"], "pullSecret": "pull"},
        "files": [{"name": "feeds", "configMap": "intelligence"}, {"name": "own", "secret": "own"},
            {"name": "kept", "persistentVolumeClaim": "kept"}, {"name": "node", "hostPath": "/srv/hemostat"}],
        "feeds": ["plain=/etc/hemostat/files/feeds/addresses.txt,confidence=80,name=ours"],
        "sources": [{"source": "netflow=udp://0.0.0.0:2055,from=127.0.0.0/8", "port": 2055, "protocol": "UDP"},
            {"source": "cloudtrail=/etc/hemostat/files/node/trail"}],
        "artifacts": {"pullSecrets": ["rules-pull"]},
        "uninstall": {"inForce": "Leave", "timeoutSeconds": 20},
        "crds": {"install": true, "keep": false},
        "admission": {"install": true},
        "networkPolicies": {"install": true, "apiServer": ["192.0.2.1/32"], "apiServerPorts": [6443],
            "registries": [{"cidr": "192.0.2.7/32", "port": 5000}], "egress": [{"cidr": "192.0.2.8/32", "port": 514, "protocol": "UDP"}]},
        "priorityClass": {"install": true, "name": "hemostat-test", "value": 1000},
        "podDisruptionBudget": {"install": true, "maxUnavailable": 1},
    })
}

/// Every value is taken by the API server, and the controller starts with the words that come of them, in the rights of its account.
#[test]
fn with_every_value_set_the_chart_is_installed_and_the_controller_starts_with_its_words() {
    let Some(scene) = Scene::new() else { return };
    let chart = repository("deploy/chart");
    let text = std::fs::read_to_string(format!("{chart}/values.yaml")).unwrap();
    let values = all_values();
    for line in text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase())) {
        let key = line.split(':').next().unwrap();
        assert!(values.get(key).is_some(), "{key} of values.yaml is not set here");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.json");
    std::fs::write(&file, values.to_string()).unwrap();
    let file = file.display().to_string();
    scene.helm_does(&["install", "hemostat", &chart, "--create-namespace", "--values", &file]);

    // What the kubelet would make of the volumes.
    let map = scene.get(&["configmap", "hemostat-channels", "-n", HOME]).unwrap();
    let etc = folder.path().join("etc");
    let write = |path: &str, text: &str| {
        let path = etc.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("/etc/hemostat", &etc.display().to_string())).unwrap();
    };
    write("channels.d/channels.yaml", map["data"]["channels.yaml"].as_str().unwrap());
    let map = scene.get(&["configmap", "hemostat-classes", "-n", HOME]).unwrap();
    write("classes/classes.yaml", map["data"]["classes.yaml"].as_str().unwrap());
    for channel in ["soc", "tickets", "duty", "code"] {
        write(&format!("channels/{channel}/secret"), "a secret");
    }
    write("files/feeds/addresses.txt", "198.51.100.7\n203.0.113.9\n");
    write("files/node/trail/.keep", "");
    write("audit.log", "");
    let controller = scene.get(&["deployment", "hemostat-controller", "-n", HOME]).unwrap();
    let pod = &controller["spec"]["template"]["spec"];
    let mounted: Vec<&str> = pod["containers"][0]["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    for path in [
        "/etc/hemostat/channels.d",
        "/etc/hemostat/channels/soc",
        "/etc/hemostat/classes",
        "/etc/hemostat/files/feeds",
        "/etc/hemostat/files/node",
    ] {
        assert!(mounted.contains(&path), "{path} is not mounted: {mounted:?}");
    }
    let [links, probes, flows] = free_ports();
    let words: Vec<String> = pod["containers"][0]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| {
            word.as_str()
                .unwrap()
                .replace("/etc/hemostat", &etc.display().to_string())
                .replace("/var/log/kubernetes", &etc.display().to_string())
                .replace("/var/lib/hemostat", &folder.path().join("state").display().to_string())
                .replace("0.0.0.0:7443", &links)
                .replace("0.0.0.0:8081", &probes)
                .replace("0.0.0.0:2055", &flows)
        })
        .collect();
    std::fs::create_dir_all(folder.path().join("state")).unwrap();
    let token = scene.kubectl(&["create", "token", "hemostat-controller", "-n", HOME]);
    let log = folder.path().join("log");
    let child = Command::new(&scene.program)
        .arg("controller")
        .args(&words)
        .env("KUBECONFIG", scene.server.kubeconfig_of("chart", token.trim()))
        .env("HEMOSTAT_IDENTITY", "controller-0")
        .env("HEMOSTAT_SERVICE", "hemostat-controller")
        .env("HEMOSTAT_POD_ADDRESS", "192.0.2.7")
        .env("HEMOSTAT_SOCKET", folder.path().join("c.sock"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let child = Ends(child);
    let serves = wait_until(|| readyz(&probes).is_some_and(|said| said.starts_with("serving")));
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(serves.is_ok(), "{words:?}\n{logged}");
    let said = readyz(&probes).unwrap();
    assert!(!said.contains("intelligence:") && !said.contains("ingest:"), "{said}\n{logged}");
    drop(child);
    scene.helm_does(&["uninstall", "hemostat", "--timeout=60s"]);
    assert_eq!(scene.left(), "", "helm uninstall leaves nothing");
}

/// Ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn free_ports() -> [String; 3] {
    // Held until all are chosen, so that they differ.
    let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    [0, 1, 2].map(|at: usize| held[at].local_addr().unwrap().to_string())
}

/// What the controller says of itself; nothing while it does not listen.
fn readyz(address: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}
