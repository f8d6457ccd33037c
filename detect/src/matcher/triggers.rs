//! Which rules to look at when a predicate holds. Most predicates make one rule be looked at or none, so the answer stands in
//! the first place that is read.

/// For each predicate, rules.
#[derive(Debug)]
pub(crate) struct Triggers {
    /// `NONE`, a rule, or with `LIST` the place of the first of several in `lists`.
    first: Box<[u32]>,
    /// Runs of rules; the last of each has `LIST`.
    lists: Box<[u32]>,
}

/// A rule, and whether it matches whenever the predicate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trigger {
    pub(crate) rule: u32,
    pub(crate) certain: bool,
}

const NONE: u32 = u32::MAX;
const LIST: u32 = 1 << 31;
const CERTAIN: u32 = 1 << 30;

impl Trigger {
    fn pack(self) -> u32 {
        self.rule | if self.certain { CERTAIN } else { 0 }
    }

    #[inline]
    fn unpack(packed: u32) -> Self {
        Self { rule: packed & !(LIST | CERTAIN), certain: packed & CERTAIN != 0 }
    }
}

impl Triggers {
    /// From the rules of each predicate.
    pub(crate) fn new(by_predicate: Vec<Vec<Trigger>>) -> Self {
        let mut lists = Vec::new();
        let first = by_predicate
            .into_iter()
            .map(|triggers| match &*triggers {
                [] => NONE,
                [only] => only.pack(),
                [others @ .., last] => {
                    let start = lists.len() as u32;
                    lists.extend(others.iter().map(|trigger| trigger.pack()));
                    lists.push(last.pack() | LIST);
                    start | LIST
                }
            })
            .collect();
        Self { first, lists: lists.into() }
    }

    /// Calls `look_at` with each rule to look at when `predicate` holds.
    #[inline]
    pub(crate) fn each(&self, predicate: u32, mut look_at: impl FnMut(Trigger)) {
        match self.first[predicate as usize] {
            NONE => {}
            only if only & LIST == 0 => look_at(Trigger::unpack(only)),
            start => {
                for packed in self.lists.get((start & !LIST) as usize..).unwrap_or(&[]) {
                    look_at(Trigger::unpack(*packed));
                    if packed & LIST != 0 {
                        return;
                    }
                }
            }
        }
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.first) + size_of_val(&*self.lists)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tells_the_rules_of_each_predicate(by_predicate in prop::collection::vec(prop::collection::vec((0_u32..1000, any::<bool>()), 0..5), 1..40)) {
            let given: Vec<Vec<_>> = by_predicate
                .into_iter()
                .map(|of_one| of_one.into_iter().map(|(rule, certain)| Trigger { rule, certain }).collect())
                .collect();
            let triggers = Triggers::new(given.clone());
            for (predicate, rules) in given.iter().enumerate() {
                let mut told = Vec::new();
                triggers.each(predicate as u32, |trigger| told.push(trigger));
                prop_assert_eq!(&told, rules);
            }
        }
    }
}
