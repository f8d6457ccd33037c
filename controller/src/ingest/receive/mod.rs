//! What comes to us by itself: each source has a thread of its own with what it listens on or asks, and puts what comes into its inbox.
//!
//! So no source waits for another: thread, inbox and link are its own. Nothing here reads a record; [`super::source`] does.

mod desk;
mod fair;
mod folder;
mod https;
mod relay;
pub(crate) mod split;
mod udp;

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use model::Timestamp;
use tokio_util::sync::CancellationToken;

pub(super) use self::desk::{Count, Desk};
use super::{
    inbox::Inbox,
    spec::{Door, SourceSpec},
};
use crate::config::Clock;

/// How long what failed waits before it is tried again, at first and at most.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What a receiver works with.
#[derive(Clone)]
pub(super) struct Post {
    pub(super) inbox: Arc<Inbox>,
    pub(super) desk: Arc<Desk>,
    pub(super) clock: Clock,
    /// Whether what was there before the first start is asked for.
    pub(super) start: super::Start,
    pub(super) stop: CancellationToken,
}

impl Post {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Waits; whether it was told to stop meanwhile.
    async fn rest(&self, time: Duration) -> Stopped {
        tokio::select! {
            () = self.stop.cancelled() => Stopped::Yes,
            () = tokio::time::sleep(time) => Stopped::No,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    No,
    Yes,
}

/// Waits longer after each failure.
#[derive(Debug)]
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(AGAIN[0])
    }

    fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(AGAIN[1]);
        now
    }
}

/// A receiver at work; dropped, it is told to stop.
pub(super) struct Receiving {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Receiving {
    /// Starts what the source's place needs; nothing for a log.
    pub(super) fn start(spec: &SourceSpec, post: Post) -> io::Result<Option<Self>> {
        if matches!(spec.door, Door::Log(_)) {
            return Ok(None);
        }
        let (spec, stop) = (spec.clone(), post.stop.clone());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        let thread = std::thread::Builder::new()
            .name(format!("in-{}", spec.format.name()))
            .spawn(move || runtime.block_on(receive(&spec, &post)))?;
        Ok(Some(Self { stop, thread: Some(thread) }))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a receiver's thread ended in a panic");
        }
    }
}

async fn receive(spec: &SourceSpec, post: &Post) {
    match &spec.door {
        Door::Log(_) => {}
        Door::Folder(path) => folder::watch(spec.format, path, post).await,
        Door::Https(door) => https::serve(spec.format, door, post).await,
        Door::Udp(door) => udp::serve(door, post).await,
        Door::Relay(door) => relay::follow(door, post).await,
    }
}

#[cfg(test)]
mod tests;
