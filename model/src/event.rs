//! What happened, as seen in the kernel.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Credentials, EventId, Exit, Namespaces, Process, ProcessKey, Record, Timestamp, Truncated};

/// Something that a process did, or that another source told ([`Event::record`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its identity.
    pub id: EventId,
    /// When, by the node's wall clock (kernel boot time plus the offset measured at start).
    pub time: Timestamp,
    /// Who did it.
    pub process: Arc<Process>,
    /// Its parent, where it is still known.
    pub parent: Option<Arc<Process>>,
    /// Ancestors from the parent upwards, as far as known, at most [`Event::MAX_ANCESTORS`]. Not written out: a finding
    /// carries them once.
    #[serde(skip)]
    pub ancestors: Arc<[Arc<Process>]>,
    /// Whether the network can reach the process or one it descends from.
    #[serde(default)]
    pub exposure: Exposure,
    /// What was done.
    pub activity: Activity,
}

impl Event {
    /// Ancestors kept with an event (I11).
    pub const MAX_ANCESTORS: usize = 16;
}

/// Whether the network can reach a process: it, or an ancestor within the same workload, has waited for peers on a TCP or UDP port (seen
/// in the kernel, or found in /proc) or on a unix socket (found in /proc). A derived fact, so that no rule needs to trust a server's
/// name. Whom only this machine's own programs reach is told apart: behind a proxy that is a network service all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exposure {
    /// No listener seen.
    #[default]
    None,
    /// The process itself listens, at an address other than loopback.
    Listens,
    /// An ancestor in its workload does: it is a service's child.
    BehindListener,
    /// The process itself listens, on loopback or a unix socket only.
    ListensLocally,
    /// An ancestor in its workload does, and none at another address.
    BehindLocalListener,
}

/// A path as the kernel resolved it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct FilePath {
    /// Absolute path in the process's mount namespace.
    pub path: String,
    /// Whether it was cut.
    pub truncated: Truncated,
}

/// What was done. Sigma's categories are in `detect`'s schema table; this is the kernel's view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "activity", rename_all = "snake_case")]
pub enum Activity {
    /// A new program image; `Event::process` is the process after it.
    Exec {
        /// What the caller typed: relative, a symlink, `/proc/self/fd/3`.
        requested: String,
    },
    /// A new process without a new image.
    Fork {
        /// The child.
        child: ProcessKey,
    },
    /// The end of a process.
    Exit(Exit),
    /// Credentials changed (setuid, capset, setuid binary).
    CredentialChange {
        /// Before.
        before: Credentials,
        /// After.
        after: Credentials,
    },
    /// setns or unshare.
    NamespaceChange {
        /// Before.
        before: Namespaces,
        /// After.
        after: Namespaces,
        /// By which call.
        call: NamespaceCall,
    },
    /// A file was opened: for writing, or for reading where a rule wants that path.
    FileOpen {
        /// Which.
        file: FilePath,
        /// open(2) flags.
        flags: u32,
        /// It did not exist before.
        created: Created,
    },
    /// Removed.
    FileDelete {
        /// Which.
        file: FilePath,
    },
    /// Renamed.
    FileRename {
        /// From.
        from: FilePath,
        /// To.
        to: FilePath,
    },
    /// Hard or symbolic link.
    FileLink {
        /// What is pointed at.
        target: FilePath,
        /// The new name.
        link: FilePath,
        /// Which kind.
        kind: LinkKind,
    },
    /// chmod, fchmodat.
    FileMode {
        /// Which.
        file: FilePath,
        /// New permission bits.
        mode: u32,
    },
    /// chown.
    FileOwner {
        /// Which.
        file: FilePath,
        /// New uid, `u32::MAX` = unchanged.
        uid: u32,
        /// New gid, `u32::MAX` = unchanged.
        gid: u32,
    },
    /// connect: an attempt, with its result where the hook knows it.
    Connect(Flow),
    /// accept succeeded; `local` is ours.
    Accept(Flow),
    /// bind.
    Bind {
        /// Protocol.
        protocol: Protocol,
        /// Local end.
        local: Endpoint,
    },
    /// listen.
    Listen {
        /// Protocol.
        protocol: Protocol,
        /// Local end.
        local: Endpoint,
    },
    /// A connected socket was closed.
    SocketClose {
        /// Which.
        flow: Flow,
        /// Payload bytes sent.
        sent_bytes: u64,
        /// Payload bytes received.
        received_bytes: u64,
    },
    /// A DNS question went out.
    DnsQuery {
        /// Name asked, lower case, no final dot.
        name: String,
        /// RR type number (RFC 1035 §3.2.2).
        record_type: u16,
        /// The server asked.
        server: Endpoint,
    },
    /// init_module, finit_module.
    ModuleLoad {
        /// Module or file name.
        name: String,
    },
    /// bpf(2).
    Bpf {
        /// bpf_cmd.
        command: u32,
        /// Program type for BPF_PROG_LOAD.
        program_type: u32,
        /// Name given at load.
        name: String,
    },
    /// ptrace of another process.
    Ptrace {
        /// PTRACE_*.
        request: u64,
        /// The traced process.
        target: ProcessKey,
    },
    /// memfd_create.
    MemfdCreate {
        /// Name given.
        name: String,
        /// MFD_*.
        flags: u32,
    },
    /// mount.
    Mount {
        /// Source.
        source: String,
        /// Where.
        target: FilePath,
        /// File system type.
        fs_type: String,
        /// MS_*.
        flags: u64,
    },
    /// process_vm_writev into another process.
    ProcessVmWrite {
        /// The other process.
        target: ProcessKey,
    },
    /// io_uring_setup.
    IoUringSetup {
        /// Submission queue entries.
        entries: u32,
    },
    /// Another source than the kernel told it: no process is known ([`Process::nobody`]).
    Record(Arc<Record>),
}

/// Whether a file came into being by this open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Created {
    /// It was there.
    No,
    /// New.
    Yes,
}

/// By which call namespaces changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceCall {
    /// setns(2).
    Setns,
    /// unshare(2).
    Unshare,
}

/// Kind of link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// link(2).
    Hard,
    /// symlink(2).
    Symbolic,
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Another IP protocol, by number.
    #[serde(untagged)]
    Other(u8),
}

/// Address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address; IPv4-mapped IPv6 is given as IPv4.
    pub addr: IpAddr,
    /// Port, host order.
    pub port: u16,
}

/// Two ends of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Protocol.
    pub protocol: Protocol,
    /// Our end; unspecified (0.0.0.0:0) where the hook runs before it is chosen.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}
