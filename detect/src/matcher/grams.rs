//! All substrings of one field in one pass.
//!
//! Each literal is represented by the rarest four bytes that it contains (two, if it is shorter). For each position of the
//! text one multiplication and one bit say whether any literal could be there; the few positions that remain are verified
//! exactly. Unlike an Aho–Corasick automaton no step waits for the one before, and the bit table stays in the first-level
//! cache however many literals there are. The idea is that of Wu and
//! Manber, "A fast algorithm for multi-pattern searching" (1994), with the gram chosen by rarity instead of position.

use std::collections::BTreeMap;

use super::{background::Background, frozen::Frozen};

/// Bits of table per literal: a text without any literal is looked at more closely at about one position in 32.
const BITS_PER_LITERAL: usize = 32;
/// Smallest table: 128 bytes.
const MIN_BITS: u32 = 10;
/// Largest table: 32 KiB, what stays in the cache nearest to the core. Beyond it more positions are looked at more closely.
const MAX_BITS: u32 = 18;
/// Odd multiplier whose high bits mix all four bytes (the 32-bit golden ratio).
const MIX: u32 = 0x9E37_79B1;

/// A literal to find, with the number to report.
#[derive(Debug, Clone)]
pub(crate) struct Literal {
    /// Folded bytes, at least one.
    pub(crate) bytes: Box<[u8]>,
    /// Reported when found.
    pub(crate) id: u32,
}

/// The compiled literals of one field.
#[derive(Debug)]
pub(crate) struct Grams {
    /// One bit per hash of a four-byte gram.
    bits: Box<[u64]>,
    shift: u32,
    /// Four-byte gram → where in which literal.
    long: Frozen<Place>,
    /// One bit per two-byte gram, for literals of two and three bytes; empty when there are none.
    pairs: Box<[u64]>,
    /// Two-byte gram → where in which literal.
    short: Frozen<Place>,
    /// Literals of one byte.
    single: Box<[(u8, u32)]>,
    /// The literals' bytes, one after another.
    arena: Box<[u8]>,
}

/// A literal seen from its gram.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Start in the arena.
    start: u32,
    len: u32,
    /// Offset of the gram in the literal.
    at: u32,
    id: u32,
}

impl Grams {
    /// Compiles `literals`; `background` tells which grams are common in ordinary text.
    pub(crate) fn new(literals: &[Literal], background: &Background) -> Self {
        let long_count = literals.iter().filter(|l| l.bytes.len() >= 4).count();
        let bits =
            (long_count * BITS_PER_LITERAL).next_power_of_two().trailing_zeros().clamp(MIN_BITS, MAX_BITS);
        let shift = 32 - bits;
        let mut table = vec![0_u64; 1 << (bits - 6)];
        let (mut pairs, mut single, mut arena) = (Vec::new(), Vec::new(), Vec::new());
        let (mut long, mut short) = (BTreeMap::<u64, Vec<Place>>::new(), BTreeMap::<u64, Vec<Place>>::new());
        for literal in literals {
            let (start, len) = (arena.len() as u32, literal.bytes.len() as u32);
            arena.extend_from_slice(&literal.bytes);
            let place = |at: usize| Place { start, len, at: at as u32, id: literal.id };
            match &*literal.bytes {
                [] => {}
                [byte] => single.push((*byte, literal.id)),
                [_, _] | [_, _, _] => {
                    let rarity = |at: &usize| {
                        let gram = pair(&literal.bytes, *at);
                        (short.get(&u64::from(gram)).map_or(0, Vec::len), background.pairs(gram))
                    };
                    let at = (0..literal.bytes.len() - 1).min_by_key(rarity).unwrap_or(0);
                    let gram = pair(&literal.bytes, at);
                    pairs.resize(65536 / 64, 0_u64);
                    set(&mut pairs, u32::from(gram));
                    short.entry(u64::from(gram)).or_default().push(place(at));
                }
                bytes => {
                    // A gram that many literals already have costs as much as one that is common in ordinary text.
                    let rarity = |at: &usize| {
                        let gram = quad(bytes, *at);
                        background.quads(gram) + 2 * long.get(&u64::from(gram)).map_or(0, Vec::len) as u32
                    };
                    let at = (0..=bytes.len() - 4).min_by_key(rarity).unwrap_or(0);
                    let gram = quad(bytes, at);
                    set(&mut table, gram.wrapping_mul(MIX) >> shift);
                    long.entry(u64::from(gram)).or_default().push(place(at));
                }
            }
        }
        Self {
            bits: table.into(),
            shift,
            long: Frozen::new(long),
            pairs: pairs.into(),
            short: Frozen::new(short),
            single: single.into(),
            arena: arena.into(),
        }
    }

    /// Reports each literal that occurs in the folded `text`, some more than once.
    #[inline]
    pub(crate) fn scan(&self, text: &[u8], found: &mut impl FnMut(u32)) {
        if !self.long.is_empty() {
            self.scan_long(text, found);
        }
        if !self.short.is_empty() {
            for (at, window) in text.windows(2).enumerate() {
                let gram = u16::from_le_bytes([window[0], window[1]]);
                if test(&self.pairs, u32::from(gram)) != 0 {
                    self.verify(self.short.get(u64::from(gram)), text, at, found);
                }
            }
        }
        for (byte, id) in &self.single {
            if memchr::memchr(*byte, text).is_some() {
                found(*id);
            }
        }
    }

    /// Eight positions at a time: their bits are gathered without a branch, and looked at only if one is set.
    #[inline]
    fn scan_long(&self, text: &[u8], found: &mut impl FnMut(u32)) {
        let mut at = 0;
        while let Some((low, high)) = eleven(text, at) {
            let mut mask = 0_u32;
            for lane in 0..8 {
                let gram = (if lane < 5 { low >> (8 * lane) } else { high >> (8 * (lane - 3)) }) as u32;
                mask |= (test(&self.bits, gram.wrapping_mul(MIX) >> self.shift) as u32) << lane;
            }
            while mask != 0 {
                let here = at + mask.trailing_zeros() as usize;
                self.verify(self.long.get(u64::from(quad(text, here))), text, here, found);
                mask &= mask - 1;
            }
            at += 8;
        }
        while at + 4 <= text.len() {
            let gram = quad(text, at);
            if test(&self.bits, gram.wrapping_mul(MIX) >> self.shift) != 0 {
                self.verify(self.long.get(u64::from(gram)), text, at, found);
            }
            at += 1;
        }
    }

    #[inline]
    fn verify(&self, places: &[Place], text: &[u8], at: usize, found: &mut impl FnMut(u32)) {
        for place in places {
            let Some(start) = at.checked_sub(place.at as usize) else { continue };
            let literal = self.arena.get(place.start as usize..(place.start + place.len) as usize);
            if literal.is_some() && text.get(start..start + place.len as usize) == literal {
                found(place.id);
            }
        }
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.bits)
            + size_of_val(&*self.pairs)
            + size_of_val(&*self.arena)
            + self.long.bytes()
            + self.short.bytes()
    }
}

fn set(table: &mut [u64], bit: u32) {
    if let Some(word) = table.get_mut(bit as usize / 64) {
        *word |= 1 << (bit % 64);
    }
}

#[inline]
fn test(table: &[u64], bit: u32) -> u64 {
    table.get(bit as usize / 64).map_or(0, |word| (word >> (bit % 64)) & 1)
}

/// The two bytes at `at`, which the caller knows to be there.
#[inline]
fn pair(text: &[u8], at: usize) -> u16 {
    text.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

/// The four bytes at `at`, which the caller knows to be there.
#[inline]
fn quad(text: &[u8], at: usize) -> u32 {
    text.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// The bytes 0 to 7 and 3 to 10 from `at`, if all eleven are there: the eight grams that begin at 0 to 7.
#[inline]
fn eleven(text: &[u8], at: usize) -> Option<(u64, u64)> {
    let block: &[u8; 11] = text.get(at..at + 11)?.try_into().ok()?;
    let low = [block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7]];
    let high = [block[3], block[4], block[5], block[6], block[7], block[8], block[9], block[10]];
    Some((u64::from_le_bytes(low), u64::from_le_bytes(high)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn found(literals: &[Vec<u8>], text: &[u8]) -> BTreeSet<u32> {
        let literals: Vec<_> = literals
            .iter()
            .enumerate()
            .map(|(id, bytes)| Literal { bytes: bytes.clone().into(), id: id as u32 })
            .collect();
        let mut all = BTreeSet::new();
        Grams::new(&literals, &Background::ordinary()).scan(text, &mut |id| {
            all.insert(id);
        });
        all
    }

    proptest! {
        /// A small alphabet makes overlaps and shared grams common.
        #[test]
        fn finds_what_a_plain_search_finds(
            literals in prop::collection::vec(prop::collection::vec(b'a'..=b'c', 1..9), 0..40),
            text in prop::collection::vec(b'a'..=b'd', 0..60),
        ) {
            let expected: BTreeSet<_> = literals.iter().enumerate()
                .filter(|(_, literal)| text.windows(literal.len()).any(|window| window == &literal[..]))
                .map(|(id, _)| id as u32)
                .collect();
            prop_assert_eq!(found(&literals, &text), expected);
        }
    }
}
