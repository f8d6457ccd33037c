//! One record's values to a flow (iana.org/assignments/ipfix; those below 128 are version 9's, too).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::Timestamp;

use super::{
    super::read::Rejected,
    Direction, Flow, Verdict,
    bytes::Bytes,
    template::{Length, Template},
};

/// Under this enterprise an element means the other direction (RFC 5103).
const REVERSE: u32 = 29_305;

const MILLI: i64 = 1_000_000;

/// What a record needs to know of its datagram.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) exporter: IpAddr,
    /// Milliseconds.
    pub(super) uptime: Option<u32>,
    /// Nanoseconds since 1970, by the exporter's clock.
    pub(super) exported: i64,
    /// What is to be added to the exporter's times.
    pub(super) shift: i64,
    pub(super) now: Timestamp,
}

/// The values that we know.
#[derive(Debug, Default)]
pub(super) struct Record {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    protocol: Option<u8>,
    bytes: Option<u64>,
    bytes_back: Option<u64>,
    packets: Option<u64>,
    flags: Option<u16>,
    direction: Option<Direction>,
    verdict: Option<Verdict>,
    began: Option<When>,
    ended: Option<When>,
    /// When the exporter was started, in milliseconds since 1970.
    started: Option<u64>,
    interval: Option<u64>,
    sampled: Option<u64>,
    skipped: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum When {
    /// Nanoseconds since 1970.
    At(i64),
    /// Milliseconds since the exporter was started.
    Uptime(u32),
    /// Microseconds before the export.
    Before(u64),
}

pub(super) fn read(set: &mut Bytes<'_>, template: &Template) -> Result<Record, Rejected> {
    let mut record = Record::default();
    for field in template.fields() {
        let length = match field.length {
            Length::Fixed(length) => usize::from(length),
            Length::Variable => match set.u8()? {
                255 => usize::from(set.u16()?),
                short => usize::from(short),
            },
        };
        let value = set.take(length)?;
        match field.enterprise {
            0 => record.set(field.element, value),
            REVERSE if matches!(field.element, 1 | 85) => record.bytes_back = number(value),
            _ => {}
        }
    }
    Ok(record)
}

impl Record {
    fn set(&mut self, element: u16, value: &[u8]) {
        match element {
            1 | 85 => self.bytes = number(value).or(self.bytes),
            2 | 86 => self.packets = number(value).or(self.packets),
            4 => self.protocol = small(value),
            6 => self.flags = small(value),
            7 | 180 | 182 => self.source_port = small(value).or(self.source_port),
            11 | 181 | 183 => self.destination_port = small(value).or(self.destination_port),
            8 | 27 => self.source = address(value).or(self.source),
            12 | 28 => self.destination = address(value).or(self.destination),
            61 => {
                self.direction = match number(value) {
                    Some(0) => Some(Direction::Ingress),
                    Some(1) => Some(Direction::Egress),
                    _ => None,
                }
            }
            // forwardingStatus: its upper two bits.
            89 => {
                self.verdict = match number(value).map(|status| (status & 0xc0) >> 6) {
                    Some(1) => Some(Verdict::Forwarded),
                    Some(2) => Some(Verdict::Dropped),
                    _ => self.verdict,
                }
            }
            // firewallEvent: created, deleted, denied.
            233 => {
                self.verdict = match number(value) {
                    Some(1 | 2) => Some(Verdict::Forwarded),
                    Some(3) => Some(Verdict::Dropped),
                    _ => self.verdict,
                }
            }
            22 => self.began = small(value).map(When::Uptime),
            21 => self.ended = small(value).map(When::Uptime),
            150 => self.began = scaled(value, 1000 * MILLI),
            151 => self.ended = scaled(value, 1000 * MILLI),
            152 => self.began = scaled(value, MILLI),
            153 => self.ended = scaled(value, MILLI),
            154 | 156 => self.began = ntp(value),
            155 | 157 => self.ended = ntp(value),
            158 => self.began = number(value).map(When::Before),
            159 => self.ended = number(value).map(When::Before),
            160 => self.started = number(value),
            34 | 50 => self.interval = number(value),
            305 => self.sampled = number(value),
            306 => self.skipped = number(value),
            _ => {}
        }
    }

    /// A flow; none where it has no address.
    pub(super) fn flow(self, id: String, export: &Export) -> Option<Flow> {
        if self.source.is_none() && self.destination.is_none() {
            return None;
        }
        let now = export.now.0;
        let time = |when: Option<When>| self.time(when?, export).map(|at| at.saturating_add(export.shift));
        let (began, ended) = (time(self.began), time(self.ended));
        // None ends after it was told of: that would be another clock's time within one exporter.
        let at = ended.or(began).unwrap_or(now).min(now);
        Some(Flow {
            id,
            exporter: export.exporter,
            at,
            began: began.filter(|began| *began <= at),
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            bytes: self.bytes,
            bytes_back: self.bytes_back,
            packets: self.packets,
            tcp_flags: self.flags,
            direction: self.direction,
            verdict: self.verdict,
        })
    }

    /// One packet in how many is looked at, where it says so.
    pub(super) fn sampling(&self) -> Option<u64> {
        let in_turn = || {
            let sampled = self.sampled.filter(|sampled| *sampled > 0)?;
            Some(sampled.saturating_add(self.skipped?) / sampled)
        };
        self.interval.or_else(in_turn).filter(|interval| *interval > 1)
    }

    fn time(&self, when: When, export: &Export) -> Option<i64> {
        match when {
            When::At(at) => Some(at),
            When::Before(micros) => {
                export.exported.checked_sub(i64::try_from(micros).ok()?.checked_mul(1000)?)
            }
            When::Uptime(uptime) => match (export.uptime, self.started) {
                (Some(exported), _) => {
                    // The counter goes around after 49 days; what lies ahead is of another clock.
                    let before = exported.wrapping_sub(uptime);
                    let before = if before > u32::MAX / 2 { 0 } else { before };
                    export.exported.checked_sub(i64::from(before) * MILLI)
                }
                (None, Some(started)) => {
                    i64::try_from(started).ok()?.checked_add(i64::from(uptime))?.checked_mul(MILLI)
                }
                (None, None) => None,
            },
        }
    }
}

/// A whole number of up to eight bytes: exporters may leave out leading zeros (RFC 7011, 6.2).
fn number(value: &[u8]) -> Option<u64> {
    let fits = !value.is_empty() && value.len() <= 8;
    fits.then(|| value.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

fn small<T: TryFrom<u64>>(value: &[u8]) -> Option<T> {
    T::try_from(number(value)?).ok()
}

fn scaled(value: &[u8], nanos: i64) -> Option<When> {
    i64::try_from(number(value)?).ok()?.checked_mul(nanos).map(When::At)
}

/// Seconds since 1900 and their fraction (RFC 7011, 6.1.9; RFC 5905).
fn ntp(value: &[u8]) -> Option<When> {
    const TO_1970: i64 = 2_208_988_800;
    let eight = u64::from_be_bytes(value.try_into().ok()?);
    let seconds = i64::try_from(eight >> 32).ok()? - TO_1970;
    let fraction = ((eight & 0xffff_ffff) * 1_000_000_000) >> 32;
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::try_from(fraction).ok()?).map(When::At)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let four = || Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?)));
    let sixteen = || Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)).to_canonical());
    four().or_else(sixteen)
}
