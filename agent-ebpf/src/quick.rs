//! A quick look at a file: whether its place can matter to a path test, before a path is made of it.
//!
//! One-sided (I1): what cannot be told passes. The name's end is looked up first; then the folders are collected on the way up to the
//! root of the mount namespace (as in [`crate::path`]) and looked up on the way down, until one is not on the way to any test. Nothing is
//! remembered from one look to the next, so no rename or mount can make an answer wrong.

use core::mem::MaybeUninit;

use agent_abi::{
    ASKS_ALL, ASKS_CHAIN, ASKS_ENDS_ONLY, ASKS_SHORT_TAIL, ASKS_TAIL, BEGINS, BEGINS_SHORT, BELOW,
    CHAIN_SEED, CHAIN_WORDS, COMPONENT_WORDS, FOLDER, LEAF, Quick, TAIL_WORDS, WHOLE, chain_bit, chain_step,
    leaf_end, tail_bit, tail_key,
};

use crate::{
    filter::lower_word,
    maps::{QUICK, SWITCHES},
    off,
    read::{opaque, word, words},
};

/// Steps upwards, components and mounts together.
const STEPS: usize = 40;
/// Folders that are kept: the ones next to the root.
const KEPT: usize = 16;

/// Whether a path test of the class at `place` in the switches may hold for the file whose `struct path` lies at `at`.
///
/// A global function in BTF's sense, see [`crate::filter::path_wanted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn may_matter(at: u64, place: u32) -> u32 {
    let Some(quick) = QUICK.get_ptr(place) else { return 1 };
    // SAFETY: a map value.
    let asks = unsafe { (*quick).asks };
    if asks & ASKS_ALL != 0 {
        return 1;
    }
    let Some([mount, leaf]) = words::<2>(at) else { return 1 };
    let Some(root) = word(mount + u64::from(off!(vfsmount_mnt_root))) else { return 1 };
    // The root of a mount has the name of where it is mounted.
    if leaf == root {
        return 1;
    }
    if asks & (ASKS_TAIL | ASKS_SHORT_TAIL) != 0 && tail_may_hold(quick, place, asks, leaf) {
        return 1;
    }
    u32::from(asks & ASKS_CHAIN != 0 && folders_may_hold(quick, mount, root, leaf))
}

/// Whether the last four bytes of a caller's text (as they stand in memory; a slash stands before the text) rule all path tests out.
#[inline(always)]
pub fn end_rules_out(place: u32, last: u32) -> bool {
    let Some(quick) = QUICK.get_ptr(place) else { return false };
    let last = lower_word(u64::from(last)) as u32;
    let byte = (last >> 24) as u8;
    // SAFETY: a map value.
    unsafe {
        (*quick).asks & (ASKS_ENDS_ONLY | ASKS_ALL) == ASKS_ENDS_ONLY
            && byte != b'/'
            && byte != b'.'
            && !bit(&raw const (*quick).ends, TAIL_WORDS, u64::from(tail_key(leaf_end(last))))
    }
}

/// Whether a test of the end may hold for a path that ends in these four bytes.
#[inline(always)]
pub fn end_may_hold(place: u32, last: u32) -> bool {
    let Some(quick) = QUICK.get_ptr(place) else { return true };
    // SAFETY: a map value.
    unsafe {
        let asks = (*quick).asks;
        let last = lower_word(u64::from(last)) as u32;
        asks & (ASKS_ALL | ASKS_SHORT_TAIL) != 0
            || bit(&raw const (*quick).tails, TAIL_WORDS, u64::from(tail_key(leaf_end(last))))
    }
}

#[inline(always)]
fn tail_may_hold(quick: *const Quick, place: u32, asks: u64, leaf: u64) -> bool {
    let Some([hash_len, name]) = words::<2>(leaf + u64::from(off!(dentry_d_name))) else { return true };
    let len = hash_len >> 32;
    // What stands before a short name is not looked at.
    let Some(end) = word((name + len).wrapping_sub(4)) else { return true };
    let end = lower_word(end & 0xffff_ffff) as u32;
    if asks & ASKS_SHORT_TAIL != 0 {
        let Some(switch) = SWITCHES.get_ptr(place) else { return true };
        let short = tail_bit((end >> 16) as u8, (end >> 24) as u8);
        // SAFETY: a map value.
        if len < 2 || unsafe { bit(&raw const (*switch).tails, 4, u64::from(short)) } {
            return true;
        }
    }
    const SLASH: u32 = b'/' as u32;
    let end = match len {
        0 => return true,
        1 => end & 0xff00_0000 | SLASH << 16,
        2 => end & 0xffff_0000 | SLASH << 8,
        3 => end & 0xffff_ff00 | SLASH,
        _ => end,
    };
    let key = u64::from(tail_key(end));
    // SAFETY: a map value.
    unsafe {
        if !bit(&raw const (*quick).tails, TAIL_WORDS, key) {
            return false;
        }
        if bit(&raw const (*quick).partial, TAIL_WORDS, key) {
            return true;
        }
        let Some(first) = word(name) else { return true };
        let first = lower_word(first & up_to(len));
        match child(CHAIN_SEED, name, len, first) {
            Some(key) => bit(&raw const (*quick).chains, CHAIN_WORDS, chain_bit(key, LEAF)),
            None => true,
        }
    }
}

/// Key of a folder's child; `first` is the first word of its name. `None`: the name cannot be read.
#[inline(always)]
fn child(folder: u64, name: u64, len: u64, first: u64) -> Option<u64> {
    let mut key = chain_step(chain_step(folder, len), first);
    let mut at = 8;
    while at < 8 * COMPONENT_WORDS as u64 {
        if at >= len {
            break;
        }
        key = chain_step(key, lower_word(word(name + at)? & up_to(len - at)));
        at += 8;
    }
    Some(key)
}

/// Whether a test of the beginning or of the whole path may hold.
#[inline(always)]
fn folders_may_hold(quick: *const Quick, mount: u64, root: u64, leaf: u64) -> bool {
    // Not filled: the verifier takes the first write, whose place it does not know, for one to every place.
    let mut kept = MaybeUninit::<[u64; KEPT]>::uninit();
    let kept: *mut u64 = kept.as_mut_ptr().cast();
    let (mut dentry, mut mount, mut root) = (leaf, mount, root);
    let mut depth = veiled(0, mount) & 63;
    let mut at_root = 0;
    // What hangs nowhere or cannot be read never comes to the root. It is not asked for: each question would make two of all that the
    // verifier has to look at.
    let mut i = 0;
    while i < STEPS {
        // How many there are must not be known to the verifier: all ways to here are then one to it.
        let apart = opaque(dentry ^ root);
        let component = opaque((apart | opaque(apart.wrapping_neg())) >> 63);
        // SAFETY: masked.
        unsafe { *kept.add(depth as usize & (KEPT - 1)) = dentry };
        depth = opaque((depth + component) & 63);
        if component != 0 {
            let Some(parent) = word(dentry + u64::from(off!(dentry_d_parent))) else { return true };
            dentry = parent;
        } else {
            let this = mount - u64::from(off!(mount_mnt));
            let Some([up, point]) = words::<2>(this + u64::from(off!(mount_mnt_parent))) else {
                return true;
            };
            if up == this {
                at_root = this;
                break;
            }
            dentry = point;
            mount = up + u64::from(off!(mount_mnt));
            let Some(next) = word(mount + u64::from(off!(vfsmount_mnt_root))) else { return true };
            root = next;
        }
        i += 1;
    }
    if at_root == 0 {
        return true;
    }
    descend(quick, kept, veiled(depth, dentry) & 63)
}

/// From the root down, as long as there is a test on the way.
#[inline(always)]
fn descend(quick: *const Quick, kept: *const u64, depth: u64) -> bool {
    let mut key = CHAIN_SEED;
    let mut left = depth;
    let mut i = 0;
    while i < KEPT {
        if left == 0 {
            return true;
        }
        left = veiled(left - 1, key) & 63;
        // SAFETY: masked.
        let dentry = unsafe { *kept.add(left as usize & (KEPT - 1)) };
        let Some([hash_len, name]) = words::<2>(dentry + u64::from(off!(dentry_d_name))) else { return true };
        let len = hash_len >> 32;
        let Some(first) = word(name) else { return true };
        let first = lower_word(first & up_to(len));
        // SAFETY: a map value.
        let has = |key: u64, what: u64| unsafe {
            bit(&raw const (*quick).chains, CHAIN_WORDS, chain_bit(key, what))
        };
        if has(chain_step(key, first & 0xffff_ffff), BEGINS)
            || has(chain_step(key, first & 0xffff), BEGINS_SHORT)
        {
            return true;
        }
        let Some(this) = child(key, name, len, first) else { return true };
        key = this;
        if left == 0 {
            return has(key, WHOLE);
        }
        if !has(key, FOLDER) {
            return false;
        }
        if has(key, BELOW) {
            return true;
        }
        i += 1;
    }
    true
}

/// The same number, of which the verifier knows nothing any more; `unknown` must be a number of which it knows nothing.
#[inline(always)]
fn veiled(number: u64, unknown: u64) -> u64 {
    opaque(opaque(number ^ unknown) ^ opaque(unknown))
}

/// A mask of the first `len` bytes of a word.
#[inline(always)]
fn up_to(len: u64) -> u64 {
    if len >= 8 { u64::MAX } else { (1 << ((len * 8) & 63)) - 1 }
}

/// A bit of a table in a map value.
///
/// # Safety
/// `table` has `words` words, a power of two.
#[inline(always)]
unsafe fn bit<const N: usize>(table: *const [u64; N], words: usize, bit: u64) -> bool {
    let at = opaque(bit >> 6) as usize & (words - 1);
    // SAFETY: masked; volatile, so that the mask stays.
    let word = unsafe { core::ptr::read_volatile(table.cast::<u64>().add(at)) };
    word >> (bit & 63) & 1 == 1
}
