//! The numbers that datagrams carry: what is missing, late, or came twice. Version 9 counts datagrams, IPFIX records.

/// Gaps that may still be filled; beyond, the oldest is lost for good (I11).
const MAX_GAPS: usize = 64;

/// A step that is wider is no loss but another beginning.
const WIDEST: u32 = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The number that comes next, where it is known.
    next: Option<u32>,
    /// What is missing: first number and how many.
    gaps: Vec<(u32, u32)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    InTurn,
    /// So many are missing before it.
    Missing(u32),
    /// It fills so many of those that were missing.
    Late(u32),
}

impl Sequence {
    /// A datagram of this number, which counts for `step`; `None` where that is not known. Whether it was heard before is not asked here: an
    /// exporter that was started again uses its numbers again.
    pub(super) fn heard(&mut self, number: u32, step: Option<u32>) -> Heard {
        let Some(next) = self.next else {
            self.next = step.map(|step| number.wrapping_add(step));
            return Heard::InTurn;
        };
        if let Some(at) = self.gap_of(number) {
            return Heard::Late(self.fill(at, number, step.unwrap_or(0)));
        }
        self.next = step.map(|step| number.wrapping_add(step));
        let missing = number.wrapping_sub(next);
        if missing == 0 {
            return Heard::InTurn;
        }
        if missing >= WIDEST {
            // Ahead by far or behind: begun anew. What was missing before is lost.
            self.gaps.clear();
            return Heard::InTurn;
        }
        if self.gaps.len() >= MAX_GAPS {
            self.gaps.remove(0);
        }
        self.gaps.push((next, missing));
        Heard::Missing(missing)
    }

    fn gap_of(&self, number: u32) -> Option<usize> {
        self.gaps.iter().position(|(first, count)| number.wrapping_sub(*first) < *count)
    }

    fn fill(&mut self, at: usize, number: u32, step: u32) -> u32 {
        let (first, count) = self.gaps.remove(at);
        let before = number.wrapping_sub(first);
        let filled = step.min(count - before);
        let after = count - before - filled;
        for rest in [(first, before), (number.wrapping_add(filled), after)] {
            if rest.1 > 0 && self.gaps.len() < MAX_GAPS {
                self.gaps.push(rest);
            }
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_missing_is_counted_and_what_is_late_taken_off() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.heard(7, Some(3)), Heard::InTurn);
        assert_eq!(sequence.heard(10, Some(3)), Heard::InTurn);
        assert_eq!(sequence.heard(19, Some(3)), Heard::Missing(6));
        assert_eq!(sequence.heard(16, Some(3)), Heard::Late(3));
        assert_eq!(sequence.heard(13, Some(3)), Heard::Late(3));
        assert_eq!(sequence.heard(22, None), Heard::InTurn, "of one whose templates are not known");
        assert_eq!(sequence.heard(90, Some(1)), Heard::InTurn, "nobody knows what was between");
        assert_eq!(sequence.heard(5, Some(1)), Heard::InTurn, "begun anew");
        let mut around = Sequence::default();
        around.heard(u32::MAX, Some(2));
        assert_eq!(around.heard(3, Some(1)), Heard::Missing(2));
    }

    proptest! {
        /// Datagrams out of order: in the end what was counted as lost is what never came.
        #[test]
        fn the_count_of_the_lost_is_exact(start: u32, fates in proptest::collection::vec(0_u8..4, 1..40), swaps in proptest::collection::vec(0_usize..40, 0..10)) {
            let mut arriving: Vec<u32> = Vec::new();
            for (number, fate) in fates.iter().enumerate().skip(1) {
                if *fate > 0 {
                    arriving.push(start.wrapping_add(number as u32));
                }
            }
            for at in swaps {
                if at + 1 < arriving.len() {
                    arriving.swap(at, at + 1);
                }
            }
            let mut sequence = Sequence::default();
            sequence.heard(start, Some(1));
            let mut lost = 0_i64;
            for number in &arriving {
                match sequence.heard(*number, Some(1)) {
                    Heard::InTurn => {}
                    Heard::Missing(count) => lost += i64::from(count),
                    Heard::Late(count) => lost -= i64::from(count),
                }
            }
            let reach = arriving.iter().map(|number| i64::from(number.wrapping_sub(start))).max().unwrap_or(0);
            prop_assert_eq!(lost, reach - arriving.len() as i64);
        }
    }
}
