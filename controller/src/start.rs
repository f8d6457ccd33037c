//! Starts a controller, and stops it so that nothing is lost.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use model::Up;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::link::ControllerLink;

use crate::{
    api::{ApiError, Health, MAX_READERS, Playbooks, Served, serve},
    attribute::Pods,
    audit::{KeyError, LogError},
    config::ControllerConfig,
    core::{self, Asker, Change, Input, Shared},
    health::HealthBoard,
    metrics::Metrics,
    playbooks::Plans,
    store::StoreError,
    trace::{self, Sending},
};

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The audit log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A run in the journal cannot be understood.
    #[error("the run {run} in the journal cannot be replayed: {because}")]
    Run {
        /// Which.
        run: String,
        /// Why.
        because: String,
    },
    /// The control socket cannot be made.
    #[error("cannot listen on the control socket {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The state folder cannot be used.
    #[error("cannot use the state folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// No random number is to be had.
    #[error("cannot draw a random number from /dev/urandom: {source}")]
    Random {
        /// The system's word.
        source: io::Error,
    },
    /// There is no thread to be had.
    #[error("cannot start the core's thread: {source}")]
    Thread {
        /// The system's word.
        source: io::Error,
    },
}

/// The controller.
#[derive(Debug)]
pub struct Controller;

/// A running controller. Call [`ControllerHandle::shutdown`]; a handle that is dropped stops it as well, without waiting.
#[derive(Debug)]
pub struct ControllerHandle {
    inbox: mpsc::Sender<Input>,
    asker: Asker,
    health: HealthBoard,
    stop: CancellationToken,
    tasks: TaskTracker,
    core: Option<JoinHandle<()>>,
    links: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    pods: Option<Pods>,
    revision: watch::Receiver<u64>,
    paused: watch::Receiver<bool>,
    plans: watch::Receiver<Plans>,
}

/// What a part that belongs to a running controller works with. Its tasks end with `stop`.
pub(crate) struct Inside {
    pub(crate) asker: Asker,
    pub(crate) inbox: mpsc::WeakSender<Input>,
    pub(crate) health: HealthBoard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) revision: watch::Receiver<u64>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) plans: watch::Receiver<Plans>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Takes links from threads of their own; does not keep a controller running.
#[derive(Debug, Clone)]
pub struct Attacher {
    inbox: mpsc::WeakSender<Input>,
    stop: CancellationToken,
    tasks: TaskTracker,
    links: Arc<AtomicU64>,
    runtime: Handle,
    metrics: Arc<Metrics>,
    pods: Option<Pods>,
}

impl Attacher {
    /// What is known of pods, told by what comes over the links.
    pub(crate) fn pods(&self) -> Option<Pods> {
        self.pods.clone()
    }

    /// Where what comes over the links is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// As [`ControllerHandle::attach`]; of a controller that has stopped the link ends at once.
    pub(crate) fn attach(&self, link: ControllerLink) {
        let Some(inbox) = self.inbox.upgrade() else { return };
        let number = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        self.tasks.spawn_on(read_link(link, number, inbox, self.stop.clone()), &self.runtime);
    }
}

/// Bytes of a unix socket's path, at most: `sun_path` of unix(7) without its closing zero.
const MAX_SOCKET_PATH: usize = 107;

impl Controller {
    /// Whether a control socket can have this path at all: it is short enough. One that stands by asks no more, since the other may
    /// answer there until it takes over.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn look_at_path(path: &Path) -> Result<(), StartError> {
        // It is bound under a name of its own first.
        let length = path.as_os_str().len().max(path.with_extension("new").as_os_str().len());
        if length > MAX_SOCKET_PATH {
            let text = format!(
                "its path has {length} bytes with what is put to it, and a unix socket's at most {MAX_SOCKET_PATH}: give a shorter one \
                 (--socket or HEMOSTAT_SOCKET)"
            );
            let source = io::Error::new(io::ErrorKind::InvalidInput, text);
            return Err(StartError::Socket { path: path.to_owned(), source });
        }
        Ok(())
    }

    /// Whether the control socket can be made there as far as that is known before anything else is begun: the path is short enough, and
    /// no other controller answers.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub async fn look_at_socket(path: &Path) -> Result<(), StartError> {
        Self::look_at_path(path)?;
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            let text = "another controller answers on this socket: `hemostat status` asks it; stop it first, or give this one a --socket \
                        and a --state of its own";
            let source = io::Error::new(io::ErrorKind::AddrInUse, text);
            return Err(StartError::Socket { path: path.to_owned(), source });
        }
        Ok(())
    }

    /// Loads what is stored, goes on with every run that was not over (I7), and listens on the control socket. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// When the journal, the audit key or log, or the socket cannot be used. A broken playbook is no reason: it is named in
    /// the health, and the others are used.
    pub async fn start(config: ControllerConfig) -> Result<ControllerHandle, StartError> {
        let (inbox, taken) = mpsc::channel(config.limits.inbox);
        let health = HealthBoard::default();
        let metrics = Arc::new(Metrics::default());
        let (revision, watched) = watch::channel(0);
        let (paused, is_paused) = watch::channel(false);
        let (plans, in_use) = watch::channel(Plans::default());
        let stop = CancellationToken::new();
        let asker = Asker::new(inbox.clone(), health.clone(), &config.limits);
        let served = Served {
            asker: asker.clone(),
            health: health.clone(),
            metrics: Arc::clone(&metrics),
            revision: watched,
            stop: stop.clone(),
            audit_log: config.audit_log.clone(),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        };
        let path = config.socket.clone();
        let pods = config.pods.clone();
        let mut feeds = config.feeds.clone();
        crate::intel::place(&mut feeds, config.journal.parent().unwrap_or(Path::new(".")));
        let following = crate::intel::follow(
            feeds,
            Arc::clone(&config.intelligence),
            (Arc::clone(&config.clock), health.clone(), stop.clone()),
        );
        let (traces, taken_traces) = match config.traces.clone() {
            Some(endpoint) => {
                let (sending, taken) = Sending::new(Arc::clone(&metrics));
                (Some(sending), Some((endpoint, taken)))
            }
            None => (None, None),
        };
        let shared = Shared {
            traces,
            config: Arc::new(config),
            health: health.clone(),
            metrics: Arc::clone(&metrics),
            revision,
            paused,
            plans,
            stop: stop.clone(),
        };
        // The journal's lock keeps a second controller away before the socket is touched.
        let thread = core::spawn(shared, taken, Handle::current())?;
        let revision = served.revision.clone();
        let server = serve(path.clone(), served).await;
        let tasks = TaskTracker::new();
        let handle = ControllerHandle {
            inbox,
            asker,
            health,
            stop,
            tasks,
            core: Some(thread),
            links: Arc::new(AtomicU64::new(0)),
            metrics,
            pods,
            revision,
            paused: is_paused,
            plans: in_use,
        };
        match server {
            Ok(server) => handle.tasks.spawn(server),
            Err(source) => {
                // What the core has begun to write is written to its end: the next start must not take it for a crash.
                handle.shutdown().await;
                return Err(StartError::Socket { path, source });
            }
        };
        handle.tasks.spawn(following);
        if let Some((endpoint, taken)) = taken_traces {
            let sending = trace::follow(endpoint, taken, Arc::clone(&handle.metrics), handle.stop.clone());
            handle.tasks.spawn(sending);
        }
        Ok(handle)
    }
}

impl ControllerHandle {
    /// Takes a node's link. Its messages are read until it ends; a later link of the same node takes its place.
    pub fn attach(&self, link: ControllerLink) {
        let number = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        self.tasks.spawn(read_link(link, number, self.inbox.clone(), self.stop.clone()));
    }

    /// What sources attach their links with ([`crate::ingest::start`]). Must be called within the runtime.
    #[must_use]
    pub fn attacher(&self) -> Attacher {
        Attacher {
            inbox: self.inbox.downgrade(),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
            links: Arc::clone(&self.links),
            runtime: Handle::current(),
            pods: self.pods.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Reads the playbook folders again.
    ///
    /// # Errors
    /// When the core does not answer.
    pub async fn reload(&self) -> Result<Playbooks, ApiError> {
        let bytes = self.asker.change(Change::Reload, core::controller()).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::new(crate::api::ApiErrorKind::Unavailable, e.to_string()))
    }

    /// Whether everything automatic is paused; who lets nodes act by themselves follows it.
    #[must_use]
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.paused.clone()
    }

    /// The playbooks in use, those that are broken as they were before; who lets nodes act by themselves follows them.
    #[must_use]
    pub fn plans(&self) -> watch::Receiver<Plans> {
        self.plans.clone()
    }

    /// For parts of this controller.
    pub(crate) fn inside(&self) -> Inside {
        Inside {
            asker: self.asker.clone(),
            inbox: self.inbox.downgrade(),
            health: self.health.clone(),
            metrics: Arc::clone(&self.metrics),
            revision: self.revision.clone(),
            paused: self.paused.clone(),
            plans: self.plans.clone(),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// Whether all is well.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.show()
    }

    /// Stops: no new messages are taken, those that were taken are dealt with and stored, tasks and thread are joined. Runs
    /// that are not over go on at the next start; what they have in force stays in force.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let thread = self.core.take();
        // The last sender: the core ends once its queue is empty.
        drop(self);
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the core's thread ended in a panic");
            }
        }
    }
}

impl Drop for ControllerHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn read_link(
    mut link: ControllerLink,
    number: u64,
    inbox: mpsc::Sender<Input>,
    stop: CancellationToken,
) {
    let node = link.node.clone();
    let attached = Input::Attached { node: node.clone(), link: number, down: link.down };
    if inbox.send(attached).await.is_err() {
        return;
    }
    loop {
        let up: Option<Up> = tokio::select! {
            up = link.up.recv() => up,
            () = stop.cancelled() => None,
        };
        let Some(up) = up else { break };
        if inbox.send(Input::Up { node: node.clone(), link: number, up }).await.is_err() {
            return;
        }
    }
    // Only fails when the core is gone, and then nobody needs to know.
    drop(inbox.send(Input::Detached { node, link: number }).await);
}
