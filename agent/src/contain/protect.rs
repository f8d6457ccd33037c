//! What is never touched (I6): pid 1, kernel threads, the agent and its ancestors, the root cgroup, and the services that a node
//! cannot do without.

use std::{collections::HashSet, io, os::unix::fs::MetadataExt, path::PathBuf};

use model::{ActionFailure, INIT_PID, ProcessKey};

use super::{
    cgroup::{self, Cgroup, Hierarchy},
    process::{self, Held},
};

/// Services and executables that are never contained, besides what is protected always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectedList {
    /// Names of cgroups: a cgroup with one of these names, and everything below it, is protected. For example `kubelet.service`.
    pub units: Vec<String>,
    /// Executables, compared by device and inode with `/proc/PID/exe`, so that a copy under the name of one is not protected.
    pub executables: Vec<PathBuf>,
}

impl Default for ProtectedList {
    /// The node's own services: init, the kubelet, the container runtimes, the way in for its administrators.
    fn default() -> Self {
        let units = [
            "init.scope",
            "kubelet.service",
            "containerd.service",
            "crio.service",
            "docker.service",
            "ssh.service",
            "sshd.service",
            "dbus.service",
            "systemd-journald.service",
            "systemd-logind.service",
            "systemd-networkd.service",
            "systemd-resolved.service",
            "systemd-udevd.service",
            "hemostat.service",
        ];
        let executables = [
            "/usr/bin/kubelet",
            "/usr/local/bin/kubelet",
            "/usr/bin/containerd",
            "/usr/local/bin/containerd",
            "/usr/bin/containerd-shim-runc-v2",
            "/usr/local/bin/containerd-shim-runc-v2",
            "/usr/bin/crio",
            "/usr/bin/conmon",
            "/usr/bin/dockerd",
            "/usr/sbin/sshd",
            "/usr/lib/systemd/systemd",
            "/usr/lib/systemd/systemd-journald",
            "/usr/lib/systemd/systemd-logind",
            "/usr/lib/systemd/systemd-networkd",
            "/usr/lib/systemd/systemd-udevd",
        ];
        Self {
            units: units.map(str::to_owned).to_vec(),
            executables: executables.map(PathBuf::from).to_vec(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Protected {
    list: ProtectedList,
    /// (device, inode) of the executables that exist.
    executables: HashSet<(u64, u64)>,
    agent: u32,
    /// As of the start. An orphan is adopted by one of its ancestors, so this set can only shrink.
    ancestors: Vec<ProcessKey>,
}

impl Protected {
    pub(super) fn new(list: ProtectedList) -> Self {
        let executables = list
            .executables
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|meta| (meta.dev(), meta.ino()))
            .collect();
        let agent = std::process::id();
        Self { list, executables, agent, ancestors: ancestors(agent) }
    }

    /// Refuses a process that is protected by itself or by its cgroup.
    pub(super) fn check_process(&self, held: &Held, cgroup: &str) -> Result<(), ActionFailure> {
        let refused =
            |because: String| Err(ActionFailure::Protected { target: process::name(held.key), because });
        if let Some(because) = self.reason(held).map_err(|error| unreadable(held.key, &error))? {
            return refused(because);
        }
        match self.unit_of(cgroup) {
            Some(unit) => refused(format!("it belongs to {unit}")),
            None => Ok(()),
        }
    }

    /// Refuses a whole cgroup that is the root, that is on the list, or that has a protected process in it or below it.
    pub(super) fn check_cgroup(&self, cgroup: &Cgroup) -> Result<(), ActionFailure> {
        let refused = |because: String| {
            Err(ActionFailure::Protected { target: format!("cgroup {}", cgroup.path), because })
        };
        if cgroup.is_root() {
            return refused("it is the root cgroup".into());
        }
        if let Some(unit) = self.unit_of(&cgroup.path) {
            return refused(format!("it belongs to {unit}"));
        }
        let members = cgroup
            .members_below()
            .map_err(|error| cgroup::failure("list the members of", &cgroup.path, &error))?;
        for pid in members {
            let held = Held::open_pid(pid)
                .map_err(|error| ActionFailure::io("look at", format!("pid {pid}"), &error))?;
            let Some(held) = held else { continue };
            if let Some(because) = self.reason(&held).map_err(|error| unreadable(held.key, &error))? {
                return refused(format!("pid {pid} is in it: {because}"));
            }
        }
        Ok(())
    }

    /// Whether the whole cgroup may be held still for a moment.
    pub(super) fn may_pause(&self, hierarchy: &Hierarchy, path: &str) -> bool {
        hierarchy.cgroup(path).is_ok_and(|cgroup| self.check_cgroup(&cgroup).is_ok())
    }

    /// Why a file is not to be touched.
    pub(super) fn file_reason(&self, meta: &std::fs::Metadata) -> Option<String> {
        let identity = (meta.dev(), meta.ino());
        let own = std::fs::metadata("/proc/self/exe").is_ok_and(|own| (own.dev(), own.ino()) == identity);
        if own {
            return Some("it is the agent's own executable".into());
        }
        self.executables.contains(&identity).then(|| "it is on the protected list".into())
    }

    fn reason(&self, held: &Held) -> io::Result<Option<String>> {
        let pid = held.pid();
        if pid == INIT_PID.0 {
            return Ok(Some("it is init".into()));
        }
        if held.stat.is_kernel_thread() {
            return Ok(Some("it is a kernel thread".into()));
        }
        if pid == self.agent {
            return Ok(Some("it is the agent".into()));
        }
        if self.ancestors.iter().any(|key| key.pid.0 == pid && held.stat.started(*key)) {
            return Ok(Some("it is an ancestor of the agent".into()));
        }
        // ENOENT: no executable any more, it is ending
        match std::fs::metadata(held.proc_path("exe")) {
            Ok(meta) if self.executables.contains(&(meta.dev(), meta.ino())) => {
                Ok(Some("its executable is on the protected list".into()))
            }
            Ok(_) => Ok(None),
            Err(error) if process::is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn unit_of(&self, path: &str) -> Option<&str> {
        path.split('/').find_map(|part| self.list.units.iter().find(|unit| *unit == part)).map(String::as_str)
    }
}

fn ancestors(of: u32) -> Vec<ProcessKey> {
    let mut found = Vec::new();
    let mut at = process::stat(of).ok().flatten();
    // no real tree is deeper; a loop could only come from pids reused while reading
    while let Some(stat) = at.filter(|stat| stat.parent > 0 && found.len() < 1024) {
        at = process::stat(stat.parent).ok().flatten();
        found.extend(at.map(|parent| parent.key(stat.parent)));
    }
    found
}

/// What cannot be judged is refused (I9).
fn unreadable(key: ProcessKey, error: &io::Error) -> ActionFailure {
    ActionFailure::io("check the protection of", process::name(key), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(protected: &Protected, pid: u32, cgroup: &str) -> Option<String> {
        let held = Held::open_pid(pid).unwrap()?;
        match protected.check_process(&held, cgroup) {
            Err(ActionFailure::Protected { because, .. }) => Some(because),
            Ok(()) => None,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn i6_init_kernel_threads_the_agent_and_its_ancestors_are_refused() {
        let protected = Protected::new(ProtectedList::default());
        assert_eq!(refusal(&protected, 1, "/x").unwrap(), "it is init");
        assert_eq!(refusal(&protected, std::process::id(), "/x").unwrap(), "it is the agent");
        let parent = process::stat(std::process::id()).unwrap().unwrap().parent;
        assert!(refusal(&protected, parent, "/x").is_some());
    }

    #[test]
    fn i6_units_and_executables_on_the_list_are_refused_and_others_are_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let plain = Protected::new(ProtectedList::default());
        assert_eq!(refusal(&plain, child.id(), "/a/b"), None);
        assert!(
            refusal(&plain, child.id(), "/system.slice/kubelet.service/x")
                .unwrap()
                .contains("kubelet.service")
        );
        let exe = std::fs::read_link(format!("/proc/{}/exe", child.id())).unwrap();
        let listed = Protected::new(ProtectedList { units: Vec::new(), executables: vec![exe] });
        assert!(refusal(&listed, child.id(), "/a/b").unwrap().contains("executable"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
