//! All substrings of one field in one pass.
//!
//! Each literal is represented by the rarest four bytes that it contains (two, if it is shorter). For each position of the
//! text one multiplication and one bit say whether any literal could be there; the few positions that remain are verified
//! exactly. Unlike an Aho–Corasick automaton no step waits for the one before, and the bit table stays in the first-level
//! cache however many literals there are. The idea is that of Wu and
//! Manber, "A fast algorithm for multi-pattern searching" (1994), with the gram chosen by rarity instead of position.

use std::collections::BTreeMap;

use super::{background::Background, frozen::Frozen, places::Places};

/// Bits of table per literal: a text without any literal is looked at more closely at about one position in 32. (Two bits of
/// one word for each literal in a table half as large made a third fewer misses of the nearest cache and no less time.)
const BITS_PER_LITERAL: usize = 32;
/// Smallest table: 128 bytes.
const MIN_BITS: u32 = 10;
/// Largest table: 32 KiB, what stays in the cache nearest to the core. Beyond it more positions are looked at more closely.
const MAX_BITS: u32 = 18;
/// Odd multiplier whose high bits mix all four bytes (the 32-bit golden ratio).
const MIX: u32 = 0x9E37_79B1;
/// So many literals of two and three bytes are searched one by one, by their rarest byte; more are found by their pairs,
/// position by position.
const MOST_SHORT: usize = 6;

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
    /// One bit per hash of a four-byte gram; empty when no literal has four bytes.
    bits: Box<[u64]>,
    shift: u32,
    /// Four-byte gram → where in which literal.
    long: Places,
    /// Literals of one to three bytes, if they are few.
    few: Box<[Short]>,
    /// Otherwise one bit per two-byte gram,
    pairs: Box<[u64]>,
    /// and two-byte gram → literals that begin with it.
    many: Frozen<Short>,
}

/// A literal of one to three bytes.
#[derive(Debug, Clone, Copy)]
struct Short {
    bytes: [u8; 3],
    len: u8,
    /// Position of the byte that ordinary texts have least.
    rarest: u8,
    id: u32,
}

impl Short {
    fn new(literal: &[u8], id: u32, background: &Background) -> Self {
        let mut bytes = [0; 3];
        let len = literal.len().min(3);
        bytes[..len].copy_from_slice(&literal[..len]);
        let rarest = (0..len).min_by_key(|at| background.byte(bytes[*at])).unwrap_or(0);
        Self { bytes, len: len as u8, rarest: rarest as u8, id }
    }
}

impl Grams {
    /// Compiles `literals`; `background` tells which grams are common in ordinary text.
    pub(crate) fn new(literals: &[Literal], background: &Background) -> Self {
        let mut chosen = Vec::new();
        let mut taken = BTreeMap::<u32, u32>::new();
        let mut short = Vec::new();
        for literal in literals {
            match *literal.bytes {
                [] => {}
                [_] | [_, _] | [_, _, _] => short.push(Short::new(&literal.bytes, literal.id, background)),
                ref bytes => {
                    // A gram that many literals already have costs as much as one that is common in ordinary text.
                    let rarity = |at: &usize| {
                        let gram = quad(bytes, *at);
                        background.quads(gram) + 2 * taken.get(&gram).copied().unwrap_or(0)
                    };
                    let at = (0..=bytes.len() - 4).min_by_key(rarity).unwrap_or(0);
                    *taken.entry(quad(bytes, at)).or_default() += 1;
                    chosen.push((literal, at));
                }
            }
        }
        let bits =
            (chosen.len() * BITS_PER_LITERAL).next_power_of_two().trailing_zeros().clamp(MIN_BITS, MAX_BITS);
        let (mut table, shift) = (vec![], 32 - bits);
        for (literal, at) in &chosen {
            table.resize(1 << (bits - 6), 0_u64);
            set(&mut table, quad(&literal.bytes, *at).wrapping_mul(MIX) >> shift);
        }
        let (mut pairs, mut many) = (vec![], BTreeMap::<u64, Vec<Short>>::new());
        if short.len() > MOST_SHORT {
            pairs.resize(65536 / 64, 0_u64);
            short.retain(|one| {
                let pair = u16::from_le_bytes([one.bytes[0], one.bytes[1]]);
                if one.len > 1 {
                    set(&mut pairs, u32::from(pair));
                    many.entry(u64::from(pair)).or_default().push(*one);
                }
                one.len == 1
            });
        }
        Self {
            bits: table.into(),
            shift,
            long: Places::new(chosen.into_iter().map(|(literal, at)| (&*literal.bytes, at, literal.id))),
            few: short.into(),
            pairs: pairs.into(),
            many: Frozen::new(many),
        }
    }

    /// Reports each literal that occurs in the folded `text`, some more than once.
    #[inline]
    pub(crate) fn scan(&self, text: &[u8], found: &mut impl FnMut(u32)) {
        if !self.bits.is_empty() {
            self.scan_long(text, found);
        }
        for short in &self.few {
            if occurs(short, text) {
                found(short.id);
            }
        }
        if !self.many.is_empty() {
            self.scan_pairs(text, found);
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
                self.long.at(quad(text, here), text, here, found);
                mask &= mask - 1;
            }
            at += 8;
        }
        while at + 4 <= text.len() {
            let gram = quad(text, at);
            if test(&self.bits, gram.wrapping_mul(MIX) >> self.shift) != 0 {
                self.long.at(gram, text, at, found);
            }
            at += 1;
        }
    }

    #[inline(never)]
    fn scan_pairs(&self, text: &[u8], found: &mut impl FnMut(u32)) {
        for (at, window) in text.windows(2).enumerate() {
            let gram = u16::from_le_bytes([window[0], window[1]]);
            if test(&self.pairs, u32::from(gram)) != 0 {
                for short in self.many.get(u64::from(gram)) {
                    if short.len == 2 || text.get(at + 2) == Some(&short.bytes[2]) {
                        found(short.id);
                    }
                }
            }
        }
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.bits)
            + size_of_val(&*self.pairs)
            + size_of_val(&*self.few)
            + self.long.bytes()
            + self.many.bytes()
    }
}

/// Whether the literal is in the text: its rarest byte is looked for, and the others only around it.
#[inline]
fn occurs(short: &Short, text: &[u8]) -> bool {
    let (rarest, literal) =
        (usize::from(short.rarest), short.bytes.get(..usize::from(short.len)).unwrap_or(&[]));
    let Some(byte) = literal.get(rarest) else { return false };
    memchr::memchr_iter(*byte, text).any(|at| {
        at.checked_sub(rarest).is_some_and(|start| text.get(start..start + literal.len()) == Some(literal))
    })
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

/// The four bytes at `at`, which the caller knows to be there.
#[inline]
pub(super) fn quad(text: &[u8], at: usize) -> u32 {
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
