//! What each process was when last seen: credentials and namespaces. The end of a call only shows what they are after it,
//! so what was before must be remembered; exec, fork and exit keep it, and a task iterator fills it at start.

use agent_abi::{Creds, NsIds, TaskKey};
use aya_ebpf::{macros::map, maps::HashMap};

use crate::task;

/// A process's credentials and namespaces.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Known {
    /// Credentials.
    pub creds: Creds,
    /// Namespaces.
    pub namespaces: NsIds,
    /// Zero.
    pub pad: u32,
}

/// By process. BPF_F_NO_PREALLOC: as large as there are processes.
#[map]
static KNOWN: HashMap<TaskKey, Known> = HashMap::with_max_entries(131_072, 1);

/// Key of a task's process.
#[inline(always)]
pub fn key(task: *const u8) -> TaskKey {
    TaskKey { pid: task::tgid(task), pad: 0, start: task::start(task) }
}

/// What is known of a process; to be changed in place.
#[inline(always)]
pub fn known(key: &TaskKey) -> Option<*mut Known> {
    KNOWN.get_ptr_mut(key)
}

/// Remembers a task's process as it is now.
#[inline(always)]
pub fn remember(task: *const u8) {
    // SAFETY: plain numbers.
    let mut now: Known = unsafe { core::mem::zeroed() };
    task::fill_creds_of(&raw mut now.creds, task);
    task::fill_namespaces(&raw mut now.namespaces, task);
    // Full: what this process becomes will be taken as what it always was.
    let _ = KNOWN.insert(key(task), now, 0);
}

/// Forgets a process that has ended. Whether it was remembered.
#[inline(always)]
pub fn forget(key: &TaskKey) -> bool {
    KNOWN.remove(key).is_ok()
}

/// Whether two credentials give the same rights. The login user is not among them.
#[inline(always)]
pub fn same_rights(a: *const Creds, b: *const Creds) -> bool {
    // SAFETY: the callers' structures.
    unsafe {
        (*a).uid == (*b).uid
            && (*a).gid == (*b).gid
            && (*a).euid == (*b).euid
            && (*a).egid == (*b).egid
            && (*a).cap_effective == (*b).cap_effective
            && (*a).cap_permitted == (*b).cap_permitted
    }
}

/// Whether two sets of namespaces are the same.
#[inline(always)]
pub fn same_namespaces(a: *const NsIds, b: *const NsIds) -> bool {
    // SAFETY: the callers' structures.
    unsafe {
        (*a).mount == (*b).mount
            && (*a).pid == (*b).pid
            && (*a).net == (*b).net
            && (*a).user == (*b).user
            && (*a).uts == (*b).uts
            && (*a).ipc == (*b).ipc
            && (*a).cgroup == (*b).cgroup
    }
}
