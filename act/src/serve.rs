//! The API server's link to the controller's core. It is up while the API server answers: when that is away, the core is told as it is
//! of a node, keeps what it was about to do, and asks again once the link is back.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use model::{
    ActionFailure, AgentEpoch, ClusterAction, CommandOutcome, Down, NodeAction, NodeCommand, NodeId, Up,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::link::{AgentLink, ControllerLink, in_process};

use crate::Executor;

/// Actions that are worked on at the same time; the phases of one come one after the other.
const WORKERS: usize = 8;
/// Scans that go on at the same time: they take minutes, and nothing else waits behind them.
const SCANS: usize = 2;
/// Messages that wait in each direction.
const QUEUE: usize = 64;
/// Between two looks whether an API server that was away is back, and whether one that was there still is.
const LOOK: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_secs(10);

/// Takes the controller's end of the link.
pub type Attach = Arc<dyn Fn(ControllerLink) + Send + Sync>;

/// Serves the controller's core until `stop`.
pub async fn serve(executor: Arc<Executor>, attach: Attach, stop: CancellationToken) {
    let mut epoch = 0;
    let mut told = false;
    while !stop.is_cancelled() {
        match executor.is_there().await {
            Ok(()) => {
                epoch += 1;
                told = false;
                tracing::info!("the API server answers: cluster actions can be done");
                let (link, other) = in_process(NodeId::cluster(), QUEUE);
                attach(other);
                one_link(&executor, link, AgentEpoch(epoch), &stop).await;
            }
            Err(because) if !told => {
                told = true;
                tracing::warn!(because, "the API server does not answer: cluster actions wait");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The life of one link: until the API server is away, the core ends it, or `stop`.
async fn one_link(executor: &Arc<Executor>, link: AgentLink, epoch: AgentEpoch, stop: &CancellationToken) {
    let AgentLink { up, mut down } = link;
    if up.send(Up::Hello { node: NodeId::cluster(), epoch }).await.is_err() {
        return;
    }
    // Ends this link, and not the next one.
    let broken = stop.child_token();
    let mut workers = tokio::task::JoinSet::new();
    let mut queues = Vec::new();
    for _ in 0..WORKERS + SCANS {
        let (queue, taken) = mpsc::channel::<Box<NodeCommand>>(QUEUE);
        queues.push(queue);
        workers.spawn(work(Arc::clone(executor), taken, up.clone(), broken.clone()));
    }
    workers.spawn(watch(Arc::clone(executor), broken.clone()));
    drop(up);
    loop {
        let message = tokio::select! {
            message = down.recv() => message,
            () = broken.cancelled() => None,
        };
        match message {
            Some(Down::Command(command)) => {
                let at = lane(&command);
                // A full queue: the run repeats what was dropped, and the others go on.
                if queues[at].try_send(command).is_err() {
                    tracing::warn!(
                        "a cluster action waits for too many others: its command is left to be repeated"
                    );
                }
            }
            Some(_) => {}
            None => break,
        }
    }
    broken.cancel();
    drop(queues);
    while workers.join_next().await.is_some() {}
}

async fn work(
    executor: Arc<Executor>,
    mut taken: mpsc::Receiver<Box<NodeCommand>>,
    up: mpsc::Sender<Up>,
    broken: CancellationToken,
) {
    loop {
        let command = tokio::select! {
            command = taken.recv() => command,
            () = broken.cancelled() => None,
        };
        let Some(command) = command else { return };
        // What was begun is brought to its end: half an answer is worth less than a late one. A scan is not waited for: it is found again.
        let outcome = tokio::select! {
            outcome = executor.carry_out(&command) => outcome,
            () = broken.cancelled(), if is_scan(&command) => return,
        };
        if is_away(&outcome) && executor.is_there().await.is_err() {
            // Not an answer: the link breaks, and the run asks again when it is back.
            broken.cancel();
            return;
        }
        if up.send(Up::Outcome(Box::new(outcome))).await.is_err() {
            return;
        }
    }
}

/// Breaks the link when the API server is away though nobody asked anything of it.
async fn watch(executor: Arc<Executor>, broken: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PROBE) => {}
            () = broken.cancelled() => return,
        }
        if let Err(because) = executor.is_there().await {
            tracing::warn!(because, "the API server does not answer any more: cluster actions wait");
            broken.cancel();
            return;
        }
    }
}

/// Which worker does it: always the same one for the phases of one action.
fn lane(command: &NodeCommand) -> usize {
    let mut hasher = DefaultHasher::new();
    command.action_id.hash(&mut hasher);
    let among = |many: usize| usize::try_from(hasher.finish() % many as u64).unwrap_or(0);
    if is_scan(command) { WORKERS + among(SCANS) } else { among(WORKERS) }
}

fn is_scan(command: &NodeCommand) -> bool {
    matches!(command.action, NodeAction::Cluster(ClusterAction::ScanImage(_)))
}

fn is_away(outcome: &CommandOutcome) -> bool {
    matches!(outcome.result, Err(ActionFailure::Io { .. }))
}
