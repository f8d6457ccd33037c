//! What nodes had reported to a controller that was lost with its journal, heard again from where it was kept ([`crate::ledger`]): the
//! findings find their incidents, and nothing is done about them before it is known which of these were dealt with.

use std::{collections::BTreeSet, time::Duration};

use model::{Finding, IncidentId};

use super::{Core, ingest::controller, settle::is_final, turn::Turn};
use crate::{
    health::Part,
    ledger::Told,
    store::{StoreError, Visibility},
};

/// What nobody had answered when its controller was lost is answered by the machine if it was seen so recently; people look at the rest.
const FRESH: Duration = Duration::from_secs(15 * 60);

/// Whether what comes was heard before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Again {
    /// It is new.
    No,
    /// It was, and its incident, which had this name, goes on.
    GoesOn(Option<IncidentId>),
    /// It was, and its incident is over.
    Over,
}

/// What became of the incident of something that is heard again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It goes on, or it has none.
    GoesOn,
    /// People, or a playbook, had the last word on it.
    Over,
}

impl Again {
    /// The name that an incident had.
    pub(super) fn name(&self) -> Option<IncidentId> {
        match self {
            Self::GoesOn(name) => name.clone(),
            Self::No | Self::Over => None,
        }
    }

    /// Whether playbooks answer.
    pub(super) fn answers(&self) -> bool {
        *self == Self::No
    }

    /// Whether it is only remembered, so that it is known when it comes again.
    pub(super) fn is_over(&self) -> bool {
        *self == Self::Over
    }
}

impl Core {
    pub(super) fn hear_again(&mut self, told: Told, whose: Whose, turn: &mut Turn) {
        let Told { node, seq, incident, report, .. } = told;
        self.again = match whose {
            Whose::GoesOn => Again::GoesOn(incident),
            Whose::Over => Again::Over,
        };
        if let Err(error) = self.report(&node, seq, report, turn) {
            self.health.degraded(Part::Journal, error.to_string());
        }
        // What correlations find by the way waits for its answer, too.
        self.again = Again::GoesOn(None);
    }

    /// Everything was heard: what nobody had answered is answered now.
    pub(super) fn heard_again(&mut self, handled: &BTreeSet<IncidentId>, turn: &mut Turn) {
        self.again = Again::No;
        for id in self.state.incidents.ids() {
            if let Err(error) = self.answer_again(&id, handled, turn) {
                self.health.degraded(Part::Journal, error.to_string());
            }
        }
    }

    fn answer_again(
        &mut self,
        id: &IncidentId,
        handled: &BTreeSet<IncidentId>,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let now = turn.now;
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(()) };
        if is_final(&whole.row) || whole.row.visibility != Visibility::Open {
            return Ok(());
        }
        let was = handled.contains(id) || whole.row.absorbed.iter().any(|part| handled.contains(part));
        let fresh: Vec<Finding> = match was {
            true => Vec::new(),
            false => {
                let findings = whole.row.incident.findings.iter();
                findings.filter(|finding| now.since(finding.last) <= FRESH).cloned().collect()
            }
        };
        whole.tell(
            now,
            &controller(),
            match (was, fresh.is_empty()) {
                (true, _) => {
                    "the controller that knew more of it was lost: its findings are here again, what it had in force is taken over, and no \
                     playbook answers them a second time by itself"
                }
                (false, true) => {
                    "the controller that knew of it was lost, and its findings are old: no playbook answers them by itself"
                }
                (false, false) => "the controller that knew of it was lost before it was answered: it is answered now",
            },
        );
        for finding in fresh {
            self.respond(id, &finding, turn)?;
        }
        self.settle(id, turn)
    }
}
