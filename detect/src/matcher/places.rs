//! Where literals could be, by one four-byte gram of each: an open hash table whose entries decide nearly always by
//! themselves. An entry has eight bytes of its literal, the gram among them, so that a place where only the gram occurs costs
//! one line of memory, and most literals need no other.

use super::grams::quad;

/// Odd multiplier whose high bits mix all four bytes (the 32-bit golden ratio).
const MIX: u32 = 0x9E37_79B1;

/// Literals by a gram of each.
#[derive(Debug)]
pub(crate) struct Places {
    /// A power of two, at most two thirds of it used.
    slots: Box<[Place]>,
    shift: u32,
    /// Of literals longer than a window, where the rest of them is.
    rests: Box<[Rest]>,
    /// The bytes of these literals, one after another.
    arena: Box<[u8]>,
}

/// A literal seen from its gram. Sixteen bytes, so that four share a line of the cache: with thousands of literals these
/// slots are most of what a scan waits for.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
struct Place {
    /// Bytes of the literal around the gram, little-endian; missing ones are 0.
    window: u64,
    id: u32,
    shape: Shape,
}

/// How the window lies, in one word: bits 0 to 3 the bytes of the window (0 marks a slot without a literal), bits 4 to 6 the
/// offset of the gram in it, above them 0 or 1 and the number of the rest.
#[derive(Debug, Clone, Copy, Default)]
struct Shape(u32);

impl Shape {
    const REST: u32 = 7;

    fn new(bytes: usize, back: usize, rest: Option<usize>) -> Self {
        Self(bytes as u32 | (back as u32) << 4 | rest.map_or(0, |rest| rest as u32 + 1) << Self::REST)
    }

    #[inline]
    fn is_empty(self) -> bool {
        self.0 & 15 == 0
    }

    #[inline]
    fn bytes(self) -> usize {
        (self.0 & 15) as usize
    }

    #[inline]
    fn back(self) -> usize {
        (self.0 >> 4 & 7) as usize
    }

    #[inline]
    fn rest(self) -> Option<usize> {
        (self.0 >> Self::REST).checked_sub(1).map(|rest| rest as usize)
    }
}

/// A literal that is longer than its window.
#[derive(Debug, Clone, Copy)]
struct Rest {
    /// In the arena.
    start: u32,
    len: u32,
    /// Offset of the window in the literal.
    offset: u32,
}

const WINDOW: usize = 8;

impl Places {
    /// From literals of four bytes or more, each with the offset of its gram and the number to report.
    pub(crate) fn new<'a>(literals: impl ExactSizeIterator<Item = (&'a [u8], usize, u32)>) -> Self {
        let count = literals.len();
        let bits = (count + count / 2).next_power_of_two().trailing_zeros().max(1);
        let shift = 32 - bits;
        let (mut arena, mut rests) = (Vec::new(), Vec::new());
        let mut places: Vec<(usize, u32, Place)> = literals
            .map(|(literal, at, id)| {
                let gram = quad(literal, at);
                let home = (gram.wrapping_mul(MIX) >> shift) as usize;
                (home, gram, place(literal, at, id, &mut rests, &mut arena))
            })
            .collect();
        // In the order of their slots each goes right behind the one before, so that building takes no longer however many
        // literals have the same gram; what is left at the end of the table goes on at its beginning.
        places.sort_by_key(|(home, gram, _)| (*home, *gram));
        let mut slots = vec![Place::default(); 1 << bits];
        let mut next = 0;
        let mut left = Vec::new();
        for (home, _, place) in places {
            let at = home.max(next);
            match slots.get_mut(at) {
                Some(slot) => (*slot, next) = (place, at + 1),
                None => left.push(place),
            }
        }
        let mut at = 0;
        for place in left {
            while !slots[at].shape.is_empty() {
                at += 1;
            }
            slots[at] = place;
        }
        Self { slots: slots.into(), shift, rests: rests.into(), arena: arena.into() }
    }

    /// Reports the literals whose gram is `gram`, which stands at `at` in `text`, if the whole literal is there.
    #[inline]
    pub(crate) fn at(&self, gram: u32, text: &[u8], at: usize, found: &mut impl FnMut(u32)) {
        let mut slot = (gram.wrapping_mul(MIX) >> self.shift) as usize;
        loop {
            let place = &self.slots[slot];
            if place.shape.is_empty() {
                return;
            }
            if (place.window >> (8 * place.shape.back())) as u32 == gram && self.is_at(place, text, at) {
                found(place.id);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn is_at(&self, place: &Place, text: &[u8], at: usize) -> bool {
        let Some(window) = at.checked_sub(place.shape.back()) else { return false };
        if load(text, window, place.shape.bytes()) != Some(place.window) {
            return false;
        }
        let Some(rest) = place.shape.rest() else { return true };
        let Some(rest) = self.rests.get(rest) else { return false };
        let Some(start) = window.checked_sub(rest.offset as usize) else { return false };
        let literal = self.arena.get(rest.start as usize..(rest.start + rest.len) as usize);
        literal.is_some() && text.get(start..start + rest.len as usize) == literal
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.rests) + self.arena.len()
    }
}

fn place(literal: &[u8], at: usize, id: u32, rests: &mut Vec<Rest>, arena: &mut Vec<u8>) -> Place {
    let bytes = literal.len().min(WINDOW);
    // The gram in the middle of the window, as far as the literal's ends allow.
    let offset = at.saturating_sub(2).min(literal.len() - bytes);
    let rest = (literal.len() > WINDOW).then(|| {
        rests.push(Rest { start: arena.len() as u32, len: literal.len() as u32, offset: offset as u32 });
        arena.extend_from_slice(literal);
        rests.len() - 1
    });
    Place {
        window: load(literal, offset, bytes).unwrap_or(0),
        id,
        shape: Shape::new(bytes, at - offset, rest),
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
