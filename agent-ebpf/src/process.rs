//! exec, fork and exit: what the process tree lives on.

use core::ffi::c_void;

use agent_abi::{
    ARGV_MAX, CLASS_SLOTS, Class, EXEC_HELD, EXEC_HOLD_FAILED, ExecBody, ExitBody, Fate, ForkBody, HOLD,
    HeldTask, MISSING, MODE_ALL, MODE_OFF, RecordHeader, TEST_UNLINKED, TEXT_TRUNCATED, TEXT_UNREAD, TaskKey,
    Text,
};
use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_send_signal},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use crate::{
    credentials,
    event::{self, Event},
    filter,
    maps::{HELD, SWITCHES},
    off,
    path::{self, Path},
    read::{bounded, field, peek},
    scratch::{self, Claim},
    shadow, task, text,
};

const SIGSTOP: u32 = 19;
/// SIGNAL_GROUP_EXIT of include/linux/sched/signal.h: the group's exit code counts, not the thread's.
const GROUP_EXIT: u32 = 4;
const HEADER: usize = size_of::<RecordHeader>();

/// tp_btf/sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm): the new image stands, its
/// first instruction has not run.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec(ctx: BtfTracePointContext) -> u32 {
    // A setuid binary or one with file capabilities.
    credentials::at_exec();
    let Some(event) = event::begin(Class::Exec) else { return 0 };
    let bprm: *const u8 = ctx.arg(2);
    let Some(claim) = scratch::claim() else {
        event.lost(Fate::LostRead);
        return 0;
    };
    match build_exec(event, claim, bprm) {
        // Whoever stands still waits for a judge: no budget may keep its record away.
        Some(len) if is_held(claim) || event.within_budget() => event.submit(claim, len),
        Some(_) => {}
        None => event.lost(Fate::LostRead),
    }
    claim.release();
    0
}

/// tp_btf/sched_process_fork(struct task_struct *parent, struct task_struct *child), for threads too.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn fork(ctx: BtfTracePointContext) -> u32 {
    let child: *const u8 = ctx.arg(1);
    // SAFETY: a task.
    let thread: u32 = unsafe { field(child, off!(task_pid)) };
    let pid = task::tgid(child);
    if thread != pid {
        return 0;
    }
    shadow::remember(child);
    let Some(event) = event::begin(Class::Fork) else { return 0 };
    if !event.within_budget() {
        return 0;
    }
    let mut record = Fixed::<ForkBody>::new();
    task::fill_header(record.header(), event.class);
    record.body = ForkBody { start: task::start(child), cgroup: task::cgroup(child), pid, pad: 0 };
    record.submit(event);
    0
}

/// tp_btf/sched_process_exit(struct task_struct *p, bool group_dead): group_dead since 6.16.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn exit(ctx: BtfTracePointContext) -> u32 {
    let current: *const u8 = ctx.arg(0);
    // Since 6.16 the kernel says whether this is the last thread. Before, two threads that end at the same time can both
    // find nobody else alive: then the one counts that finds the process still remembered.
    let told = off!(exit_arguments) != MISSING && off!(exit_arguments) >= 2;
    if told && ctx.arg::<u64>(1) & 0xff == 0 {
        return 0;
    }
    // SAFETY: types known to the verifier; `signal` of a task that exits is still there.
    let code = unsafe {
        let signal: *const u8 = field(current, off!(task_signal));
        if signal.is_null() || (!told && field::<u32>(signal, off!(signal_live)) != 0) {
            return 0;
        }
        if field::<u32>(signal, off!(signal_flags)) & GROUP_EXIT != 0 {
            field::<u32>(signal, off!(signal_group_exit_code))
        } else {
            let leader: *const u8 = field(current, off!(task_group_leader));
            if leader.is_null() { 0 } else { field::<u32>(leader, off!(task_exit_code)) }
        }
    };
    let key = shadow::key(current);
    let first = shadow::forget(&key);
    if !told && !first {
        return 0;
    }
    let _ = HELD.remove(&key);
    let Some(event) = event::begin(Class::Exit) else { return 0 };
    if !event.within_budget() {
        return 0;
    }
    let mut record = Fixed::<ExitBody>::new();
    task::fill_header(record.header(), event.class);
    record.body = ExitBody { code: code & 0xffff, pad: 0 };
    record.submit(event);
    0
}

/// A record without texts, on the stack.
#[repr(C)]
pub struct Fixed<T> {
    header: RecordHeader,
    /// The body of its class.
    pub body: T,
}

impl<T: Copy> Fixed<T> {
    /// All zeros.
    #[inline(always)]
    pub fn new() -> Self {
        // SAFETY: header and bodies are plain numbers.
        unsafe { core::mem::zeroed() }
    }

    /// Its header.
    #[inline(always)]
    pub fn header(&mut self) -> *mut RecordHeader {
        &raw mut self.header
    }

    /// Hands it to the ring.
    #[inline(always)]
    pub fn submit(&mut self, event: Event) {
        self.header.len = size_of::<Self>() as u32;
        event.submit_fixed(self);
    }
}

/// Builds the whole record, holds the process if a test asks for it, and gives the record's length.
#[inline(always)]
fn build_exec(event: Event, claim: Claim, bprm: *const u8) -> Option<u64> {
    let body: *mut ExecBody = claim.at(HEADER);
    let current = task::current();
    let mut tail = (HEADER + size_of::<ExecBody>()) as u64;
    task::fill_header(claim.at(0), Class::Exec);
    // SAFETY: types known to the verifier, pointers tested for null; the body lies within the record.
    unsafe {
        task::fill_namespaces(&raw mut (*body).namespaces, current);
        fill_tty(&raw mut (*body).tty, current);
        fill_stdio(&raw mut (*body).stdio, current);
        let file: *const u8 = field(bprm, off!(bprm_file));
        if file.is_null() {
            return None;
        }
        let inode: *const u8 = field(file, off!(file_f_inode));
        if inode.is_null() {
            return None;
        }
        (*body).inode = field(inode, off!(inode_i_ino));
        (*body).links = field(inode, off!(inode_i_nlink));
        let sb: *const u8 = field(inode, off!(inode_i_sb));
        if sb.is_null() {
            return None;
        }
        (*body).device = field(sb, off!(sb_s_dev));
        (*body).magic = field(sb, off!(sb_s_magic));

        // The executable's path is judged first, so that the stop comes as early as possible.
        let exe = path::resolve(claim, file as u64 + u64::from(off!(file_f_path)));
        (*body).flags = hold(event, claim, exe, (*body).links);
        (*body).exe = path::append(claim, &mut tail, exe);
        (*body).requested = text::append_kernel(claim, &mut tail, field::<u64>(bprm, off!(bprm_filename)));
        (*body).cwd = append_cwd(claim, &mut tail, current);
        (*body).args = append_args(claim, &mut tail, current);
    }
    Some(tail)
}

/// Whether [`hold`] has stopped the process of the record.
#[inline(always)]
fn is_held(claim: Claim) -> bool {
    let body: *const ExecBody = claim.at(HEADER);
    // SAFETY: the body lies within the record and was filled before.
    unsafe { (*body).flags & EXEC_HELD != 0 }
}

/// Stops the process if a hold test holds, and notes it in the pinned map.
#[inline(always)]
fn hold(event: Event, claim: Claim, exe: Path, links: u32) -> u32 {
    let Some(switch) = SWITCHES.get_ptr(u32::from(event.generation) * CLASS_SLOTS + u32::from(HOLD)) else {
        return 0;
    };
    // SAFETY: a map value.
    let (mode, tests) = unsafe { ((*switch).mode, (*switch).tests) };
    if mode == MODE_OFF {
        return 0;
    }
    let wanted = mode == MODE_ALL
        || (tests & TEST_UNLINKED != 0 && links == 0)
        || filter::path_passes(claim, exe, switch, event.generation, HOLD);
    if !wanted {
        return 0;
    }
    let header: *const RecordHeader = claim.at(0);
    // SAFETY: the header was filled by the caller.
    let (key, value) = unsafe {
        (
            TaskKey { pid: (*header).pid, pad: 0, start: (*header).start },
            HeldTask { at: (*header).at, cgroup: (*header).cgroup },
        )
    };
    // First the note, then the stop: a process that stands still without a note would stand for ever.
    if HELD.insert(&key, &value, 0).is_err() {
        return EXEC_HOLD_FAILED;
    }
    // SAFETY: a helper on the current process.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        let _ = HELD.remove(&key);
        return EXEC_HOLD_FAILED;
    }
    EXEC_HELD
}

#[inline(always)]
fn append_cwd(claim: Claim, tail: &mut u64, current: *const u8) -> Text {
    // SAFETY: a task.
    let fs: u64 = unsafe { field(current, off!(task_fs)) };
    if fs == 0 {
        return Text { len: 0, flags: TEXT_UNREAD };
    }
    let cwd = path::resolve(claim, fs + u64::from(off!(fs_pwd)));
    path::append(claim, tail, cwd)
}

/// Appends argv as it stands in the new image's memory. It was written there a moment ago, so its pages are there; where
/// one is not, what comes before it is kept and the rest is marked as cut.
#[inline(always)]
fn append_args(claim: Claim, tail: &mut u64, current: *const u8) -> Text {
    // SAFETY: types known to the verifier.
    let (from, to) = unsafe {
        let mm: *const u8 = field(current, off!(task_mm));
        if mm.is_null() {
            return Text { len: 0, flags: TEXT_UNREAD };
        }
        (field::<u64>(mm, off!(mm_arg_start)), field::<u64>(mm, off!(mm_arg_end)))
    };
    let all = to.wrapping_sub(from);
    let (len, mut flags) = if all > ARGV_MAX as u64 { (ARGV_MAX as u64, TEXT_TRUNCATED) } else { (all, 0) };
    // SAFETY: the tail is bounded to 16 KiB, argv to 8 KiB; the record has 24.
    unsafe {
        let at = claim.record().add(bounded(*tail, 0x3fff) as usize).cast::<c_void>();
        let len = bounded(len, 0x3fff);
        if len <= ARGV_MAX as u64 && bpf_probe_read_user(at, len as u32, from as *const c_void) == 0 {
            *tail += len;
            return Text { len: len as u16, flags };
        }
        // Up to the end of the first page.
        let first = bounded(4096 - (from & 4095), 0x1fff);
        flags |= TEXT_TRUNCATED;
        if first <= 4096 && first < len && bpf_probe_read_user(at, first as u32, from as *const c_void) == 0 {
            *tail += first;
            return Text { len: first as u16, flags };
        }
    }
    Text { len: 0, flags: flags | TEXT_UNREAD }
}

/// # Safety
/// `to` lies in the record; `current` is the current task.
#[inline(always)]
unsafe fn fill_tty(to: *mut [u8; 64], current: *const u8) {
    // SAFETY: the caller's; types known to the verifier.
    unsafe {
        (*to)[0] = 0;
        let signal: *const u8 = field(current, off!(task_signal));
        if signal.is_null() {
            return;
        }
        let tty: u64 = field(signal, off!(signal_tty));
        if tty != 0 {
            bpf_probe_read_kernel_str(
                to.cast::<c_void>(),
                64,
                (tty + u64::from(off!(tty_name))) as *const c_void,
            );
        }
    }
}

/// i_mode of what stands behind fd 0, 1 and 2.
///
/// # Safety
/// `to` lies in the record; `current` is the current task.
#[inline(always)]
unsafe fn fill_stdio(to: *mut [u16; 4], current: *const u8) {
    // SAFETY: the caller's; everything beyond the task is copied.
    unsafe {
        *to = [0xffff; 4];
        let files: u64 = field(current, off!(task_files));
        let Some(table) = peek::<u64>(files + u64::from(off!(files_fdt))) else { return };
        let Some(fds) = peek::<u64>(table + u64::from(off!(fdtable_fd))) else { return };
        // A table never has fewer than 64 places.
        let Some(open) = peek::<[u64; 3]>(fds) else { return };
        (*to)[0] = mode_of(open[0]);
        (*to)[1] = mode_of(open[1]);
        (*to)[2] = mode_of(open[2]);
    }
}

#[inline(always)]
fn mode_of(file: u64) -> u16 {
    if file == 0 {
        return 0;
    }
    let Some(inode) = peek::<u64>(file + u64::from(off!(file_f_inode))) else { return 0xffff };
    peek(inode + u64::from(off!(inode_i_mode))).unwrap_or(0xffff)
}
