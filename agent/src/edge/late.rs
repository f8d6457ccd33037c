//! Processes that were judged before the record of their exec came.

use std::collections::{HashMap, VecDeque};

use model::{BootNs, ProcessKey};

/// Since when each stood held, so that a record that comes after all does not let it go a second time.
#[derive(Debug, Default)]
pub(super) struct Late {
    since: HashMap<ProcessKey, BootNs>,
    order: VecDeque<ProcessKey>,
}

impl Late {
    /// Processes remembered (I11). A record is either lost or comes within seconds.
    const MOST: usize = 1024;

    pub(super) fn judged(&mut self, process: ProcessKey, since: BootNs) {
        if self.since.insert(process, since).is_none() {
            self.order.push_back(process);
            if self.order.len() > Self::MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.since.remove(&oldest);
            }
        }
    }

    /// Whether the exec of this time has been judged: the kernel notes the record's own time with a held process.
    pub(super) fn was_judged(&self, process: ProcessKey, exec: BootNs) -> bool {
        self.since.get(&process).is_some_and(|since| exec <= *since)
    }
}
