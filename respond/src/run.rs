//! One run of one playbook: a state machine without clock, file or socket.

mod interface;
mod journal;

pub use interface::*;
pub use journal::*;
