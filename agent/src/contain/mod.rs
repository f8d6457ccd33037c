//! Containment on the node: what a rule or the controller decided is done, observed and undone here, and remembered so that a
//! crash of the agent at any point can be resumed or undone (I4, I7).
//!
//! [`Contain`] is the whole interface. Every action is one file with its four phases; the [`journal`] is written before each
//! effect; [`protect`] refuses what must never be touched (I6); [`process`] makes sure that a process is the one that was meant
//! (I9).

mod attributes;
mod bpffs;
mod cgroup;
mod engine;
mod evidence;
mod file;
mod foreign;
mod free;
mod freeze;
mod gather;
mod guard;
mod halt;
mod homes;
mod jail;
mod journal;
mod kill;
mod mask;
mod network;
mod object;
mod process;
mod protect;
mod recover;
mod scene;
mod sockets;
mod spared;
mod stop;
mod sys;
mod unknown;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use model::NodeId;

pub use engine::{Contain, Lifted, Which, told_in_force};
pub use evidence::EvidenceLimits;
pub use guard::Guard;
pub use journal::JournalError;
pub use mask::{Mask, MaskAll};
pub use protect::ProtectedList;
pub use recover::{Drift, Recovered};
pub use scene::{Lineage, StepHook};
pub use sockets::{Protocol, sockets_that_can_be_destroyed};
pub use unknown::{Stray, Unknown, journals_in_use, list as list_strays};

/// How containment works on this node.
#[derive(Clone)]
pub struct ContainConfig {
    /// This node; commands for another are refused.
    pub node: NodeId,
    /// Journal, quarantined files and evidence. Made with mode 0700.
    pub state_dir: PathBuf,
    /// Where cgroup v2 is mounted; looked up in /proc/self/mounts when `None`.
    pub cgroup2_root: Option<PathBuf>,
    /// Where bpffs is or shall be mounted.
    pub bpffs: PathBuf,
    /// What is never touched, besides what is protected always.
    pub protected: ProtectedList,
    /// What the controller says must be left alone; `None` on a host that is in no cluster.
    pub guard: Option<Guard>,
    /// Bounds of an evidence capture.
    pub evidence: EvidenceLimits,
    /// Files larger than this are not quarantined (bytes).
    pub max_file_bytes: u64,
    /// One freeze gathers so many processes; of a larger tree it holds those, and says so.
    pub max_tree: usize,
    /// The agent's process tree.
    pub lineage: Option<Arc<dyn Lineage>>,
    /// Masks secrets in evidence.
    pub mask: Arc<dyn Mask>,
    /// For crash tests.
    pub on_step: Option<StepHook>,
}

impl ContainConfig {
    /// The usual configuration of a node.
    #[must_use]
    pub fn new(node: NodeId, state_dir: PathBuf) -> Self {
        Self {
            node,
            state_dir,
            cgroup2_root: None,
            bpffs: PathBuf::from("/sys/fs/bpf"),
            protected: ProtectedList::default(),
            guard: None,
            evidence: EvidenceLimits::default(),
            max_file_bytes: 1 << 30,
            max_tree: 16_384,
            lineage: None,
            mask: Arc::new(MaskAll),
            on_step: None,
        }
    }
}

/// Why containment cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory cannot be used.
    #[error("cannot use the state directory {path}: {source}")]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no cgroup v2.
    #[error("cannot open cgroup v2: {0}")]
    Cgroups(#[source] io::Error),
    /// The boot cannot be told from others.
    #[error("cannot read /proc/sys/kernel/random/boot_id: {0}")]
    BootId(#[source] io::Error),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Contain {
    /// Opens the state directory for this process alone. Nothing is done yet: call [`Contain::recover`] next.
    ///
    /// Errors: [`OpenError`].
    pub fn open(config: ContainConfig) -> Result<Self, OpenError> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let state_dir = config.state_dir;
        let fault = |source| OpenError::StateDir { path: state_dir.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state_dir).map_err(fault)?;
        std::fs::set_permissions(&state_dir, std::fs::Permissions::from_mode(0o700)).map_err(fault)?;
        let cgroups = cgroup::Hierarchy::open(config.cgroup2_root.as_deref()).map_err(OpenError::Cgroups)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(OpenError::BootId)?;
        let journal = journal::Journal::open(&state_dir)?;
        Ok(Self::over(scene::Scene {
            node: config.node,
            state_dir,
            bpffs: config.bpffs,
            boot: boot.trim().to_owned(),
            protected: protect::Protected::new(config.protected, cgroups.clone()).with(config.guard),
            cgroups,
            lineage: config.lineage,
            mask: config.mask,
            evidence: config.evidence,
            max_file_bytes: config.max_file_bytes,
            max_tree: config.max_tree,
            spare: network::Spare::default(),
            journal: Mutex::new(journal),
            foreign: Mutex::new(()),
            on_step: config.on_step,
        }))
    }
}
