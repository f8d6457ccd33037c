//! Records of the rings.

/// Longest path that is captured, in bytes.
pub const PATH_MAX: usize = 4096;
/// Most components of a path that are followed; a longer path is marked truncated.
pub const COMPONENTS_MAX: u32 = 512;
/// Longest argv that is captured, in bytes with its NULs.
pub const ARGV_MAX: usize = 8192;
/// Longest record.
pub const RECORD_MAX: usize = 24 * 1024;

/// [`Text::flags`]: cut to its limit. A path is cut at its front, anything else at its end.
pub const TEXT_TRUNCATED: u16 = 1;
/// [`Text::flags`]: the kernel could not read it.
pub const TEXT_UNREAD: u16 = 2;

shared! {
    /// Length of a text in the record's tail.
    pub struct Text [4] {
        /// Bytes.
        pub len: u16,
        /// `TEXT_*`.
        pub flags: u16,
    }
}

shared! {
    /// User, group and capabilities.
    pub struct Creds [40] {
        /// Real user.
        pub uid: u32,
        /// Real group.
        pub gid: u32,
        /// Effective user.
        pub euid: u32,
        /// Effective group.
        pub egid: u32,
        /// Effective capabilities.
        pub cap_effective: u64,
        /// Permitted capabilities.
        pub cap_permitted: u64,
        /// Login user; `u32::MAX` when never set.
        pub auid: u32,
        /// Zero.
        pub pad: u32,
    }
}

shared! {
    /// Inode numbers of a task's namespaces; 0 where the kernel did not tell.
    pub struct NsIds [28] {
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
}

shared! {
    /// Begin of every record: what happened when, and who ran into the hook.
    pub struct RecordHeader [112] {
        /// [`crate::Class`]; it names the body.
        pub class: u8,
        /// Zero.
        pub pad: [u8; 3],
        /// Bytes of the whole record.
        pub len: u32,
        /// ns since boot.
        pub at: u64,
        /// Process id (thread group).
        pub pid: u32,
        /// Thread id.
        pub tid: u32,
        /// Start of the thread group's leader, ns since boot.
        pub start: u64,
        /// Start of the parent's leader, ns since boot.
        pub parent_start: u64,
        /// Real parent's process id.
        pub parent_pid: u32,
        /// Zero.
        pub pad2: u32,
        /// cgroup v2 id.
        pub cgroup: u64,
        /// Credentials.
        pub creds: Creds,
        /// Task name.
        pub comm: [u8; 16],
    }
}

/// [`ExecBody::flags`]: the kernel has stopped the process.
pub const EXEC_HELD: u32 = 1;
/// [`ExecBody::flags`]: a hold test held, but the process could not be stopped or noted.
pub const EXEC_HOLD_FAILED: u32 = 2;

shared! {
    /// A new image. Texts: requested, executable, working directory, argv (NUL after each word).
    pub struct ExecBody [144] {
        /// Inode number of the executable.
        pub inode: u64,
        /// File system's magic number.
        pub magic: u64,
        /// Device (`major << 20 | minor`).
        pub device: u32,
        /// Links of the inode; 0: memfd or deleted.
        pub links: u32,
        /// `EXEC_*`.
        pub flags: u32,
        /// Namespaces.
        pub namespaces: NsIds,
        /// What the caller typed.
        pub requested: Text,
        /// Resolved path.
        pub exe: Text,
        /// Working directory.
        pub cwd: Text,
        /// argv.
        pub args: Text,
        /// `i_mode` of fd 0, 1, 2; 0: closed; 0xffff: not read.
        pub stdio: [u16; 4],
        /// Controlling terminal, NUL-padded; empty: none.
        pub tty: [u8; 64],
    }
}

shared! {
    /// A new process.
    pub struct ForkBody [24] {
        /// Child's start, ns since boot.
        pub start: u64,
        /// Child's cgroup.
        pub cgroup: u64,
        /// Child's process id.
        pub pid: u32,
        /// Zero.
        pub pad: u32,
    }
}

shared! {
    /// The last thread ended.
    pub struct ExitBody [8] {
        /// As wait(2) gives it: status << 8 | signal.
        pub code: u32,
        /// Zero.
        pub pad: u32,
    }
}

shared! {
    /// Credentials changed; the header's are those after it.
    pub struct CredentialsBody [80] {
        /// Before.
        pub before: Creds,
        /// After.
        pub after: Creds,
    }
}

/// [`NamespacesBody::call`]: setns(2).
pub const CALL_SETNS: u32 = 0;
/// [`NamespacesBody::call`]: unshare(2).
pub const CALL_UNSHARE: u32 = 1;

shared! {
    /// setns or unshare.
    pub struct NamespacesBody [64] {
        /// Before.
        pub before: NsIds,
        /// After.
        pub after: NsIds,
        /// `CALL_*`.
        pub call: u32,
        /// Zero.
        pub pad: u32,
    }
}

shared! {
    /// Module load, bpf, ptrace, memfd, mount, process_vm_writev, io_uring. Texts: `text`, by class: module or file name;
    /// program or map name; –; memfd name; mount source, target, file system type; –; –.
    pub struct KernelBody [48] {
        /// bpf command; ptrace request; memfd flags; mount flags; io_uring entries.
        pub a: u64,
        /// bpf program type.
        pub b: u64,
        /// Start of the target process (ptrace, process_vm_writev), ns since boot.
        pub target_start: u64,
        /// Process id of the target; 0: it could not be found.
        pub target_pid: u32,
        /// The call's result where the hook knows it.
        pub result: i32,
        /// Texts.
        pub text: [Text; 3],
        /// Zero.
        pub pad: u32,
    }
}
