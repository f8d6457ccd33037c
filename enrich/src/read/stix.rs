//! STIX 2.1 bundles: their Indicator objects (docs.oasis-open.org/cti/stix/v2.1, §4.7).

use serde::de::{IgnoredAny, MapAccess};

use super::{
    FeedError, Said, Taker,
    loose::{Each, Fields, Text, document},
    pattern::conditions,
    time,
};
use crate::{feed::Format, indicator::Refusal};

pub(super) fn read(bytes: &[u8], taker: &mut Taker<'_>) -> Result<(), FeedError> {
    let mut objects = Bundle { taker, number: 0, seen: Seen::Nothing };
    let malformed = |because: String| FeedError::Malformed { format: Format::Stix, because };
    document(bytes, &mut objects).map_err(|error| malformed(error.to_string()))?;
    match objects.seen {
        Seen::Objects => Ok(()),
        Seen::Nothing => Err(malformed("it has no list of objects".into())),
    }
}

#[derive(Clone, Copy)]
enum Seen {
    Nothing,
    Objects,
}

/// The bundle itself. A TAXII envelope has `objects`, too.
struct Bundle<'t, 's> {
    taker: &'t mut Taker<'s>,
    number: u64,
    seen: Seen,
}

impl<'de> Fields<'de> for Bundle<'_, '_> {
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name != "objects" {
            return map.next_value::<IgnoredAny>().map(drop);
        }
        self.seen = Seen::Objects;
        let mut object = Object { taker: &mut *self.taker, number: self.number, said: Indicator::default() };
        map.next_value_seed(Each(&mut object))?;
        self.number = object.number;
        Ok(())
    }
}

struct Object<'t, 's, 'de> {
    taker: &'t mut Taker<'s>,
    number: u64,
    said: Indicator<'de>,
}

#[derive(Default)]
struct Indicator<'de> {
    kind: Text<'de>,
    pattern: Text<'de>,
    pattern_type: Text<'de>,
    name: Text<'de>,
    from: Text<'de>,
    until: Text<'de>,
    modified: Text<'de>,
    confidence: Text<'de>,
    revoked: Text<'de>,
}

impl<'de> Fields<'de> for Object<'_, '_, 'de> {
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let said = &mut self.said;
        let place = match name {
            "type" => &mut said.kind,
            "pattern" => &mut said.pattern,
            "pattern_type" => &mut said.pattern_type,
            "name" => &mut said.name,
            "valid_from" => &mut said.from,
            "valid_until" => &mut said.until,
            "modified" => &mut said.modified,
            "confidence" => &mut said.confidence,
            "revoked" => &mut said.revoked,
            _ => return map.next_value::<IgnoredAny>().map(drop),
        };
        *place = map.next_value()?;
        Ok(())
    }

    fn end(&mut self) {
        self.number += 1;
        let one = std::mem::take(&mut self.said);
        // Malware, relationships, identities and the like say more of indicators and are none.
        if one.kind.get() != "indicator" {
            return;
        }
        let pattern = one.pattern.get();
        if one.revoked.is_true() {
            return self.taker.refuse(self.number, Refusal::Revoked, pattern);
        }
        if !matches!(one.pattern_type.get(), "stix" | "") {
            return self.taker.refuse(self.number, Refusal::Pattern, pattern);
        }
        let said = Said {
            confidence: one.confidence.get().parse::<u8>().ok(),
            from: time(one.from.get()),
            seen: time(one.modified.get()),
            expires: time(one.until.get()),
            note: one.name.get(),
        };
        match conditions(pattern) {
            Ok(all) => {
                for condition in all {
                    self.taker.take(self.number, &condition.value, said);
                }
            }
            Err(because) => self.taker.refuse(self.number, because, pattern),
        }
    }
}
