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
    // Requests make no system call. What is done by them is the same in all classes but mode and owner, which io_uring cannot change.
    Hook {
        name: "file_uring",
        classes: &[
            EventClass::FileOpen,
            EventClass::FileDelete,
            EventClass::FileRename,
            EventClass::FileLink,
        ],
        forms: &[
            Form {
                label: "tp_btf/io_uring_submit_req, io_uring_complete, io_uring_cqe_overflow",
                parts: &[
                    Part::TpBtf { program: "uring_submit", tracepoint: "io_uring_submit_req" },
                    Part::TpBtf { program: "uring_done", tracepoint: "io_uring_complete" },
                    Part::TpBtf { program: "uring_overflow", tracepoint: "io_uring_cqe_overflow" },
                ],
            },
            Form {
                label: "tp_btf/io_uring_submit_req, io_uring_complete (before 6.17), io_uring_cqe_overflow",
                parts: &[
                    Part::TpBtf { program: "uring_submit", tracepoint: "io_uring_submit_req" },
                    Part::TpBtf { program: "uring_done_old", tracepoint: "io_uring_complete" },
                    Part::TpBtf { program: "uring_overflow", tracepoint: "io_uring_cqe_overflow" },
                ],
            },
            Form {
                label: "tp_btf/io_uring_submit_sqe (before 6.3), io_uring_complete, io_uring_cqe_overflow",
                parts: &[
                    Part::TpBtf { program: "uring_submit", tracepoint: "io_uring_submit_sqe" },
                    Part::TpBtf { program: "uring_done_old", tracepoint: "io_uring_complete" },
                    Part::TpBtf { program: "uring_overflow", tracepoint: "io_uring_cqe_overflow" },
                ],
            },
        ],
    },
    Hook {
        name: "file_change",
        classes: &[EventClass::FileDelete, EventClass::FileMode, EventClass::FileOwner],
        forms: &[Form {
            label: "tp_btf/sys_exit: unlink, rmdir, chmod, chown and their kin",
            parts: &[Part::SyscallExit { program: "file_change", slot: 2 }],
        }],
    },
    Hook {
        name: "file_pair",
        classes: &[EventClass::FileRename, EventClass::FileLink],
        forms: &[Form {
            label: "tp_btf/sys_exit: rename, link, symlink and their kin",
            parts: &[Part::SyscallExit { program: "file_pair", slot: 3 }],
        }],
    },
];
