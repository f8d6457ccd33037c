//! One report as bytes: marker, length, position, CRC, JSON.

use model::{Report, Seq};

/// Begins every frame, so that the next one is found behind a damaged one.
const MARKER: [u8; 4] = *b"HSF1";

/// Marker, length of the body, position, CRC of the three parts after it.
pub(super) const HEADER: usize = 4 + 4 + 8 + 4;

/// Largest body that is believed; a report is cut to the wire's frame size before it comes here.
pub(super) const MAX_BODY: usize = wire::link::MAX_FRAME;

/// Positions are given out one by one, or go on from the microseconds since 1970: one from here on is nobody's.
pub(super) const MAX_POSITION: u64 = 1 << 62;

/// Bytes that are summed up in search of the next frame of one file, at most (I11): what a report says can look like a marker, but not like
/// a length, so that behind real damage the next one is found at once; a file that was made for it would be searched for hours.
pub(super) const MAX_SEARCH: usize = 256 << 20;

pub(super) fn encode(seq: Seq, report: &Report) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    // Plain data with text keys: it cannot fail; if it did, an empty body would be told apart when read.
    if serde_json::to_writer(&mut bytes, report).is_err() {
        bytes.truncate(HEADER);
    }
    let length = u32::try_from(bytes.len() - HEADER).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&MARKER);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&seq.0.to_le_bytes());
    let crc = crc(&bytes);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A whole, undamaged frame at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) seq: Seq,
    /// Header and body.
    pub(super) size: usize,
}

/// Looks for a frame at the beginning of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Option<Frame> {
    let header = bytes.get(..HEADER)?;
    if header[..4] != MARKER {
        return None;
    }
    let number =
        |range: std::ops::Range<usize>| header[range].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    let length = usize::try_from(number(4..8)).ok().filter(|length| *length <= MAX_BODY)?;
    let frame = bytes.get(..HEADER + length).filter(|_| number(8..16) < MAX_POSITION)?;
    (u64::from(crc(frame)) == number(16..20))
        .then_some(Frame { seq: Seq(number(8..16)), size: HEADER + length })
}

/// The body of an undamaged frame. `None`: written by a version that this one does not understand.
pub(super) fn report(frame: &[u8]) -> Option<Report> {
    serde_json::from_slice(frame.get(HEADER..)?).ok()
}

/// Offset of the next whole frame in `bytes` from `from` on, for which at most `search` bytes are looked at, and that is taken off it.
pub(super) fn next(bytes: &[u8], from: usize, search: &mut usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.windows(4).position(|window| window == MARKER)?;
        if decode(&bytes[at..]).is_some() {
            return Some(at);
        }
        let length: &[u8; 4] = bytes.get(at + 4..)?.first_chunk()?;
        let summed = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        *search = search.checked_sub(if summed <= MAX_BODY { HEADER + summed } else { HEADER })?;
        at += 1;
    }
}

fn crc(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[4..16]);
    hasher.update(&frame[HEADER..]);
    hasher.finalize()
}
