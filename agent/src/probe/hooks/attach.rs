//! Attaches one hook in the first of its forms that this kernel takes.

use std::{any::Any, fs::File, path::PathBuf};

use aya::{
    Btf, Ebpf,
    maps::{Map, MapData, ProgramArray},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, FEntry,
        FExit, Program, ProgramError,
    },
};

use super::{Direction, Form, Hook, Part};
use crate::probe::{
    error::{chain, program_failure},
    load::Forms,
};

/// The links of a hook: it is live as long as this is kept.
pub(in crate::probe) struct Attached {
    /// Index of the form.
    pub(in crate::probe) form: usize,
    /// Why the better forms are not to be had.
    pub(in crate::probe) because: String,
    /// Program id and link; dropping a link detaches it.
    links: Vec<Box<dyn Any + Send>>,
}

impl Attached {
    /// How many links are live.
    pub(in crate::probe) fn links(&self) -> usize {
        self.links.len()
    }
}

/// What attaching needs; made when there is something to attach, since the kernel's types take much memory.
pub(in crate::probe) struct Attacher {
    btf: Btf,
    cgroup: Option<File>,
    forms: Forms,
}

impl Attacher {
    /// Reads the kernel's types and what it allows.
    pub(in crate::probe) fn new(forms: Forms) -> Result<Self, String> {
        let btf = Btf::from_sys_fs().map_err(|err| chain(&err))?;
        Ok(Self { btf, cgroup: cgroup2_mount().and_then(|path| File::open(path).ok()), forms })
    }

    /// Attaches the hook, or says form by form why not.
    pub(in crate::probe) fn attach(&self, ebpf: &mut Ebpf, hook: &Hook) -> Result<Attached, String> {
        let mut because = Vec::new();
        let mut order: Vec<(usize, &Form)> = hook.forms.iter().enumerate().collect();
        if self.forms == Forms::Fallback && order.len() > 1 {
            because.push("the best form is to be left out".to_owned());
            order.rotate_left(1);
        }
        for (index, form) in order {
            match self.attach_form(ebpf, form) {
                Ok(links) => return Ok(Attached { form: index, because: because.join("; "), links }),
                Err(why) => because.push(format!("{}: {why}", form.label)),
            }
        }
        Err(because.join("; "))
    }

    fn attach_form(&self, ebpf: &mut Ebpf, form: &Form) -> Result<Vec<Box<dyn Any + Send>>, String> {
        // Load all before the first is attached: half a form must not see events.
        for part in form.parts {
            self.load(program(ebpf, part.program())?, *part)
                .map_err(|err| program_failure(part.program(), &err))?;
        }
        form.parts
            .iter()
            .map(|part| {
                match *part {
                    Part::SyscallExit { program, slot } => Place::take(ebpf, program, slot),
                    part => self.link(program(ebpf, part.program())?, part),
                }
                .map_err(|err| format!("{}: {err}", part.program()))
            })
            .collect()
    }

    fn load(&self, program: &mut Program, part: Part) -> Result<(), ProgramError> {
        if program.fd().is_ok() {
            return Ok(());
        }
        match part {
            Part::TpBtf { tracepoint, .. } => {
                <&mut BtfTracePoint>::try_from(program)?.load(tracepoint, &self.btf)
            }
            Part::SyscallExit { .. } => <&mut BtfTracePoint>::try_from(program)?.load("sys_exit", &self.btf),
            Part::Fentry { function, .. } => <&mut FEntry>::try_from(program)?.load(function, &self.btf),
            Part::Fexit { function, .. } => <&mut FExit>::try_from(program)?.load(function, &self.btf),
            Part::CgroupSkb { .. } => <&mut CgroupSkb>::try_from(program)?.load(),
            Part::CgroupSockAddr { .. } => <&mut CgroupSockAddr>::try_from(program)?.load(),
            Part::CgroupSock { .. } => <&mut CgroupSock>::try_from(program)?.load(),
        }
    }

    fn link(&self, program: &mut Program, part: Part) -> Result<Box<dyn Any + Send>, String> {
        /// Attaches a program of one type and takes its link out of aya's care.
        macro_rules! linked {
            ($ty:ty, $($argument:expr),*) => {{
                let program = <&mut $ty>::try_from(program).map_err(|err| chain(&err))?;
                let id = program.attach($($argument),*).map_err(|err| chain(&err))?;
                Ok(Box::new(program.take_link(id).map_err(|err| chain(&err))?))
            }};
        }
        let cgroup = || self.cgroup.as_ref().ok_or("no cgroup2 mount in /proc/mounts");
        // Links stack by themselves; any other mode is refused on the link API.
        let mode = CgroupAttachMode::Single;
        match part {
            Part::SyscallExit { .. } => Err("is called from sys_exit and not attached".into()),
            Part::TpBtf { .. } => linked!(BtfTracePoint,),
            Part::Fentry { .. } => linked!(FEntry,),
            Part::Fexit { .. } => linked!(FExit,),
            Part::CgroupSkb { direction, .. } => {
                let kind = match direction {
                    Direction::Ingress => CgroupSkbAttachType::Ingress,
                    Direction::Egress => CgroupSkbAttachType::Egress,
                };
                linked!(CgroupSkb, cgroup()?, kind, mode)
            }
            Part::CgroupSockAddr { .. } => linked!(CgroupSockAddr, cgroup()?, mode),
            Part::CgroupSock { .. } => linked!(CgroupSock, cgroup()?, mode),
        }
    }
}

/// A place in the table of the program that runs at the end of every system call; given back on drop.
struct Place {
    table: ProgramArray<MapData>,
    slot: u32,
}

impl Place {
    fn take(ebpf: &mut Ebpf, name: &str, slot: u32) -> Result<Box<dyn Any + Send>, String> {
        let Some(Map::ProgramArray(data)) = ebpf.map("SYSCALLS") else {
            return Err("the object has no table of system calls".into());
        };
        // A handle of its own, so that the place can be given back when the object's maps are out of reach.
        let own = data.info().and_then(|info| MapData::from_id(info.id())).map_err(|err| chain(&err))?;
        let mut table = ProgramArray::try_from(Map::ProgramArray(own)).map_err(|err| chain(&err))?;
        let program = program(ebpf, name)?.fd().map_err(|err| chain(&err))?;
        table.set(slot, program, 0).map_err(|err| chain(&err))?;
        Ok(Box::new(Self { table, slot }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(err) = self.table.clear_index(&self.slot) {
            tracing::warn!(slot = self.slot, error = %chain(&err), "a place in the table of system calls stays taken");
        }
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, String> {
    ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))
}

/// Where cgroup v2 is mounted, from /proc/mounts: on hybrid machines it is not /sys/fs/cgroup.
fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}
