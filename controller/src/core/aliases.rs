//! Findings whose entities have several names join one incident by each of them, and two incidents that turn out to have one in common are
//! merged, with a trace: the pod that acted from an address, the account that opened a session in it.

use detect::incident::{Alias, Key, Placement, names_of};
use model::{Finding, IncidentId};

use super::{Core, turn::Turn};
use crate::store::{ReadBack, StoreError, Table};

impl Core {
    /// What else something of a finding is called, as far as it is known by now.
    pub(super) fn aliases(&self, finding: &Finding) -> Vec<Alias> {
        self.config.pods.as_ref().map(|pods| pods.aliases(finding)).unwrap_or_default()
    }

    /// All that links a finding to others.
    pub(super) fn names_of(&self, finding: &Finding) -> Vec<Key> {
        names_of(finding, &self.aliases(finding))
    }

    /// More of a finding's names may be known than when it came. The incident that it is in now.
    pub(super) fn learn_names(
        &mut self,
        id: &IncidentId,
        finding: &Finding,
        turn: &mut Turn,
    ) -> Result<IncidentId, StoreError> {
        let id = self.root(id);
        let aliases = self.aliases(finding);
        if aliases.is_empty() {
            return Ok(id);
        }
        let Some(placed) = self.state.correlator.learn(&id, finding, &aliases, turn.now) else {
            return Ok(id);
        };
        self.placed(&placed, turn)?;
        if !placed.absorbed.is_empty() {
            self.enrich(&placed.incident, turn.now)?;
            self.settle(&placed.incident, turn)?;
        }
        Ok(placed.incident)
    }

    /// Stores what became of the groups, and merges incidents that are one story.
    pub(super) fn placed(&mut self, placed: &Placement, turn: &mut Turn) -> Result<(), StoreError> {
        for gone in placed.absorbed.iter().chain(&placed.forgotten) {
            turn.batch.remove(Table::Groups, gone.as_str().as_bytes().to_vec());
        }
        let id = &placed.incident;
        if let Some(group) = self.state.correlator.group(id) {
            turn.batch.put(Table::Groups, id.as_str().as_bytes().to_vec(), group, ReadBack::No);
        }
        for absorbed in &placed.absorbed {
            self.absorb(id, absorbed, &placed.shared, turn)?;
        }
        Ok(())
    }
}
