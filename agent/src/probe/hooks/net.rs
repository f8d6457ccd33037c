//! Network: cgroup hooks at the root of the cgroup2 tree, so that they see every process, and TCP's changes of state.

use model::EventClass;

use super::{Direction, Form, Hook, Part};

pub(super) const HOOKS: &[Hook] = &[
    // Owners of sockets are noted here, so whoever needs an owner needs these.
    Hook {
        name: "connect",
        classes: &[EventClass::Connect, EventClass::SocketClose, EventClass::Dns],
        forms: &[Form {
            label: "cgroup/connect4, connect6, sendmsg4, sendmsg6",
            parts: &[
                Part::CgroupSockAddr { program: "net_connect4" },
                Part::CgroupSockAddr { program: "net_connect6" },
                Part::CgroupSockAddr { program: "net_sendmsg4" },
                Part::CgroupSockAddr { program: "net_sendmsg6" },
            ],
        }],
    },
    Hook {
        name: "accept",
        classes: &[EventClass::Accept, EventClass::SocketClose],
        forms: &[
            Form {
                label: "fexit/inet_csk_accept",
                parts: &[Part::Fexit { program: "accept_return", function: "inet_csk_accept" }],
            },
            Form {
                label: "tp_btf/sys_exit: accept, accept4; tp_btf/io_uring_complete",
                parts: &[
                    Part::SyscallExit { program: "net_accept", slot: 4 },
                    Part::TpBtf { program: "uring_accept_submit", tracepoint: "io_uring_submit_req" },
                    Part::TpBtf { program: "uring_accept_done", tracepoint: "io_uring_complete" },
                    Part::TpBtf { program: "uring_accept_overflow", tracepoint: "io_uring_cqe_overflow" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: accept, accept4; tp_btf/io_uring_complete (before 6.17)",
                parts: &[
                    Part::SyscallExit { program: "net_accept", slot: 4 },
                    Part::TpBtf { program: "uring_accept_submit", tracepoint: "io_uring_submit_req" },
                    Part::TpBtf { program: "uring_accept_done_old", tracepoint: "io_uring_complete" },
                    Part::TpBtf { program: "uring_accept_overflow", tracepoint: "io_uring_cqe_overflow" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: accept, accept4; tp_btf/io_uring_complete (before 6.3)",
                parts: &[
                    Part::SyscallExit { program: "net_accept", slot: 4 },
                    Part::TpBtf { program: "uring_accept_submit", tracepoint: "io_uring_submit_sqe" },
                    Part::TpBtf { program: "uring_accept_done_old", tracepoint: "io_uring_complete" },
                    Part::TpBtf { program: "uring_accept_overflow", tracepoint: "io_uring_cqe_overflow" },
                ],
            },
            Form {
                label: "tp_btf/sys_exit: accept, accept4; this kernel has no io_uring",
                parts: &[Part::SyscallExit { program: "net_accept", slot: 4 }],
            },
        ],
    },
    Hook {
        name: "bind",
        classes: &[EventClass::Bind],
        forms: &[Form {
            label: "cgroup/post_bind4, post_bind6",
            parts: &[Part::CgroupSock { program: "net_bind4" }, Part::CgroupSock { program: "net_bind6" }],
        }],
    },
    Hook {
        name: "tcp_state",
        classes: &[EventClass::Listen, EventClass::SocketClose],
        forms: &[Form {
            label: "tp_btf/inet_sock_set_state",
            parts: &[Part::TpBtf { program: "net_state", tracepoint: "inet_sock_set_state" }],
        }],
    },
    Hook {
        // Connections that end while no task holds their socket. A listener is always held.
        name: "tcp_state_interrupt",
        classes: &[EventClass::SocketClose],
        forms: &[Form {
            label: "tp_btf/inet_sock_set_state, twice more",
            parts: &[
                Part::TpBtf { program: "net_state_interrupt", tracepoint: "inet_sock_set_state" },
                Part::TpBtf { program: "net_state_twin", tracepoint: "inet_sock_set_state" },
            ],
        }],
    },
    Hook {
        name: "udp_release",
        classes: &[EventClass::SocketClose],
        forms: &[Form {
            label: "cgroup/sock_release, cgroup_skb/ingress",
            parts: &[
                Part::CgroupSock { program: "net_release" },
                Part::CgroupSkb { program: "net_ingress", direction: Direction::Ingress },
            ],
        }],
    },
    Hook {
        name: "packets_out",
        classes: &[EventClass::Dns, EventClass::SocketClose],
        forms: &[Form {
            label: "cgroup_skb/egress",
            parts: &[Part::CgroupSkb { program: "net_egress", direction: Direction::Egress }],
        }],
    },
];
