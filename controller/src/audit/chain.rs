//! One link of the chain, and its canonical form.

use model::{ActionId, Actor, AuditEntry, AuditKind, IncidentId, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use super::AuditKey;

/// Longest `what` of an entry, in bytes; more is cut (I11).
const MAX_WHAT: usize = 4096;

/// Hash before the first entry.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How long a chain is, and its last hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// Entries so far.
    pub count: u64,
    /// Hash of the last one.
    pub hash: String,
}

impl Default for ChainHead {
    fn default() -> Self {
        Self { count: 0, hash: GENESIS.into() }
    }
}

/// What an entry is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
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
    /// The fact in one line.
    pub what: String,
}

/// The canonical form: every field but `hash`, in this order, as compact JSON. `serde_json` writes fields in the order of
/// the struct and escapes control characters, so one entry has one form.
#[derive(Serialize)]
struct Unsealed<'a> {
    seq: u64,
    at: Timestamp,
    actor: &'a Actor,
    kind: AuditKind,
    incident: &'a Option<IncidentId>,
    run: &'a Option<RunId>,
    action: &'a Option<ActionId>,
    what: &'a str,
    previous: &'a str,
}

impl ChainHead {
    /// Seals `draft` as the next entry and moves the head to it.
    pub fn seal(&mut self, key: &AuditKey, draft: Draft) -> AuditEntry {
        let mut entry = AuditEntry {
            seq: self.count + 1,
            at: draft.at,
            actor: draft.actor,
            kind: draft.kind,
            incident: draft.incident,
            run: draft.run,
            action: draft.action,
            what: one_line(draft.what),
            previous: std::mem::take(&mut self.hash),
            hash: String::new(),
        };
        entry.hash = hash(key, &entry);
        *self = Self { count: entry.seq, hash: entry.hash.clone() };
        entry
    }
}

/// The hash that `entry` must have under `key`.
pub(super) fn hash(key: &AuditKey, entry: &AuditEntry) -> String {
    let AuditEntry { seq, at, actor, kind, incident, run, action, what, previous, hash: _ } = entry;
    let form = Unsealed { seq: *seq, at: *at, actor, kind: *kind, incident, run, action, what, previous };
    key.mac("entry", &json(&form))
}

/// The line of `entry`, without the newline.
pub(super) fn line(entry: &AuditEntry) -> Vec<u8> {
    json(entry)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "plain structs with string keys always serialise to memory")]
    serde_json::to_vec(value).expect("plain data serialises")
}

fn one_line(mut what: String) -> String {
    if what.len() > MAX_WHAT {
        let cut = (0..=MAX_WHAT - 4).rev().find(|at| what.is_char_boundary(*at)).unwrap_or(0);
        what.truncate(cut);
        what.push('…');
    }
    what
}
