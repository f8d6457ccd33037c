//! Memory of a process: all its writable private mappings, up to a limit, with an index of what lies where.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use model::ActionFailure;
use serde_json::json;

use super::{Bundle, skip_if_gone};
use crate::{aside::Aside, contain::process::Held};

const MAX_MAPS: u64 = 16 << 20;

/// One mapping that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    name: String,
}

/// Writes `PID/memory.bin` and `PID/memory.json`; `left` is what remains of the limit over all processes.
pub(super) fn capture(
    bundle: &mut Bundle,
    aside: &mut Aside,
    held: &Held,
    left: &mut u64,
) -> Result<(), ActionFailure> {
    let pid = held.pid();
    let path = held.proc_path("maps");
    let Some(maps) = skip_if_gone(bundle, &path, aside.read_some(Path::new(&path), MAX_MAPS)) else {
        return Ok(());
    };
    let path = PathBuf::from(held.proc_path("mem"));
    let mut mappings = parse(&String::from_utf8_lossy(&maps));
    let whole: u64 = mappings.iter().map(|mapping| mapping.end - mapping.start).sum();
    let mut room = *left;
    for mapping in &mut mappings {
        mapping.end = mapping.end.min(mapping.start.saturating_add(room));
        room -= mapping.end - mapping.start;
    }
    mappings.retain(|mapping| mapping.end > mapping.start);
    if whole > *left {
        bundle.note(format!("{pid}/memory.bin: {left} of {whole} bytes are within the limit"));
    }
    let mut index = Vec::new();
    let mut at = 0_u64;
    for mapping in &mappings {
        let length = mapping.end - mapping.start;
        index.push(
            json!({ "address": mapping.start, "length": length, "offset": at, "mapping": mapping.name }),
        );
        at += length;
    }
    *left -= at;
    let mut reader = Memory { aside, path, mappings, current: 0, at: 0, silent: None, notes: Vec::new() };
    bundle.add(&format!("{pid}/memory.bin"), &mut reader, at)?;
    for note in reader.notes {
        bundle.note(format!("{pid}/memory.bin: {note}"));
    }
    bundle.add_json(&format!("{pid}/memory.json"), &json!(index))
}

/// The mappings one after the other; a page that cannot be read counts as zeros, so that offsets stay true, and so does the rest of a
/// mapping that does not answer.
struct Memory<'a> {
    aside: &'a mut Aside,
    path: PathBuf,
    mappings: Vec<Mapping>,
    current: usize,
    at: u64,
    /// The mapping that does not answer.
    silent: Option<usize>,
    notes: Vec<String>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const PAGE: u64 = 4096;
        let Some(mapping) = self.mappings.get(self.current) else { return Ok(0) };
        let address = mapping.start + self.at;
        let left = mapping.end - address;
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let mut length = 0;
        if self.silent != Some(self.current) {
            let mut answer = self.aside.read_part(&self.path, address, room as u64);
            let failure = loop {
                match answer.read(&mut buffer[length..room]) {
                    Ok(0) => break None,
                    Ok(more) => length += more,
                    Err(error) => break Some(error),
                }
            };
            if let Some(error) = failure.filter(|error| error.raw_os_error().is_none()) {
                self.silent = Some(self.current);
                self.notes.push(format!("{address:#x} to {:#x} ({}): {error}", mapping.end, mapping.name));
            }
        }
        if length == 0 {
            length = match self.silent {
                Some(silent) if silent == self.current => room,
                _ => usize::try_from(PAGE - address % PAGE).unwrap_or(room).min(room),
            };
            buffer[..length].fill(0);
        }
        self.at += length as u64;
        if self.at >= mapping.end - mapping.start {
            self.current += 1;
            self.at = 0;
        }
        Ok(length)
    }
}

/// Writable private mappings of proc_pid_maps(5). Mappings of devices are left out: reading those may act.
fn parse(maps: &str) -> Vec<Mapping> {
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(6, ' ');
            let (range, permissions) = (fields.next()?, fields.next()?);
            let name = fields.nth(3).unwrap_or_default().trim_start();
            let wanted =
                permissions.starts_with("rw") && permissions.ends_with('p') && !name.starts_with("/dev/");
            let (start, end) = range.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let end = u64::from_str_radix(end, 16).ok()?;
            (wanted && start < end).then(|| Mapping { start, end, name: name.to_owned() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_private_mappings_are_taken() {
        let maps = "55d0-55d8 r-xp 00000000 08:01 5 /usr/bin/a\n\
                    55e0-55e8 rw-p 00000000 00:00 0                          [heap]\n\
                    7000-7008 rw-s 00000000 00:01 7 /memfd:x (deleted)\n\
                    7100-7108 rw-p 00000000 00:05 7 /dev/dri/card0\n\
                    7200-7208 rw-p 00000000 00:00 0 \n\
                    rubbish\n";
        let found = parse(maps);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], Mapping { start: 0x55e0, end: 0x55e8, name: "[heap]".into() });
        assert_eq!(found[1].name, "");
    }
}
