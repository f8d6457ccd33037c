//! NetFlow version 9 (RFC 3954) and IPFIX (RFC 7011) datagrams to flows. Pure: no clock, no socket; what comes in is hostile (I11).
//!
//! Templates are known by exporter (address and port), version and observation domain, so that no exporter can change how another's data is
//! read, and forget themselves when they are not renewed. All tables are bounded, those of one address for themselves: whoever invents domains,
//! ports and templates pushes out only his own. Lost datagrams are counted by the numbers that they carry.

mod bytes;
mod record;
mod sequence;
mod template;

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use model::Timestamp;
use serde::{Deserialize, Serialize};

use self::{
    bytes::Bytes,
    record::Export,
    sequence::{Heard, Sequence},
    template::{Parsed, Purpose, Template, Templates},
};
use super::read::Rejected;

/// Exporters' sessions at once.
const MAX_SESSIONS: usize = 1024;
/// The same of one address; beyond, its own least recently heard one goes.
const MAX_OF_ONE: usize = 32;
/// A session that was not heard for so long gives its place to another.
const SILENT: Duration = Duration::from_secs(3600);
/// How far an exporter's clock may be off before its flows are dated by ours.
const SKEW: Duration = Duration::from_secs(60);
/// An exporter whose uptime falls by more than datagrams overtake each other was started again (milliseconds).
const REORDER: u32 = 60_000;
/// Datagrams of one session by which repetitions are told.
const MAX_RECENT: usize = 32;

/// A flow in one direction, as an exporter tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flow {
    /// Exporter, domain, number of the datagram, number in it.
    pub(super) id: String,
    pub(super) exporter: IpAddr,
    /// When it ended, in nanoseconds since 1970.
    pub(super) at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) destination: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) destination_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    /// What came back, where the exporter joins both directions (RFC 5103).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes_back: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) packets: Option<u64>,
    /// All of its packets' TCP flags together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tcp_flags: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) direction: Option<Direction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    Ingress,
    Egress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Forwarded,
    Dropped,
}

/// What datagrams held.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    pub(super) flows: Vec<Flow>,
    /// Datagrams (version 9) or records (IPFIX) that never came, by their numbers; late ones are taken off again.
    pub(super) lost: u64,
    /// Came twice.
    pub(super) repeated: u64,
    /// Sets of data whose template is not known (yet).
    pub(super) unknown: u64,
    /// An exporter's clock, seconds ahead of ours, where it is far off.
    pub(super) skew: Option<i64>,
    /// One in so many packets is looked at.
    pub(super) sampling: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Version {
    V9,
    Ipfix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    from: SocketAddr,
    version: Version,
    domain: u32,
}

#[derive(Debug)]
struct Session {
    templates: Templates,
    sequence: Sequence,
    uptime: u32,
    heard: Timestamp,
    /// Of the last datagrams, which the network may bring twice.
    recent: VecDeque<u64>,
    sampling: Option<u64>,
}

/// All exporters.
#[derive(Debug, Default)]
pub(super) struct Exporters {
    sessions: HashMap<Key, Session>,
}

/// A datagram's head.
#[derive(Debug, Clone, Copy)]
struct Head {
    key: Key,
    sequence: u32,
    /// Milliseconds since the exporter was started; version 9 only.
    uptime: Option<u32>,
    /// Nanoseconds since 1970, by the exporter's clock.
    exported: i64,
}

impl Exporters {
    /// Reads a datagram. Sets before one that is broken are kept.
    ///
    /// # Errors
    /// Where it is broken, and how.
    pub(super) fn datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Timestamp,
        into: &mut Decoded,
    ) -> Result<(), Rejected> {
        let mut bytes = Bytes::new(datagram);
        let head = head(from, &mut bytes)?;
        let mut hasher = DefaultHasher::new();
        datagram.hash(&mut hasher);
        let digest = hasher.finish();
        let session = self.session(head.key, now)?;
        if let Some(uptime) = head.uptime {
            if uptime < session.uptime && session.uptime - uptime > REORDER {
                // Started again: its templates may be others under the same numbers.
                (session.templates, session.sequence) = (Templates::default(), Sequence::default());
            }
            session.uptime = uptime;
        }
        if session.recent.contains(&digest) {
            into.repeated += 1;
            return Ok(());
        }
        session.recent.push_back(digest);
        if session.recent.len() > MAX_RECENT {
            session.recent.pop_front();
        }
        let skew = now.0.saturating_sub(head.exported);
        let corrected = u128::from(skew.unsigned_abs()) > SKEW.as_nanos();
        if corrected {
            into.skew = Some(-(skew / 1_000_000_000));
        }
        let export = Export {
            exporter: from.ip(),
            uptime: head.uptime,
            exported: head.exported,
            shift: if corrected { skew } else { 0 },
            now,
        };
        let (mut counted, mut known) = (0_u32, true);
        let outcome = sets(&mut bytes, head, session, &export, into, &mut counted, &mut known);
        let step = match head.key.version {
            Version::V9 => Some(1),
            Version::Ipfix => (known && outcome.is_ok()).then_some(counted),
        };
        match session.sequence.heard(head.sequence, step) {
            Heard::InTurn => {}
            Heard::Missing(missing) => into.lost += u64::from(missing),
            Heard::Late(filled) => into.lost = into.lost.saturating_sub(u64::from(filled)),
        }
        into.sampling = into.sampling.or(session.sampling);
        outcome
    }

    /// Exporters that are known.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    fn session(&mut self, key: Key, now: Timestamp) -> Result<&mut Session, Rejected> {
        if !self.sessions.contains_key(&key) {
            self.make_room(key.from.ip(), now)?;
            let (templates, sequence) = (Templates::default(), Sequence::default());
            let session = Session {
                templates,
                sequence,
                uptime: 0,
                heard: now,
                recent: VecDeque::new(),
                sampling: None,
            };
            self.sessions.insert(key, session);
        }
        let missing = || Rejected { place: "header".into(), reason: "no session".into() };
        let session = self.sessions.get_mut(&key).ok_or_else(missing)?;
        session.heard = now;
        Ok(session)
    }

    fn make_room(&mut self, of: IpAddr, now: Timestamp) -> Result<(), Rejected> {
        let own = self.sessions.iter().filter(|(key, _)| key.from.ip() == of);
        let (count, oldest) =
            own.fold((0, None), |(count, oldest): (usize, Option<(Timestamp, Key)>), (key, session)| {
                let this = (session.heard, *key);
                (count + 1, Some(oldest.filter(|oldest| oldest.0 <= this.0).unwrap_or(this)))
            });
        if count >= MAX_OF_ONE
            && let Some((_, key)) = oldest
        {
            self.sessions.remove(&key);
        }
        if self.sessions.len() >= MAX_SESSIONS {
            self.sessions.retain(|_, session| now.since(session.heard) < SILENT);
        }
        if self.sessions.len() >= MAX_SESSIONS {
            let reason = format!("{MAX_SESSIONS} exporters and domains are known already");
            return Err(Rejected { place: "header".into(), reason });
        }
        Ok(())
    }
}

fn head(from: SocketAddr, bytes: &mut Bytes<'_>) -> Result<Head, Rejected> {
    const SECOND: i64 = 1_000_000_000;
    match bytes.u16()? {
        9 => {
            let _count = bytes.u16()?;
            let uptime = bytes.u32()?;
            let exported = i64::from(bytes.u32()?) * SECOND;
            let (sequence, domain) = (bytes.u32()?, bytes.u32()?);
            let key = Key { from, version: Version::V9, domain };
            Ok(Head { key, sequence, uptime: Some(uptime), exported })
        }
        10 => {
            let length = usize::from(bytes.u16()?);
            if length != bytes.whole() {
                let reason = format!("the header says {length} bytes, the datagram has {}", bytes.whole());
                return Err(Rejected { place: "byte 2".into(), reason });
            }
            let exported = i64::from(bytes.u32()?) * SECOND;
            let (sequence, domain) = (bytes.u32()?, bytes.u32()?);
            let key = Key { from, version: Version::Ipfix, domain };
            Ok(Head { key, sequence, uptime: None, exported })
        }
        other => {
            let reason = format!("version {other} is neither NetFlow 9 nor IPFIX (10)");
            Err(Rejected { place: "byte 0".into(), reason })
        }
    }
}

fn sets(
    bytes: &mut Bytes<'_>,
    head: Head,
    session: &mut Session,
    export: &Export,
    into: &mut Decoded,
    counted: &mut u32,
    known: &mut bool,
) -> Result<(), Rejected> {
    let (templates, options) = match head.key.version {
        Version::V9 => (0, 1),
        Version::Ipfix => (2, 3),
    };
    while bytes.left() >= 4 {
        let at = bytes.at();
        let (id, length) = (bytes.u16()?, usize::from(bytes.u16()?));
        if length < 4 {
            let reason = format!("a set of {length} bytes is shorter than its head");
            return Err(Rejected { place: format!("byte {at}"), reason });
        }
        let mut set = bytes.part(length - 4)?;
        let purpose = match id {
            id if id == templates => Some(Purpose::Data),
            id if id == options => Some(Purpose::Options),
            _ => None,
        };
        if let Some(purpose) = purpose {
            template_set(&mut set, head.key.version, purpose, session, export.now)?;
        } else if id >= 256 {
            match session.templates.get(id, export.now) {
                Some(template) => {
                    let found = data_set(&mut set, template, head, export, into, counted)?;
                    session.sampling = found.or(session.sampling);
                }
                None => {
                    into.unknown += 1;
                    *known = false;
                }
            }
        }
        // Others are reserved: to be skipped (RFC 7011, 3.3.2).
    }
    Ok(())
}

fn template_set(
    set: &mut Bytes<'_>,
    version: Version,
    purpose: Purpose,
    session: &mut Session,
    now: Timestamp,
) -> Result<(), Rejected> {
    // What is shorter than a template's head is padding.
    while set.left() >= 4 {
        let place = set.at();
        let parsed = match version {
            Version::V9 => Template::v9(set, purpose)?,
            Version::Ipfix => Template::ipfix(set, purpose)?,
        };
        match parsed {
            Parsed::Padding => return Ok(()),
            Parsed::Template(id, template) => session
                .templates
                .put(id, template, now)
                .map_err(|reason| Rejected { place: format!("byte {place}"), reason })?,
            Parsed::Withdrawn(id) => session.templates.withdraw(id, purpose),
        }
    }
    Ok(())
}

/// The records of a set; gives the sampling that they tell of, if they do.
fn data_set(
    set: &mut Bytes<'_>,
    template: &Template,
    head: Head,
    export: &Export,
    into: &mut Decoded,
    counted: &mut u32,
) -> Result<Option<u64>, Rejected> {
    let mut sampling = None;
    // What is shorter than the shortest record is padding.
    while set.left() >= template.shortest() {
        let record = record::read(set, template)?;
        match template.purpose() {
            Purpose::Options => sampling = record.sampling().or(sampling),
            Purpose::Data => {
                let id = format!(
                    "{}/{}/{}/{}/{counted}",
                    export.exporter,
                    head.key.domain,
                    head.exported / 1_000_000_000,
                    head.sequence
                );
                into.flows.extend(record.flow(id, export));
            }
        }
        *counted += 1;
    }
    Ok(sampling)
}

#[cfg(test)]
pub(super) mod tests;
