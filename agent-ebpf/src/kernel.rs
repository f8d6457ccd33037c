//! The kernel's own surface: modules, bpf, ptrace, memfd, mount, process_vm_writev, io_uring. Only what succeeded.

use core::ffi::c_void;

use agent_abi::{Class, Fate, KernelBody, RecordHeader, TEXT_UNREAD, Text};
use aya_ebpf::{
    helpers::generated::bpf_probe_read_user, macros::btf_tracepoint, programs::BtfTracePointContext,
};

use crate::{
    at_return,
    event::{self, Event},
    file, filter, off,
    path::{self, WALK_FAULT},
    read::peek,
    scratch::{self, Claim},
    syscalls::{BPF, Call, MEMFD_CREATE, MOUNT, MOVE_MOUNT, PTRACE, VM_WRITE},
    task, text,
};

const HEADER: usize = size_of::<RecordHeader>();
const TAIL: u64 = (HEADER + size_of::<KernelBody>()) as u64;
const NO_TEXT: Text = Text { len: 0, flags: 0 };
const EMPTY: KernelBody =
    KernelBody { a: 0, b: 0, target_start: 0, target_pid: 0, result: 0, text: [NO_TEXT; 3], pad: 0 };
const AT_FDCWD: u32 = -100_i32 as u32;

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: u64 = 0;
const BPF_PROG_LOAD: u64 = 5;
/// Place of `map_name` and `prog_name` in union bpf_attr.
const MAP_NAME: u64 = 28;
const PROG_NAME: u64 = 48;

// include/uapi/linux/ptrace.h and arch/x86/include/asm/ptrace-abi.h: requests that begin to trace or change the target.
const TRACEME: u64 = 0;
const POKETEXT: u64 = 4;
const POKEDATA: u64 = 5;
const POKEUSR: u64 = 6;
const SETREGS: u64 = 13;
const SETFPREGS: u64 = 15;
const ATTACH: u64 = 16;
const SETFPXREGS: u64 = 19;
const SETREGSET: u64 = 0x4205;
const SEIZE: u64 = 0x4206;

/// tp_btf/module_load(struct module *mod).
#[btf_tracepoint(function = "module_load")]
pub fn kernel_module(ctx: BtfTracePointContext) -> u32 {
    let module: u64 = ctx.arg(0);
    told(Class::Module, |claim, tail, body| {
        body.text[0] = text::append_kernel(claim, tail, module + u64::from(off!(module_name)));
    });
    0
}

/// tp_btf/io_uring_create(int fd, void *ctx, u32 sq_entries, u32 cq_entries, u32 flags).
#[btf_tracepoint(function = "io_uring_create")]
pub fn kernel_uring(ctx: BtfTracePointContext) -> u32 {
    let entries: u32 = ctx.arg(2);
    told(Class::IoUring, |_, _, body| body.a = u64::from(entries));
    0
}

/// bpf; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn kernel_bpf(ctx: BtfTracePointContext) -> u32 {
    bpf_done(Call::new(&ctx));
    0
}

#[inline(always)]
fn bpf_done(call: Call) {
    // An int in the kernel.
    let (command, attr) = (call.first() & 0xffff_ffff, call.second());
    let wanted = |event: &Event| event.passes_all() || filter::number_passes(event.switch(), command);
    told_if(Class::Bpf, wanted, |claim, tail, body| {
        body.a = command;
        let name = match command {
            BPF_MAP_CREATE => MAP_NAME,
            BPF_PROG_LOAD => PROG_NAME,
            _ => return,
        };
        if command == BPF_PROG_LOAD {
            let mut kind = 0_u32;
            // SAFETY: the helper writes four bytes.
            unsafe { bpf_probe_read_user((&raw mut kind).cast::<c_void>(), 4, attr as *const c_void) };
            body.b = u64::from(kind);
        }
        body.text[0] = text::append_user_name(claim, tail, attr + name);
    });
}

/// memfd_create; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn kernel_memfd(ctx: BtfTracePointContext) -> u32 {
    memfd_made(Call::new(&ctx));
    0
}

#[inline(always)]
fn memfd_made(call: Call) {
    let (name, flags) = (call.first(), call.second());
    told(Class::Memfd, |claim, tail, body| {
        body.a = flags & 0xffff_ffff;
        body.text[0] = text::append_user(claim, tail, name);
    });
}

/// ptrace; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn kernel_ptrace(ctx: BtfTracePointContext) -> u32 {
    traced(Call::new(&ctx));
    0
}

#[inline(always)]
fn traced(call: Call) {
    let (request, pid) = (call.first(), call.second() as u32);
    if !matches!(
        request,
        TRACEME
            | POKETEXT
            | POKEDATA
            | POKEUSR
            | SETREGS
            | SETFPREGS
            | ATTACH
            | SETFPXREGS
            | SETREGSET
            | SEIZE
    ) {
        return;
    }
    told(Class::Ptrace, |_, _, body| {
        body.a = request;
        if request == TRACEME {
            let current = task::current();
            (body.target_pid, body.target_start) = (task::tgid(current), task::start(current));
        } else {
            target(body, pid);
        }
    });
}

/// process_vm_writev; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn kernel_vm_write(ctx: BtfTracePointContext) -> u32 {
    written(Call::new(&ctx));
    0
}

#[inline(always)]
fn written(call: Call) {
    if call.result == 0 {
        return;
    }
    let pid = call.first() as u32;
    told(Class::ProcessVmWrite, |_, _, body| target(body, pid));
}

/// mount, move_mount; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn kernel_mount(ctx: BtfTracePointContext) -> u32 {
    mounted(Call::new(&ctx));
    0
}

#[inline(always)]
fn mounted(call: Call) {
    let moved = call.shape == MOVE_MOUNT;
    let (dir, target) = if moved { (call.third() as u32, call.fourth()) } else { (AT_FDCWD, call.second()) };
    told(Class::Mount, |claim, tail, body| {
        if !moved {
            body.a = call.fourth();
            body.text[0] = text::append_user(claim, tail, call.first());
        }
        let named = file::name_below(claim, *tail, dir, target);
        body.text[1] = if named.path.end == WALK_FAULT {
            Text { len: 0, flags: TEXT_UNREAD }
        } else {
            path::append(claim, tail, named.path)
        };
        if !moved {
            body.text[2] = text::append_user(claim, tail, call.third());
        }
    });
}

at_return!(bpf_return, bpf_return32, BPF, bpf_done);
at_return!(memfd_return, memfd_return32, MEMFD_CREATE, memfd_made);
at_return!(ptrace_return, ptrace_return32, PTRACE, traced);
at_return!(vm_write_return, vm_write_return32, VM_WRITE, written);
at_return!(mount_return, mount_return32, MOUNT, mounted);
at_return!(move_mount_return, move_mount_return32, MOVE_MOUNT, mounted);

/// One event from its beginning to its end.
#[inline(always)]
fn told(class: Class, fill: impl FnOnce(Claim, &mut u64, &mut KernelBody)) {
    told_if(class, |_| true, fill);
}

/// The same where not every event of the class is wanted.
#[inline(always)]
fn told_if(
    class: Class,
    wanted: impl FnOnce(&Event) -> bool,
    fill: impl FnOnce(Claim, &mut u64, &mut KernelBody),
) {
    let Some(event) = event::begin(class) else { return };
    if !wanted(&event) {
        return event.filtered();
    }
    let Some(claim) = scratch::claim() else { return event.lost(Fate::LostRead) };
    if event.within_budget() {
        write(event, claim, fill);
    }
    claim.release();
}

#[inline(always)]
fn write(event: Event, claim: Claim, fill: impl FnOnce(Claim, &mut u64, &mut KernelBody)) {
    let mut tail = TAIL;
    let mut body = EMPTY;
    task::fill_header(claim.at(0), event.class);
    fill(claim, &mut tail, &mut body);
    // SAFETY: within the record.
    unsafe { *claim.at::<KernelBody>(HEADER) = body };
    event.submit(claim, tail);
}

#[inline(always)]
fn target(body: &mut KernelBody, pid: u32) {
    if let Some((tgid, start)) = process_of(pid) {
        (body.target_pid, body.target_start) = (tgid, start);
    }
}

/// The process that a thread id means in the current task's pid namespace: what `find_vpid` does, by hand through the
/// namespace's IDR (an XArray: lib/xarray.c, include/linux/xarray.h).
#[inline(always)]
fn process_of(tid: u32) -> Option<(u32, u64)> {
    let ns = task::pid_namespace(task::current())?;
    let idr = ns + u64::from(off!(pid_ns_idr));
    let base: u32 = peek(idr + u64::from(off!(idr_base)))?;
    let index = u64::from(tid).wrapping_sub(u64::from(base));
    let mut entry: u64 = peek(idr + u64::from(off!(idr_rt)) + u64::from(off!(xarray_head)))?;
    // 64 places a node, 6 bits a level: six levels hold every pid.
    let mut level = 0;
    while level < 6 {
        // xa_is_node
        if entry & 3 != 2 || entry <= 4096 {
            break;
        }
        let node = entry - 2;
        let shift: u8 = peek(node + u64::from(off!(xa_node_shift)))?;
        let place = index >> (shift & 63) & 63;
        entry = peek(node + u64::from(off!(xa_node_slots)) + 8 * place)?;
        level += 1;
    }
    if entry == 0 || entry & 3 != 0 {
        return None;
    }
    // struct pid: the first task that has it as its thread id.
    let link: u64 = peek(entry + u64::from(off!(pid_tasks)))?;
    if link == 0 {
        return None;
    }
    let found = link - u64::from(off!(task_pid_links));
    let tgid: u32 = peek(found + u64::from(off!(task_tgid)))?;
    let leader: u64 = peek(found + u64::from(off!(task_group_leader)))?;
    Some((tgid, peek(leader + u64::from(off!(task_start_boottime)))?))
}
