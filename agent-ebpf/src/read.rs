//! Reading kernel structures at offsets that are known only at load.

use core::{arch::asm, ffi::c_void, mem::MaybeUninit};

use agent_abi::MISSING;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// Offset of a field of `agent_abi::Offsets`, a constant to the verifier.
#[macro_export]
macro_rules! off {
    ($field:ident) => {
        $crate::read::offset(&$crate::maps::OFFSETS.$field)
    };
}

/// Reads a word of the offsets. Volatile, since the agent overrides them before load.
#[inline(always)]
pub fn offset(word: &'static u32) -> u32 {
    // SAFETY: a reference.
    unsafe { core::ptr::read_volatile(word) }
}

/// Field at `off` of the structure at `base`, which the verifier knows by type (an argument of a tp_btf, LSM or fentry
/// program, the current task, and what they lead to). A wrong offset is refused at load.
///
/// # Safety
/// `base` is such a pointer and not null.
#[inline(always)]
pub unsafe fn field<T: Copy>(base: *const u8, off: u32) -> T {
    // SAFETY: the verifier checks type and bounds; a fault reads as zero.
    unsafe { *base.add(off as usize).cast::<T>() }
}

/// Copies a value from any kernel address; `None` if it cannot be read.
#[inline(always)]
pub fn peek<T: Copy>(addr: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly size_of::<T>() bytes, zeros on a fault.
    let err = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast::<c_void>(),
            size_of::<T>() as u32,
            addr as *const c_void,
        )
    };
    // SAFETY: written in either case; T is plain data here.
    if err == 0 { Some(unsafe { value.assume_init() }) } else { None }
}

/// `N` words (at most `agent_abi::WORDS_MAX`) at any kernel address, in the cheapest way that this kernel has.
///
/// Where the kernel casts addresses (`bpf_rdonly_cast`, since 6.2) these are plain loads that cost next to nothing, and a fault reads as
/// zeros. Else they are copied by the helper, at 50 ns on some machines; `None` if they cannot be read.
#[inline(always)]
pub fn words<const N: usize>(addr: u64) -> Option<[u64; N]> {
    if off!(words) == MISSING {
        return peek(addr);
    }
    let from = cast(addr);
    let mut value = [0; N];
    let mut i = 0;
    while i < N {
        // SAFETY: the verifier knows the structure, which has as many words; a fault reads as zero.
        value[i] = unsafe { core::ptr::read_volatile(from.add(i)) };
        i += 1;
    }
    Some(value)
}

/// One word; see [`words`].
#[inline(always)]
pub fn word(addr: u64) -> Option<u64> {
    words::<1>(addr).map(|[word]| word)
}

/// The address as a pointer whose type the verifier knows.
#[inline(always)]
fn cast(addr: u64) -> *const u64 {
    let typed: *const u64;
    // SAFETY: `agent_abi::CAST_MARK`, which the loader makes a call of bpf_rdonly_cast(addr, type). The kernel replaces the call by a
    // move. Calls leave nothing in r1 to r5.
    unsafe {
        asm!(
            ".byte 0x85, 0x20, 0, 0, 0x4d, 0x45, 0x48, 0x7f",
            inlateout("r1") addr => _,
            inlateout("r2") u64::from(off!(words)) => _,
            lateout("r0") typed,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack, readonly)
        );
    }
    typed
}

/// Copies `len` bytes (at most `mask`, which is 2^n - 1) from any kernel address; `false` if it cannot be read.
///
/// # Safety
/// `to` has room for `mask` bytes.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, len: u64, mask: u64, from: u64) -> bool {
    let len = bounded(len, mask);
    // SAFETY: the caller's; the helper never writes more than `len`.
    unsafe { bpf_probe_read_kernel(to.cast::<c_void>(), len as u32, from as *const c_void) == 0 }
}

/// `n & mask`, in a way that the compiler cannot take away because it believes to know better than the verifier.
#[inline(always)]
pub fn bounded(n: u64, mask: u64) -> u64 {
    opaque(n) & mask
}

/// The same number, of which the compiler knows nothing.
#[inline(always)]
pub fn opaque(mut n: u64) -> u64 {
    // SAFETY: no instruction; it only hides where the value comes from.
    unsafe { asm!("{0} = {0}", inout(reg) n, options(pure, nomem, nostack)) };
    n
}

/// Adds to a counter so that neither an interrupt nor another CPU makes it wrong. The target has no atomic operations in
/// `core`, but the machine has them.
///
/// # Safety
/// `counter` points to an aligned word of a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) n, options(nostack)) };
}

/// Puts a value into a word and gives the one before, in one step.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn swap(word: *mut u64, mut value: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) word, inout(reg) value, options(nostack)) };
    value
}
