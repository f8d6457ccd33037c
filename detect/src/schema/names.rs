//! Names of the kernel's numbers, and the auditd records that each activity would leave.
//!
//! Numbers are the kernel's UAPI (include/uapi/linux: capability.h, bpf.h, ptrace.h, memfd.h, mount.h, fcntl.h) and the
//! x86-64 system call table.

use model::{Activity, LinkKind};

/// Capabilities by bit (capability.h).
pub(crate) const CAPABILITIES: &[(u64, &str)] = &[
    (1 << 0, "CAP_CHOWN"),
    (1 << 1, "CAP_DAC_OVERRIDE"),
    (1 << 2, "CAP_DAC_READ_SEARCH"),
    (1 << 3, "CAP_FOWNER"),
    (1 << 4, "CAP_FSETID"),
    (1 << 5, "CAP_KILL"),
    (1 << 6, "CAP_SETGID"),
    (1 << 7, "CAP_SETUID"),
    (1 << 8, "CAP_SETPCAP"),
    (1 << 9, "CAP_LINUX_IMMUTABLE"),
    (1 << 10, "CAP_NET_BIND_SERVICE"),
    (1 << 11, "CAP_NET_BROADCAST"),
    (1 << 12, "CAP_NET_ADMIN"),
    (1 << 13, "CAP_NET_RAW"),
    (1 << 14, "CAP_IPC_LOCK"),
    (1 << 15, "CAP_IPC_OWNER"),
    (1 << 16, "CAP_SYS_MODULE"),
    (1 << 17, "CAP_SYS_RAWIO"),
    (1 << 18, "CAP_SYS_CHROOT"),
    (1 << 19, "CAP_SYS_PTRACE"),
    (1 << 20, "CAP_SYS_PACCT"),
    (1 << 21, "CAP_SYS_ADMIN"),
    (1 << 22, "CAP_SYS_BOOT"),
    (1 << 23, "CAP_SYS_NICE"),
    (1 << 24, "CAP_SYS_RESOURCE"),
    (1 << 25, "CAP_SYS_TIME"),
    (1 << 26, "CAP_SYS_TTY_CONFIG"),
    (1 << 27, "CAP_MKNOD"),
    (1 << 28, "CAP_LEASE"),
    (1 << 29, "CAP_AUDIT_WRITE"),
    (1 << 30, "CAP_AUDIT_CONTROL"),
    (1 << 31, "CAP_SETFCAP"),
    (1 << 32, "CAP_MAC_OVERRIDE"),
    (1 << 33, "CAP_MAC_ADMIN"),
    (1 << 34, "CAP_SYSLOG"),
    (1 << 35, "CAP_WAKE_ALARM"),
    (1 << 36, "CAP_BLOCK_SUSPEND"),
    (1 << 37, "CAP_AUDIT_READ"),
    (1 << 38, "CAP_PERFMON"),
    (1 << 39, "CAP_BPF"),
    (1 << 40, "CAP_CHECKPOINT_RESTORE"),
];

/// open(2) flags by bit (asm-generic/fcntl.h); the access mode is two bits, see [`open_flags`].
pub(crate) const OPEN_FLAGS: &[(u64, &str)] = &[
    (1, "O_WRONLY"),
    (2, "O_RDWR"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
    (0o20_000_000, "O_TMPFILE"),
];

/// memfd_create flags (memfd.h).
pub(crate) const MEMFD_FLAGS: &[(u64, &str)] = &[
    (1, "MFD_CLOEXEC"),
    (2, "MFD_ALLOW_SEALING"),
    (4, "MFD_HUGETLB"),
    (8, "MFD_NOEXEC_SEAL"),
    (16, "MFD_EXEC"),
];

/// mount(2) flags (mount.h).
pub(crate) const MOUNT_FLAGS: &[(u64, &str)] = &[
    (1, "MS_RDONLY"),
    (2, "MS_NOSUID"),
    (4, "MS_NODEV"),
    (8, "MS_NOEXEC"),
    (16, "MS_SYNCHRONOUS"),
    (32, "MS_REMOUNT"),
    (4096, "MS_BIND"),
    (8192, "MS_MOVE"),
    (16384, "MS_REC"),
    (1 << 17, "MS_UNBINDABLE"),
    (1 << 18, "MS_PRIVATE"),
    (1 << 19, "MS_SLAVE"),
    (1 << 20, "MS_SHARED"),
];

/// Bits of [`crate::schema::Field::ChangedNamespaces`], our own numbering.
pub(crate) const NAMESPACES: &[(u64, &str)] =
    &[(1, "mnt"), (2, "pid"), (4, "net"), (8, "user"), (16, "uts"), (32, "ipc"), (64, "cgroup")];

/// bpf(2) commands by number (bpf.h).
pub(crate) const BPF_COMMANDS: &[&str] = &[
    "BPF_MAP_CREATE",
    "BPF_MAP_LOOKUP_ELEM",
    "BPF_MAP_UPDATE_ELEM",
    "BPF_MAP_DELETE_ELEM",
    "BPF_MAP_GET_NEXT_KEY",
    "BPF_PROG_LOAD",
    "BPF_OBJ_PIN",
    "BPF_OBJ_GET",
    "BPF_PROG_ATTACH",
    "BPF_PROG_DETACH",
    "BPF_PROG_TEST_RUN",
    "BPF_PROG_GET_NEXT_ID",
    "BPF_MAP_GET_NEXT_ID",
    "BPF_PROG_GET_FD_BY_ID",
    "BPF_MAP_GET_FD_BY_ID",
    "BPF_OBJ_GET_INFO_BY_FD",
    "BPF_PROG_QUERY",
    "BPF_RAW_TRACEPOINT_OPEN",
    "BPF_BTF_LOAD",
    "BPF_BTF_GET_FD_BY_ID",
    "BPF_TASK_FD_QUERY",
    "BPF_MAP_LOOKUP_AND_DELETE_ELEM",
    "BPF_MAP_FREEZE",
    "BPF_BTF_GET_NEXT_ID",
    "BPF_MAP_LOOKUP_BATCH",
    "BPF_MAP_LOOKUP_AND_DELETE_BATCH",
    "BPF_MAP_UPDATE_BATCH",
    "BPF_MAP_DELETE_BATCH",
    "BPF_LINK_CREATE",
    "BPF_LINK_UPDATE",
    "BPF_LINK_GET_FD_BY_ID",
    "BPF_LINK_GET_NEXT_ID",
    "BPF_ENABLE_STATS",
    "BPF_ITER_CREATE",
    "BPF_LINK_DETACH",
    "BPF_PROG_BIND_MAP",
    "BPF_TOKEN_CREATE",
];

/// Number of BPF_PROG_LOAD.
pub(crate) const BPF_PROG_LOAD: u32 = 5;

/// bpf program types by number (bpf.h, `bpf_prog_type`), in bpftool's spelling.
pub(crate) const BPF_PROGRAM_TYPES: &[&str] = &[
    "unspec",
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
    "flow_dissector",
    "cgroup_sysctl",
    "raw_tracepoint_writable",
    "cgroup_sockopt",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "sk_lookup",
    "syscall",
    "netfilter",
];

/// ptrace requests (ptrace.h; 12 to 15 are x86's).
pub(crate) const PTRACE_REQUESTS: &[(u64, &str)] = &[
    (0, "PTRACE_TRACEME"),
    (1, "PTRACE_PEEKTEXT"),
    (2, "PTRACE_PEEKDATA"),
    (3, "PTRACE_PEEKUSER"),
    (4, "PTRACE_POKETEXT"),
    (5, "PTRACE_POKEDATA"),
    (6, "PTRACE_POKEUSER"),
    (7, "PTRACE_CONT"),
    (8, "PTRACE_KILL"),
    (9, "PTRACE_SINGLESTEP"),
    (12, "PTRACE_GETREGS"),
    (13, "PTRACE_SETREGS"),
    (14, "PTRACE_GETFPREGS"),
    (15, "PTRACE_SETFPREGS"),
    (16, "PTRACE_ATTACH"),
    (17, "PTRACE_DETACH"),
    (24, "PTRACE_SYSCALL"),
    (0x4200, "PTRACE_SETOPTIONS"),
    (0x4201, "PTRACE_GETEVENTMSG"),
    (0x4202, "PTRACE_GETSIGINFO"),
    (0x4203, "PTRACE_SETSIGINFO"),
    (0x4204, "PTRACE_GETREGSET"),
    (0x4205, "PTRACE_SETREGSET"),
    (0x4206, "PTRACE_SEIZE"),
    (0x4207, "PTRACE_INTERRUPT"),
    (0x4208, "PTRACE_LISTEN"),
];

/// DNS record types by number (RFC 1035 §3.2.2 and the IANA registry).
pub(crate) const DNS_TYPES: &[(u64, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (10, "NULL"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (43, "DS"),
    (46, "RRSIG"),
    (48, "DNSKEY"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (257, "CAA"),
];

/// The name of a number in a table, if it has one.
pub(crate) fn name_of(number: u64, table: &'static [(u64, &'static str)]) -> Option<&'static str> {
    table.iter().find(|(other, _)| *other == number).map(|(_, name)| *name)
}

/// The number of a name in a table, ignoring case.
pub(crate) fn number_of(name: &str, table: &[(u64, &str)]) -> Option<u64> {
    table.iter().find(|(_, other)| other.eq_ignore_ascii_case(name)).map(|(number, _)| *number)
}

/// Types of the records that auditd writes for an activity (auditd's `type=`).
pub(crate) fn audit_types(activity: &Activity) -> &'static [&'static str] {
    match activity {
        Activity::Exec { .. } => &["SYSCALL", "EXECVE", "CWD", "PATH", "PROCTITLE"],
        Activity::FileOpen { .. }
        | Activity::FileDelete { .. }
        | Activity::FileRename { .. }
        | Activity::FileLink { .. }
        | Activity::FileMode { .. }
        | Activity::FileOwner { .. }
        | Activity::Mount { .. } => &["SYSCALL", "CWD", "PATH", "PROCTITLE"],
        Activity::Connect(_) | Activity::Bind { .. } | Activity::Accept(_) | Activity::DnsQuery { .. } => {
            &["SYSCALL", "SOCKADDR", "PROCTITLE"]
        }
        Activity::ModuleLoad { .. } => &["SYSCALL", "KERN_MODULE", "PROCTITLE"],
        Activity::Bpf { .. } => &["SYSCALL", "BPF", "PROCTITLE"],
        Activity::Ptrace { .. } | Activity::ProcessVmWrite { .. } => &["SYSCALL", "OBJ_PID", "PROCTITLE"],
        Activity::Record(_) => &[],
        _ => &["SYSCALL", "PROCTITLE"],
    }
}

/// The system calls that make an activity, by name and x86-64 number. The probes hook what the calls have in common, so
/// which one of a family it was is not told: a rule that names any of them matches.
pub(crate) fn audit_syscalls(activity: &Activity) -> &'static [&'static str] {
    match activity {
        Activity::Exec { .. } => &["execve", "59", "execveat", "322"],
        Activity::Fork { .. } => &["clone", "56", "clone3", "435", "fork", "57", "vfork", "58"],
        Activity::Exit(_) => &["exit_group", "231", "exit", "60"],
        Activity::CredentialChange { .. } => &[
            "setuid",
            "105",
            "setgid",
            "106",
            "setreuid",
            "113",
            "setregid",
            "114",
            "setresuid",
            "117",
            "setresgid",
            "119",
            "setfsuid",
            "122",
            "setfsgid",
            "123",
            "capset",
            "126",
        ],
        Activity::NamespaceChange { call: model::NamespaceCall::Setns, .. } => &["setns", "308"],
        Activity::NamespaceChange { call: model::NamespaceCall::Unshare, .. } => &["unshare", "272"],
        Activity::FileOpen { .. } => &["openat", "257", "open", "2", "creat", "85", "openat2", "437"],
        Activity::FileDelete { .. } => &["unlinkat", "263", "unlink", "87", "rmdir", "84"],
        Activity::FileRename { .. } => &["renameat2", "316", "renameat", "264", "rename", "82"],
        Activity::FileLink { kind: LinkKind::Hard, .. } => &["linkat", "265", "link", "86"],
        Activity::FileLink { kind: LinkKind::Symbolic, .. } => &["symlinkat", "266", "symlink", "88"],
        Activity::FileMode { .. } => &["fchmodat", "268", "chmod", "90", "fchmod", "91", "fchmodat2", "452"],
        Activity::FileOwner { .. } => &["fchownat", "260", "chown", "92", "fchown", "93", "lchown", "94"],
        Activity::Connect(_) => &["connect", "42"],
        Activity::Accept(_) => &["accept4", "288", "accept", "43"],
        Activity::Bind { .. } => &["bind", "49"],
        Activity::Listen { .. } => &["listen", "50"],
        Activity::SocketClose { .. } => &["close", "3", "shutdown", "48"],
        Activity::DnsQuery { .. } => &["sendto", "44", "sendmsg", "46", "sendmmsg", "307"],
        Activity::ModuleLoad { .. } => &["finit_module", "313", "init_module", "175"],
        Activity::Bpf { .. } => &["bpf", "321"],
        Activity::Ptrace { .. } => &["ptrace", "101"],
        Activity::MemfdCreate { .. } => &["memfd_create", "319"],
        Activity::Mount { .. } => &["mount", "165"],
        Activity::ProcessVmWrite { .. } => &["process_vm_writev", "311"],
        Activity::IoUringSetup { .. } => &["io_uring_setup", "425"],
        Activity::Record(_) => &[],
    }
}

/// Every type that [`audit_types`] gives: auditd's other types (logins, services, SELinux …) come from user space.
pub(crate) const AUDIT_TYPES: &[&str] =
    &["SYSCALL", "EXECVE", "CWD", "PATH", "PROCTITLE", "SOCKADDR", "KERN_MODULE", "BPF", "OBJ_PID"];

/// Why no event has a field that other Sigma sources do have.
pub(crate) fn known_absent(name: &str) -> Option<&'static str> {
    const WINDOWS: &str = "it belongs to Windows";
    const HASHES: &str = "files are not hashed when they are seen; evidence is";
    Some(match name {
        "OriginalFileName" | "Company" | "Product" | "Description" | "FileVersion" | "IntegrityLevel"
        | "LogonId" | "LogonGuid" | "ProcessGuid" | "ParentProcessGuid" | "Signed" | "Signature"
        | "SignatureStatus" | "EventID" | "Provider_Name" | "GrantedAccess" | "CallTrace"
        | "TerminalSessionId" | "SubjectUserName" => WINDOWS,
        "Hashes" | "Imphash" | "md5" | "sha1" | "sha256" => HASHES,
        "DestinationHostname" | "SourceHostname" => "the kernel knows addresses, not names; see `QueryName`",
        "QueryResults" | "QueryStatus" | "answers" | "answer" => "only questions are seen, not answers",
        "key" => "it names an audit rule, and this is not auditd",
        _ => return None,
    })
}
