//! Everything that a field's value is looked up in.

use std::{collections::BTreeMap, hash::Hasher, net::IpAddr};

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::{
    anchored::{Anchored, End},
    background::Background,
    frozen::Frozen,
    grams::{Grams, Literal},
    predicate::{Anchor, Check, NumberKey, Predicate},
};
use crate::{
    schema::{Field, Kind},
    text::fold,
};

/// Finds the predicates of one field that hold, for those that can be found by value.
#[derive(Debug)]
pub(crate) struct FieldIndex {
    pub(crate) field: Field,
    exact: Frozen<Exact>,
    /// Bit n: a text of n bytes is in `exact`; the last bit stands for all that are longer.
    exact_lengths: u64,
    exact_texts: Box<[u8]>,
    prefixes: Anchored,
    suffixes: Anchored,
    grams: Grams,
    numbers: Frozen<u32>,
    nets: Nets,
    texts: Texts,
}

/// Which values' texts matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Texts {
    /// None.
    None,
    /// Those that are no whole number: each literal has a character that no number has.
    NotOfNumbers,
    /// All.
    All,
}

#[derive(Debug, Clone, Copy)]
struct Exact {
    start: u32,
    len: u32,
    id: u32,
}

/// Whether an index can find the events for which the predicate holds. A number or an address that a rule looks for in a
/// text field is not found: its text may have many forms.
pub(crate) fn indexable(predicate: &Predicate) -> bool {
    match &predicate.check {
        Check::Literal(anchor, text, _) => !text.is_empty() || *anchor == Anchor::Whole,
        Check::Number(NumberKey::Int(_)) => predicate.field.spec().kind == Kind::Number,
        Check::Net(_) => predicate.field.spec().kind == Kind::Address,
        _ => false,
    }
}

impl FieldIndex {
    /// Of predicates that are [`indexable`], with their numbers.
    pub(crate) fn new(field: Field, checks: &[(u32, &Check)], background: &Background) -> Self {
        let mut literals: BTreeMap<Anchor, Vec<(Vec<u8>, u32)>> = BTreeMap::new();
        let (mut numbers, mut nets) = (BTreeMap::<u64, Vec<u32>>::new(), Vec::new());
        for (id, check) in checks {
            match check {
                // A case-sensitive literal is found by its folded form and then compared as it is.
                Check::Literal(anchor, text, _) => {
                    literals.entry(*anchor).or_default().push((fold(text).into_bytes(), *id));
                }
                Check::Number(NumberKey::Int(number)) => numbers.entry(*number as u64).or_default().push(*id),
                Check::Net(net) => nets.push((*net, *id)),
                _ => {}
            }
        }
        let texts = literals.values().flatten().fold(Texts::None, |so_far, (text, _)| {
            let in_a_number = text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
            if in_a_number || so_far == Texts::All { Texts::All } else { Texts::NotOfNumbers }
        });
        let mut take = |anchor| literals.remove(&anchor).unwrap_or_default();
        let whole = take(Anchor::Whole);
        let (mut exact, mut exact_texts) = (BTreeMap::<u64, Vec<Exact>>::new(), Vec::new());
        let exact_lengths = whole.iter().fold(0, |lengths, (text, _)| lengths | length_bit(text.len()));
        for (text, id) in whole {
            let entry = Exact { start: exact_texts.len() as u32, len: text.len() as u32, id };
            exact.entry(hash(&text)).or_default().push(entry);
            exact_texts.extend(text);
        }
        let anchored = |end, texts: &[(Vec<u8>, u32)]| {
            Anchored::new(end, texts.iter().map(|(text, id)| (&text[..], *id)))
        };
        let prefixes = anchored(End::Start, &take(Anchor::Start));
        let suffixes = anchored(End::Finish, &take(Anchor::End));
        let anywhere: Vec<_> =
            take(Anchor::Anywhere).into_iter().map(|(text, id)| Literal { bytes: text.into(), id }).collect();
        Self {
            field,
            exact: Frozen::new(exact),
            exact_lengths,
            exact_texts: exact_texts.into(),
            prefixes,
            suffixes,
            grams: Grams::new(&anywhere, background),
            numbers: Frozen::new(numbers),
            nets: Nets::new(nets),
            texts,
        }
    }

    /// Whether the text of a value matters.
    #[inline]
    pub(crate) fn has_texts(&self) -> bool {
        self.texts != Texts::None
    }

    /// Whether the text of a whole number matters.
    #[inline]
    pub(crate) fn has_texts_of_numbers(&self) -> bool {
        self.texts == Texts::All
    }

    /// Reports the predicates that the folded text meets, some more than once. Case-sensitive ones are still to be
    /// compared.
    #[inline]
    pub(crate) fn text(&self, folded: &[u8], found: &mut impl FnMut(u32)) {
        if self.exact_lengths & length_bit(folded.len()) != 0 {
            for entry in self.exact.get(hash(folded)) {
                let text = self.exact_texts.get(entry.start as usize..(entry.start + entry.len) as usize);
                if text == Some(folded) {
                    found(entry.id);
                }
            }
        }
        if !self.prefixes.is_empty() {
            self.prefixes.walk(folded, found);
        }
        if !self.suffixes.is_empty() {
            self.suffixes.walk(folded, found);
        }
        self.grams.scan(folded, found);
    }

    /// Reports the predicates that the number meets.
    #[inline]
    pub(crate) fn number(&self, number: i64, found: &mut impl FnMut(u32)) {
        for id in self.numbers.get(number as u64) {
            found(*id);
        }
    }

    /// Reports the predicates that the address meets.
    #[inline]
    pub(crate) fn address(&self, address: IpAddr, found: &mut impl FnMut(u32)) {
        self.nets.look_up(address, found);
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.exact.bytes()
            + self.exact_texts.len()
            + self.prefixes.bytes()
            + self.suffixes.bytes()
            + self.grams.bytes()
            + self.numbers.bytes()
            + self.nets.table.bytes()
    }
}

#[inline]
fn length_bit(len: usize) -> u64 {
    1 << len.min(63)
}

/// Fast hash of a text. Its seed is fixed: what is hashed are rules' literals and, in a cache of fixed size, values.
#[inline]
pub(crate) fn hash(text: &[u8]) -> u64 {
    let mut hasher = std::hash::BuildHasher::build_hasher(&FixedState::with_seed(0x4865_6d6f_7374_6174));
    hasher.write(text);
    hasher.finish()
}

/// Networks by prefix length: one probe for each length that occurs.
#[derive(Debug)]
struct Nets {
    lengths_v4: Box<[u8]>,
    lengths_v6: Box<[u8]>,
    table: Frozen<(IpNet, u32)>,
}

impl Nets {
    fn new(nets: Vec<(IpNet, u32)>) -> Self {
        let lengths = |v4: bool| {
            let mut lengths: Vec<_> = nets
                .iter()
                .filter(|(net, _)| matches!(net, IpNet::V4(_)) == v4)
                .map(|(net, _)| net.prefix_len())
                .collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths.into_boxed_slice()
        };
        let (lengths_v4, lengths_v6) = (lengths(true), lengths(false));
        let mut table = BTreeMap::<u64, Vec<_>>::new();
        for (net, id) in nets {
            table.entry(net_key(net)).or_default().push((net, id));
        }
        Self { lengths_v4, lengths_v6, table: Frozen::new(table) }
    }

    #[inline]
    fn look_up(&self, address: IpAddr, found: &mut impl FnMut(u32)) {
        if let IpAddr::V4(address) = address {
            // The key says all of a network of four bytes.
            for length in &self.lengths_v4 {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                let key = u64::from(address.to_bits() & mask) << 8 | u64::from(*length);
                for (candidate, id) in self.table.get(key) {
                    if matches!(candidate, IpNet::V4(_)) {
                        found(*id);
                    }
                }
            }
            return;
        }
        for length in &self.lengths_v6 {
            let Ok(net) = IpNet::new(address, *length).map(|net| net.trunc()) else { continue };
            for (candidate, id) in self.table.get(net_key(net)) {
                if *candidate == net {
                    found(*id);
                }
            }
        }
    }
}

#[inline]
fn net_key(net: IpNet) -> u64 {
    let length = u64::from(net.prefix_len());
    match net {
        IpNet::V4(net) => u64::from(net.network().to_bits()) << 8 | length,
        IpNet::V6(net) => {
            let bits = net.network().to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(32) ^ length << 56
        }
    }
}
