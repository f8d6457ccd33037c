//! Hemostat's node agent. Records come from the kernel ([`record`]), get a process, a parent and a workload, are judged by
//! the rules, and leave as findings; commands come back and are carried out.
//!
//! It knows nothing of incidents and playbooks.

pub mod agent;
pub mod allocator;
pub mod aside;
pub mod bpffs;
pub mod clock;
pub mod contain;
pub mod edge;
pub mod finding;
pub mod house;
pub mod mask;
pub mod probe;
pub mod record;
pub mod reporter;
pub mod spool;
#[cfg(test)]
mod test_data;
pub mod tree;
pub mod uplink;
pub mod workload;

pub use agent::{Agent, AgentConfig, AgentHandle, StartError};

use std::path::{Path, PathBuf};

/// Where containment keeps its journal, quarantined files and evidence, below the agent's state folder.
#[must_use]
pub fn contain_folder(state: &Path) -> PathBuf {
    state.join("contain")
}

/// Where reports wait for the controller, below the agent's state folder.
#[must_use]
pub fn spool_folder(state: &Path) -> PathBuf {
    state.join("spool")
}

/// This machine's host name: the node's name where nothing else is configured. Characters that a node name cannot have become `-`.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .take(253)
        .collect();
    if name.is_empty() { "localhost".into() } else { name }
}
