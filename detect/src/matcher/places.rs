//! Where literals could be, by one four-byte gram of each: an open hash table whose entries decide nearly always by
//! themselves. An entry has eight bytes of its literal, the gram among them, so that a place where only the gram occurs costs
//! one line of memory, and most literals need no other.

use super::grams::quad;

/// Odd multiplier whose high bits mix all four bytes (the 32-bit golden ratio).
const MIX: u32 = 0x9E37_79B1;

/// Literals by a gram of each.
#[derive(Debug)]
pub(crate) struct Places {
    /// A power of two, at most half of it used.
    slots: Box<[Place]>,
    shift: u32,
    /// The bytes of literals longer than a window, one after another.
    arena: Box<[u8]>,
}

/// A literal seen from its gram.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(32))]
struct Place {
    /// Bytes of the literal around the gram, little-endian; missing ones are 0.
    window: u64,
    gram: u32,
    id: u32,
    /// Length of the literal; 0 marks a slot without one.
    len: u32,
    /// Offset of the window in the literal.
    offset: u32,
    /// Start in the arena, if the literal is longer than the window.
    start: u32,
    /// Offset of the gram in the window.
    back: u8,
    /// Bytes of the window.
    bytes: u8,
}

const WINDOW: usize = 8;

impl Place {
    fn new(literal: &[u8], at: usize, id: u32, arena: &mut Vec<u8>) -> Self {
        let bytes = literal.len().min(WINDOW);
        // The gram in the middle of the window, as far as the literal's ends allow.
        let offset = at.saturating_sub(2).min(literal.len() - bytes);
        let start = arena.len() as u32;
        if literal.len() > WINDOW {
            arena.extend_from_slice(literal);
        }
        Self {
            window: load(literal, offset, bytes).unwrap_or(0),
            gram: quad(literal, at),
            id,
            len: literal.len() as u32,
            offset: offset as u32,
            start,
            back: (at - offset) as u8,
            bytes: bytes as u8,
        }
    }
}

impl Places {
    /// From literals of four bytes or more, each with the offset of its gram and the number to report.
    pub(crate) fn new<'a>(literals: impl ExactSizeIterator<Item = (&'a [u8], usize, u32)>) -> Self {
        let bits = (literals.len() * 2).next_power_of_two().trailing_zeros().max(1);
        let shift = 32 - bits;
        let home = |gram: u32| (gram.wrapping_mul(MIX) >> shift) as usize;
        let mut arena = Vec::new();
        let mut places: Vec<Place> =
            literals.map(|(literal, at, id)| Place::new(literal, at, id, &mut arena)).collect();
        // In the order of their slots each goes right behind the one before, so that building takes no longer however many
        // literals have the same gram; what is left at the end of the table goes on at its beginning.
        places.sort_by_key(|place| (home(place.gram), place.gram));
        let mut slots = vec![Place::default(); 1 << bits];
        let mut next = 0;
        let mut left = Vec::new();
        for place in places {
            let at = home(place.gram).max(next);
            match slots.get_mut(at) {
                Some(slot) => (*slot, next) = (place, at + 1),
                None => left.push(place),
            }
        }
        let mut at = 0;
        for place in left {
            while slots[at].len != 0 {
                at += 1;
            }
            slots[at] = place;
        }
        Self { slots: slots.into(), shift, arena: arena.into() }
    }

    /// Reports the literals whose gram is `gram`, which stands at `at` in `text`, if the whole literal is there.
    #[inline]
    pub(crate) fn at(&self, gram: u32, text: &[u8], at: usize, found: &mut impl FnMut(u32)) {
        let mut slot = (gram.wrapping_mul(MIX) >> self.shift) as usize;
        loop {
            let place = &self.slots[slot];
            if place.len == 0 {
                return;
            }
            if place.gram == gram && self.is_at(place, text, at) {
                found(place.id);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn is_at(&self, place: &Place, text: &[u8], at: usize) -> bool {
        let Some(window) = at.checked_sub(usize::from(place.back)) else { return false };
        if load(text, window, usize::from(place.bytes)) != Some(place.window) {
            return false;
        }
        if place.len as usize <= WINDOW {
            return true;
        }
        let Some(start) = window.checked_sub(place.offset as usize) else { return false };
        let literal = self.arena.get(place.start as usize..(place.start + place.len) as usize);
        literal.is_some() && text.get(start..start + place.len as usize) == literal
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + self.arena.len()
    }
}

/// `count` bytes (at most eight) at `at`, little-endian; `None` where the text ends before.
#[inline]
fn load(text: &[u8], at: usize, count: usize) -> Option<u64> {
    let rest = text.get(at..)?;
    if let Some(eight) = rest.first_chunk::<WINDOW>() {
        return Some(u64::from_le_bytes(*eight) & (u64::MAX >> (64 - 8 * count)));
    }
    let mut bytes = [0; WINDOW];
    bytes.get_mut(..count)?.copy_from_slice(rest.get(..count)?);
    Some(u64::from_le_bytes(bytes))
}
