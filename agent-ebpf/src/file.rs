//! Files: open, unlink, rename, link, chmod, chown.
//!
//! All run at the end of the call, when it has succeeded. An open is told by the file that the kernel installed, so nothing
//! that user space could change meanwhile matters: path, mode and "created" are the kernel's own. The other calls leave no
//! file behind: their path is the directory that the kernel resolves (cwd, dirfd, root) and the caller's text behind it,
//! read at the end of the call.

use core::ffi::c_void;

use agent_abi::{
    Class, FILE_AS_WRITTEN, FILE_CREATED, FILE_SYMBOLIC, Fate, FileBody, OPEN_WRITE, PATH_MAX, RecordHeader,
    TEST_WRITE, TEXT_UNREAD, Text,
};
use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user_str},
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};

use crate::{
    at_return,
    event::{self, Event},
    filter, off,
    path::{self, Path, WALK_FAULT, WALK_ROOT},
    quick,
    read::{bounded, copy, field, opaque, peek, word},
    scratch::{self, Claim},
    syscalls::{
        CHMOD, CHOWN, CHOWN16, CREAT, Call, FCHMOD, FCHMODAT, FCHOWN, FCHOWN16, FCHOWNAT, LINK, LINKAT, OPEN,
        OPEN_BY_HANDLE_AT, OPENAT, RENAME, RENAMEAT, SYMLINK, SYMLINKAT, UNLINK, UNLINKAT,
    },
    task,
};

const HEADER: usize = size_of::<RecordHeader>();
const TAIL: u64 = (HEADER + size_of::<FileBody>()) as u64;

// include/uapi/asm-generic/fcntl.h
const O_ACCMODE: u32 = 3;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const O_LARGEFILE: u32 = 0o100_000;
const AT_FDCWD: u32 = -100_i32 as u32;
/// FMODE_CREATED of include/linux/fs.h, the same bit from 4.19 to 6.18.
const CREATED: u32 = 0x10_0000;
/// Longest caller's text that is searched for `.` and `..`; a longer one passes the filter unseen.
const SEARCHED: usize = 136;

/// open, openat, openat2, creat, open_by_handle_at; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_open(ctx: BtfTracePointContext) -> u32 {
    let Some(event) = event::begin(Class::FileOpen) else { return 0 };
    let call = Call::new(&ctx);
    let flags = match call.shape {
        OPEN => call.second() as u32,
        OPENAT | OPEN_BY_HANDLE_AT => call.third() as u32,
        CREAT => O_CREAT | O_TRUNC | 1,
        // openat2's stand in user memory.
        _ => u32::MAX,
    };
    opened(event, call.result, flags);
    0
}

/// fexit/do_sys_openat2(int dfd, const char __user *filename, struct open_how *how): open, openat, openat2 and creat of
/// both ABIs, where the kernel has fexit.
#[fexit]
pub fn open_return(ctx: FExitContext) -> u32 {
    let Ok(fd) = ctx.ret::<i64>() else { return 0 };
    // An int in newer kernels, a long in older ones.
    let fd = i64::from(fd as i32);
    if fd < 0 {
        return 0;
    }
    let Some(event) = event::begin(Class::FileOpen) else { return 0 };
    // struct open_how { __u64 flags; … }, user ABI; the kernel's own copy.
    let how: u64 = ctx.arg(2);
    // O_LARGEFILE is the kernel's addition.
    let flags = peek::<u64>(how).map_or(u32::MAX, |flags| flags as u32 & !O_LARGEFILE);
    opened(event, fd as u64, flags);
    0
}

at_return!(handle_return, handle_return32, OPEN_BY_HANDLE_AT, opened_by_handle);

#[inline(always)]
fn opened_by_handle(call: Call) {
    let Some(event) = event::begin(Class::FileOpen) else { return };
    opened(event, call.result, call.third() as u32);
}

/// unlink, rmdir, chmod, chown and their kin; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_change(ctx: BtfTracePointContext) -> u32 {
    let call = Call::new(&ctx);
    let class = match call.shape {
        UNLINK | UNLINKAT => Class::FileDelete,
        CHMOD | FCHMOD | FCHMODAT => Class::FileMode,
        _ => Class::FileOwner,
    };
    let Some(event) = event::begin(class) else { return 0 };
    let Some(claim) = scratch::claim() else {
        event.lost(Fate::LostRead);
        return 0;
    };
    changed(event, claim, call);
    claim.release();
    0
}

/// rename, link, symlink and their kin; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn file_pair(ctx: BtfTracePointContext) -> u32 {
    let call = Call::new(&ctx);
    let class = if matches!(call.shape, RENAME | RENAMEAT) { Class::FileRename } else { Class::FileLink };
    let Some(event) = event::begin(class) else { return 0 };
    let Some(claim) = scratch::claim() else {
        event.lost(Fate::LostRead);
        return 0;
    };
    paired(event, claim, call);
    claim.release();
    0
}

/// An open that returned `fd`. `flags` are the caller's, `u32::MAX` where only the file knows.
#[inline(always)]
fn opened(event: Event, fd: u64, flags: u32) {
    opened_file(event, flags, || file_of(fd));
}

/// An open whose file is where `find` looks.
#[inline(always)]
pub fn opened_file(event: Event, flags: u32, find: impl FnOnce() -> Option<u64>) {
    let all = event.passes_all();
    let writing = writes(flags);
    // What only looks at files that are written is asked of those only.
    let event = if writing { event.judged_as(OPEN_WRITE).unwrap_or(event) } else { event };
    // SAFETY: a map value.
    let tests = unsafe { (*event.switch()).tests };
    if !all && !writing && tests & filter::PATH_TESTS == 0 {
        return event.filtered();
    }
    let Some(file) = find() else { return event.lost(Fate::LostRead) };
    let passes = all || (writing && tests & TEST_WRITE != 0);
    if !passes && quick::may_matter(file + u64::from(off!(file_f_path)), event.place()) == 0 {
        return event.filtered();
    }
    let (flags, created) = if all || writing {
        let Some(mode) = word(file + u64::from(off!(file_f_mode))) else {
            return event.lost(Fate::LostRead);
        };
        let created = mode as u32 & CREATED != 0;
        (own_flags(file, flags, created), created)
    } else {
        (flags, false)
    };
    let Some(claim) = scratch::claim() else { return event.lost(Fate::LostRead) };
    // From here on all cases are one to the verifier.
    let passed = opaque(u64::from(passes));
    let flags = opaque(u64::from(flags)) as u32;
    let marks = opaque(if created { u64::from(FILE_CREATED) } else { 0 }) as u32;
    let path = path::resolve(claim, file + u64::from(off!(file_f_path)));
    let wanted = passed != 0 || event.path_passes(claim, path);
    if path.end == WALK_FAULT {
        event.lost(Fate::LostRead);
    } else if !wanted {
        event.filtered();
    } else if event.within_budget() {
        let mut tail = TAIL;
        let text = path::append(claim, &mut tail, path);
        write(event, claim, tail, FileBody { a: flags, b: 0, flags: marks, text: [text, NONE], pad: 0 });
    }
    claim.release();
}

#[inline(always)]
fn own_flags(file: u64, flags: u32, created: bool) -> u32 {
    if flags != u32::MAX {
        return flags;
    }
    // do_dentry_open drops O_CREAT, O_EXCL, O_NOCTTY and O_TRUNC.
    let kept: u32 = peek(file + u64::from(off!(file_f_flags))).unwrap_or(0);
    kept & !O_LARGEFILE | if created { O_CREAT } else { 0 }
}

/// Whether flags ask for more than reading, or are not known. (With O_PATH nothing is written; user space counts it all the same.)
#[inline(always)]
fn writes(flags: u32) -> bool {
    flags == u32::MAX || flags & (O_ACCMODE | O_CREAT | O_TRUNC) != 0
}

#[inline(always)]
fn changed(event: Event, claim: Claim, call: Call) {
    let mut body = FileBody { a: 0, b: 0, flags: FILE_AS_WRITTEN, text: [NONE; 2], pad: 0 };
    // (directory, caller's text, values)
    let (dir, name, a, b) = match call.shape {
        UNLINK => (AT_FDCWD, call.first(), 0, 0),
        UNLINKAT => (call.first() as u32, call.second(), 0, 0),
        CHMOD => (AT_FDCWD, call.first(), call.second() as u32 & 0o7777, 0),
        FCHMOD => (call.first() as u32, 0, call.second() as u32 & 0o7777, 0),
        FCHMODAT => (call.first() as u32, call.second(), call.third() as u32 & 0o7777, 0),
        CHOWN => (AT_FDCWD, call.first(), call.second() as u32, call.third() as u32),
        CHOWN16 => (AT_FDCWD, call.first(), wide(call.second()), wide(call.third())),
        FCHOWN => (call.first() as u32, 0, call.second() as u32, call.third() as u32),
        FCHOWN16 => (call.first() as u32, 0, wide(call.second()), wide(call.third())),
        FCHOWNAT => (call.first() as u32, call.second(), call.third() as u32, call.fourth() as u32),
        _ => return event.lost(Fate::LostRead),
    };
    // From here on all shapes are one to the verifier.
    let (dir, name) = (opaque(u64::from(dir)) as u32, opaque(name));
    body.a = opaque(u64::from(a)) as u32;
    body.b = opaque(u64::from(b)) as u32;
    let name_only = !matches!(call.shape, FCHMOD | FCHOWN | FCHOWN16);
    let named = if name_only {
        let Some(len) = take(claim, TAIL, name, Space::User) else { return event.lost(Fate::LostRead) };
        if !event.passes_all() && len != 0 && quick::end_rules_out(event.place(), last_four(claim)) {
            return event.filtered();
        }
        below(claim, len, dir)
    } else {
        body.flags = 0;
        Named { path: of_descriptor(claim, dir), unclear: false }
    };
    if named.path.end == WALK_FAULT {
        return event.lost(Fate::LostRead);
    }
    if !event.passes_all() && !passes(event, claim, named) {
        return event.filtered();
    }
    if !event.within_budget() {
        return;
    }
    let mut tail = TAIL;
    body.text[0] = path::append(claim, &mut tail, named.path);
    write(event, claim, tail, body);
}

#[inline(always)]
fn paired(event: Event, claim: Claim, call: Call) {
    let (from_dir, from, to_dir, to, flags) = match call.shape {
        RENAME => (AT_FDCWD, call.first(), AT_FDCWD, call.second(), FILE_AS_WRITTEN),
        LINK => (AT_FDCWD, call.first(), AT_FDCWD, call.second(), FILE_AS_WRITTEN),
        RENAMEAT | LINKAT => {
            (call.first() as u32, call.second(), call.third() as u32, call.fourth(), FILE_AS_WRITTEN)
        }
        SYMLINK => (0, call.first(), AT_FDCWD, call.second(), FILE_AS_WRITTEN | FILE_SYMBOLIC),
        SYMLINKAT => (0, call.first(), call.second() as u32, call.third(), FILE_AS_WRITTEN | FILE_SYMBOLIC),
        _ => return event.lost(Fate::LostRead),
    };
    let (from_dir, from) = (opaque(u64::from(from_dir)) as u32, opaque(from));
    let (to_dir, to) = (opaque(u64::from(to_dir)) as u32, opaque(to));
    let names = Names { dirs: [from_dir, to_dir], names: [from, to], space: Space::User };
    named(event, claim, event.passes_all(), names, 0, flags, Count::Two);
}

/// Whether an open that is told by its name passes its class whatever the name is, and the event as it is judged then.
#[inline(always)]
pub fn judged_open(event: Event, flags: u32) -> (Event, bool) {
    if event.passes_all() {
        return (event, true);
    }
    if !writes(flags) {
        return (event, false);
    }
    let event = event.judged_as(OPEN_WRITE).unwrap_or(event);
    // SAFETY: a map value.
    (event, unsafe { (*event.switch()).tests } & TEST_WRITE != 0)
}

/// Names as they were written, and the directories that they start from.
#[derive(Clone, Copy)]
pub struct Names {
    /// Descriptors.
    pub dirs: [u32; 2],
    /// Addresses of the texts.
    pub names: [u64; 2],
    /// Where those are.
    pub space: Space,
}

/// Whose memory a name is in.
#[derive(Clone, Copy, PartialEq)]
pub enum Space {
    /// The caller's.
    User,
    /// The kernel's own copy.
    Kernel,
}

/// How many names there are.
#[derive(Clone, Copy, PartialEq)]
pub enum Count {
    /// The second is not looked at.
    One,
    /// Both.
    Two,
}

/// Something that was done to what one or two names say. `wanted`: it passes whatever they are. `a` and `flags` are the record's.
#[inline(always)]
pub fn named(event: Event, claim: Claim, wanted: bool, names: Names, a: u32, flags: u32, count: Count) {
    let mut wanted = wanted;
    let mut body = FileBody { a, b: 0, flags, text: [NONE; 2], pad: 0 };
    let mut tail = TAIL;
    // The target of a symbolic link is a text, not a path.
    let first = if flags & FILE_SYMBOLIC != 0 {
        text_only(claim, TAIL, names.names[0], names.space)
    } else {
        behind(claim, TAIL, names.dirs[0], names.names[0], names.space)
    };
    if first.path.end == WALK_FAULT {
        return event.lost(Fate::LostRead);
    }
    wanted = wanted || passes(event, claim, first);
    let text = path::append(claim, &mut tail, first.path);
    // From here on all that became of the first are one to the verifier.
    wanted = claim.unknown(u64::from(wanted)) != 0;
    tail = claim.unknown(tail);
    let text = claim.unknown(u64::from(text.flags) << 16 | u64::from(text.len));
    body.text[0] = Text { len: text as u16, flags: (text >> 16) as u16 };
    if count == Count::Two {
        let second = behind(claim, tail, names.dirs[1], names.names[1], names.space);
        if second.path.end == WALK_FAULT {
            return event.lost(Fate::LostRead);
        }
        wanted = wanted || passes(event, claim, second);
        if !wanted {
            return event.filtered();
        }
        if !event.within_budget() {
            return;
        }
        body.text[1] = path::append(claim, &mut tail, second.path);
    } else {
        if !wanted {
            return event.filtered();
        }
        if !event.within_budget() {
            return;
        }
    }
    write(event, claim, tail, body);
}

const NONE: Text = Text { len: 0, flags: 0 };

/// A path that ends in a caller's text.
#[derive(Clone, Copy)]
pub struct Named {
    /// The path.
    pub path: Path,
    /// It may hold `.`, `..` or repeated slashes, so that its tests cannot be made here.
    unclear: bool,
}

#[inline(always)]
fn passes(event: Event, claim: Claim, named: Named) -> bool {
    // SAFETY: a map value.
    let tests = unsafe { (*event.switch()).tests };
    (named.unclear && tests & filter::PATH_TESTS != 0) || event.path_passes(claim, named.path)
}

/// Fills in header and body and hands the record over.
#[inline(always)]
fn write(event: Event, claim: Claim, tail: u64, body: FileBody) {
    task::fill_header(claim.at(0), event.class);
    // SAFETY: within the record.
    unsafe { *claim.at::<FileBody>(HEADER) = body };
    event.submit(claim, tail);
}

/// The path of an open file.
#[inline(always)]
fn of_descriptor(claim: Claim, fd: u32) -> Path {
    match file_of(u64::from(fd)) {
        Some(file) => path::resolve(claim, file + u64::from(off!(file_f_path))),
        None => Path::UNREAD,
    }
}

/// The caller's text alone, at the end of the path room. `spare` is where the record has room for it meanwhile.
#[inline(always)]
fn text_only(claim: Claim, spare: u64, name: u64, space: Space) -> Named {
    match take(claim, spare, name, space) {
        Some(len) => {
            Named { path: Path { begin: (PATH_MAX as u64 - len) as u32, end: WALK_ROOT }, unclear: false }
        }
        None => Named { path: Path::UNREAD, unclear: false },
    }
}

/// The caller's text behind the directory from which the kernel followed it.
#[inline(always)]
pub fn name_below(claim: Claim, spare: u64, dir: u32, name: u64) -> Named {
    behind(claim, spare, dir, name, Space::User)
}

#[inline(always)]
fn behind(claim: Claim, spare: u64, dir: u32, name: u64, space: Space) -> Named {
    match take(claim, spare, name, space) {
        Some(len) => below(claim, len, dir),
        None => Named { path: Path::UNREAD, unclear: false },
    }
}

/// The last four bytes of the text that was taken, a slash standing before it.
#[inline(always)]
fn last_four(claim: Claim) -> u32 {
    // SAFETY: constant places within the room, which is aligned.
    unsafe { *room(claim).add(PATH_MAX - 4).cast::<u32>() }
}

/// The text that was taken, of `len` bytes, behind the directory.
#[inline(always)]
fn below(claim: Claim, len: u64, dir: u32) -> Named {
    let room = room(claim);
    // SAFETY: masked.
    let first = unsafe { *room.add(bounded(PATH_MAX as u64 - len, 0xfff) as usize) };
    let absolute = len != 0 && first == b'/';
    let Some(base) = directory(dir, absolute) else { return Named { path: Path::UNREAD, unclear: false } };
    let mut behind = PATH_MAX as u64 - len;
    if len != 0 && !absolute {
        behind -= 1;
        // SAFETY: masked.
        unsafe { *room.add(bounded(behind, 0xfff) as usize) = b'/' };
    }
    let path = path::resolve_before(claim, base, behind);
    Named { path, unclear: len != 0 && unclear(claim, path) }
}

/// Copies a name to the end of the path room; its length.
#[inline(always)]
fn take(claim: Claim, spare: u64, name: u64, space: Space) -> Option<u64> {
    // SAFETY: the spare place is bounded to 16 KiB, the record has 24; the path room has 4096 bytes of slack behind the
    // mask.
    unsafe {
        let at = claim.record().add(bounded(spare, 0x3fff) as usize);
        let (to, from) = (at.cast::<c_void>(), name as *const c_void);
        let n = match space {
            Space::User => bpf_probe_read_user_str(to, PATH_MAX as u32, from),
            Space::Kernel => bpf_probe_read_kernel_str(to, PATH_MAX as u32, from),
        };
        if n <= 0 {
            return None;
        }
        let len = bounded(n as u64 - 1, 0xfff);
        let to = room(claim).add(bounded(PATH_MAX as u64 - len, 0xfff) as usize);
        // `len` 0 would begin at byte 4096, which the mask folds to 0: nothing is written there.
        if !copy(to, len, 0xfff, at as u64) {
            return None;
        }
        *room(claim).add(PATH_MAX) = 0;
        // Whoever looks at its last bytes sees where it begins.
        *room(claim).add(bounded(PATH_MAX as u64 - 1 - len, 0xfff) as usize) = b'/';
        Some(opaque(len))
    }
}

/// Address of the `struct path` from which the kernel follows a name.
#[inline(always)]
fn directory(dir: u32, absolute: bool) -> Option<u64> {
    if dir != AT_FDCWD && !absolute {
        return Some(file_of(u64::from(dir))? + u64::from(off!(file_f_path)));
    }
    // SAFETY: the current task.
    let fs: u64 = unsafe { field(task::current(), off!(task_fs)) };
    if fs == 0 {
        return None;
    }
    Some(fs + u64::from(if absolute { off!(fs_root) } else { off!(fs_pwd) }))
}

/// Whether the end of the path, as far as it may be a caller's text, has a slash followed by a slash or a dot (which takes
/// in hidden files: more passes, nothing is lost), or ends in a slash.
#[inline(always)]
fn unclear(claim: Claim, path: Path) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let len = path.len();
    let room = room(claim);
    // What an earlier path left in front of this one does not belong to it, but to the word that it begins in.
    if path.begin >= 8 {
        let before = bounded(u64::from(path.begin) - 8, 0xfff) as usize;
        let mut i = 0;
        while i < 8 {
            // SAFETY: masked; the room has slack behind the mask.
            unsafe { *room.add(before + i) = 0 };
            i += 1;
        }
    }
    // SAFETY: constant places before the end of the path.
    if unsafe { *room.add(PATH_MAX - 1) } == b'/' && len > 1 {
        return true;
    }
    // No branch in it: each would double what the verifier has to look at.
    let mut found = 0;
    // Whether the first byte behind the word is a dot or a slash.
    let mut next = 0;
    let mut behind = 8;
    while behind <= SEARCHED {
        // SAFETY: as above; the room is aligned.
        let word = unsafe { *room.add(PATH_MAX - behind).cast::<u64>() };
        let slash = word ^ (ONES * b'/' as u64);
        let slash = slash.wrapping_sub(ONES) & !slash & HIGH;
        // '.' is 0x2e, '/' is 0x2f.
        let either = (word & (ONES * 0xfe)) ^ (ONES * b'.' as u64);
        let either = either.wrapping_sub(ONES) & !either & HIGH;
        // All ones while the word's end still belongs to the path.
        let within = opaque((opaque((behind as u64 - 8).wrapping_sub(len)) as i64 >> 63) as u64);
        found |= (slash << 8 & either | slash >> 56 & next) & within;
        next = either & 0x80;
        behind += 8;
    }
    found != 0 || len > SEARCHED as u64
}

#[inline(always)]
fn room(claim: Claim) -> *mut u8 {
    // SAFETY: within the slot.
    unsafe { (&raw mut (*claim.slot).path).cast::<u8>() }
}

/// A 16-bit id: all ones mean "unchanged" as they do in 32 bits.
#[inline(always)]
fn wide(id: u64) -> u32 {
    let id = id as u32 & 0xffff;
    if id == 0xffff { u32::MAX } else { id }
}

/// Address of the open file behind a descriptor of the current task.
#[inline(always)]
pub fn file_of(fd: u64) -> Option<u64> {
    // SAFETY: types known to the verifier.
    unsafe {
        let files: *const u8 = field(task::current(), off!(task_files));
        if files.is_null() {
            return None;
        }
        let table: *const u8 = field(files, off!(files_fdt));
        if table.is_null() || fd >= u64::from(field::<u32>(table, off!(fdtable_max_fds))) {
            return None;
        }
        let places: u64 = field(table, off!(fdtable_fd));
        word(places + fd * 8).filter(|file| *file != 0)
    }
}

const _: () = assert!(TEXT_UNREAD != 0);
