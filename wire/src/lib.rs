//! The two ends of a link between an agent and its controller: within one process ([`link::in_process`]), or over gRPC with
//! mutual TLS ([`link::connect`], [`link::listen`]). Neither side can tell which it has.
//!
//! What a message means is not known here: [`model::Up`] and [`model::Down`] go in at one end and come out at the other.

pub mod enrol;
pub mod fence;
pub mod identity;
pub mod link;

mod client;
mod convert;
mod server;
mod strangers;
mod tls;

/// Generated from `proto/hemostat/link/v1/link.proto`; converted in [`convert`] only.
#[expect(unreachable_pub, clippy::allow_attributes, reason = "generated code")]
mod proto {
    tonic::include_proto!("hemostat.link.v1");
}

#[cfg(test)]
mod hostile_controller_tests;
#[cfg(test)]
mod hostile_tests;
