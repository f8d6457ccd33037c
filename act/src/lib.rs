//! Actions in the Kubernetes API server, and the controller's own: telling people.
//!
//! To the controller's core the API server is one more node ([`model::NodeId::cluster`]) with a link of its own ([`serve`]): capture, apply,
//! verify and revert come as [`model::NodeCommand`]s and are answered with [`model::CommandOutcome`]s, so journal, crash points, approvals,
//! rollback and audit are those of every other action. An action's capture decides every single change together with what stands there
//! before ([`model::ClusterState`]); apply and revert do nothing else, hold only for the very object in the version that was looked at,
//! and can be repeated after a crash anywhere.
//!
//! It must never know incidents, playbooks or the journal.

mod actions;
mod api;
mod edits;
mod executor;
mod fields;
mod job;
mod notify;
pub mod permissions;
mod protect;
mod scanner;
mod selector;
mod serve;
mod shown;

pub use api::percent_encoded;
pub use executor::Executor;
pub use job::{ActConfig, MANAGERS, Own};
pub use notify::{Channel, ChannelKind};
pub use protect::network_path;
pub use scanner::{Scanner, ScannerError, ScannerKind};
pub use serve::{Attach, serve};
