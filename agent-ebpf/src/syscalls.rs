//! One program for the end of every system call, and the table that says which of them matter.
//!
//! A system-wide hook costs every process, so there is one: it looks the call's number up and jumps (tail call) into the
//! program of its family; an empty place in [`SYSCALLS`] means that nobody wants it. 32-bit calls (int 0x80, x32) are calls
//! like any other and have numbers of their own; per-call tracepoints do not see them.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, map},
    maps::ProgramArray,
    programs::{BtfTracePointContext, FExitContext},
};

use crate::{
    off,
    read::{field, opaque},
    task,
};

/// Programs by `SLOT_*`.
#[map]
pub static SYSCALLS: ProgramArray = ProgramArray::with_max_entries(16, 0);

/// Place of `file_open` in [`SYSCALLS`].
pub const SLOT_OPEN: u16 = 1;
/// Place of `file_change`: one path.
pub const SLOT_CHANGE: u16 = 2;
/// Place of `file_pair`: two paths.
pub const SLOT_PAIR: u16 = 3;
/// Place of `net_accept`.
pub const SLOT_ACCEPT: u16 = 4;
/// Place of `creds_call` in [`SYSCALLS`].
pub const SLOT_CREDS: u16 = 5;
/// Place of `namespaces_call`.
pub const SLOT_NAMESPACES: u16 = 6;
/// Place of `kernel_bpf`.
pub const SLOT_BPF: u16 = 7;
/// Place of `kernel_memfd`.
pub const SLOT_MEMFD: u16 = 8;
/// Place of `kernel_ptrace`.
pub const SLOT_PTRACE: u16 = 9;
/// Place of `kernel_vm_write`.
pub const SLOT_VM_WRITE: u16 = 10;
/// Place of `kernel_mount`.
pub const SLOT_MOUNT: u16 = 11;

/// What is done, and by which shape of call. The arguments of a shape stand at the same places in both ABIs.
pub const OPEN: u16 = 1;
pub const OPENAT: u16 = 2;
pub const OPENAT2: u16 = 3;
pub const CREAT: u16 = 4;
pub const OPEN_BY_HANDLE_AT: u16 = 5;
pub const UNLINK: u16 = 6;
pub const UNLINKAT: u16 = 7;
pub const CHMOD: u16 = 8;
pub const FCHMOD: u16 = 9;
pub const FCHMODAT: u16 = 10;
pub const CHOWN: u16 = 11;
pub const FCHOWN: u16 = 12;
pub const FCHOWNAT: u16 = 13;
pub const RENAME: u16 = 14;
pub const RENAMEAT: u16 = 15;
pub const LINK: u16 = 16;
pub const LINKAT: u16 = 17;
pub const SYMLINK: u16 = 18;
pub const SYMLINKAT: u16 = 19;
pub const ACCEPT: u16 = 20;
pub const SOCKETCALL: u16 = 21;
/// The 16-bit user and group ids of i386.
pub const CHOWN16: u16 = 22;
pub const FCHOWN16: u16 = 23;
/// setuid and its kin, capset.
pub const SET_CREDS: u16 = 24;
pub const SETNS: u16 = 25;
pub const UNSHARE: u16 = 26;
pub const BPF: u16 = 27;
pub const MEMFD_CREATE: u16 = 28;
pub const PTRACE: u16 = 29;
pub const VM_WRITE: u16 = 30;
pub const MOUNT: u16 = 31;
pub const MOVE_MOUNT: u16 = 32;

const ROOM: usize = 512;
/// TS_COMPAT of arch/x86/include/asm/thread_info.h: the current call is a 32-bit one.
const COMPAT: u32 = 2;
/// __X32_SYSCALL_BIT of arch/x86/include/uapi/asm/unistd.h.
const X32: u64 = 0x4000_0000;

/// `slot << 8 | shape` by number: arch/x86/entry/syscalls/syscall_64.tbl, then syscall_32.tbl.
#[unsafe(no_mangle)]
static CALLS: [u16; 2 * ROOM] = calls();

/// tp_btf/sys_exit(struct pt_regs *regs, long ret).
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> u32 {
    let call = shape(&ctx);
    if call != 0 {
        match opaque(u64::from(call >> 8)) as u16 {
            SLOT_OPEN => jump::<SLOT_OPEN>(&ctx),
            SLOT_CHANGE => jump::<SLOT_CHANGE>(&ctx),
            SLOT_PAIR => jump::<SLOT_PAIR>(&ctx),
            SLOT_ACCEPT => jump::<SLOT_ACCEPT>(&ctx),
            // SAFETY: the programs in the array are of this one's kind.
            other => unsafe {
                SYSCALLS.tail_call(&ctx, u32::from(other));
            },
        }
    }
    0
}

/// A tail call to a place that the verifier knows: the kernel makes a direct jump of it, where one through a register is dear on machines
/// that keep those from being predicted. Frequent families get it. (Written out, since the compiler makes one call with a variable place of
/// several with constant ones.)
#[inline(always)]
fn jump<const SLOT: u16>(ctx: &BtfTracePointContext) {
    // SAFETY: bpf_tail_call (helper 12) with context, array and index; the programs in the array are of this one's kind. Like every call it
    // leaves nothing in r1 to r5.
    unsafe {
        asm!(
            "r3 = {slot}",
            "call 12",
            slot = const SLOT,
            inlateout("r1") ctx.as_ptr() => _,
            inlateout("r2") &raw const SYSCALLS => _,
            lateout("r0") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack)
        );
    }
}

/// Two programs for the return of a system call's own function, 64-bit and 32-bit: narrower than [`sys_exit`], where the
/// kernel has fexit.
#[macro_export]
macro_rules! at_return {
    ($native:ident, $compat:ident, $shape:expr, $act:path) => {
        #[doc = "fexit of the 64-bit call."]
        #[aya_ebpf::macros::fexit]
        pub fn $native(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            if let Some(call) = $crate::syscalls::Call::at_return(&ctx, $shape, false) {
                $act(call);
            }
            0
        }

        #[doc = "fexit of the 32-bit call."]
        #[aya_ebpf::macros::fexit]
        pub fn $compat(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            if let Some(call) = $crate::syscalls::Call::at_return(&ctx, $shape, true) {
                $act(call);
            }
            0
        }
    };
}

/// A call that has returned without an error.
#[derive(Clone, Copy)]
pub struct Call {
    /// Its shape.
    pub shape: u16,
    /// What it returned.
    pub result: u64,
    regs: *const u8,
    compat: bool,
}

impl Call {
    /// The call at whose end the program runs.
    #[inline(always)]
    pub fn new(ctx: &BtfTracePointContext) -> Self {
        Self { shape: shape(ctx) & 0xff, result: ctx.arg(1), regs: ctx.arg(0), compat: is_compat() }
    }

    /// The call at whose own function's return the program runs (fexit of `__x64_sys_…` or `__ia32_…`); `None` if it failed.
    #[inline(always)]
    pub fn at_return(ctx: &FExitContext, shape: u16, compat: bool) -> Option<Self> {
        let result: i64 = ctx.ret().ok()?;
        if result < 0 { None } else { Some(Self { shape, result: result as u64, regs: ctx.arg(0), compat }) }
    }

    /// First argument.
    #[inline(always)]
    pub fn first(&self) -> u64 {
        self.argument(off!(regs_di), off!(regs_bx))
    }

    /// Second argument.
    #[inline(always)]
    pub fn second(&self) -> u64 {
        self.argument(off!(regs_si), off!(regs_cx))
    }

    /// Third argument.
    #[inline(always)]
    pub fn third(&self) -> u64 {
        self.argument(off!(regs_dx), off!(regs_dx))
    }

    /// Fourth argument.
    #[inline(always)]
    pub fn fourth(&self) -> u64 {
        self.argument(off!(regs_r10), off!(regs_si))
    }

    #[inline(always)]
    fn argument(&self, native: u32, compat: u32) -> u64 {
        // SAFETY: pt_regs, known to the verifier.
        unsafe {
            if self.compat { field::<u64>(self.regs, compat) & 0xffff_ffff } else { field(self.regs, native) }
        }
    }
}

/// `slot << 8 | shape`, 0 for a call that nobody wants or that failed.
#[inline(always)]
fn shape(ctx: &BtfTracePointContext) -> u16 {
    let result: i64 = ctx.arg(1);
    if result < 0 {
        return 0;
    }
    let regs: *const u8 = ctx.arg(0);
    // SAFETY: pt_regs, known to the verifier.
    let number = unsafe { field::<u64>(regs, off!(regs_orig_ax)) } & !X32;
    if number >= ROOM as u64 {
        return 0;
    }
    let index = if is_compat() { number + ROOM as u64 } else { number };
    let index = opaque(index) as usize & (2 * ROOM - 1);
    // SAFETY: masked; volatile, so that the table stays a table.
    unsafe { core::ptr::read_volatile((&raw const CALLS).cast::<u16>().add(index)) }
}

#[inline(always)]
fn is_compat() -> bool {
    // SAFETY: the current task.
    unsafe { field::<u32>(task::current(), off!(task_status)) & COMPAT != 0 }
}

const fn calls() -> [u16; 2 * ROOM] {
    let mut table = [0; 2 * ROOM];
    let mut i = 0;
    while i < ROWS.len() {
        let (shape, native, compat) = ROWS[i];
        let slot = match shape {
            OPEN | OPENAT | OPENAT2 | CREAT | OPEN_BY_HANDLE_AT => SLOT_OPEN,
            RENAME | RENAMEAT | LINK | LINKAT | SYMLINK | SYMLINKAT => SLOT_PAIR,
            ACCEPT | SOCKETCALL => SLOT_ACCEPT,
            SET_CREDS => SLOT_CREDS,
            SETNS | UNSHARE => SLOT_NAMESPACES,
            BPF => SLOT_BPF,
            MEMFD_CREATE => SLOT_MEMFD,
            PTRACE => SLOT_PTRACE,
            VM_WRITE => SLOT_VM_WRITE,
            MOUNT | MOVE_MOUNT => SLOT_MOUNT,
            _ => SLOT_CHANGE,
        };
        if native != 0 {
            table[native] = slot << 8 | shape;
        }
        if compat != 0 {
            table[ROOM + compat] = slot << 8 | shape;
        }
        i += 1;
    }
    table
}

/// Shape, number on x86-64, number on i386; 0: none. (None of the calls here has the number 0.)
const ROWS: &[(u16, usize, usize)] = &[
    (OPEN, 2, 5),
    (OPENAT, 257, 295),
    (OPENAT2, 437, 437),
    (CREAT, 85, 8),
    (OPEN_BY_HANDLE_AT, 304, 342),
    // unlink, rmdir
    (UNLINK, 87, 10),
    (UNLINK, 84, 40),
    (UNLINKAT, 263, 301),
    (CHMOD, 90, 15),
    (FCHMOD, 91, 94),
    // fchmodat, fchmodat2
    (FCHMODAT, 268, 306),
    (FCHMODAT, 452, 452),
    // chown (i386: chown32), lchown (lchown32)
    (CHOWN, 92, 212),
    (CHOWN, 94, 198),
    (CHOWN16, 0, 182),
    (CHOWN16, 0, 16),
    (FCHOWN, 93, 207),
    (FCHOWN16, 0, 95),
    (FCHOWNAT, 260, 298),
    (RENAME, 82, 38),
    // renameat, renameat2
    (RENAMEAT, 264, 302),
    (RENAMEAT, 316, 353),
    (LINK, 86, 9),
    (LINKAT, 265, 303),
    (SYMLINK, 88, 83),
    (SYMLINKAT, 266, 304),
    // accept, accept4
    (ACCEPT, 43, 0),
    (ACCEPT, 288, 364),
    (SOCKETCALL, 0, 102),
    // setuid, setgid, setreuid, setregid, setresuid, setresgid, capset (i386: the 32-bit forms, then the 16-bit ones)
    (SET_CREDS, 105, 213),
    (SET_CREDS, 106, 214),
    (SET_CREDS, 113, 203),
    (SET_CREDS, 114, 204),
    (SET_CREDS, 117, 208),
    (SET_CREDS, 119, 210),
    (SET_CREDS, 126, 185),
    (SET_CREDS, 0, 23),
    (SET_CREDS, 0, 46),
    (SET_CREDS, 0, 70),
    (SET_CREDS, 0, 71),
    (SET_CREDS, 0, 164),
    (SET_CREDS, 0, 170),
    (SETNS, 308, 346),
    (UNSHARE, 272, 310),
    (BPF, 321, 357),
    (MEMFD_CREATE, 319, 356),
    (PTRACE, 101, 26),
    (VM_WRITE, 311, 348),
    (MOUNT, 165, 21),
    (MOVE_MOUNT, 429, 429),
];
