//! From the kernel's clock to the wall clock.
//!
//! Records carry nanoseconds since boot (suspend included); people and the controller want UTC. The offset between the two is
//! measured at the start and again every second; it is replaced only when it has moved by more than [`JUMP_NS`], so that a wall
//! clock that was set shows from then on, and the measurement's own jitter does not. An event gets its time once, when it is
//! taken in, and keeps it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use model::{BootNs, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Smaller movements are jitter or slewing; slewing adds up and is followed in steps of this.
const JUMP_NS: i64 = 10_000_000;

/// Turns [`BootNs`] into [`Timestamp`].
#[derive(Debug)]
pub struct Clock {
    offset: AtomicI64,
    jumps: AtomicU64,
}

impl Clock {
    /// Measures the offset now.
    #[must_use]
    pub fn new() -> Self {
        Self { offset: AtomicI64::new(measure()), jumps: AtomicU64::new(0) }
    }

    /// When something happened, by the wall clock as it is set now.
    #[must_use]
    pub fn at(&self, boot: BootNs) -> Timestamp {
        let boot = i64::try_from(boot.0).unwrap_or(i64::MAX);
        Timestamp(boot.saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    /// Now, by the kernel's clock.
    #[must_use]
    pub fn boot_now() -> BootNs {
        BootNs(u64::try_from(nanoseconds(ClockId::Boottime)).unwrap_or(0))
    }

    /// Now, by the wall clock as events see it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.at(Self::boot_now())
    }

    /// Measures again; returns by how much the wall clock was set, if it was.
    pub fn measure(&self) -> Option<i64> {
        self.follow(measure())
    }

    /// How often the wall clock was set while we looked.
    #[must_use]
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }

    fn follow(&self, measured: i64) -> Option<i64> {
        let moved = measured.saturating_sub(self.offset.load(Ordering::Relaxed));
        if moved.abs() <= JUMP_NS {
            return None;
        }
        self.offset.store(measured, Ordering::Relaxed);
        self.jumps.fetch_add(1, Ordering::Relaxed);
        Some(moved)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Wall clock minus boot clock. The boot clock is read before and after, and the narrowest of three readings is taken, so that
/// being interrupted in between does not count.
fn measure() -> i64 {
    let reading = || {
        let before = nanoseconds(ClockId::Boottime);
        let wall = nanoseconds(ClockId::Realtime);
        let after = nanoseconds(ClockId::Boottime);
        (after - before, wall - (before + (after - before) / 2))
    };
    let mut best = reading();
    for _ in 0..2 {
        best = best.min(reading());
    }
    best.1
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_wall_clock() {
        let clock = Clock::new();
        let wall =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
        assert!((clock.now().0 - wall).abs() < 1_000_000_000);
    }

    #[test]
    fn follows_a_jump_and_not_jitter() {
        let clock = Clock::new();
        let before = clock.at(BootNs(5));
        let offset = clock.offset.load(Ordering::Relaxed);
        assert_eq!(clock.follow(offset + 1_000_000), None);
        assert_eq!(clock.at(BootNs(5)), before);
        assert_eq!(clock.follow(offset - 3_600_000_000_000), Some(-3_600_000_000_000));
        assert_eq!(clock.at(BootNs(5)), Timestamp(before.0 - 3_600_000_000_000));
        assert_eq!(clock.jumps(), 1);
    }
}
