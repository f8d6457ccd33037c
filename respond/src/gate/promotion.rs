//! How a playbook earns its next mode, and how it loses one: Shadow → Approve → Auto.
//!
//! What it did or would have done is recorded beside what the analysts did ([`Comparison`]). From those records follows everything else: how
//! often both agreed, week by week ([`weeks`]), when the next mode is proposed, when a proposal is withdrawn, and when a playbook is taken
//! back by itself ([`review`]). A promotion is only ever proposed: it is made by a change in Git ([`patch`]). Time is a value, as everywhere in
//! this crate; the records and the [`Standing`] are all that must be kept.

mod patch;
#[cfg(test)]
mod properties;
mod record;
mod score;

use crds::{Mode, Percent, PlaybookSpec, ResponsePolicySpec};
use model::{PlaybookName, Share, Timestamp, short_hash};
pub use patch::{Hunk, NoPatch, mode_hunk, patch};
pub use record::{Comparison, Deed, RunEnd, Word};
pub use score::{Score, Week, weeks};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is needed for the next mode, and what costs the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The agreement must have been above the target for so long without interruption; also what a demotion looks back on.
    pub window: Duration,
    /// Judged runs.
    pub judged: u32,
    /// Different days on which runs were judged: one busy afternoon is no month.
    pub days: u32,
    /// Of the runs, at least this share must be judged: who judges only the clear ones proves little.
    pub judged_share: Share,
    /// Agreement above which Approve is proposed.
    pub to_approve: Share,
    /// Agreement above which Auto is proposed; the gate asks the same of a playbook's history.
    pub to_auto: Share,
    /// So many false positives of automatic runs within the window cost the mode Auto, if the agreement is not above [`Terms::to_auto`].
    pub wrong: u32,
    /// So many of the newest [`Terms::LAST`] automatic runs that failed cost it, too.
    pub failed: u32,
    /// From so many judged runs within the window on, a playbook with which people mostly disagree does not ask any more.
    pub refused_of: u32,
}

impl Terms {
    /// Automatic runs that are looked at for failures.
    pub const LAST: usize = 10;
    /// What holds.
    pub const SHIPPED: Self = Self {
        window: Duration::from_secs(30 * 86_400),
        judged: 20,
        days: 5,
        judged_share: Share(5_000),
        to_approve: Share(9_500),
        to_auto: Share(9_950),
        wrong: 2,
        failed: 3,
        refused_of: 10,
    };

    /// What holds for a playbook: what is shipped, or more where a policy that may speak of it asks for more.
    pub fn of<'a>(
        playbook: &PlaybookName,
        policies: impl IntoIterator<Item = &'a ResponsePolicySpec>,
    ) -> Self {
        let speaks = |policy: &&ResponsePolicySpec| {
            let of = &policy.matches.playbooks;
            of.is_empty() || of.iter().any(|name| name == playbook.as_str())
        };
        policies.into_iter().filter(speaks).fold(Self::SHIPPED, |terms, policy| {
            let rules = &policy.promotion;
            let days = u64::from(rules.days.unwrap_or(0));
            let above = |share: Option<Percent>| share.map_or(Share::default(), |share| share.0);
            Self {
                window: terms.window.max(Duration::from_secs(days * 86_400)),
                judged: terms.judged.max(rules.judged_runs.unwrap_or(0)),
                to_approve: terms.to_approve.max(above(rules.approve_above)),
                to_auto: terms.to_auto.max(above(rules.auto_above)),
                ..terms
            }
        })
    }

    /// What agreement the mode after `mode` asks for.
    #[must_use]
    pub fn target(&self, mode: Mode) -> Share {
        match mode {
            Mode::Shadow => self.to_approve,
            Mode::Approve | Mode::Auto => self.to_auto,
        }
    }
}

/// Where a playbook stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its mode in Git.
    pub mode: Mode,
    /// Only runs that began since then count.
    pub since: Timestamp,
    /// What it does, in a hash: another one is another playbook, and what was recorded of the old one proves nothing of it.
    pub content: String,
    /// It was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demoted: Option<Demotion>,
    /// Its next mode is proposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed: Option<Proposal>,
}

impl Standing {
    /// The mode that holds: that of Git, or less.
    #[must_use]
    pub fn in_force(&self) -> Mode {
        self.demoted.as_ref().map_or(self.mode, |demotion| self.mode.min(demotion.to))
    }

    /// Whether a run counts for it.
    #[must_use]
    pub fn counts(&self, run: &Comparison) -> bool {
        run.began >= self.since
    }
}

/// A playbook was taken back by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demotion {
    /// From this mode.
    pub from: Mode,
    /// To this one.
    pub to: Mode,
    /// When.
    pub at: Timestamp,
    /// Why, with the numbers.
    pub because: String,
}

/// The next mode is proposed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// From this mode.
    pub from: Mode,
    /// To this one.
    pub to: Mode,
    /// When.
    pub at: Timestamp,
    /// The evidence, a line each.
    pub evidence: Vec<String>,
}

/// What changed in a [`Standing`]; each is told people and audited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "moved", rename_all = "snake_case")]
pub enum Moved {
    /// It is known from now on.
    Began {
        /// In this mode.
        mode: Mode,
    },
    /// Git says another mode.
    ModeChanged {
        /// Before.
        from: Mode,
        /// Now.
        to: Mode,
    },
    /// Git holds another playbook under this name: its record begins anew.
    ContentChanged,
    /// The next mode is proposed.
    Proposed(Proposal),
    /// It no longer is.
    Withdrawn {
        /// Which mode was.
        to: Mode,
        /// Why.
        because: String,
    },
    /// It was taken back.
    Demoted(Demotion),
    /// The demotion is over.
    Lifted {
        /// Why.
        because: String,
    },
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Began { mode } => write!(f, "its record begins in mode {mode:?}"),
            Self::ModeChanged { from, to } => {
                write!(f, "its mode is {to:?} now, not {from:?}: its record begins anew")
            }
            Self::ContentChanged => f.write_str("it is another playbook now: its record begins anew"),
            Self::Proposed(proposal) => {
                write!(f, "mode {:?} is proposed: {}", proposal.to, proposal.evidence.join("; "))
            }
            Self::Withdrawn { to, because } => write!(f, "mode {to:?} is no longer proposed: {because}"),
            Self::Demoted(demotion) => {
                write!(f, "taken back from {:?} to {:?}: {}", demotion.from, demotion.to, demotion.because)
            }
            Self::Lifted { because } => write!(f, "no longer taken back: {because}"),
        }
    }
}

/// What a playbook does, in a hash: everything but its mode and its description.
#[must_use]
pub fn content_of(spec: &PlaybookSpec) -> String {
    let mut spec = spec.clone();
    spec.mode = Mode::default();
    spec.description.clear();
    let text = serde_json::to_string(&spec).unwrap_or_default();
    short_hash([text.as_str()], 16)
}

/// A playbook was read from Git. A demotion ends where Git says the same or less; not because the file was changed in other ways, since
/// nobody said that this mends it (`hemostat trust begin-anew` does).
#[must_use]
pub fn load(known: Option<&Standing>, mode: Mode, content: &str, now: Timestamp) -> (Standing, Vec<Moved>) {
    let begun = |demoted| Standing { mode, since: now, content: content.to_owned(), demoted, proposed: None };
    let Some(known) = known else { return (begun(None), vec![Moved::Began { mode }]) };
    let mut moved = Vec::new();
    let same_mode = known.mode == mode;
    if !same_mode {
        moved.push(Moved::ModeChanged { from: known.mode, to: mode });
    }
    let mut demoted = known.demoted.clone();
    if demoted.as_ref().is_some_and(|demotion| mode <= demotion.to) {
        moved.push(Moved::Lifted { because: format!("its mode in Git is {mode:?}") });
        demoted = None;
    }
    if known.content != content {
        moved.push(Moved::ContentChanged);
    } else if same_mode {
        return (Standing { demoted, ..known.clone() }, moved);
    }
    (begun(demoted), moved)
}

/// Somebody said that what was recorded of it no longer counts.
#[must_use]
pub fn begin_anew(known: &Standing, by: &str, now: Timestamp) -> (Standing, Vec<Moved>) {
    let lifted =
        known.demoted.as_ref().map(|_| Moved::Lifted { because: format!("{by} has its record begin anew") });
    let fresh = Standing { since: now, demoted: None, proposed: None, ..known.clone() };
    (fresh, lifted.into_iter().collect())
}

/// Looks at the record: proposes, withdraws, takes back. Reviewing again what was not changed says nothing new.
#[must_use]
pub fn review(
    playbook: &PlaybookName,
    known: &Standing,
    runs: &[&Comparison],
    terms: &Terms,
    now: Timestamp,
) -> (Standing, Vec<Moved>) {
    let mut standing = known.clone();
    let mut moved = Vec::new();
    // What cost a mode once does not cost the next one as well.
    let since = known.demoted.as_ref().map_or(known.since, |demotion| demotion.at.max(known.since));
    let fresh: Vec<&Comparison> = runs.iter().copied().filter(|run| run.began >= since).collect();
    if let Some((to, because)) = score::demotes(standing.in_force(), &fresh, terms, now) {
        let demotion = Demotion { from: standing.in_force(), to, at: now, because };
        moved.push(Moved::Demoted(demotion.clone()));
        standing.demoted = Some(demotion);
    }
    let counted: Vec<&Comparison> = runs.iter().copied().filter(|run| standing.counts(run)).collect();
    match (score::earned(playbook, &standing, &counted, terms, now), standing.proposed.take()) {
        (Ok(earned), Some(known)) if known.to == earned.to => standing.proposed = Some(known),
        (Ok(earned), _) => {
            moved.push(Moved::Proposed(earned.clone()));
            standing.proposed = Some(earned);
        }
        (Err(because), Some(known)) => moved.push(Moved::Withdrawn { to: known.to, because }),
        (Err(_), None) => {}
    }
    (standing, moved)
}

/// What is still missing for the next mode, in a person's words; nothing where it is proposed or there is none.
#[must_use]
pub fn missing(
    playbook: &PlaybookName,
    standing: &Standing,
    runs: &[&Comparison],
    terms: &Terms,
    now: Timestamp,
) -> Option<String> {
    let counted: Vec<&Comparison> = runs.iter().copied().filter(|run| standing.counts(run)).collect();
    score::earned(playbook, standing, &counted, terms, now).err()
}
