//! Hemostat's words as plain data: what was seen ([`Event`]), what a rule said of it ([`Finding`]), what belongs
//! together ([`Incident`]), what is done about it ([`NodeAction`], [`ActionRecord`]) and what is remembered
//! ([`AuditEntry`]).
//!
//! Nothing in this crate reads a clock, a file or a socket: time and facts are fields.

mod action;
mod address;
mod audit;
mod cluster;
mod enrichment;
mod entries;
mod event;
mod finding;
mod guard;
mod ids;
mod incident;
mod link;
mod moment;
mod plan;
mod pod;
mod process;
mod record;
mod status;
mod time;

pub use action::*;
pub use address::*;
pub use audit::*;
pub use cluster::*;
pub use enrichment::*;
pub use entries::FactName;
pub use event::*;
pub use finding::*;
pub use guard::*;
pub use ids::*;
pub use incident::*;
pub use link::*;
pub use moment::*;
pub use plan::*;
pub use pod::*;
pub use process::*;
pub use record::*;
pub use status::*;
pub use time::*;
