//! The two ends, and what can go wrong between them.

use std::{net::SocketAddr, time::Duration};

use model::{Down, NodeId, Up};
use tokio::sync::mpsc;

pub use crate::{
    client::{ConnectConfig, Connection, LinkState, connect},
    server::{ListenConfig, Listener, listen},
};

/// Largest frame on the wire, in bytes. A report that is larger cannot be sent, so the agent must cut it before it spools it.
pub const MAX_FRAME: usize = 4 << 20;

/// Reports that the agent's end keeps for a reconnection. It takes no more from the agent until some are acknowledged.
pub const MAX_UNACKED_REPORTS: usize = 512;

/// Version of the envelope. Both ends must speak the same.
pub const PROTOCOL: u32 = 1;

/// The agent's end.
#[derive(Debug)]
pub struct AgentLink {
    /// To the controller. The first message must be [`Up::Hello`].
    pub up: mpsc::Sender<Up>,
    /// From the controller. `None` means that the link is closed for good, not that a connection broke.
    pub down: mpsc::Receiver<Down>,
}

/// The controller's end of one node's link.
#[derive(Debug)]
pub struct ControllerLink {
    /// Who is at the other end; over gRPC it is the identity in its certificate.
    pub node: NodeId,
    /// From the agent; the first message is [`Up::Hello`]. `None` means that this connection has ended.
    pub up: mpsc::Receiver<Up>,
    /// To the agent.
    pub down: mpsc::Sender<Down>,
}

/// A link within one process: `capacity` messages wait in each direction, then the sender waits.
#[must_use]
pub fn in_process(node: NodeId, capacity: usize) -> (AgentLink, ControllerLink) {
    let (up_sender, up) = mpsc::channel(capacity);
    let (down, down_receiver) = mpsc::channel(capacity);
    (AgentLink { up: up_sender, down: down_receiver }, ControllerLink { node, up, down })
}

/// Why a connection did not come about or ended. Each says who, what and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other end could not be reached.
    #[error("cannot reach the controller at {address}: {source}")]
    Unreachable {
        /// `host:port` as configured.
        address: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// Our own certificate, key or authority is not usable.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// We refused the other end's certificate.
    #[error("refused {peer}: {because}")]
    RefusedPeer {
        /// Whose certificate, until when it is valid, and who issued it.
        peer: String,
        /// Why.
        because: String,
    },
    /// The other end refused our certificate.
    #[error(
        "the other end refused our certificate ({ours}): {because}; issue a new one and restart or wait for the next try"
    )]
    RefusedUs {
        /// Our certificate, until when it is valid, and who issued it.
        ours: String,
        /// TLS alert.
        because: String,
    },
    /// TLS failed in another way.
    #[error("TLS with {address} failed: {because}")]
    Tls {
        /// With whom.
        address: String,
        /// How.
        because: String,
    },
    /// A step took longer than allowed.
    #[error("{step} with {address} took longer than {limit:?}")]
    TimedOut {
        /// Which step.
        step: &'static str,
        /// With whom.
        address: String,
        /// The limit.
        limit: Duration,
    },
    /// The stream ended or was ended by the other side.
    #[error("the stream with {address} ended: {because}")]
    Ended {
        /// With whom.
        address: String,
        /// gRPC status and message.
        because: String,
    },
    /// A frame that this version does not understand.
    #[error("refused a frame from {from}: {frame}")]
    Frame {
        /// From whom.
        from: String,
        /// What is wrong with it.
        frame: FrameError,
    },
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// No known kind of frame is in it.
    #[error(
        "it holds no kind of frame that protocol {PROTOCOL} knows; the other side may be newer: upgrade this one"
    )]
    Unknown,
    /// A frame that may not come at this point.
    #[error("{found} where {expected} was expected")]
    OutOfPlace {
        /// What was due.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// The envelope's version.
    #[error("it speaks protocol {found}, this side speaks {PROTOCOL}: upgrade the older one")]
    Protocol {
        /// Theirs.
        found: u32,
    },
    /// The controller leads no more.
    #[error("its leadership {found} is over: this node has met {seen}, which is later")]
    Superseded {
        /// Theirs.
        found: u64,
        /// The latest that was met.
        seen: u64,
    },
    /// A body's version.
    #[error("its {kind} has version {found}, this side reads {expected}: upgrade the older one")]
    BodyVersion {
        /// Of what.
        kind: &'static str,
        /// Theirs.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A field that must be there is not.
    #[error("its {kind} has no {field}")]
    Missing {
        /// Of what.
        kind: &'static str,
        /// Which.
        field: &'static str,
    },
    /// A body that is not what it says.
    #[error("its {kind} cannot be read: {source}")]
    Body {
        /// Of what.
        kind: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A body that says another thing than its envelope.
    #[error("its {kind} says {inner} and its envelope {outer}")]
    Contradiction {
        /// Of what.
        kind: &'static str,
        /// In the body.
        inner: String,
        /// In the envelope.
        outer: String,
    },
    /// Larger than [`MAX_FRAME`].
    #[error("its {kind} has {size} bytes, more than {MAX_FRAME}")]
    TooLarge {
        /// Of what.
        kind: &'static str,
        /// Bytes.
        size: usize,
    },
    /// A piece of rules that cannot be one.
    #[error("it is piece {part} of {parts}; at most {} are taken", model::RulesPart::MAX_PARTS)]
    Parts {
        /// From 0.
        part: u32,
        /// Of how many.
        parts: u32,
    },
    /// A body with more in it than is taken.
    #[error("its {kind} has more in it than is taken")]
    Unbounded {
        /// Of what.
        kind: &'static str,
    },
    /// The node it names is not the one in the certificate.
    #[error("it speaks for node {said:?} with the certificate of node {certified:?}")]
    ForeignNode {
        /// In Hello.
        said: String,
        /// In the certificate.
        certified: String,
    },
    /// A node name that cannot be one.
    #[error("{0:?} is not a node name (1 to 253 of a-z, A-Z, 0-9, '-', '_' and '.')")]
    NodeName(String),
}
