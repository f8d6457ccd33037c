//! What is remembered for ever.

use serde::{Deserialize, Serialize};

use crate::{ActionId, Actor, IncidentId, RunId, Timestamp};

/// One link of the audit chain (I10). `hash` covers every other field, `previous` included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// From 1, without gaps.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What kind of fact.
    pub kind: AuditKind,
    /// For which incident.
    pub incident: Option<IncidentId>,
    /// For which run.
    pub run: Option<RunId>,
    /// For which action.
    pub action: Option<ActionId>,
    /// The fact in one line, secrets masked.
    pub what: String,
    /// Hex of the previous entry's `hash`; 64 zeros for the first.
    pub previous: String,
    /// Hex HMAC-SHA-256 of the canonical form under the chain's key.
    pub hash: String,
}

/// What kind of fact an audit entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    /// The controller started, stopped, loaded rules or playbooks.
    System,
    /// The gate decided.
    Decision,
    /// An action is about to change something.
    Intent,
    /// What came of it.
    Outcome,
    /// A person approved, denied, judged, released.
    Human,
}
