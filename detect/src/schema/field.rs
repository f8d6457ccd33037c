//! The one table of fields.

use crate::schema::{
    Category::{
        self, Authentication, Bpf, CredentialChange, DnsQuery, DriverLoad, FileAccess, FileDelete, FileEvent,
        FileLink, FileMode, FileOwner, FileRename, Flow, IoUring, KubernetesAudit, Memfd, Mount,
        NamespaceChange, NetworkAccept, NetworkBind, NetworkClose, NetworkConnection, NetworkListen,
        ProcessCreation, ProcessFork, ProcessTermination, ProcessVmWrite, Ptrace,
    },
    CategorySet,
};

/// What a field's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A text.
    Text,
    /// A text that keywords look into.
    Keyword,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// An IPv4 or IPv6 address.
    Address,
    /// A point in time.
    Time,
    /// Several texts; a test holds if it holds for one of them.
    List,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct FieldSpec {
    /// The field.
    pub field: Field,
    /// Its name in Sigma rules.
    pub name: &'static str,
    /// Other names that Sigma rules use for the same.
    pub aliases: &'static [&'static str],
    /// Names in `service: auditd` rules.
    pub auditd: &'static [&'static str],
    /// What its values are.
    pub kind: Kind,
    /// Events that may have it; in all others it is absent.
    pub categories: CategorySet,
    /// What it holds.
    pub doc: &'static str,
}

macro_rules! fields {
    ($($field:ident $name:literal $aliases:tt $auditd:tt $kind:ident $categories:expr, $doc:literal;)*) => {
        /// A field of events. `as usize` is its position in the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Field { $(#[doc = $doc] $field,)* }

        impl Field {
            /// All, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$field,)*];

            const TABLE: &'static [FieldSpec] = &[$(FieldSpec {
                field: Self::$field,
                name: $name,
                aliases: &$aliases,
                auditd: &$auditd,
                kind: Kind::$kind,
                categories: $categories,
                doc: $doc,
            },)*];
        }
    };
}

const fn only(categories: &[Category]) -> CategorySet {
    CategorySet::of(categories)
}

/// All kernel categories: those whose events have a process.
const KERNEL: CategorySet = only(&[
    ProcessCreation,
    ProcessFork,
    ProcessTermination,
    CredentialChange,
    NamespaceChange,
    FileEvent,
    FileAccess,
    FileDelete,
    FileRename,
    FileLink,
    FileMode,
    FileOwner,
    NetworkConnection,
    NetworkAccept,
    NetworkBind,
    NetworkListen,
    NetworkClose,
    DnsQuery,
    DriverLoad,
    Bpf,
    Ptrace,
    ProcessVmWrite,
    Memfd,
    Mount,
    IoUring,
]);
const ANY: CategorySet = KERNEL.union(only(&[KubernetesAudit, Authentication, Flow]));
const FILE: CategorySet =
    only(&[FileEvent, FileAccess, FileDelete, FileRename, FileLink, FileMode, FileOwner]);
const PEERED: CategorySet = only(&[NetworkConnection, NetworkAccept, NetworkClose, Flow]);
const SOCKET: CategorySet = PEERED.union(only(&[NetworkBind, NetworkListen]));
const K8S: CategorySet = only(&[KubernetesAudit]);

fields! {
    // the process that did it
    Image "Image" ["SourceImage", "ProcessPath"] ["exe"] Keyword KERNEL, "Path of the executable as the kernel resolved it";
    CommandLine "CommandLine" ["ProcessCommandLine"] ["proctitle"] Keyword KERNEL, "Arguments joined by single spaces, secrets masked";
    Args "Args" [] [] List KERNEL, "The arguments one by one";
    CurrentDirectory "CurrentDirectory" [] ["cwd"] Text KERNEL, "Working directory at exec";
    Comm "Comm" ["ProcessName"] ["comm"] Text KERNEL, "The task's 15-byte name, chosen by the program";
    ProcessId "ProcessId" ["SourceProcessId"] ["pid"] Number KERNEL, "Process id in the initial pid namespace";
    User "User" ["UserName", "SourceUser"] [] List KERNEL, "Real user: the numeric id, and also `root` for 0";
    Uid "Uid" [] ["uid"] Number KERNEL, "Real user id";
    Gid "Gid" [] ["gid"] Number KERNEL, "Real group id";
    Euid "Euid" [] ["euid", "fsuid", "suid"] Number KERNEL, "Effective user id";
    Egid "Egid" [] ["egid", "fsgid", "sgid"] Number KERNEL, "Effective group id";
    LoginUid "LoginUid" [] ["auid"] Number KERNEL, "User id of the login session; absent where none was set";
    Tty "Tty" [] ["tty"] Text KERNEL, "Controlling terminal, for example `pts3`; absent without one";
    Capabilities "Capabilities" [] [] List KERNEL, "Effective capabilities, for example `CAP_SYS_ADMIN`";
    ExeBacking "ExeBacking" [] [] Text KERNEL, "Where the image lives: `file`, `memfd` or `deleted`";
    ParentImage "ParentImage" [] [] Text KERNEL, "Image of the parent at fork time";
    ParentCommandLine "ParentCommandLine" [] [] Text KERNEL, "Arguments of the parent";
    ParentProcessId "ParentProcessId" [] ["ppid"] Number KERNEL, "Process id of the parent at fork time";
    ParentCurrentDirectory "ParentCurrentDirectory" [] [] Text KERNEL, "Working directory of the parent";
    ParentUser "ParentUser" [] [] List KERNEL, "Real user of the parent, as in `User`";
    ParentComm "ParentComm" ["ParentProcessName"] [] Text KERNEL, "Task name of the parent";
    GrandparentImage "GrandparentImage" [] [] Text KERNEL, "Image of the parent's parent";
    GrandparentCommandLine "GrandparentCommandLine" [] [] Text KERNEL, "Arguments of the parent's parent";
    AncestorImages "AncestorImages" [] [] List KERNEL, "Images of all known ancestors, from the parent upwards";
    Exposure "Exposure" [] [] Text KERNEL, "Whether the network can reach the process: `listens` itself, `behind_listener` (an ancestor in its workload listens), or `none`";
    Stdin "Stdin" [] [] Text KERNEL, "What standard input was at exec: `closed`, `file`, `pipe`, `socket` or `device`; absent where unknown";
    Stdout "Stdout" [] [] Text KERNEL, "What standard output was at exec";
    Stderr "Stderr" [] [] Text KERNEL, "What standard error was at exec";
    // where it runs
    Computer "Computer" ["ComputerName", "Hostname", "host"] ["node"] Text KERNEL, "The node's name";
    UtcTime "UtcTime" ["EventTime", "TimeCreated", "@timestamp", "timestamp"] [] Time ANY, "When it happened";
    Workload "Workload" [] [] Text KERNEL, "What the process's cgroup belongs to: `container`, `unit`, `host` or `unresolved`";
    InContainer "InContainer" [] [] Bool KERNEL, "Whether it runs in a container; absent where that could not be resolved";
    ContainerId "ContainerId" [] [] Text KERNEL, "The runtime's full container id";
    ContainerRuntime "ContainerRuntime" [] [] Text KERNEL, "`containerd`, `crio`, `docker`, `podman` or `unnamed`";
    PodUid "PodUid" [] [] Text KERNEL, "Kubernetes pod uid";
    SystemdUnit "SystemdUnit" [] [] Text KERNEL, "systemd unit, for example `ssh.service`";
    CgroupPath "CgroupPath" [] [] Text KERNEL, "Path below the cgroup2 mount";
    // process events
    RequestedImage "RequestedImage" [] [] Text only(&[ProcessCreation]), "The path as the caller gave it to exec";
    ChildProcessId "ChildProcessId" [] [] Number only(&[ProcessFork]), "Process id of the new process";
    ExitCode "ExitCode" [] ["exit"] Number only(&[ProcessTermination]), "Exit status; absent if a signal ended it";
    ExitSignal "ExitSignal" [] ["sig"] Number only(&[ProcessTermination]), "Signal that ended it; absent if none did";
    PreviousUid "PreviousUid" [] ["old-uid"] Number only(&[CredentialChange]), "Real user id before";
    PreviousEuid "PreviousEuid" [] [] Number only(&[CredentialChange]), "Effective user id before";
    PreviousGid "PreviousGid" [] [] Number only(&[CredentialChange]), "Real group id before";
    GainedCapabilities "GainedCapabilities" [] [] List only(&[CredentialChange]), "Capabilities that became effective by it";
    NamespaceCall "NamespaceCall" [] [] Text only(&[NamespaceChange]), "`setns` or `unshare`";
    ChangedNamespaces "ChangedNamespaces" [] [] List only(&[NamespaceChange]), "`mnt`, `pid`, `net`, `user`, `uts`, `ipc`, `cgroup`";
    // files
    TargetFilename "TargetFilename" ["FileName", "TargetFileName"] [] Keyword FILE, "The file; of a rename or link the new name";
    SourceFilename "SourceFilename" ["SourceFileName"] [] Keyword only(&[FileRename, FileLink]), "Old name of a rename; what a link points at";
    FileOperation "FileOperation" [] [] Text FILE, "`create`, `write`, `read`, `delete`, `rename`, `hardlink`, `symlink`, `chmod` or `chown`";
    OpenFlags "OpenFlags" [] [] List only(&[FileEvent, FileAccess]), "open(2) flags by name, for example `O_TRUNC`";
    FilePermissions "FilePermissions" [] ["mode"] Number only(&[FileMode]), "New permission bits, their octal digits: `4755`";
    SetUid "SetUid" [] [] Bool only(&[FileMode]), "The new bits have the set-user-id bit";
    SetGid "SetGid" [] [] Bool only(&[FileMode]), "The new bits have the set-group-id bit";
    Executable "Executable" [] [] Bool only(&[FileMode]), "The new bits let somebody execute it";
    NewOwnerUid "NewOwnerUid" [] ["ouid"] Number only(&[FileOwner]), "New user id; absent if unchanged";
    NewOwnerGid "NewOwnerGid" [] ["ogid"] Number only(&[FileOwner]), "New group id; absent if unchanged";
    // network
    DestinationIp "DestinationIp" ["dst_ip", "DestinationAddress", "dst"] [] Address PEERED.union(only(&[DnsQuery])), "The end that was connected to: remote for `Initiated: true`, ours for `false`; of a DNS question the server";
    DestinationPort "DestinationPort" ["dst_port"] [] Number PEERED.union(only(&[DnsQuery])), "Port of `DestinationIp`";
    DestinationIsIpv6 "DestinationIsIpv6" [] [] Bool PEERED.union(only(&[DnsQuery])), "Whether `DestinationIp` is IPv6";
    SourceIp "SourceIp" ["src_ip", "SourceAddress", "src"] [] Address SOCKET, "The end that connected; of bind and listen our own; absent before the kernel has chosen it";
    SourcePort "SourcePort" ["src_port"] [] Number SOCKET, "Port of `SourceIp`; absent before the kernel has chosen it";
    SourceIsIpv6 "SourceIsIpv6" [] [] Bool SOCKET, "Whether `SourceIp` is IPv6";
    Protocol "Protocol" ["proto"] [] Text SOCKET, "`tcp`, `udp`, or the protocol's number";
    Initiated "Initiated" [] [] Bool only(&[NetworkConnection, NetworkAccept]), "`true` for connect, `false` for accept";
    SentBytes "SentBytes" [] [] Number only(&[NetworkClose, Flow]), "Payload bytes sent";
    ReceivedBytes "ReceivedBytes" [] [] Number only(&[NetworkClose, Flow]), "Payload bytes received";
    QueryName "QueryName" ["query", "record_name"] [] Keyword only(&[DnsQuery]), "Name asked, lower case, no final dot";
    QueryType "QueryType" ["record_type", "qtype_name"] [] Text only(&[DnsQuery]), "Type asked, by name where it has one: `A`, `TXT`";
    // kernel
    ImageLoaded "ImageLoaded" ["ModuleName"] [] Keyword only(&[DriverLoad]), "Kernel module's name or file";
    BpfCommand "BpfCommand" [] [] Text only(&[Bpf]), "bpf(2) command, for example `BPF_PROG_LOAD`";
    BpfProgramType "BpfProgramType" [] [] Text only(&[Bpf]), "Program type of BPF_PROG_LOAD, for example `kprobe`";
    BpfName "BpfName" [] [] Text only(&[Bpf]), "Name of the program or map";
    PtraceRequest "PtraceRequest" [] [] Text only(&[Ptrace]), "For example `PTRACE_ATTACH`";
    TargetProcessId "TargetProcessId" [] ["opid"] Number only(&[Ptrace, ProcessVmWrite]), "The other process";
    TargetImage "TargetImage" [] [] Text only(&[Ptrace, ProcessVmWrite]), "Image of the other process, where it is known";
    TargetCommandLine "TargetCommandLine" [] ["ocomm"] Text only(&[Ptrace, ProcessVmWrite]), "Arguments of the other process, where it is known";
    MemfdName "MemfdName" [] [] Keyword only(&[Memfd]), "Name given to memfd_create";
    MemfdFlags "MemfdFlags" [] [] List only(&[Memfd]), "For example `MFD_CLOEXEC`";
    MountSource "MountSource" [] [] Keyword only(&[Mount]), "What is mounted";
    MountPoint "MountPoint" [] [] Keyword only(&[Mount]), "Where";
    FilesystemType "FilesystemType" [] [] Text only(&[Mount]), "For example `proc`";
    MountFlags "MountFlags" [] [] List only(&[Mount]), "For example `MS_BIND`";
    IoUringEntries "IoUringEntries" [] [] Number only(&[IoUring]), "Submission queue entries asked for";
    // the auditd view of the same events
    AuditType "AuditType" [] ["type"] List KERNEL, "Types of the records that auditd writes for it, for example `SYSCALL`, `EXECVE`, `PATH`";
    AuditSyscall "AuditSyscall" [] ["syscall", "SYSCALL"] List KERNEL, "The system call, by name and x86-64 number";
    AuditName "AuditName" [] ["name"] List KERNEL, "Paths of its PATH records";
    AuditNameType "AuditNameType" [] ["nametype"] List KERNEL, "Kinds of its PATH records: `NORMAL`, `CREATE`, `DELETE`";
    AuditSuccess "AuditSuccess" [] ["success"] Text KERNEL, "`yes`: only what succeeded is seen, except connect";
    AuditA0 "AuditA0" [] ["a0"] Text only(&[ProcessCreation]), "First argument of an EXECVE record";
    AuditA1 "AuditA1" [] ["a1"] Text only(&[ProcessCreation]), "Second argument of an EXECVE record";
    AuditA2 "AuditA2" [] ["a2"] Text only(&[ProcessCreation]), "Third argument of an EXECVE record";
    AuditA3 "AuditA3" [] ["a3"] Text only(&[ProcessCreation]), "Fourth argument of an EXECVE record";
    AuditA4 "AuditA4" [] ["a4"] Text only(&[ProcessCreation]), "Fifth argument of an EXECVE record";
    AuditA5 "AuditA5" [] ["a5"] Text only(&[ProcessCreation]), "Sixth argument of an EXECVE record";
    AuditA6 "AuditA6" [] ["a6"] Text only(&[ProcessCreation]), "Seventh argument of an EXECVE record";
    AuditA7 "AuditA7" [] ["a7"] Text only(&[ProcessCreation]), "Eighth argument of an EXECVE record";
    AuditA8 "AuditA8" [] ["a8"] Text only(&[ProcessCreation]), "Ninth argument of an EXECVE record";
    AuditA9 "AuditA9" [] ["a9"] Text only(&[ProcessCreation]), "Tenth argument of an EXECVE record";
    // Kubernetes audit log
    Verb "verb" [] [] Text K8S, "Request verb";
    ObjectResource "objectRef.resource" [] [] Text K8S, "Resource, plural";
    ObjectSubresource "objectRef.subresource" [] [] Text K8S, "Subresource, for example `exec`";
    ObjectNamespace "objectRef.namespace" [] [] Text K8S, "Namespace";
    ObjectName "objectRef.name" [] [] Text K8S, "Object name";
    ObjectApiGroup "objectRef.apiGroup" [] [] Text K8S, "API group";
    RequestUser "user.username" ["username"] [] Text K8S, "Who asked";
    RequestGroups "user.groups" [] [] List K8S, "Groups of who asked";
    RequestSourceIps "sourceIPs" [] [] List K8S, "Where from";
    RequestUserAgent "userAgent" ["user_agent"] [] Text K8S, "User agent";
    RequestUri "requestURI" [] [] Keyword K8S, "Path and query";
    ResponseCode "responseStatus.code" [] [] Number K8S, "HTTP status of the answer";
    AuthorizationDecision "annotations.authorization.k8s.io/decision" [] [] Text K8S, "`allow` or `forbid`";
    // identity and flows
    AuthUser "TargetUserName" [] ["acct"] Text only(&[Authentication]), "Account";
    AuthOutcome "AuthOutcome" [] ["res"] Text only(&[Authentication]), "`success` or `failure`";
    AuthMethod "AuthMethod" [] [] Text only(&[Authentication]), "For example `publickey`";
    AuthSourceIp "IpAddress" [] ["addr"] Address only(&[Authentication]), "Where from";
    FlowVerdict "FlowVerdict" ["action"] [] Text only(&[Flow]), "`forwarded` or `dropped`";
}

impl Field {
    /// Its row of the table.
    #[must_use]
    pub fn spec(self) -> &'static FieldSpec {
        &Self::TABLE[self as usize]
    }

    /// Its Sigma name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Whether events of the category may have it.
    #[must_use]
    pub fn exists_in(self, category: Category) -> bool {
        self.spec().categories.contains(category)
    }
}

impl Category {
    /// Fields that its events may have, in the order of the table.
    pub fn fields(self) -> impl Iterator<Item = Field> {
        Field::ALL.iter().copied().filter(move |field| field.exists_in(self))
    }

    /// Fields that keywords look into.
    pub fn keyword_fields(self) -> impl Iterator<Item = Field> {
        self.fields().filter(|field| field.spec().kind == Kind::Keyword)
    }
}
