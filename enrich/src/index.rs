//! The indicators of one feed, found by value.
//!
//! Every kind has one key of bytes; keys are found by their SipHash in one sorted table with a directory over its first bits, so that a
//! look-up touches two or three cache lines however large the feed is. The bytes themselves are compared, so two keys with one hash are
//! told apart. An address is looked up once for each prefix length that the feed uses, a name once for each of its parents.

use std::{hash::Hasher, net::IpAddr};

use ipnet::IpNet;
use model::Timestamp;
use siphasher::sip::SipHasher13;

use crate::{
    feed::FeedReport,
    indicator::{Refusal, Value, host_of, plain_address},
};

/// Notes kept of one feed, each once (I11); further indicators have none.
const MAX_NOTES: usize = 65_536;
/// Bytes of a note.
const MAX_NOTE: usize = 160;
/// Bits of the hash that the directory is over.
const DIRECTORY_BITS: u32 = 16;
/// Answers to one question, at most.
const MAX_HITS: usize = 8;

/// How an indicator fits what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// It is the same.
    Same,
    /// The address lies in the network.
    Within,
    /// The name lies below the domain.
    Below,
    /// The URL's host is, lies in or lies below it.
    Host,
}

/// An indicator that fits what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit<'a> {
    /// As the feed has it.
    pub indicator: String,
    /// How it fits.
    pub relation: Relation,
    /// 0 to 100.
    pub confidence: u8,
    /// When its source saw it last.
    pub seen: Option<Timestamp>,
    /// Until when it holds.
    pub expires: Option<Timestamp>,
    /// What the feed says of it.
    pub note: &'a str,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    at: u32,
    note: u32,
    /// Seconds since 1970; 0 for none.
    from: u32,
    seen: u32,
    expires: u32,
    len: u16,
    confidence: u8,
}

/// One indicator on its way in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Detail<'a> {
    /// 0 to 100.
    pub(crate) confidence: u8,
    /// It does not hold before.
    pub(crate) from: Option<i64>,
    /// Seconds since 1970.
    pub(crate) seen: Option<i64>,
    /// Seconds since 1970.
    pub(crate) expires: Option<i64>,
    pub(crate) note: &'a str,
}

/// Indicators, found by value.
#[derive(Debug, Default)]
pub(crate) struct Index {
    hashes: Vec<u64>,
    entries: Vec<Entry>,
    keys: Vec<u8>,
    notes: Vec<Box<str>>,
    /// Where the hashes begin that have these first bits; one more at the end.
    directory: Vec<u32>,
    /// Prefix lengths in use, as bits.
    v4: u64,
    v6: [u64; 3],
}

/// Collects indicators.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    rows: Vec<(u64, u32)>,
    entries: Vec<Entry>,
    keys: Vec<u8>,
    notes: Vec<Box<str>>,
    known_notes: std::collections::HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    last_note: Option<u32>,
    key: Vec<u8>,
    v4: u64,
    v6: [u64; 3],
}

impl Builder {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn add(&mut self, value: &Value, detail: Detail<'_>) -> Result<(), Refusal> {
        value.key(&mut self.key);
        let (Ok(at), Ok(len)) = (u32::try_from(self.keys.len()), u16::try_from(self.key.len())) else {
            return Err(Refusal::TooMany);
        };
        let note = self.note(detail.note);
        match value {
            Value::Network(IpNet::V4(net)) => self.v4 |= 1 << net.prefix_len(),
            Value::Network(IpNet::V6(net)) => {
                self.v6[usize::from(net.prefix_len() / 64)] |= 1 << (net.prefix_len() % 64);
            }
            _ => {}
        }
        self.keys.extend(&self.key);
        let number = u32::try_from(self.entries.len()).map_err(|_| Refusal::TooMany)?;
        self.rows.push((hash(&self.key), number));
        let seconds = |time: Option<i64>| time.map_or(0, |at| u32::try_from(at.max(1)).unwrap_or(u32::MAX));
        self.entries.push(Entry {
            at,
            note,
            from: seconds(detail.from),
            seen: seconds(detail.seen),
            expires: seconds(detail.expires),
            len,
            confidence: detail.confidence.min(100),
        });
        Ok(())
    }

    /// Number of a note from 1; 0 for none.
    fn note(&mut self, text: &str) -> u32 {
        let text = text.trim();
        let text = &text[..text.floor_char_boundary(MAX_NOTE)];
        if text.is_empty() {
            return 0;
        }
        if let Some(last) = self.last_note.filter(|last| &*self.notes[*last as usize - 1] == text) {
            return last;
        }
        let number = match self.known_notes.get(text) {
            Some(number) => *number,
            None if self.notes.len() >= MAX_NOTES => return 0,
            None => {
                self.notes.push(text.into());
                let number = u32::try_from(self.notes.len()).unwrap_or(0);
                self.known_notes.insert(text.into(), number);
                number
            }
        };
        self.last_note = Some(number);
        number
    }

    /// Of the same key the one that is believed most stays, with the latest end.
    pub(crate) fn finish(mut self, report: &mut FeedReport) -> Index {
        self.rows.sort_unstable();
        let (mut hashes, mut entries) =
            (Vec::with_capacity(self.rows.len()), Vec::<Entry>::with_capacity(self.rows.len()));
        let key = |entry: &Entry| &self.keys[entry.at as usize..entry.at as usize + usize::from(entry.len)];
        for (hash, number) in &self.rows {
            let entry = self.entries[*number as usize];
            let same = (0..entries.len())
                .rev()
                .take_while(|place| hashes[*place] == *hash)
                .find(|place| key(&entries[*place]) == key(&entry));
            match same {
                Some(place) => {
                    report.duplicates += 1;
                    entries[place].merge(entry);
                }
                None => {
                    hashes.push(*hash);
                    entries.push(entry);
                }
            }
        }
        report.kept = entries.len() as u64;
        let directory = directory(&hashes);
        self.keys.shrink_to_fit();
        Index { hashes, entries, keys: self.keys, notes: self.notes, directory, v4: self.v4, v6: self.v6 }
    }
}

impl Entry {
    fn merge(&mut self, other: Self) {
        if other.confidence > self.confidence {
            self.confidence = other.confidence;
            self.note = other.note;
        }
        self.from = self.from.min(other.from);
        self.seen = self.seen.max(other.seen);
        // 0 means no end.
        self.expires = match (self.expires, other.expires) {
            (0, _) | (_, 0) => 0,
            (one, two) => one.max(two),
        };
    }

    fn holds(&self, now: u32) -> bool {
        self.from <= now && (self.expires == 0 || now < self.expires)
    }
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.hashes.len() * 8
            + self.entries.len() * size_of::<Entry>()
            + self.keys.len()
            + self.directory.len() * 4
    }

    pub(crate) fn address<'a>(&'a self, addr: IpAddr, now: Timestamp, out: &mut Vec<Hit<'a>>) {
        self.address_as(addr, None, now, out);
    }

    pub(crate) fn domain<'a>(&'a self, name: &str, now: Timestamp, out: &mut Vec<Hit<'a>>) {
        self.domain_as(name, None, now, out);
    }

    pub(crate) fn hash<'a>(&'a self, bytes: &[u8], now: Timestamp, out: &mut Vec<Hit<'a>>) {
        let mut key = Vec::with_capacity(bytes.len() + 1);
        key.push(b'h');
        key.extend(bytes);
        self.take(&key, Relation::Same, now, out);
    }

    /// A URL in its stored form: itself, itself without its query, its host.
    pub(crate) fn url<'a>(&'a self, url: &str, now: Timestamp, out: &mut Vec<Hit<'a>>) {
        let mut key = Vec::with_capacity(url.len() + 1);
        key.push(b'u');
        key.extend(url.as_bytes());
        self.take(&key, Relation::Same, now, out);
        if let Some(query) = url.find('?') {
            key.truncate(query + 1);
            self.take(&key, Relation::Same, now, out);
        }
        let host = host_of(url);
        match host.parse::<IpAddr>() {
            Ok(addr) => self.address_as(addr, Some(Relation::Host), now, out),
            Err(_) => self.domain_as(host, Some(Relation::Host), now, out),
        }
    }

    fn address_as<'a>(
        &'a self,
        addr: IpAddr,
        relation: Option<Relation>,
        now: Timestamp,
        out: &mut Vec<Hit<'a>>,
    ) {
        let mut key = [0_u8; 18];
        let mut look = |len: u8, all: u8, octets: &[u8], kind: u8| {
            let end = 2 + octets.len();
            key[0] = kind;
            key[1] = len;
            for (place, octet) in key[2..end].iter_mut().zip(octets).enumerate().map(|(at, (to, from))| {
                let bits = usize::from(len).saturating_sub(at * 8).min(8);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the lower byte of a shifted mask is meant"
                )]
                let mask = (0xff00_u16 >> bits) as u8;
                (to, from & mask)
            }) {
                *place = octet;
            }
            let fits = if len == all { Relation::Same } else { Relation::Within };
            self.take(&key[..end], relation.unwrap_or(fits), now, out);
        };
        match plain_address(addr) {
            IpAddr::V4(v4) => bits(&[self.v4]).for_each(|len| look(len, 32, &v4.octets(), b'4')),
            IpAddr::V6(v6) => bits(&self.v6).for_each(|len| look(len, 128, &v6.octets(), b'6')),
        }
    }

    fn domain_as<'a>(
        &'a self,
        name: &str,
        relation: Option<Relation>,
        now: Timestamp,
        out: &mut Vec<Hit<'a>>,
    ) {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.len() > 253 {
            return;
        }
        let mut key = Vec::with_capacity(name.len() + 1);
        key.push(b'd');
        key.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        // Where its parents begin, itself first; of a name with very many labels only the parents that an indicator can be.
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        let labels = name.bytes().filter(|byte| *byte == b'.').count() + 1;
        for (place, start) in starts.enumerate() {
            if labels - place > crate::indicator::MAX_LABELS || labels - place < 2 {
                continue;
            }
            let mut parent = [0_u8; 254];
            let part = &key[1 + start..];
            parent[0] = b'd';
            parent[1..=part.len()].copy_from_slice(part);
            let fits = if place == 0 { Relation::Same } else { Relation::Below };
            self.take(&parent[..=part.len()], relation.unwrap_or(fits), now, out);
        }
    }

    fn take<'a>(&'a self, key: &[u8], relation: Relation, now: Timestamp, out: &mut Vec<Hit<'a>>) {
        if out.len() >= MAX_HITS {
            return;
        }
        let Some(entry) = self.find(key) else { return };
        let now = u32::try_from(now.unix_seconds().max(0)).unwrap_or(u32::MAX);
        if !entry.holds(now) {
            return;
        }
        let time = |seconds: u32| (seconds > 0).then(|| Timestamp(i64::from(seconds) * 1_000_000_000));
        let note = (entry.note as usize).checked_sub(1).and_then(|note| self.notes.get(note));
        out.push(Hit {
            indicator: Value::show(key),
            relation,
            confidence: entry.confidence,
            seen: time(entry.seen),
            expires: time(entry.expires),
            note: note.map_or("", |note| note),
        });
    }

    fn find(&self, key: &[u8]) -> Option<&Entry> {
        let hash = hash(key);
        let bucket = (hash >> (64 - DIRECTORY_BITS)) as usize;
        let (from, to) = (*self.directory.get(bucket)? as usize, *self.directory.get(bucket + 1)? as usize);
        let hashes = self.hashes.get(from..to)?;
        let first = from + hashes.partition_point(|known| *known < hash);
        (first..to).take_while(|place| self.hashes[*place] == hash).map(|place| &self.entries[place]).find(
            |entry| self.keys.get(entry.at as usize..entry.at as usize + usize::from(entry.len)) == Some(key),
        )
    }
}

fn directory(hashes: &[u64]) -> Vec<u32> {
    let buckets = 1_usize << DIRECTORY_BITS;
    let mut directory = Vec::with_capacity(buckets + 1);
    let mut at = 0;
    for bucket in 0..buckets as u64 {
        while at < hashes.len() && hashes[at] >> (64 - DIRECTORY_BITS) < bucket {
            at += 1;
        }
        directory.push(u32::try_from(at).unwrap_or(u32::MAX));
    }
    directory.push(u32::try_from(hashes.len()).unwrap_or(u32::MAX));
    directory
}

/// Positions of the bits that are set, the highest first: the narrowest network tells most.
fn bits(words: &[u64]) -> impl Iterator<Item = u8> {
    words.iter().enumerate().rev().flat_map(|(place, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = left.checked_ilog2()?;
            left &= !(1 << bit);
            u8::try_from(place * 64).ok()?.checked_add(u8::try_from(bit).ok()?)
        })
    })
}

/// Keyed so that whoever writes a feed does not also choose what shares a bucket by a public function of the standard library.
fn hash(key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x6865_6d6f_7374_6174, 0x696e_7465_6c21_0001);
    hasher.write(key);
    hasher.finish()
}
