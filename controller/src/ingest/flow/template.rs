//! What the bytes of a set's records are, as the exporter says; bounded.

use std::{collections::HashMap, time::Duration};

use model::Timestamp;

use super::{super::read::Rejected, bytes::Bytes};

/// Templates of one session.
const MAX_TEMPLATES: usize = 256;
/// Fields of one template.
const MAX_FIELDS: usize = 256;
/// Fields of all templates of one session.
const MAX_ALL_FIELDS: usize = 4096;
/// A template that was not renewed for so long is forgotten: three times the usual interval (RFC 7011, 8.4).
const EXPIRES: Duration = Duration::from_secs(30 * 60);
/// A field's length that says that each value has its own (RFC 7011, 7).
const VARIABLE: u16 = u16::MAX;

/// What records are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Flows.
    Data,
    /// What the exporter tells of itself.
    Options,
}

/// A field: IANA's element where `enterprise` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) enterprise: u32,
    pub(super) element: u16,
    pub(super) length: Length,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Fixed(u16),
    Variable,
}

/// Scope fields of version 9 have numbers of their own; nobody's enterprise.
pub(super) const SCOPE: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    purpose: Purpose,
    fields: Box<[Field]>,
    shortest: usize,
}

/// What stands in a set of templates.
#[derive(Debug)]
pub(super) enum Parsed {
    Template(u16, Template),
    Withdrawn(u16),
    Padding,
}

impl Template {
    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Bytes of its shortest record, never 0.
    pub(super) fn shortest(&self) -> usize {
        self.shortest
    }

    /// RFC 3954, 5.2 and 6.1.
    pub(super) fn v9(set: &mut Bytes<'_>, purpose: Purpose) -> Result<Parsed, Rejected> {
        let place = set.at();
        let id = set.u16()?;
        if id == 0 {
            return Ok(Parsed::Padding);
        }
        let (scopes, count) = match purpose {
            Purpose::Data => (0, usize::from(set.u16()?)),
            Purpose::Options => {
                // Both in bytes; a field is of four.
                let (scopes, options) = (usize::from(set.u16()?) / 4, usize::from(set.u16()?) / 4);
                (scopes, scopes + options)
            }
        };
        let mut fields = room(place, count)?;
        for number in 0..count {
            let (element, length) = (set.u16()?, set.u16()?);
            let enterprise = if number < scopes { SCOPE } else { 0 };
            // Version 9 has no values of variable length.
            fields.push(Field { enterprise, element, length: Length::Fixed(length) });
        }
        Self::of(place, id, purpose, fields).map(|template| Parsed::Template(id, template))
    }

    /// RFC 7011, 3.4.
    pub(super) fn ipfix(set: &mut Bytes<'_>, purpose: Purpose) -> Result<Parsed, Rejected> {
        let place = set.at();
        let (id, count) = (set.u16()?, usize::from(set.u16()?));
        if count == 0 {
            return Ok(if id == 0 { Parsed::Padding } else { Parsed::Withdrawn(id) });
        }
        if purpose == Purpose::Options {
            let scopes = usize::from(set.u16()?);
            if scopes == 0 || scopes > count {
                let reason = format!("{scopes} scopes among {count} fields");
                return Err(Rejected { place: format!("byte {place}"), reason });
            }
        }
        let mut fields = room(place, count)?;
        for _ in 0..count {
            let (element, length) = (set.u16()?, set.u16()?);
            let enterprise = if element & 0x8000 != 0 { set.u32()? } else { 0 };
            let length = if length == VARIABLE { Length::Variable } else { Length::Fixed(length) };
            fields.push(Field { enterprise, element: element & 0x7fff, length });
        }
        Self::of(place, id, purpose, fields).map(|template| Parsed::Template(id, template))
    }

    fn of(place: usize, id: u16, purpose: Purpose, fields: Vec<Field>) -> Result<Self, Rejected> {
        let wrong = |reason: String| Rejected { place: format!("byte {place}"), reason };
        if id < 256 {
            return Err(wrong(format!("template {id}: numbers of templates begin at 256")));
        }
        let shortest = fields.iter().map(|field| match field.length {
            Length::Fixed(length) => usize::from(length),
            Length::Variable => 1,
        });
        let shortest = shortest.sum();
        if shortest == 0 {
            // Without end they would fit into a set.
            return Err(wrong(format!("template {id}: its records have no bytes")));
        }
        Ok(Self { purpose, fields: fields.into(), shortest })
    }
}

fn room(place: usize, count: usize) -> Result<Vec<Field>, Rejected> {
    if count > MAX_FIELDS {
        let reason = format!("a template of {count} fields, at most {MAX_FIELDS}");
        return Err(Rejected { place: format!("byte {place}"), reason });
    }
    Ok(Vec::with_capacity(count))
}

/// Those of one session.
#[derive(Debug, Default)]
pub(super) struct Templates {
    known: HashMap<u16, (Template, Timestamp)>,
    fields: usize,
}

impl Templates {
    pub(super) fn get(&self, id: u16, now: Timestamp) -> Option<&Template> {
        let (template, renewed) = self.known.get(&id)?;
        (now.since(*renewed) < EXPIRES).then_some(template)
    }

    pub(super) fn put(&mut self, id: u16, template: Template, now: Timestamp) -> Result<(), String> {
        self.forget(id);
        if self.known.len() >= MAX_TEMPLATES || self.fields + template.fields.len() > MAX_ALL_FIELDS {
            let old: Vec<u16> = self
                .known
                .iter()
                .filter(|(_, (_, at))| now.since(*at) >= EXPIRES)
                .map(|(id, _)| *id)
                .collect();
            old.into_iter().for_each(|id| self.forget(id));
        }
        if self.known.len() >= MAX_TEMPLATES || self.fields + template.fields.len() > MAX_ALL_FIELDS {
            return Err(format!(
                "template {id}: {} with {} fields are known already",
                self.known.len(),
                self.fields
            ));
        }
        self.fields += template.fields.len();
        self.known.insert(id, (template, now));
        Ok(())
    }

    /// RFC 7011, 8.1: one, or all of a kind by the number of their set.
    pub(super) fn withdraw(&mut self, id: u16, purpose: Purpose) {
        let all = match purpose {
            Purpose::Data => 2,
            Purpose::Options => 3,
        };
        let gone: Vec<u16> = self
            .known
            .iter()
            .filter(|(known, (template, _))| template.purpose == purpose && (id == all || id == **known))
            .map(|(known, _)| *known)
            .collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    fn forget(&mut self, id: u16) {
        if let Some((template, _)) = self.known.remove(&id) {
            self.fields -= template.fields.len();
        }
    }
}
