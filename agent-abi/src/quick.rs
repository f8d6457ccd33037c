//! A look at a file before its path is made: one-sided tests of its name's end and of the folders above it.
//!
//! Both sides compute the same keys, the agent of each rule's text and the kernel of a file's dentries, and one bit answers each
//! key. A key that two texts share lets more pass, nothing is lost (I1). All is in ASCII lower case.

/// Words of [`Quick::tails`] and [`Quick::ends`].
pub const TAIL_WORDS: usize = 32;
/// Words of [`Quick::chains`].
pub const CHAIN_WORDS: usize = 256;
/// Bytes of a component that count, in words of eight; what is behind them is only seen by the path tests themselves.
pub const COMPONENT_WORDS: usize = 6;

/// [`Quick::asks`]: nothing can be told from here, every file passes on to the path tests.
pub const ASKS_ALL: u64 = 1;
/// [`Quick::asks`]: there is a test of the end of the path.
pub const ASKS_TAIL: u64 = 2;
/// [`Quick::asks`]: a test of the end is shorter than four bytes: [`crate::ClassSwitch::tails`] tells.
pub const ASKS_SHORT_TAIL: u64 = 4;
/// [`Quick::asks`]: there is a test of the beginning of the path or of the whole path.
pub const ASKS_CHAIN: u64 = 8;
/// [`Quick::asks`]: every test asks for a certain end of the path, so [`Quick::ends`] tells alone.
pub const ASKS_ENDS_ONLY: u64 = 16;

shared! {
    /// What of a class the quick look knows.
    pub struct Quick [2824] {
        /// `ASKS_*`.
        pub asks: u64,
        /// Bit [`tail_key`] of each suffix.
        pub tails: [u64; TAIL_WORDS],
        /// The same of those suffixes that name no whole last component.
        pub partial: [u64; TAIL_WORDS],
        /// The same of each suffix and each whole path.
        pub ends: [u64; TAIL_WORDS],
        /// Bits of the folders' keys and of what stands behind them: [`chain_bit`] of [`FOLDER`], [`BELOW`], [`BEGINS`],
        /// [`LEAF`], [`WHOLE`].
        pub chains: [u64; CHAIN_WORDS],
    }
}

/// The key of the root folder.
pub const CHAIN_SEED: u64 = 0x51_7c_c1_b7_27_22_0a_95;

/// A folder on the way to a test's end.
pub const FOLDER: u64 = 0;
/// A folder of which everything below passes.
pub const BELOW: u64 = 0x9e37_79b9_7f4a_7c15;
/// A folder and the first four bytes of a name in it.
pub const BEGINS: u64 = 0xc2b2_ae3d_27d4_eb4f;
/// A folder and the first two bytes of a name in it.
pub const BEGINS_SHORT: u64 = 0x27d4_eb2f_1656_67c5;
/// The last component, without its folder: of [`CHAIN_SEED`].
pub const LEAF: u64 = 0x85eb_ca77_c2b2_ae63;
/// A whole path.
pub const WHOLE: u64 = 0x1656_67b1_9e37_79f9;

/// One step of a folder's key (multiplicative hashing, Knuth, The Art of Computer Programming 6.4).
#[must_use]
#[inline(always)]
pub const fn chain_step(key: u64, word: u64) -> u64 {
    let key = (key ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key ^ key >> 29
}

/// The bit of a key in [`Quick::chains`].
#[must_use]
#[inline(always)]
pub const fn chain_bit(key: u64, what: u64) -> u64 {
    (key ^ what).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 50
}

/// Key of a folder's child; `word` gives eight bytes of its name in lower case, zeros behind its end.
#[cfg(any(feature = "decode", test))]
#[must_use]
pub fn chain_child(key: u64, name: &[u8]) -> u64 {
    let mut key = chain_step(key, name.len() as u64);
    for part in name.chunks(8).take(COMPONENT_WORDS) {
        key = chain_step(key, word(part));
    }
    key
}

/// Up to eight bytes as they stand in memory.
#[cfg(any(feature = "decode", test))]
#[must_use]
pub fn word(part: &[u8]) -> u64 {
    part.iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The bit in [`Quick::tails`] of the last four bytes of a path (as they stand in memory, lower case). A last component shorter than
/// three bytes has a slash before it and zeros before that.
#[must_use]
#[inline(always)]
pub const fn tail_key(last: u32) -> u32 {
    last.wrapping_mul(0x9e37_79b1) >> 21
}

/// The last four bytes of a path whose last bytes these are, in the form that [`tail_key`] wants: nothing of the folder.
#[must_use]
#[inline(always)]
pub const fn leaf_end(last: u32) -> u32 {
    const SLASH: u32 = b'/' as u32;
    if last >> 16 & 0xff == SLASH {
        last & 0xffff_0000
    } else if last >> 8 & 0xff == SLASH {
        last & 0xffff_ff00
    } else {
        last
    }
}
