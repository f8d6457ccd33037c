//! MISP: an event, the answer to a search, a list of either, or a list of attributes (misp-project.org, "MISP core format").

use serde::de::{IgnoredAny, MapAccess};

use super::{
    FeedError, Said, Taker,
    loose::{Each, Fields, Text, document},
    time,
};
use crate::{feed::Format, indicator::Refusal};

/// Types whose values can be looked up; of two values joined by `|` which one.
const TYPES: [(&str, Part); 24] = [
    ("ip-src", Part::Whole),
    ("ip-dst", Part::Whole),
    ("ip-src|port", Part::First),
    ("ip-dst|port", Part::First),
    ("domain", Part::Whole),
    ("hostname", Part::Whole),
    ("hostname|port", Part::First),
    ("domain|ip", Part::Both),
    ("url", Part::Whole),
    ("md5", Part::Whole),
    ("sha1", Part::Whole),
    ("sha256", Part::Whole),
    ("sha512", Part::Whole),
    ("filename|md5", Part::Last),
    ("filename|sha1", Part::Last),
    ("filename|sha256", Part::Last),
    ("filename|sha512", Part::Last),
    ("malware-sample", Part::Last),
    ("x509-fingerprint-sha1", Part::None),
    ("link", Part::None),
    ("comment", Part::None),
    ("text", Part::None),
    ("email-src", Part::None),
    ("filename", Part::None),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Last,
    Both,
    None,
}

pub(super) fn read(bytes: &[u8], taker: &mut Taker<'_>) -> Result<(), FeedError> {
    let malformed = |because: String| FeedError::Malformed { format: Format::Misp, because };
    let mut node =
        Node { taker, number: 0, depth: 0, event: String::new(), said: Attribute::default(), lists: 0 };
    document(bytes, &mut node).map_err(|error| malformed(error.to_string()))?;
    if node.lists == 0 && node.number == 0 {
        return Err(malformed("it has neither events nor attributes".into()));
    }
    Ok(())
}

/// An object anywhere: one with `type` and `value` is an attribute, others hold some.
struct Node<'t, 's, 'de> {
    taker: &'t mut Taker<'s>,
    number: u64,
    depth: usize,
    /// What the event around it is called.
    event: String,
    said: Attribute<'de>,
    lists: u64,
}

#[derive(Default)]
struct Attribute<'de> {
    kind: Text<'de>,
    value: Text<'de>,
    to_ids: Text<'de>,
    deleted: Text<'de>,
    timestamp: Text<'de>,
    last_seen: Text<'de>,
    comment: Text<'de>,
}

impl<'de> Fields<'de> for Node<'_, '_, 'de> {
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let said = &mut self.said;
        let place = match name {
            "type" => &mut said.kind,
            "value" => &mut said.value,
            "to_ids" => &mut said.to_ids,
            "deleted" => &mut said.deleted,
            "timestamp" => &mut said.timestamp,
            "last_seen" => &mut said.last_seen,
            "comment" => &mut said.comment,
            "info" => {
                let info: Text<'de> = map.next_value()?;
                info.get()[..info.get().floor_char_boundary(160)].clone_into(&mut self.event);
                return Ok(());
            }
            "response" | "Event" | "Attribute" | "Object" if self.depth < 8 => {
                self.lists += u64::from(matches!(name, "Attribute" | "Event" | "response"));
                let outer = std::mem::take(&mut self.said);
                self.depth += 1;
                map.next_value_seed(Each(self))?;
                self.depth -= 1;
                self.said = outer;
                return Ok(());
            }
            _ => return map.next_value::<IgnoredAny>().map(drop),
        };
        *place = map.next_value()?;
        Ok(())
    }

    fn end(&mut self) {
        let one = std::mem::take(&mut self.said);
        let (kind, value) = (one.kind.get(), one.value.get());
        if kind.is_empty() || value.is_empty() {
            return;
        }
        self.number += 1;
        if one.deleted.is_true() {
            return self.taker.refuse(self.number, Refusal::Revoked, value);
        }
        let part = TYPES.iter().find(|(name, _)| *name == kind).map_or(Part::None, |(_, part)| *part);
        if one.to_ids.is_false() || part == Part::None {
            return self.taker.refuse(self.number, Refusal::NotForDetection, value);
        }
        let note = if one.comment.get().is_empty() { self.event.as_str() } else { one.comment.get() };
        let seen = time(one.last_seen.get()).or_else(|| time(one.timestamp.get()));
        let said = Said { seen, note, ..Said::default() };
        let (first, last) = value.split_once('|').unwrap_or((value, value));
        let values: &[&str] = match part {
            Part::Whole => &[value],
            Part::First => &[first],
            Part::Last => &[last],
            Part::Both => &[first, last],
            Part::None => &[],
        };
        for value in values {
            self.taker.take(self.number, value, said);
        }
    }
}
