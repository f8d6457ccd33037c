//! Somebody who writes an effect down in another place before it is commanded: in a cluster, as a ResponseAction in the API server.
//!
//! The journal is written first in any case; the witness stands between it and the node. It gives each command back to the core
//! once it has done its part ([`crate::ControllerHandle`]), and whether that waits for the other place is its own decision.

use model::{NodeCommand, Phase};
use tokio::sync::mpsc;

/// The core's way to a witness.
#[derive(Debug, Clone)]
pub struct Witness(mpsc::Sender<Box<NodeCommand>>);

impl Witness {
    /// Commands that wait for a witness, at most (I11). One beyond is dropped: its run repeats it.
    pub const CAPACITY: usize = 1024;

    /// The two ends.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Box<NodeCommand>>) {
        let (told, taken) = mpsc::channel(Self::CAPACITY);
        (Self(told), taken)
    }

    /// Only what changes something needs a witness.
    pub(crate) fn sees(&self, phase: &Phase) -> bool {
        matches!(phase, Phase::Apply { .. } | Phase::Revert { .. })
    }

    /// Hands a command over.
    pub(crate) fn tell(&self, command: Box<NodeCommand>) {
        if let Err(error) = self.0.try_send(command) {
            tracing::warn!(%error, "a command is not sent now: its run repeats it");
        }
    }
}
