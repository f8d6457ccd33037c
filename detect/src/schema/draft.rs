//! Events written down by their fields, as rule tests do.

mod blank;
mod record;
mod written;

use std::{net::IpAddr, sync::Arc};

use model::{
    Activity, AgentEpoch, Backing, CgroupId, Created, Event, EventId, Exposure, LinkKind, NamespaceCall,
    Namespaces, NodeId, Pid, Process, Protocol, Runtime, Seq, Timestamp, Workload,
};

use self::{
    blank::{activity, process},
    record::record,
    written::{Written, parse_time},
};
use crate::schema::{
    Category, Context, Field, FieldValue, Scratch, View,
    names::{
        BPF_COMMANDS, BPF_PROGRAM_TYPES, CAPABILITIES, DNS_TYPES, MEMFD_FLAGS, MOUNT_FLAGS, NAMESPACES,
        OPEN_FLAGS, PTRACE_REQUESTS,
    },
};

/// When drafted events happen: the beginning of 2026.
const BEGIN: Timestamp = Timestamp(1_767_225_600_000_000_000);

/// A field's value as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftValue {
    /// One.
    One(String),
    /// Several, for list fields.
    Many(Vec<String>),
}

/// An event made of fields, with what belongs beside it.
#[derive(Debug, Clone)]
pub struct Drafted {
    event: Event,
    target: Option<Process>,
}

/// Why no such event can exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The category does not have the field.
    #[error("{category} events have no `{field}`")]
    NoField {
        /// The category.
        category: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The text is not a value of the field.
    #[error("`{value}` is no value of `{field}`: expected {expected}")]
    BadValue {
        /// The field.
        field: &'static str,
        /// As written.
        value: String,
        /// What could stand there.
        expected: String,
    },
    /// The field follows from others, and what follows is not what is written.
    #[error("`{field}` follows from the other fields: it is {is}, not what is written")]
    Derived {
        /// The field.
        field: &'static str,
        /// What it comes to.
        is: String,
    },
}

impl Drafted {
    /// The event of these fields. What is not written is empty, zero or absent; `Args` follows from `CommandLine` unless it is
    /// written.
    ///
    /// # Errors
    /// [`DraftError`]: no such event can exist.
    pub fn new(category: Category, fields: &[(Field, DraftValue)]) -> Result<Self, DraftError> {
        if let Some((field, _)) = fields.iter().find(|(field, _)| !field.exists_in(category)) {
            return Err(DraftError::NoField { category: category.name(), field: field.name() });
        }
        let drafted = match activity(category) {
            Some(activity) => {
                let mut draft = Draft::new(category, activity);
                fields.iter().try_for_each(|(field, value)| draft.set(*field, value))?;
                draft.finish()
            }
            None => record(category, fields)?,
        };
        fields.iter().try_for_each(|(field, value)| drafted.check(*field, value)).map(|()| drafted)
    }

    /// The same at another time.
    #[must_use]
    pub fn at(mut self, time: Timestamp) -> Self {
        self.event.time = time;
        self
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// What is known beside it.
    #[must_use]
    pub fn context(&self) -> Context<'_> {
        Context { target: self.target.as_ref() }
    }

    /// The event as rules see it.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::with_context(&self.event, self.context())
    }

    /// The event has what was written: so a field that follows from others is not silently something else.
    fn check(&self, field: Field, written: &DraftValue) -> Result<(), DraftError> {
        let value = self.view().get(field);
        let has = |wanted: &str| {
            value.any(|one| {
                one.text(&mut Scratch::new()).is_some_and(|text| text.eq_ignore_ascii_case(wanted))
            })
        };
        let holds = match written {
            DraftValue::One(text) => has(text) || (value.is_absent() && text.is_empty()),
            DraftValue::Many(texts) => texts.iter().all(|text| has(text)),
        };
        if holds {
            Ok(())
        } else {
            Err(DraftError::Derived { field: field.name(), is: crate::explain::shown(value) })
        }
    }
}

struct Draft {
    category: Category,
    activity: Activity,
    process: Process,
    parent: Option<Process>,
    grandparent: Option<Process>,
    ancestors: Vec<String>,
    target: Option<Process>,
    exposure: Exposure,
    node: NodeId,
    time: Timestamp,
    args_written: bool,
}

impl Draft {
    fn new(category: Category, activity: Activity) -> Self {
        Self {
            category,
            activity,
            process: process(4242),
            parent: None,
            grandparent: None,
            ancestors: vec![],
            target: None,
            exposure: Exposure::None,
            node: NodeId::new("node"),
            time: BEGIN,
            args_written: false,
        }
    }

    fn finish(mut self) -> Drafted {
        if !self.args_written {
            self.process.args = self.process.command_line.split_whitespace().map(str::to_owned).collect();
        }
        if let Activity::CredentialChange { after, .. } = &mut self.activity {
            let credentials = &mut self.process.credentials;
            credentials.cap_effective |= after.cap_effective;
            *after = *credentials;
        }
        let mut kin = vec![];
        if self.grandparent.is_some() || !self.ancestors.is_empty() {
            self.parent.get_or_insert_with(|| process(4241));
        }
        if let Some(parent) = &self.parent {
            self.process.parent = Some(parent.key);
        }
        kin.extend(self.parent.clone());
        kin.extend(self.grandparent);
        for (position, image) in self.ancestors.iter().enumerate() {
            match kin.get_mut(position) {
                Some(known) if known.exe.is_empty() => known.exe.clone_from(image),
                Some(_) => {}
                None => kin.push(Process { exe: image.clone(), ..process(4239) }),
            }
        }
        let ancestors: Vec<Arc<Process>> = kin.into_iter().map(Arc::new).collect();
        let event = Event {
            id: EventId { node: self.node, epoch: AgentEpoch(1), seq: Seq(1) },
            time: self.time,
            process: Arc::new(self.process),
            parent: ancestors.first().cloned(),
            ancestors: ancestors.into(),
            exposure: self.exposure,
            activity: self.activity,
        };
        Drafted { event, target: self.target }
    }

    fn set(&mut self, field: Field, value: &DraftValue) -> Result<(), DraftError> {
        let written = Written { field, value };
        // What none of them sets follows from the category or from other fields; `Drafted::check` compares it.
        let setters = [Self::set_process, Self::set_kin, Self::set_activity, Self::set_network];
        for setter in setters {
            if setter(self, field, &written)? {
                break;
            }
        }
        Ok(())
    }

    fn set_process(&mut self, field: Field, written: &Written<'_>) -> Result<bool, DraftError> {
        let process = &mut self.process;
        match field {
            Field::Image => process.exe = written.text()?,
            Field::CommandLine => process.command_line = written.text()?,
            Field::Args => {
                process.args = written.texts();
                self.args_written = true;
                if process.command_line.is_empty() {
                    process.command_line = process.args.join(" ");
                }
            }
            Field::CurrentDirectory => process.cwd = written.text()?,
            Field::Comm => process.comm = written.text()?,
            Field::ProcessId => process.key.pid = Pid(written.number()?),
            Field::User => process.credentials.uid = written.user()?,
            Field::Uid => process.credentials.uid = written.number()?,
            Field::Gid => process.credentials.gid = written.number()?,
            Field::Euid => process.credentials.euid = written.number()?,
            Field::Egid => process.credentials.egid = written.number()?,
            Field::LoginUid => process.credentials.auid = Some(written.number()?),
            Field::Tty => process.tty = Some(written.text()?),
            Field::Capabilities => process.credentials.cap_effective = written.bits(CAPABILITIES)?,
            Field::ExeBacking => {
                process.exe_file.backing = written.word(&[
                    ("file", Backing::File),
                    ("memfd", Backing::Memfd),
                    ("deleted", Backing::Deleted),
                ])?;
            }
            Field::Stdin => process.stdio.stdin = written.descriptor()?,
            Field::Stdout => process.stdio.stdout = written.descriptor()?,
            Field::Stderr => process.stdio.stderr = written.descriptor()?,
            Field::Exposure => {
                self.exposure = written.word(&[
                    ("none", Exposure::None),
                    ("listens", Exposure::Listens),
                    ("behind_listener", Exposure::BehindListener),
                    ("listens_locally", Exposure::ListensLocally),
                    ("behind_local_listener", Exposure::BehindLocalListener),
                ])?;
            }
            Field::UtcTime => {
                self.time = parse_time(&written.text()?).ok_or_else(|| written.bad("2026-01-31T23:59:59Z"))?
            }
            Field::Computer => self.node = NodeId::new(written.text()?),
            Field::AuditA0
            | Field::AuditA1
            | Field::AuditA2
            | Field::AuditA3
            | Field::AuditA4
            | Field::AuditA5
            | Field::AuditA6
            | Field::AuditA7
            | Field::AuditA8
            | Field::AuditA9 => {
                let position = field as usize - Field::AuditA0 as usize;
                if process.args.len() <= position {
                    process.args.resize(position + 1, String::new());
                }
                process.args[position] = written.text()?;
                self.args_written = true;
                process.command_line = process.args.join(" ");
            }
            _ => return self.set_workload(field, written),
        }
        Ok(true)
    }

    fn set_workload(&mut self, field: Field, written: &Written<'_>) -> Result<bool, DraftError> {
        let old = self.process.workload.as_ref().clone();
        let cgroup_path = old.cgroup_path().unwrap_or("/").to_owned();
        let container = |change: &dyn Fn(&mut Runtime, &mut String, &mut Option<String>)| {
            let (mut runtime, mut id, mut pod) = match &old {
                Workload::Container { runtime, container_id, pod_uid, .. } => {
                    (*runtime, container_id.clone(), pod_uid.clone())
                }
                _ => (Runtime::Containerd, "0".repeat(64), None),
            };
            change(&mut runtime, &mut id, &mut pod);
            Workload::Container { runtime, container_id: id, pod_uid: pod, cgroup_path: cgroup_path.clone() }
        };
        let unit = |unit: String| Workload::unit(unit, cgroup_path.clone());
        let host = || Workload::Host { cgroup_path: cgroup_path.clone() };
        let new = match field {
            Field::Workload => match written.text()?.as_str() {
                "container" => container(&|_, _, _| {}),
                "unit" => unit(String::new()),
                "host" => host(),
                "unresolved" => Workload::Unresolved { cgroup: CgroupId(0) },
                _ => return Err(written.bad("`container`, `unit`, `host` or `unresolved`")),
            },
            Field::InContainer if written.truth()? => container(&|_, _, _| {}),
            Field::InContainer => host(),
            Field::ContainerId => {
                let id = written.text()?;
                container(&|_, old, _| old.clone_from(&id))
            }
            Field::PodUid => {
                let uid = written.text()?;
                container(&|_, _, old| *old = Some(uid.clone()))
            }
            Field::ContainerRuntime => {
                let runtime = written.word(&[
                    ("containerd", Runtime::Containerd),
                    ("crio", Runtime::Crio),
                    ("docker", Runtime::Docker),
                    ("podman", Runtime::Podman),
                    ("unnamed", Runtime::Unnamed),
                ])?;
                container(&|old, _, _| *old = runtime)
            }
            Field::SystemdUnit => unit(written.text()?),
            Field::CgroupPath => {
                let path = written.text()?;
                match old {
                    Workload::Container { runtime, container_id, pod_uid, .. } => {
                        Workload::Container { runtime, container_id, pod_uid, cgroup_path: path }
                    }
                    Workload::Unit { unit, started_by, .. } => {
                        Workload::Unit { unit, cgroup_path: path, started_by }
                    }
                    _ => Workload::Host { cgroup_path: path },
                }
            }
            _ => return Ok(false),
        };
        self.process.workload = Arc::new(new);
        Ok(true)
    }

    fn set_kin(&mut self, field: Field, written: &Written<'_>) -> Result<bool, DraftError> {
        fn kin(of: &mut Option<Process>, pid: u32) -> &mut Process {
            of.get_or_insert_with(|| process(pid))
        }
        match field {
            Field::ParentImage => kin(&mut self.parent, 4241).exe = written.text()?,
            Field::ParentCommandLine => kin(&mut self.parent, 4241).command_line = written.text()?,
            Field::ParentCurrentDirectory => kin(&mut self.parent, 4241).cwd = written.text()?,
            Field::ParentUser => kin(&mut self.parent, 4241).credentials.uid = written.user()?,
            Field::ParentComm => kin(&mut self.parent, 4241).comm = written.text()?,
            Field::ParentProcessId => kin(&mut self.parent, 4241).key.pid = Pid(written.number()?),
            Field::GrandparentImage => kin(&mut self.grandparent, 4240).exe = written.text()?,
            Field::GrandparentCommandLine => {
                kin(&mut self.grandparent, 4240).command_line = written.text()?
            }
            Field::AncestorImages => self.ancestors = written.texts(),
            Field::TargetImage => kin(&mut self.target, 4300).exe = written.text()?,
            Field::TargetCommandLine => kin(&mut self.target, 4300).command_line = written.text()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_activity(&mut self, field: Field, written: &Written<'_>) -> Result<bool, DraftError> {
        match (field, &mut self.activity) {
            (Field::RequestedImage, Activity::Exec { requested }) => *requested = written.text()?,
            (Field::ChildProcessId, Activity::Fork { child }) => child.pid = Pid(written.number()?),
            (Field::ExitCode, Activity::Exit(exit)) => exit.code = written.small()?,
            (Field::ExitSignal, Activity::Exit(exit)) => exit.signal = written.small()?,
            (Field::PreviousUid, Activity::CredentialChange { before, .. }) => {
                before.uid = written.number()?
            }
            (Field::PreviousEuid, Activity::CredentialChange { before, .. }) => {
                before.euid = written.number()?
            }
            (Field::PreviousGid, Activity::CredentialChange { before, .. }) => {
                before.gid = written.number()?
            }
            (Field::GainedCapabilities, Activity::CredentialChange { after, .. }) => {
                after.cap_effective |= written.bits(CAPABILITIES)?;
            }
            (Field::NamespaceCall, Activity::NamespaceChange { call, .. }) => {
                *call =
                    written.word(&[("setns", NamespaceCall::Setns), ("unshare", NamespaceCall::Unshare)])?;
            }
            (Field::ChangedNamespaces, Activity::NamespaceChange { after, .. }) => {
                let bits = written.bits(NAMESPACES)?;
                let one = |bit: u64| u32::from(bits & bit != 0);
                *after = Namespaces {
                    mount: one(1),
                    pid: one(2),
                    net: one(4),
                    user: one(8),
                    uts: one(16),
                    ipc: one(32),
                    cgroup: one(64),
                };
            }
            (
                Field::TargetFilename,
                Activity::FileOpen { file, .. }
                | Activity::FileDelete { file }
                | Activity::FileMode { file, .. }
                | Activity::FileOwner { file, .. }
                | Activity::FileRename { to: file, .. }
                | Activity::FileLink { link: file, .. },
            ) => file.path = written.text()?,
            (
                Field::SourceFilename,
                Activity::FileRename { from: file, .. } | Activity::FileLink { target: file, .. },
            ) => {
                file.path = written.text()?;
            }
            (Field::AuditName, activity) => {
                return set_audit_name(activity, &mut self.process, written).map(|()| true);
            }
            (Field::FileOperation, Activity::FileOpen { created, flags, .. }) => {
                match written.text()?.as_str() {
                    "create" => *created = Created::Yes,
                    "write" => (*created, *flags) = (Created::No, *flags | 1),
                    "read" => *created = Created::No,
                    _ => return Err(written.bad("`create`, `write` or `read`")),
                }
            }
            (Field::FileOperation, Activity::FileLink { kind, .. }) => {
                *kind = written.word(&[("hardlink", LinkKind::Hard), ("symlink", LinkKind::Symbolic)])?;
            }
            (Field::OpenFlags, Activity::FileOpen { flags, .. }) => *flags = written.bits32(OPEN_FLAGS)?,
            (Field::FilePermissions, Activity::FileMode { mode, .. }) => {
                let digits = written.text()?;
                *mode = u32::from_str_radix(&digits, 8).map_err(|_| written.bad("octal digits"))?;
            }
            (Field::SetUid, Activity::FileMode { mode, .. }) => set_bits(mode, 0o4000, written.truth()?),
            (Field::SetGid, Activity::FileMode { mode, .. }) => set_bits(mode, 0o2000, written.truth()?),
            (Field::Executable, Activity::FileMode { mode, .. }) => set_bits(mode, 0o111, written.truth()?),
            (Field::NewOwnerUid, Activity::FileOwner { uid, .. }) => *uid = written.number()?,
            (Field::NewOwnerGid, Activity::FileOwner { gid, .. }) => *gid = written.number()?,
            (Field::ImageLoaded, Activity::ModuleLoad { name }) => *name = written.text()?,
            (Field::BpfCommand, Activity::Bpf { command, .. }) => {
                *command = written.position(BPF_COMMANDS)?
            }
            (Field::BpfProgramType, Activity::Bpf { program_type, .. }) => {
                *program_type = written.position(BPF_PROGRAM_TYPES)?;
            }
            (Field::BpfName, Activity::Bpf { name, .. }) => *name = written.text()?,
            (Field::PtraceRequest, Activity::Ptrace { request, .. }) => {
                *request = written.named(PTRACE_REQUESTS)?
            }
            (
                Field::TargetProcessId,
                Activity::Ptrace { target, .. } | Activity::ProcessVmWrite { target },
            ) => {
                target.pid = Pid(written.number()?);
            }
            (Field::MemfdName, Activity::MemfdCreate { name, .. }) => *name = written.text()?,
            (Field::MemfdFlags, Activity::MemfdCreate { flags, .. }) => {
                *flags = written.bits32(MEMFD_FLAGS)?
            }
            (Field::MountSource, Activity::Mount { source, .. }) => *source = written.text()?,
            (Field::MountPoint, Activity::Mount { target, .. }) => target.path = written.text()?,
            (Field::FilesystemType, Activity::Mount { fs_type, .. }) => *fs_type = written.text()?,
            (Field::MountFlags, Activity::Mount { flags, .. }) => *flags = written.bits(MOUNT_FLAGS)?,
            (Field::IoUringEntries, Activity::IoUringSetup { entries }) => *entries = written.number()?,
            (Field::QueryName, Activity::DnsQuery { name, .. }) => *name = written.text()?,
            (Field::QueryType, Activity::DnsQuery { record_type, .. }) => {
                *record_type =
                    u16::try_from(written.named(DNS_TYPES)?).map_err(|_| written.bad("a record type"))?;
            }
            (Field::SentBytes, Activity::SocketClose { sent_bytes, .. }) => *sent_bytes = written.wide()?,
            (Field::ReceivedBytes, Activity::SocketClose { received_bytes, .. }) => {
                *received_bytes = written.wide()?
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_network(&mut self, field: Field, written: &Written<'_>) -> Result<bool, DraftError> {
        let is_accept = self.category == Category::NetworkAccept;
        let (protocol, local, remote) = match &mut self.activity {
            Activity::Connect(flow) | Activity::Accept(flow) | Activity::SocketClose { flow, .. } => {
                (Some(&mut flow.protocol), Some(&mut flow.local), Some(&mut flow.remote))
            }
            Activity::Bind { protocol, local } | Activity::Listen { protocol, local } => {
                (Some(protocol), Some(local), None)
            }
            Activity::DnsQuery { server, .. } => (None, None, Some(server)),
            _ => return Ok(false),
        };
        let (source, destination) = if is_accept { (remote, local) } else { (local, remote) };
        match (field, source, destination, protocol) {
            (Field::SourceIp, Some(end), _, _) | (Field::DestinationIp, _, Some(end), _) => {
                end.addr = written.text()?.parse::<IpAddr>().map_err(|_| written.bad("an address"))?;
            }
            (Field::SourcePort, Some(end), _, _) | (Field::DestinationPort, _, Some(end), _) => {
                end.port = written.text()?.parse().map_err(|_| written.bad("a port number"))?;
            }
            (Field::Protocol, _, _, Some(protocol)) => {
                *protocol = match written.text()?.to_ascii_lowercase().as_str() {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    number => {
                        Protocol::Other(number.parse().map_err(|_| written.bad("`tcp`, `udp` or a number"))?)
                    }
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn set_audit_name(
    activity: &mut Activity,
    process: &mut Process,
    written: &Written<'_>,
) -> Result<(), DraftError> {
    let texts = written.texts();
    let mut texts = texts.into_iter();
    let (first, second) = (texts.next().unwrap_or_default(), texts.next());
    match activity {
        Activity::Exec { requested } => (process.exe, *requested) = (first.clone(), second.unwrap_or(first)),
        Activity::FileOpen { file, .. }
        | Activity::FileDelete { file }
        | Activity::FileMode { file, .. }
        | Activity::FileOwner { file, .. }
        | Activity::Mount { target: file, .. } => file.path = first,
        Activity::FileRename { from, to } => (from.path, to.path) = (first.clone(), second.unwrap_or(first)),
        Activity::FileLink { target, link, .. } => {
            (target.path, link.path) = (first.clone(), second.unwrap_or(first))
        }
        Activity::ModuleLoad { name } => *name = first,
        _ => return Err(written.bad("nothing: these events have no paths")),
    }
    Ok(())
}

fn set_bits(mode: &mut u32, bits: u32, on: bool) {
    if on { *mode |= bits } else { *mode &= !bits }
}

impl From<&FieldValue<'_>> for DraftValue {
    /// The value as it would be written down; absent is the empty text.
    fn from(value: &FieldValue<'_>) -> Self {
        match value {
            FieldValue::List(list) => Self::Many(list.iter().map(str::to_owned).collect()),
            one => Self::One(one.text(&mut Scratch::new()).unwrap_or_default().to_owned()),
        }
    }
}
