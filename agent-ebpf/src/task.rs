//! What the kernel knows of a task: identity, parent, credentials, namespaces, cgroup.

use agent_abi::{Class, Creds, MISSING, NsIds, RecordHeader};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task_btf, bpf_ktime_get_boot_ns,
};

use crate::{
    off,
    read::{field, peek},
};

/// The current task.
#[inline(always)]
pub fn current() -> *const u8 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task_btf() }.cast::<u8>()
}

/// Start of the task's process, ns since boot: that of the leader of its thread group.
#[inline(always)]
pub fn start(task: *const u8) -> u64 {
    // SAFETY: a task, as the callers have it.
    let leader: *const u8 = unsafe { field(task, off!(task_group_leader)) };
    if leader.is_null() {
        return 0;
    }
    // SAFETY: a task, not null.
    unsafe { field(leader, off!(task_start_boottime)) }
}

/// Process id of a task.
#[inline(always)]
pub fn tgid(task: *const u8) -> u32 {
    // SAFETY: a task, as the callers have it.
    unsafe { field(task, off!(task_tgid)) }
}

/// cgroup v2 id of a task.
#[inline(always)]
pub fn cgroup(task: *const u8) -> u64 {
    // SAFETY: types known to the verifier, each tested for null.
    unsafe {
        let set: *const u8 = field(task, off!(task_cgroups));
        if set.is_null() {
            return 0;
        }
        let cgroup: *const u8 = field(set, off!(css_set_dfl_cgrp));
        if cgroup.is_null() {
            return 0;
        }
        let node: *const u8 = field(cgroup, off!(cgroup_kn));
        if node.is_null() { 0 } else { field(node, off!(kernfs_node_id)) }
    }
}

/// Fills a record's header for the current task, with its own effective credentials.
#[inline(always)]
pub fn fill_header(header: *mut RecordHeader, class: Class) {
    let task = current();
    // SAFETY: `header` points into a slot or the stack, with room for it; `task` is the current task.
    unsafe {
        (*header).cgroup = bpf_get_current_cgroup_id();
        fill_for(header, class, task);
        bpf_get_current_comm((&raw mut (*header).comm).cast(), 16);
    }
}

/// Fills everything of a header but cgroup and name, for any task.
#[inline(always)]
pub fn fill_for(header: *mut RecordHeader, class: Class, task: *const u8) {
    // SAFETY: as above; the verifier knows each pointer's type.
    unsafe {
        (*header).class = class as u8;
        (*header).pad = [0; 3];
        (*header).len = 0;
        (*header).at = bpf_ktime_get_boot_ns();
        (*header).pid = tgid(task);
        (*header).tid = field(task, off!(task_pid));
        (*header).start = start(task);
        (*header).pad2 = 0;
        let parent: *const u8 = field(task, off!(task_real_parent));
        if parent.is_null() {
            (*header).parent_pid = 0;
            (*header).parent_start = 0;
        } else {
            (*header).parent_pid = tgid(parent);
            (*header).parent_start = start(parent);
        }
        fill_creds_of(&raw mut (*header).creds, task);
    }
}

/// Nobody's credentials.
pub const NO_CREDS: Creds =
    Creds { uid: 0, gid: 0, euid: 0, egid: 0, cap_effective: 0, cap_permitted: 0, auid: u32::MAX, pad: 0 };

/// Copies a task's credentials.
#[inline(always)]
pub fn fill_creds_of(creds: *mut Creds, task: *const u8) {
    // SAFETY: a task, as the callers have it.
    let cred: *const u8 = unsafe { field(task, off!(task_cred)) };
    fill_creds(creds, cred);
    // SAFETY: room at `creds`.
    unsafe { (*creds).auid = login_user(task) };
}

/// Login user of a task; `u32::MAX` when never set, or not known to this kernel.
#[inline(always)]
pub fn login_user(task: *const u8) -> u32 {
    // SAFETY: a task, as the callers have it.
    if off!(task_loginuid) == MISSING { u32::MAX } else { unsafe { field(task, off!(task_loginuid)) } }
}

/// Copies credentials; zeros (and no login user) for a null pointer.
#[inline(always)]
pub fn fill_creds(creds: *mut Creds, cred: *const u8) {
    // SAFETY: room at `creds`; `cred` is a struct cred or null.
    unsafe {
        if cred.is_null() {
            *creds = NO_CREDS;
            return;
        }
        (*creds).uid = field(cred, off!(cred_uid));
        (*creds).gid = field(cred, off!(cred_gid));
        (*creds).euid = field(cred, off!(cred_euid));
        (*creds).egid = field(cred, off!(cred_egid));
        (*creds).cap_effective = field(cred, off!(cred_cap_effective));
        (*creds).cap_permitted = field(cred, off!(cred_cap_permitted));
        (*creds).auid = u32::MAX;
        (*creds).pad = 0;
    }
}

/// Namespaces of a task.
#[inline(always)]
pub fn fill_namespaces(ids: *mut NsIds, task: *const u8) {
    // SAFETY: room at `ids`; types known to the verifier.
    unsafe {
        *ids = NsIds { mount: 0, pid: 0, net: 0, user: 0, uts: 0, ipc: 0, cgroup: 0 };
        let proxy: *const u8 = field(task, off!(task_nsproxy));
        if !proxy.is_null() {
            (*ids).mount = inum(proxy, off!(nsproxy_mnt), off!(mnt_inum));
            (*ids).net = inum(proxy, off!(nsproxy_net), off!(net_inum));
            (*ids).uts = inum(proxy, off!(nsproxy_uts), off!(uts_inum));
            (*ids).ipc = inum(proxy, off!(nsproxy_ipc), off!(ipc_inum));
            (*ids).cgroup = inum(proxy, off!(nsproxy_cgroup), off!(cgroup_ns_inum));
        }
        let cred: *const u8 = field(task, off!(task_cred));
        if !cred.is_null() {
            (*ids).user = inum(cred, off!(cred_user_ns), off!(user_inum));
        }
        (*ids).pid = pid_namespace_id(task).unwrap_or(0);
    }
}

/// # Safety
/// `holder` is a kernel structure, not null, with a pointer to a namespace at `at`.
#[inline(always)]
unsafe fn inum(holder: *const u8, at: u32, inum: u32) -> u32 {
    // A kernel may be built without a kind of namespace.
    if at == MISSING || inum == MISSING {
        return 0;
    }
    // SAFETY: the caller's.
    unsafe {
        let ns: *const u8 = field(holder, at);
        if ns.is_null() { 0 } else { field(ns, inum) }
    }
}

/// Address of the pid namespace of a task: `thread_pid->numbers[level].ns`, an index that only a copying read can follow.
#[inline(always)]
pub fn pid_namespace(task: *const u8) -> Option<u64> {
    // SAFETY: a task; the rest is copied.
    let pid: u64 = unsafe { field(task, off!(task_thread_pid)) };
    let level: u32 = peek(pid + u64::from(off!(pid_level)))?;
    // struct upid { int nr; struct pid_namespace *ns; }: 16 bytes.
    peek(pid + u64::from(off!(pid_numbers)) + u64::from(level) * 16 + u64::from(off!(upid_ns)))
}

#[inline(always)]
fn pid_namespace_id(task: *const u8) -> Option<u32> {
    peek(pid_namespace(task)? + u64::from(off!(pid_ns_inum)))
}
