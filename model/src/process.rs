//! Processes and where they run.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{BootNs, CgroupId, Pid};

/// A process, certainly: a pid alone may be reused, a pid with its start time may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Process id in the initial pid namespace.
    pub pid: Pid,
    /// `task_struct.start_boottime` of the thread group leader.
    pub start: BootNs,
}

/// What is known of one process image (one exec, or a fork that has not exec'd yet).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Which process.
    pub key: ProcessKey,
    /// Its parent at fork time, also when that has since ended; `None` only for pid 1 and kernel threads' root.
    pub parent: Option<ProcessKey>,
    /// Resolved path of the executable, from the kernel's own file and not from what the caller typed.
    pub exe: String,
    /// What kind of file the executable is: memfd, deleted, on tmpfs.
    pub exe_file: ExeFile,
    /// `argv` joined by single spaces; the separate words are in `args`.
    pub command_line: String,
    /// `argv`, lossily UTF-8, secrets masked.
    pub args: Vec<String>,
    /// argv was longer than what was captured.
    pub args_truncated: Truncated,
    /// Working directory at exec.
    pub cwd: String,
    /// The kernel's 15-byte task name: chosen by the program, never an identity.
    pub comm: String,
    /// Credentials at exec, or after the last change seen.
    pub credentials: Credentials,
    /// Namespace inode numbers.
    pub namespaces: Namespaces,
    /// Controlling terminal, for example `pts3`; `None` without one.
    pub tty: Option<String>,
    /// What standard input, output and error were at exec: a shell whose stdio is a socket is a remote shell.
    pub stdio: Stdio,
    /// cgroup v2 id.
    pub cgroup: CgroupId,
    /// Container, pod or service that the cgroup belongs to.
    pub workload: Arc<Workload>,
    /// How this record came to be.
    pub origin: ProcessOrigin,
    /// Exit, once seen.
    pub exit: Option<Exit>,
}

/// Whether a text was cut to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncated {
    /// Whole.
    #[default]
    No,
    /// Cut.
    Yes,
}

/// What is behind an executable's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ExeFile {
    /// Inode number.
    pub inode: u64,
    /// Device, as the kernel holds it (`major << 20 | minor`).
    pub device: u32,
    /// Where the image lives.
    pub backing: Backing,
}

/// What file descriptors 0, 1 and 2 were at exec. Captured in the kernel (`current->files->fdt->fd[n]->f_inode->i_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// fd 0.
    pub stdin: FdKind,
    /// fd 1.
    pub stdout: FdKind,
    /// fd 2.
    pub stderr: FdKind,
}

/// What is behind a file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FdKind {
    /// The kernel did not tell (a process found in /proc, a fork).
    #[default]
    Unknown,
    /// Not open.
    Closed,
    /// Regular file, folder or block device.
    File,
    /// Pipe or FIFO.
    Pipe,
    /// Socket of any family.
    Socket,
    /// Character device: a terminal, /dev/null.
    Device,
}

/// Where an executable image lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// An ordinary linked file.
    #[default]
    File,
    /// memfd_create or another unlinked in-memory file.
    Memfd,
    /// A file whose last link was removed before or at exec.
    Deleted,
}

/// User, group and capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Login user id set by PAM; `None` when never set.
    pub auid: Option<u32>,
    /// Effective capability set, bit n = capability n.
    pub cap_effective: u64,
    /// Permitted capability set.
    pub cap_permitted: u64,
}

/// Inode numbers of a task's namespaces; 0 where the kernel did not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Namespaces {
    /// mnt.
    pub mount: u32,
    /// pid.
    pub pid: u32,
    /// net.
    pub net: u32,
    /// user.
    pub user: u32,
    /// uts.
    pub uts: u32,
    /// ipc.
    pub ipc: u32,
    /// cgroup.
    pub cgroup: u32,
}

/// How a process record came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessOrigin {
    /// exec seen in the kernel: every field is the kernel's.
    Exec,
    /// fork seen in the kernel: image fields are copied from the parent.
    Fork,
    /// Read from /proc when the agent started.
    Bootstrap,
    /// Its exec was lost; fields were read from /proc afterwards and may be newer than the event.
    Recovered,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, if it ended by itself.
    pub code: u8,
    /// Signal number, 0 when it ended by itself.
    pub signal: u8,
    /// When.
    pub at: BootNs,
}

/// What a cgroup belongs to. Never blank: what could not be resolved says so (I9).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Workload {
    /// A container, in a pod where `pod_uid` is known.
    Container {
        /// Which software made the cgroup.
        runtime: Runtime,
        /// The runtime's full container id.
        container_id: String,
        /// Kubernetes pod uid.
        pod_uid: Option<String>,
        /// cgroup path below the cgroup2 mount.
        cgroup_path: String,
    },
    /// A systemd unit or slice on the host.
    Unit {
        /// For example `ssh.service`.
        unit: String,
        /// cgroup path below the cgroup2 mount.
        cgroup_path: String,
        /// What starts the system's unit in which it is ([`Workload::system_unit`]).
        #[serde(default, skip_serializing_if = "StartedBy::is_other")]
        started_by: StartedBy,
    },
    /// A plain host cgroup.
    Host {
        /// cgroup path below the cgroup2 mount, `/` for the root.
        cgroup_path: String,
    },
    /// The cgroup's path could not be found (it ended before it was looked up).
    Unresolved {
        /// Its id, all that is known.
        cgroup: CgroupId,
    },
}

/// The names in a cgroup's path that only root gives: slices from the top on, and what stands in them. Names below that are anybody's who may make
/// cgroups there.
pub fn system_names(cgroup_path: &str) -> impl Iterator<Item = &str> {
    let mut within = false;
    cgroup_path.split('/').filter(|name| !name.is_empty()).take_while(move |name| {
        let is_ours = !within;
        within |= !name.ends_with(".slice");
        is_ours
    })
}

/// What starts a unit of the system's manager.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// No timer: the boot, another unit, a person.
    #[default]
    Other,
    /// A timer of systemd may start it.
    Timer {
        /// For example `backup.timer`.
        timer: String,
    },
    /// The host's timers could not be read.
    Unknown,
}

impl StartedBy {
    fn is_other(&self) -> bool {
        *self == Self::Other
    }
}

/// Software that made a container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// containerd, also below Kubernetes with cgroupfs naming.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// A container-like path whose maker is not named in it (cgroupfs driver).
    Unnamed,
}

impl Workload {
    /// In a unit that no timer starts.
    #[must_use]
    pub fn unit(unit: impl Into<String>, cgroup_path: impl Into<String>) -> Self {
        Self::Unit { unit: unit.into(), cgroup_path: cgroup_path.into(), started_by: StartedBy::Other }
    }

    /// The cgroup path, where there is one.
    #[must_use]
    pub fn cgroup_path(&self) -> Option<&str> {
        match self {
            Self::Container { cgroup_path, .. }
            | Self::Unit { cgroup_path, .. }
            | Self::Host { cgroup_path } => Some(cgroup_path),
            Self::Unresolved { .. } => None,
        }
    }

    /// The unit of the system's own manager in which it is: the outermost one, since below it, and below a user's `user@1000.service`, names are
    /// anybody's.
    #[must_use]
    pub fn system_unit(&self) -> Option<&str> {
        let Self::Unit { cgroup_path, .. } = self else { return None };
        system_names(cgroup_path).last().filter(|name| name.ends_with(".service") || name.ends_with(".scope"))
    }

    /// Whether both are one place, whatever is known of it.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self.cgroup_path(), other.cgroup_path()) {
            (Some(one), Some(other)) => one == other,
            _ => self == other,
        }
    }
}
