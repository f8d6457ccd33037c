//! To which processes the node has reacted and by which rules, and which reactions are to be tried again.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use model::{ActionFailure, BootNs, ProcessKey, RuleRef};

/// Processes that were reacted to, with the generation of rules that asked for it.
///
/// What a person has lifted stays lifted: a rule does not ask again for the process that it was lifted from, nor for what that process
/// begins afterwards, until the rules change. Another rule may: the person did not decide about that one.
#[derive(Debug, Default)]
pub(super) struct Reacted {
    by: HashMap<ProcessKey, Note>,
    order: VecDeque<ProcessKey>,
    /// Those of `by` that are tried again without another event.
    waiting: VecDeque<(ProcessKey, RuleRef)>,
}

#[derive(Debug, Clone)]
struct Note {
    generation: u64,
    state: State,
    /// The rules whose reaction was done, the latest last.
    rules: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Failed { tries: u32, next: BootNs },
}

impl Reacted {
    /// Processes remembered (I11).
    const MOST: usize = 4096;
    /// Rules remembered of one process (I11).
    const MOST_RULES: usize = 16;
    /// Processes that are tried again by themselves (I11).
    const MOST_WAITING: usize = 256;
    /// A reaction is tried so many times.
    pub(super) const MAX_TRIES: u32 = 5;
    /// Pause after the first failure; each further one is four times as long. 8.5 s in all: what fails for longer does not fail
    /// because something was busy.
    const PAUSE: Duration = Duration::from_millis(100);

    /// Whether the process may be reacted to now: not while a reaction to it stands, and not before the pause after a failure is over.
    pub(super) fn may(
        &self,
        process: ProcessKey,
        generation: u64,
        at: BootNs,
        stands: impl Fn(ProcessKey) -> bool,
    ) -> bool {
        match self.of(process, generation).map(|note| note.state) {
            Some(State::Done) => !stands(process),
            Some(State::Failed { tries, next }) => tries < Self::MAX_TRIES && at >= next,
            None => true,
        }
    }

    /// The process of this line (a process and those that it descends from) whose reaction to this rule was lifted.
    pub(super) fn lifted(
        &self,
        line: impl IntoIterator<Item = ProcessKey>,
        rule: &RuleRef,
        generation: u64,
        stands: impl Fn(ProcessKey) -> bool,
    ) -> Option<ProcessKey> {
        line.into_iter().find(|process| {
            self.of(*process, generation).is_some_and(|note| note.rules.contains(&rule.id))
                && !stands(*process)
        })
    }

    pub(super) fn done(&mut self, process: ProcessKey, generation: u64, rule: &RuleRef) {
        self.waiting.retain(|(waiting, _)| *waiting != process);
        let mut rules = self.rules_of(process, generation);
        if !rules.contains(&rule.id) {
            rules.push(rule.id.clone());
            if rules.len() > Self::MOST_RULES {
                rules.remove(0);
            }
        }
        self.note(process, Note { generation, state: State::Done, rules });
    }

    /// Notes a failure. A failure of the system, and a pod that is not known yet, is tried again; what was refused only if another event asks for it.
    pub(super) fn failed(
        &mut self,
        process: ProcessKey,
        generation: u64,
        at: BootNs,
        rule: &RuleRef,
        failure: &ActionFailure,
    ) {
        let before = match self.by.get(&process) {
            Some(Note { generation: same, state: State::Failed { tries, .. }, .. })
                if *same == generation =>
            {
                *tries
            }
            _ => 0,
        };
        let pause = Self::PAUSE.as_nanos() as u64 * 4_u64.pow(before.min(Self::MAX_TRIES));
        let tries = before + 1;
        let next = BootNs(at.0.saturating_add(pause));
        let rules = self.rules_of(process, generation);
        self.note(process, Note { generation, state: State::Failed { tries, next }, rules });
        self.waiting.retain(|(waiting, _)| *waiting != process);
        // A pod that was not told of yet will be: its controller hears of it as it is placed.
        let may_help = matches!(
            failure,
            ActionFailure::Io { .. } | ActionFailure::Expired | ActionFailure::Unattributed { .. }
        );
        if may_help && tries < Self::MAX_TRIES && self.waiting.len() < Self::MOST_WAITING {
            self.waiting.push_back((process, rule.clone()));
        }
    }

    /// Takes out a process whose reaction is to be tried again now.
    pub(super) fn due(&mut self, generation: u64, now: BootNs) -> Option<(ProcessKey, RuleRef)> {
        // Other rules are in force: they ask anew.
        let by = &self.by;
        self.waiting.retain(|(process, _)| by.get(process).is_some_and(|note| note.generation == generation));
        // Nothing stands of what waits: it failed.
        let at =
            self.waiting.iter().position(|(process, _)| self.may(*process, generation, now, |_| false))?;
        self.waiting.remove(at)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn of(&self, process: ProcessKey, generation: u64) -> Option<&Note> {
        self.by.get(&process).filter(|note| note.generation == generation)
    }

    fn rules_of(&self, process: ProcessKey, generation: u64) -> Vec<String> {
        self.of(process, generation).map(|note| note.rules.clone()).unwrap_or_default()
    }

    fn note(&mut self, process: ProcessKey, note: Note) {
        if self.by.insert(process, note).is_none() {
            self.order.push_back(process);
            if self.order.len() > Self::MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.by.remove(&oldest);
            }
        }
    }
}
