//! The last events of each process, as context for a finding.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use model::{Activity, Event, ProcessKey};

/// A bounded memory of events by process.
#[derive(Debug, Default)]
pub struct Recent {
    rings: HashMap<ProcessKey, Ring>,
    bytes: usize,
    turn: u64,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    used: u64,
}

impl Recent {
    /// Events kept of one process (I11).
    pub const PER_PROCESS: usize = 16;
    /// Processes of which events are kept; beyond, the quarter that was quiet longest is forgotten.
    pub const PROCESSES: usize = 1024;
    /// Bytes of all of them; same.
    pub const BYTES: usize = 4 << 20;

    /// Remembers an event.
    pub fn push(&mut self, mut event: Event) {
        if matches!(event.activity, Activity::Fork { .. }) {
            return; // a shell's forks would push out what it did
        }
        event.ancestors = Arc::new([]);
        event.parent = None; // a finding carries its ancestors once
        self.turn += 1;
        let key = event.process.key;
        if self.rings.len() >= Self::PROCESSES && !self.rings.contains_key(&key) || self.bytes > Self::BYTES {
            self.forget_quiet();
        }
        let ring = self.rings.entry(key).or_default();
        ring.used = self.turn;
        let mut added = weight(&event, ring.events.back());
        let mut removed = 0;
        if ring.events.len() == Self::PER_PROCESS
            && let Some(oldest) = ring.events.pop_front()
        {
            removed = weight(&oldest, None).min(ring.bytes);
        }
        if ring.events.is_empty() {
            added = weight(&event, None);
        }
        ring.events.push_back(event);
        let before = ring.bytes;
        ring.bytes = ring.bytes + added - removed;
        self.bytes = self.bytes + ring.bytes - before;
    }

    /// What is remembered of a process, oldest first.
    #[must_use]
    pub fn of(&self, process: ProcessKey) -> Vec<Event> {
        self.rings.get(&process).map(|ring| ring.events.iter().cloned().collect()).unwrap_or_default()
    }

    /// The process has ended.
    pub fn forget(&mut self, process: ProcessKey) {
        if let Some(ring) = self.rings.remove(&process) {
            self.bytes -= ring.bytes;
        }
    }

    /// Processes, and bytes.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.rings.len(), self.bytes)
    }

    fn forget_quiet(&mut self) {
        let mut used: Vec<(u64, ProcessKey)> =
            self.rings.iter().map(|(key, ring)| (ring.used, *key)).collect();
        used.sort_unstable();
        for (_, key) in used.iter().take(used.len() / 4 + 1) {
            self.forget(*key);
        }
    }
}

/// Bytes of an event, roughly; its process counts where it is another than the event's before.
fn weight(event: &Event, before: Option<&Event>) -> usize {
    let texts = match &event.activity {
        Activity::Exec { requested } => requested.len(),
        Activity::FileOpen { file, .. }
        | Activity::FileDelete { file }
        | Activity::FileMode { file, .. }
        | Activity::FileOwner { file, .. } => file.path.len(),
        Activity::FileRename { from, to } => from.path.len() + to.path.len(),
        Activity::FileLink { target, link, .. } => target.path.len() + link.path.len(),
        Activity::Mount { source, target, fs_type, .. } => source.len() + target.path.len() + fs_type.len(),
        Activity::DnsQuery { name, .. } | Activity::ModuleLoad { name } | Activity::Bpf { name, .. } => {
            name.len()
        }
        _ => 0,
    };
    let shared = before.is_some_and(|before| Arc::ptr_eq(&before.process, &event.process));
    let process = if shared { 0 } else { 2 * event.process.command_line.len() + event.process.exe.len() };
    size_of::<Event>() + event.id.node.as_str().len() + texts + process
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{event, process_key};

    #[test]
    fn the_last_events_of_a_process_are_kept_in_order() {
        let mut recent = Recent::default();
        for n in 0..40 {
            recent.push(event(process_key(7), n, Activity::IoUringSetup { entries: n as u32 }));
            recent.push(event(process_key(8), n, Activity::Fork { child: process_key(9) }));
        }
        let seqs: Vec<u64> = recent.of(process_key(7)).iter().map(|event| event.id.seq.0).collect();
        assert_eq!(seqs, (24..40).collect::<Vec<_>>());
        assert_eq!(recent.of(process_key(8)), []);
        recent.forget(process_key(7));
        assert_eq!(recent.sizes(), (0, 0));
    }

    #[test]
    fn i11_processes_and_bytes_are_bounded() {
        let mut recent = Recent::default();
        for n in 0..200_000_u64 {
            let name = "x".repeat((n % 4096) as usize);
            recent.push(event(process_key(n as u32 % 50_000), n, Activity::ModuleLoad { name }));
            let (processes, bytes) = recent.sizes();
            assert!(
                processes <= Recent::PROCESSES && bytes <= Recent::BYTES + (64 << 10),
                "{processes} {bytes}"
            );
        }
    }
}
