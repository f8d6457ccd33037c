//! Somebody who keeps what nodes reported in another place before it is acknowledged to them: in a cluster, as Secrets in the API server.
//! What is acknowledged leaves the node's spool, so that a journal that is lost would take it along ([`crate::reconcile`]).

use model::{IncidentId, NodeId, Report, Seq};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// The core's way to a ledger.
#[derive(Debug, Clone)]
pub struct Ledger(mpsc::Sender<Box<Told>>);

/// What a node reported, to be kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Who.
    pub node: NodeId,
    /// Over which connection.
    #[serde(skip)]
    pub link: u64,
    /// Its position in the node's spool.
    pub seq: Seq,
    /// The incident that a finding was put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<IncidentId>,
    /// What.
    pub report: Report,
}

impl Ledger {
    /// Reports on their way, at most (I11). Those beyond wait with their node's link, which has at most as many under way as a node sends
    /// without an acknowledgement.
    pub const CAPACITY: usize = 1024;

    /// The two ends.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Box<Told>>) {
        let (told, taken) = mpsc::channel(Self::CAPACITY);
        (Self(told), taken)
    }

    /// Hands a report over, or gives it back where there is no room.
    pub(crate) fn tell(&self, told: Box<Told>) -> Result<(), Box<Told>> {
        self.0.try_send(told).map_err(|error| match error {
            mpsc::error::TrySendError::Full(told) | mpsc::error::TrySendError::Closed(told) => told,
        })
    }
}
