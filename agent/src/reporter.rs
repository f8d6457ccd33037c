//! Drafts become reports: masked, with the losses around them, cut to a frame, on disk.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use model::{BootNs, LossWindow, Report, Timestamp};
use tokio::sync::Notify;

use crate::{
    edge::Draft,
    finding::{Fold, fit},
    mask::Masker,
    spool::Spool,
};

/// Repeated findings are told at most this often.
const REPEATS_EVERY: Duration = Duration::from_secs(1);

/// Drafts that one group commit makes durable.
const BATCH: usize = 64;

/// Losses this long before an event count as around it.
const LOSS_BEFORE: Duration = Duration::from_secs(60);

/// What was lost in a span of time (I2).
pub trait Losses: Send {
    /// From `before` an event until now; the event happened at `at` by the kernel's clock, `time` by the wall clock as it was set then.
    fn around(&mut self, at: BootNs, time: Timestamp, before: Duration) -> LossWindow;
}

/// Runs on a thread of its own until the edge is gone, and then tells what is still untold.
pub struct Reporter {
    /// From the edge.
    pub drafts: Receiver<Draft>,
    /// Causes.
    pub fold: Arc<Mutex<Fold>>,
    /// What is masked.
    pub masker: Masker,
    /// Where reports go.
    pub spool: Arc<Mutex<Spool>>,
    /// Wakes the uplink.
    pub news: Arc<Notify>,
    /// What was lost.
    pub losses: Box<dyn Losses>,
}

impl Reporter {
    /// Works until every sender of drafts is gone.
    pub fn run(mut self) {
        let mut repeats_due = Instant::now() + REPEATS_EVERY;
        loop {
            let wait = repeats_due.saturating_duration_since(Instant::now());
            let (mut batch, gone) = match self.drafts.recv_timeout(wait) {
                Ok(draft) => (vec![draft], false),
                Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
                Err(RecvTimeoutError::Disconnected) => (Vec::new(), true),
            };
            batch.extend(self.drafts.try_iter().take(BATCH));
            let mut reports: Vec<Report> = batch.into_iter().map(|draft| self.report(draft)).collect();
            if gone || Instant::now() >= repeats_due {
                repeats_due = Instant::now() + REPEATS_EVERY;
                reports.extend(self.repeats());
            }
            if !reports.is_empty() {
                self.store(&reports);
            }
            if gone {
                return;
            }
        }
    }

    fn report(&mut self, draft: Draft) -> Report {
        match draft {
            Draft::Reaction(mut record) => {
                record.detail = self.masker.text(&record.detail).into_owned();
                Report::Reaction(*record)
            }
            Draft::Finding(mut finding, at) => {
                finding.loss = self.losses.around(at, finding.event.time, LOSS_BEFORE);
                self.masker.finding(&mut finding);
                fit(&mut finding);
                Report::Finding(*finding)
            }
        }
    }

    fn repeats(&self) -> Vec<Report> {
        let due = self.fold.lock().unwrap_or_else(PoisonError::into_inner).due();
        due.into_iter()
            .map(|repeat| Report::Repeat { finding: repeat.finding, count: repeat.count, last: repeat.last })
            .collect()
    }

    fn store(&self, reports: &[Report]) {
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        for report in reports {
            if let Err(error) = spool.append(report) {
                tracing::error!(%error, "a report could not be written; it is tried again with the next");
            }
        }
        if let Err(error) = spool.sync() {
            tracing::error!(%error, "reports could not be made durable");
        }
        drop(spool);
        self.news.notify_one();
    }
}
