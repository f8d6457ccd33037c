//! Offsets of kernel structures. Rust's eBPF has no CO-RE: the agent reads each from the running kernel's BTF and hands
//! all of them to the programs in one read-only global, where the verifier knows them as constants.

/// An offset that the running kernel does not have. Code that uses it must stand behind a test for it, so that the
/// verifier never looks at it.
pub const MISSING: u32 = u32::MAX;

macro_rules! offsets {
    ($($field:ident: $ty:literal $path:literal),* $(,)?) => {
        /// One word per field; see [`FIELDS`] for what each is.
        #[repr(C)]
        #[derive(Debug, Clone, Copy)]
        #[expect(missing_docs, reason = "each is the structure's field of the same name")]
        pub struct Offsets { $(pub $field: u32),* }

        impl Offsets {
            /// All missing.
            pub const NONE: Self = Self { $($field: MISSING),* };
        }

        /// Structure and member path (dots lead into nested structures) of each word of [`Offsets`], in order. With a `?` before it, a
        /// kernel may do without.
        pub const FIELDS: &[(&str, &str)] = &[$(($ty, $path)),*];

        const _: () = assert!(core::mem::size_of::<Offsets>() == 4 * FIELDS.len(), "one word per field");
    };
}

offsets! {
    // task
    task_tgid: "task_struct" "tgid",
    task_pid: "task_struct" "pid",
    task_group_leader: "task_struct" "group_leader",
    task_real_parent: "task_struct" "real_parent",
    task_start_boottime: "task_struct" "start_boottime",
    task_cgroups: "task_struct" "cgroups",
    task_cred: "task_struct" "cred",
    task_real_cred: "task_struct" "real_cred",
    task_loginuid: "task_struct" "loginuid",
    task_mm: "task_struct" "mm",
    task_fs: "task_struct" "fs",
    task_files: "task_struct" "files",
    task_nsproxy: "task_struct" "nsproxy",
    task_thread_pid: "task_struct" "thread_pid",
    task_signal: "task_struct" "signal",
    task_exit_code: "task_struct" "exit_code",
    task_comm: "task_struct" "comm",
    task_status: "task_struct" "thread_info.status",
    css_set_dfl_cgrp: "css_set" "dfl_cgrp",
    cgroup_kn: "cgroup" "kn",
    kernfs_node_id: "kernfs_node" "id",
    cred_uid: "cred" "uid",
    cred_gid: "cred" "gid",
    cred_euid: "cred" "euid",
    cred_egid: "cred" "egid",
    cred_cap_permitted: "cred" "cap_permitted",
    cred_cap_effective: "cred" "cap_effective",
    cred_user_ns: "cred" "user_ns",
    signal_live: "signal_struct" "live",
    signal_flags: "signal_struct" "flags",
    signal_group_exit_code: "signal_struct" "group_exit_code",
    signal_tty: "signal_struct" "tty",
    tty_name: "tty_struct" "name",
    // namespaces
    nsproxy_uts: "nsproxy" "uts_ns",
    nsproxy_ipc: "nsproxy" "ipc_ns",
    nsproxy_mnt: "nsproxy" "mnt_ns",
    nsproxy_net: "nsproxy" "net_ns",
    nsproxy_cgroup: "nsproxy" "cgroup_ns",
    uts_inum: "uts_namespace" "ns.inum",
    ipc_inum: "ipc_namespace" "ns.inum",
    mnt_inum: "mnt_namespace" "ns.inum",
    net_inum: "net" "ns.inum",
    cgroup_ns_inum: "cgroup_namespace" "ns.inum",
    user_inum: "user_namespace" "ns.inum",
    pid_ns_inum: "pid_namespace" "ns.inum",
    pid_level: "pid" "level",
    pid_numbers: "pid" "numbers",
    upid_ns: "upid" "ns",
    pid_tasks: "pid" "tasks",
    task_pid_links: "task_struct" "pid_links",
    pid_ns_idr: "pid_namespace" "idr",
    idr_rt: "idr" "idr_rt",
    idr_base: "idr" "idr_base",
    xarray_head: "xarray" "xa_head",
    xa_node_shift: "xa_node" "shift",
    xa_node_slots: "xa_node" "slots",
    // images
    bprm_file: "linux_binprm" "file",
    bprm_filename: "linux_binprm" "filename",
    bprm_cred: "linux_binprm" "cred",
    mm_arg_start: "mm_struct" "arg_start",
    mm_arg_end: "mm_struct" "arg_end",
    // files
    file_f_path: "file" "f_path",
    file_f_inode: "file" "f_inode",
    path_mnt: "path" "mnt",
    path_dentry: "path" "dentry",
    inode_i_ino: "inode" "i_ino",
    inode_i_sb: "inode" "i_sb",
    inode_i_mode: "inode" "i_mode",
    inode_i_nlink: "inode" "i_nlink",
    sb_s_dev: "super_block" "s_dev",
    sb_s_magic: "super_block" "s_magic",
    dentry_d_parent: "dentry" "d_parent",
    dentry_d_name: "dentry" "d_name",
    dentry_d_inode: "dentry" "d_inode",
    qstr_len: "qstr" "len",
    qstr_name: "qstr" "name",
    vfsmount_mnt_root: "vfsmount" "mnt_root",
    mount_mnt: "mount" "mnt",
    mount_mnt_parent: "mount" "mnt_parent",
    mount_mnt_mountpoint: "mount" "mnt_mountpoint",
    file_f_mode: "file" "f_mode",
    file_f_flags: "file" "f_flags",
    file_private_data: "file" "private_data",
    fs_pwd: "fs_struct" "pwd",
    fs_root: "fs_struct" "root",
    files_fdt: "files_struct" "fdt",
    fdtable_fd: "fdtable" "fd",
    fdtable_max_fds: "fdtable" "max_fds",
    // registers at a system call (x86-64)
    regs_bx: "pt_regs" "bx",
    regs_cx: "pt_regs" "cx",
    regs_di: "pt_regs" "di",
    regs_si: "pt_regs" "si",
    regs_dx: "pt_regs" "dx",
    regs_r10: "pt_regs" "r10",
    regs_r8: "pt_regs" "r8",
    regs_r9: "pt_regs" "r9",
    regs_ax: "pt_regs" "ax",
    regs_orig_ax: "pt_regs" "orig_ax",
    // io_uring requests
    kiocb_opcode: "io_kiocb" "opcode",
    kiocb_flags: "io_kiocb" "flags",
    kiocb_ctx: "io_kiocb" "ctx",
    kiocb_user_data: "io_kiocb" "cqe.user_data",
    io_open_dfd: "io_open" "dfd",
    io_open_file_slot: "io_open" "file_slot",
    io_open_filename: "io_open" "filename",
    io_open_flags: "io_open" "how.flags",
    io_unlink_dfd: "io_unlink" "dfd",
    io_unlink_filename: "io_unlink" "filename",
    io_rename_old_dfd: "io_rename" "old_dfd",
    io_rename_new_dfd: "io_rename" "new_dfd",
    io_rename_oldpath: "io_rename" "oldpath",
    io_rename_newpath: "io_rename" "newpath",
    io_link_old_dfd: "io_link" "old_dfd",
    io_link_new_dfd: "io_link" "new_dfd",
    io_link_oldpath: "io_link" "oldpath",
    io_link_newpath: "io_link" "newpath",
    io_accept_file_slot: "io_accept" "file_slot",
    filename_name: "filename" "name",
    // the ring's own table of files: an array of their addresses, since 6.13 of nodes that have them
    ring_file_table: "io_ring_ctx" "file_table",
    table_files: "io_file_table" "?files",
    table_nodes: "io_file_table" "?data.nodes",
    node_file: "io_rsrc_node" "?file_ptr",
    // sockets
    socket_sk: "socket" "sk",
    socket_file: "socket" "file",
    sk_family: "sock" "__sk_common.skc_family",
    sk_state: "sock" "__sk_common.skc_state",
    sk_num: "sock" "__sk_common.skc_num",
    sk_dport: "sock" "__sk_common.skc_dport",
    sk_daddr: "sock" "__sk_common.skc_daddr",
    sk_rcv_saddr: "sock" "__sk_common.skc_rcv_saddr",
    sk_v6_daddr: "sock" "__sk_common.skc_v6_daddr",
    sk_v6_rcv_saddr: "sock" "__sk_common.skc_v6_rcv_saddr",
    sk_flags: "sock" "__sk_common.skc_flags",
    sk_protocol: "sock" "sk_protocol",
    sk_owned: "sock" "sk_lock.owned",
    inet_sport: "inet_sock" "inet_sport",
    tcp_bytes_sent: "tcp_sock" "bytes_sent",
    tcp_bytes_retrans: "tcp_sock" "bytes_retrans",
    tcp_bytes_received: "tcp_sock" "bytes_received",
    // number of arguments of a tracepoint, not an offset
    exit_arguments: "tracepoint" "sched_process_exit",
    // the type id of a structure that begins with many words, where the kernel casts any address to it
    words: "cast" "pt_regs",
    // kernel family
    module_name: "module" "name",
}

/// Words that [`Offsets::words`]' structure certainly begins with: r15 to di of x86-64's pt_regs.
pub const WORDS_MAX: usize = 15;

/// The kernel's function that gives a pointer to any type for any address, as a program calls it: `call` of a kernel function
/// (`BPF_PSEUDO_KFUNC_CALL`). The loader replaces this by [`CAST_CALL`] and the function's type id, or by [`NO_CAST`] where the kernel does
/// not have it: then nothing comes to it (see `Offsets::words`).
pub const CAST_MARK: [u8; 8] = [0x85, 0x20, 0, 0, 0x4d, 0x45, 0x48, 0x7f];
/// First half of the call.
pub const CAST_CALL: [u8; 4] = [0x85, 0x20, 0, 0];
/// `r0 = 0`, an instruction that every kernel knows.
pub const NO_CAST: [u8; 8] = [0xb7, 0, 0, 0, 0, 0, 0, 0];

/// Structure and two of its members, each a pointer's size and more, of which the second stands right behind the first: the
/// path walk reads both at once. The loader refuses a kernel where that is not so.
pub const NEIGHBOURS: &[(&str, &str, &str)] =
    &[("dentry", "d_parent", "d_name"), ("mount", "mnt_parent", "mnt_mountpoint"), ("path", "mnt", "dentry")];
