//! What is degraded, for people and for probes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::api::{Condition, Health, Problem};

/// Parts whose state is told. Bounded, so it can be a label (I11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// The journal or the audit log cannot be written: nothing goes on until it can.
    Storage,
    /// The journal database holds something that cannot be read.
    Journal,
    /// The audit log.
    Audit,
    /// The copy of the audit anchor.
    Anchor,
    /// Playbooks and policies.
    Playbooks,
    /// Findings or messages that were dropped or refused.
    Ingest,
    /// Grouping of findings.
    Grouping,
    /// Rules.
    Rules,
    /// Findings that correlations could not count.
    Correlation,
    /// Feeds of threat intelligence.
    Intelligence,
    /// What the API server does not take.
    Cluster,
    /// Kinds of objects that the API server does not tell of.
    Reading,
    /// More pods than are kept.
    Attribution,
    /// What nodes report is not kept in the API server.
    Reports,
    /// The lease has run out.
    Lease,
    /// Resources and their definitions are of another version than this program.
    Version,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Journal => "journal",
            Self::Audit => "audit",
            Self::Anchor => "anchor",
            Self::Playbooks => "playbooks",
            Self::Ingest => "ingest",
            Self::Grouping => "grouping",
            Self::Rules => "rules",
            Self::Correlation => "correlation",
            Self::Intelligence => "intelligence",
            Self::Cluster => "cluster",
            Self::Reading => "reading",
            Self::Attribution => "attribution",
            Self::Reports => "reports",
            Self::Lease => "lease",
            Self::Version => "version",
        }
    }
}

/// Shared by all who have something to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthBoard(Arc<Mutex<BTreeMap<Part, String>>>);

impl HealthBoard {
    pub(crate) fn degraded(&self, part: Part, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!(part = part.name(), what, "degraded");
        self.lock().insert(part, what);
    }

    pub(crate) fn restored(&self, part: Part) {
        if self.lock().remove(&part).is_some() {
            tracing::info!(part = part.name(), "restored");
        }
    }

    pub(crate) fn show(&self) -> Health {
        let problems: Vec<Problem> = self
            .lock()
            .iter()
            .map(|(part, what)| Problem { part: part.name().into(), what: what.clone() })
            .collect();
        let condition = if problems.is_empty() { Condition::Good } else { Condition::Degraded };
        Health { condition, problems }
    }

    /// What is told of a part.
    pub(crate) fn says(&self, part: Part) -> Option<String> {
        self.lock().get(&part).cloned()
    }

    /// Why nothing can go on, if so.
    pub(crate) fn stalled(&self) -> Option<String> {
        self.lock().get(&Part::Storage).cloned()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, String>> {
        // A text that was half replaced cannot be seen: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
