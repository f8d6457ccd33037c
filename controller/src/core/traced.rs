//! Which incidents are sent as traces, and when: once they are over, and again with what a person or an undo added.

use model::IncidentId;
use respond::run::Transition;

use super::Core;
use crate::{store::Table, trace::spans};

/// Incidents that wait to be told (I11).
const MOST: usize = 1024;

impl Core {
    /// Traces of the incidents whose stories came to an end; after the turn that stored them.
    pub(super) fn send_traces(&mut self) {
        let Some(sending) = self.traces.clone() else { return };
        for id in std::mem::take(&mut self.state.to_trace) {
            let Ok(Some(whole)) = self.state.incidents.get(&self.state.store, &id) else { continue };
            let incident = whole.row.incident.clone();
            let mut journals: Vec<Vec<Transition>> = Vec::new();
            for run in &incident.runs {
                let mut prefix = run.id.as_str().as_bytes().to_vec();
                prefix.push(0);
                match self.state.store.scan::<Transition>(Table::Journal, &prefix) {
                    Ok(found) => journals.push(found.into_iter().map(|(_, transition)| transition).collect()),
                    Err(error) => tracing::debug!(%error, "a run is left out of its trace"),
                }
            }
            sending.put(spans(&incident, &journals, self.state.audit.head.count));
        }
    }

    /// An incident came to an end, or something was added to one that had.
    pub(super) fn mark_for_trace(&mut self, ended: Vec<IncidentId>) {
        if self.traces.is_some() && self.state.to_trace.len() < MOST {
            self.state.to_trace.extend(ended);
        }
    }
}
