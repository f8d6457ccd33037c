//! What a controller may still do whose lease has run out. It cannot know whether the API server is away for everybody, so that nobody else
//! leads, or for itself alone, so that another one does. docs/kubernetes.md, "Without a lease", gives the reasons for each part.

use std::time::{Duration, Instant};

use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::{
    core::Input,
    health::{HealthBoard, Part},
};

/// Tells the core and people when the lease runs out, and when this controller leads again.
pub(crate) async fn watch(
    mut lease: watch::Receiver<Option<Instant>>,
    inbox: mpsc::WeakSender<Input>,
    health: HealthBoard,
    stop: CancellationToken,
) {
    let mut led = true;
    loop {
        let until = *lease.borrow_and_update();
        let leads = until.is_some_and(|until| Instant::now() < until);
        match (led, leads) {
            (true, false) => health.degraded(
                Part::Lease,
                "the lease has run out: nodes are commanded nothing but what contains and can be undone exactly, and nothing is acknowledged",
            ),
            (false, true) => {
                health.restored(Part::Lease);
                if let Some(inbox) = inbox.upgrade() {
                    // Fails only when the core has ended.
                    let _ended = inbox.send(Input::LeadsAgain).await;
                }
            }
            _ => {}
        }
        led = leads;
        tokio::select! {
            () = stop.cancelled() => return,
            changed = lease.changed() => if changed.is_err() { return },
            () = run_out(until), if leads => {}
        }
    }
}

/// Ends when nobody renewed the lease for `patience` after it had run out.
pub(crate) async fn outlived(mut lease: watch::Receiver<Option<Instant>>, patience: Duration) {
    loop {
        let until = *lease.borrow_and_update();
        let over = until.map(|until| until + patience);
        tokio::select! {
            () = run_out(over) => return,
            changed = lease.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
}

async fn run_out(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_that_runs_out_is_told_and_who_leads_again_asks_again() {
        let (renew, lease) = watch::channel(Some(Instant::now() + Duration::from_secs(3600)));
        let (inbox, mut taken) = mpsc::channel(4);
        let (health, stop) = (HealthBoard::default(), CancellationToken::new());
        let task = tokio::spawn(watch_all(lease, inbox.downgrade(), health.clone(), stop.clone()));
        renew.send_replace(Some(Instant::now()));
        while health.show().problems.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(taken.try_recv().is_err());
        renew.send_replace(Some(Instant::now() + Duration::from_secs(3600)));
        assert!(matches!(taken.recv().await, Some(Input::LeadsAgain)));
        assert!(health.show().problems.is_empty());
        stop.cancel();
        task.await.unwrap();
    }

    use super::watch as watch_all;
    use tokio::sync::watch;

    #[tokio::test]
    async fn a_lease_that_is_renewed_is_not_outlived() {
        let (renew, lease) = watch::channel(Some(Instant::now()));
        renew.send_replace(Some(Instant::now() + Duration::from_secs(3600)));
        let mut ends = Box::pin(outlived(lease, Duration::ZERO));
        tokio::select! {
            biased;
            () = &mut ends => panic!("it was renewed"),
            () = tokio::task::yield_now() => {}
        }
        renew.send_replace(Some(Instant::now()));
        ends.await;
    }
}
