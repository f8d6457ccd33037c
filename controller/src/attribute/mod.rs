//! Which pod, which container, whose, and who opened a session in it: from the uid and container id in a cgroup's path.
//!
//! The index ([`index`]) is pure: facts in, answers out. Facts come from a watch of the API server and from its audit log.

pub mod fact;
pub mod index;
mod sessions;
