//! Hemostat's resources as plain data: a [`Playbook`] in Git, in a folder, in the cluster and in a test is this one type.
//!
//! [`source::read`] turns YAML text into resources and says of everything it could not read where it stands, what was
//! expected, and what was probably meant.

mod network;
mod period;
mod playbook;
mod policy;
pub mod source;
mod suggest;
pub mod yaml;

pub use network::Network;
pub use period::{Moment, Period};
pub use playbook::*;
pub use policy::*;
pub use suggest::nearest;
