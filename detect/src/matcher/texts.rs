//! The texts of one event's values, folded at most once each, in memory that is used again for the next event.

use model::Truncated;

use super::fold::{cut, fold_into};
use crate::{
    ast::Case,
    schema::{Field, FieldValue, Scratch},
};

/// Room for the folded texts of one event.
#[derive(Debug)]
pub(crate) struct Texts {
    /// Folded texts of fields, one after another; what is needed only for a moment lies at the end.
    arena: Vec<u8>,
    /// Where each field's folded text lies.
    places: Box<[Place]>,
    epoch: u32,
    limit: usize,
    truncated: Truncated,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    epoch: u32,
    start: u32,
    end: u32,
}

/// Reserved at first, so that ordinary events never make it grow.
const ARENA: usize = 16 * 1024;

impl Texts {
    /// Texts longer than `limit` bytes are cut to it.
    pub(crate) fn new(limit: usize) -> Self {
        Self { arena: Vec::with_capacity(ARENA), ..Self::passing_by(limit) }
    }

    /// For one look at one event: nothing is reserved that a short look does not need.
    pub(crate) fn passing_by(limit: usize) -> Self {
        let places = vec![Place::default(); Field::ALL.len()].into();
        Self { arena: Vec::new(), places, epoch: 1, limit, truncated: Truncated::No }
    }

    /// Begins with the next event.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.truncated = Truncated::No;
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.places.fill(Place::default());
            self.epoch = 1;
        }
    }

    /// Whether a text was cut since the event began.
    pub(crate) fn truncated(&self) -> Truncated {
        self.truncated
    }

    /// Adds what was known before of the same texts.
    pub(crate) fn add_truncated(&mut self, truncated: Truncated) {
        if truncated == Truncated::Yes {
            self.truncated = Truncated::Yes;
        }
    }

    /// What was cut so far, and begins anew.
    pub(crate) fn take_truncated(&mut self) -> Truncated {
        std::mem::take(&mut self.truncated)
    }

    /// The text, cut to the limit.
    #[inline]
    pub(crate) fn limited<'a>(&mut self, text: &'a str) -> &'a str {
        if text.len() > self.limit {
            self.truncated = Truncated::Yes;
            return cut(text, self.limit);
        }
        text
    }

    /// The folded text of a field that has one value; it is folded at the first call only.
    #[inline]
    pub(crate) fn folded(&mut self, field: Field, text: &str) -> &[u8] {
        let position = field as usize;
        if self.places[position].epoch != self.epoch {
            let text = self.limited(text);
            let start = self.arena.len() as u32;
            fold_into(text, &mut self.arena);
            self.places[position] = Place { epoch: self.epoch, start, end: self.arena.len() as u32 };
        }
        let place = self.places[position];
        self.arena.get(place.start as usize..place.end as usize).unwrap_or(&[])
    }

    /// Calls `test` with the folded text, which is not kept.
    #[inline]
    pub(crate) fn passing<T>(&mut self, text: &str, test: impl FnOnce(&[u8]) -> T) -> T {
        let text = self.limited(text);
        let start = self.arena.len();
        fold_into(text, &mut self.arena);
        let result = test(self.arena.get(start..).unwrap_or(&[]));
        self.arena.truncate(start);
        result
    }

    /// Calls `test` with the text of one value (no list), folded where case does not matter.
    pub(crate) fn of(&mut self, value: FieldValue<'_>, case: Case, test: impl FnOnce(&str) -> bool) -> bool {
        let mut room = Scratch::new();
        let Some(text) = value.text(&mut room) else { return false };
        match case {
            Case::Sensitive => test(self.limited(text)),
            Case::Insensitive => self.passing(text, |folded| std::str::from_utf8(folded).is_ok_and(test)),
        }
    }

    /// Calls `test` with the texts of two values (no lists).
    pub(crate) fn of_two(
        &mut self,
        one: FieldValue<'_>,
        other: FieldValue<'_>,
        case: Case,
        test: impl FnOnce(&str, &str) -> bool,
    ) -> bool {
        let mut room = Scratch::new();
        let Some(other) = other.text(&mut room) else { return false };
        let other = self.limited(other);
        if case == Case::Sensitive {
            return self.of(one, case, |one| test(one, other));
        }
        let start = self.arena.len();
        fold_into(other, &mut self.arena);
        let middle = self.arena.len();
        let mut room = Scratch::new();
        let holds = one.text(&mut room).is_some_and(|one| {
            let one = self.limited(one);
            fold_into(one, &mut self.arena);
            let (other, one) = self.arena.get(start..).unwrap_or(&[]).split_at(middle - start);
            matches!((std::str::from_utf8(one), std::str::from_utf8(other)), (Ok(one), Ok(other)) if test(one, other))
        });
        self.arena.truncate(start);
        holds
    }
}
