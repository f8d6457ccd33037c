//! Events written down by their fields, as rule tests do.

use std::{net::IpAddr, sync::Arc};

use model::{
    Activity, AgentEpoch, Backing, BootNs, CgroupId, Created, Credentials, Endpoint, Event, EventId, ExeFile,
    Exit, Exposure, FdKind, FilePath, Flow, LinkKind, NamespaceCall, Namespaces, NodeId, Pid, Process,
    ProcessKey, ProcessOrigin, Protocol, Runtime, Seq, Stdio, Timestamp, Truncated, Workload,
};

use crate::schema::{
    Category, Context, Field, FieldValue, Scratch, View,
    names::{
        BPF_COMMANDS, BPF_PROG_LOAD, BPF_PROGRAM_TYPES, CAPABILITIES, DNS_TYPES, MEMFD_FLAGS, MOUNT_FLAGS,
        NAMESPACES, OPEN_FLAGS, PTRACE_REQUESTS, number_of,
    },
};

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
    /// Such events do not come from the kernel.
    #[error("{0} events cannot be written down: no source gives them yet")]
    NoEvent(&'static str),
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
        let mut draft = Draft::new(category)?;
        for (field, value) in fields {
            if !field.exists_in(category) {
                return Err(DraftError::NoField { category: category.name(), field: field.name() });
            }
            draft.set(*field, value)?;
        }
        let drafted = draft.finish();
        fields.iter().try_for_each(|(field, value)| drafted.check(*field, value)).map(|()| drafted)
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
    fn new(category: Category) -> Result<Self, DraftError> {
        Ok(Self {
            category,
            activity: activity(category).ok_or(DraftError::NoEvent(category.name()))?,
            process: process(4242),
            parent: None,
            grandparent: None,
            ancestors: vec![],
            target: None,
            exposure: Exposure::None,
            node: NodeId::new("node"),
            time: Timestamp(1_767_225_600_000_000_000),
            args_written: false,
        })
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
        let unit = |unit: String| Workload::Unit { unit, cgroup_path: cgroup_path.clone() };
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
                    Workload::Unit { unit, .. } => Workload::Unit { unit, cgroup_path: path },
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

    #[expect(clippy::too_many_lines, reason = "one line per field and activity")]
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

/// RFC 3339 in UTC to the second, as [`Timestamp`] prints it, its milliseconds optional.
fn parse_time(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| {
        text.split(by).map(|part| part.parse::<i64>().ok()).collect::<Option<Vec<_>>>()
    };
    let (clock, millis) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = <[i64; 3]>::try_from(numbers(date, '-')?).ok()?;
    let [hour, minute, second] = <[i64; 3]>::try_from(numbers(clock, ':')?).ok()?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let of_march = if month > 2 { month - 3 } else { month + 9 };
    let march_year = year - i64::from(month <= 2);
    let of_era = march_year.rem_euclid(400);
    let of_year = (153 * of_march + 2) / 5 + day - 1;
    let days =
        march_year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let millis: i64 = millis.parse().ok().filter(|millis| (0..1000).contains(millis))?;
    Some(Timestamp(seconds.checked_mul(1_000_000_000)?.checked_add(millis * 1_000_000)?))
}

fn set_bits(mode: &mut u32, bits: u32, on: bool) {
    if on { *mode |= bits } else { *mode &= !bits }
}

/// A written value and the field that it is for.
struct Written<'a> {
    field: Field,
    value: &'a DraftValue,
}

impl Written<'_> {
    fn bad(&self, expected: &str) -> DraftError {
        let value = match self.value {
            DraftValue::One(text) => text.clone(),
            DraftValue::Many(texts) => texts.join(", "),
        };
        DraftError::BadValue { field: self.field.name(), value, expected: expected.into() }
    }

    fn text(&self) -> Result<String, DraftError> {
        match self.value {
            DraftValue::One(text) => Ok(text.clone()),
            DraftValue::Many(_) => Err(self.bad("one value")),
        }
    }

    fn texts(&self) -> Vec<String> {
        match self.value {
            DraftValue::One(text) => vec![text.clone()],
            DraftValue::Many(texts) => texts.clone(),
        }
    }

    fn number(&self) -> Result<u32, DraftError> {
        self.text()?.parse().map_err(|_| self.bad("a whole number"))
    }

    fn small(&self) -> Result<u8, DraftError> {
        self.text()?.parse().map_err(|_| self.bad("a number below 256"))
    }

    fn wide(&self) -> Result<u64, DraftError> {
        self.text()?.parse().map_err(|_| self.bad("a whole number"))
    }

    fn truth(&self) -> Result<bool, DraftError> {
        self.text()?.to_ascii_lowercase().parse().map_err(|_| self.bad("`true` or `false`"))
    }

    fn user(&self) -> Result<u32, DraftError> {
        if self.text()? == "root" {
            Ok(0)
        } else {
            self.text()?.parse().map_err(|_| self.bad("`root` or a user id"))
        }
    }

    fn word<T: Copy>(&self, known: &[(&str, T)]) -> Result<T, DraftError> {
        let text = self.text()?;
        let found = known.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            self.bad(&names.join(", "))
        })
    }

    fn descriptor(&self) -> Result<FdKind, DraftError> {
        self.word(&[
            ("closed", FdKind::Closed),
            ("file", FdKind::File),
            ("pipe", FdKind::Pipe),
            ("socket", FdKind::Socket),
            ("device", FdKind::Device),
        ])
    }

    fn bits(&self, table: &[(u64, &str)]) -> Result<u64, DraftError> {
        self.texts().iter().try_fold(0, |bits, name| {
            number_of(name, table).map(|bit| bits | bit).ok_or_else(|| {
                let names: Vec<&str> = table.iter().map(|(_, name)| *name).collect();
                self.bad(&names.join(", "))
            })
        })
    }

    fn bits32(&self, table: &[(u64, &str)]) -> Result<u32, DraftError> {
        u32::try_from(self.bits(table)?).map_err(|_| self.bad("flags of 32 bits"))
    }

    /// A number by its name in the table, or the number itself.
    fn named(&self, table: &[(u64, &str)]) -> Result<u64, DraftError> {
        let text = self.text()?;
        number_of(&text, table)
            .or_else(|| text.parse().ok())
            .ok_or_else(|| self.bad("a known name or a number"))
    }

    fn position(&self, table: &[&str]) -> Result<u32, DraftError> {
        let text = self.text()?;
        let found = table.iter().position(|name| name.eq_ignore_ascii_case(&text));
        let number = found.and_then(|position| u32::try_from(position).ok()).or_else(|| text.parse().ok());
        number.ok_or_else(|| self.bad("a known name or a number"))
    }
}

fn process(pid: u32) -> Process {
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

fn activity(category: Category) -> Option<Activity> {
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
        Category::KubernetesAudit | Category::Authentication | Category::Flow => return None,
    })
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
