//! What is done to files through io_uring: open, unlink, rename, link, symlink. No system call is made for it.
//!
//! A request is noted when it is submitted, with the kernel's own copy of its names, which the caller cannot change any more, and told
//! when it has completed, if it succeeded. Where nothing will say how it ended, since the caller asked for that
//! (IOSQE_CQE_SKIP_SUCCESS) or there is no room for the note, it is told at once, as if it had succeeded: more is told, nothing is hidden.

use core::ffi::c_void;

use agent_abi::{Class, FILE_AS_WRITTEN, FILE_SYMBOLIC, Fate, MISSING, PATH_MAX};
use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};

use crate::{
    event::{self, Event},
    file::{self, Count, Names, Space, file_of},
    off,
    read::{add, field, opaque, peek, word},
    scratch::{self, Claim},
    task,
};

/// Requests under way, by the address of their `struct io_kiocb`; each takes 8 KiB while it is. BPF_F_NO_PREALLOC.
#[map]
static NOTES: HashMap<u64, Note> = HashMap::with_max_entries(1024, 1);
/// The same by what the caller calls them: all that is known of a completion for which its ring has no room. BPF_F_NO_PREALLOC.
#[map]
static UNDER_WAY: HashMap<Asker, Latest> = HashMap::with_max_entries(1024, 1);

// enum io_uring_op of include/uapi/linux/io_uring.h
const OPENAT: u8 = 18;
const OPENAT2: u8 = 28;
const RENAMEAT: u8 = 35;
const UNLINKAT: u8 = 36;
const SYMLINKAT: u8 = 38;
const LINKAT: u8 = 39;
/// REQ_F_CQE_SKIP of include/linux/io_uring_types.h, which is IOSQE_CQE_SKIP_SUCCESS of the user ABI.
const SKIP: u32 = 1 << 6;
/// IORING_FILE_INDEX_ALLOC of the user ABI: any free place.
const ANY_SLOT: u32 = u32::MAX;
const O_LARGEFILE: u32 = 0o100_000;

/// What a request asks for.
#[repr(C)]
struct Note {
    ring: u64,
    user_data: u64,
    opcode: u32,
    /// Of an open: 0 for a descriptor, else a place in the ring's table, counted from 1.
    slot: u32,
    /// Of an open: flags of open(2).
    flags: u32,
    dirs: [u32; 2],
    /// Whose request it is.
    process: u32,
    names: [[u8; PATH_MAX]; 2],
}

/// Who asks, as the caller and the kernel know it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Asker {
    /// Address of the ring.
    pub ring: u64,
    /// The caller's number.
    pub user_data: u64,
}

/// Requests that go by one number.
#[repr(C)]
struct Latest {
    request: u64,
    count: u64,
}

/// tp_btf/io_uring_submit_req(struct io_kiocb *req), until 6.2 io_uring_submit_sqe(struct io_kiocb *req, bool): its arguments have been
/// taken over, nothing of it has been done.
#[btf_tracepoint(function = "io_uring_submit_req")]
pub fn uring_submit(ctx: BtfTracePointContext) -> u32 {
    let request: *const u8 = ctx.arg(0);
    // SAFETY: a request, known to the verifier.
    let (opcode, flags) =
        unsafe { (field::<u8>(request, off!(kiocb_opcode)), field::<u32>(request, off!(kiocb_flags))) };
    if !matches!(opcode, OPENAT | OPENAT2 | RENAMEAT | UNLINKAT | SYMLINKAT | LINKAT) {
        return 0;
    }
    let Some(claim) = scratch::claim() else {
        lost(opcode);
        return 0;
    };
    submitted(claim, request as u64, opcode, flags);
    claim.release();
    0
}

/// tp_btf/io_uring_complete(ctx, void *req, struct io_uring_cqe *cqe): since 6.17.
#[btf_tracepoint(function = "io_uring_complete")]
pub fn uring_done(ctx: BtfTracePointContext) -> u32 {
    let completion: *const u8 = ctx.arg(2);
    // SAFETY: struct io_uring_cqe { u64 user_data; s32 res; u32 flags; }, user ABI.
    let result: i32 = unsafe { field(completion, 8) };
    completed(ctx.arg(1), result);
    0
}

/// tp_btf/io_uring_complete(ctx, void *req, u64 user_data, int res, …): before 6.17.
#[btf_tracepoint(function = "io_uring_complete")]
pub fn uring_done_old(ctx: BtfTracePointContext) -> u32 {
    completed(ctx.arg(1), ctx.arg(3));
    0
}

/// tp_btf/io_uring_cqe_overflow(void *ctx, u64 user_data, s32 res, u32 cflags, void *ocqe): the ring has no room for a completion, which
/// newer kernels tell here only.
#[btf_tracepoint(function = "io_uring_cqe_overflow")]
pub fn uring_overflow(ctx: BtfTracePointContext) -> u32 {
    let asker = Asker { ring: ctx.arg(0), user_data: ctx.arg(1) };
    let result: i32 = ctx.arg(2);
    let Some(latest) = UNDER_WAY.get_ptr(&asker) else { return 0 };
    // SAFETY: a map value.
    let (request, count) = unsafe { ((*latest).request, (*latest).count) };
    let Some(note) = NOTES.get_ptr(&request) else { return 0 };
    if count == 1 {
        if result >= 0 {
            happened(note, result as u64);
        }
        forget(&asker);
        let _ = NOTES.remove(&request);
    } else {
        // Which of them it is nobody says.
        if result >= 0 {
            // SAFETY: a map value.
            lost(unsafe { (*note).opcode } as u8);
        }
        forget(&asker);
    }
    0
}

/// The file at a place of a ring's own table.
#[inline(always)]
pub fn file_in_table(ring: u64, slot: u32, result: u64) -> Option<u64> {
    /// FFS_NOWAIT and FFS_ISREG of io_uring/filetable.h, in a file's address.
    const MARKS: u64 = 7;
    let place = if slot == ANY_SLOT { result } else { u64::from(slot) - 1 };
    let table = ring + u64::from(off!(ring_file_table));
    let marked = if off!(table_files) != MISSING {
        word(word(table + u64::from(off!(table_files)))? + place * 8)?
    } else if off!(table_nodes) != MISSING && off!(node_file) != MISSING {
        let node = word(word(table + u64::from(off!(table_nodes)))? + place * 8)?;
        word(node + u64::from(off!(node_file)))?
    } else {
        return None;
    };
    Some(marked & !MARKS).filter(|file| *file != 0)
}

#[inline(always)]
fn submitted(claim: Claim, request: u64, opcode: u8, flags: u32) {
    let [dir_a, dir_b, name_a, name_b] = match opcode {
        OPENAT | OPENAT2 => [off!(io_open_dfd), MISSING, off!(io_open_filename), MISSING],
        UNLINKAT => [off!(io_unlink_dfd), MISSING, off!(io_unlink_filename), MISSING],
        RENAMEAT => [
            off!(io_rename_old_dfd),
            off!(io_rename_new_dfd),
            off!(io_rename_oldpath),
            off!(io_rename_newpath),
        ],
        _ => [off!(io_link_old_dfd), off!(io_link_new_dfd), off!(io_link_oldpath), off!(io_link_newpath)],
    };
    let at = |offset: u32| request + opaque(u64::from(offset));
    let two = matches!(opcode, RENAMEAT | SYMLINKAT | LINKAT);
    let opening = matches!(opcode, OPENAT | OPENAT2);
    let dirs =
        [peek::<u32>(at(dir_a)).unwrap_or(0), if two { peek::<u32>(at(dir_b)).unwrap_or(0) } else { 0 }];
    let names = [text_of(at(name_a)), if two { text_of(at(name_b)) } else { 0 }];
    let (slot, open) = if opening {
        let flags: u64 = peek(request + u64::from(off!(io_open_flags))).unwrap_or(u64::MAX);
        (peek(request + u64::from(off!(io_open_file_slot))).unwrap_or(0), flags as u32 & !O_LARGEFILE)
    } else {
        (0, 0)
    };
    let noted = flags & SKIP == 0 && {
        let note = claim.at::<Note>(0);
        // SAFETY: within the record.
        unsafe {
            (*note).ring = word(request + u64::from(off!(kiocb_ctx))).unwrap_or(0);
            (*note).user_data = word(request + u64::from(off!(kiocb_user_data))).unwrap_or(0);
            (*note).opcode = u32::from(opcode);
            (*note).slot = slot;
            (*note).flags = open;
            (*note).dirs = dirs;
            (*note).process = task::tgid(task::current());
        }
        copy_text(note, 0, names[0]) && (!two || copy_text(note, 1, names[1])) && keep(request, note)
    };
    if !noted {
        tell(claim, opcode, Asked { dirs, names }, open);
    }
}

/// Address of the text of the `struct filename` whose address stands there.
#[inline(always)]
fn text_of(at: u64) -> u64 {
    let filename = word(at).unwrap_or(0);
    word(filename + u64::from(off!(filename_name))).unwrap_or(0)
}

#[inline(always)]
fn copy_text(note: *mut Note, which: usize, from: u64) -> bool {
    // SAFETY: within the record.
    unsafe {
        let to = (&raw mut (*note).names[which]).cast::<c_void>();
        bpf_probe_read_kernel_str(to, PATH_MAX as u32, from as *const c_void) > 0
    }
}

/// Keeps a note under both its keys, or under none.
#[inline(always)]
fn keep(request: u64, note: *const Note) -> bool {
    // SAFETY: within the record.
    let asker = unsafe { Asker { ring: (*note).ring, user_data: (*note).user_data } };
    // What stood there has ended without a word.
    if let Some(old) = NOTES.get_ptr(&request) {
        // SAFETY: a map value.
        let asker = unsafe { Asker { ring: (*old).ring, user_data: (*old).user_data } };
        forget(&asker);
    }
    if let Some(latest) = UNDER_WAY.get_ptr_mut(&asker) {
        // SAFETY: a map value.
        unsafe {
            add(&raw mut (*latest).count, 1);
            (*latest).request = request;
        }
    } else if UNDER_WAY.insert(&asker, &Latest { request, count: 1 }, 0).is_err() {
        return false;
    }
    // SAFETY: within the record.
    if NOTES.insert(&request, unsafe { &*note }, 0).is_err() {
        forget(&asker);
        return false;
    }
    true
}

/// One request less goes by this number.
#[inline(always)]
fn forget(asker: &Asker) {
    if let Some(latest) = UNDER_WAY.get_ptr_mut(asker) {
        // SAFETY: a map value.
        unsafe {
            if (*latest).count > 1 {
                add(&raw mut (*latest).count, u64::MAX);
                return;
            }
        }
        let _ = UNDER_WAY.remove(asker);
    }
}

/// A request has completed in the context of the process that made it, or of its worker, which shares its files.
#[inline(always)]
fn completed(request: u64, result: i32) {
    if request == 0 {
        return;
    }
    // One byte, of a structure that goes on behind it.
    let opcode = word(request + u64::from(off!(kiocb_opcode))).unwrap_or(0) as u8;
    if !matches!(opcode, OPENAT | OPENAT2 | RENAMEAT | UNLINKAT | SYMLINKAT | LINKAT) {
        return;
    }
    let Some(note) = NOTES.get_ptr(&request) else { return };
    if result >= 0 {
        happened(note, result as u64);
    }
    // SAFETY: a map value.
    let asker = unsafe { Asker { ring: (*note).ring, user_data: (*note).user_data } };
    forget(&asker);
    let _ = NOTES.remove(&request);
}

/// What was noted has been done. When its process has ended meanwhile, a thread of the kernel says so, which has other files and
/// another working directory: the event is lost then.
#[inline(always)]
fn happened(note: *const Note, result: u64) {
    // SAFETY: a map value.
    let (opcode, slot, flags, ring, dirs) =
        unsafe { ((*note).opcode as u8, (*note).slot, (*note).flags, (*note).ring, (*note).dirs) };
    // SAFETY: a map value.
    if unsafe { (*note).process } != task::tgid(task::current()) {
        return lost(opcode);
    }
    if matches!(opcode, OPENAT | OPENAT2) {
        let file = if slot == 0 { file_of(result) } else { file_in_table(ring, slot, result) };
        uring_opened(file.unwrap_or(0), flags);
        return;
    }
    let Some(claim) = scratch::claim() else { return lost(opcode) };
    // SAFETY: addresses within a map value.
    let names = unsafe { [(&raw const (*note).names[0]) as u64, (&raw const (*note).names[1]) as u64] };
    tell(claim, opcode, Asked { dirs, names }, flags);
    claim.release();
}

/// What names a request has: descriptors of the directories, and where in the kernel the texts stand.
#[repr(C)]
#[derive(Clone, Copy)]
struct Asked {
    dirs: [u32; 2],
    names: [u64; 2],
}

/// Tells a request by its names.
#[inline(always)]
fn tell(claim: Claim, opcode: u8, asked: Asked, open: u32) {
    // SAFETY: within the record.
    unsafe { *claim.at::<Asked>(0) = asked };
    let flags = FILE_AS_WRITTEN | if opcode == SYMLINKAT { FILE_SYMBOLIC } else { 0 };
    uring_named(claim.index, class(opcode) as u32, open, flags);
}

/// Tells an open of the file at this address (0: it was not found) with these flags.
///
/// A global function in BTF's sense, see [`crate::filter`]: whatever leads here, the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn uring_opened(file: u64, flags: u32) -> u32 {
    if let Some(event) = event::begin(Class::FileOpen) {
        file::opened_file(event, flags, || Some(file).filter(|file| *file != 0));
    }
    0
}

/// Tells what was done to what the names say that stand at the front of the slot's record. `class` is the `Class`, `flags` are the record's.
///
/// A global function, too: some older verifiers tell states apart by every number that they know, so that opcodes, flags and ways to come
/// here would be multiplied.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn uring_named(index: u32, class: u32, open: u32, flags: u32) -> u32 {
    let Some(claim) = scratch::claimed(index) else { return 0 };
    let asked = claim.at::<Asked>(0);
    // SAFETY: within the record. Volatile, since the record is built where it stands.
    let Asked { dirs, names } = unsafe { core::ptr::read_volatile(asked) };
    let Some(class) = class_of(class) else { return 0 };
    let Some(event) = event::begin(class) else { return 0 };
    let (event, wanted) =
        if class == Class::FileOpen { file::judged_open(event, open) } else { (event, event.passes_all()) };
    let count = if matches!(class, Class::FileRename | Class::FileLink) { Count::Two } else { Count::One };
    file::named(
        event,
        claim,
        claim.unknown(u64::from(wanted)) != 0,
        Names { dirs, names, space: Space::Kernel },
        open,
        flags,
        count,
    );
    0
}

/// The class of what can be told by names.
#[inline(always)]
fn class_of(number: u32) -> Option<Class> {
    if !(Class::FileOpen as u32..=Class::FileLink as u32).contains(&number) {
        return None;
    }
    // SAFETY: `Class` is a u8 without gaps, and the number lies between two of its values. (A `match` would be a branch for each, which
    // the verifier would follow to the end.)
    Some(unsafe { core::mem::transmute::<u8, Class>(number as u8) })
}

#[inline(always)]
fn lost(opcode: u8) {
    if let Some(event) = event::begin(class(opcode)) {
        Event::lost(event, Fate::LostRead);
    }
}

#[inline(always)]
fn class(opcode: u8) -> Class {
    match opcode {
        OPENAT | OPENAT2 => Class::FileOpen,
        UNLINKAT => Class::FileDelete,
        RENAMEAT => Class::FileRename,
        _ => Class::FileLink,
    }
}
