//! exec, fork and exit: always needed, for the process tree.

use model::EventClass;

use super::{Form, Hook, Part};

pub(super) const HOOKS: &[Hook] = &[
    Hook {
        name: "exec",
        classes: &[EventClass::Exec],
        forms: &[Form {
            label: "tp_btf/sched_process_exec",
            parts: &[Part::TpBtf { program: "exec", tracepoint: "sched_process_exec" }],
        }],
    },
    Hook {
        name: "fork",
        classes: &[EventClass::Fork],
        forms: &[Form {
            label: "tp_btf/sched_process_fork",
            parts: &[Part::TpBtf { program: "fork", tracepoint: "sched_process_fork" }],
        }],
    },
    Hook {
        name: "exit",
        classes: &[EventClass::Exit],
        forms: &[Form {
            label: "tp_btf/sched_process_exit",
            parts: &[Part::TpBtf { program: "exit", tracepoint: "sched_process_exit" }],
        }],
    },
];
