//! From a record to a reaction, on the reader's own thread and without a queue in between: join, match, react. What a person needs to
//! know of it goes to the reporter afterwards.

mod bounds;
mod late;
mod reacted;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
};

use detect::{
    fold::{Acted, Fold, Folded},
    matcher::{Follower, RuleIndex, RuleSet},
    schema::Context,
};
use model::{
    ActionFailure, ActionId, ActionRecord, ActionState, Activity, AgentEpoch, BootNs, Event, EventId,
    Finding, FindingId, FreezeScope, Level, LossWindow, NodeAction, NodeId, Process, ProcessKey, Reaction,
    RuleRef, Seq, Target, Timestamp,
};

use bounds::Budget;
pub use bounds::ReactionBounds;
use late::Late;
use reacted::Reacted;

use crate::{
    clock::Clock,
    finding::Recent,
    record::{Body, Held, Record},
    tree::{ProcessTree, View},
};

/// Acts on the node's own authority. [`crate::contain::Contain`] does it; a test may watch instead.
pub trait Reactor: Send + Sync {
    /// Contains the target now; the same again is not done twice.
    ///
    /// # Errors
    /// Why it was not done; nothing is in force then.
    fn react(
        &self,
        action: NodeAction,
        target: Target,
        now: Timestamp,
    ) -> Result<ActionRecord, ActionFailure>;

    /// Whether what was done to this process by itself still stands.
    fn stands(&self, process: ProcessKey) -> bool;
}

/// Lets processes go that the kernel held until they were judged.
pub trait Holder: Send {
    /// The process is innocent: it goes on.
    fn let_go(&mut self, process: ProcessKey);
    /// The process is contained: the kernel need not remember it any more.
    fn taken_over(&mut self, process: ProcessKey);
}

/// Whether the node may act on its own authority.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Authority {
    /// What rules ask for is done at once.
    #[default]
    React,
    /// What these rules ask for is done at once, by their ids; of others findings say what would have been (I8).
    Only(BTreeSet<String>),
    /// Nothing is done; findings say what would have been (I8).
    Observe,
}

impl Authority {
    /// Whether what this rule asks for may be done.
    #[must_use]
    pub fn permits(&self, rule: &RuleRef) -> bool {
        match self {
            Self::React => true,
            Self::Only(rules) => rules.contains(&rule.id),
            Self::Observe => false,
        }
    }
}

/// For the reporter.
#[derive(Debug)]
pub enum Draft {
    /// A finding of a new cause, not yet masked, and when its event happened by the kernel's clock.
    Finding(Box<Finding>, BootNs),
    /// The node has acted.
    Reaction(Box<ActionRecord>),
}

/// What happened at the edge since the start.
#[derive(Debug, Default)]
pub struct EdgeCounts {
    /// Records taken in.
    pub records: AtomicU64,
    /// Matches, folded ones included.
    pub matches: AtomicU64,
    /// Findings of a new cause.
    pub findings: AtomicU64,
    /// Findings below high that were given up because the reporter was behind.
    pub given_up: AtomicU64,
    /// Reactions that failed, each try counted.
    pub failed_reactions: AtomicU64,
    /// Reactions that were not done because there had been too many in the last minute.
    pub withheld_reactions: AtomicU64,
    /// Reactions that were not done because the same rule's had been lifted from the process or from one that it descends from.
    pub lifted_before: AtomicU64,
}

/// What the edge is made of.
pub struct EdgeParts {
    /// This node.
    pub node: NodeId,
    /// This start.
    pub epoch: AgentEpoch,
    /// Time.
    pub clock: Arc<Clock>,
    /// Processes; shared with containment, which asks it for descendants.
    pub tree: Arc<Mutex<ProcessTree>>,
    /// The rules in force.
    pub rules: Follower,
    /// Causes; shared with the reporter, which tells of repetitions.
    pub fold: Arc<Mutex<Fold>>,
    /// Who acts.
    pub reactor: Arc<dyn Reactor>,
    /// Who lets go.
    pub holder: Box<dyn Holder>,
    /// Whether to act; may change at any time.
    pub authority: Arc<RwLock<Authority>>,
    /// How often to act.
    pub bounds: ReactionBounds,
    /// To the reporter.
    pub drafts: SyncSender<Draft>,
    /// Counters.
    pub counts: Arc<EdgeCounts>,
}

/// One thread's state.
pub struct Edge {
    parts: EdgeParts,
    seq: u64,
    hits: Vec<RuleIndex>,
    recent: Recent,
    reacted: Reacted,
    budget: Budget,
    late: Late,
    /// The rules of which the fold knows what correlations look at.
    told_apart: Option<u64>,
}

impl Edge {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(parts: EdgeParts) -> Self {
        let budget = Budget::new(parts.bounds);
        Self {
            parts,
            seq: 0,
            hits: Vec::new(),
            recent: Recent::default(),
            reacted: Reacted::default(),
            budget,
            late: Late::default(),
            told_apart: None,
        }
    }

    /// Takes in a record: when it returns, what a rule asked for is in force, and a process that was held either is contained or
    /// goes on.
    pub fn take_in(&mut self, record: Record) {
        self.parts.counts.records.fetch_add(1, Ordering::Relaxed);
        let held = match &record.body {
            // Judged before its record came: it is not held any more.
            Body::Exec(facts)
                if facts.held == Held::Yes && self.late.was_judged(record.task.key, record.at) =>
            {
                Held::No
            }
            Body::Exec(facts) => facts.held,
            _ => Held::No,
        };
        let (view, target) = {
            let mut tree = self.parts.tree.lock().unwrap_or_else(PoisonError::into_inner);
            let view = tree.take_in(&record);
            (view, other_process(&record.body).and_then(|other| tree.process(other).cloned()))
        };
        let ended = matches!(record.body, Body::Exit(_)).then_some(record.task.key);
        let at = record.at;
        let event = self.event(at, view, activity(record.body));
        self.judge(event, at, target.as_deref(), held);
        if let Some(ended) = ended {
            self.recent.forget(ended);
        }
    }

    /// Judges a process that stands held since `at` and whose record is not to be had (it was lost, or an earlier agent left the
    /// process), by what /proc says of it now, as if its exec were seen.
    pub fn judge_held(&mut self, process: ProcessKey, at: BootNs) {
        let view = {
            let mut tree = self.parts.tree.lock().unwrap_or_else(PoisonError::into_inner);
            tree.look_anew(process)
        };
        self.late.judged(process, at);
        let Some(view) = view else {
            self.parts.holder.let_go(process);
            return;
        };
        let requested = view.process.exe.clone();
        let event = self.event(at, view, Activity::Exec { requested });
        self.judge(event, at, None, Held::Yes);
    }

    /// Tries reactions again that failed and whose pause is over. Between looks at the rings; costs nothing while there is none.
    pub fn try_again(&mut self, now: BootNs) {
        while self.reacted.is_waiting() {
            let (generation, _) = self.parts.rules.matcher();
            let Some((process, rule)) = self.reacted.due(generation, now) else { return };
            if !self.permits(&rule) || !self.budget.has_room(&rule, now) {
                continue;
            }
            let mut records = Vec::new();
            match self.do_one(NodeAction::Freeze(FreezeScope::Subtree), process, &mut records) {
                Ok(()) => {
                    self.budget.spend(&rule, now);
                    self.reacted.done(process, generation, &rule);
                }
                Err(failure) => self.reacted.failed(process, generation, now, &rule, &failure),
            }
            for record in records {
                self.draft(Draft::Reaction(Box::new(record)), Level::Critical);
            }
        }
    }

    fn event(&mut self, at: BootNs, view: View, activity: Activity) -> Event {
        self.seq += 1;
        Event {
            id: EventId { node: self.parts.node.clone(), epoch: self.parts.epoch, seq: Seq(self.seq) },
            time: self.parts.clock.at(at),
            parent: view.ancestors.first().cloned(),
            process: view.process,
            ancestors: view.ancestors,
            exposure: view.exposure,
            activity,
        }
    }

    fn judge(&mut self, event: Event, at: BootNs, target: Option<&Process>, held: Held) {
        self.hits.clear();
        let (generation, matcher) = self.parts.rules.matcher();
        matcher.evaluate_with(&event, Context { target }, &mut self.hits);
        let rules = Arc::clone(matcher.rule_set());
        if self.hits.is_empty() {
            if held == Held::Yes {
                self.parts.holder.let_go(event.process.key);
            }
            self.recent.push(event);
            return;
        }
        // First act, then tell.
        let Reactions { done: reactions, refused } = self.react(&event, at, &rules, generation, held);
        self.parts.counts.matches.fetch_add(self.hits.len() as u64, Ordering::Relaxed);
        for hit in std::mem::take(&mut self.hits) {
            let Some(rule) = rules.rule(hit) else { continue };
            let id = FindingId::derive(&event.id, &rule.id);
            let acted =
                if reactions.is_empty() || rule.reaction == Reaction::None { Acted::No } else { Acted::Yes };
            let (folded, matched) = {
                let mut fold = self.parts.fold.lock().unwrap_or_else(PoisonError::into_inner);
                if self.told_apart != Some(generation) {
                    fold.feed(rules.fed().map(|rule| rule.id.clone()));
                    self.told_apart = Some(generation);
                }
                fold.take_in(rule, &event, &id, acted, || {
                    rules.matched_with(hit, &detect::schema::View::with_context(&event, Context { target }))
                })
            };
            let Folded::First(cause) = folded else { continue };
            let finding = Finding {
                id,
                rule: rule.clone(),
                event: event.clone(),
                matched,
                count: 1,
                first: event.time,
                last: event.time,
                ancestors: event.ancestors.to_vec(),
                context: self.recent.of(event.process.key),
                // What was refused is a fact of the incident, too: told once for each cause, so that it floods nobody.
                reactions: reactions.iter().chain(&refused).cloned().collect(),
                moments: model::Moments::default(),
                loss: LossWindow::default(), // the reporter asks the probes
            };
            if self.draft(Draft::Finding(Box::new(finding), at), rule.level) == Told::No {
                let mut fold = self.parts.fold.lock().unwrap_or_else(PoisonError::into_inner);
                fold.forget(&cause);
            }
        }
        // After its finding, so that whoever reads knows what it was for.
        for reaction in reactions {
            self.draft(Draft::Reaction(Box::new(reaction)), Level::Critical);
        }
        self.recent.push(event);
    }

    /// Does what the rules ask for, and answers for a held process in any case.
    fn react(
        &mut self,
        event: &Event,
        at: BootNs,
        rules: &RuleSet,
        generation: u64,
        held: Held,
    ) -> Reactions {
        let process = event.process.key;
        let mut records = Vec::new();
        let mut refused = None;
        // One that is held again must be answered for again.
        if (held == Held::Yes
            || self.reacted.may(process, generation, at, |process| self.parts.reactor.stands(process)))
            && let Some(rule) = self.asking(event, rules, generation, at)
        {
            if held == Held::Yes {
                // Without it the freeze alone must do.
                let _ = self.do_one(NodeAction::Stop, process, &mut records);
            }
            // An accomplice could send SIGCONT: a freeze follows.
            match self.do_one(NodeAction::Freeze(FreezeScope::Subtree), process, &mut records) {
                Ok(()) => self.reacted.done(process, generation, rule),
                Err(failure) => {
                    self.reacted.failed(process, generation, at, rule, &failure);
                    refused = self.refusal(process, at, &failure);
                }
            }
            if !records.is_empty() {
                self.budget.spend(rule, at);
            }
        }
        if held == Held::Yes {
            if records.is_empty() {
                self.parts.holder.let_go(process);
            } else {
                self.parts.holder.taken_over(process);
            }
        }
        Reactions { done: records, refused }
    }

    /// What people are told of a reaction that must not be (I6, I9): a record of what was not done, and why. What merely failed is tried
    /// again.
    fn refusal(&self, process: ProcessKey, at: BootNs, failure: &ActionFailure) -> Option<ActionRecord> {
        let is_refusal =
            matches!(failure, ActionFailure::Protected { .. } | ActionFailure::Unattributed { .. });
        is_refusal.then(|| {
            let action = NodeAction::Freeze(FreezeScope::Subtree);
            let what = format!("{} {} {} {}", self.parts.epoch, process.pid, process.start.0, at.0);
            let id = model::short_hash([self.parts.node.as_str(), "refused", &what], 6);
            ActionRecord {
                id: ActionId::new(format!("act-{id}-refused")),
                incident: None,
                run: None,
                step: None,
                action,
                target: Target::Process { process },
                state: ActionState::Failed,
                rollback: None,
                planned: self.parts.clock.now(),
                applied: None,
                detail: format!("a rule asked for it, and the node did not do it: {failure}"),
            }
        })
    }

    /// The rule among the hits that asks for a reaction, may have it, has not had too many, and whose reaction nobody lifted from this
    /// process or one that it descends from.
    fn asking<'a>(
        &mut self,
        event: &Event,
        rules: &'a RuleSet,
        generation: u64,
        at: BootNs,
    ) -> Option<&'a RuleRef> {
        let mut asking: Vec<&RuleRef> = self
            .hits
            .iter()
            .filter_map(|hit| rules.rule(*hit))
            .filter(|rule| rule.reaction != Reaction::None && self.permits(rule))
            .filter(|rule| !self.is_lifted(event, rule, generation))
            .collect();
        asking.sort_by_key(|rule| std::cmp::Reverse(rule.level));
        let found = asking.iter().copied().find(|rule| self.budget.has_room(rule, at));
        if found.is_none() && !asking.is_empty() {
            let before = self.parts.counts.withheld_reactions.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                tracing::warn!(
                    rule = asking[0].id,
                    "too many reactions in a minute: the node observes only until there are fewer; more are counted"
                );
            }
        }
        found
    }

    fn is_lifted(&self, event: &Event, rule: &RuleRef, generation: u64) -> bool {
        let line = std::iter::once(event.process.key).chain(event.ancestors.iter().map(|above| above.key));
        let lifted =
            self.reacted.lifted(line, rule, generation, |process| self.parts.reactor.stands(process));
        if let Some(of) = lifted {
            let before = self.parts.counts.lifted_before.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                tracing::info!(
                    pid = event.process.key.pid.0,
                    of = of.pid.0,
                    rule = rule.id,
                    "not contained: what this rule had done to the process, or to one that it descends from, was lifted; more are \
                     counted"
                );
            }
        }
        lifted.is_some()
    }

    fn permits(&self, rule: &RuleRef) -> bool {
        self.parts.authority.read().unwrap_or_else(PoisonError::into_inner).permits(rule)
    }

    fn do_one(
        &self,
        action: NodeAction,
        process: ProcessKey,
        records: &mut Vec<ActionRecord>,
    ) -> Result<(), ActionFailure> {
        let name = action.name();
        match self.parts.reactor.react(action, Target::Process { process }, self.parts.clock.now()) {
            Ok(record) => {
                records.push(record);
                Ok(())
            }
            Err(failure) => {
                self.parts.counts.failed_reactions.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(pid = process.pid.0, action = name, %failure, "a reaction was not done");
                Err(failure)
            }
        }
    }

    /// High and critical wait for the reporter, which is quick; others are given up when it is behind, and counted.
    fn draft(&self, draft: Draft, level: Level) -> Told {
        let is_finding = matches!(draft, Draft::Finding(..));
        let told = if level >= Level::High {
            self.parts.drafts.send(draft).is_ok()
        } else {
            match self.parts.drafts.try_send(draft) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    self.parts.counts.given_up.fetch_add(1, Ordering::Relaxed);
                    false
                }
            }
        };
        if told && is_finding {
            self.parts.counts.findings.fetch_add(1, Ordering::Relaxed);
        }
        if told { Told::Yes } else { Told::No }
    }
}

/// What came of what rules asked for.
struct Reactions {
    /// In force.
    done: Vec<ActionRecord>,
    /// Not done, because it must not be.
    refused: Option<ActionRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    Yes,
}

fn activity(body: Body) -> Activity {
    match body {
        Body::Exec(facts) => Activity::Exec { requested: facts.requested },
        Body::Fork { child, .. } => Activity::Fork { child },
        Body::Exit(exit) => Activity::Exit(exit),
        Body::Act(activity) => activity,
    }
}

fn other_process(body: &Body) -> Option<ProcessKey> {
    match body {
        Body::Act(Activity::Ptrace { target, .. } | Activity::ProcessVmWrite { target }) => Some(*target),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
