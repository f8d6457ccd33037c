//! The events that a finding was folded from, one by one, as far as they are kept.

use serde::{Deserialize, Deserializer, Serialize};

use crate::Timestamp;

/// One of the events behind a finding, told by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The how many-th of its finding it is; the first one is the finding's own event.
    pub nth: u64,
    /// When.
    pub at: Timestamp,
    /// Who, from where, with what outcome, in one line.
    pub what: String,
}

/// Those after the first one, in their order. Bounded (I11): the first [`Moments::FIRST`] events of a finding and the last
/// [`Moments::LAST`] of those behind them are told one by one, the others are counted. Which these are depends on their numbers alone,
/// and not on the order in which they came or how often.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Moments(Vec<Moment>);

/// Bounded too where a node tells of them.
impl<'de> Deserialize<'de> for Moments {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Vec::<Moment>::deserialize(from)?.into_iter().collect())
    }
}

impl Moment {
    /// Characters of [`Moment::what`]; more are cut.
    pub const LONGEST: usize = 200;

    /// With a text that is cut where it is too long.
    #[must_use]
    pub fn new(nth: u64, at: Timestamp, mut what: String) -> Self {
        if let Some((end, _)) = what.char_indices().nth(Self::LONGEST) {
            what.truncate(end);
            what.push('…');
        }
        Self { nth, at, what }
    }
}

impl Moments {
    /// Events told one by one from the beginning on, the finding's own among them.
    pub const FIRST: usize = 16;
    /// Events told one by one at the end.
    pub const LAST: usize = 16;

    /// Whether the `nth` event is among the first.
    #[must_use]
    pub fn is_first(nth: u64) -> bool {
        nth <= Self::FIRST as u64
    }

    /// Takes one in. One that is known, and one that is the finding's own event, is left out.
    pub fn add(&mut self, moment: Moment) {
        if moment.nth < 2 {
            return;
        }
        let Err(at) = self.0.binary_search_by_key(&moment.nth, |known| known.nth) else { return };
        self.0.insert(at, Moment::new(moment.nth, moment.at, moment.what));
        let firsts = self.0.partition_point(|known| Self::is_first(known.nth));
        if self.0.len() - firsts > Self::LAST {
            self.0.remove(firsts);
        }
    }

    /// Takes in those of `others` that a finding with `count` events can have.
    pub fn add_all(&mut self, others: impl IntoIterator<Item = Moment>, count: u64) {
        others.into_iter().filter(|one| one.nth <= count).for_each(|one| self.add(one));
    }

    /// In their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Moment> {
        self.0.iter()
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'m> IntoIterator for &'m Moments {
    type Item = &'m Moment;
    type IntoIter = std::slice::Iter<'m, Moment>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Moments {
    type Item = Moment;
    type IntoIter = std::vec::IntoIter<Moment>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<Moment> for Moments {
    fn from_iter<I: IntoIterator<Item = Moment>>(moments: I) -> Self {
        let mut all = Self::default();
        moments.into_iter().for_each(|one| all.add(one));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(nth: u64) -> Moment {
        Moment::new(nth, Timestamp(i64::try_from(nth).unwrap_or(0)), format!("event {nth}"))
    }

    fn numbers(moments: &Moments) -> Vec<u64> {
        moments.iter().map(|one| one.nth).collect()
    }

    #[test]
    fn i11_the_first_and_the_last_are_kept_in_whatever_order_they_come() {
        let wanted: Vec<u64> = (2..=16).chain(85..=100).collect();
        let up: Moments = (1..=100).map(moment).collect();
        let down: Moments = (1..=100).rev().map(moment).collect();
        let twice: Moments =
            (0..3).flat_map(|by| (1..=100).filter(move |n| n % 3 >= by)).map(moment).collect();
        assert_eq!(numbers(&up), wanted);
        assert_eq!((&down, &twice), (&up, &up));
    }

    #[test]
    fn a_number_that_a_finding_cannot_have_and_a_long_text_are_not_taken() {
        let mut all = Moments::default();
        all.add_all([moment(0), moment(1), moment(3), moment(9)], 8);
        assert_eq!(numbers(&all), [3]);
        let long = Moment { what: "ü".repeat(10_000), ..moment(4) };
        all.add(long);
        assert_eq!(all.iter().map(|one| one.what.chars().count()).max(), Some(Moment::LONGEST + 1));
    }
}
