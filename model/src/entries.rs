//! A record's values in the order of their names. What a name begins with is a number beside it, so that finding one, for each field of each record
//! that is read, compares numbers and not texts.

use std::{borrow::Cow, cmp::Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Fact;

/// The name of a [`Fact`] that is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactName {
    text: &'static str,
    begins: u64,
}

impl FactName {
    /// Of a text.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        Self { text, begins: begins(text) }
    }

    /// The text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.text
    }
}

/// The first eight bytes of a name, as a number that is the larger the later the name comes; zeros stand for what is missing.
const fn begins(name: &str) -> u64 {
    let mut rest = name.as_bytes();
    let (mut number, mut left) = (0, 8);
    while left > 0 {
        left -= 1;
        number <<= 8;
        if let [first, more @ ..] = rest {
            number |= *first as u64;
            rest = more;
        }
    }
    number
}

/// Values by name, sorted.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Entries {
    all: Vec<Entry>,
    /// Of the texts of all.
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    begins: u64,
    name: Cow<'static, str>,
    fact: Fact,
}

impl Entries {
    /// Where the value of a name is, or else would be.
    pub(crate) fn find(&self, name: &str) -> Result<usize, usize> {
        self.place(begins(name), name)
    }

    /// As [`Entries::find`].
    #[inline]
    pub(crate) fn find_named(&self, name: FactName) -> Result<usize, usize> {
        self.place(name.begins, name.text)
    }

    #[inline]
    fn place(&self, begins: u64, name: &str) -> Result<usize, usize> {
        self.all.binary_search_by(|known| match known.begins.cmp(&begins) {
            // The shorter of two short ones is what the longer begins with.
            Ordering::Equal if known.name.len().max(name.len()) <= 8 => known.name.len().cmp(&name.len()),
            Ordering::Equal => known.name.as_ref().cmp(name),
            unequal => unequal,
        })
    }

    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<&Fact> {
        self.all.get(at).map(|entry| &entry.fact)
    }

    /// Puts a value where [`Entries::find`] says that it would be.
    pub(crate) fn insert(&mut self, at: usize, name: Cow<'static, str>, fact: Fact) {
        self.bytes += fact.bytes();
        if self.all.capacity() == 0 {
            // What most records have, and no more than what an allocator has at hand.
            self.all.reserve(16);
        }
        self.all.insert(at, Entry { begins: begins(&name), name, fact });
    }

    pub(crate) fn remove(&mut self, at: usize) {
        self.bytes -= self.all.remove(at).fact.bytes();
    }

    /// Gives a value another's place.
    pub(crate) fn replace(&mut self, at: usize, by: impl FnOnce(Fact) -> Fact) {
        let Some(entry) = self.all.get_mut(at) else { return };
        let before = entry.fact.bytes();
        entry.fact = by(std::mem::replace(&mut entry.fact, Fact::Bool(false)));
        self.bytes = self.bytes - before + entry.fact.bytes();
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Of all texts together.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.all.iter().map(|entry| (entry.name.as_ref(), &entry.fact))
    }
}

impl FromIterator<(Cow<'static, str>, Fact)> for Entries {
    fn from_iter<T: IntoIterator<Item = (Cow<'static, str>, Fact)>>(entries: T) -> Self {
        let entry = |(name, fact): (Cow<'static, str>, Fact)| Entry { begins: begins(&name), name, fact };
        let all: Vec<Entry> = entries.into_iter().map(entry).collect();
        let bytes = all.iter().map(|entry| entry.fact.bytes()).sum();
        Self { all, bytes }
    }
}

/// As pairs.
impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::<(Cow<'static, str>, Fact)>::deserialize(from).map(Self::from_iter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a search for the texts alone, with names that begin alike and with bytes that a missing one could be taken for.
        #[test]
        fn what_is_found_is_what_the_texts_say(names in prop::collection::vec("[ab\0ü]{0,4}|FlowSou[ab\0]{0,4}", 0..40), asked in "[ab\0ü]{0,4}|FlowSou[ab\0]{0,4}") {
            let mut entries = Entries::default();
            let mut plain: Vec<(String, usize)> = Vec::new();
            for (number, name) in names.into_iter().enumerate() {
                let place = plain.binary_search_by(|(known, _)| known.as_str().cmp(&name));
                prop_assert_eq!(entries.find(&name), place);
                let text = "x".repeat(number);
                match place {
                    Ok(at) if number % 2 == 0 => {
                        entries.replace(at, |_| Fact::Text(text));
                        plain[at].1 = number;
                    }
                    Ok(at) => {
                        entries.remove(at);
                        plain.remove(at);
                    }
                    Err(at) => {
                        entries.insert(at, name.clone().into(), Fact::Text(text));
                        plain.insert(at, (name, number));
                    }
                }
                prop_assert_eq!(entries.bytes(), plain.iter().map(|(_, bytes)| bytes).sum::<usize>());
            }
            prop_assert_eq!(entries.find(&asked), plain.binary_search_by(|(known, _)| known.as_str().cmp(&asked)));
            let written = serde_json::to_value(&entries).unwrap();
            let pairs: Vec<(String, Fact)> = entries.iter().map(|(name, fact)| (name.to_owned(), fact.clone())).collect();
            prop_assert_eq!(&written, &serde_json::to_value(&pairs).unwrap(), "as it always was written");
            prop_assert_eq!(serde_json::from_value::<Entries>(written).unwrap(), entries);
        }
    }

    #[test]
    fn a_name_that_is_known_beforehand_is_the_same_name() {
        for text in ["", "a", "FlowSour", "FlowSourceNamespace"] {
            let mut entries = Entries::default();
            entries.insert(0, text.into(), Fact::Number(1));
            assert_eq!(
                (entries.find_named(FactName::new("FlowSourceNamespace")), text),
                (entries.find("FlowSourceNamespace"), text)
            );
        }
        assert_eq!(FactName::new("verb").text(), "verb");
    }
}
