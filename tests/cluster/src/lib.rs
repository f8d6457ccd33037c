//! A cluster under test: `cargo xtask cluster` as a user runs it, and what it may leave behind.
//!
//! The tests run where `HEMOSTAT_XTASK` names the xtask program, which `cargo xtask test` sets when the cluster's programs are cached or
//! `--cluster` demands them; otherwise each test says that it was skipped.

pub mod api_server;
pub mod recorder;
pub mod sshd;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The place of the tests' cluster: a user's own (0) and the bench's (9) go on beside it. HEMOSTAT_CLUSTER_SLOT names another, so that two who
/// test at once do not meet.
fn slot() -> String {
    std::env::var("HEMOSTAT_CLUSTER_SLOT").unwrap_or_else(|_| "8".into())
}

/// Longest wait for something that takes seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// The xtask program, and through it the cluster.
#[derive(Debug, Clone)]
pub struct Xtask {
    program: PathBuf,
}

impl Xtask {
    /// `None`, said aloud, where these tests do not run.
    #[must_use]
    #[expect(clippy::print_stdout, reason = "the runner counts these lines")]
    pub fn here() -> Option<Self> {
        let Some(program) = std::env::var_os("HEMOSTAT_XTASK") else {
            println!("SKIPPED: the cluster: run it with `cargo xtask test --cluster` as root");
            return None;
        };
        Some(Self { program: program.into() })
    }

    /// Runs `cluster WORDS` to its end and gives its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn cluster(&self, words: &[&str]) -> Result<String> {
        let output =
            self.command(words).output().with_context(|| format!("run {}", self.program.display()))?;
        if !output.status.success() {
            bail!("cluster {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.cluster(&[&["kubectl"], words].concat())
    }

    /// Starts `cluster up` and kills it (SIGKILL) as soon as it says a line that contains `word`.
    ///
    /// # Errors
    /// When it never says it.
    pub fn kill_up_at(&self, word: &str) -> Result<()> {
        let mut child =
            self.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("start up")?;
        let stderr = child.stderr.take().context("up has no standard error")?;
        let mut said = String::new();
        let mut found = false;
        for line in BufReader::new(stderr).lines() {
            let line = line.context("read what up says")?;
            said.push_str(&line);
            said.push('\n');
            if line.contains(word) {
                found = true;
                break;
            }
        }
        child.kill().context("kill up")?;
        child.wait().context("wait for up")?;
        if !found {
            bail!("up never said {word:?}, but:\n{said}");
        }
        Ok(())
    }

    /// Starts `cluster up` and kills it as soon as `there` says so.
    ///
    /// # Errors
    /// When that does not come true.
    pub fn kill_up_when(&self, there: impl Fn() -> bool) -> Result<()> {
        let mut child =
            self.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start up")?;
        let came = wait_until(there);
        child.kill().context("kill up")?;
        child.wait().context("wait for up")?;
        came
    }

    /// Runs `demo --cluster WORDS` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn demo(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.program(&["demo", "--cluster"]);
        command.args(words).output().with_context(|| format!("run {}", self.program.display()))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.program(&["cluster"]);
        command.args(words);
        command
    }

    fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null());
        command.env("HEMOSTAT_CLUSTER_SLOT", slot()).env_remove("KUBECONFIG").env_remove("HEMOSTAT_CLUSTER");
        command
    }
}

/// The cluster's folder.
#[must_use]
pub fn state() -> PathBuf {
    PathBuf::from(format!("/var/lib/hemostat-cluster.{}", slot()))
}

/// The folder of its cgroup v2.
#[must_use]
pub fn cgroup() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let root = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words.get(1).map(PathBuf::from)).flatten()
    });
    root.unwrap_or_default().join(name())
}

/// Requests that the API server wrote into its audit log.
///
/// # Errors
/// When the log cannot be read.
pub fn audited() -> Result<Vec<Value>> {
    let path = state().join("audit.log");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// What runs or stands because of the cluster: processes, links, mounts. These vanish by themselves when its maker is killed.
#[must_use]
pub fn alive() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let of = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        if stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])) {
            // Dead; the machine's init, which inherited it, has not taken notice yet.
            continue;
        }
        if of.lines().any(|line| line.split('/').nth(1) == Some(&name())) {
            let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default().replace('\0', " ");
            found.insert(format!("process {}: {command}", path.display()));
        }
    }
    let link = Path::new("/sys/class/net").join(format!("hemostat-c{}", slot()));
    if link.exists() {
        found.insert(format!("link {}", link.display()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let here = state().display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&here)).map(|line| format!("mount {line}")));
    found
}

/// All traces: [`alive`], and cgroups and folders.
#[must_use]
pub fn traces() -> BTreeSet<String> {
    let mut found = alive();
    let hierarchies = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut places: Vec<PathBuf> = hierarchies
        .lines()
        .filter(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")))
        .filter_map(|line| Some(Path::new(line.split(' ').nth(1)?).join(name())))
        .collect();
    places.push(state());
    found.extend(places.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    found
}

/// Folders of the machine that Kubernetes insists on and that a machine without it does not have.
#[must_use]
pub fn folders_of_kubernetes() -> BTreeSet<PathBuf> {
    ["/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/run/containerd", "/run/cilium"]
        .into_iter()
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .collect()
}

/// Where xtask keeps what is dear to build.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    std::env::var_os("HEMOSTAT_CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
        base.map(|base| base.join("hemostat"))
    })
}

/// Waits until something is so.
///
/// # Errors
/// When it is not so in time.
pub fn wait_until(so: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !so() {
        if Instant::now() > until {
            bail!("it did not come about within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn name() -> String {
    format!("hemostat-cluster-{}", slot())
}
