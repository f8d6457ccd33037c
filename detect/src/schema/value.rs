//! Field values, borrowed from the event.

use std::{
    fmt::{self, Write},
    net::IpAddr,
    sync::Arc,
};

use model::{Process, Timestamp};

/// A field's value.
#[derive(Debug, Clone, Copy)]
pub enum FieldValue<'a> {
    /// The event does not have the field.
    Absent,
    /// A text.
    Str(&'a str),
    /// A whole number; as a text its decimal digits.
    Num(i64),
    /// A truth value; as a text `true` or `false`.
    Bool(bool),
    /// An address; as a text its usual form (RFC 5952 for IPv6).
    Ip(IpAddr),
    /// A point in time; as a text RFC 3339 in UTC with milliseconds.
    Time(Timestamp),
    /// Several values: a test holds if it holds for one of them. Empty counts as there (not absent).
    List(List<'a>),
}

/// Several values without allocation.
#[derive(Debug, Clone, Copy)]
pub enum List<'a> {
    /// Texts of the event.
    Strings(&'a [String]),
    /// Fixed texts.
    Fixed(&'static [&'static str]),
    /// Two texts.
    Pair(&'a str, &'a str),
    /// The name of each bit that is set; a bit without a name is left out.
    Bits(u64, &'static [(u64, &'static str)]),
    /// Images of processes.
    Images(&'a [Arc<Process>]),
}

impl<'a> List<'a> {
    /// One after another.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let next = match self {
                Self::Strings(texts) => texts.get(at).map(String::as_str),
                Self::Fixed(texts) => texts.get(at).copied(),
                Self::Pair(first, second) => [first, second].get(at).copied(),
                Self::Images(processes) => processes.get(at).map(|process| process.exe.as_str()),
                Self::Bits(bits, names) => {
                    while names.get(at).is_some_and(|(bit, _)| bits & bit == 0) {
                        at += 1;
                    }
                    names.get(at).map(|(_, name)| *name)
                }
            };
            at += 1;
            next
        })
    }
}

impl<'a> FieldValue<'a> {
    /// Whether the event does not have the field.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The value's text; `None` for absent values and lists (take their elements). Only numbers, addresses and times use
    /// `scratch`; nothing allocates.
    pub fn text<'b>(&'b self, scratch: &'b mut Scratch) -> Option<&'b str> {
        match self {
            Self::Absent | Self::List(_) => None,
            Self::Str(text) => Some(text),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            Self::Num(number) => Some(scratch.print(number)),
            Self::Ip(address) => Some(scratch.print(address)),
            Self::Time(time) => Some(scratch.print(time)),
        }
    }

    /// Calls `test` with the value, or with each element of a list, until one holds. Absent: never called.
    pub fn any(self, mut test: impl FnMut(FieldValue<'a>) -> bool) -> bool {
        match self {
            Self::Absent => false,
            Self::List(list) => list.iter().any(|text| test(FieldValue::Str(text))),
            one => test(one),
        }
    }
}

impl<'a> From<&'a str> for FieldValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Str(text)
    }
}

/// Room for the text of one value that is not a text.
#[derive(Debug, Clone, Copy)]
pub struct Scratch {
    bytes: [u8; Self::SIZE],
    used: usize,
}

impl Scratch {
    /// Longer than the longest number, address and time.
    const SIZE: usize = 64;

    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: [0; Self::SIZE], used: 0 }
    }

    fn print(&mut self, value: &dyn fmt::Display) -> &str {
        self.used = 0;
        // Everything that comes here is shorter than SIZE; were it not, the text would end at the limit.
        let _ = write!(self, "{value}");
        std::str::from_utf8(&self.bytes[..self.used]).unwrap_or_default()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Scratch {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.used..self.used + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}
