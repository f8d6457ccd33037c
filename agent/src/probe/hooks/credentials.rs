//! Credentials and namespaces. A setuid binary and file capabilities are noticed by the exec hook itself.

use model::EventClass;

use super::{Form, Hook, Part};

pub(super) const HOOKS: &[Hook] = &[
    Hook {
        name: "credentials",
        classes: &[EventClass::Credentials],
        forms: &[
            Form {
                label: "fentry/commit_creds",
                parts: &[Part::Fentry { program: "creds_commit", function: "commit_creds" }],
            },
            Form {
                label: "tp_btf/sys_exit: setuid and its kin, capset; setns and unshare with the hook \"namespaces\"",
                parts: &[Part::SyscallExit { program: "creds_call", slot: 5 }],
            },
        ],
    },
    Hook {
        // A user namespace of one's own changes credentials, too.
        name: "namespaces",
        classes: &[EventClass::Namespaces, EventClass::Credentials],
        forms: &[
            Form {
                label: "fexit/sys_setns, sys_unshare",
                parts: &[
                    Part::Fexit { program: "setns_return", function: "__x64_sys_setns" },
                    Part::Fexit { program: "setns_return32", function: "__ia32_sys_setns" },
                    Part::Fexit { program: "unshare_return", function: "__x64_sys_unshare" },
                    Part::Fexit { program: "unshare_return32", function: "__ia32_sys_unshare" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: setns, unshare",
                parts: &[Part::SyscallExit { program: "namespaces_call", slot: 6 }],
            },
        ],
    },
];
