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
                let key = edge(node, step, piece(end, literal, done, step));
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
        let (mut node, mut done) = (self.nodes[0], 0);
        let mut number = 0_u32;
        self.report(node, found);
        loop {
            let left = text.len() - done;
            for step in 1..4.min(left + 1) {
                if node.lengths & (1 << step) != 0
                    && let Some(child) = self.child(number, step, text, done)
                {
                    self.report(self.nodes[child as usize], found);
                }
            }
            if left < 4 || node.lengths & (1 << 4) == 0 {
                return;
            }
            let Some(child) = self.child(number, 4, text, done) else { return };
            (node, number, done) = (self.nodes[child as usize], child, done + 4);
            self.report(node, found);
        }
    }

    #[inline]
    fn child(&self, node: u32, step: usize, text: &[u8], done: usize) -> Option<u32> {
        self.edges.get(edge(node, step, piece(self.end, text, done, step))).first().copied()
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

/// `step` bytes after (before, for suffixes) the `done` ones, as a number.
#[inline]
fn piece(end: End, text: &[u8], done: usize, step: usize) -> u32 {
    let at = match end {
        End::Start => done,
        End::Finish => text.len() - done - step,
    };
    match text.get(at..at + step) {
        Some([a, b, c, d]) => u32::from_le_bytes([*a, *b, *c, *d]),
        Some(few) => few.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)),
        None => 0,
    }
}

#[inline]
fn edge(node: u32, step: usize, piece: u32) -> u64 {
    u64::from(node) << 35 | (step as u64) << 32 | u64::from(piece)
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
