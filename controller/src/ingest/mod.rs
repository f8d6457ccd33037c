//! Sources beside the nodes: logs are followed, what is posted or sent is taken in, both are read into typed records, matched against the rules, and what is found goes the way of every
//! node's findings.
//!
//! A source is to the controller what a node is: it has a name, a link, reports in order until they are acknowledged, and a status. So
//! findings of records are placed, counted, correlated, answered and stored exactly as those of nodes are, and twice told is once done (I3).
//! docs/sources.md says what is on disk and what happens at each limit.

mod arrive;
mod dead;
mod flow;
mod inbox;
pub(crate) mod judge;
mod position;
pub mod read;
pub(crate) mod receive;
mod report;
mod source;
mod spec;
mod tail;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use detect::matcher::Swap;
use model::NodeId;

pub use judge::CUT_RULE;
pub use position::Start;
pub use read::{Format, Zone, ZoneError};
pub use spec::{Door, HttpsDoor, RelayAddress, RelayDoor, SourceSpec, SpecError, UdpDoor};

use crate::{config::Clock, start::Attacher};

/// What sources are started with.
#[derive(Clone)]
pub struct IngestConfig {
    /// The sources; one that is named twice is followed once.
    pub sources: Vec<SourceSpec>,
    /// Where positions and dead letters are kept; made with mode 0700.
    pub state: PathBuf,
    /// Where a log is begun of which nothing is remembered.
    pub start: Start,
    /// The rules in force; a change is followed.
    pub rules: Arc<Swap>,
    /// Where the present comes from.
    pub clock: Clock,
    /// How often a log is looked at that has nothing new.
    pub poll: Duration,
    /// Zone of times that name none, as in RFC 3164.
    pub zone: Zone,
}

impl IngestConfig {
    /// How often a log is looked at where nothing else is said.
    pub const POLL: Duration = Duration::from_millis(200);
}

/// Why a source does not start.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The folder for positions cannot be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// There is no thread to be had.
    #[error("cannot start the thread of {name}: {source}")]
    Thread {
        /// Of which source.
        name: NodeId,
        /// The system's word.
        source: io::Error,
    },
}

/// Running sources: [`IngestHandle::stop`], then the controller's shutdown, then [`IngestHandle::join`].
#[derive(Debug)]
pub struct IngestHandle {
    /// Dropped to tell its thread to stop.
    stops: Vec<mpsc::SyncSender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// Follows logs, a thread for each.
///
/// # Errors
/// [`IngestError`]; a log that cannot be read is no error but stands in its status and is tried again.
pub fn start(config: &IngestConfig, controller: &Attacher) -> Result<IngestHandle, IngestError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state);
    made.map_err(|source| IngestError::Folder { path: config.state.clone(), source })?;
    let mut handle = IngestHandle { stops: Vec::new(), threads: Vec::new() };
    for (position, spec) in config.sources.iter().enumerate() {
        if config.sources[..position].contains(spec) {
            continue;
        }
        let (stop, stopped) = mpsc::sync_channel(1);
        let (spec, config, controller) = (spec.clone(), config.clone(), controller.clone());
        let name = spec.name();
        let thread = std::thread::Builder::new()
            .name(format!("src-{}", spec.format.name()))
            .spawn(move || source::run(&spec, &config, &controller, &stopped))
            .map_err(|source| IngestError::Thread { name, source })?;
        handle.stops.push(stop);
        handle.threads.push(thread);
    }
    Ok(handle)
}

impl IngestHandle {
    /// How long [`IngestHandle::stop`] waits.
    const PATIENCE: Duration = Duration::from_secs(3);

    /// Tells all to stop and waits a little, so that what was read is acknowledged and remembered as read. Blocks; to be followed by
    /// the controller's own shutdown and [`IngestHandle::join`].
    pub fn stop(&mut self) {
        self.stops.clear();
        let until = Instant::now() + Self::PATIENCE;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the threads. A controller that cannot store keeps them waiting until it has stopped.
    pub fn join(mut self) {
        self.stops.clear();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a source's thread ended in a panic");
            }
        }
    }
}
