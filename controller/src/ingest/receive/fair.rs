//! Queues of several senders, emptied by turns: whoever sends much waits behind himself, and overflows alone.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

/// Senders that have something waiting, at most (I11).
const MAX_LANES: usize = 1024;

/// One lane for each sender.
#[derive(Debug)]
pub(super) struct Fair<T> {
    /// Items of one lane, at most.
    depth: usize,
    lanes: BTreeMap<IpAddr, VecDeque<T>>,
    /// Senders whose lane is not empty, in the order of their turns.
    turns: VecDeque<IpAddr>,
}

/// There is no room in the sender's own lane, or no lane for another sender.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl<T> Fair<T> {
    pub(super) fn new(depth: usize) -> Self {
        Self { depth, lanes: BTreeMap::new(), turns: VecDeque::new() }
    }

    pub(super) fn push(&mut self, sender: IpAddr, item: T) -> Result<(), Overflow> {
        if !self.lanes.contains_key(&sender) {
            if self.lanes.len() >= MAX_LANES {
                return Err(Overflow);
            }
            self.turns.push_back(sender);
        }
        let lane = self.lanes.entry(sender).or_default();
        if lane.len() >= self.depth {
            return Err(Overflow);
        }
        lane.push_back(item);
        Ok(())
    }

    /// The next of whoever has waited longest for his turn.
    pub(super) fn pop(&mut self) -> Option<(IpAddr, T)> {
        let sender = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&sender)?;
        let item = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(&sender);
        } else {
            self.turns.push_back(sender);
        }
        Some((sender, item))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sender(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn a_flood_of_one_sender_does_not_delay_another() {
        let mut fair = Fair::new(10_000);
        for n in 0..10_000 {
            fair.push(sender(1), n).unwrap();
        }
        assert_eq!(fair.push(sender(1), 0), Err(Overflow), "who sends too much overflows alone");
        fair.push(sender(2), 7).unwrap();
        fair.push(sender(2), 8).unwrap();
        let first: Vec<_> = (0..5).filter_map(|_| fair.pop()).collect();
        assert_eq!(first, [(sender(1), 0), (sender(2), 7), (sender(1), 1), (sender(2), 8), (sender(1), 2)]);
    }

    proptest! {
        /// Each sender's own order is kept, nothing is lost, and nobody waits for more than one of each other sender's.
        #[test]
        fn turns_are_fair(sent in proptest::collection::vec(0_u8..6, 0..300)) {
            let mut fair = Fair::new(1000);
            for (number, from) in sent.iter().enumerate() {
                fair.push(sender(*from), number).unwrap();
            }
            let mut out = vec![];
            while let Some(one) = fair.pop() {
                out.push(one);
            }
            prop_assert!(fair.is_empty() && fair.lanes.is_empty());
            prop_assert_eq!(out.len(), sent.len());
            for from in 0..6 {
                let own: Vec<(usize, usize)> =
                    out.iter().enumerate().filter(|(_, (who, _))| *who == sender(from)).map(|(at, (_, n))| (at, *n)).collect();
                prop_assert!(own.is_sorted_by_key(|(_, number)| *number));
                prop_assert!(own.windows(2).all(|two| two[1].0 - two[0].0 <= 6));
            }
        }
    }
}
