//! After a start: what was half done is finished or undone (I7). And from time to time: what somebody undid is done again.

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError},
    time::Instant,
};

use model::{
    ActionFailure, ActionId, ActionRecord, ActionState, Effect, NodeAction, RollbackState, Timestamp,
};

use super::{
    engine::{Clock, Contain, is_held},
    jail,
    journal::{Line, Slot},
    network,
    scene::{Clean, Task, act},
};

/// What became of an action at the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// The action as it stands now.
    pub record: ActionRecord,
    /// Why it is not as it should be, if it is not.
    pub failure: Option<ActionFailure>,
}

/// A containment that somebody undid.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// Which, as it stands now.
    pub record: ActionRecord,
    /// What was found instead.
    pub found: String,
    /// Whether it is in force again.
    pub again: Result<(), ActionFailure>,
}

/// Its effect is there, and nobody has asked for its undo.
pub(super) fn is_settled(state: ActionState) -> bool {
    matches!(state, ActionState::Applied | ActionState::Verified | ActionState::Unverified)
}

impl Contain {
    /// To be called once, right after [`Contain::open`]. What was being applied when the agent died is applied to its end (the
    /// decision stands, and half a containment is none), or undone where that is not possible any more; what was being undone is undone.
    /// Freezes, stops and quarantines of another boot ended with it. Pinned links of dead cgroups are removed.
    pub fn recover(&self, now: Timestamp) -> Vec<Recovered> {
        let clock = Clock { now, begun: Instant::now() };
        let mut slots: Vec<Slot> = self.scene.journal().standing().cloned().collect();
        slots.sort_unstable_by_key(|slot| slot.order);
        let mut recovered = Vec::new();
        for slot in slots {
            let id = slot.record.id.clone();
            let _alone = self.enter(&id);
            let failure = self.recover_one(slot, &clock).err();
            if let Some(failure) = &failure {
                tracing::error!(action = %id, %failure, "a containment could not be recovered");
            }
            recovered.extend(self.record(&id).map(|record| Recovered { record, failure }));
        }
        self.sweep();
        recovered
    }

    /// Looks whether every containment still holds and does again what somebody undid. To be called every few seconds: what the
    /// kernel would notify of (`cgroup.events`) it notifies of only for some kinds, and at most every 10 ms.
    pub fn watch(&self, now: Timestamp) -> Vec<Drift> {
        let clock = Clock { now, begun: Instant::now() };
        if let Err(failure) = self.scene.journal().settle() {
            tracing::warn!(%failure, "the disk still does not take what is to be written down");
        }
        let half_undone: Vec<ActionId> = {
            let journal = self.scene.journal();
            let reverting = journal.standing().filter(|slot| slot.record.state == ActionState::Reverting);
            reverting.map(|slot| slot.record.id.clone()).collect()
        };
        for id in half_undone {
            let _alone = self.enter(&id);
            self.revert_again(&id);
        }
        let mut drifts = Vec::new();
        for record in self.in_force() {
            // a file that comes back at its path is another file: nothing of ours is undone by it
            if !is_settled(record.state) || record.action == NodeAction::QuarantineFile {
                continue;
            }
            let _alone = self.enter(&record.id);
            drifts.extend(self.watch_one(&record.id, &clock));
        }
        drifts
    }

    /// What could not be undone to its end is tried again; the same failure is told once.
    fn revert_again(&self, id: &ActionId) {
        if self.record(id).is_none_or(|record| record.state != ActionState::Reverting) {
            return;
        }
        match self.revert(id) {
            Ok(_) => {
                self.unmended().remove(id);
            }
            Err(failure) => {
                let now = ("half undone".to_owned(), failure.clone());
                if self.unmended().insert(id.clone(), now.clone()).as_ref() != Some(&now) {
                    tracing::error!(action = %id, %failure, "an undo does not come to its end; it is tried again and again");
                }
            }
        }
    }

    fn watch_one(&self, id: &ActionId, clock: &Clock) -> Option<Drift> {
        // It may have been lifted meanwhile, and that may have failed half way: then the undo goes on, and nothing is done again.
        let record = self.record(id).filter(|record| is_settled(record.state))?;
        let task = Task::of_record(&self.scene, &record);
        let rollback = record.rollback.clone().unwrap_or(RollbackState::Nothing);
        if let Err(failure) = jail::resume(&task) {
            tracing::warn!(action = %id, %failure, "a cgroup that was held still for a moment is not thawed yet");
        }
        let found = match task.still_holds(&record.action, &rollback) {
            Ok(Effect::InForce) => {
                self.unmended().remove(id);
                return None;
            }
            Ok(Effect::Missing { found }) => found,
            Err(ActionFailure::TargetGone { .. }) => {
                self.unmended().remove(id);
                // nothing is left to hold: what we made for it goes
                if let Err(failure) = self.revert(id) {
                    tracing::warn!(action = %id, %failure, "the remains of a containment cannot be removed yet");
                }
                return None;
            }
            Err(failure) => failure.to_string(),
        };
        let again = task
            .apply(&record.action, &rollback)
            .and_then(|outputs| self.note_done(Line::applied(id.clone(), clock.time(), outputs)));
        let news = match &again {
            Ok(()) => {
                self.unmended().remove(id);
                true
            }
            Err(failure) => {
                let now = (found.clone(), failure.clone());
                self.unmended().insert(id.clone(), now.clone()).as_ref() != Some(&now)
            }
        };
        if !news {
            return None;
        }
        tracing::warn!(action = %id, %found, mended = again.is_ok(), "a containment was undone by somebody");
        Some(Drift { record: self.record(id).unwrap_or(record), found, again })
    }

    fn unmended(&self) -> MutexGuard<'_, HashMap<ActionId, (String, ActionFailure)>> {
        self.unmended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recover_one(&self, slot: Slot, clock: &Clock) -> Result<(), ActionFailure> {
        let record = slot.record;
        let id = record.id.clone();
        let outlives_boot =
            matches!(record.action, NodeAction::QuarantineFile | NodeAction::CaptureEvidence(_));
        if slot.boot != self.scene.boot && !outlives_boot {
            let detail = "it ended with the boot that it belonged to".to_owned();
            return self.note(Line::State { id, state: ActionState::Vacuous, detail });
        }
        let task = Task::of_record(&self.scene, &record);
        let rollback = record.rollback.clone().unwrap_or(RollbackState::Nothing);
        // whoever lives beside the tree stands still only for the moment of the move
        jail::resume(&task)?;
        match record.state {
            ActionState::Applying => {
                let Err(failure) = task
                    .apply(&record.action, &rollback)
                    .and_then(|outputs| self.note_done(Line::applied(id.clone(), clock.time(), outputs)))
                else {
                    return Ok(());
                };
                if matches!(
                    (&record.action, &failure),
                    (NodeAction::Kill(_), ActionFailure::TargetGone { .. })
                ) {
                    let outputs = model::Outputs::new();
                    return self.note_done(Line::applied(id, clock.time(), outputs));
                }
                tracing::warn!(action = %id, %failure, "what was half done cannot be finished: it is undone");
                // as it is known by now: who was moved and stopped has been added
                let rollback = self.record(&id).and_then(|record| record.rollback).unwrap_or(rollback);
                match act(&record.action).revert(&task, &rollback) {
                    Ok(_) => task.clean.set(Clean::Yes),
                    Err(failure) => task.leave_unclean(&failure),
                }
                self.note_failed(&task, &failure)
            }
            ActionState::Reverting => self.revert(&id).map(drop),
            _ => Ok(()),
        }
    }

    fn sweep(&self) {
        let known: Vec<String> = self
            .scene
            .journal()
            .standing()
            .filter(|slot| is_held(slot))
            .filter_map(|slot| match &slot.record.rollback {
                Some(RollbackState::Network { pins, .. }) => Some(pins.clone()),
                _ => None,
            })
            .collect();
        match network::sweep_pins(&self.scene, &known) {
            Ok(0) => {}
            Ok(swept) => tracing::info!(swept, "pinned links of dead cgroups were removed"),
            Err(failure) => tracing::warn!(%failure, "pinned links could not be looked through"),
        }
    }
}
