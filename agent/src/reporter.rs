//! Drafts become reports: masked, with the losses around them, cut to a frame, on disk.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use detect::fold::Fold;
use model::{BootNs, LossWindow, Report, Timestamp};
use tokio::sync::Notify;

use crate::{edge::Draft, finding::fit, mask::Masker, spool::Spool};

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
            .map(|repeat| Report::Repeat {
                finding: repeat.finding,
                count: repeat.count,
                last: repeat.last,
                moments: repeat.moments,
            })
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::mpsc::sync_channel};

    use detect::fold;
    use model::{EventClass, Seq};

    use super::*;
    use crate::test_data::finding;

    /// Says that 3 execs were lost from 60 s before the event on.
    struct Three;

    impl Losses for Three {
        fn around(&mut self, at: BootNs, time: Timestamp, before: Duration) -> LossWindow {
            assert_eq!((at, before), (BootNs(7), LOSS_BEFORE));
            LossWindow { from: time, to: time.plus(before), lost: BTreeMap::from([(EventClass::Exec, 3)]) }
        }
    }

    #[test]
    fn i2_what_was_lost_around_an_event_goes_with_its_finding_and_what_the_edge_told_is_stored_before_the_end()
     {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Mutex::new(Spool::open(folder.path(), 16 << 20).unwrap()));
        let (tell, drafts) = sync_channel(4);
        tell.send(Draft::Finding(Box::new(finding("r")), BootNs(7))).unwrap();
        drop(tell);
        let reporter = Reporter {
            drafts,
            fold: Arc::new(Mutex::new(Fold::new(fold::Limits::NODE))),
            masker: Masker::new(None).unwrap(),
            spool: Arc::clone(&spool),
            news: Arc::default(),
            losses: Box::new(Three),
        };
        reporter.run();
        let stored = spool.lock().unwrap().read(Seq(0), 10).unwrap();
        let [told] = &stored[..] else { panic!("{stored:?}") };
        let Report::Finding(finding) = &told.report else { panic!("{told:?}") };
        assert_eq!(finding.loss.lost, BTreeMap::from([(EventClass::Exec, 3)]));
    }
}
