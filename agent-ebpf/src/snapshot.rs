//! Task iterators. aya-ebpf has no macro for them: the section's name says what they are.

use core::ffi::c_void;

use agent_abi::{CONTROL_OWN_PID, CONTROL_OWN_START, Class, RecordHeader};
use aya_ebpf::helpers::generated::bpf_seq_write;

use crate::{
    maps::CONTROL,
    off,
    read::{field, peek},
    shadow, task,
};

/// struct bpf_iter__task of kernel/bpf/task_iter.c.
#[repr(C)]
struct IterTask {
    meta: *const IterMeta,
    task: *const u8,
}

/// Begin of struct bpf_iter_meta.
#[repr(C)]
struct IterMeta {
    seq: *mut c_void,
}

/// Notes who reads it: the agent, in the kernel's own numbers.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn whoami(_ctx: *const IterTask) -> i32 {
    let reader = task::current();
    let _ = CONTROL.set(CONTROL_OWN_START, task::start(reader), 0);
    let _ = CONTROL.set(CONTROL_OWN_PID, u64::from(task::tgid(reader)), 0);
    0
}

/// Remembers every process as it is, before the first change is seen.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn remember_all(ctx: *const IterTask) -> i32 {
    // SAFETY: the kernel's own context; the verifier knows the types, the task is null at the end.
    let task = unsafe { (*ctx).task };
    // SAFETY: a task, not null.
    if !task.is_null() && unsafe { field::<u32>(task, off!(task_pid)) } == task::tgid(task) {
        shadow::remember(task);
    }
    0
}

/// Writes a header for every process.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn processes(ctx: *const IterTask) -> i32 {
    // SAFETY: the kernel's own context; the verifier knows the types, the task is null at the end.
    unsafe {
        let task = (*ctx).task;
        if task.is_null() || field::<u32>(task, off!(task_pid)) != task::tgid(task) {
            return 0;
        }
        let mut header: RecordHeader = core::mem::zeroed();
        task::fill_for(&raw mut header, Class::Fork, task);
        header.cgroup = task::cgroup(task);
        header.comm = peek(task as u64 + u64::from(off!(task_comm))).unwrap_or([0; 16]);
        let seq = (*(*ctx).meta).seq;
        // A full buffer is read out by the kernel, which then calls again for the same task.
        bpf_seq_write(
            seq.cast(),
            (&raw const header).cast::<c_void>().cast_mut(),
            size_of::<RecordHeader>() as u32,
        );
    }
    0
}
