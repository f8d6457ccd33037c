//! A datagram's bytes in network order, read from the front.

use super::super::read::Rejected;

#[derive(Debug, Clone)]
pub(super) struct Bytes<'a> {
    data: &'a [u8],
    /// Of the next byte, in the whole datagram.
    at: usize,
    end: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, end: data.len() }
    }

    /// Length of the datagram.
    pub(super) fn whole(&self) -> usize {
        self.data.len()
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.end - self.at
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Rejected> {
        let wrong = || Rejected {
            place: format!("byte {}", self.at),
            reason: format!("{length} bytes are needed, {} are left", self.left()),
        };
        let end = self.at.checked_add(length).filter(|end| *end <= self.end).ok_or_else(wrong)?;
        let taken = self.data.get(self.at..end).ok_or_else(wrong)?;
        self.at = end;
        Ok(taken)
    }

    /// The next bytes for themselves.
    pub(super) fn part(&mut self, length: usize) -> Result<Self, Rejected> {
        let at = self.at;
        self.take(length)?;
        Ok(Self { data: self.data, at, end: at + length })
    }

    pub(super) fn u8(&mut self) -> Result<u8, Rejected> {
        Ok(self.take(1)?.first().copied().unwrap_or(0))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Rejected> {
        Ok(self.take(2)?.first_chunk().map_or(0, |two| u16::from_be_bytes(*two)))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Rejected> {
        Ok(self.take(4)?.first_chunk().map_or(0, |four| u32::from_be_bytes(*four)))
    }
}
