//! Blocks that are read by several threads, given out in the order in which they stand in their recording.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// What is read of several recordings, each in its order.
pub(super) struct Slots<T> {
    state: Mutex<State<T>>,
    /// For who takes.
    there: Condvar,
    /// For who reads each recording: nobody is woken for what is not his.
    room: Vec<Condvar>,
    ahead: u64,
}

struct State<T> {
    lanes: Vec<Lane<T>>,
    /// Nobody wants more.
    closed: bool,
}

struct Lane<T> {
    /// Number of the next one that is wanted.
    wanted: u64,
    /// Those that are there before their turn.
    there: BTreeMap<u64, T>,
    /// How many there are in all, once that is known.
    all: Option<u64>,
}

/// No more is wanted.
pub(super) struct Closed;

impl<T> Slots<T> {
    /// For so many recordings, of each of which at most `ahead` blocks are read before their turn (I11).
    pub(super) fn new(recordings: usize, ahead: u64) -> Self {
        let lanes = (0..recordings).map(|_| Lane { wanted: 0, there: BTreeMap::new(), all: None }).collect();
        let room = (0..recordings).map(|_| Condvar::new()).collect();
        let state = Mutex::new(State { lanes, closed: false });
        Self { state, there: Condvar::new(), room, ahead }
    }

    /// Waits until block `number` of a recording may be read.
    pub(super) fn may_read(&self, recording: usize, number: u64) -> Result<(), Closed> {
        let mut state = self.lock();
        while !state.closed && number >= state.lanes[recording].wanted + self.ahead {
            state = wait(&self.room[recording], state);
        }
        if state.closed { Err(Closed) } else { Ok(()) }
    }

    /// Block `number` is read.
    pub(super) fn put(&self, recording: usize, number: u64, block: T) {
        self.lock().lanes[recording].there.insert(number, block);
        self.there.notify_all();
    }

    /// A recording has so many blocks.
    pub(super) fn end(&self, recording: usize, all: u64) {
        self.lock().lanes[recording].all = Some(all);
        self.there.notify_all();
    }

    /// The next block of a recording; `None` at its end, or when no more is wanted.
    pub(super) fn take(&self, recording: usize) -> Option<T> {
        let mut state = self.lock();
        loop {
            let lane = &mut state.lanes[recording];
            let wanted = lane.wanted;
            if let Some(block) = lane.there.remove(&wanted) {
                lane.wanted += 1;
                drop(state);
                self.room[recording].notify_all();
                return Some(block);
            }
            if lane.all == Some(wanted) || state.closed {
                return None;
            }
            state = wait(&self.there, state);
        }
    }

    /// No more is wanted.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.there.notify_all();
        self.room.iter().for_each(Condvar::notify_all);
    }

    // Whoever panics while holding it ends the replay; the others must still come to their end.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a, T>(changed: &Condvar, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
    changed.wait(state).unwrap_or_else(PoisonError::into_inner)
}
