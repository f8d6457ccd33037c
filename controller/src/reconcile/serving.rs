//! A leader at work: links of nodes are taken, certificates renewed, until it is told to stop or leads no more.

use std::{sync::Arc, time::Duration};

use model::{Down, RuleBundle};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::{
    identity::{Authority, LiveCredentials, Subject},
    link::{ControllerLink, Listener},
};

use super::{ClusterError, fence, guard::Guards, lease::Election, probes::Stage, rules};
use crate::{Clock, ControllerHandle, ingest::IngestHandle};

/// How long the controller's own certificate is valid; a new one is made at half of it.
pub(super) const OWN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A leader at work.
pub(super) struct Serving {
    pub(super) handle: ControllerHandle,
    pub(super) logs: IngestHandle,
    pub(super) listener: Listener,
    pub(super) bundles: watch::Receiver<Arc<RuleBundle>>,
    pub(super) guards: Guards,
    pub(super) authority: Arc<Authority>,
    pub(super) own: LiveCredentials,
    pub(super) clock: Clock,
}

impl Serving {
    pub(super) async fn until(
        mut self,
        election: &mut Election,
        stage: &watch::Sender<Stage>,
        ready: &mut watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<(), ClusterError> {
        let links = CancellationToken::new();
        let mut renew = tokio::time::interval(OWN_LIFE / 2);
        renew.tick().await;
        let mut waits = true;
        let patience = election.config.authority;
        let outlived = fence::outlived(election.until.clone(), patience);
        tokio::pin!(outlived);
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = &mut outlived => break Err(ClusterError::Unled { after: patience }),
                to = election.lost() => break Err(ClusterError::Deposed { to }),
                _ = ready.wait_for(|ready| *ready), if waits => {
                    waits = false;
                    stage.send_replace(Stage::Serving);
                }
                _ = renew.tick() => {
                    match self.authority.issue(&Subject::Controller, (self.clock)(), OWN_LIFE) {
                        Ok(own) => self.own.replace(own, self.authority.certificate().to_owned()),
                        Err(error) => tracing::error!(%error, "the controller's own certificate could not be renewed"),
                    }
                }
                link = self.listener.accept() => match link {
                    Some(link) => self.take(link, &links),
                    None => break Ok(()),
                }
            }
        };
        stage.send_replace(Stage::StandingBy);
        links.cancel();
        self.listener.close().await;
        // They end first, so that what was read is remembered as read; those that a broken controller keeps waiting end after it.
        let mut logs = self.logs;
        let logs = tokio::task::spawn_blocking(move || {
            logs.stop();
            logs
        })
        .await;
        self.handle.shutdown().await;
        match logs {
            Ok(logs) => logs.join(),
            Err(error) => tracing::error!(%error, "a log's follower ended badly"),
        }
        ended
    }

    /// A node's link goes to the core; beside it, the node is told what it leaves alone and given its rules, now and whenever they change.
    fn take(&self, link: ControllerLink, stop: &CancellationToken) {
        let (down, node, bundles, stop) =
            (link.down.clone(), link.node.clone(), self.bundles.clone(), stop.clone());
        let guards = self.guards.clone();
        self.handle.attach(link);
        self.handle.inside().tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = guards.give(&node, &down) => {}
                () = give_rules(&down, bundles) => tracing::debug!(%node, "the node is given no more rules"),
            }
        });
    }
}

/// Until the link ends.
async fn give_rules(down: &mpsc::Sender<Down>, mut bundles: watch::Receiver<Arc<RuleBundle>>) {
    loop {
        let bundle = Arc::clone(&bundles.borrow_and_update());
        if !bundle.version.digest.is_empty() {
            for part in rules::parts(&bundle) {
                if down.send(Down::Rules(Box::new(part))).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            changed = bundles.changed() => if changed.is_err() { return },
            () = down.closed() => return,
        }
    }
}
