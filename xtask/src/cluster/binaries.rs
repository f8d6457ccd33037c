//! The cluster's programs: built once from their Go modules, or unpacked from Debian packages, and kept in the cache folder.
//!
//! k8s.io/kubernetes can only be built by a module of one's own, which repeats its `replace` lines with the staging modules' releases.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::progress::{cache, is_root, output, run, run_logged, say};

const KUBERNETES: &str = "v1.36.3";

/// One `go build`.
struct Module {
    name: &'static str,
    module: &'static str,
    version: &'static str,
    packages: &'static [&'static str],
    tags: &'static str,
    /// Folder below `bin`.
    into: &'static str,
}

const MODULES: &[Module] = &[
    Module {
        name: "kubernetes",
        module: "k8s.io/kubernetes",
        version: KUBERNETES,
        packages: &[
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubectl",
            "k8s.io/kubernetes/cmd/kubelet",
        ],
        tags: "",
        into: "",
    },
    Module {
        name: "etcd",
        module: "go.etcd.io/etcd/server/v3",
        version: "v3.6.5",
        packages: &["go.etcd.io/etcd/server/v3"],
        tags: "",
        into: "",
    },
    Module {
        name: "containerd",
        module: "github.com/containerd/containerd/v2",
        version: "v2.4.2",
        packages: &[
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
        ],
        tags: "no_btrfs,no_devmapper,no_zfs",
        into: "",
    },
    Module {
        name: "cni",
        module: "github.com/containernetworking/plugins",
        version: "v1.9.0",
        packages: &[
            "github.com/containernetworking/plugins/plugins/main/bridge",
            "github.com/containernetworking/plugins/plugins/main/loopback",
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "github.com/containernetworking/plugins/plugins/meta/portmap",
        ],
        tags: "",
        into: "cni",
    },
    Module {
        name: "helm",
        module: "helm.sh/helm/v3",
        version: "v3.22.0",
        packages: &["helm.sh/helm/v3/cmd/helm"],
        tags: "",
        into: "",
    },
];

/// What no cluster needs, and tests use where it is there: a registry, for rule sets as artifacts.
const EXTRAS: &[Module] = &[Module {
    name: "registry",
    module: "github.com/distribution/distribution/v3",
    version: "v3.1.1",
    packages: &["github.com/distribution/distribution/v3/cmd/registry"],
    tags: "",
    into: "",
}];

/// Debian packages of which one file is taken; they are unpacked into the cache and not installed.
const PACKAGES: &[(&str, &str, &str)] =
    &[("runc", "usr/sbin/runc", "runc"), ("busybox-static", "bin/busybox", "busybox")];

/// The process that holds a pod's namespaces: it waits, and reaps what is left to it when the pod shares its process ids.
const PAUSE: &str = r#"package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	told := make(chan os.Signal, 16)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for which := range told {
		if which != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}
"#;

/// Where each program is.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    folder: PathBuf,
    /// `KUBEBUILDER_ASSETS`: etcd, kube-apiserver and kubectl from there.
    assets: Option<PathBuf>,
}

impl Binaries {
    /// What is cached, without building anything; `None` if something is missing.
    pub(crate) fn cached() -> Result<Option<Self>> {
        let this = Self { folder: folder()?.join("bin"), assets: assets()? };
        Ok(this.missing()?.is_empty().then_some(this))
    }

    /// Builds what is missing. Two at once are kept apart by a lock.
    pub(crate) fn build() -> Result<Self> {
        let folder = folder()?;
        fs::create_dir_all(folder.join("bin/cni")).with_context(|| format!("make {}", folder.display()))?;
        let this = Self { folder: folder.join("bin"), assets: assets()? };
        if this.missing()?.is_empty() && this.missing_extras().is_empty() {
            return Ok(this);
        }
        let _lock = lock(&folder.join("build.lock"))?;
        let missing = this.missing()?;
        if !missing.is_empty() {
            say(format!(
                "build the cluster's programs, once: {} (about 7 minutes of 4 cores)",
                missing.join(", ")
            ));
        }
        for module in MODULES.iter().filter(|module| missing.contains(&module.name)) {
            this.build_module(&folder, module)?;
        }
        for module in this.missing_extras() {
            this.build_module(&folder, module)?;
        }
        if missing.contains(&"pause") {
            this.build_pause(&folder)?;
        }
        for (package, file, name) in PACKAGES.iter().filter(|(package, ..)| missing.contains(package)) {
            unpack(&folder, package, file, &this.folder.join(name))?;
        }
        let missing = this.missing()?;
        if !missing.is_empty() {
            bail!("built, and still missing: {}", missing.join(", "));
        }
        Ok(this)
    }

    /// A program's path.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if let Some(assets) = &self.assets
            && ["etcd", "kube-apiserver", "kubectl"].contains(&name)
        {
            return assets.join(name);
        }
        self.folder.join(name)
    }

    /// The folder to be first on PATH: containerd looks for its shim there.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names of builds that have to be done.
    fn missing(&self) -> Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        for module in MODULES {
            let wanted = module.programs().all(|program| self.path(&program).exists());
            let given = self.assets.is_some() && module.name == "etcd";
            if !wanted || (!given && self.stamp(module.name) != Some(module.version.to_owned())) {
                missing.push(module.name);
            }
        }
        if !self.path("pause").exists() {
            missing.push("pause");
        }
        missing.extend(
            PACKAGES.iter().filter(|(.., name)| !self.path(name).exists()).map(|(package, ..)| *package),
        );
        Ok(missing)
    }

    fn missing_extras(&self) -> Vec<&'static Module> {
        let built = |module: &Module| {
            self.stamp(module.name) == Some(module.version.to_owned())
                && module.programs().all(|program| self.path(&program).exists())
        };
        EXTRAS.iter().filter(|module| !built(module)).collect()
    }

    /// The version that was built.
    fn stamp(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.stamp_file(name)).ok().map(|text| text.trim().to_owned())
    }

    fn stamp_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}"))
    }

    fn build_module(&self, folder: &Path, module: &Module) -> Result<()> {
        let source = folder.join("src").join(module.name);
        fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
        fs::write(source.join("go.mod"), module.go_mod()?).context("write go.mod")?;
        let imports: String = module.packages.iter().map(|package| format!("\t_ \"{package}\"\n")).collect();
        fs::write(
            source.join("tools.go"),
            format!("//go:build tools\n\npackage tools\n\nimport (\n{imports})\n"),
        )
        .context("write tools.go")?;
        run_logged(
            &format!("fetch what {} is made of", module.name),
            &format!("cluster-{}-tidy.log", module.name),
            go(&source).args(["mod", "tidy"]),
        )?;
        for package in module.packages {
            let into = self.folder.join(module.into).join(program_of(package));
            let mut command = go(&source);
            command.args(["build", "-v", "-trimpath"]);
            if !module.tags.is_empty() {
                command.args(["-tags", module.tags]);
            }
            command.arg(format!("-ldflags=-s -w{}", module.versions()));
            // Built beside and renamed: a build that is broken off leaves no half program.
            let partial = into.with_extension("partial");
            command.arg("-o").arg(&partial).arg(package);
            run_counting(
                &format!("build {} {}", program_of(package), module.version),
                &format!("cluster-{}.log", program_of(package)),
                &mut command,
            )?;
            fs::rename(&partial, &into).with_context(|| format!("name {}", into.display()))?;
        }
        fs::write(self.stamp_file(module.name), module.version).context("note the version that was built")
    }

    fn build_pause(&self, folder: &Path) -> Result<()> {
        let source = folder.join("src/pause");
        fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
        fs::write(source.join("go.mod"), "module hemostat.dev/cluster/pause\n\ngo 1.24\n")
            .context("write go.mod")?;
        fs::write(source.join("main.go"), PAUSE).context("write main.go")?;
        let into = self.folder.join("pause");
        run_logged(
            "build pause",
            "cluster-pause.log",
            go(&source).args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(into).arg("."),
        )
    }
}

impl Module {
    fn programs(&self) -> impl Iterator<Item = String> {
        self.packages
            .iter()
            .map(|package| Path::new(self.into).join(program_of(package)).display().to_string())
    }

    fn go_mod(&self) -> Result<String> {
        let head = format!("module hemostat.dev/cluster/{}\n\ngo 1.26.0\n\n", self.name);
        let require = format!("require {} {}\n\n", self.module, self.version);
        if self.name != "kubernetes" {
            return Ok(head + &require);
        }
        let wanted = format!("{}@{}", self.module, self.version);
        let answer = output("go", &["mod", "download", "-json", &wanted]).with_context(|| {
            format!("`go mod download {wanted}` failed: is Go 1.26 here, and its proxy reachable?")
        })?;
        let answer: serde_json::Value = serde_json::from_str(&answer).context("read Go's answer")?;
        let file = answer["GoMod"].as_str().context("Go gives the path of go.mod")?;
        let theirs = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
        Ok(head + &require + &staging_replaces(&theirs, self.version))
    }

    /// What `kubectl version` and a node's status show.
    fn versions(&self) -> String {
        if self.name == "helm" {
            // What `helm template` and `helm lint` take the cluster for when they do not ask one.
            let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
            let of = |package: &str| {
                format!(
                    " -X helm.sh/helm/v3/{package}.k8sVersionMajor=1 -X helm.sh/helm/v3/{package}.k8sVersionMinor={minor}"
                )
            };
            let own = format!(" -X helm.sh/helm/v3/internal/version.version={}", self.version);
            return own + &of("pkg/chartutil") + &of("pkg/lint/rules");
        }
        if self.name != "kubernetes" {
            return String::new();
        }
        let mut parts = self.version.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"]
            .iter()
            .map(|package| {
                format!(
                    " -X {package}.gitVersion={} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}",
                    self.version
                )
            })
            .collect()
    }
}

/// The last part of an import path, without a version: what Go names a program after.
fn program_of(package: &str) -> &str {
    // The one that is not called after its folder.
    if package == "go.etcd.io/etcd/server/v3" {
        return "etcd";
    }
    package.rsplit('/').next().unwrap_or(package)
}

/// One `replace` for each staging module, at the release that belongs to this Kubernetes (v1.36.3 is made of v0.36.3).
fn staging_replaces(go_mod: &str, version: &str) -> String {
    let staged = version.replacen("v1.", "v0.", 1);
    go_mod
        .lines()
        .filter_map(|line| {
            let (module, to) = line.trim().trim_start_matches("replace ").split_once(" => ")?;
            to.starts_with("./staging/").then(|| format!("replace {module} => {module} {staged}\n"))
        })
        .collect()
}

/// Where the cluster's sources and programs are kept.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(cache()?.join("cluster"))
}

fn assets() -> Result<Option<PathBuf>> {
    let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let assets = PathBuf::from(assets);
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        if !assets.join(program).exists() {
            bail!("KUBEBUILDER_ASSETS is set, and {} holds no {program}", assets.display());
        }
    }
    Ok(Some(assets))
}

pub(super) fn go(source: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(source).env("CGO_ENABLED", "0");
    let flags = std::env::var("GOFLAGS").unwrap_or_default();
    command.env("GOFLAGS", format!("-mod=mod {flags}").trim());
    command
}

/// As [`run_logged`], and says every few seconds how far a `go build -v` is.
pub(super) fn run_counting(what: &str, log: &str, command: &mut Command) -> Result<()> {
    let path = cache()?.join("logs").join(log);
    say(format!("{what} (log: {})", path.display()));
    fs::create_dir_all(cache()?.join("logs")).context("make the folder of the logs")?;
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {:?} for: {what}", command.get_program()))?;
    let stderr = child.stderr.take().context("go has no standard error")?;
    let (mut packages, mut told, mut tail) = (0_u32, Instant::now(), Vec::new());
    let every =
        if std::io::stderr().is_terminal() { Duration::from_secs(1) } else { Duration::from_secs(15) };
    for line in BufReader::new(stderr).lines() {
        let line = line.context("read what go says")?;
        writeln!(file, "{line}").with_context(|| format!("write {}", path.display()))?;
        packages += 1;
        if told.elapsed() > every {
            let end = if std::io::stderr().is_terminal() { "\r" } else { "\n" };
            eprint!("    {packages} packages compiled, {:.0} s{end}", begun.elapsed().as_secs_f64());
            told = Instant::now();
        }
        tail.push(line);
        if tail.len() > 15 {
            tail.remove(0);
        }
    }
    let status = child.wait().with_context(|| format!("wait for: {what}"))?;
    if !status.success() {
        bail!("{what} ended with {status}; whole log: {}\n{}", path.display(), tail.join("\n"));
    }
    eprintln!("    {what}: {packages} packages, {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Takes one file out of a Debian package.
fn unpack(folder: &Path, package: &str, file: &str, into: &Path) -> Result<()> {
    // A runc that is installed is as good.
    if package == "runc"
        && let Some(path) = output("sh", &["-c", "command -v runc"])
    {
        return std::os::unix::fs::symlink(path, into).context("link the runc of this machine");
    }
    if output("apt-get", &["--version"]).is_none() || !is_root() {
        bail!("{package} is needed: put {} there, or run this as root on Debian or Ubuntu", into.display());
    }
    let unpacked = folder.join("src").join(package);
    let _from_a_broken_off_run = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked).with_context(|| format!("make {}", unpacked.display()))?;
    let mut download = Command::new("apt-get");
    download.current_dir(&unpacked).args(["download", "-o", "APT::Sandbox::User=root", package]);
    let log = format!("cluster-{package}.log");
    if run_logged(&format!("download Debian's {package}"), &log, &mut download).is_err() {
        run_logged("refresh the package lists", "apt-update.log", Command::new("apt-get").arg("update"))?;
        run_logged(&format!("download Debian's {package}"), &log, &mut download)?;
    }
    let archive = fs::read_dir(&unpacked)
        .with_context(|| format!("list {}", unpacked.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .with_context(|| format!("apt-get left no package in {}", unpacked.display()))?;
    run(&format!("unpack {package}"), Command::new("dpkg-deb").arg("-x").arg(archive).arg(&unpacked))?;
    fs::copy(unpacked.join(file), into).with_context(|| format!("copy {file} of {package}"))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))
}

/// Waits for the lock; it is let go of when the file is closed, also when this process is killed.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("create the lock {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        say(format!("another one is at it (lock {}): waiting", path.display()));
        flock(&file, FlockOperation::LockExclusive).with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_replaced_by_their_releases() {
        let theirs = "module k8s.io/kubernetes\nrequire (\n\tk8s.io/api v0.0.0\n)\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\t\
                      k8s.io/x => example.com/x v1.0.0\n)\nreplace k8s.io/kms => ./staging/src/k8s.io/kms\n";
        assert_eq!(
            staging_replaces(theirs, "v1.36.3"),
            "replace k8s.io/api => k8s.io/api v0.36.3\nreplace k8s.io/kms => k8s.io/kms v0.36.3\n"
        );
    }

    #[test]
    fn programs_are_called_as_go_calls_them() {
        assert_eq!(program_of("k8s.io/kubernetes/cmd/kubelet"), "kubelet");
        assert_eq!(program_of("go.etcd.io/etcd/server/v3"), "etcd");
    }
}
