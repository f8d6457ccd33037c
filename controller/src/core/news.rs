//! What comes after an incident was over is news: it is answered, or the incident is open again, or another one is opened. But
//! what a person undid or refused is not done again by the machine.

use detect::incident::incident_of_repeat;
use model::{
    ActionId, ActionRecord, FindingId, IncidentId, Moments, NodeId, ProcessKey, RunId, Target, Timestamp,
};
use respond::run::Sight;

use super::{
    Core,
    answers::Answered,
    ingest::controller,
    runs::object,
    settle::{is_final, is_rest},
    turn::Turn,
};
use crate::store::{Rest, StoreError, Table, Undone, Visibility};

impl Core {
    /// A cause that is known was seen again.
    pub(super) fn repeated(
        &mut self,
        id: &FindingId,
        count: u64,
        last: Timestamp,
        moments: Moments,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        tracing::debug!(finding = %id, count, "a finding came again");
        let Some((of, index)) = self.place_of(id, turn)? else { return Ok(()) };
        let Some(whole) = self.state.incidents.get(&self.state.store, &of)? else { return Ok(()) };
        let Some(known) = whole.row.incident.findings.get(index as usize) else { return Ok(()) };
        if count <= known.count {
            // Delivered before.
            return Ok(());
        }
        let mut again = known.clone();
        (again.count, again.last) = (count, last);
        // They are told where the others are.
        again.moments = Moments::default();
        whole.repeat(index, count, last, moments, turn.now);
        self.watch(&Sight::again(&again, last), turn);
        if self.state.correlations.is_quiet(&again) {
            // Evidence: what its repetitions mean is for the correlation to say.
            return Ok(());
        }
        let of = self.root(&of);
        let Some(whole) = self.state.incidents.get(&self.state.store, &of)? else { return Ok(()) };
        if whole.row.visibility == Visibility::Dormant {
            return Ok(());
        }
        let (is_final, resting) = (is_final(&whole.row), is_rest(whole.row.incident.state));
        if is_final {
            whole.tell(
                turn.now,
                &controller(),
                format!("{id} was seen again, {count} times by now: see the next incident"),
            );
            // What was done then belongs to the incident of then.
            again.reactions.clear();
            again.first = last;
            let name = incident_of_repeat(&again);
            return self.found(again, name, Vec::new(), turn);
        }
        let runs: Vec<RunId> = whole.row.incident.runs.iter().map(|run| run.id.clone()).collect();
        let busy = runs.iter().any(|run| self.is_live(run));
        if !busy && self.again.answers() && self.respond(&of, &again, turn)? == Answered::Not && resting {
            self.disturb(&of, turn)?;
        }
        self.settle(&of, turn)
    }

    /// Something came after an incident was over, and nothing was done about it: a person must look again.
    pub(super) fn disturb(&mut self, id: &IncidentId, turn: &mut Turn) -> Result<(), StoreError> {
        if let Some(whole) = self.state.incidents.get(&self.state.store, id)?
            && whole.row.rest == Rest::Undisturbed
        {
            whole.row.rest = Rest::Disturbed;
            whole.tell(turn.now, &controller(), "seen again after it was over: it is open again");
        }
        Ok(())
    }

    /// A person, or a run, deals with what came.
    pub(super) fn calm(&mut self, id: &IncidentId, turn: &Turn) {
        // One that cannot be read is told where it is written.
        if let Ok(Some(whole)) = self.state.incidents.get(&self.state.store, id)
            && whole.row.rest == Rest::Disturbed
        {
            whole.row.rest = Rest::Undisturbed;
            whole.touch(turn.now);
        }
    }

    /// The next finding of this story opens another incident.
    pub(super) fn close_group(&mut self, id: &IncidentId, turn: &mut Turn) {
        self.state.correlator.close(id);
        turn.batch.remove(Table::Groups, id.as_str().as_bytes().to_vec());
    }

    /// A person undid everything of an incident: none of its findings is answered again for its process.
    pub(super) fn undid_all(&mut self, id: &IncidentId) -> Result<(), StoreError> {
        self.undid(id, |_, _| true)
    }

    /// A person undid an action.
    pub(super) fn undid_action(
        &mut self,
        id: &IncidentId,
        run: &RunId,
        record: Option<&ActionRecord>,
    ) -> Result<(), StoreError> {
        self.undid_run(id, run)?;
        let Some(Target::Process { process: target }) = record.map(|r| r.target.clone()) else {
            return Ok(());
        };
        let node = self.state.rows.get(run).map(|row| row.node.clone());
        self.undid(id, |on, process| Some(on) == node.as_ref() && *process == target)
    }

    /// A person undid or refused what a run does.
    pub(super) fn undid_run(&mut self, id: &IncidentId, run: &RunId) -> Result<(), StoreError> {
        let Some(row) = self.state.rows.get(run) else { return Ok(()) };
        let Some(answers) = &row.answers else { return Ok(()) };
        let what = Undone {
            node: row.node.clone(),
            process: answers.process,
            rule: answers.rule.clone(),
            object: answers.object.clone(),
        };
        self.state.incidents.undid(&self.state.store, id, what)
    }

    /// A person lifted an action of a run on its node.
    pub(super) fn lifted(&mut self, run: &RunId, record: &ActionRecord) {
        let Some(incident) = self.state.rows.get(run).map(|row| row.incident.clone()) else { return };
        let incident = self.root(&incident);
        if let Err(error) = self.undid_action(&incident, run, Some(record)) {
            self.store_failed(&error);
        }
    }

    /// The record of an action of a run.
    pub(super) fn record_of(&self, run: &RunId, action: &ActionId) -> Option<ActionRecord> {
        self.state.runs.get(run)?.records().into_iter().find(|record| record.id == *action)
    }

    fn undid(
        &mut self,
        id: &IncidentId,
        which: impl Fn(&NodeId, &ProcessKey) -> bool,
    ) -> Result<(), StoreError> {
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(()) };
        let undone: Vec<Undone> = whole
            .row
            .incident
            .findings
            .iter()
            .filter(|f| which(&f.event.id.node, &f.event.process.key))
            .map(|f| Undone {
                node: f.event.id.node.clone(),
                process: f.event.process.key,
                rule: f.rule.id.clone(),
                object: object(f),
            })
            .collect();
        for what in undone {
            self.state.incidents.undid(&self.state.store, id, what)?;
        }
        Ok(())
    }
}
