//! The core in the hands of a replay: the same code, without a thread, a queue and a disk of its own.

use model::{Incident, IncidentId, Timestamp};

use super::{Core, Input, Shared, State};
use crate::{
    api::ApiError,
    start::StartError,
    store::{Batch, ReadBack, Store, Table, Visibility},
};

/// Takes the place of the installation's secret, so that a replay does the same whenever it is done.
const SEED: (u64, u64) = (0x6865_6d6f_7374_6174, 0x7265_706c_6179);

/// An incident as people see it.
pub(crate) struct Shown {
    pub(crate) incident: Incident,
    /// Where its story goes on.
    pub(crate) merged_into: Option<IncidentId>,
    /// Those whose story goes on in it.
    pub(crate) absorbed: Vec<IncidentId>,
}

impl Core {
    /// One whose journal is in memory, and for which the rules' own tests have come to their end.
    pub(crate) fn in_memory(shared: Shared) -> Result<Self, StartError> {
        let store = Store::in_memory();
        let mut batch = Batch::default();
        batch.put(Table::Meta, b"correlation_seed".to_vec(), &SEED, ReadBack::No);
        store.commit(&batch)?;
        let mut state = State::load_from(store, &shared.config, &shared.health)?;
        state.corpus.wait();
        let mut core = Self::new(shared, state);
        let mut begin = core.turn();
        core.recover(&mut begin);
        core.correlate(&mut begin);
        core.conclude(begin);
        drop(core.state.incidents.changed());
        Ok(core)
    }

    /// One turn, as the thread takes it.
    pub(crate) fn round(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let mut turn = self.turn();
        // Time may have leapt: what comes now is not dated ahead.
        self.correlate(&mut turn);
        for input in inputs {
            self.take(input, &mut turn);
        }
        self.tick(&mut turn);
        self.conclude(turn);
    }

    /// When something is to be done though nothing comes.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.next_deadline()
    }

    /// Names of the incidents that changed since this was last asked, in order.
    pub(crate) fn changed(&mut self) -> Vec<IncidentId> {
        self.state.incidents.changed()
    }

    /// An incident that people see, where its story goes on, and those whose story goes on in it.
    pub(crate) fn shown(&mut self, id: &IncidentId) -> Result<Option<Shown>, ApiError> {
        match self.state.incidents.get(&self.state.store, id) {
            Ok(whole) => {
                let open = whole.filter(|whole| whole.row.visibility == Visibility::Open);
                Ok(open.map(|whole| Shown {
                    incident: whole.row.incident.clone(),
                    merged_into: whole.row.merged_into.clone(),
                    absorbed: whole.row.absorbed.clone(),
                }))
            }
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    /// What is degraded, and why.
    pub(crate) fn problems(&self) -> Vec<(String, String)> {
        let health = self.health.show();
        health.problems.into_iter().map(|problem| (problem.part, problem.what)).collect()
    }

    /// How many playbooks and correlations are in use.
    pub(crate) fn equipment(&self) -> (usize, usize) {
        (self.state.book.len(), self.state.correlations.len())
    }
}
