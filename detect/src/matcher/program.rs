//! Rule trees as jumps: each step reads one predicate and goes to one of two places, so that evaluating a rule needs no
//! stack and stops as soon as its outcome is certain.

/// A rule's logic over interned predicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Logic {
    /// Known at compile time.
    Constant(bool),
    /// A predicate, by number.
    Holds(u32),
    /// It does not hold.
    Not(Box<Logic>),
    /// All hold.
    All(Vec<Logic>),
    /// One holds.
    Any(Vec<Logic>),
    /// At least so many hold; two or more, and fewer than there are.
    AtLeast(u32, Vec<Logic>),
}

impl Logic {
    /// All hold; constants folded, nested conjunctions joined.
    pub(crate) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut kept = Vec::new();
        for part in parts {
            match part {
                Self::Constant(true) => {}
                Self::Constant(false) => return Self::Constant(false),
                Self::All(inner) => kept.extend(inner),
                other => kept.push(other),
            }
        }
        match (kept.pop(), kept.is_empty()) {
            (None, _) => Self::Constant(true),
            (Some(only), true) => only,
            (Some(last), false) => {
                kept.push(last);
                Self::All(kept)
            }
        }
    }

    /// One holds; constants folded, nested alternatives joined.
    pub(crate) fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut kept = Vec::new();
        for part in parts {
            match part {
                Self::Constant(false) => {}
                Self::Constant(true) => return Self::Constant(true),
                Self::Any(inner) => kept.extend(inner),
                other => kept.push(other),
            }
        }
        match (kept.pop(), kept.is_empty()) {
            (None, _) => Self::Constant(false),
            (Some(only), true) => only,
            (Some(last), false) => {
                kept.push(last);
                Self::Any(kept)
            }
        }
    }

    /// It does not hold.
    pub(crate) fn not(inner: Self) -> Self {
        match inner {
            Self::Constant(known) => Self::Constant(!known),
            Self::Not(twice) => *twice,
            other => Self::Not(Box::new(other)),
        }
    }

    /// At least `count` hold.
    pub(crate) fn at_least(count: u32, parts: Vec<Self>) -> Self {
        let mut missing = count;
        let mut kept = Vec::new();
        for part in parts {
            match part {
                Self::Constant(true) => missing = missing.saturating_sub(1),
                Self::Constant(false) => {}
                other => kept.push(other),
            }
        }
        match missing as usize {
            0 => Self::Constant(true),
            1 => Self::any(kept),
            n if n > kept.len() => Self::Constant(false),
            n if n == kept.len() => Self::all(kept),
            _ => Self::AtLeast(missing, kept),
        }
    }

    /// Whether it is certain to hold when `predicate` does.
    pub(crate) fn follows_from(&self, predicate: u32) -> bool {
        match self {
            Self::Holds(own) => *own == predicate,
            Self::Any(parts) => parts.iter().any(|part| part.follows_from(predicate)),
            Self::All(parts) => parts.iter().all(|part| part.follows_from(predicate)),
            Self::Constant(known) => *known,
            Self::Not(_) | Self::AtLeast(..) => false,
        }
    }

    /// Gives each predicate the number that stands in its place.
    pub(crate) fn renumber(&mut self, numbers: &[u32]) {
        match self {
            Self::Constant(_) => {}
            Self::Holds(predicate) => *predicate = numbers[*predicate as usize],
            Self::Not(inner) => inner.renumber(numbers),
            Self::All(parts) | Self::Any(parts) | Self::AtLeast(_, parts) => {
                parts.iter_mut().for_each(|part| part.renumber(numbers));
            }
        }
    }

    /// Every predicate in it, with repetitions.
    pub(crate) fn predicates(&self, into: &mut Vec<u32>) {
        match self {
            Self::Constant(_) => {}
            Self::Holds(predicate) => into.push(*predicate),
            Self::Not(inner) => inner.predicates(into),
            Self::All(parts) | Self::Any(parts) | Self::AtLeast(_, parts) => {
                for part in parts {
                    part.predicates(into);
                }
            }
        }
    }
}

/// Where a step leads: the number of a step, or one of the two ends.
type Target = u32;
/// The rule matches.
const MATCH: Target = u32::MAX;
/// The rule does not match.
const MISS: Target = u32::MAX - 1;

/// A predicate in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question(u32);

impl Question {
    const INDEXED: u32 = 1 << 31;

    fn new(predicate: u32, indexed: bool) -> Self {
        Self(predicate | if indexed { Self::INDEXED } else { 0 })
    }

    /// Which predicate.
    #[inline]
    pub(crate) fn predicate(self) -> u32 {
        self.0 & !Self::INDEXED
    }

    /// Whether the indexes answer for it, so that it need not be evaluated. It stands here so that asking reads nothing else.
    #[inline]
    pub(crate) fn is_indexed(self) -> bool {
        self.0 & Self::INDEXED != 0
    }
}

/// One step of a program.
#[derive(Debug, Clone, Copy)]
struct Step {
    question: Question,
    then: Target,
    otherwise: Target,
}

/// Whether a predicate speaks for the match or, below a `not`, against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    For,
    Against,
}

/// The compiled logic of many rules.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    steps: Vec<Step>,
    /// For each step.
    speaks: Vec<Speaks>,
    starts: Vec<Target>,
    /// For each rule, how many steps it and those before it have.
    ends: Vec<u32>,
}

impl Programs {
    /// Adds a rule; its number is the count of those before it. `cost` orders the parts of a conjunction or alternative:
    /// what is cheap to decide goes first; 0 says that the indexes answer.
    pub(crate) fn push(&mut self, logic: &Logic, cost: &impl Fn(u32) -> u32) {
        let start = self.emit(logic, Speaks::For, MATCH, MISS, cost);
        self.starts.push(start);
        self.ends.push(self.steps.len() as u32);
    }

    /// Whether rule `rule` matches, given its predicates.
    #[inline]
    pub(crate) fn run(&self, rule: u32, mut holds: impl FnMut(Question) -> bool) -> bool {
        let mut at = self.starts.get(rule as usize).copied().unwrap_or(MISS);
        while let Some(step) = self.steps.get(at as usize) {
            at = if holds(step.question) { step.then } else { step.otherwise };
        }
        at == MATCH
    }

    /// The predicates of rule `rule` that speak for a match.
    pub(crate) fn positive(&self, rule: u32) -> Vec<Question> {
        let end = |rule: u32| self.ends.get(rule as usize).copied().unwrap_or(0);
        (rule.checked_sub(1).map_or(0, end)..end(rule))
            .filter(|step| self.speaks.get(*step as usize) == Some(&Speaks::For))
            .filter_map(|step| self.steps.get(step as usize).map(|step| step.question))
            .collect()
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.steps.capacity() * (size_of::<Step>() + 1)
            + self.starts.capacity() * (size_of::<Target>() + size_of::<u32>())
    }

    /// Steps are made from the last to the first, so that each knows where it leads.
    fn emit(
        &mut self,
        logic: &Logic,
        speaks: Speaks,
        then: Target,
        otherwise: Target,
        cost: &impl Fn(u32) -> u32,
    ) -> Target {
        match logic {
            Logic::Constant(true) => then,
            Logic::Constant(false) => otherwise,
            Logic::Holds(predicate) => {
                let question = Question::new(*predicate, cost(*predicate) == 0);
                self.steps.push(Step { question, then, otherwise });
                self.speaks.push(speaks);
                (self.steps.len() - 1) as Target
            }
            Logic::Not(inner) => {
                let turned = if speaks == Speaks::For { Speaks::Against } else { Speaks::For };
                self.emit(inner, turned, otherwise, then, cost)
            }
            Logic::All(parts) => by_cost(parts, cost)
                .into_iter()
                .rev()
                .fold(then, |next, part| self.emit(part, speaks, next, otherwise, cost)),
            Logic::Any(parts) => by_cost(parts, cost)
                .into_iter()
                .rev()
                .fold(otherwise, |next, part| self.emit(part, speaks, then, next, cost)),
            Logic::AtLeast(count, parts) => {
                // after[k]: where to go if k more are needed from the parts that follow.
                let count = *count as usize;
                let mut after: Vec<Target> =
                    (0..=count).map(|k| if k == 0 { then } else { otherwise }).collect();
                for (left, part) in parts.iter().rev().enumerate() {
                    for k in (1..=count).rev() {
                        // With fewer parts left than are needed the outcome is certain.
                        if k <= left + 1 {
                            after[k] = self.emit(part, speaks, after[k - 1], after[k], cost);
                        }
                    }
                }
                after[count]
            }
        }
    }
}

fn by_cost<'a>(parts: &'a [Logic], cost: &impl Fn(u32) -> u32) -> Vec<&'a Logic> {
    let mut ordered: Vec<_> = parts.iter().collect();
    ordered.sort_by_cached_key(|part| {
        let mut predicates = Vec::new();
        part.predicates(&mut predicates);
        predicates.into_iter().map(|predicate| cost(predicate).max(1)).fold(0_u32, u32::saturating_add)
    });
    ordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plainly(logic: &Logic, truth: u32) -> bool {
        match logic {
            Logic::Constant(known) => *known,
            Logic::Holds(p) => truth & (1 << p) != 0,
            Logic::Not(inner) => !plainly(inner, truth),
            Logic::All(parts) => parts.iter().all(|p| plainly(p, truth)),
            Logic::Any(parts) => parts.iter().any(|p| plainly(p, truth)),
            Logic::AtLeast(n, parts) => parts.iter().filter(|p| plainly(p, truth)).count() >= *n as usize,
        }
    }

    fn logic() -> impl Strategy<Value = Logic> {
        let leaf =
            prop_oneof![8 => (0_u32..8).prop_map(Logic::Holds), 1 => any::<bool>().prop_map(Logic::Constant)];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                inner.clone().prop_map(|l| Logic::Not(Box::new(l))),
                prop::collection::vec(inner.clone(), 0..5).prop_map(Logic::All),
                prop::collection::vec(inner.clone(), 0..5).prop_map(Logic::Any),
                (0_u32..5, prop::collection::vec(inner, 0..5)).prop_map(|(n, l)| Logic::AtLeast(n, l)),
            ]
        })
    }

    /// The same logic through the constructors that simplify.
    fn simplified(logic: &Logic) -> Logic {
        match logic {
            Logic::Constant(_) | Logic::Holds(_) => logic.clone(),
            Logic::Not(inner) => Logic::not(simplified(inner)),
            Logic::All(parts) => Logic::all(parts.iter().map(simplified)),
            Logic::Any(parts) => Logic::any(parts.iter().map(simplified)),
            Logic::AtLeast(n, parts) => Logic::at_least(*n, parts.iter().map(simplified).collect()),
        }
    }

    proptest! {
        #[test]
        fn jumps_and_simplification_mean_what_the_tree_means(logic in logic(), costs in prop::array::uniform8(0_u32..4)) {
            let mut programs = Programs::default();
            let simple = simplified(&logic);
            programs.push(&simple, &|p| costs[p as usize]);
            for truth in 0..256 {
                prop_assert!((0..8).all(|p| truth & (1 << p) == 0 || !simple.follows_from(p) || plainly(&logic, truth)));
                prop_assert_eq!(plainly(&simple, truth), plainly(&logic, truth));
                prop_assert_eq!(programs.run(0, |question| truth & (1 << question.predicate()) != 0), plainly(&logic, truth));
            }
        }
    }
}
