//! accept through io_uring, where the kernel has no fexit. (Other calls on sockets meet the hooks of `net.rs` whichever way they come.)
//!
//! One request can accept many connections: each has a completion of its own, which names the ring and the caller's number but not the
//! request, so those are noted when it is submitted.

use agent_abi::{Class, Fate};
use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};

use crate::{
    event,
    file::file_of,
    net, off,
    read::{add, field, peek, word},
    uring::{Asker, file_in_table},
};

/// Requests under way. BPF_F_NO_PREALLOC.
#[map]
static ACCEPTING: HashMap<Asker, Accepting> = HashMap::with_max_entries(16_384, 1);

// include/uapi/linux/io_uring.h
const ACCEPT: u8 = 13;
/// REQ_F_CQE_SKIP of include/linux/io_uring_types.h.
const SKIP: u32 = 1 << 6;

/// Requests that go by one number.
#[repr(C)]
struct Accepting {
    count: u64,
    /// Where the latest puts what it accepts: 0 for a descriptor, else a place in the ring's table, counted from 1.
    slot: u32,
    pad: u32,
}

/// tp_btf/io_uring_submit_req(struct io_kiocb *req), until 6.2 io_uring_submit_sqe.
#[btf_tracepoint(function = "io_uring_submit_req")]
pub fn uring_accept_submit(ctx: BtfTracePointContext) -> u32 {
    let request: *const u8 = ctx.arg(0);
    // SAFETY: a request, known to the verifier.
    let (opcode, flags) =
        unsafe { (field::<u8>(request, off!(kiocb_opcode)), field::<u32>(request, off!(kiocb_flags))) };
    if opcode != ACCEPT {
        return 0;
    }
    let at = request as u64;
    let asker = Asker {
        ring: word(at + u64::from(off!(kiocb_ctx))).unwrap_or(0),
        user_data: word(at + u64::from(off!(kiocb_user_data))).unwrap_or(0),
    };
    let slot = slot_of(at);
    let kept = if let Some(known) = ACCEPTING.get_ptr_mut(&asker) {
        // SAFETY: a map value.
        unsafe {
            add(&raw mut (*known).count, 1);
            (*known).slot = slot;
        }
        true
    } else {
        ACCEPTING.insert(&asker, &Accepting { count: 1, slot, pad: 0 }, 0).is_ok()
    };
    // Nothing will say what it accepts.
    if (!kept || flags & SKIP != 0)
        && let Some(event) = event::begin(Class::Accept)
    {
        event.lost(Fate::LostRead);
    }
    0
}

/// tp_btf/io_uring_complete(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe): since 6.17.
#[btf_tracepoint(function = "io_uring_complete")]
pub fn uring_accept_done(ctx: BtfTracePointContext) -> u32 {
    let completion: *const u8 = ctx.arg(2);
    // SAFETY: struct io_uring_cqe { u64 user_data; s32 res; u32 flags; }, user ABI.
    let (user_data, result) = unsafe { (field::<u64>(completion, 0), field::<i32>(completion, 8)) };
    completed(Asker { ring: ctx.arg(0), user_data }, ctx.arg(1), result);
    0
}

/// tp_btf/io_uring_complete(void *ctx, void *req, u64 user_data, int res, …): before 6.17.
#[btf_tracepoint(function = "io_uring_complete")]
pub fn uring_accept_done_old(ctx: BtfTracePointContext) -> u32 {
    completed(Asker { ring: ctx.arg(0), user_data: ctx.arg(2) }, ctx.arg(1), ctx.arg(3));
    0
}

/// tp_btf/io_uring_cqe_overflow(void *ctx, u64 user_data, s32 res, u32 cflags, void *ocqe).
#[btf_tracepoint(function = "io_uring_cqe_overflow")]
pub fn uring_accept_overflow(ctx: BtfTracePointContext) -> u32 {
    let result: i32 = ctx.arg(2);
    if result >= 0 {
        by_number(&Asker { ring: ctx.arg(0), user_data: ctx.arg(1) }, result as u64);
    }
    0
}

#[inline(always)]
fn completed(asker: Asker, request: u64, result: i32) {
    if request == 0 {
        // One of many.
        if result >= 0 {
            by_number(&asker, result as u64);
        }
        return;
    }
    // One byte, of a structure that goes on behind it.
    let opcode = word(request + u64::from(off!(kiocb_opcode))).unwrap_or(0) as u8;
    if opcode != ACCEPT {
        return;
    }
    if result >= 0 {
        accepted(asker.ring, slot_of(request), result as u64);
    }
    if let Some(known) = ACCEPTING.get_ptr_mut(&asker) {
        // SAFETY: a map value.
        unsafe {
            if (*known).count > 1 {
                add(&raw mut (*known).count, u64::MAX);
                return;
            }
        }
        let _ = ACCEPTING.remove(&asker);
    }
}

/// A completion of which ring and number are known. What it gave is looked at before it is taken for a connection, so that another
/// request of the same number does no harm.
#[inline(always)]
fn by_number(asker: &Asker, result: u64) {
    if let Some(known) = ACCEPTING.get_ptr(asker) {
        // SAFETY: a map value.
        let slot = unsafe { (*known).slot };
        accepted(asker.ring, slot, result);
    }
}

#[inline(always)]
fn accepted(ring: u64, slot: u32, result: u64) {
    let file = if slot == 0 { file_of(result) } else { file_in_table(ring, slot, result) };
    let _ = net::accepted(file);
}

#[inline(always)]
fn slot_of(request: u64) -> u32 {
    peek(request + u64::from(off!(io_accept_file_slot))).unwrap_or(0)
}
