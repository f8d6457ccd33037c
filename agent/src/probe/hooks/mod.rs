//! Which hooks there are: for each its classes and its forms, the best first. One table per family.

mod attach;
mod credentials;
mod file;
mod kernel;
mod net;
mod process;

pub(super) use attach::{Attached, Attacher};
pub(super) use kernel::nothing_to_see;

use model::EventClass;

/// A place in the kernel where events of some classes are seen.
pub(super) struct Hook {
    /// Its name in reports.
    pub(super) name: &'static str,
    /// What it feeds; it is attached if one of them is wanted.
    pub(super) classes: &'static [EventClass],
    /// Ways to hook in, the best first. The first that works is taken.
    pub(super) forms: &'static [Form],
}

/// One way to hook in: all of its parts, or it does not count.
pub(super) struct Form {
    /// In reports, for example `tp_btf/sched_process_exec`.
    pub(super) label: &'static str,
    /// Programs and where they go.
    pub(super) parts: &'static [Part],
}

/// A program of the object and where it is attached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// BTF tracepoint.
    TpBtf { program: &'static str, tracepoint: &'static str },
    /// Called at the end of the system calls that `agent-ebpf/src/syscalls.rs` puts at this place.
    SyscallExit { program: &'static str, slot: u32 },
    /// Entry of a kernel function.
    Fentry { program: &'static str, function: &'static str },
    /// Return of a kernel function.
    Fexit { program: &'static str, function: &'static str },
    /// Packets that leave or enter any cgroup.
    CgroupSkb { program: &'static str, direction: Direction },
    /// connect, bind, sendmsg …: the program's section says which.
    CgroupSockAddr { program: &'static str },
    /// Sockets made and released: the program's section says which.
    CgroupSock { program: &'static str },
}

/// Direction of packets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    /// Into the cgroup.
    Ingress,
    /// Out of the cgroup.
    Egress,
}

impl Part {
    /// The program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::TpBtf { program, .. }
            | Self::SyscallExit { program, .. }
            | Self::Fentry { program, .. }
            | Self::Fexit { program, .. }
            | Self::CgroupSkb { program, .. }
            | Self::CgroupSockAddr { program }
            | Self::CgroupSock { program } => program,
        }
    }
}

/// The one program at the end of every system call, which calls those of [`Part::SyscallExit`]. It costs every process of
/// the machine (docs/kernel.md), so it is attached only while one of them has a place in its table.
pub(super) static HUB: Hook = Hook {
    name: "syscalls",
    classes: &[],
    forms: &[Form {
        label: "tp_btf/sys_exit",
        parts: &[Part::TpBtf { program: "sys_exit", tracepoint: "sys_exit" }],
    }],
};

/// All hooks of the object, family by family.
pub(super) fn all() -> impl Iterator<Item = &'static Hook> {
    [process::HOOKS, credentials::HOOKS, kernel::HOOKS, file::HOOKS, net::HOOKS]
        .into_iter()
        .flatten()
        .chain(std::iter::once(&HUB))
}

/// Whether this form of a hook is called by [`HUB`].
pub(super) fn uses_hub(form: &Form) -> bool {
    form.parts.iter().any(|part| matches!(part, Part::SyscallExit { .. }))
}
