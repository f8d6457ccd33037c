//! Drains both rings on a thread of its own, critical records first.
//!
//! Order: a bulk record never comes out before a critical one that was made before it (what a process did after its exec
//! comes after the exec), since the bulk ring's position is taken before the critical ring is drained. The other way round
//! a critical record may overtake: compare [`Record::at`].
//!
//! Wake-ups: exec and its like wake the reader at once. Bulk records wake it only if it had caught up; while there are
//! many it looks every half millisecond instead, so that their makers do not pay for wake-ups.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{decode, error::ProbeError, ring::Ring};
use crate::record::Record;

/// fork and exit do not wake the reader: they are seen after this at the latest.
const IDLE_LOOK: Duration = Duration::from_millis(50);
/// Pause between looks while bulk records are many.
const BUSY_LOOK: Duration = Duration::from_micros(500);
/// From so many bulk records in one look on they are "many".
const MANY: usize = 16;
/// Bulk records between two looks at the critical ring.
const BULK_BATCH: usize = 128;

/// Ends a reader from another thread. Clones end the same reader.
#[derive(Debug, Clone)]
pub struct StopFlag(Arc<OwnedFd>);

impl StopFlag {
    /// A flag that is not raised.
    ///
    /// # Errors
    /// [`ProbeError::System`] if there is no descriptor left.
    pub fn new() -> Result<Self, ProbeError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|err| ProbeError::System { operation: "eventfd", source: err.into() })?;
        Ok(Self(Arc::new(fd)))
    }

    /// Raises it, for ever.
    pub fn stop(&self) {
        // Fails only if the counter is at its limit, and then the flag is raised already.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for StopFlag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The reading end of both rings.
pub struct Reader {
    pub(super) critical: Ring,
    pub(super) bulk: Ring,
    pub(super) undecoded: Arc<AtomicU64>,
}

impl Reader {
    /// Gives every record to `sink` until `stop` is raised; what stands in the rings then is still given out. Blocks: run
    /// it on a thread of its own.
    ///
    /// # Errors
    /// [`ProbeError::System`] if waiting fails.
    pub fn run(self, stop: &StopFlag, sink: impl FnMut(Record)) -> Result<(), ProbeError> {
        self.run_with(stop, &mut { sink }, |sink, record| sink(record), |_| {})
    }

    /// [`Reader::run`] with a state that is also given to `between` after each look, at least every 50 ms.
    ///
    /// # Errors
    /// As [`Reader::run`].
    pub fn run_with<S>(
        mut self,
        stop: &StopFlag,
        state: &mut S,
        mut take_in: impl FnMut(&mut S, Record),
        mut between: impl FnMut(&mut S),
    ) -> Result<(), ProbeError> {
        loop {
            let (critical, bulk) = self.look(&mut |record| take_in(state, record))?;
            if stop_raised(stop)? {
                self.look(&mut |record| take_in(state, record))?;
                return Ok(());
            }
            between(state);
            if bulk >= MANY {
                wait(&[self.critical.as_fd(), stop.as_fd()], BUSY_LOOK)?;
            } else if critical + bulk == 0 {
                wait(&[self.critical.as_fd(), self.bulk.as_fd(), stop.as_fd()], IDLE_LOOK)?;
            }
        }
    }

    /// Gives out everything that stands in the rings now; returns how many critical and bulk records.
    ///
    /// # Errors
    /// [`ProbeError::System`] if a ring's memory cannot be mapped.
    pub fn look(&mut self, sink: &mut impl FnMut(Record)) -> Result<(usize, usize), ProbeError> {
        let undecoded = Arc::clone(&self.undecoded);
        let mut each = |bytes: &[u8]| match decode::decode(bytes) {
            Ok(record) => sink(record),
            Err(err) => {
                if undecoded.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(%err, "a record of the kernel side is not understood; more are only counted");
                }
            }
        };
        let mark = self.bulk.produced();
        let (mut critical, mut bulk) = (0, 0);
        loop {
            critical += self.critical.drain(u64::MAX, usize::MAX, &mut each).map_err(unmapped)?;
            let batch = self.bulk.drain(mark, BULK_BATCH, &mut each).map_err(unmapped)?;
            bulk += batch;
            if batch < BULK_BATCH {
                return Ok((critical, bulk));
            }
        }
    }
}

fn unmapped(source: std::io::Error) -> ProbeError {
    ProbeError::System { operation: "read a ring", source }
}

fn stop_raised(stop: &StopFlag) -> Result<bool, ProbeError> {
    wait(&[stop.as_fd()], Duration::ZERO).map(|ready| ready > 0)
}

fn wait(fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<usize, ProbeError> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    match poll(&mut polled, Some(&timeout)) {
        Ok(ready) => Ok(ready),
        Err(rustix::io::Errno::INTR) => Ok(0),
        Err(err) => Err(ProbeError::System { operation: "poll", source: err.into() }),
    }
}
