//! What a rule said of an event.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{ActionRecord, Event, FindingId, LossWindow, Process, Timestamp};

/// Sigma's levels, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Feeds correlation only.
    Informational,
    /// Feeds correlation and risk only.
    Low,
    /// Worth a look in working hours.
    Medium,
    /// Worth waking somebody.
    High,
    /// Almost certainly an attack.
    Critical,
}

/// The rule behind a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRef {
    /// Sigma `id`, or the file's name where a rule has none.
    pub id: String,
    /// Sigma `title`.
    pub title: String,
    /// Sigma `level`.
    pub level: Level,
    /// ATT&CK technique ids, for example `T1059.004`.
    pub techniques: Vec<String>,
    /// ATT&CK tactics, for example `execution`.
    pub tactics: Vec<String>,
    /// What the rule asks the node to do at once, on its own authority.
    pub reaction: Reaction,
}

/// A rule's first reaction on the node (`hemostat.reaction` in the rule file). All are exactly reversible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reaction {
    /// Report only.
    #[default]
    None,
    /// Freeze the process subtree as soon as user space has matched.
    Freeze,
    /// Hold the process in the kernel at the hook, before its first instruction; then freeze, or let it go on if the
    /// whole rule does not match.
    Stop,
}

/// A rule matched. Everything a person needs to judge it travels with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Derived from the event and the rule.
    pub id: FindingId,
    /// Which rule.
    pub rule: RuleRef,
    /// The first event of this cause.
    pub event: Event,
    /// Matched fields and values, masked, for the explanation. With [`Finding::MIXED`] among them: those of the first only.
    pub matched: BTreeMap<String, String>,
    /// How many times the same cause was seen, this one included.
    pub count: u64,
    /// First and last time of the folded events.
    pub first: Timestamp,
    /// See `first`.
    pub last: Timestamp,
    /// Ancestors from the parent upwards.
    pub ancestors: Vec<Arc<Process>>,
    /// Recent events of the same process, oldest first.
    pub context: Vec<Event>,
    /// What the node already did about it on its own authority.
    pub reactions: Vec<ActionRecord>,
    /// Events lost around it (I2).
    pub loss: LossWindow,
}

impl Finding {
    /// A name among the matched fields, which no field has: repetitions of this finding are counted together although their values
    /// differ, because there were too many different ones.
    pub const MIXED: &str = "(and others)";

    /// Whether repetitions may have other values than the first.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.matched.contains_key(Self::MIXED)
    }
}
