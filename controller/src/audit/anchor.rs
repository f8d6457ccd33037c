//! Length and last hash of the chain, kept away from it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{AuditKey, ChainHead};

/// How long the log must be at least, and which hash stands at that length. Whoever cuts the log must also change this, and
/// cannot without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Where the chain stood.
    #[serde(flatten)]
    pub head: ChainHead,
    /// Hex HMAC of the two under the chain's key.
    pub mac: String,
}

/// Why an anchor could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The file system said no.
    #[error("cannot {operation} the audit anchor {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Not an anchor.
    #[error("the audit anchor {} cannot be understood: {source}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
}

impl Anchor {
    /// The anchor of a chain that stands at `head`.
    #[must_use]
    pub fn new(key: &AuditKey, head: &ChainHead) -> Self {
        Self { head: head.clone(), mac: mac(key, head) }
    }

    /// Whether it was made with `key`.
    #[must_use]
    pub fn genuine(&self, key: &AuditKey) -> Genuine {
        if self.mac == mac(key, &self.head) { Genuine::Yes } else { Genuine::No }
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// When it cannot be read or is no anchor.
    pub fn read(path: &Path) -> Result<Self, AnchorError> {
        let bytes = fs::read(path).map_err(|source| AnchorError::Io {
            operation: "read",
            path: path.into(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| AnchorError::Malformed { path: path.into(), source })
    }

    /// Replaces the file in one step. Not synced: the journal database holds the durable anchor, this is its copy outside.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), AnchorError> {
        let io = |operation| move |source| AnchorError::Io { operation, path: path.into(), source };
        let fresh = path.with_extension("new");
        let text = format!(
            "{{\"count\":{},\"hash\":\"{}\",\"mac\":\"{}\"}}\n",
            self.head.count, self.head.hash, self.mac
        );
        fs::write(&fresh, text).map_err(io("write"))?;
        fs::rename(&fresh, path).map_err(io("replace"))
    }
}

/// Whether something was made with the key at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Genuine {
    /// It was.
    Yes,
    /// It was changed, or made with another key.
    No,
}

fn mac(key: &AuditKey, head: &ChainHead) -> String {
    key.mac("anchor", format!("{}:{}", head.count, head.hash).as_bytes())
}
