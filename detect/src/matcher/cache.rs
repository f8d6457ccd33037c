//! What the literals of one field say of a value that was seen before. Images, parents, users and folders repeat, and so do
//! most command lines.
//!
//! Bounded: two ways per set, keys and answers of limited size. A colliding or hostile value can only push another out; it
//! can never be given another's answer, since the whole key is compared.

/// Longest answer that is kept; a value that meets more literals is looked at again each time.
pub(crate) const MAX_IDS: usize = 14;

/// A cache of one field, owned by one thread.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Of the values in `slots`: apart, so that a value that is in neither way of its set costs one line of memory.
    hashes: Box<[u64]>,
    slots: Box<[Slot]>,
    keys: Box<[u8]>,
    /// Hash of the last value that missed in each set: a value is kept when it is seen for the second time, so that values
    /// that are seen once push nothing out.
    seen_once: Box<[u64]>,
    key_limit: usize,
}

/// How many values a cache may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// 64, for categories of rare events.
    Small,
    /// 512.
    Large,
}

impl Size {
    /// Sets of two ways; a power of two.
    pub(crate) fn sets(self) -> usize {
        match self {
            Self::Small => 32,
            Self::Large => 256,
        }
    }
}

/// One line of the cache.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Slot {
    len: u16,
    /// 0: empty; otherwise the number of ids plus 1.
    count: u8,
    ids: [u32; MAX_IDS],
}

/// What the cache says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup<'a> {
    /// Known: exactly these literals.
    Hit(&'a [u32]),
    /// Seen for the second time in a row: worth keeping, in this slot.
    Keep(usize),
    /// Not known, and not worth keeping yet.
    Miss,
}

impl Cache {
    /// An empty cache for values of up to `key_limit` bytes.
    pub(crate) fn new(size: Size, key_limit: usize) -> Self {
        let sets = size.sets();
        Self {
            hashes: vec![0; 2 * sets].into(),
            slots: vec![Slot::default(); 2 * sets].into(),
            keys: vec![0; 2 * sets * key_limit].into(),
            seen_once: vec![0; sets].into(),
            key_limit,
        }
    }

    /// What is known of `value`, whose hash is `hash`.
    #[inline]
    pub(crate) fn look_up(&mut self, value: &[u8], hash: u64) -> Lookup<'_> {
        if value.len() > self.key_limit {
            return Lookup::Miss;
        }
        let set = hash as usize & (self.seen_once.len() - 1);
        for way in [2 * set, 2 * set + 1] {
            if self.hashes[way] != hash {
                continue;
            }
            let slot = &self.slots[way];
            if slot.count != 0 && self.key(way, slot.len) == value {
                let slot = &self.slots[way];
                return Lookup::Hit(slot.ids.get(..usize::from(slot.count) - 1).unwrap_or(&[]));
            }
        }
        if self.seen_once[set] != hash {
            self.seen_once[set] = hash;
            return Lookup::Miss;
        }
        // The way to replace is chosen by a bit of the hash that the set does not use.
        let way = if self.slots[2 * set].count == 0 { 0 } else { (hash >> 40) as usize & 1 };
        Lookup::Keep(2 * set + way)
    }

    /// Keeps the answer for `value` in the slot that [`Lookup::Keep`] named.
    pub(crate) fn keep(&mut self, way: usize, value: &[u8], hash: u64, ids: &[u32]) {
        if ids.len() > MAX_IDS || value.len() > self.key_limit {
            return;
        }
        self.hashes[way] = hash;
        let slot = &mut self.slots[way];
        *slot = Slot { len: value.len() as u16, count: ids.len() as u8 + 1, ids: [0; MAX_IDS] };
        slot.ids[..ids.len()].copy_from_slice(ids);
        let start = way * self.key_limit;
        self.keys[start..start + value.len()].copy_from_slice(value);
    }

    #[inline]
    fn key(&self, way: usize, len: u16) -> &[u8] {
        let start = way * self.key_limit;
        self.keys.get(start..start + usize::from(len)).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Hashes of three values make collisions certain.
        #[test]
        fn an_answer_is_always_that_of_the_value(values in prop::collection::vec(("[ab]{0,5}", 0_u64..3), 0..200)) {
            let mut cache = Cache::new(Size::Small, 4);
            for (value, hash) in values {
                let value = value.as_bytes();
                let answer = [value.len() as u32, u32::from(value.first().copied().unwrap_or(0))];
                let keep = match cache.look_up(value, hash) {
                    Lookup::Hit(ids) => {
                        prop_assert_eq!(ids, &answer[..]);
                        None
                    }
                    Lookup::Keep(way) => Some(way),
                    Lookup::Miss => None,
                };
                if let Some(way) = keep {
                    cache.keep(way, value, hash, &answer);
                }
            }
        }
    }

    #[test]
    fn a_value_is_kept_when_it_is_seen_twice() {
        let mut cache = Cache::new(Size::Small, 16);
        assert_eq!(cache.look_up(b"/bin/sh", 7), Lookup::Miss);
        let Lookup::Keep(way) = cache.look_up(b"/bin/sh", 7) else { panic!("not kept") };
        cache.keep(way, b"/bin/sh", 7, &[1, 2]);
        assert_eq!(cache.look_up(b"/bin/sh", 7), Lookup::Hit(&[1, 2]));
    }
}
