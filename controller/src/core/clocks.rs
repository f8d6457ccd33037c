//! A wall clock that is set while runs wait: what they wait for is as far away as it was.
//!
//! Deadlines are written down as times of the wall clock, since they outlive the process and the boot. So that an hour that never passed
//! expires no approval and no step, and an hour that comes twice keeps nothing waiting, the runs are told by how much it was set. What was set
//! while no controller ran is not known: then the wall clock counts.
//!
//! Where it is counted what was begun within the last hour, a clock counts that nobody sets: the wall clock without all by which it was set
//! while a controller ran, which is stored, and each run remembers what it was when it began.

use std::time::Duration;

use model::{AuditKind, RunId, Timestamp};
use respond::run::Input as RunInput;

use super::{Core, rows::Rows, turn::Turn};
use crate::{
    audit::Draft,
    config::ControllerConfig,
    store::{ReadBack, Store, StoreError, Table},
};

/// Less is slewing, or the time between the two readings while the machine is busy.
const SET: Duration = Duration::from_secs(2);

/// The wall clock and the kernel's own, read at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    wall: Timestamp,
    steady: Duration,
}

impl Clocks {
    pub(super) fn read(config: &ControllerConfig) -> Self {
        Self { steady: (config.steady)(), wall: (config.clock)() }
    }

    /// By how much the wall clock was set between the two, in nanoseconds; `None` where it was not.
    fn set_since(self, before: Self) -> Option<i64> {
        let passed =
            i128::try_from(self.steady.as_nanos()).ok()? - i128::try_from(before.steady.as_nanos()).ok()?;
        let by = i128::from(self.wall.0) - i128::from(before.wall.0) - passed;
        (by.unsigned_abs() >= SET.as_nanos()).then(|| i64::try_from(by).ok()).flatten()
    }
}

/// Row of [`Table::Meta`]: the sum of what the clock was set by.
const ROW: &[u8] = b"clock_set";

/// By how much the clock was set in all, at a start. If it stands before what it told already, it was set back meanwhile, by that much at
/// least: else whatever counts the last hour would count nothing but an old one until the clock has caught up.
pub(super) fn load(store: &Store, rows: &Rows, now: Timestamp) -> Result<i64, StoreError> {
    let stored: i64 = store.get(Table::Meta, ROW)?.unwrap_or_default();
    let least = rows.latest().map_or(i64::MAX, |latest| now.0.saturating_sub(latest.0));
    Ok(stored.min(least))
}

impl Core {
    /// A moment of the present wall clock, by a clock that nobody sets.
    pub(super) fn steadily(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_sub(self.state.clock_set))
    }

    /// In the first turn of all: what was found at the start counts also for the next one.
    pub(super) fn remember_clock(&self, turn: &mut Turn) {
        turn.batch.put(Table::Meta, ROW.to_vec(), &self.state.clock_set, ReadBack::No);
    }

    /// First in a turn.
    pub(super) fn follow_clock(&mut self, turn: &mut Turn) {
        let now = Clocks { wall: turn.now, ..Clocks::read(&self.config) };
        let Some(by) = now.set_since(self.clocks) else {
            // Slewing adds up to what is right: it is time that passed.
            self.clocks = now;
            return;
        };
        self.clocks = now;
        self.state.clock_set = self.state.clock_set.saturating_add(by);
        self.remember_clock(turn);
        let seconds = by as f64 / 1e9;
        tracing::warn!("the wall clock was set by {seconds:+.1} s: what runs wait for moves with it");
        turn.audit(Draft {
            at: turn.now,
            actor: super::controller(),
            kind: AuditKind::System,
            incident: None,
            run: None,
            action: None,
            what: format!("the wall clock was set by {seconds:+.1} s; what runs wait for moves with it"),
        });
        let runs: Vec<RunId> = self.state.runs.keys().cloned().collect();
        for run in runs {
            self.drive(&run, RunInput::ClockSet { by }, turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: i64, steady: u64) -> Clocks {
        Clocks { wall: Timestamp(wall * 1_000_000_000), steady: Duration::from_secs(steady) }
    }

    #[test]
    fn only_what_no_time_explains_is_a_clock_that_was_set() {
        let before = at(1000, 50);
        assert_eq!(at(1010, 60).set_since(before), None);
        assert_eq!(at(1011, 60).set_since(before), None, "slewing");
        assert_eq!(
            at(1000 + 86_400, 50 + 86_400).set_since(before),
            None,
            "a night asleep is time that passed"
        );
        assert_eq!(at(4610, 60).set_since(before), Some(3_600_000_000_000));
        assert_eq!(at(-2590, 60).set_since(before), Some(-3_600_000_000_000));
    }
}
