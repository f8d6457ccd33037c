//! What the tables hold.

use detect::tenant::Tenant;
use model::{
    ActionRecord, AgentEpoch, FindingId, Incident, IncidentId, Moments, NodeId, ProcessKey, RecordObject,
    RunId, Seq, Timestamp,
};
use serde::{Deserialize, Serialize};

/// An incident without its findings, which have a table of their own because they are large and never change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IncidentRow {
    /// With `findings` empty.
    pub(crate) incident: Incident,
    /// Whether people see it.
    pub(crate) visibility: Visibility,
    /// Findings stored.
    pub(crate) stored: u32,
    /// Its story goes on there.
    pub(crate) merged_into: Option<IncidentId>,
    /// Incidents whose story goes on here.
    pub(crate) absorbed: Vec<IncidentId>,
    /// Grows with each change, over all incidents.
    pub(crate) revision: u64,
    /// What a person undid or refused here: the machine does not do it again.
    #[serde(default)]
    pub(crate) undone: Vec<Undone>,
    /// Whether something came after it was over.
    #[serde(default)]
    pub(crate) rest: Rest,
}

/// What a person undid or refused: the answer to a rule, for a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Undone {
    pub(crate) node: NodeId,
    pub(crate) process: ProcessKey,
    pub(crate) rule: String,
    /// What it was done to, where another source than the kernel told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<RecordObject>,
}

/// Whether something came after an incident was over and nothing was done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rest {
    /// Nothing.
    #[default]
    Undisturbed,
    /// Something: it is open again.
    Disturbed,
}

/// Whether people see an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Visibility {
    /// Only findings too weak to open one: kept, since a stronger one may join them.
    Dormant,
    /// Shown, and responded to.
    Open,
}

/// How far a node's reports are stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    /// Last position stored.
    pub(crate) seq: Seq,
    /// The newest epoch among what was stored up to there.
    pub(crate) epoch: AgentEpoch,
}

/// A reaction that a node took on its own authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopted {
    /// On which node.
    pub(crate) node: NodeId,
    /// As last reported, or as changed by a rollback of ours.
    pub(crate) record: ActionRecord,
    /// To which incident it belongs, once that is known.
    pub(crate) incident: Option<IncidentId>,
}

/// A finding that correlations look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FedRow {
    /// Which.
    pub(crate) id: FindingId,
    /// Of which rule.
    pub(crate) rule: String,
    /// How often it was counted.
    pub(crate) count: u64,
    /// Time of the last one.
    pub(crate) last: Timestamp,
    /// When it was last counted, by the controller's clock.
    pub(crate) at: Timestamp,
    /// Those that it was folded from.
    #[serde(default, skip_serializing_if = "Moments::is_empty")]
    pub(crate) moments: Moments,
    /// Whose it is.
    #[serde(default)]
    pub(crate) tenant: Tenant,
}

/// Key of the `n`-th row of something with a text id.
pub(crate) fn numbered_key(id: &str, n: u32) -> Vec<u8> {
    let mut key = prefix(id);
    key.extend(n.to_be_bytes());
    key
}

/// Key of the `n`-th transition of a run.
pub(crate) fn journal_key(run: &RunId, n: u64) -> Vec<u8> {
    let mut key = prefix(run.as_str());
    key.extend(n.to_be_bytes());
    key
}

/// Key of a finding in the table of those seen.
pub(crate) fn seen_key(id: &FindingId) -> Vec<u8> {
    id.as_str().as_bytes().to_vec()
}

/// What all keys of one id begin with. Ids hold no zero byte: they are printable texts of our own making.
fn prefix(id: &str) -> Vec<u8> {
    let mut key = id.as_bytes().to_vec();
    key.push(0);
    key
}
