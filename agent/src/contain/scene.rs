//! What all actions work with, and what each of them must be able to do.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use model::{
    ActionFailure, ActionId, ActionRecord, Effect, NodeAction, NodeId, Outputs, ProcessKey, RollbackState,
    Target,
};

use super::{
    cgroup::{Cgroup, Hierarchy},
    evidence::EvidenceLimits,
    guard::Word,
    journal::{Durability, Journal, Line},
    mask::Mask,
    network::Spare,
    process::Held,
    protect::Protected,
};

/// Who descends from whom, from a source that outlives parents: the agent's process tree. `/proc` forgets it when a parent ends.
pub trait Lineage: Send + Sync {
    /// Live processes that descend from this one, in any order, itself left out.
    fn descendants(&self, of: ProcessKey) -> Vec<ProcessKey>;
}

/// Called before each durable or visible step with its name: crash tests end the process here (I7).
pub type StepHook = Arc<dyn Fn(&'static str) + Send + Sync>;

pub(super) struct Scene {
    pub(super) node: NodeId,
    pub(super) state_dir: PathBuf,
    pub(super) bpffs: PathBuf,
    pub(super) boot: String,
    pub(super) cgroups: Hierarchy,
    pub(super) protected: Protected,
    pub(super) lineage: Option<Arc<dyn Lineage>>,
    pub(super) mask: Arc<dyn Mask>,
    pub(super) evidence: EvidenceLimits,
    pub(super) max_file_bytes: u64,
    pub(super) max_tree: usize,
    pub(super) spare: Spare,
    pub(super) journal: Mutex<Journal>,
    /// Held while jails are filled and emptied, and while `cgroup.freeze` of a cgroup that is not ours is changed for a moment or for
    /// long, so that one action's undo does not undo another's freeze.
    pub(super) foreign: Mutex<()>,
    pub(super) on_step: Option<StepHook>,
}

impl Scene {
    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        // the journal changes its memory only after the file: a panic elsewhere leaves it whole
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn step(&self, name: &'static str) {
        if let Some(hook) = &self.on_step {
            hook(name);
        }
    }
}

/// One action in the making.
pub(super) struct Task<'a> {
    pub(super) scene: &'a Scene,
    pub(super) id: &'a ActionId,
    pub(super) target: &'a Target,
    /// On whose word it is done.
    pub(super) word: Word,
    /// The process that `capture` took hold of and checked, for an `apply` that follows at once: on the way to a freeze
    /// looking at /proc twice costs a fifth of the time.
    pub(super) taken: RefCell<Option<Held>>,
    /// When the effect was seen to be complete, for actions that have more to do after it.
    pub(super) in_force: Cell<Option<Instant>>,
    /// A failed `apply` could not take back all that it did.
    pub(super) clean: Cell<Clean>,
}

/// Whether a failed `apply` has left something behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clean {
    Yes,
    No,
}

impl<'a> Task<'a> {
    pub(super) fn new(scene: &'a Scene, id: &'a ActionId, target: &'a Target) -> Self {
        Self {
            scene,
            id,
            target,
            word: Word::Told,
            taken: RefCell::new(None),
            in_force: Cell::new(None),
            clean: Cell::new(Clean::Yes),
        }
    }

    /// One that is in the journal, on the word on which it was begun.
    pub(super) fn of_record(scene: &'a Scene, record: &'a ActionRecord) -> Self {
        let word = if record.incident.is_some() { Word::Told } else { Word::Own };
        Self { word, ..Self::new(scene, &record.id, &record.target) }
    }

    /// One that a rule asks for, and nobody else.
    pub(super) fn of_the_node(scene: &'a Scene, id: &'a ActionId, target: &'a Target) -> Self {
        Self { word: Word::Own, ..Self::new(scene, id, target) }
    }
}

impl Task<'_> {
    /// Refuses a process that is protected by itself or by its cgroup, or whose pod must be left alone (I6, I9).
    pub(super) fn check_process(&self, held: &Held, cgroup: &str) -> Result<(), ActionFailure> {
        self.scene.protected.check_process(held, cgroup, self.word)
    }

    /// Why a process is not to be touched, if it is not.
    pub(super) fn process_reason(&self, held: &Held, cgroup: &str) -> Result<Option<String>, ActionFailure> {
        self.scene.protected.process_reason(held, cgroup, self.word)
    }

    /// Refuses a whole cgroup, likewise.
    pub(super) fn check_cgroup(&self, cgroup: &Cgroup) -> Result<(), ActionFailure> {
        self.scene.protected.check_cgroup(cgroup, self.word)
    }

    /// What the action would need for its undo, and nothing changed.
    pub(super) fn capture(&self, action: &NodeAction) -> Result<RollbackState, ActionFailure> {
        act(action).capture(self).map_err(|failure| self.unless_there(failure))
    }

    /// Does it.
    pub(super) fn apply(
        &self,
        action: &NodeAction,
        rollback: &RollbackState,
    ) -> Result<Outputs, ActionFailure> {
        act(action).apply(self, rollback).map_err(|failure| self.unless_there(failure))
    }

    /// Looks at what it did.
    pub(super) fn verify(
        &self,
        action: &NodeAction,
        rollback: &RollbackState,
    ) -> Result<Effect, ActionFailure> {
        act(action).verify(self, rollback).map_err(|failure| self.unless_there(failure))
    }

    /// The same, asked again and again.
    pub(super) fn still_holds(
        &self,
        action: &NodeAction,
        rollback: &RollbackState,
    ) -> Result<Effect, ActionFailure> {
        act(action).still_holds(self, rollback).map_err(|failure| self.unless_there(failure))
    }

    /// "Gone" is a word by which an action ends and a containment is given up, so it is taken only of what the kernel does not know either.
    /// Where the agent does not see cgroups as they are (another mount over them, another hierarchy than the node's), what lives is
    /// unresolved (I9).
    fn unless_there(&self, failure: ActionFailure) -> ActionFailure {
        if !matches!(failure, ActionFailure::TargetGone { .. }) {
            return failure;
        }
        let is_there = match self.target {
            Target::Process { process } => matches!(Held::open_if_there(*process), Ok(Some(_))),
            Target::Cgroup { id, .. } => self.scene.cgroups.by_id(*id).is_ok(),
            Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => false,
        };
        if !is_there {
            return failure;
        }
        let because = format!("{failure}, by what the node sees of its cgroups, and yet it is there");
        ActionFailure::Unattributed { target: self.target.to_string(), because }
    }

    /// Writes a line before the effect that it announces.
    pub(super) fn note(&self, line: Line) -> Result<(), ActionFailure> {
        self.scene.step("journal");
        self.scene.journal().append(line, Durability::Agent)
    }

    /// Writes a line of what is done already: what the disk does not take is remembered and written later.
    pub(super) fn note_done(&self, line: Line) -> Result<(), ActionFailure> {
        self.scene.step("journal");
        self.scene.journal().append_done(line, Durability::Agent)
    }

    pub(super) fn step(&self, name: &'static str) {
        self.scene.step(name);
    }

    /// A failed `apply` could not take something back: it is tried again until it can.
    pub(super) fn leave_unclean(&self, failure: &ActionFailure) {
        tracing::error!(action = %self.id, %failure, "what a failed action did could not be taken back yet");
        self.clean.set(Clean::No);
    }

    /// Short name unique to the action, fit for a file.
    pub(super) fn tag(&self) -> String {
        tag(self.id)
    }
}

/// Short name unique to the action, fit for a file whatever the id holds.
pub(super) fn tag(id: &ActionId) -> String {
    model::short_hash([id.as_str()], 8)
}

/// How an undo ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undone {
    /// Exactly as before.
    Restored { detail: String },
    /// Nothing is left that could be restored.
    Vacuous { detail: String },
    /// Something else stands there: nothing was undone.
    Drifted { difference: String },
}

/// The four phases of an action. `capture` and `verify` change nothing; `apply` and `revert` may be repeated after a crash at any
/// step and come to the same end; a failed `apply` has undone what it did.
pub(super) trait Act {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure>;
    fn apply(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Outputs, ActionFailure>;
    fn verify(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure>;
    /// The same question, asked again and again: waits for nothing, and an effect that has been asked for and is still to come counts.
    fn still_holds(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        self.verify(task, rollback)
    }
    fn revert(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Undone, ActionFailure>;
}

/// The code behind an action.
pub(super) fn act(action: &NodeAction) -> Box<dyn Act + '_> {
    match action {
        NodeAction::Stop => Box::new(super::stop::Stop),
        NodeAction::Freeze(scope) => Box::new(super::freeze::Freeze(*scope)),
        NodeAction::Kill(scope) => Box::new(super::kill::Kill(*scope)),
        NodeAction::NetQuarantine(with) => Box::new(super::network::Quarantine(with)),
        NodeAction::BlockDestination(with) => Box::new(super::network::Block(with)),
        NodeAction::DestroySockets => Box::new(super::sockets::Destroy),
        NodeAction::QuarantineFile => Box::new(super::file::QuarantineFile),
        NodeAction::CaptureEvidence(with) => Box::new(super::evidence::Capture(*with)),
        NodeAction::Cluster(_) => Box::new(NotHere),
    }
}

/// An action of the cluster: the controller does it, and no node is ever asked to.
struct NotHere;

impl Act for NotHere {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        Err(not_here(task))
    }

    fn apply(&self, task: &Task<'_>, _: &RollbackState) -> Result<Outputs, ActionFailure> {
        Err(not_here(task))
    }

    fn verify(&self, task: &Task<'_>, _: &RollbackState) -> Result<Effect, ActionFailure> {
        Err(not_here(task))
    }

    fn revert(&self, task: &Task<'_>, _: &RollbackState) -> Result<Undone, ActionFailure> {
        Err(not_here(task))
    }
}

fn not_here(task: &Task<'_>) -> ActionFailure {
    ActionFailure::Unsupported {
        operation: format!("changing {} from a node", task.target),
        because: "what is in the API server the controller changes".into(),
    }
}

/// A rollback state of another action: never carried out.
pub(super) fn mismatch(task: &Task<'_>) -> ActionFailure {
    ActionFailure::TargetChanged {
        target: task.target.to_string(),
        expected: "the rollback state of this action".into(),
        found: "one of another action".into(),
    }
}
