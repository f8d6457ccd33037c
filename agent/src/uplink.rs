//! The spool's way to the controller, and the controller's commands.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{AgentEpoch, CommandOutcome, Down, NodeCommand, NodeId, Seq, Up};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use wire::link::{AgentLink, MAX_UNACKED_REPORTS};

use crate::spool::{Spool, Spooled};

/// Reports on their way that are not acknowledged: fewer than the link keeps for a reconnection, so that the link never stops to take
/// outcomes and status.
const WINDOW: usize = MAX_UNACKED_REPORTS / 2;

/// Reports read from the spool at once. They may have half a megabyte each.
const BATCH: usize = 16;

/// Commands carried out at once; more wait.
const MAX_COMMANDS: usize = 8;
/// Commands that wait (I11). A command beyond is not taken, and the controller sends it again.
const MAX_WAITING: usize = 256;

/// Carries out commands. It may block.
pub trait Commands: Send + Sync {
    /// Does one phase; the same command gets the same outcome.
    fn carry_out(&self, command: &NodeCommand) -> CommandOutcome;
}

/// What the uplink is made of.
pub struct Uplink {
    /// This node.
    pub node: NodeId,
    /// This start.
    pub epoch: AgentEpoch,
    /// The agent's end.
    pub link: AgentLink,
    /// Reports.
    pub spool: Arc<Mutex<Spool>>,
    /// There is something new in the spool.
    pub news: Arc<Notify>,
    /// Who carries out commands.
    pub commands: Arc<dyn Commands>,
    /// Status and other messages of the agent.
    pub others: mpsc::Receiver<Up>,
    /// No more reports will come: send what there is and end.
    pub drain: CancellationToken,
    /// How long to wait for acknowledgements then.
    pub drain_limit: Duration,
}

impl Uplink {
    /// Works until the link is closed or all is drained.
    pub async fn run(mut self) {
        let hello = Up::Hello { node: self.node.clone(), epoch: self.epoch };
        if self.link.up.send(hello).await.is_err() {
            return;
        }
        let mut last_read = self.with_spool(|spool| spool.acknowledged()).await;
        let mut ready: VecDeque<Spooled> = VecDeque::new();
        let mut unacked: VecDeque<Seq> = VecDeque::new();
        let mut outcomes: VecDeque<CommandOutcome> = VecDeque::new();
        let mut waiting: VecDeque<NodeCommand> = VecDeque::new();
        let mut running: JoinSet<CommandOutcome> = JoinSet::new();
        let mut end_by: Option<Instant> = None;
        let mut more = More::Perhaps;
        loop {
            while running.len() < MAX_COMMANDS
                && let Some(command) = waiting.pop_front()
            {
                let commands = Arc::clone(&self.commands);
                running.spawn_blocking(move || commands.carry_out(&command));
            }
            if more == More::Perhaps && ready.is_empty() && unacked.len() < WINDOW {
                let read = self.with_spool(move |spool| spool.read(last_read, BATCH)).await;
                match read {
                    Ok(read) => {
                        more = if read.len() < BATCH { More::No } else { More::Perhaps };
                        last_read = read.last().map_or(last_read, |last| last.seq);
                        ready.extend(read);
                    }
                    Err(error) => {
                        tracing::error!(%error, "the spool cannot be read; tried again with the next report");
                        more = More::No;
                    }
                }
            }
            if let Some(by) = end_by {
                let idle = ready.is_empty()
                    && unacked.is_empty()
                    && waiting.is_empty()
                    && running.is_empty()
                    && outcomes.is_empty();
                if (idle && more == More::No) || Instant::now() >= by {
                    return;
                }
            }
            let to_send = !outcomes.is_empty() || (!ready.is_empty() && unacked.len() < WINDOW);
            tokio::select! {
                permit = self.link.up.reserve(), if to_send => {
                    let Ok(permit) = permit else { return };
                    if let Some(outcome) = outcomes.pop_front() {
                        permit.send(Up::Outcome(Box::new(outcome)));
                    } else if let Some(next) = ready.pop_front() {
                        unacked.push_back(next.seq);
                        permit.send(Up::Report { seq: next.seq, report: Box::new(next.report) });
                    }
                }
                down = self.link.down.recv() => match down {
                    None => return,
                    Some(Down::Ack { upto }) => {
                        while unacked.front().is_some_and(|seq| *seq <= upto) {
                            unacked.pop_front();
                        }
                        let stored = self.with_spool(move |spool| spool.acknowledge(upto)).await;
                        if let Err(error) = stored {
                            tracing::error!(%error, "an acknowledgement could not be stored; the reports are sent again after a restart");
                        }
                    }
                    Some(Down::Command(command)) => {
                        if waiting.len() < MAX_WAITING {
                            waiting.push_back(*command);
                        } else {
                            tracing::warn!(key = %command.key, "too many commands wait; this one was not taken");
                        }
                    }
                    // Whoever holds the link takes it (`hemostat agent`).
                    Some(Down::Guard(_)) => {}
                    // Whoever holds the link compiles them (`hemostat agent`); here nobody asked for any.
                    Some(Down::Rules(part)) => tracing::debug!(digest = part.digest, "rules that nobody takes"),
                },
                Some(outcome) = running.join_next(), if !running.is_empty() => match outcome {
                    Ok(outcome) => outcomes.push_back(outcome),
                    Err(error) => tracing::error!(%error, "a command ended badly"),
                },
                Some(up) = self.others.recv() => {
                    // Best effort: the newest comes again soon.
                    let _ = self.link.up.try_send(up);
                }
                () = self.news.notified() => more = More::Perhaps,
                () = self.drain.cancelled(), if end_by.is_none() => {
                    more = More::Perhaps;
                    end_by = Some(Instant::now() + self.drain_limit);
                }
                () = until(end_by) => {}
            }
        }
    }

    /// The spool does file I/O: on a blocking thread.
    async fn with_spool<T: Send + 'static>(&self, work: impl FnOnce(&mut Spool) -> T + Send + 'static) -> T {
        let spool = Arc::clone(&self.spool);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut spool.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match done.await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is ending under us: there is nobody left to send to.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    No,
    Perhaps,
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
