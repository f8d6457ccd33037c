//! An event as rules see it: [`Field`] in, [`FieldValue`] out, without allocation.

use std::net::IpAddr;

use model::{
    Activity, Backing, Created, Endpoint, Event, Exposure, FdKind, Flow, LinkKind, Process, Protocol, Record,
    Runtime, Workload,
};

use crate::schema::{
    Category, Field, FieldValue, List,
    names::{
        BPF_COMMANDS, BPF_PROG_LOAD, BPF_PROGRAM_TYPES, CAPABILITIES, DNS_TYPES, MEMFD_FLAGS, MOUNT_FLAGS,
        NAMESPACES, OPEN_FLAGS, PTRACE_REQUESTS, audit_syscalls, audit_types, name_of,
    },
    record,
};

/// What is known beside the event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The other process of a ptrace or process_vm_writev.
    pub target: Option<&'a Process>,
}

/// An event as rules see it. Nothing is computed until it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    category: Category,
    event: &'a Event,
    context: Context<'a>,
}

impl<'a> View<'a> {
    /// Without anything beside the event.
    #[must_use]
    pub fn new(event: &'a Event) -> Self {
        Self::with_context(event, Context::default())
    }

    /// With what is known beside it.
    #[must_use]
    pub fn with_context(event: &'a Event, context: Context<'a>) -> Self {
        Self { category: Category::of(event), event, context }
    }

    /// Its category.
    #[must_use]
    pub fn category(&self) -> Category {
        self.category
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &'a Event {
        self.event
    }

    /// A field's value.
    #[must_use]
    pub fn get(&self, field: Field) -> FieldValue<'a> {
        if let Activity::Record(of) = &self.event.activity {
            return self.record_field(of, field);
        }
        match field {
            Field::UtcTime => FieldValue::Time(self.event.time),
            Field::Computer => FieldValue::Str(self.event.id.node.as_str()),
            Field::Image => text(&self.event.process.exe),
            Field::CommandLine => text(&self.event.process.command_line),
            Field::ParentImage => self.parent(|parent| text(&parent.exe)),
            Field::ParentCommandLine => self.parent(|parent| text(&parent.command_line)),
            Field::TargetFilename => self.target_filename(),
            _ => process_field(&self.event.process, field)
                .or_else(|| self.kin_field(field))
                .or_else(|| self.activity_field(field))
                .or_else(|| self.network_field(field))
                .or_else(|| self.audit_field(field))
                .unwrap_or(FieldValue::Absent),
        }
    }

    fn record_field(&self, of: &'a Record, field: Field) -> FieldValue<'a> {
        match field {
            Field::UtcTime => FieldValue::Time(self.event.time),
            _ => record::derived(&of.facts, field).unwrap_or_else(|| record::value(&of.facts, field)),
        }
    }

    fn parent(&self, read: impl Fn(&'a Process) -> FieldValue<'a>) -> FieldValue<'a> {
        self.event.parent.as_deref().map_or(FieldValue::Absent, read)
    }

    fn kin_field(&self, field: Field) -> Option<FieldValue<'a>> {
        let ancestors: &'a [std::sync::Arc<Process>] = &self.event.ancestors;
        let grandparent = ancestors.get(1);
        Some(match field {
            Field::ParentProcessId => {
                self.event.process.parent.map_or(FieldValue::Absent, |parent| number(parent.pid.0))
            }
            Field::Exposure => FieldValue::Str(match self.event.exposure {
                Exposure::None => "none",
                Exposure::Listens => "listens",
                Exposure::BehindListener => "behind_listener",
                Exposure::ListensLocally => "listens_locally",
                Exposure::BehindLocalListener => "behind_local_listener",
            }),
            Field::ParentCurrentDirectory => self.parent(|parent| text(&parent.cwd)),
            Field::ParentUser => self.parent(|parent| user(parent.credentials.uid)),
            Field::ParentComm => self.parent(|parent| text(&parent.comm)),
            Field::GrandparentImage => grandparent.map_or(FieldValue::Absent, |process| text(&process.exe)),
            Field::GrandparentCommandLine => {
                grandparent.map_or(FieldValue::Absent, |process| text(&process.command_line))
            }
            Field::AncestorImages if ancestors.is_empty() => FieldValue::Absent,
            Field::AncestorImages => FieldValue::List(List::Images(ancestors)),
            _ => return None,
        })
    }

    fn target_filename(&self) -> FieldValue<'a> {
        match &self.event.activity {
            Activity::FileOpen { file, .. }
            | Activity::FileDelete { file }
            | Activity::FileMode { file, .. }
            | Activity::FileOwner { file, .. } => text(&file.path),
            Activity::FileRename { to, .. } => text(&to.path),
            Activity::FileLink { link, .. } => text(&link.path),
            _ => FieldValue::Absent,
        }
    }

    fn activity_field(&self, field: Field) -> Option<FieldValue<'a>> {
        Some(match (field, &self.event.activity) {
            (Field::RequestedImage, Activity::Exec { requested }) => text(requested),
            (Field::ChildProcessId, Activity::Fork { child }) => number(child.pid.0),
            (Field::ExitCode, Activity::Exit(exit)) if exit.signal == 0 => number(u32::from(exit.code)),
            (Field::ExitSignal, Activity::Exit(exit)) if exit.signal != 0 => number(u32::from(exit.signal)),
            (Field::PreviousUid, Activity::CredentialChange { before, .. }) => number(before.uid),
            (Field::PreviousEuid, Activity::CredentialChange { before, .. }) => number(before.euid),
            (Field::PreviousGid, Activity::CredentialChange { before, .. }) => number(before.gid),
            (Field::GainedCapabilities, Activity::CredentialChange { before, after }) => {
                FieldValue::List(List::Bits(after.cap_effective & !before.cap_effective, CAPABILITIES))
            }
            (Field::NamespaceCall, Activity::NamespaceChange { call, .. }) => FieldValue::Str(match call {
                model::NamespaceCall::Setns => "setns",
                model::NamespaceCall::Unshare => "unshare",
            }),
            (Field::ChangedNamespaces, Activity::NamespaceChange { before, after, .. }) => {
                let pairs = [
                    (before.mount, after.mount),
                    (before.pid, after.pid),
                    (before.net, after.net),
                    (before.user, after.user),
                    (before.uts, after.uts),
                    (before.ipc, after.ipc),
                    (before.cgroup, after.cgroup),
                ];
                let changed = pairs.iter().zip(NAMESPACES).filter(|((was, is), _)| was != is);
                FieldValue::List(List::Bits(changed.fold(0, |bits, (_, (bit, _))| bits | bit), NAMESPACES))
            }
            (Field::SourceFilename, Activity::FileRename { from, .. }) => text(&from.path),
            (Field::SourceFilename, Activity::FileLink { target, .. }) => text(&target.path),
            (Field::FileOperation, activity) => {
                return file_operation(self.category, activity).map(FieldValue::Str);
            }
            (Field::OpenFlags, Activity::FileOpen { flags, .. }) => {
                FieldValue::List(List::Bits(u64::from(*flags), OPEN_FLAGS))
            }
            (Field::FilePermissions, Activity::FileMode { mode, .. }) => FieldValue::Num(octal_digits(*mode)),
            (Field::SetUid, Activity::FileMode { mode, .. }) => FieldValue::Bool(mode & 0o4000 != 0),
            (Field::SetGid, Activity::FileMode { mode, .. }) => FieldValue::Bool(mode & 0o2000 != 0),
            (Field::Executable, Activity::FileMode { mode, .. }) => FieldValue::Bool(mode & 0o111 != 0),
            (Field::NewOwnerUid, Activity::FileOwner { uid, .. }) if *uid != u32::MAX => number(*uid),
            (Field::NewOwnerGid, Activity::FileOwner { gid, .. }) if *gid != u32::MAX => number(*gid),
            (Field::ImageLoaded, Activity::ModuleLoad { name }) => text(name),
            (Field::BpfCommand, Activity::Bpf { command, .. }) => indexed(*command, BPF_COMMANDS),
            (Field::BpfProgramType, Activity::Bpf { command: BPF_PROG_LOAD, program_type, .. }) => {
                indexed(*program_type, BPF_PROGRAM_TYPES)
            }
            (Field::BpfName, Activity::Bpf { name, .. }) => text(name),
            (Field::PtraceRequest, Activity::Ptrace { request, .. }) => named(*request, PTRACE_REQUESTS),
            (
                Field::TargetProcessId,
                Activity::Ptrace { target, .. } | Activity::ProcessVmWrite { target },
            ) => number(target.pid.0),
            (Field::TargetImage, Activity::Ptrace { .. } | Activity::ProcessVmWrite { .. }) => {
                self.context.target.map_or(FieldValue::Absent, |target| text(&target.exe))
            }
            (Field::TargetCommandLine, Activity::Ptrace { .. } | Activity::ProcessVmWrite { .. }) => {
                self.context.target.map_or(FieldValue::Absent, |target| text(&target.command_line))
            }
            (Field::MemfdName, Activity::MemfdCreate { name, .. }) => text(name),
            (Field::MemfdFlags, Activity::MemfdCreate { flags, .. }) => {
                FieldValue::List(List::Bits(u64::from(*flags), MEMFD_FLAGS))
            }
            (Field::MountSource, Activity::Mount { source, .. }) => text(source),
            (Field::MountPoint, Activity::Mount { target, .. }) => text(&target.path),
            (Field::FilesystemType, Activity::Mount { fs_type, .. }) => text(fs_type),
            (Field::MountFlags, Activity::Mount { flags, .. }) => {
                FieldValue::List(List::Bits(*flags, MOUNT_FLAGS))
            }
            (Field::IoUringEntries, Activity::IoUringSetup { entries }) => number(*entries),
            (Field::QueryName, Activity::DnsQuery { name, .. }) => text(name),
            (Field::QueryType, Activity::DnsQuery { record_type, .. }) => {
                named(u64::from(*record_type), DNS_TYPES)
            }
            (Field::SentBytes, Activity::SocketClose { sent_bytes, .. }) => wide(*sent_bytes),
            (Field::ReceivedBytes, Activity::SocketClose { received_bytes, .. }) => wide(*received_bytes),
            (Field::Initiated, Activity::Connect(_)) => FieldValue::Bool(true),
            (Field::Initiated, Activity::Accept(_)) => FieldValue::Bool(false),
            _ => return None,
        })
    }

    fn network_field(&self, field: Field) -> Option<FieldValue<'a>> {
        let ends = Ends::of(&self.event.activity)?;
        let chosen = |end: &Endpoint| !(end.addr.is_unspecified() && end.port == 0);
        // A bound socket may well stand on 0.0.0.0; an unspecified end with a port is a real answer there.
        let source = ends.source.filter(chosen);
        Some(match field {
            Field::DestinationIp => {
                ends.destination.map_or(FieldValue::Absent, |end| FieldValue::Ip(end.addr))
            }
            Field::DestinationPort => {
                ends.destination.map_or(FieldValue::Absent, |end| number(u32::from(end.port)))
            }
            Field::DestinationIsIpv6 => {
                ends.destination.map_or(FieldValue::Absent, |end| FieldValue::Bool(is_v6(end.addr)))
            }
            Field::SourceIp => source.map_or(FieldValue::Absent, |end| FieldValue::Ip(end.addr)),
            Field::SourcePort => source.map_or(FieldValue::Absent, |end| number(u32::from(end.port))),
            Field::SourceIsIpv6 => source.map_or(FieldValue::Absent, |end| FieldValue::Bool(is_v6(end.addr))),
            Field::Protocol => match ends.protocol? {
                Protocol::Tcp => FieldValue::Str("tcp"),
                Protocol::Udp => FieldValue::Str("udp"),
                Protocol::Other(protocol) => number(u32::from(protocol)),
            },
            _ => return None,
        })
    }

    fn audit_field(&self, field: Field) -> Option<FieldValue<'a>> {
        let process = &self.event.process;
        let position = match field {
            Field::AuditType => {
                return Some(FieldValue::List(List::Fixed(audit_types(&self.event.activity))));
            }
            Field::AuditSyscall => {
                return Some(FieldValue::List(List::Fixed(audit_syscalls(&self.event.activity))));
            }
            Field::AuditSuccess => return Some(FieldValue::Str("yes")),
            Field::AuditName => return self.audit_names(),
            Field::AuditNameType => return self.audit_name_types(),
            Field::AuditA0 => 0,
            Field::AuditA1 => 1,
            Field::AuditA2 => 2,
            Field::AuditA3 => 3,
            Field::AuditA4 => 4,
            Field::AuditA5 => 5,
            Field::AuditA6 => 6,
            Field::AuditA7 => 7,
            Field::AuditA8 => 8,
            Field::AuditA9 => 9,
            _ => return None,
        };
        let is_exec = matches!(self.event.activity, Activity::Exec { .. });
        is_exec.then(|| process.args.get(position)).flatten().map(|argument| FieldValue::Str(argument))
    }

    fn audit_names(&self) -> Option<FieldValue<'a>> {
        Some(match &self.event.activity {
            Activity::Exec { requested } => FieldValue::List(List::Pair(&self.event.process.exe, requested)),
            Activity::FileRename { from, to } => FieldValue::List(List::Pair(&from.path, &to.path)),
            Activity::FileLink { target, link, .. } => FieldValue::List(List::Pair(&target.path, &link.path)),
            Activity::Mount { target, .. } => text(&target.path),
            Activity::ModuleLoad { name } => text(name),
            _ => self.target_filename(),
        })
    }

    fn audit_name_types(&self) -> Option<FieldValue<'a>> {
        let kinds: &'static [&'static str] = match &self.event.activity {
            Activity::Exec { .. }
            | Activity::FileMode { .. }
            | Activity::FileOwner { .. }
            | Activity::Mount { .. } => &["NORMAL"],
            Activity::FileOpen { created: Created::Yes, .. } => &["PARENT", "CREATE"],
            Activity::FileOpen { .. } => &["NORMAL"],
            Activity::FileDelete { .. } => &["PARENT", "DELETE"],
            Activity::FileRename { .. } => &["PARENT", "DELETE", "CREATE"],
            Activity::FileLink { .. } => &["PARENT", "NORMAL", "CREATE"],
            _ => return None,
        };
        Some(FieldValue::List(List::Fixed(kinds)))
    }
}

fn process_field(process: &Process, field: Field) -> Option<FieldValue<'_>> {
    Some(match field {
        Field::Args => FieldValue::List(List::Strings(&process.args)),
        Field::CurrentDirectory => text(&process.cwd),
        Field::Comm => text(&process.comm),
        Field::ProcessId => number(process.key.pid.0),
        Field::User => user(process.credentials.uid),
        Field::Uid => number(process.credentials.uid),
        Field::Gid => number(process.credentials.gid),
        Field::Euid => number(process.credentials.euid),
        Field::Egid => number(process.credentials.egid),
        Field::LoginUid => process.credentials.auid.map_or(FieldValue::Absent, number),
        Field::Tty => process.tty.as_deref().map_or(FieldValue::Absent, text),
        Field::Capabilities => FieldValue::List(List::Bits(process.credentials.cap_effective, CAPABILITIES)),
        Field::ExeBacking => FieldValue::Str(match process.exe_file.backing {
            Backing::File => "file",
            Backing::Memfd => "memfd",
            Backing::Deleted => "deleted",
        }),
        Field::Stdin => descriptor(process.stdio.stdin),
        Field::Stdout => descriptor(process.stdio.stdout),
        Field::Stderr => descriptor(process.stdio.stderr),
        Field::Workload
        | Field::InContainer
        | Field::ContainerId
        | Field::ContainerRuntime
        | Field::PodUid
        | Field::SystemdUnit
        | Field::CgroupPath => workload_field(&process.workload, field),
        _ => return None,
    })
}

fn workload_field(workload: &Workload, field: Field) -> FieldValue<'_> {
    match (field, workload) {
        (Field::Workload, Workload::Container { .. }) => FieldValue::Str("container"),
        (Field::Workload, Workload::Unit { .. }) => FieldValue::Str("unit"),
        (Field::Workload, Workload::Host { .. }) => FieldValue::Str("host"),
        (Field::Workload, Workload::Unresolved { .. }) => FieldValue::Str("unresolved"),
        (Field::InContainer, Workload::Unresolved { .. }) => FieldValue::Absent,
        (Field::InContainer, _) => FieldValue::Bool(matches!(workload, Workload::Container { .. })),
        (Field::ContainerId, Workload::Container { container_id, .. }) => text(container_id),
        (Field::ContainerRuntime, Workload::Container { runtime, .. }) => FieldValue::Str(match runtime {
            Runtime::Containerd => "containerd",
            Runtime::Crio => "crio",
            Runtime::Docker => "docker",
            Runtime::Podman => "podman",
            Runtime::Unnamed => "unnamed",
        }),
        (Field::PodUid, Workload::Container { pod_uid: Some(uid), .. }) => text(uid),
        (Field::SystemdUnit, Workload::Unit { unit, .. }) => text(unit),
        (Field::CgroupPath, _) => workload.cgroup_path().map_or(FieldValue::Absent, text),
        _ => FieldValue::Absent,
    }
}

fn descriptor<'a>(kind: FdKind) -> FieldValue<'a> {
    FieldValue::Str(match kind {
        FdKind::Unknown => return FieldValue::Absent,
        FdKind::Closed => "closed",
        FdKind::File => "file",
        FdKind::Pipe => "pipe",
        FdKind::Socket => "socket",
        FdKind::Device => "device",
    })
}

fn file_operation(category: Category, activity: &Activity) -> Option<&'static str> {
    Some(match activity {
        Activity::FileOpen { created: Created::Yes, .. } => "create",
        Activity::FileOpen { .. } if category == Category::FileEvent => "write",
        Activity::FileOpen { .. } => "read",
        Activity::FileDelete { .. } => "delete",
        Activity::FileRename { .. } => "rename",
        Activity::FileLink { kind: LinkKind::Hard, .. } => "hardlink",
        Activity::FileLink { kind: LinkKind::Symbolic, .. } => "symlink",
        Activity::FileMode { .. } => "chmod",
        Activity::FileOwner { .. } => "chown",
        _ => return None,
    })
}

/// The two ends of a network activity, named as Sysmon does: the source is the end that began.
struct Ends {
    protocol: Option<Protocol>,
    source: Option<Endpoint>,
    destination: Option<Endpoint>,
}

impl Ends {
    fn of(activity: &Activity) -> Option<Self> {
        Some(match activity {
            Activity::Connect(flow) | Activity::SocketClose { flow, .. } => Self::outward(flow),
            Activity::Accept(flow) => Self {
                protocol: Some(flow.protocol),
                source: Some(flow.remote),
                destination: Some(flow.local),
            },
            Activity::Bind { protocol, local } | Activity::Listen { protocol, local } => {
                Self { protocol: Some(*protocol), source: Some(*local), destination: None }
            }
            Activity::DnsQuery { server, .. } => {
                Self { protocol: None, source: None, destination: Some(*server) }
            }
            _ => return None,
        })
    }

    fn outward(flow: &Flow) -> Self {
        Self { protocol: Some(flow.protocol), source: Some(flow.local), destination: Some(flow.remote) }
    }
}

fn text(text: &str) -> FieldValue<'_> {
    FieldValue::Str(text)
}

fn number<'a>(number: u32) -> FieldValue<'a> {
    FieldValue::Num(i64::from(number))
}

fn wide<'a>(number: u64) -> FieldValue<'a> {
    FieldValue::Num(i64::try_from(number).unwrap_or(i64::MAX))
}

/// `root` and `0` for 0, otherwise the number: other names are not the kernel's business.
fn user<'a>(uid: u32) -> FieldValue<'a> {
    if uid == 0 { FieldValue::List(List::Pair("root", "0")) } else { number(uid) }
}

fn named<'a>(value: u64, table: &'static [(u64, &'static str)]) -> FieldValue<'a> {
    name_of(value, table).map_or_else(|| wide(value), FieldValue::Str)
}

fn indexed<'a>(value: u32, table: &'static [&'static str]) -> FieldValue<'a> {
    table.get(value as usize).map_or_else(|| number(value), |name| FieldValue::Str(name))
}

fn is_v6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(_))
}

/// The number whose decimal digits are the octal digits of `mode`'s lower 12 bits: rules write `4755`.
fn octal_digits(mode: u32) -> i64 {
    let digit = |shift: u32| i64::from(mode >> shift & 0o7);
    digit(9) * 1000 + digit(6) * 100 + digit(3) * 10 + digit(0)
}
