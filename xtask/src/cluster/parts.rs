//! The cluster's processes: how each is started, and when it is ready.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    binaries::Binaries,
    kubectl::Kubectl,
    place::{Cni, NODE, POD_RANGE, Place, SERVICE_RANGE},
};
use crate::enclosure::Enclosure;

const AUDIT_POLICY: &str = include_str!("../../../deploy/audit-policy.yaml");

/// The parts, in the order in which they are started.
pub(super) fn names(cni: Cni) -> &'static [&'static str] {
    const ALL: [&str; 7] = [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "containerd",
        "kubelet",
        "cilium-agent",
    ];
    match cni {
        Cni::Bridge => &ALL[..6],
        Cni::Cilium => &ALL,
    }
}

/// What starting needs.
pub(super) struct Starter<'a> {
    pub(super) binaries: &'a Binaries,
    pub(super) state: &'a Path,
    pub(super) enclosure: &'a Enclosure,
    pub(super) place: Place,
}

impl Starter<'_> {
    /// etcd and the API server, until it answers as ready.
    pub(super) fn control_plane(&self) -> Result<()> {
        let keys = |file: &str| self.state.join("keys").join(file).display().to_string();
        self.start(
            "etcd",
            &[
                ("--data-dir", self.folder("etcd")?),
                ("--listen-client-urls", "http://127.0.0.1:2379".into()),
                ("--advertise-client-urls", "http://127.0.0.1:2379".into()),
                ("--listen-peer-urls", "http://127.0.0.1:2380".into()),
                ("--initial-advertise-peer-urls", "http://127.0.0.1:2380".into()),
                ("--initial-cluster", "default=http://127.0.0.1:2380".into()),
                // Nothing here has to survive a power cut.
                ("--unsafe-no-fsync", "true".into()),
                ("--log-level", "warn".into()),
            ],
        )?;
        fs::write(self.state.join("audit-policy.yaml"), AUDIT_POLICY).context("write the audit policy")?;
        self.start(
            "kube-apiserver",
            &[
                ("--etcd-servers", "http://127.0.0.1:2379".into()),
                ("--bind-address", "0.0.0.0".into()),
                ("--advertise-address", self.place.node_address()),
                // The port of the Service `kubernetes`, whose address is the node's own.
                ("--secure-port", "443".into()),
                ("--service-cluster-ip-range", SERVICE_RANGE.into()),
                ("--tls-cert-file", keys("apiserver.crt")),
                ("--tls-private-key-file", keys("apiserver.key")),
                ("--client-ca-file", keys("ca.crt")),
                ("--kubelet-client-certificate", keys("apiserver-to-kubelet.crt")),
                ("--kubelet-client-key", keys("apiserver-to-kubelet.key")),
                ("--kubelet-certificate-authority", keys("ca.crt")),
                ("--kubelet-preferred-address-types", "InternalIP".into()),
                ("--service-account-issuer", "https://kubernetes.default.svc.cluster.local".into()),
                ("--service-account-key-file", keys("service-account.pub")),
                ("--service-account-signing-key-file", keys("service-account.key")),
                ("--authorization-mode", "Node,RBAC".into()),
                ("--enable-admission-plugins", "NodeRestriction".into()),
                ("--allow-privileged", "true".into()),
                ("--audit-policy-file", self.state.join("audit-policy.yaml").display().to_string()),
                ("--audit-log-path", audit_log(self.state).display().to_string()),
                ("--audit-log-maxsize", "100".into()),
                ("--audit-log-maxbackup", "2".into()),
            ],
        )?;
        let kubectl = Kubectl::new(self.binaries, self.state);
        self.wait_for("kube-apiserver", Duration::from_secs(90), || {
            Ok(kubectl.ask(&["get", "--raw", "/readyz"]).is_ok_and(|answer| answer.trim() == "ok"))
        })
    }

    /// The parts that make what is wished for come true.
    pub(super) fn controllers(&self) -> Result<()> {
        let keys = |file: &str| self.state.join("keys").join(file).display().to_string();
        self.start(
            "kube-controller-manager",
            &[
                ("--kubeconfig", keys("controller-manager.kubeconfig")),
                ("--use-service-account-credentials", "true".into()),
                ("--service-account-private-key-file", keys("service-account.key")),
                ("--root-ca-file", keys("ca.crt")),
                ("--cluster-signing-cert-file", keys("ca.crt")),
                ("--cluster-signing-key-file", keys("ca.key")),
                ("--allocate-node-cidrs", "true".into()),
                ("--cluster-cidr", POD_RANGE.into()),
                ("--service-cluster-ip-range", SERVICE_RANGE.into()),
                ("--leader-elect", "false".into()),
                // A test of a lost node should not take minutes.
                ("--node-monitor-grace-period", "20s".into()),
            ],
        )?;
        self.start(
            "kube-scheduler",
            &[("--kubeconfig", keys("scheduler.kubeconfig")), ("--leader-elect", "false".into())],
        )
    }

    pub(super) fn containerd(&self) -> Result<()> {
        let config = self.state.join("containerd.toml");
        fs::write(&config, self.containerd_config()?)
            .with_context(|| format!("write {}", config.display()))?;
        self.start("containerd", &[("--config", config.display().to_string())])?;
        self.wait_for("containerd", Duration::from_secs(60), || {
            let answered = self.ctr().args(["version"]).output().context("run ctr")?;
            Ok(answered.status.success())
        })
    }

    pub(super) fn kubelet(&self) -> Result<()> {
        let keys = |file: &str| self.state.join("keys").join(file).display().to_string();
        let config = self.state.join("kubelet.json");
        fs::create_dir_all(self.state.join("static-pods")).context("make the folder of static pods")?;
        fs::write(self.state.join("resolv.conf"), "nameserver 10.96.0.10\n").context("write resolv.conf")?;
        let wanted = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": keys("ca.crt")}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": keys("kubelet.crt"),
            "tlsPrivateKeyFile": keys("kubelet.key"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.place.cgroup()),
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            "localStorageCapacityIsolation": false,
            "evictionHard": {"nodefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "staticPodPath": self.state.join("static-pods"),
            "volumePluginDir": self.state.join("volume-plugins"),
            "resolvConf": self.state.join("resolv.conf"),
            "makeIPTablesUtilChains": false,
            "maxPods": 150,
            // A test that kills a container over and over should not wait minutes for the next.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        });
        fs::write(&config, format!("{wanted:#}")).with_context(|| format!("write {}", config.display()))?;
        self.start(
            "kubelet",
            &[
                ("--config", config.display().to_string()),
                ("--kubeconfig", keys("kubelet.kubeconfig")),
                ("--hostname-override", NODE.into()),
                ("--node-ip", self.place.node_address()),
            ],
        )
    }

    /// The bridge plugin's configuration, in the range that the node was given.
    pub(super) fn bridge(&self, pod_range: &str) -> Result<()> {
        let folder = self.state.join("cni");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let config = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "hemostat",
            "plugins": [{
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pod_range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": self.state.join("cni-addresses"),
                },
            }],
        });
        // Written beside and renamed: containerd watches the folder.
        let partial = folder.join("10-bridge.partial");
        fs::write(&partial, format!("{config:#}")).context("write the bridge's configuration")?;
        fs::rename(&partial, folder.join("10-bridge.conflist")).context("name the bridge's configuration")
    }

    /// containerd's client, in the namespace of Kubernetes' images.
    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new(self.binaries.path("ctr"));
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]).stdin(Stdio::null());
        command
    }

    fn socket(&self) -> PathBuf {
        // The folder that is put over /run/containerd.
        self.state.join("run-containerd/containerd.sock")
    }

    fn containerd_config(&self) -> Result<String> {
        let text = |path: PathBuf| path.display().to_string();
        let runc = fs::canonicalize(self.binaries.path("runc")).context("find runc")?;
        Ok(format!(
            r#"version = 3
root = '{root}'
state = '{run}'

[grpc]
  address = '{socket}'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{sandbox}'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{plugins}']
  conf_dir = '{conf}'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '{runc}'
"#,
            root = self.folder("containerd")?,
            run = text(self.state.join("run-containerd")),
            socket = text(self.socket()),
            sandbox = super::images::PAUSE,
            plugins = text(self.binaries.folder().join("cni")),
            conf = self.folder("cni")?,
            runc = text(runc),
        ))
    }

    fn folder(&self, name: &str) -> Result<String> {
        let path = self.state.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path.display().to_string())
    }

    fn start(&self, part: &str, arguments: &[(&str, String)]) -> Result<()> {
        self.start_with(part, arguments, &[])
    }

    /// With more in its environment.
    pub(super) fn start_with(
        &self,
        part: &str,
        arguments: &[(&str, String)],
        environment: &[(&str, &str)],
    ) -> Result<()> {
        fs::create_dir_all(self.state.join("logs")).context("make the folder of the logs")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_of(self.state, part))
            .with_context(|| format!("open the log of {part}"))?;
        let words = Words {
            arguments: arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let kept = serde_json::to_string(&words).context("note how a part was started")?;
        fs::write(words_file(self.state, part), kept).context("note how a part was started")?;
        let path = format!(
            "{}:{}",
            self.binaries.folder().display(),
            std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into())
        );
        let mut command = self.enclosure.command(self.binaries.path(part));
        for (name, value) in arguments {
            command.arg(format!("{name}={value}"));
        }
        // What belongs to us stays out of the cluster's parts.
        command.env("PATH", path).env_remove("KUBECONFIG").current_dir(self.state);
        command.envs(environment.iter().copied());
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {part}"))?;
        // For messages only: processes are found by their cgroup.
        fs::write(pid_file(self.state, part), child.id().to_string()).context("note a process")
    }

    /// Kills a part (SIGKILL), as a crash would, and waits until it is gone.
    pub(super) fn kill(&self, part: &str) -> Result<()> {
        if !is_running(self.place, self.state, part) {
            bail!("{part} does not run");
        }
        let pid = fs::read_to_string(pid_file(self.state, part)).context("read who a part is")?;
        let pid: i32 = pid.trim().parse().context("a process's number")?;
        let pid = rustix::process::Pid::from_raw(pid).context("a process's number")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            .with_context(|| format!("kill {part}"))?;
        let until = Instant::now() + Duration::from_secs(10);
        while is_running(self.place, self.state, part) {
            if Instant::now() > until {
                bail!("{part} was killed and is still there");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts a part again as it was started.
    pub(super) fn start_again(&self, part: &str) -> Result<()> {
        let path = words_file(self.state, part);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let words: Words = serde_json::from_str(&text).context("read how a part was started")?;
        let arguments: Vec<(&str, String)> =
            words.arguments.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let environment: Vec<(&str, &str)> =
            words.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.start_with(part, &arguments, &environment)
    }

    /// Waits until a part is ready; fails when it ends, with the end of its log.
    pub(super) fn wait_for(
        &self,
        part: &str,
        patience: Duration,
        ready: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            if ready()? {
                return Ok(());
            }
            if !is_running(self.place, self.state, part) {
                bail!("{part} ended:\n{}", tail(self.state, part, 15));
            }
            if Instant::now() > until {
                bail!("{part} is not ready after {} s:\n{}", patience.as_secs(), tail(self.state, part, 15));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether a part's process is there and still ours.
pub(super) fn is_running(place: Place, state: &Path, part: &str) -> bool {
    let Ok(pid) = fs::read_to_string(pid_file(state, part)) else { return false };
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // A zombie is not running; the name may hold blanks, so fields are counted behind it.
    let alive = stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']));
    let ours = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim()))
        .is_ok_and(|text| text.lines().any(|line| line == format!("0::/{}", place.cgroup())));
    // Just started, it is on its way into the cgroup.
    alive && (ours || stat.contains("(sh)"))
}

/// The API server's audit log.
pub(super) fn audit_log(state: &Path) -> PathBuf {
    state.join("audit.log")
}

pub(super) fn log_of(state: &Path, part: &str) -> PathBuf {
    state.join("logs").join(format!("{part}.log"))
}

/// The last lines of a part's log.
pub(super) fn tail(state: &Path, part: &str, lines: usize) -> String {
    let bytes = fs::read(log_of(state, part)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("    | {line}\n")).collect()
}

/// How a part was started.
#[derive(serde::Serialize, serde::Deserialize)]
struct Words {
    arguments: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

fn words_file(state: &Path, part: &str) -> PathBuf {
    state.join("logs").join(format!("{part}.json"))
}

fn pid_file(state: &Path, part: &str) -> PathBuf {
    state.join("logs").join(format!("{part}.pid"))
}
