//! Events with nothing written: empty texts, zeros, a process of an ordinary user on the host.

use std::{net::IpAddr, sync::Arc};

use model::{
    Activity, BootNs, CgroupId, Created, Credentials, Endpoint, ExeFile, Exit, FilePath, Flow, LinkKind,
    NamespaceCall, Namespaces, Pid, Process, ProcessKey, ProcessOrigin, Protocol, Stdio, Truncated, Workload,
};

use crate::schema::{Category, names::BPF_PROG_LOAD};

/// A process with this pid.
pub(super) fn process(pid: u32) -> Process {
    Process {
        key: ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid)) },
        parent: None,
        exe: String::new(),
        exe_file: ExeFile::default(),
        command_line: String::new(),
        args: vec![],
        args_truncated: Truncated::No,
        cwd: String::new(),
        comm: String::new(),
        credentials: Credentials { uid: 1000, gid: 1000, euid: 1000, egid: 1000, ..Credentials::default() },
        stdio: Stdio::default(),
        namespaces: Namespaces::default(),
        tty: None,
        cgroup: CgroupId(1),
        workload: Arc::new(Workload::Host { cgroup_path: "/".into() }),
        origin: ProcessOrigin::Exec,
        exit: None,
    }
}

/// What the category's events do; `None` where the kernel has no such events.
pub(super) fn activity(category: Category) -> Option<Activity> {
    let file = FilePath::default;
    let end = Endpoint { addr: IpAddr::from([0, 0, 0, 0]), port: 0 };
    let flow = Flow { protocol: Protocol::Tcp, local: end, remote: end };
    let target = ProcessKey { pid: Pid(4300), start: BootNs(4300) };
    let credentials = process(0).credentials;
    Some(match category {
        Category::ProcessCreation => Activity::Exec { requested: String::new() },
        Category::ProcessFork => Activity::Fork { child: ProcessKey { pid: Pid(4243), start: BootNs(4243) } },
        Category::ProcessTermination => Activity::Exit(Exit { code: 0, signal: 0, at: BootNs(9999) }),
        Category::CredentialChange => Activity::CredentialChange { before: credentials, after: credentials },
        Category::NamespaceChange => Activity::NamespaceChange {
            before: Namespaces::default(),
            after: Namespaces::default(),
            call: NamespaceCall::Unshare,
        },
        Category::FileEvent => Activity::FileOpen { file: file(), flags: 1, created: Created::Yes },
        Category::FileAccess => Activity::FileOpen { file: file(), flags: 0, created: Created::No },
        Category::FileDelete => Activity::FileDelete { file: file() },
        Category::FileRename => Activity::FileRename { from: file(), to: file() },
        Category::FileLink => Activity::FileLink { target: file(), link: file(), kind: LinkKind::Symbolic },
        Category::FileMode => Activity::FileMode { file: file(), mode: 0o644 },
        Category::FileOwner => Activity::FileOwner { file: file(), uid: u32::MAX, gid: u32::MAX },
        Category::NetworkConnection => Activity::Connect(flow),
        Category::NetworkAccept => Activity::Accept(flow),
        Category::NetworkBind => Activity::Bind { protocol: Protocol::Tcp, local: end },
        Category::NetworkListen => Activity::Listen { protocol: Protocol::Tcp, local: end },
        Category::NetworkClose => Activity::SocketClose { flow, sent_bytes: 0, received_bytes: 0 },
        Category::DnsQuery => {
            Activity::DnsQuery { name: String::new(), record_type: 1, server: Endpoint { port: 53, ..end } }
        }
        Category::DriverLoad => Activity::ModuleLoad { name: String::new() },
        Category::Bpf => Activity::Bpf { command: BPF_PROG_LOAD, program_type: 0, name: String::new() },
        Category::Ptrace => Activity::Ptrace { request: 16, target },
        Category::ProcessVmWrite => Activity::ProcessVmWrite { target },
        Category::Memfd => Activity::MemfdCreate { name: String::new(), flags: 0 },
        Category::Mount => {
            Activity::Mount { source: String::new(), target: file(), fs_type: String::new(), flags: 0 }
        }
        Category::IoUring => Activity::IoUringSetup { entries: 1 },
        _ => return None,
    })
}
