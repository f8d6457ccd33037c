//! A controller process on a real API server, with the rights that the chart gives it.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use hemostat_cluster_tests::{
    api_server::{ApiServer, repository},
    recorder::Recorder,
};
use serde_json::{Value, json};

use crate::node::{Node, enrol};

pub(crate) const HOME: &str = "hemostat-system";
/// Through which agents would come.
pub(crate) const SERVICE: &str = "hemostat-controller";
/// Longest wait for what should come within a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Scene {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) program: PathBuf,
    /// The door that controllers come through, where their requests are of interest.
    pub(crate) recorder: Option<Recorder>,
}

/// A running controller; killed at the end.
pub(crate) struct Process {
    child: Child,
    /// Where agents connect.
    pub(crate) links: String,
    /// Where probes are.
    pub(crate) probes: String,
    pub(crate) log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
    }
}

impl Scene {
    /// `None`, said aloud, where it cannot be played. A server of its own for each.
    pub(crate) fn new() -> Option<Self> {
        let Some(program) = std::env::var_os("HEMOSTAT_PROGRAM").map(PathBuf::from) else {
            println!(
                "SKIPPED: the controller in a cluster: HEMOSTAT_PROGRAM does not name the hemostat program"
            );
            return None;
        };
        let server = ApiServer::own()?;
        let scene = Self { server, folder: tempfile::tempdir().unwrap(), program, recorder: None };
        scene.install();
        Some(scene)
    }

    /// One in which every request of a controller is written down.
    pub(crate) fn recorded() -> Option<Self> {
        let mut scene = Self::new()?;
        scene.recorder = Some(scene.server.recorded("controller"));
        Some(scene)
    }

    fn kubeconfig(&self) -> PathBuf {
        match &self.recorder {
            Some(recorder) => recorder.kubeconfig.clone(),
            None => self.server.kubeconfig("controller"),
        }
    }

    fn install(&self) {
        self.kubectl(&["create", "namespace", HOME]);
        let rights = fs::read_to_string(repository("deploy/chart/files/own-rights.yaml")).unwrap();
        let (always, own) = rights.split_once("\nalways:\n").unwrap().1.split_once("\nown:\n").unwrap();
        let subject = "subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: controllers}]";
        let text = format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: c}}\nrules:\n{always}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: c}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: c}}\n{subject}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: c, namespace: {HOME}}}\nrules:\n{own}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: c, namespace: {HOME}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: c}}\n{subject}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: s, namespace: {HOME}}}\nrules:\n  \
             - {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [create]}}\n  \
             - {{apiGroups: [discovery.k8s.io], resources: [endpointslices], resourceNames: [{SERVICE}-leader], verbs: [get, patch]}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: s, namespace: {HOME}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: s}}\n{subject}\n"
        );
        // Only what the chart grants: the broad role of the other tests is taken away.
        self.kubectl(&["delete", "clusterrolebinding", "control"]);
        self.server.kubectl_as("admin", &["apply", "-f", "-"], Some(&text)).unwrap();
        self.kubectl(&["create", "serviceaccount", "hemostat-agent", "-n", HOME]);
        self.kubectl(&["create", "serviceaccount", "default", "-n", HOME]);
    }

    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        self.server.kubectl(words).unwrap_or_else(|error| panic!("kubectl {words:?}: {error}"))
    }

    pub(crate) fn apply(&self, text: &str) {
        self.server.kubectl_as("admin", &["apply", "--server-side", "-f", "-"], Some(text)).unwrap();
    }

    pub(crate) fn get(&self, words: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], words].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// A token of the agents' account, bound to a pod on `node`, and the pod and node with it.
    pub(crate) fn token(&self, node: &str, account: &str) -> String {
        let pod = format!("agent-{account}-{node}");
        let objects = [
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": HOME}, "spec": {
                "nodeName": node, "serviceAccountName": account, "automountServiceAccountToken": false,
                "containers": [{"name": "agent", "image": "none"}]}}),
        ];
        for object in objects {
            self.apply(&object.to_string());
        }
        let words = [
            "create",
            "token",
            account,
            "-n",
            HOME,
            "--audience=hemostat",
            "--bound-object-kind=Pod",
            "--bound-object-name",
            &pod,
        ];
        self.kubectl(&words).trim().to_owned()
    }

    pub(crate) fn authority(&self) -> String {
        let map = self.get(&["configmap", "hemostat-ca", "-n", HOME]);
        map["data"]["ca.crt"].as_str().unwrap().to_owned()
    }

    /// Starts a controller with the state folder `state`, and waits until agents can connect.
    pub(crate) fn start(&self, state: &str) -> Process {
        let mut process = self.spawn(state, state);
        process.wait_to_serve();
        process
    }

    pub(crate) fn spawn(&self, identity: &str, state: &str) -> Process {
        self.spawn_to_die(identity, state, "")
    }

    /// One that kills itself once an effect of an action whose name ends so is written down and not yet commanded.
    pub(crate) fn spawn_to_die(&self, identity: &str, state: &str, crash: &str) -> Process {
        let (links, probes) = free_ports();
        let state = self.folder.path().join(state);
        let log = self.folder.path().join(format!("{identity}-{links}.log"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if crash.is_empty() {
            command.arg(&self.program).args([
                "--socket",
                &state.join("c.sock").display().to_string(),
                "controller",
            ]);
            command.args([
                "--listen",
                &format!("127.0.0.1:{links}"),
                "--probes",
                &format!("127.0.0.1:{probes}"),
            ]);
            command.args([
                "--state",
                &state.display().to_string(),
                "--namespace",
                HOME,
                "--identity",
                identity,
            ]);
            command.args(["--service", SERVICE, "--pod-address", "192.0.2.7"]);
            command.arg("--kubeconfig").arg(self.kubeconfig());
        } else {
            command.arg(std::env::current_exe().unwrap()).args(["crash::child", "--exact", "--nocapture"]);
            let words = json!({"crash": crash, "links": format!("127.0.0.1:{links}"), "probes": format!("127.0.0.1:{probes}"),
                "state": state, "identity": identity, "kubeconfig": self.kubeconfig()});
            command.env("HEMOSTAT_CRASH_CHILD", words.to_string());
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, links: format!("127.0.0.1:{links}"), probes: format!("127.0.0.1:{probes}"), log }
    }

    /// A node that is linked.
    pub(crate) async fn node(&self, process: &Process, name: &str) -> Node {
        let enrolled =
            enrol(&process.links, &self.authority(), &self.token(name, "hemostat-agent")).await.unwrap();
        assert_eq!(enrolled.node.as_str(), name);
        Node::connect(&process.links, name, enrolled)
    }

    /// A controller, and a node of it, once the playbook `miner` is in force.
    pub(crate) async fn opens(&self, playbook: &str) -> (Process, Node) {
        self.apply(playbook);
        let process = self.start("one");
        let node = self.node(&process, "n1").await;
        self.accepted();
        (process, node)
    }

    /// The same, with a pod on that node: its uid.
    pub(crate) async fn opens_with_pod(&self, playbook: &str) -> (Process, Node, String) {
        let (process, node) = self.opens(playbook).await;
        let uid = self.pod_in("pay", "c");
        (process, node, uid)
    }

    /// Waits until the playbook `miner` is in force.
    pub(crate) fn accepted(&self) {
        self.wait(&["playbook", "miner"], |it| it["status"]["conditions"][0]["status"] == "True");
    }

    /// The uid of a pod on n1 in a namespace, with a container whose id is one letter again and again.
    pub(crate) fn pod_in(&self, namespace: &str, container: &str) -> String {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "api-0", "namespace": namespace, "labels": {"app": "api"}}, "spec": {
            "nodeName": "n1", "automountServiceAccountToken": false, "containers": [{"name": "api", "image": "none"}]}});
        self.kubectl(&["create", "serviceaccount", "default", "-n", namespace]);
        self.apply(&pod.to_string());
        let status = json!({"status": {"phase": "Running", "containerStatuses": [{"name": "api", "image": "none", "imageID": "none",
            "ready": true, "restartCount": 0, "containerID": format!("containerd://{}", container.repeat(64)),
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}}).to_string();
        let words =
            ["patch", "pod", "api-0", "-n", namespace, "--subresource=status", "--type=merge", "-p", &status];
        self.kubectl(&words);
        self.get(&["pod", "api-0", "-n", namespace])["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// The labels of that pod: what an exact undo gives back.
    pub(crate) fn labels(&self) -> Value {
        self.get(&["pod", "api-0", "-n", "pay"])["metadata"]["labels"].clone()
    }

    /// The rights of one action, as the chart gives them.
    pub(crate) fn grant(&self, action: &str) {
        let all = fs::read_to_string(repository("deploy/chart/files/action-rights.yaml")).unwrap();
        let rest = all.split_once(&format!("\n{action}:\n")).unwrap().1;
        let rules: Vec<&str> = rest.lines().take_while(|line| line.starts_with("  ")).collect();
        let name = action.replace('.', "-");
        self.apply(&format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {name}}}\nrules:\n{}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {name}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}\n\
             subjects: [{{kind: Group, apiGroup: rbac.authorization.k8s.io, name: controllers}}]\n",
            rules.join("\n")
        ));
    }

    /// What ada writes into an object, which the API server takes.
    pub(crate) fn ada_says(&self, namespace: &str, what: &str, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        let words = ["patch", "-n", namespace, what, "--type=merge", "-p", &patch];
        self.server.kubectl_as("ada", &words, None).unwrap();
    }

    /// Ada's word that an incident was none.
    pub(crate) fn false_positive(&self, namespace: &str, incident: &str) {
        let verdict = json!({"is": "FalsePositive", "by": "ada", "reason": "a drill"});
        self.ada_says(namespace, &format!("inc/{incident}"), &json!({ "verdict": verdict }));
    }

    /// Ada's word that an action is undone.
    pub(crate) fn undo(&self, namespace: &str, action: &str, reason: &str) {
        let end = json!({"how": "Revert", "by": "ada", "reason": reason});
        self.ada_says(namespace, &format!("ract/{action}"), &json!({ "end": end }));
    }

    /// A node that knows what it did before at the door of another controller.
    pub(crate) async fn node_again(&self, process: &Process, before: Vec<String>) -> Node {
        let node = self.node(process, "n1").await;
        node.world.lock().unwrap().effects = before;
        node
    }

    /// Waits for what kubectl shows to be so, and gives it.
    pub(crate) fn wait(&self, words: &[&str], so: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.server.kubectl(&[&["get", "-o", "json"], words].concat());
            let value: Value =
                found.as_deref().map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
            if so(&value) {
                return value;
            }
            assert!(
                Instant::now() < until,
                "kubectl get {words:?} did not come to be so: {value:#}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|end| end == "log") {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let from = lines.len().saturating_sub(40);
                all.push_str(&format!("--- {}\n{}\n", entry.path().display(), lines[from..].join("\n")));
            }
        }
        all
    }
}

impl Process {
    /// Waits until it has killed itself.
    pub(crate) fn wait_for_death(&mut self) {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{status}: {}", fs::read_to_string(&self.log).unwrap());
    }

    pub(crate) fn kill(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn stop(mut self) {
        let status =
            Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        assert!(self.child.wait().unwrap().success(), "{}", fs::read_to_string(&self.log).unwrap());
    }

    pub(crate) fn wait_to_serve(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.readiness().as_deref() != Some("serving") {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the controller ended with {status}: {}", log());
            }
            assert!(Instant::now() < until, "the controller does not serve: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// First line of what /readyz says.
    pub(crate) fn readiness(&self) -> Option<String> {
        self.ask("/readyz").and_then(|body| body.lines().next().map(str::to_owned))
    }

    pub(crate) fn ask(&self, path: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.probes).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }
}

/// Whether of a list of actions each is undone and waits for nothing.
pub(crate) fn all_undone(it: &Value) -> bool {
    let over = |one: &Value| one["status"]["state"] == "Reverted" && one["metadata"]["finalizers"].is_null();
    it["items"].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(over))
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "it did not come about: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn free_ports() -> (u16, u16) {
    let held = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    (held[0].local_addr().unwrap().port(), held[1].local_addr().unwrap().port())
}
