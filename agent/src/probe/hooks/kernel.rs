//! The kernel's own surface. Narrow tracepoints where there are any, else the end of the call.

use std::path::Path;

use model::EventClass;

use super::{Form, Hook, Part};

const MODULE: &str = "module";

pub(super) const HOOKS: &[Hook] = &[
    Hook {
        name: MODULE,
        classes: &[EventClass::Module],
        forms: &[Form {
            label: "tp_btf/module_load",
            parts: &[Part::TpBtf { program: "kernel_module", tracepoint: "module_load" }],
        }],
    },
    Hook {
        name: "io_uring",
        classes: &[EventClass::IoUring],
        forms: &[Form {
            label: "tp_btf/io_uring_create",
            parts: &[Part::TpBtf { program: "kernel_uring", tracepoint: "io_uring_create" }],
        }],
    },
    Hook {
        name: "bpf",
        classes: &[EventClass::Bpf],
        forms: &[
            Form {
                label: "fexit/sys_bpf",
                parts: &[
                    Part::Fexit { program: "bpf_return", function: "__x64_sys_bpf" },
                    Part::Fexit { program: "bpf_return32", function: "__ia32_sys_bpf" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: bpf",
                parts: &[Part::SyscallExit { program: "kernel_bpf", slot: 7 }],
            },
        ],
    },
    Hook {
        name: "memfd",
        classes: &[EventClass::Memfd],
        forms: &[
            Form {
                label: "fexit/sys_memfd_create",
                parts: &[
                    Part::Fexit { program: "memfd_return", function: "__x64_sys_memfd_create" },
                    Part::Fexit { program: "memfd_return32", function: "__ia32_sys_memfd_create" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: memfd_create",
                parts: &[Part::SyscallExit { program: "kernel_memfd", slot: 8 }],
            },
        ],
    },
    Hook {
        name: "ptrace",
        classes: &[EventClass::Ptrace],
        forms: &[
            Form {
                label: "fexit/sys_ptrace",
                parts: &[
                    Part::Fexit { program: "ptrace_return", function: "__x64_sys_ptrace" },
                    Part::Fexit { program: "ptrace_return32", function: "__ia32_compat_sys_ptrace" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: ptrace",
                parts: &[Part::SyscallExit { program: "kernel_ptrace", slot: 9 }],
            },
        ],
    },
    Hook {
        name: "process_vm_write",
        classes: &[EventClass::ProcessVmWrite],
        forms: &[
            Form {
                label: "fexit/sys_process_vm_writev",
                parts: &[
                    Part::Fexit { program: "vm_write_return", function: "__x64_sys_process_vm_writev" },
                    Part::Fexit { program: "vm_write_return32", function: "__ia32_sys_process_vm_writev" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: process_vm_writev",
                parts: &[Part::SyscallExit { program: "kernel_vm_write", slot: 10 }],
            },
        ],
    },
    Hook {
        name: "mount",
        classes: &[EventClass::Mount],
        forms: &[
            Form {
                label: "fexit/sys_mount, sys_move_mount",
                parts: &[
                    Part::Fexit { program: "mount_return", function: "__x64_sys_mount" },
                    Part::Fexit { program: "mount_return32", function: "__ia32_sys_mount" },
                    Part::Fexit { program: "move_mount_return", function: "__x64_sys_move_mount" },
                    Part::Fexit { program: "move_mount_return32", function: "__ia32_sys_move_mount" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: mount, move_mount",
                parts: &[Part::SyscallExit { program: "kernel_mount", slot: 11 }],
            },
        ],
    },
];

/// Why this kernel can have none of a hook's events, if so: what cannot happen is not missed.
pub(in crate::probe) fn nothing_to_see(hook: &Hook) -> Option<&'static str> {
    // kernel/module/main.c makes the file; procfs without it is a kernel built without CONFIG_MODULES.
    let has = |path: &str| Path::new(path).exists();
    (hook.name == MODULE && has("/proc/sys/kernel/ostype") && !has("/proc/sys/kernel/modules_disabled"))
        .then_some("this kernel was built without modules: none can be loaded")
}
