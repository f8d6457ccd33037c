//! Hemostat's controller: findings of nodes become incidents, incidents are answered by playbooks, and every step of that is
//! journalled before its effect, audited, and can be rolled back.
//!
//! [`Controller::start`] loads what is stored and goes on with every run that was not over; [`ControllerHandle::attach`] takes a
//! node's link; [`client::Client`] speaks to it over its control socket. docs/controller.md tells what is on disk, what happens
//! after a crash, and every limit.

pub mod api;
pub mod attribute;
pub mod audit;
pub mod client;
pub mod config;
pub mod crash;
pub mod ingest;
pub mod intel;
pub mod ledger;
pub mod witness;

mod artifact;
mod core;
mod corpus;
mod files;
mod health;
mod metrics;
mod place;
mod playbooks;
pub mod reconcile;
pub mod replay;
mod rules;
mod start;
mod store;
mod trace;
mod trusted;
mod watched;

pub use act;
pub use config::{Clock, ControllerConfig, Limits, wall_clock};
pub use playbooks::Plans;
pub use start::{Attacher, Controller, ControllerHandle, StartError};
pub use store::StoreError;
