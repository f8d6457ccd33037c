//! Files: programs that the system-wide hook at the end of system calls ([`super::HUB`]) calls.
//!
//! Opens have a narrower form where the kernel has fexit, since most rules on files want opens only. LSM hooks run before it
//! is known whether the call succeeds, so they would tell attempts.

use model::EventClass;

use super::{Form, Hook, Part};

pub(super) const HOOKS: &[Hook] = &[
    Hook {
        name: "file_open",
        classes: &[EventClass::FileOpen],
        forms: &[
            Form {
                label: "fexit/do_sys_openat2, sys_open_by_handle_at",
                parts: &[
                    Part::Fexit { program: "open_return", function: "do_sys_openat2" },
                    Part::Fexit { program: "handle_return", function: "__x64_sys_open_by_handle_at" },
                    Part::Fexit {
                        program: "handle_return32",
                        function: "__ia32_compat_sys_open_by_handle_at",
                    },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: open, openat, openat2, creat, open_by_handle_at",
                parts: &[Part::SyscallExit { program: "file_open", slot: 1 }],
            },
        ],
    },
    Hook {
        name: "file_open_uring",
        classes: &[EventClass::FileOpen],
        forms: &[
            Form {
                label: "tp_btf/io_uring_complete: openat, openat2",
                parts: &[Part::TpBtf { program: "file_uring", tracepoint: "io_uring_complete" }],
            },
            Form {
                label: "tp_btf/io_uring_complete (before 6.17): openat, openat2",
                parts: &[Part::TpBtf { program: "file_uring_old", tracepoint: "io_uring_complete" }],
            },
        ],
    },
    Hook {
        name: "file_change",
        classes: &[EventClass::FileDelete, EventClass::FileMode, EventClass::FileOwner],
        forms: &[Form {
            label: "tp_btf/sys_exit: unlink, rmdir, chmod, chown and their kin; not by io_uring",
            parts: &[Part::SyscallExit { program: "file_change", slot: 2 }],
        }],
    },
    Hook {
        name: "file_pair",
        classes: &[EventClass::FileRename, EventClass::FileLink],
        forms: &[Form {
            label: "tp_btf/sys_exit: rename, link, symlink and their kin; not by io_uring",
            parts: &[Part::SyscallExit { program: "file_pair", slot: 3 }],
        }],
    },
];
