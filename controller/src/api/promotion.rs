//! How playbooks earn and lose their modes, as it is shown.

use crds::Mode;
use model::{PlaybookName, Timestamp};
use respond::gate::promotion::{Comparison, Demotion, Proposal, Score, Week};
use serde::{Deserialize, Serialize};

/// Where a playbook stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromotionView {
    /// Which.
    pub playbook: PlaybookName,
    /// Its mode in Git.
    pub mode: Mode,
    /// The mode that holds: that of Git, or less.
    pub in_force: Mode,
    /// Runs since then count.
    pub since: Timestamp,
    /// It was taken back.
    pub demoted: Option<Demotion>,
    /// Its next mode is proposed.
    pub proposed: Option<Proposal>,
    /// What its next mode still lacks.
    pub missing: Option<String>,
    /// The runs that count.
    pub score: Score,
    /// Agreement over time, the runs before `since` included.
    pub weeks: Vec<Week>,
    /// Its newest runs beside what the analysts did, where one playbook was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Comparison>,
    /// The proposal, or what a demotion makes of it, as a change for Git; where one playbook was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<PatchView>,
}

/// A change for Git.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchView {
    /// A unified diff for `git apply`, or a patch for `kubectl patch` where no file is known here.
    pub text: String,
    /// How it is applied.
    pub apply: String,
    /// What it does not change and a person should look at.
    pub notes: Vec<String>,
}
