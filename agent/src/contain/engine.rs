//! Commands and reactions, one phase at a time: what was asked is checked, written down, done, and its outcome written down.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

use model::{
    ActionFailure, ActionId, ActionRecord, ActionState, CommandOutcome, Effect, Frozen, IncidentId,
    NodeAction, NodeCommand, Outputs, Phase, PhaseDone, ProcessKey, RollbackState, Target, Timestamp,
    UndoClass,
};

use super::{
    bpffs, foreign,
    journal::{Durability, Journal, JournalError, Line, Slot, is_over},
    scene::{Clean, Scene, Task, Undone, act},
};

/// Containment on this node.
pub struct Contain {
    pub(super) scene: Scene,
    busy: Busy,
    /// What `watch` found and could not mend, so that the same is told once.
    pub(super) unmended: Mutex<HashMap<ActionId, (String, ActionFailure)>>,
}

/// Which containments to lift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Everything in force, newest first.
    All,
    /// One.
    One(ActionId),
}

/// One containment lifted locally, or the attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Lifted {
    /// The action as it stands now.
    pub record: ActionRecord,
    /// What was restored, or why it was not.
    pub result: Result<PhaseDone, ActionFailure>,
}

impl Contain {
    pub(super) fn over(scene: Scene) -> Self {
        Self { scene, busy: Busy::default(), unmended: Mutex::default() }
    }

    /// Does one phase of one action for the controller. A repeated command (same key and phase) is not done again and gets the same
    /// outcome; only what changes nothing or may get better is looked at anew (verify, failures of the system, drift).
    pub fn handle(&self, command: &NodeCommand, now: Timestamp) -> CommandOutcome {
        let clock = Clock { now, begun: Instant::now() };
        let _alone = self.busy.enter(&command.action_id);
        let known = self.known_outcome(command);
        let result = match known {
            Some(Ok(outcome)) => return outcome,
            Some(Err(refusal)) => Err(refusal),
            None if now > command.deadline && !self.is_done(command) => Err(ActionFailure::Expired),
            None => self.phase(command, &clock),
        };
        let outcome = CommandOutcome {
            key: command.key.clone(),
            action_id: command.action_id.clone(),
            phase: command.phase.name().to_owned(),
            at: clock.time(),
            result,
        };
        if is_final(&outcome.result)
            && let Err(error) =
                self.note(Line::Outcome { id: command.action_id.clone(), outcome: outcome.clone() })
        {
            // the effect and its state are in the journal; a repeat finds them there
            tracing::error!(%error, action = %command.action_id, "an outcome could not be written down");
        }
        outcome
    }

    /// Contains on the node's own authority, before any controller has been asked. The same action on the same target that is in
    /// force already is not done again.
    ///
    /// Errors: [`ActionFailure`]; nothing is in force then.
    pub fn react(
        &self,
        action: NodeAction,
        target: Target,
        now: Timestamp,
    ) -> Result<ActionRecord, ActionFailure> {
        let clock = Clock { now, begun: Instant::now() };
        let same = |slot: &&Slot| {
            let stays = is_held(slot) && slot.record.state != ActionState::Reverting;
            stays && slot.record.action == action && slot.record.target == target
        };
        if let Some(slot) = self.scene.journal().standing().find(same) {
            return Ok(slot.record.clone());
        }
        let id = self.reaction_id(&action, &target, now);
        let _alone = self.busy.enter(&id);
        let task = Task::of_the_node(&self.scene, &id, &target);
        let mut rollback = task.capture(&action)?;
        if let RollbackState::Stop { processes } = &mut rollback {
            // Who reacts with a stop takes over a process that the hook has just stopped at its exec; it ran until then.
            processes.iter_mut().for_each(|process| process.was_stopped = Frozen::No);
        }
        self.put(&id, &action, &target, None, rollback.clone(), ActionState::Applying, now)?;
        self.apply(&task, &action, &rollback, &clock)?;
        self.record(&id).ok_or_else(|| ActionFailure::TargetGone { target: format!("action {id}") })
    }

    /// Freezes a process subtree at once: [`Contain::react`] with `node.freeze`.
    ///
    /// Errors: [`ActionFailure`]; nothing is in force then.
    pub fn react_freeze(&self, process: ProcessKey, now: Timestamp) -> Result<ActionRecord, ActionFailure> {
        self.react(NodeAction::Freeze(model::FreezeScope::Subtree), Target::Process { process }, now)
    }

    /// What stands now and can be lifted.
    pub fn in_force(&self) -> Vec<ActionRecord> {
        let mut slots: Vec<(u64, ActionRecord)> = self
            .scene
            .journal()
            .standing()
            .filter(|slot| is_held(slot))
            .map(|slot| (slot.order, slot.record.clone()))
            .collect();
        slots.sort_unstable_by_key(|(order, _)| *order);
        slots.into_iter().map(|(_, record)| record).collect()
    }

    /// Whether something that is done to this very process stands and is not being lifted.
    #[must_use]
    pub fn holds(&self, process: ProcessKey) -> bool {
        let target = Target::Process { process };
        let holds = |slot: &Slot| is_held(slot) && slot.record.state != ActionState::Reverting;
        self.scene.journal().standing().any(|slot| slot.record.target == target && holds(slot))
    }

    /// One action as the node remembers it.
    pub fn record(&self, id: &ActionId) -> Option<ActionRecord> {
        self.scene.journal().slot(id).map(|slot| slot.record.clone())
    }

    /// Lifts containments without the controller, newest first, because a person asks for it: what cannot be restored exactly is
    /// set free as near as possible to how it was.
    pub fn release(&self, which: &Which) -> Vec<Lifted> {
        let wanted = |id: &ActionId| match which {
            Which::All => true,
            Which::One(one) => one == id,
        };
        let records: Vec<ActionRecord> =
            self.in_force().into_iter().rev().filter(|record| wanted(&record.id)).collect();
        records
            .into_iter()
            .map(|record| {
                let _alone = self.busy.enter(&record.id);
                let result = self.revert(&record.id);
                Lifted { record: self.record(&record.id).unwrap_or(record), result }
            })
            .collect()
    }

    /// Loads what a network quarantine needs, so that the next one takes effect at once. For idle moments.
    ///
    /// Errors: [`ActionFailure`] when this kernel does not take the programs.
    pub fn prepare(&self) -> Result<(), ActionFailure> {
        self.scene.spare.prepare()
    }

    /// Whether the next network quarantine finds loaded what it needs.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.scene.spare.is_prepared()
    }

    /// Takes away what containment left on the machine besides the state directory: the folder in bpffs, and its mount if it was ours.
    /// Lift everything first.
    ///
    /// Errors: [`ActionFailure`] while something is pinned.
    pub fn uninstall(&self) -> Result<(), ActionFailure> {
        bpffs::remove(&self.scene)
    }

    /// The outcome of an earlier copy of this command, or why this one cannot be meant.
    fn known_outcome(&self, command: &NodeCommand) -> Option<Result<CommandOutcome, ActionFailure>> {
        if command.node != self.scene.node {
            return Some(Err(ActionFailure::Unsupported {
                operation: format!("{} on node {}", command.action.name(), command.node),
                because: format!("this is node {}", self.scene.node),
            }));
        }
        let journal = self.scene.journal();
        let reused = |expected: String, found: &str| {
            Some(Err(ActionFailure::TargetChanged {
                target: format!("command {}", command.key),
                expected,
                found: found.to_owned(),
            }))
        };
        let elsewhere = journal.slots().find(|slot| {
            slot.record.id != command.action_id && slot.outcomes.iter().any(|o| o.key == command.key)
        });
        if let Some(slot) = elsewhere {
            return reused(format!("action {}", slot.record.id), command.action_id.as_str());
        }
        let slot = journal.slot(&command.action_id)?;
        if slot.record.action != command.action || slot.record.target != command.target {
            return reused(
                format!("{} on {}", slot.record.action.name(), slot.record.target),
                &format!("{} on {}", command.action.name(), command.target),
            );
        }
        let phase = command.phase.name();
        slot.outcomes.iter().find(|o| o.key == command.key && o.phase == phase).cloned().map(Ok)
    }

    fn phase(&self, command: &NodeCommand, clock: &Clock) -> Result<PhaseDone, ActionFailure> {
        let id = &command.action_id;
        let task = Task::new(&self.scene, id, &command.target);
        let known = self.record(id);
        let state = known.as_ref().map(|record| record.state);
        let put = |rollback: RollbackState, state| {
            self.put(
                id,
                &command.action,
                &command.target,
                Some(&command.incident),
                rollback,
                state,
                clock.now,
            )
        };
        match &command.phase {
            Phase::Capture => {
                if let Some(rollback) =
                    known.and_then(|record| record.rollback).filter(|_| state != Some(ActionState::Failed))
                {
                    return Ok(PhaseDone::Captured { rollback });
                }
                let rollback = task.capture(&command.action)?;
                put(rollback.clone(), ActionState::Prepared)?;
                Ok(PhaseDone::Captured { rollback })
            }
            Phase::Apply { rollback: given } => match state {
                Some(ActionState::Applied | ActionState::Verified | ActionState::Unverified) => {
                    Ok(PhaseDone::Applied { outputs: self.outputs(id) })
                }
                None
                | Some(
                    ActionState::Prepared
                    | ActionState::Failed
                    | ActionState::Planned
                    | ActionState::Applying,
                ) => {
                    // Time has passed since the capture, and processes have gone on: what they are now is what will be restored.
                    let anew = moves_on(&command.action) && state != Some(ActionState::Applying);
                    let rollback = match known.and_then(|record| record.rollback) {
                        Some(_) if anew => task.capture(&command.action)?,
                        Some(ours) => ours,
                        // the node lost its state directory since: only what a capture gives now is trusted
                        None => {
                            let fresh = task.capture(&command.action)?;
                            check_same(&task, given, &fresh)?;
                            fresh
                        }
                    };
                    put(rollback.clone(), ActionState::Applying)?;
                    let outputs = self.apply(&task, &command.action, &rollback, clock)?;
                    Ok(PhaseDone::Applied { outputs })
                }
                Some(
                    ActionState::Reverting
                    | ActionState::Reverted
                    | ActionState::RevertBlocked
                    | ActionState::Vacuous,
                ) => Err(ActionFailure::Unsupported {
                    operation: format!("applying action {id}"),
                    because: "it has been reverted; plan a new one".into(),
                }),
            },
            Phase::Verify { rollback: given } => {
                let rollback = known.and_then(|record| record.rollback).unwrap_or_else(|| given.clone());
                let effect = task.verify(&command.action, &rollback)?;
                let (next, detail) = match &effect {
                    Effect::InForce => (ActionState::Verified, String::new()),
                    Effect::Missing { found } => (ActionState::Unverified, found.clone()),
                };
                if matches!(
                    state,
                    Some(ActionState::Applied | ActionState::Verified | ActionState::Unverified)
                ) {
                    self.note(Line::State { id: id.clone(), state: next, detail })?;
                }
                Ok(PhaseDone::Verified { effect })
            }
            Phase::Revert { rollback: given, .. } => {
                if known.is_none() {
                    put(foreign::checked(&task, &command.action, given)?, ActionState::Applied)?;
                }
                self.revert(id)
            }
        }
    }

    /// Applies what is in the journal as `Applying`; a failure leaves nothing in force.
    pub(super) fn apply(
        &self,
        task: &Task<'_>,
        action: &NodeAction,
        rollback: &RollbackState,
        clock: &Clock,
    ) -> Result<Outputs, ActionFailure> {
        let id = task.id.clone();
        match task.apply(action, rollback) {
            Ok(outputs) => {
                // The effect stands and is announced in the journal, so it is not given up because the disk is full: that would
                // put containment into the hands of whoever fills it.
                let at = task.in_force.take().map_or_else(|| clock.time(), |instant| clock.at(instant));
                self.note_done(Line::applied(id, at, outputs.clone()))?;
                Ok(outputs)
            }
            Err(failure) => {
                self.note_failed(task, &failure)?;
                Err(failure)
            }
        }
    }

    /// It failed, and is over; or, when what it did could not be taken back, is on its way back until it is.
    pub(super) fn note_failed(&self, task: &Task<'_>, failure: &ActionFailure) -> Result<(), ActionFailure> {
        let state = match task.clean.get() {
            Clean::Yes => ActionState::Failed,
            Clean::No => ActionState::Reverting,
        };
        self.note_done(Line::State { id: task.id.clone(), state, detail: failure.to_string() })
    }

    /// Undoes an action that the journal knows.
    pub(super) fn revert(&self, id: &ActionId) -> Result<PhaseDone, ActionFailure> {
        let gone = || ActionFailure::TargetGone { target: format!("action {id}") };
        let record = self.record(id).ok_or_else(gone)?;
        let state = |state, detail: &str| Line::State { id: id.clone(), state, detail: detail.to_owned() };
        match record.state {
            ActionState::Reverted | ActionState::Vacuous => {
                return Ok(PhaseDone::Reverted { detail: record.detail });
            }
            ActionState::Planned | ActionState::Prepared | ActionState::Failed => {
                let detail = "it was never in force";
                self.note(state(ActionState::Reverted, detail))?;
                return Ok(PhaseDone::Reverted { detail: detail.into() });
            }
            _ => {}
        }
        self.note(state(ActionState::Reverting, ""))?;
        if let Some(heir) = self.hand_over(&record)? {
            let detail = format!("{heir} still holds it and will restore what was");
            self.note_done(state(ActionState::Reverted, &detail))?;
            return Ok(PhaseDone::Reverted { detail });
        }
        let task = Task::new(&self.scene, id, &record.target);
        let rollback = record.rollback.clone().unwrap_or(RollbackState::Nothing);
        match act(&record.action).revert(&task, &rollback) {
            Ok(Undone::Restored { detail }) => {
                self.note_done(state(ActionState::Reverted, &detail))?;
                Ok(PhaseDone::Reverted { detail })
            }
            Ok(Undone::Vacuous { detail }) => {
                self.note_done(state(ActionState::Vacuous, &detail))?;
                Ok(PhaseDone::Reverted { detail })
            }
            Ok(Undone::Drifted { difference }) => {
                self.note_done(state(ActionState::RevertBlocked, &difference))?;
                Ok(PhaseDone::Drifted { difference })
            }
            // still Reverting: tried again at the next command, release, look (`watch`) or start
            Err(failure) => Err(failure),
        }
    }

    /// Several actions may freeze the same cgroup in place. When the first is lifted, what it would restore passes to the next, so that
    /// the effect lasts as long as any and all undone, in any order, give back what was. Returns the heir. (Of processes in jails each
    /// freeze knows the true home itself: see [`super::homes`].)
    fn hand_over(&self, record: &ActionRecord) -> Result<Option<ActionId>, ActionFailure> {
        let Some(RollbackState::Freeze { in_place: Some(place), in_place_id: id, was_frozen, .. }) =
            &record.rollback
        else {
            return Ok(None);
        };
        let mut journal = self.scene.journal();
        let Some(order) = journal.slot(&record.id).map(|slot| slot.order) else { return Ok(None) };
        let later = journal.standing().filter(|slot| is_held(slot) && slot.order > order);
        // One that an agent of before has recorded bears no id: there its path speaks for it.
        let same_place = |slot: &&Slot| matches!(&slot.record.rollback, Some(RollbackState::Freeze { in_place: Some(other), in_place_id: theirs, .. }) if other == place && (theirs == id || theirs.is_none() || id.is_none()));
        let Some(heir) = later.filter(same_place).min_by_key(|slot| slot.order) else { return Ok(None) };
        let (heir, mut inherited) = (heir.record.id.clone(), heir.record.rollback.clone());
        if let Some(RollbackState::Freeze { was_frozen: theirs, .. }) = &mut inherited {
            *theirs = *was_frozen;
        }
        if let Some(rollback) = inherited {
            journal.append(Line::Rollback { id: heir.clone(), rollback }, Durability::Agent)?;
        }
        Ok(Some(heir))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    fn put(
        &self,
        id: &ActionId,
        action: &NodeAction,
        target: &Target,
        incident: Option<&IncidentId>,
        rollback: RollbackState,
        state: ActionState,
        now: Timestamp,
    ) -> Result<(), ActionFailure> {
        self.scene.step("journal");
        let mut journal = self.scene.journal();
        let old = journal.slot(id).cloned();
        let order = old.as_ref().map_or_else(|| journal.next_order(), |slot| slot.order);
        let slot = Slot {
            record: ActionRecord {
                id: id.clone(),
                incident: incident.cloned(),
                run: None,
                step: None,
                action: action.clone(),
                target: target.clone(),
                state,
                rollback: Some(rollback),
                planned: old.as_ref().map_or(now, |slot| slot.record.planned),
                applied: None,
                detail: String::new(),
            },
            order,
            boot: self.scene.boot.clone(),
            paused: old.as_ref().map(|slot| slot.paused.clone()).unwrap_or_default(),
            work: old.as_ref().and_then(|slot| slot.work.clone()),
            outputs: Outputs::new(),
            outcomes: old.map(|slot| slot.outcomes).unwrap_or_default(),
        };
        journal.append(Line::Put(Box::new(slot)), durability(action))
    }

    /// Writes a line before the effect that it announces.
    pub(super) fn note(&self, line: Line) -> Result<(), ActionFailure> {
        self.scene.step("journal");
        let mut journal = self.scene.journal();
        let durability = durability_of(&journal, &line);
        journal.append(line, durability)
    }

    /// Writes a line of what is done already; see [`super::journal::Journal::append_done`].
    pub(super) fn note_done(&self, line: Line) -> Result<(), ActionFailure> {
        self.scene.step("journal");
        let mut journal = self.scene.journal();
        let durability = durability_of(&journal, &line);
        journal.append_done(line, durability)
    }

    /// Nothing is left to be done for this command: its answer is what has been done, however late it is asked for. Who heard "expired" of
    /// what is in force would take it for not done, and nobody would ever lift it.
    fn is_done(&self, command: &NodeCommand) -> bool {
        let state = self.record(&command.action_id).map(|record| record.state);
        match &command.phase {
            Phase::Apply { .. } => {
                matches!(state, Some(ActionState::Applied | ActionState::Verified | ActionState::Unverified))
            }
            Phase::Revert { .. } => matches!(state, Some(ActionState::Reverted | ActionState::Vacuous)),
            Phase::Capture | Phase::Verify { .. } => false,
        }
    }

    fn outputs(&self, id: &ActionId) -> Outputs {
        self.scene.journal().slot(id).map(|slot| slot.outputs.clone()).unwrap_or_default()
    }

    fn reaction_id(&self, action: &NodeAction, target: &Target, now: Timestamp) -> ActionId {
        let what = format!("{} {target:?} {}", action.name(), now.0);
        let hash = model::short_hash([self.scene.node.as_str(), self.scene.boot.as_str(), &what], 6);
        let word = action.name().trim_start_matches("node.");
        ActionId::new(format!("act-{hash}-{word}"))
    }

    pub(super) fn enter(&self, id: &ActionId) -> Alone<'_> {
        self.busy.enter(id)
    }
}

fn durability_of(journal: &Journal, line: &Line) -> Durability {
    journal.slot(line.id()).map_or(Durability::Agent, |slot| durability(&slot.record.action))
}

/// It holds something now, or may, and undoing it restores what was.
/// What the journal in `state_dir` tells of as in force, oldest first. It is only read, beside an agent that has it or after one that is gone:
/// nothing is taken, made or written.
///
/// Errors: [`JournalError::Io`] when it cannot be read; a journal that is not there tells of nothing.
pub fn told_in_force(state_dir: &Path) -> Result<Vec<ActionRecord>, JournalError> {
    let mut slots: Vec<Slot> = super::journal::look(state_dir)?.into_values().filter(is_held).collect();
    slots.sort_unstable_by_key(|slot| slot.order);
    Ok(slots.into_iter().map(|slot| slot.record).collect())
}

pub(super) fn is_held(slot: &Slot) -> bool {
    let begun = !matches!(slot.record.state, ActionState::Planned | ActionState::Prepared);
    begun && !is_over(slot.record.state) && slot.record.action.undo() == UndoClass::Exact
}

/// The caller's clock, carried on by the monotonic one.
pub(super) struct Clock {
    pub(super) now: Timestamp,
    pub(super) begun: Instant,
}

impl Clock {
    pub(super) fn time(&self) -> Timestamp {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> Timestamp {
        self.now.plus(instant.saturating_duration_since(self.begun))
    }
}

/// One phase at a time of each action; different actions run beside each other.
#[derive(Default)]
struct Busy {
    ids: Mutex<HashSet<ActionId>>,
    left: Condvar,
}

/// The right to work on one action.
pub(super) struct Alone<'a> {
    busy: &'a Busy,
    id: ActionId,
}

impl Busy {
    fn enter(&self, id: &ActionId) -> Alone<'_> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        while !ids.insert(id.clone()) {
            ids = self.left.wait(ids).unwrap_or_else(PoisonError::into_inner);
        }
        Alone { busy: self, id: id.clone() }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.busy.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.busy.left.notify_all();
    }
}

/// A file in quarantine outlives a power cut; everything else lives and ends with the running kernel.
fn durability(action: &NodeAction) -> Durability {
    match action {
        NodeAction::QuarantineFile | NodeAction::CaptureEvidence(_) => Durability::Disk,
        _ => Durability::Agent,
    }
}

/// What is captured of processes changes as they go on; nothing is lost by looking anew.
fn moves_on(action: &NodeAction) -> bool {
    matches!(action, NodeAction::Stop | NodeAction::Freeze(_))
}

/// Whether a repeated command shall get this very outcome again.
fn is_final(result: &Result<PhaseDone, ActionFailure>) -> bool {
    match result {
        Ok(PhaseDone::Captured { .. } | PhaseDone::Applied { .. } | PhaseDone::Reverted { .. }) => true,
        Ok(PhaseDone::Verified { .. } | PhaseDone::Drifted { .. }) => false,
        Err(ActionFailure::Io { .. } | ActionFailure::Expired | ActionFailure::Unattributed { .. }) => false,
        Err(_) => true,
    }
}

/// The controller's rollback state must be of the same thing as a capture made now.
fn check_same(task: &Task<'_>, given: &RollbackState, fresh: &RollbackState) -> Result<(), ActionFailure> {
    let same = match (given, fresh) {
        (RollbackState::File(given), RollbackState::File(fresh)) => {
            given.sha256 == fresh.sha256 && given.inode == fresh.inode && given.path == fresh.path
        }
        (given, fresh) => std::mem::discriminant(given) == std::mem::discriminant(fresh),
    };
    if same { Ok(()) } else { Err(super::scene::mismatch(task)) }
}
