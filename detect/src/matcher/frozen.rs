//! A hash table that is built once and then only read: key → the run of values that were given for it.

use std::collections::BTreeMap;

/// Multiplicative hashing constant: 2^64 divided by the golden ratio (Knuth, TAOCP 3, §6.4).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Bits of the filter for each key: a miss gets past it once in 16 times.
const FILTER_BITS: usize = 16;

/// Open addressing with linear probing, at most half full. Most questions are misses, and a filter of one bit, small enough
/// to stay in the cache nearest to the core, answers nearly all of them.
#[derive(Debug)]
pub(crate) struct Frozen<V> {
    filter: Box<[u64]>,
    slots: Box<[Slot]>,
    values: Box<[V]>,
    shift: u32,
}

/// `len` 0 marks an empty slot: a key always has a value.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    start: u32,
    len: u32,
}

impl<V> Frozen<V> {
    /// From keys with their values; the order of the values of one key is kept.
    pub(crate) fn new(entries: BTreeMap<u64, Vec<V>>) -> Self {
        let bits = (entries.len().max(1) * 2).next_power_of_two().trailing_zeros().max(1);
        let (mut slots, shift) = (vec![Slot::default(); 1 << bits], 64 - bits);
        let mut filter = vec![0_u64; (entries.len() * FILTER_BITS / 64).next_power_of_two()];
        let words = filter.len();
        let mut values = Vec::new();
        for (key, of_key) in entries {
            if of_key.is_empty() {
                continue;
            }
            let (start, len) = (values.len() as u32, of_key.len() as u32);
            values.extend(of_key);
            let hash = mix(key);
            filter[filter_word(hash, words)] |= filter_bit(hash);
            let mut at = (hash >> shift) as usize;
            while slots[at].len != 0 {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = Slot { key, start, len };
        }
        Self { filter: filter.into(), slots: slots.into(), values: values.into(), shift }
    }

    /// The values of `key`; empty when there are none.
    #[inline]
    pub(crate) fn get(&self, key: u64) -> &[V] {
        let hash = mix(key);
        if self.filter[filter_word(hash, self.filter.len())] & filter_bit(hash) == 0 {
            return &[];
        }
        let mut at = (hash >> self.shift) as usize;
        loop {
            let slot = self.slots[at];
            if slot.len == 0 {
                return &[];
            }
            if slot.key == key {
                return self.values.get(slot.start as usize..(slot.start + slot.len) as usize).unwrap_or(&[]);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.filter) + size_of_val(&*self.slots) + size_of_val(&*self.values)
    }
}

#[inline]
fn mix(key: u64) -> u64 {
    (key ^ (key >> 32)).wrapping_mul(GOLDEN)
}

/// The place in the filter comes from bits that the place among the slots does not use.
#[inline]
fn filter_word(hash: u64, words: usize) -> usize {
    (hash >> 30) as usize & (words - 1)
}

#[inline]
fn filter_bit(hash: u64) -> u64 {
    1 << (hash >> 24 & 63)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holds_what_was_put_in(entries in prop::collection::btree_map(any::<u64>(), prop::collection::vec(any::<u32>(), 1..4), 0..200), other in any::<u64>()) {
            let table = Frozen::new(entries.clone());
            for (key, values) in &entries {
                prop_assert_eq!(table.get(*key), &values[..]);
            }
            prop_assert_eq!(table.get(other), entries.get(&other).map_or(&[][..], |v| &v[..]));
        }
    }
}
