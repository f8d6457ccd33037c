//! Prefixes and suffixes: a trie whose edges are four bytes long, in one hash table. A walk is one or two probes for a
//! value that has nothing in common with any literal.

use std::collections::BTreeMap;

use super::frozen::Frozen;

/// Which end of the text the literals are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Prefixes.
    Start,
    /// Suffixes; the trie is walked from the last byte backwards.
    Finish,
}

/// The compiled prefixes or suffixes of one field.
#[derive(Debug)]
pub(crate) struct Anchored {
    end: End,
    nodes: Box<[Node]>,
    /// (node, length of the edge, its bytes) → child.
    edges: Frozen<u32>,
    /// Ids of the literals that end in a node, node by node.
    ids: Box<[u32]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// Bit n: an edge of n bytes leaves it.
    lengths: u8,
    start: u32,
    len: u32,
}

impl Anchored {
    /// Compiles folded literals with the ids to report.
    pub(crate) fn new<'a>(end: End, literals: impl IntoIterator<Item = (&'a [u8], u32)>) -> Self {
        let mut edges = BTreeMap::<u64, Vec<u32>>::new();
        let mut building = vec![(0_u8, Vec::new())];
        for (literal, id) in literals {
            let (mut node, mut done) = (0_u32, 0);
            while done < literal.len() {
                let step = (literal.len() - done).min(4);
                let key = edge(node, step as u32, piece(end, literal, done, step));
                let next = match edges.get(&key).and_then(|children| children.first()) {
                    Some(child) => *child,
                    None => {
                        let child = building.len() as u32;
                        building.push((0, Vec::new()));
                        building[node as usize].0 |= 1 << step;
                        edges.insert(key, vec![child]);
                        child
                    }
                };
                (node, done) = (next, done + step);
            }
            building[node as usize].1.push(id);
        }
        let mut ids = Vec::new();
        let nodes = building
            .into_iter()
            .map(|(lengths, of_node)| {
                let (start, len) = (ids.len() as u32, of_node.len() as u32);
                ids.extend(of_node);
                Node { lengths, start, len }
            })
            .collect();
        Self { end, nodes, edges: Frozen::new(edges), ids: ids.into() }
    }

    /// Reports each literal that the folded `text` begins or ends with, once.
    #[inline]
    pub(crate) fn walk(&self, text: &[u8], found: &mut impl FnMut(u32)) {
        let (mut node, mut number, mut done) = (self.nodes[0], 0_u32, 0);
        self.report(node, found);
        // While four bytes are left, the shorter pieces are parts of the word that was loaded for the longest.
        while let Some(word) = word(self.end, text, done) {
            let short = node.lengths & 0b1110;
            if short != 0 {
                for step in 1..4_u32 {
                    if short >> step & 1 != 0 {
                        let piece = match self.end {
                            End::Start => word & (u32::MAX >> (32 - 8 * step)),
                            End::Finish => word >> (32 - 8 * step),
                        };
                        self.follow(number, step, piece, found);
                    }
                }
            }
            if node.lengths & 1 << 4 == 0 {
                return;
            }
            let Some(child) = self.child(number, 4, word) else { return };
            (node, number, done) = (self.nodes[child as usize], child, done + 4);
            self.report(node, found);
        }
        for step in 1..=(text.len() - done).min(3) {
            if node.lengths >> step & 1 != 0 {
                self.follow(number, step as u32, piece(self.end, text, done, step), found);
            }
        }
    }

    #[inline]
    fn follow(&self, node: u32, step: u32, piece: u32, found: &mut impl FnMut(u32)) {
        if let Some(child) = self.child(node, step, piece) {
            self.report(self.nodes[child as usize], found);
        }
    }

    #[inline]
    fn child(&self, node: u32, step: u32, piece: u32) -> Option<u32> {
        self.edges.get(edge(node, step, piece)).first().copied()
    }

    #[inline]
    fn report(&self, node: Node, found: &mut impl FnMut(u32)) {
        for id in self.ids.get(node.start as usize..(node.start + node.len) as usize).unwrap_or(&[]) {
            found(*id);
        }
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.ids) + self.edges.bytes()
    }
}

/// The four bytes after (before, for suffixes) the `done` ones, if there are so many.
#[inline]
fn word(end: End, text: &[u8], done: usize) -> Option<u32> {
    let four = match end {
        End::Start => text.get(done..)?.first_chunk::<4>()?,
        End::Finish => text.get(..text.len() - done)?.last_chunk::<4>()?,
    };
    Some(u32::from_le_bytes(*four))
}

/// `step` bytes after (before, for suffixes) the `done` ones, as a little-endian number.
#[inline]
fn piece(end: End, text: &[u8], done: usize, step: usize) -> u32 {
    let at = match end {
        End::Start => done,
        End::Finish => text.len() - done - step,
    };
    let bytes = text.get(at..at + step).unwrap_or(&[]);
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[inline]
fn edge(node: u32, step: u32, piece: u32) -> u64 {
    u64::from(node) << 35 | u64::from(step) << 32 | u64::from(piece)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reports_exactly_the_literals_at_that_end(
            literals in prop::collection::vec(prop::collection::vec(b'a'..=b'b', 0..11), 0..40),
            text in prop::collection::vec(b'a'..=b'b', 0..14),
        ) {
            for end in [End::Start, End::Finish] {
                let trie = Anchored::new(end, literals.iter().enumerate().map(|(id, l)| (&l[..], id as u32)));
                let mut reported = Vec::new();
                trie.walk(&text, &mut |id| reported.push(id));
                let expected: BTreeSet<_> = literals.iter().enumerate()
                    .filter(|(_, l)| if end == End::Start { text.starts_with(l) } else { text.ends_with(l) })
                    .map(|(id, _)| id as u32)
                    .collect();
                prop_assert_eq!(reported.len(), expected.len());
                prop_assert_eq!(reported.into_iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    }
}
