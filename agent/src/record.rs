//! What the kernel said, decoded: the bytes of the rings as values, before process tree and workload are joined to it.

use model::{Activity, BootNs, CgroupId, Credentials, ExeFile, Exit, Namespaces, ProcessKey, Truncated};

/// One record of a ring.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When the hook ran.
    pub at: BootNs,
    /// The task that ran into the hook.
    pub task: Task,
    /// What it did.
    pub body: Body,
}

/// The task, as the kernel knew it at the hook.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its process (thread group).
    pub key: ProcessKey,
    /// Its thread id.
    pub tid: u32,
    /// Its real parent at that moment.
    pub parent: ProcessKey,
    /// Its cgroup v2 id.
    pub cgroup: CgroupId,
    /// Its credentials.
    pub credentials: Credentials,
    /// Its task name.
    pub comm: String,
}

/// What a task did.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A new image.
    Exec(Box<ExecFacts>),
    /// A new process.
    Fork {
        /// The child.
        child: ProcessKey,
        /// Its cgroup (another than the parent's with CLONE_INTO_CGROUP).
        child_cgroup: CgroupId,
    },
    /// The last thread of a process ended.
    Exit(Exit),
    /// Anything else, already in the model's words.
    Act(Activity),
}

/// Everything that is captured in the kernel at an exec.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecFacts {
    /// What the caller typed.
    pub requested: String,
    /// Resolved path of the executable.
    pub exe: String,
    /// What is behind it.
    pub exe_file: ExeFile,
    /// argv, lossily UTF-8.
    pub args: Vec<String>,
    /// Whether argv was longer than the limit (8 KiB).
    pub args_truncated: Truncated,
    /// Working directory, resolved.
    pub cwd: String,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Controlling terminal.
    pub tty: Option<String>,
    /// What fd 0, 1 and 2 were (`files->fdt->fd[n]->f_inode->i_mode`).
    pub stdio: model::Stdio,
    /// The kernel has stopped it and waits for a judgement.
    pub held: Held,
}

/// Whether the kernel holds a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It runs.
    No,
    /// It was stopped at the hook before its first instruction.
    Yes,
}
