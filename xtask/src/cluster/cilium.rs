//! A real Cilium 1.15.19, which enforces CiliumNetworkPolicy on this kernel. Later releases do not build from the module proxy.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    binaries::{Binaries, folder, go, lock, run_counting},
    kubectl::Kubectl,
    parts::Starter,
    place::{NODE, POD_RANGE},
};
use crate::progress::{apt_install, output, say};

const MODULE: &str = "github.com/cilium/cilium";
const VERSION: &str = "v1.15.19";
/// Program and its package in the module.
const PROGRAMS: &[(&str, &str)] =
    &[("cilium-agent", "daemon"), ("cilium-dbg", "cilium-dbg"), ("cni/cilium-cni", "plugins/cilium-cni")];
/// Where the agent looks for loaded modules, and a file of ours with a name of the same length, in a folder that is covered: a kernel
/// that has everything built in and no modules has no /proc/modules, and the agent would not start.
const MODULES: (&[u8], &[u8]) = (b"/proc/modules", b"/run/cilium/m");
/// What it wants to see among the built-in modules.
const BUILT_IN: [&str; 5] = ["ip_tables", "iptable_nat", "iptable_mangle", "iptable_raw", "iptable_filter"];

/// Builds it, once, and installs the compiler that it needs when it starts.
pub(super) fn build(binaries: &Binaries) -> Result<()> {
    apt_install(
        &["clang-16", "llvm-16", "iptables", "ipset", "bpftool"],
        "Cilium, which compiles its datapath when it starts",
    )?;
    let _lock = lock(&folder()?.join("build.lock"))?;
    if is_built(binaries)? {
        return Ok(());
    }
    say("build Cilium, once (about 5 minutes of 4 cores)");
    let source = folder()?.join("src/cilium");
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    let module = module_folder()?;
    // Its own requirements and replacements, with itself as one more requirement.
    let theirs = fs::read_to_string(module.join("go.mod")).context("read Cilium's go.mod")?;
    let ours = theirs.replacen(&format!("module {MODULE}"), "module hemostat.dev/cluster/cilium", 1);
    fs::write(source.join("go.mod"), format!("{ours}\nrequire {MODULE} {VERSION}\n"))
        .context("write go.mod")?;
    let sums = fs::read(module.join("go.sum")).context("read Cilium's go.sum")?;
    fs::write(source.join("go.sum"), sums).context("write go.sum")?;
    for (program, package) in PROGRAMS {
        let into = binaries.path(program);
        let partial = into.with_extension("partial");
        let mut command = go(&source);
        command
            .args(["build", "-v", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(&partial)
            .arg(format!("{MODULE}/{package}"));
        let log = format!("cluster-{}.log", program.replace('/', "-"));
        run_counting(&format!("build {program} {VERSION}"), &log, &mut command)?;
        if *program == "cilium-agent" {
            point_elsewhere(&partial)?;
        }
        fs::rename(&partial, &into).with_context(|| format!("name {}", into.display()))?;
    }
    let kept = kept()?;
    for (from, to) in [
        ("bpf", "lib/bpf"),
        ("pkg/k8s/apis/cilium.io/client/crds/v2", "crds/v2"),
        ("pkg/k8s/apis/cilium.io/client/crds/v2alpha1", "crds/v2alpha1"),
    ] {
        copy_tree(&module.join(from), &kept.join(to))?;
    }
    fs::write(kept.join("version"), VERSION).context("note the version that was built")
}

/// Folders that Cilium needs to see, beside the others: contents, and where they are put.
pub(super) fn covers(state: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let release = output("uname", &["-r"]).context("ask for the kernel's release (uname)")?;
    let modules = state.join("modules");
    let folder = modules.join(release);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let list: String = BUILT_IN.iter().map(|name| format!("kernel/net/ipv4/netfilter/{name}.ko\n")).collect();
    fs::write(folder.join("modules.builtin"), list).context("write the list of built-in modules")?;
    Ok(vec![(modules, PathBuf::from("/lib/modules"))])
}

/// Starts the agent; it writes the plugin's configuration when it is ready.
pub(super) fn start(starter: &Starter<'_>, kubectl: &Kubectl) -> Result<()> {
    let kept = kept()?;
    // A mount of its own, in the cluster's own view of the mounts: the agent would mount the whole of cgroup v2 over a folder that is none.
    let mount = starter
        .enclosure
        .command("mount")
        .arg("--bind")
        .args([starter.enclosure.cgroup(); 2])
        .output()
        .context("run mount")?;
    if !mount.status.success() {
        bail!("mount the cgroup in the cluster: {}", String::from_utf8_lossy(&mount.stderr).trim());
    }
    for version in ["v2", "v2alpha1"] {
        let folder = kept.join("crds").join(version).display().to_string();
        kubectl.ask(&["apply", "--server-side", "--filename", &folder])?;
    }
    // In the folder that covers /run/cilium.
    fs::write(starter.state.join("run-cilium/m"), "").context("write an empty list of modules")?;
    let tools = compiler(starter.state)?;
    // Not at once into containerd's folder: of the events of Cilium's way of writing it, containerd takes the last for a removal.
    let written = starter.state.join("cilium-written/05-cilium.conflist");
    fs::create_dir_all(starter.state.join("cilium-written"))
        .context("make a folder for Cilium's configuration")?;
    let path = format!("{}:/usr/lib/llvm-16/bin:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
    let text = |path: PathBuf| path.display().to_string();
    starter.start_with(
        "cilium-agent",
        &[
            ("--k8s-kubeconfig-path", text(starter.state.join("keys/admin.kubeconfig"))),
            ("--ipam", "kubernetes".into()),
            ("--enable-ipv4", "true".into()),
            ("--enable-ipv6", "false".into()),
            ("--routing-mode", "native".into()),
            ("--ipv4-native-routing-cidr", POD_RANGE.into()),
            ("--kube-proxy-replacement", "false".into()),
            // Of our own: in the root it would detach the programs of others, and fail over those that are attached by link.
            ("--cgroup-root", text(starter.enclosure.cgroup().to_path_buf())),
            ("--bpf-root", "/sys/fs/bpf".into()),
            ("--enable-l7-proxy", "false".into()),
            ("--enable-hubble", "true".into()),
            ("--hubble-socket-path", "/run/cilium/hubble.sock".into()),
            ("--socket-path", "/run/cilium/cilium.sock".into()),
            ("--state-dir", text(starter.state.join("cilium"))),
            ("--lib-dir", text(kept.join("lib"))),
            ("--write-cni-conf-when-ready", text(written.clone())),
            ("--cni-exclusive", "false".into()),
            ("--enable-ipv4-masquerade", "false".into()),
            ("--devices", "eth0".into()),
            ("--enable-health-checking", "false".into()),
            ("--enable-endpoint-health-checking", "false".into()),
        ],
        &[("PATH", path.as_str()), ("K8S_NODE_NAME", NODE)],
    )?;
    let asked = starter.binaries.path("cilium-dbg");
    starter.wait_for("cilium-agent", Duration::from_secs(240), || {
        // The file comes before the agent has all it needs.
        let status = starter
            .enclosure
            .command(&asked)
            .args(["status", "--brief"])
            .output()
            .context("run cilium-dbg")?;
        Ok(written.exists() && status.status.success())
    })?;
    let folder = starter.state.join("cni");
    fs::copy(&written, folder.join("05-cilium.partial"))
        .and_then(|_size| fs::rename(folder.join("05-cilium.partial"), folder.join("05-cilium.conflist")))
        .context("give Cilium's configuration to containerd")
}

/// Whether everything is there.
fn is_built(binaries: &Binaries) -> Result<bool> {
    let version = fs::read_to_string(kept()?.join("version")).unwrap_or_default();
    Ok(version == VERSION && PROGRAMS.iter().all(|(program, _)| binaries.path(program).exists()))
}

/// What is kept beside the programs: the datapath's source and the resource definitions.
fn kept() -> Result<PathBuf> {
    Ok(folder()?.join("cilium"))
}

fn module_folder() -> Result<PathBuf> {
    let wanted = format!("{MODULE}@{VERSION}");
    let answer = output("go", &["mod", "download", "-json", &wanted]).with_context(|| {
        format!("`go mod download {wanted}` failed: is Go here, and its proxy reachable?")
    })?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("read Go's answer")?;
    Ok(PathBuf::from(answer["Dir"].as_str().context("Go gives the module's folder")?))
}

/// Replaces a path in the program by one of the same length.
fn point_elsewhere(program: &Path) -> Result<()> {
    let mut bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let (from, to) = MODULES;
    let mut found = 0;
    let mut at = 0;
    while let Some(next) =
        bytes.get(at..).and_then(|rest| rest.windows(from.len()).position(|part| part == from))
    {
        let place = at + next;
        bytes[place..place + to.len()].copy_from_slice(to);
        at = place + to.len();
        found += 1;
    }
    if found == 0 {
        bail!("{} does not name /proc/modules: is it another version?", program.display());
    }
    fs::write(program, bytes).with_context(|| format!("write {}", program.display()))
}

/// A `clang` that takes newer kernels' warnings for what they are.
fn compiler(state: &Path) -> Result<PathBuf> {
    let folder = state.join("compiler");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let clang = folder.join("clang");
    fs::write(&clang, "#!/bin/sh\nexec /usr/bin/clang-16 \"$@\" -Wno-error\n")
        .and_then(|()| fs::set_permissions(&clang, fs::Permissions::from_mode(0o755)))
        .context("write the wrapper of clang")?;
    Ok(folder)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.file_type().context("look at a file")?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            // The module cache is read-only; the copy need not be.
            let bytes = fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
            fs::write(&target, bytes).with_context(|| format!("write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::MODULES;

    #[test]
    fn the_path_is_replaced_by_one_of_its_length() {
        assert_eq!(MODULES.0.len(), MODULES.1.len());
    }
}
