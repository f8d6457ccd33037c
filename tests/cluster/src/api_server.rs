//! A real etcd and kube-apiserver, without nodes: what needs no pod is tested against them in seconds and without root.

#![expect(clippy::unwrap_used, clippy::panic, reason = "for tests: what cannot be done fails them")]

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Token, user and group of each. `admin` may do everything; the others what the tests give them.
pub const USERS: &str = "admin-token,admin,1,system:masters\n\
    controller-token,controller,2,controllers\n\
    ada-token,ada,3,people\n\
    bob-token,bob,4,\"people,soc-oncall\"\n\
    eve-token,eve,5\n";

/// One for all tests that run at the same time; it ends with the last of them.
pub struct ApiServer {
    kubectl: PathBuf,
    address: String,
    folder: tempfile::TempDir,
    /// Of the API server.
    pid: u32,
    stop: Option<mpsc::SyncSender<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

static RUNNING: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());

impl ApiServer {
    /// `None`, said aloud, where the programs are not there.
    pub fn here() -> Option<Arc<Self>> {
        // Poisoned: it could not be started, and would not be now.
        let mut running = RUNNING.lock().unwrap();
        if let Some(server) = running.upgrade() {
            return Some(server);
        }
        let Some(programs) = programs() else {
            skipped();
            return None;
        };
        let server = Arc::new(Self::start(&programs));
        server.install();
        *running = Arc::downgrade(&server);
        Some(server)
    }

    /// One of its own to which these words are said, too.
    #[must_use]
    pub fn with(words: &[String]) -> Option<Arc<Self>> {
        let Some(programs) = programs() else {
            skipped();
            return None;
        };
        Some(Arc::new(Self::start_with(&programs, words)))
    }

    fn start(programs: &Path) -> Self {
        Self::start_with(programs, &[])
    }

    fn start_with(programs: &Path, more: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(at("tokens.csv"), USERS).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(at("signer.key"), key.serialize_pem()).unwrap();
        fs::write(at("signer.pub"), key.public_key_pem()).unwrap();
        // Ports that were free a moment ago; several runs side by side do not meet.
        let [client, peer, api] = free_ports();
        let etcd = vec![
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ];
        let apiserver = vec![
            format!("--etcd-servers=http://127.0.0.1:{client}"),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={api}"),
            format!("--cert-dir={}", at("certificates")),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--service-account-issuer=https://tests.hemostat.dev".into(),
            format!("--service-account-key-file={}", at("signer.pub")),
            format!("--service-account-signing-key-file={}", at("signer.key")),
            "--service-cluster-ip-range=10.97.0.0/16".into(),
        ];
        let apiserver = [apiserver, more.to_vec()].concat();
        let started = [("etcd", etcd), ("kube-apiserver", apiserver)]
            .map(|(name, words)| (programs.join(name), words, folder.path().join(format!("{name}.log"))));
        let (stop, stopped) = mpsc::sync_channel::<()>(0);
        let (tell, told) = mpsc::sync_channel::<u32>(2);
        // The programs die with the thread that started them, so that a killed test leaves none; it lives as long as the server.
        let keeper = thread::spawn(move || {
            let mut children: Vec<Child> =
                started.iter().map(|(program, words, log)| spawn(program, words, log)).collect();
            for child in &children {
                tell.send(child.id()).unwrap();
            }
            let _ended = stopped.recv();
            for child in children.iter_mut().rev() {
                let _gone_already = child.kill();
                let _status = child.wait();
            }
        });
        let pid = told.iter().take(2).last().unwrap();
        let server = Self {
            pid,
            kubectl: programs.join("kubectl"),
            address: format!("https://127.0.0.1:{api}"),
            folder,
            stop: Some(stop),
            keeper: Some(keeper),
        };
        server.wait_for(&["get", "--raw", "/readyz"], "ok");
        server
    }

    /// The definitions and the policies, as a user installs them, and what the tests' users may do.
    fn install(&self) {
        let (definitions, admission) = (repository("deploy/crds"), repository("deploy/admission"));
        let said = self.kubectl(&["apply", "--server-side", "-f", &definitions, "-f", &admission]).unwrap();
        assert_eq!(said.lines().count(), 15, "{said}");
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).unwrap();
        self.kubectl(&["create", "namespace", "pay"]).unwrap();
        let resources = "--resource=incidents.hemostat.dev,responseactions.hemostat.dev,approvals.hemostat.dev,narratives.hemostat.dev";
        self.kubectl(&["create", "clusterrole", "answer", "--verb=get,list,update,patch", resources])
            .unwrap();
        self.kubectl(&["create", "clusterrole", "control", "--verb=*", resources]).unwrap();
        self.kubectl(&["create", "clusterrolebinding", "answer", "--clusterrole=answer", "--group=people"])
            .unwrap();
        self.kubectl(&[
            "create",
            "clusterrolebinding",
            "control",
            "--clusterrole=control",
            "--group=controllers",
        ])
        .unwrap();
        // A policy holds from the moment in which the API server has read it.
        let probe = r#"{"apiVersion": "hemostat.dev/v1alpha1", "kind": "Incident", "metadata": {"name": "probe", "namespace": "pay"},
            "spec": {"title": "x", "firstEvent": "2026-01-01T00:00:00Z", "closed": {"by": "somebody", "reason": "x"}}}"#;
        let until = Instant::now() + Duration::from_secs(120);
        while self.create("admin", probe, &["--dry-run=server"]).is_ok() {
            assert!(Instant::now() < until, "the admission policies do not come into force");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A server of one's own, for tests that stop it.
    #[must_use]
    pub fn own() -> Option<Arc<Self>> {
        let Some(programs) = programs() else {
            skipped();
            return None;
        };
        let server = Arc::new(Self::start(&programs));
        server.install();
        Some(server)
    }

    /// One in which nothing is installed.
    #[must_use]
    pub fn bare() -> Option<Arc<Self>> {
        let Some(programs) = programs() else {
            skipped();
            return None;
        };
        Some(Arc::new(Self::start(&programs)))
    }

    /// A kubeconfig of one of [`USERS`].
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.kubeconfig_of(user, &format!("{user}-token"))
    }

    /// A kubeconfig with a token.
    #[must_use]
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": self.address, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        fs::write(&path, text.to_string()).unwrap();
        path
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// The kubectl that belongs to it.
    #[must_use]
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// The API server answers nobody until [`ApiServer::wake`].
    pub fn stun(&self) {
        self.signal("STOP");
        // On a busy machine its threads stand some time after the signal was sent.
        let stands =
            |stat: &str| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
        let all_stand = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
            tasks
                .flatten()
                .all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stands(&stat)))
        };
        let until = Instant::now() + Duration::from_secs(120);
        while !all_stand() {
            assert!(Instant::now() < until, "the API server does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It goes on.
    pub fn wake(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid.to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// kubectl as the administrator: what it printed, or what it complained of.
    pub fn kubectl(&self, words: &[&str]) -> Result<String, String> {
        self.kubectl_as("admin", words, None)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// With what kubectl complained of.
    pub fn create(&self, user: &str, object: &str, words: &[&str]) -> Result<String, String> {
        self.kubectl_as(user, &[&["create", "-f", "-"], words].concat(), Some(object))
    }

    /// A merge patch.
    pub fn patch(&self, user: &str, what: &str, patch: &Value) -> Result<String, String> {
        self.kubectl_as(user, &["patch", "-n", "pay", what, "--type=merge", "-p", &patch.to_string()], None)
    }

    /// As the controller, of the status.
    pub fn patch_status(&self, what: &str, status: &Value) -> Result<String, String> {
        let patch = serde_json::json!({"status": status}).to_string();
        self.kubectl(&["patch", "-n", "pay", what, "--subresource=status", "--type=merge", "-p", &patch])
    }

    /// kubectl as one of [`USERS`].
    ///
    /// # Errors
    /// With what it complained of.
    pub fn kubectl_as(&self, user: &str, words: &[&str], stdin: Option<&str>) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl);
        command
            .args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--server", &self.address])
            .arg(format!("--token={user}-token"))
            .args(words)
            .env("KUBECACHEDIR", self.folder.path().join("cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.unwrap_or_default().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(said.into_owned()) } else { Err(complained.into_owned()) }
    }

    fn wait_for(&self, words: &[&str], wanted: &str) {
        let until = Instant::now() + Duration::from_secs(90);
        while !self.kubectl(words).is_ok_and(|said| said.trim() == wanted) {
            let log = fs::read_to_string(self.folder.path().join("kube-apiserver.log")).unwrap_or_default();
            if Instant::now() > until || log.contains("command failed") {
                panic!("the API server is not ready:\n{log}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _panicked = keeper.join();
        }
    }
}

/// A path of the repository.
pub fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).display().to_string()
}

#[expect(clippy::print_stdout, reason = "the runner counts these lines")]
fn skipped() {
    println!(
        "SKIPPED: on a real API server: neither KUBEBUILDER_ASSETS nor the cache has etcd, kube-apiserver and kubectl; \
         `cargo xtask cluster build` makes them"
    );
}

fn programs() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("HEMOSTAT_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|base| base.join("hemostat")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/hemostat")));
    [named("KUBEBUILDER_ASSETS"), cache.map(|cache| cache.join("cluster/bin"))]
        .into_iter()
        .flatten()
        .find(|folder| ["etcd", "kube-apiserver", "kubectl"].iter().all(|name| folder.join(name).is_file()))
}

fn free_ports() -> [u16; 3] {
    let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    [0, 1, 2].map(|at| held[at].local_addr().unwrap().port())
}

fn spawn(program: &Path, words: &[String], log: &Path) -> Child {
    let log = fs::File::create(log).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("start {} through setpriv (util-linux): {error}", program.display()))
}
