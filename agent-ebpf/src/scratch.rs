//! Memory to build a record in: too much for the stack, so per-CPU slots.
//!
//! Programs of one CPU can meet: a packet hook runs in an interrupt above a system call's hook, and an LSM or fentry
//! program can be preempted by another task's. So a slot is claimed and given back; with four of them a claim hardly ever
//! fails, and where it does the event is counted as lost.

use agent_abi::{PathKey, RECORD_MAX};

use crate::{
    maps::{SCRATCH, SCRATCH_BUSY},
    path::Walk,
    read::{opaque, swap},
};

/// Slots per CPU.
pub const SLOTS: u32 = 4;
/// Room to build a path in: 4096 bytes from the end, and one component of overrun that the verifier wants to see.
pub const PATH_ROOM: usize = 4096 + 264;

/// One slot.
#[repr(C)]
pub struct Slot {
    /// A path, built from its end: it always ends before byte 4096, which is NUL. It stands first, since the verifier takes
    /// start and length of a text that is copied there to be independent: 4 KiB of overrun must lie within the slot. (A
    /// value of a per-CPU map may have 32 KiB at most, so there is no room for that overrun alone.)
    pub path: [u8; PATH_ROOM],
    /// The record.
    pub record: [u8; RECORD_MAX],
    /// Key for the path trie, with the trie's length word.
    pub key: TrieKey,
    /// How far a path has come.
    pub walk: Walk,
}

/// A trie's key with its length word.
#[repr(C)]
pub struct TrieKey {
    /// Bits.
    pub bits: u32,
    /// The key.
    pub key: PathKey,
}

/// A claimed slot. Give it back with [`Claim::release`] on every path out of the program.
#[derive(Clone, Copy)]
pub struct Claim {
    /// The slot.
    pub slot: *mut Slot,
    /// Which one.
    pub index: u32,
}

/// Claims a slot.
#[inline(always)]
pub fn claim() -> Option<Claim> {
    let mut index = 0;
    while index < SLOTS {
        if try_claim(index) {
            // Which one it is must not be known to the verifier: it would look at the rest of the program once for each.
            let index = opaque(u64::from(index)) as u32;
            return Some(Claim { slot: SCRATCH.get_ptr_mut(index)?, index });
        }
        index += 1;
    }
    None
}

/// A slot that the caller's caller has claimed.
#[inline(always)]
pub fn claimed(index: u32) -> Option<Claim> {
    Some(Claim { slot: SCRATCH.get_ptr_mut(index)?, index })
}

#[inline(always)]
fn try_claim(index: u32) -> bool {
    let Some(busy) = SCRATCH_BUSY.get_ptr_mut(0) else { return false };
    // SAFETY: a word of a map value.
    unsafe { swap(&raw mut (*busy)[index as usize & 3], 1) == 0 }
}

impl Claim {
    /// Gives the slot back.
    #[inline(always)]
    pub fn release(self) {
        if let Some(busy) = SCRATCH_BUSY.get_ptr_mut(0) {
            // SAFETY: as in `try_claim`.
            unsafe { swap(&raw mut (*busy)[self.index as usize & 3], 0) };
        }
    }

    /// The record as a structure.
    #[inline(always)]
    pub fn at<T>(&self, offset: usize) -> *mut T {
        // SAFETY: callers pass constant offsets within the record; the verifier checks.
        unsafe { (&raw mut (*self.slot).record).cast::<u8>().add(offset).cast::<T>() }
    }

    /// The same number, of which neither compiler nor verifier know anything any more: it goes through the first word of the record, in
    /// which nothing may stand yet.
    #[inline(always)]
    pub fn unknown(&self, n: u64) -> u64 {
        let place = self.at::<u64>(0);
        // SAFETY: within the record.
        unsafe {
            core::ptr::write_volatile(place, n);
            core::ptr::read_volatile(place)
        }
    }

    /// Start of the record's bytes.
    #[inline(always)]
    pub fn record(&self) -> *mut u8 {
        // SAFETY: within the slot.
        unsafe { (&raw mut (*self.slot).record).cast::<u8>() }
    }
}
