//! What is never touched (I6): pid 1, kernel threads, the agent and its ancestors, the root cgroup, and the services that a node
//! cannot do without.
//!
//! Protection must not be had for the asking, or the first thing that an intruder does is to ask. So a service counts only where
//! the service manager puts it, in cgroups that only root can make; and an executable only as root runs it, outside of all users'
//! cgroups and of other mount namespaces. And no intruder must be able to keep us from deciding: nothing here looks at a file
//! system that one of them serves.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use model::{ActionFailure, INIT_PID, ProcessKey};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::{
    cgroup::{self, Cgroup, Hierarchy},
    guard::{Guard, Left, Word},
    process::{self, Held},
};

/// Where the service manager puts services of the node: `/UNIT`, or `/SLICE/UNIT` for one of these. `runtime.slice` and
/// `podruntime.slice` are where distributions for Kubernetes nodes put the kubelet and the container runtime.
const SERVICE_SLICES: [&str; 3] = ["system.slice", "runtime.slice", "podruntime.slice"];
/// Where everything that users start is.
const USER_SLICE: &str = "user.slice";

/// Services and executables that are never contained, besides what is protected always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectedList {
    /// Names of services, for example `kubelet.service`; a `*` at the end stands for any ending. The cgroup that the service manager
    /// made for one (at the root or directly below `system.slice` and its like, owned by root) is protected with everything below it.
    pub units: Vec<String>,
    /// Executables, compared by name, device and inode with `/proc/PID/exe`, so that a copy under the name of one is not protected. They
    /// protect only what runs as root, outside of `user.slice`, in the mount namespace of the node.
    pub executables: Vec<PathBuf>,
}

impl Default for ProtectedList {
    /// The node's own services: init, the kubelet and its packagings, the container runtimes, the network, the way in for its
    /// administrators.
    fn default() -> Self {
        let units = [
            "init.scope",
            "kubelet.service",
            "k3s.service",
            "k3s-agent.service",
            "rke2-server.service",
            "rke2-agent.service",
            "snap.microk8s.*",
            "containerd.service",
            "crio.service",
            "docker.service",
            "podman.service",
            "ssh.service",
            "sshd.service",
            "dbus.service",
            "NetworkManager.service",
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
            "/usr/local/bin/k3s",
            "/usr/local/bin/rke2",
            "/usr/bin/containerd",
            "/usr/local/bin/containerd",
            "/usr/bin/containerd-shim-runc-v2",
            "/usr/local/bin/containerd-shim-runc-v2",
            "/usr/bin/crio",
            "/usr/bin/conmon",
            "/usr/bin/dockerd",
            "/usr/sbin/NetworkManager",
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

/// Device and inode, as statx(2) gives them.
type Identity = (u32, u32, u64);

#[derive(Debug)]
pub(super) struct Protected {
    list: ProtectedList,
    cgroups: Hierarchy,
    /// The executables that exist, by the names that the kernel may show for them.
    executables: HashMap<Vec<u8>, HashSet<Identity>>,
    /// Of the agent and of init: the node's own.
    mount_namespaces: Vec<PathBuf>,
    agent: u32,
    /// As of the start. An orphan is adopted by one of its ancestors, so this set can only shrink.
    ancestors: Vec<ProcessKey>,
    /// In a cluster: what the controller says of pods.
    guard: Option<Guard>,
}

impl Protected {
    pub(super) fn new(list: ProtectedList, cgroups: Hierarchy) -> Self {
        let mut executables: HashMap<Vec<u8>, HashSet<Identity>> = HashMap::new();
        for path in &list.executables {
            let Ok(found) = identity(path, AtFlags::empty()) else { continue };
            let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            for name in [path, &real].into_iter().filter_map(|path| path.file_name()) {
                executables.entry(name.as_bytes().to_vec()).or_default().insert(found);
            }
        }
        let mount_namespaces =
            ["/proc/self/ns/mnt", "/proc/1/ns/mnt"].iter().filter_map(|link| fs::read_link(link).ok());
        let mount_namespaces = mount_namespaces.collect();
        let agent = std::process::id();
        let ancestors = ancestors(agent);
        Self { list, cgroups, executables, mount_namespaces, agent, ancestors, guard: None }
    }

    /// With what a controller says of pods.
    pub(super) fn with(self, guard: Option<Guard>) -> Self {
        Self { guard, ..self }
    }

    /// Refuses a process that is protected by itself or by its cgroup.
    pub(super) fn check_process(&self, held: &Held, cgroup: &str, word: Word) -> Result<(), ActionFailure> {
        match self.left(held, cgroup, word)? {
            Some(left) => Err(left.failure(process::name(held.key))),
            None => Ok(()),
        }
    }

    /// Why a process is not to be touched, if it is not.
    pub(super) fn process_reason(
        &self,
        held: &Held,
        cgroup: &str,
        word: Word,
    ) -> Result<Option<String>, ActionFailure> {
        Ok(self.left(held, cgroup, word)?.map(Left::because))
    }

    fn left(&self, held: &Held, cgroup: &str, word: Word) -> Result<Option<Left>, ActionFailure> {
        if let Some(because) = self.reason(held, || cgroup.to_owned()) {
            return Ok(Some(Left::Protected(because)));
        }
        if let Some(left) = self.guard.as_ref().and_then(|guard| guard.reason(cgroup, word)) {
            return Ok(Some(left));
        }
        let unit = self.unit_of(cgroup).map_err(|error| unreadable(held.key, &error))?;
        Ok(unit.map(|unit| Left::Protected(format!("it belongs to {unit}"))))
    }

    /// Refuses a cgroup as the one that a process is moved to by an undo whose state comes from elsewhere: nobody is moved to where he could not
    /// be contained any more.
    pub(super) fn check_home(&self, path: &str, word: Word) -> Result<(), ActionFailure> {
        let target = || format!("cgroup {path}");
        if let Some(left) = self.guard.as_ref().and_then(|guard| guard.reason(path, word)) {
            return Err(left.failure(target()));
        }
        match self.unit_of(path).map_err(|error| cgroup::failure("look at", path, &error))? {
            Some(unit) => {
                Err(ActionFailure::Protected { target: target(), because: format!("it belongs to {unit}") })
            }
            None => Ok(()),
        }
    }

    /// Refuses a whole cgroup that is the root, that is on the list, or that has a protected process in it or below it.
    pub(super) fn check_cgroup(&self, cgroup: &Cgroup, word: Word) -> Result<(), ActionFailure> {
        let refused = |because: String| {
            Err(ActionFailure::Protected { target: format!("cgroup {}", cgroup.path), because })
        };
        if cgroup.is_root() {
            return refused("it is the root cgroup".into());
        }
        if let Some(left) = self.guard.as_ref().and_then(|guard| guard.reason(&cgroup.path, word)) {
            return Err(left.failure(format!("cgroup {}", cgroup.path)));
        }
        let unit = self.unit_of(&cgroup.path);
        if let Some(unit) = unit.map_err(|error| cgroup::failure("look at", &cgroup.path, &error))? {
            return refused(format!("it belongs to {unit}"));
        }
        let members = cgroup
            .members_below()
            .map_err(|error| cgroup::failure("list the members of", &cgroup.path, &error))?;
        // a cgroup around services, such as system.slice
        let may_hold_services = parts(&cgroup.path).nth(1).is_none();
        for pid in members {
            let held = Held::open_pid(pid)
                .map_err(|error| ActionFailure::io("look at", format!("pid {pid}"), &error))?;
            let Some(held) = held else { continue };
            // looked up only for those that it matters for: there may be thousands
            let at = || self.cgroups.path_of(pid).ok().flatten().unwrap_or_else(|| cgroup.path.clone());
            let because = match may_hold_services {
                true => self.process_reason(&held, &at(), word)?,
                false => self.reason(&held, at),
            };
            if let Some(because) = because {
                return refused(format!("pid {pid} is in it: {because}"));
            }
        }
        Ok(())
    }

    /// Whether the whole cgroup may be held still for a moment.
    pub(super) fn may_pause(&self, path: &str, word: Word) -> bool {
        self.cgroups.cgroup(path).is_ok_and(|cgroup| self.check_cgroup(&cgroup, word).is_ok())
    }

    /// Why a file is not to be touched.
    pub(super) fn file_reason(&self, meta: &fs::Metadata) -> Option<String> {
        let (device, inode) = (meta.dev(), meta.ino());
        let own = fs::metadata("/proc/self/exe").is_ok_and(|own| (own.dev(), own.ino()) == (device, inode));
        if own {
            return Some("it is the agent's own executable".into());
        }
        let wanted = (rustix::fs::major(device), rustix::fs::minor(device), inode);
        let listed = self.executables.values().any(|found| found.contains(&wanted));
        listed.then(|| "it is on the protected list".into())
    }

    fn reason(&self, held: &Held, cgroup: impl FnOnce() -> String) -> Option<String> {
        let pid = held.pid();
        if pid == INIT_PID.0 {
            return Some("it is init".into());
        }
        if held.stat.is_kernel_thread() {
            return Some("it is a kernel thread".into());
        }
        if pid == self.agent {
            return Some("it is the agent".into());
        }
        if self.ancestors.iter().any(|key| key.pid.0 == pid && held.stat.started(*key)) {
            return Some("it is an ancestor of the agent".into());
        }
        let listed = self.runs_listed(&held.proc_path("exe"), || self.is_of_the_node(pid, &cgroup()));
        listed.then(|| "its executable is on the protected list".into())
    }

    /// Whether what is behind the link is on the list. The link's text comes from the kernel's memory; only when it has the name of a
    /// listed executable, and `trusted` agrees, is the file behind it looked at, and even then not so that a server is asked.
    /// What cannot be looked at is not on the list: else a mount that answers nobody would be a way not to be contained.
    fn runs_listed(&self, link: &str, trusted: impl FnOnce() -> bool) -> bool {
        let Ok(shown) = fs::read_link(link) else { return false };
        let name = shown.as_os_str().as_bytes();
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
        let Some(wanted) = self.executables.get(name) else { return false };
        trusted()
            && identity(Path::new(link), AtFlags::STATX_DONT_SYNC).is_ok_and(|found| wanted.contains(&found))
    }

    /// Runs as root, outside of what users start, and sees the files that the node sees.
    fn is_of_the_node(&self, pid: u32, cgroup: &str) -> bool {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt"));
        parts(cgroup).next() != Some(USER_SLICE)
            && namespace.is_ok_and(|namespace| self.mount_namespaces.contains(&namespace))
            && is_root_process(pid)
            && self.is_of_root(cgroup).unwrap_or(false)
    }

    /// The protected service that a cgroup belongs to.
    fn unit_of(&self, path: &str) -> io::Result<Option<&str>> {
        let mut names = parts(path);
        let (Some(first), second) = (names.next(), names.next()) else { return Ok(None) };
        let listed = |name: &str| self.list.units.iter().find(|unit| is_unit(unit, name));
        let (unit, at) = match (listed(first), second) {
            (Some(unit), _) => (unit, format!("/{first}")),
            (None, Some(second)) if SERVICE_SLICES.contains(&first) => match listed(second) {
                Some(unit) => (unit, format!("/{first}/{second}")),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(self.is_of_root(&at)?.then_some(unit.as_str()))
    }

    /// Whether only root could have made the cgroup and all that it is in; one that is gone is nobody's.
    fn is_of_root(&self, path: &str) -> io::Result<bool> {
        let mut at = String::new();
        for name in parts(path) {
            at = format!("{at}/{name}");
            match self.cgroups.cgroup(&at).and_then(|cgroup| cgroup.owner()) {
                Ok(0) => {}
                Ok(_) => return Ok(false),
                Err(error) if process::is_gone(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

fn is_unit(listed: &str, name: &str) -> bool {
    match listed.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == listed,
    }
}

fn identity(path: &Path, flags: AtFlags) -> io::Result<Identity> {
    let found = rustix::fs::statx(CWD, path, flags, StatxFlags::INO)?;
    Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

/// Real and effective user are root's, as the agent's user namespace sees them: the root of another namespace is nobody here.
fn is_root_process(pid: u32) -> bool {
    let status = process::status(pid).ok().flatten().unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let mut users = users.split_ascii_whitespace();
    users.next() == Some("0") && users.next() == Some("0")
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
    use std::os::fd::AsRawFd;

    use super::*;

    fn real(list: ProtectedList) -> Protected {
        Protected::new(list, Hierarchy::open(None).unwrap())
    }

    fn refusal(protected: &Protected, pid: u32, cgroup: &str) -> Option<String> {
        protected.process_reason(&Held::open_pid(pid).unwrap()?, cgroup, Word::Own).unwrap()
    }

    fn is_root(test: &str) -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            println!("SKIPPED: {test}: needs root");
        }
        root
    }

    /// Ends with the test.
    struct Sleeper(std::process::Child);

    impl Sleeper {
        fn new(uid: u32) -> Self {
            use std::os::unix::process::CommandExt;
            Self(std::process::Command::new("sleep").arg("60").uid(uid).spawn().unwrap())
        }

        fn exe(&self) -> PathBuf {
            fs::read_link(format!("/proc/{}/exe", self.0.id())).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _killed = self.0.kill();
            let _reaped = self.0.wait();
        }
    }

    /// Folders in the place of cgroups; those whose name begins with `their-` are a user's.
    fn hierarchy(paths: &[&str]) -> (tempfile::TempDir, Hierarchy) {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let at = root.path().join(path.replace("their-", ""));
            fs::create_dir_all(&at).unwrap();
            if path.contains("their-") {
                std::os::unix::fs::chown(&at, Some(1000), Some(1000)).unwrap();
            }
        }
        let opened = Hierarchy::open(Some(root.path())).unwrap();
        (root, opened)
    }

    #[test]
    fn i6_init_kernel_threads_the_agent_and_its_ancestors_are_refused() {
        let protected = real(ProtectedList::default());
        assert_eq!(refusal(&protected, 1, "/x").unwrap(), "it is init");
        assert_eq!(refusal(&protected, std::process::id(), "/x").unwrap(), "it is the agent");
        let parent = process::stat(std::process::id()).unwrap().unwrap().parent;
        assert!(refusal(&protected, parent, "/x").is_some());
    }

    #[test]
    fn i6_a_service_is_protected_only_where_the_service_manager_puts_it() {
        if !is_root("units") {
            return;
        }
        let user = "user.slice/user-1000.slice/user@1000.service/app.slice/kubelet.service";
        let pod = "kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope/system.slice/kubelet.service";
        let theirs = "system.slice/their-sshd.service";
        let (_root, cgroups) = hierarchy(&[
            "init.scope",
            "system.slice/kubelet.service/x",
            "runtime.slice/containerd.service",
            "system.slice/snap.microk8s.daemon-kubelite.service",
            "system.slice/k3s.service",
            "system.slice/rke2-agent.service",
            "system.slice/NetworkManager.service",
            "system.slice/podman.service",
            "system.slice/cron.service",
            "system.slice/a.service/kubelet.service",
            user,
            pod,
            theirs,
        ]);
        let protected = Protected::new(ProtectedList::default(), cgroups);
        let unit = |path: &str| protected.unit_of(path).unwrap().map(str::to_owned);
        for path in [
            "/init.scope",
            "/system.slice/kubelet.service",
            "/system.slice/kubelet.service/x",
            "/runtime.slice/containerd.service",
            "/system.slice/snap.microk8s.daemon-kubelite.service",
            "/system.slice/k3s.service",
            "/system.slice/rke2-agent.service",
            "/system.slice/NetworkManager.service",
            "/system.slice/podman.service",
        ] {
            assert!(unit(path).is_some(), "{path}");
        }
        for path in [
            "/",
            &format!("/{user}"),
            &format!("/{pod}"),
            "/system.slice/sshd.service",
            "/system.slice/cron.service",
            "/system.slice/a.service/kubelet.service",
            "/system.slice/docker.service",
            "/system.slice",
        ] {
            assert_eq!(unit(path), None, "{path}");
        }
    }

    #[test]
    fn i6_an_executable_protects_only_what_root_runs_outside_of_users_cgroups() {
        if !is_root("executables") {
            return;
        }
        let (root, user) = (Sleeper::new(0), Sleeper::new(65_534));
        let (_dir, cgroups) = hierarchy(&["a/b", "user.slice/user-0.slice", "a/their-c/d"]);
        let list = ProtectedList { units: Vec::new(), executables: vec![root.exe()] };
        let listed = Protected::new(list.clone(), cgroups.clone());
        assert!(refusal(&listed, root.0.id(), "/a/b").unwrap().contains("executable"));
        assert_eq!(refusal(&listed, user.0.id(), "/a/b"), None, "run by anybody");
        assert_eq!(refusal(&listed, root.0.id(), "/user.slice/user-0.slice"), None, "in a session");
        assert_eq!(refusal(&listed, root.0.id(), "/a/c/d"), None, "in a cgroup of a user's");
        let other = ProtectedList { executables: vec!["/bin/sh".into()], ..list };
        assert_eq!(refusal(&Protected::new(other, cgroups), root.0.id(), "/a/b"), None);
    }

    #[test]
    fn i6_a_copy_under_the_name_of_a_listed_executable_is_not_protected() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("sleep");
        let list = ProtectedList { units: Vec::new(), executables: vec!["/bin/sleep".into()] };
        let protected = real(list);
        fs::copy("/bin/sleep", &copy).unwrap();
        let link = dir.path().join("exe");
        std::os::unix::fs::symlink(&copy, &link).unwrap();
        assert!(!protected.runs_listed(link.to_str().unwrap(), || true));
        let link = dir.path().join("exe2");
        std::os::unix::fs::symlink(fs::canonicalize("/bin/sleep").unwrap(), &link).unwrap();
        assert!(protected.runs_listed(link.to_str().unwrap(), || true));
        assert!(!protected.runs_listed(link.to_str().unwrap(), || false));
    }

    #[test]
    fn an_executable_that_cannot_be_examined_is_not_protected() {
        let dir = tempfile::tempdir().unwrap();
        let protected = real(ProtectedList { units: Vec::new(), executables: vec!["/bin/sleep".into()] });
        let name = fs::canonicalize("/bin/sleep").unwrap();
        let looped = dir.path().join(name.file_name().unwrap());
        std::os::unix::fs::symlink(&looped, &looped).unwrap();
        assert!(fs::metadata(&looped).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
        assert!(!protected.runs_listed(looped.to_str().unwrap(), || true));
        assert!(!protected.runs_listed(dir.path().join("none").to_str().unwrap(), || true));
    }

    /// Mounts of FUSE without anybody who serves them: one that root may not even look at, and one that never answers.
    #[test]
    fn a_mount_that_nobody_serves_neither_blocks_nor_protects() {
        if !is_root("fuse") {
            return;
        }
        for owner in [1000, 0] {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join("sleep");
            fs::create_dir(&at).unwrap();
            let Ok(server) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
                println!("SKIPPED: fuse: no /dev/fuse");
                return;
            };
            let options =
                format!("fd={},rootmode=40000,user_id={owner},group_id={owner}", server.as_raw_fd());
            let options = std::ffi::CString::new(options).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            if let Err(error) = rustix::mount::mount("none", &at, "fuse", flags, options.as_c_str()) {
                println!("SKIPPED: fuse: it cannot be mounted: {error}");
                return;
            }
            let link = dir.path().join("exe");
            std::os::unix::fs::symlink(&at, &link).unwrap();
            let list = ProtectedList { units: Vec::new(), executables: vec!["/bin/sleep".into()] };
            let mut protected = real(list);
            let wanted = protected.executables.values().next().cloned().unwrap();
            protected.executables.insert(b"sleep".to_vec(), wanted);
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            let looking = std::thread::spawn(move || {
                let _heard = tell.send(protected.runs_listed(link.to_str().unwrap(), || true));
            });
            let found = told.recv_timeout(std::time::Duration::from_secs(20));
            // lets go whoever waits for an answer
            drop(server);
            let _unmounted = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
            looking.join().unwrap();
            assert_eq!(found, Ok(false), "owner {owner}");
        }
    }
}
