//! The inbox of a source and who fills it, as the source sees them.

use std::{path::PathBuf, sync::Arc};

use model::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    IngestConfig, SourceSpec,
    inbox::Inbox,
    position::Position,
    receive::{Count, Desk, Post, Receiving},
};

/// Opened at the first look; until that succeeds it is tried again at each.
pub(super) struct Arrivals {
    folder: PathBuf,
    desk: Arc<Desk>,
    open: Option<(Arc<Inbox>, Option<Receiving>)>,
    failed: Option<String>,
}

impl Arrivals {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, desk: Arc::default(), open: None, failed: None }
    }

    /// Opens the inbox and begins to take in, if that has not been done.
    pub(super) fn open(&mut self, spec: &SourceSpec, config: &IngestConfig) {
        if self.open.is_some() {
            return;
        }
        let opened = Inbox::open(&self.folder).and_then(|inbox| {
            let inbox = Arc::new(inbox);
            let post = Post {
                inbox: Arc::clone(&inbox),
                desk: Arc::clone(&self.desk),
                clock: Arc::clone(&config.clock),
                start: config.start,
                stop: CancellationToken::new(),
            };
            Ok((inbox, Receiving::start(spec, post)?))
        });
        match opened {
            Ok(open) => (self.open, self.failed) = (Some(open), None),
            Err(error) => self.failed = Some(format!("{}: {error}", self.folder.display())),
        }
    }

    /// Files that are dealt with go.
    pub(super) fn settled(&self, position: &Position) {
        let Some((inbox, _)) = &self.open else { return };
        if let Err(error) = inbox.settled(position) {
            tracing::warn!(%error, inbox = %self.folder.display(), "what is dealt with cannot be removed");
        }
    }

    /// Why nothing can come, if so.
    pub(super) fn why_blind(&self) -> Option<String> {
        self.failed.clone().or_else(|| self.desk.why_blind())
    }

    pub(super) fn summary(&self) -> String {
        let held = self.open.as_ref().map_or(0, |(inbox, _)| inbox.held());
        format!("{held} bytes held{}{}", if self.desk.is_quiet() { "" } else { ", " }, self.desk.summary())
    }

    pub(super) fn degraded(&self, is_recent: impl Fn(Timestamp) -> bool) -> Vec<String> {
        self.desk.degraded(is_recent)
    }

    /// What was counted since this was last asked.
    pub(super) fn news(&self) -> Vec<(Count, u64)> {
        self.desk.news()
    }
}
