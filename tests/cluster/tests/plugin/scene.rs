//! Incidents with what belongs to them, as the controller writes them, and the plugin.

use std::{
    cell::Cell,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use hemostat_cluster_tests::api_server::ApiServer;
use serde_json::{Value, json};

pub(crate) struct Scene {
    pub(crate) server: Arc<ApiServer>,
    /// A folder with `kubectl-hemostat`.
    folder: tempfile::TempDir,
}

/// How the plugin ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Scene {
    /// `None`, said aloud, where it cannot be played. A namespace of its own for each test: they share a server.
    pub(crate) fn new(namespaces: &[&str]) -> Option<Self> {
        Self::on(ApiServer::here, namespaces)
    }

    /// The same on a server of its own, where nothing of the others is seen.
    pub(crate) fn alone(namespaces: &[&str]) -> Option<Self> {
        Self::on(ApiServer::own, namespaces)
    }

    fn on(server: fn() -> Option<Arc<ApiServer>>, namespaces: &[&str]) -> Option<Self> {
        let Some(program) = std::env::var_os("HEMOSTAT_PROGRAM").map(PathBuf::from) else {
            println!("SKIPPED: kubectl hemostat: HEMOSTAT_PROGRAM does not name the hemostat program");
            return None;
        };
        let server = server()?;
        let folder = tempfile::tempdir().unwrap();
        symlink(program, folder.path().join("kubectl-hemostat")).unwrap();
        for namespace in namespaces {
            server.kubectl(&["create", "namespace", namespace]).unwrap();
        }
        BEGUN.set(seconds());
        Some(Self { server, folder })
    }

    /// `kubectl hemostat WORDS` in a window of this width.
    pub(crate) fn plugin(&self, user: &str, width: u32, words: &[&str]) -> Said {
        self.plugin_with(&self.server.kubeconfig(user), width, words)
    }

    pub(crate) fn plugin_with(&self, kubeconfig: &Path, width: u32, words: &[&str]) -> Said {
        let kubectl = self.server.kubectl_program();
        let folders =
            [Some(self.folder.path()), kubectl.parent()].map(|path| path.unwrap().display().to_string());
        let path = format!("{}:{}", folders.join(":"), std::env::var("PATH").unwrap_or_default());
        let output = Command::new(kubectl)
            .arg("hemostat")
            .args(words)
            .env("PATH", path)
            .env("KUBECONFIG", kubeconfig)
            .env("COLUMNS", width.to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// An object as the controller makes it, with its status.
    pub(crate) fn make(&self, object: &Value, status: &Value) {
        self.server.create("admin", &object.to_string(), &["--validate=strict"]).unwrap();
        let (kind, meta) = (object["kind"].as_str().unwrap(), &object["metadata"]);
        let what = format!("{kind}/{}", meta["name"].as_str().unwrap());
        let patch = json!({"status": status}).to_string();
        let namespace = meta["namespace"].as_str().unwrap();
        let words =
            ["patch", "-n", namespace, &what, "--subresource=status", "--type=merge", "-p", patch.as_str()];
        self.server.kubectl(&words).unwrap();
    }

    /// An incident that began so many minutes ago.
    pub(crate) fn incident(&self, namespace: &str, name: &str, title: &str, minutes: u64, status: &Value) {
        let spec = json!({"title": title, "firstEvent": ago(minutes)});
        let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "Incident", "spec": spec,
            "metadata": {"name": name, "namespace": namespace, "labels": {"hemostat.dev/incident": name}}});
        self.make(&object, status);
    }

    /// An action of an incident.
    pub(crate) fn action(&self, namespace: &str, incident: &str, step: &str, action: &str, status: &Value) {
        let plan = json!({"incident": incident, "run": format!("run-{incident}"), "step": step,
            "action": action, "node": "node-1", "key": format!("{incident}/{step}"), "undo": {"class": "Exact"}, "radius": "Process",
            "deadline": "2030-01-01T00:00:00Z",
            "target": {"process": {"pid": 4711, "start": 99}}});
        let name = format!("act-{}-{step}", incident.trim_start_matches("inc-"));
        let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponseAction", "spec": {"plan": plan},
            "metadata": {"name": name, "namespace": namespace, "labels": {"hemostat.dev/incident": incident}}});
        self.make(&object, status);
    }

    /// A question about a step of an incident; its name.
    pub(crate) fn question(
        &self,
        namespace: &str,
        incident: &str,
        step: &str,
        change: impl Fn(&mut Value),
    ) -> String {
        let mut request = json!({"incident": incident, "run": format!("run-{incident}"), "playbook": "cryptominer", "step": step,
            "action": "node.kill", "would": "kill pid 4711 (xmrig) and its descendants", "because": "it cannot be undone",
            "residual": "the process is gone", "requestedBy": "controller", "expires": "2030-01-01T00:00:00Z"});
        change(&mut request);
        let name = format!("run-{}-{step}", incident.trim_start_matches("inc-"));
        let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "Approval", "spec": {"request": request},
            "metadata": {"name": name, "namespace": namespace, "labels": {"hemostat.dev/incident": incident}}});
        let summary = json!({"until": "16:15Z", "would": "kill pid 4711 and its descendants"});
        self.make(&object, &json!({"state": "Pending", "summary": summary}));
        name
    }

    /// The narrative of an incident, as the controller makes it.
    pub(crate) fn narrative(&self, namespace: &str, incident: &str, document: &str) {
        let spec = json!({"incident": incident, "told": ago(1), "questions": 1, "document": document});
        let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "Narrative", "spec": spec,
            "metadata": {"name": incident, "namespace": namespace, "labels": {"hemostat.dev/incident": incident}}});
        self.server.create("admin", &object.to_string(), &["--validate=strict"]).unwrap();
    }

    /// What stands in an object.
    pub(crate) fn get(&self, namespace: &str, what: &str) -> Value {
        let text = self.server.kubectl(&["get", "-n", namespace, what, "-o", "json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// What is captured before an action.
pub(crate) fn captured(minutes: u64) -> Value {
    json!({"at": ago(minutes), "digest": format!("sha256:{}", "0".repeat(64)), "here": "{}"})
}

thread_local! {
    /// When this test made its scene.
    static BEGUN: Cell<u64> = const { Cell::new(0) };
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// So many minutes and a third before the scene was made, as the API server writes times: whole minutes of age, and the same moment for the
/// same minutes, however long the test takes.
pub(crate) fn ago(minutes: u64) -> String {
    let then = BEGUN.get() - minutes * 60 - 20;
    let words = ["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d", &format!("@{then}")];
    let output = Command::new("date").args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
