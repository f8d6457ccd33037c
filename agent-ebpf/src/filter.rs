//! Tests that decide whether an event can matter to a rule. One-sided (I1): what cannot be decided here passes.

use agent_abi::{
    CLASS_SLOTS, ClassSwitch, GRAM_WORDS, NetKey, PATH_MAX, PREFIX_MAX, SEARCH_MAX, SUFFIX_MAX, SUFFIX_SEED,
    TEST_CONTAINS, TEST_NET, TEST_NUMBER, TEST_PORT, TEST_PREFIX, TEST_SUFFIX, TestKey, gram_bit,
    suffix_step,
};
use aya_ebpf::maps::lpm_trie::Key;

use crate::{
    maps::{NETS, PATHS, SWITCHES, TESTS},
    path::{Path, WALK_ROOT},
    quick,
    read::{bounded, copy, opaque},
    scratch::{self, Claim, Slot, TrieKey},
};

/// The tests that want a path.
pub const PATH_TESTS: u8 = TEST_PREFIX | TEST_SUFFIX | TEST_CONTAINS;

/// Whether a path test of the class holds for the path in the slot.
#[inline(always)]
pub fn path_passes(claim: Claim, path: Path, switch: *const ClassSwitch, generation: u8, class: u8) -> bool {
    // SAFETY: a map value.
    if unsafe { (*switch).tests } & PATH_TESTS == 0 {
        return false;
    }
    // Of a path that was cut at its front only the end is known, of one that was not read nothing.
    if !path.whole() {
        return true;
    }
    path_wanted(claim.index, path.begin, u32::from(generation) * CLASS_SLOTS + u32::from(class)) != 0
}

/// Whether a path test of the class at `place` in the switches holds for the path that begins at `begin` in slot `index`.
///
/// A global function in BTF's sense (its name is exported, its arguments are numbers): the verifier looks at it once, and
/// not once for each state in which a program may come here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn path_wanted(index: u32, begin: u32, place: u32) -> u32 {
    let Some(claim) = scratch::claimed(index) else { return 1 };
    let Some(switch) = SWITCHES.get_ptr(place) else { return 1 };
    let path = Path { begin, end: WALK_ROOT };
    let (generation, class) = ((place / CLASS_SLOTS) as u8, (place % CLASS_SLOTS) as u8);
    // SAFETY: a map value.
    let tests = unsafe { (*switch).tests };
    // SAFETY: constant places before the end of the path, in room that is aligned.
    let last = unsafe { *(&raw const (*claim.slot).path).cast::<u8>().add(PATH_MAX - 4).cast::<u32>() };
    if tests & TEST_SUFFIX != 0
        && quick::end_may_hold(place, last)
        && suffix_passes(claim, path, switch, generation, class)
    {
        return 1;
    }
    if tests & TEST_CONTAINS != 0 && contains_passes(claim, path, switch) {
        return 1;
    }
    u32::from(tests & TEST_PREFIX != 0 && prefix_passes(claim, path, generation, class))
}

/// Whether the number (a command) is wanted.
#[inline(always)]
pub fn number_passes(switch: *const ClassSwitch, number: u64) -> bool {
    // SAFETY: a map value; masked.
    unsafe {
        let words = (&raw const (*switch).suffix_lengths).cast::<u64>();
        (*switch).tests & TEST_NUMBER != 0
            && (number >= 128
                || core::ptr::read_volatile(words.add(opaque(number >> 6) as usize & 1)) >> (number & 63) & 1
                    == 1)
    }
}

/// Whether the port is wanted.
#[inline(always)]
pub fn port_passes(switch: *const ClassSwitch, generation: u8, class: u8, port: u16) -> bool {
    // SAFETY: a map value.
    if unsafe { (*switch).tests } & TEST_PORT == 0 {
        return false;
    }
    let key = TestKey { generation, class, len: 0, pad: [0; 5], value: u64::from(port) };
    TESTS.get_ptr(&key).is_some()
}

/// Whether the address (IPv4 as `::ffff:a.b.c.d`) lies in a wanted network.
#[inline(always)]
pub fn net_passes(switch: *const ClassSwitch, generation: u8, class: u8, addr: [u8; 16]) -> bool {
    // SAFETY: a map value.
    if unsafe { (*switch).tests } & TEST_NET == 0 {
        return false;
    }
    let key = Key::new(8 * size_of::<NetKey>() as u32, NetKey { generation, class, pad: [0; 2], addr });
    NETS.get(&key).is_some()
}

#[inline(always)]
fn suffix_passes(claim: Claim, path: Path, switch: *const ClassSwitch, generation: u8, class: u8) -> bool {
    // SAFETY: a map value.
    let longest = unsafe { u64::from((*switch).suffix_max) };
    let len = path.len();
    let mut key = TestKey { generation, class, len: 0, pad: [0; 5], value: SUFFIX_SEED };
    let mut i = 0;
    // The path always ends at the same byte, so every index is a constant to the verifier.
    while i < SUFFIX_MAX {
        if i as u64 >= longest || i as u64 >= len {
            break;
        }
        // SAFETY: i < 128 < 4096.
        let byte = unsafe { (*claim.slot).path[PATH_MAX - 1 - i] };
        key.value = suffix_step(key.value, lower(byte));
        // Read anew each time: the verifier would remember each bit that was tested, and never see two equal states.
        // SAFETY: a map value.
        let word = unsafe {
            core::ptr::read_volatile((&raw const (*switch).suffix_lengths).cast::<u64>().add(i / 64))
        };
        if word >> (i & 63) & 1 == 1 {
            key.len = (i + 1) as u8;
            if TESTS.get_ptr(&key).is_some() {
                return true;
            }
        }
        i += 1;
    }
    false
}

/// Whether four bytes of the path, anywhere, are four bytes of a text that a rule looks for.
#[inline(always)]
fn contains_passes(claim: Claim, path: Path, switch: *const ClassSwitch) -> bool {
    let len = path.len();
    if len > SEARCH_MAX as u64 {
        return true;
    }
    let mut i = 4;
    // The path always ends at the same byte, so every index is a constant to the verifier.
    while i <= SEARCH_MAX {
        if i as u64 > len {
            break;
        }
        // SAFETY: a constant place before the end of the path; the bits are masked.
        let found = unsafe {
            let four =
                (&raw const (*claim.slot).path).cast::<u8>().add(PATH_MAX - i).cast::<u32>().read_unaligned();
            let bit = u64::from(gram_bit(lower_word(u64::from(four)) as u32));
            let words = (&raw const (*switch).grams).cast::<u64>();
            core::ptr::read_volatile(words.add(opaque(bit >> 6) as usize & (GRAM_WORDS - 1))) >> (bit & 63)
                & 1
        };
        if opaque(found) != 0 {
            return true;
        }
        i += 1;
    }
    false
}

#[inline(always)]
fn prefix_passes(claim: Claim, path: Path, generation: u8, class: u8) -> bool {
    // The NUL behind the path is part of it: it ends a test for the whole path.
    let with_nul = path.len() + 1;
    let len = bounded(if with_nul > PREFIX_MAX as u64 { PREFIX_MAX as u64 } else { with_nul }, 0xff);
    if len > PREFIX_MAX as u64 {
        return true;
    }
    let from =
        (&raw const *claim.slot) as u64 + core::mem::offset_of!(Slot, path) as u64 + u64::from(path.begin);
    // SAFETY: the key has room for PREFIX_MAX bytes, whole words of 8.
    unsafe {
        let trie: *mut TrieKey = &raw mut (*claim.slot).key;
        let text = (&raw mut (*trie).key.path).cast::<u8>();
        if !copy(text, len, 0xff, from) {
            return true;
        }
        (*trie).bits = 8 * (4 + len as u32);
        (*trie).key.generation = generation;
        (*trie).key.class = class;
        (*trie).key.pad = [0; 2];
        let mut i = 0;
        while i < PREFIX_MAX / 8 {
            let word = text.cast::<u64>().add(i);
            *word = lower_word(*word);
            i += 1;
        }
        PATHS.get(&*trie.cast::<Key<agent_abi::PathKey>>()).is_some()
    }
}

#[inline(always)]
pub fn lower(byte: u8) -> u8 {
    if byte.is_ascii_uppercase() { byte | 0x20 } else { byte }
}

/// ASCII lower case of eight bytes at once: the sign bit of `is_upper` is set in each byte that lies in `A..=Z`.
#[inline(always)]
pub fn lower_word(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = word & (ONES * 0x7f);
    let above_z = low + ONES * (0x7f - b'Z' as u64);
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let is_upper = !word & (from_a ^ above_z) & (ONES * 0x80);
    word | is_upper >> 2
}
