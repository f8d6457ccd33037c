//! Sets of numbers that are emptied for every event: one bit each, so that they stay in the cache nearest to the core, and
//! emptied by what was put in.

/// A set of numbers below a fixed bound.
#[derive(Debug)]
pub(crate) struct Marks {
    words: Box<[u64]>,
    /// What is in it, in the order of arrival. Its capacity is the bound, so that it never grows.
    members: Vec<u32>,
}

impl Marks {
    /// Empty, for numbers below `bound`.
    pub(crate) fn new(bound: usize) -> Self {
        Self { words: vec![0; bound.div_ceil(64)].into(), members: Vec::with_capacity(bound) }
    }

    /// Puts a number in.
    #[inline]
    pub(crate) fn insert(&mut self, number: u32) {
        self.insert_new(number);
    }

    /// Puts a number in; whether it was not there before.
    #[inline]
    pub(crate) fn insert_new(&mut self, number: u32) -> bool {
        let word = &mut self.words[number as usize / 64];
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        if is_new {
            *word |= bit;
            self.members.push(number);
        }
        is_new
    }

    /// Whether a number is in it.
    #[inline]
    pub(crate) fn contains(&self, number: u32) -> bool {
        self.words[number as usize / 64] >> (number % 64) & 1 != 0
    }

    /// What is in it, in the order of arrival.
    #[inline]
    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    /// Empties it.
    #[inline]
    pub(crate) fn clear(&mut self) {
        for number in &self.members {
            self.words[*number as usize / 64] = 0;
        }
        self.members.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set_of_what_was_put_in_since_it_was_emptied(rounds in prop::collection::vec(prop::collection::vec(0_u32..200, 0..20), 1..6)) {
            let mut marks = Marks::new(200);
            for round in rounds {
                marks.clear();
                for number in &round {
                    let before = marks.contains(*number);
                    prop_assert_eq!(marks.insert_new(*number), !before);
                }
                let expected: BTreeSet<_> = round.into_iter().collect();
                prop_assert_eq!(marks.members().iter().copied().collect::<BTreeSet<_>>(), expected.clone());
                prop_assert!((0..200).all(|number| marks.contains(number) == expected.contains(&number)));
                prop_assert_eq!(marks.members().len(), expected.len());
            }
        }
    }
}
