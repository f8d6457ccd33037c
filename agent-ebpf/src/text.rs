//! Strings of the kernel and of the process in a record's tail. (Resolved paths: [`crate::path`].)

use core::ffi::c_void;

use agent_abi::{TEXT_TRUNCATED, TEXT_UNREAD, Text};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user_str};

use crate::{read::bounded, scratch::Claim};

/// Appends a NUL-terminated string of the kernel of up to 4,095 bytes, without the NUL.
#[inline(always)]
pub fn append_kernel(claim: Claim, tail: &mut u64, from: u64) -> Text {
    // SAFETY: the tail is bounded to 16 KiB; 4 KiB more fit the record.
    let n = unsafe {
        let to = claim.record().add(bounded(*tail, 0x3fff) as usize);
        bpf_probe_read_kernel_str(to.cast::<c_void>(), 4096, from as *const c_void)
    };
    appended(tail, n)
}

/// The same for a string in the memory of the current process.
#[inline(always)]
pub fn append_user(claim: Claim, tail: &mut u64, from: u64) -> Text {
    // SAFETY: as above.
    let n = unsafe {
        let to = claim.record().add(bounded(*tail, 0x3fff) as usize);
        bpf_probe_read_user_str(to.cast::<c_void>(), 4096, from as *const c_void)
    };
    appended(tail, n)
}

/// The same for a name of up to 15 bytes.
#[inline(always)]
pub fn append_user_name(claim: Claim, tail: &mut u64, from: u64) -> Text {
    // SAFETY: as above.
    let n = unsafe {
        let to = claim.record().add(bounded(*tail, 0x3fff) as usize);
        bpf_probe_read_user_str(to.cast::<c_void>(), 16, from as *const c_void)
    };
    appended(tail, n)
}

#[inline(always)]
fn appended(tail: &mut u64, n: i64) -> Text {
    if n <= 0 {
        return Text { len: 0, flags: TEXT_UNREAD };
    }
    let len = bounded(n as u64 - 1, 0xfff);
    *tail += len;
    Text { len: len as u16, flags: if len == 4095 { TEXT_TRUNCATED } else { 0 } }
}
