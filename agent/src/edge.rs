//! From a record to a reaction, on the reader's own thread and without a queue in between: join, match, react. What a person needs to
//! know of it goes to the reporter afterwards.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
};

use detect::{
    matcher::{Follower, RuleIndex},
    schema::Context,
};
use model::{
    ActionFailure, ActionRecord, Activity, AgentEpoch, BootNs, Event, EventId, Finding, FindingId,
    FreezeScope, Level, LossWindow, NodeAction, NodeId, Process, ProcessKey, Reaction, Seq, Target,
    Timestamp,
};

use crate::{
    clock::Clock,
    finding::{Fold, Folded, Recent},
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
}

/// Lets processes go that the kernel held until they were judged.
pub trait Holder: Send {
    /// The process is innocent: it goes on.
    fn let_go(&mut self, process: ProcessKey);
    /// The process is contained: the kernel need not remember it any more.
    fn taken_over(&mut self, process: ProcessKey);
}

/// Whether the node may act on its own authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authority {
    /// What rules ask for is done at once.
    #[default]
    React,
    /// Nothing is done; findings say what would have been (I8).
    Observe,
}

/// For the reporter.
#[derive(Debug)]
pub enum Draft {
    /// A finding of a new cause, not yet masked.
    Finding(Box<Finding>),
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
    /// Reactions that failed.
    pub failed_reactions: AtomicU64,
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
    /// Whether to act.
    pub authority: Authority,
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
}

impl Edge {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(parts: EdgeParts) -> Self {
        Self { parts, seq: 0, hits: Vec::new(), recent: Recent::default(), reacted: Reacted::default() }
    }

    /// Takes in a record: when it returns, what a rule asked for is in force, and a process that was held either is contained or
    /// goes on.
    pub fn take_in(&mut self, record: Record) {
        self.parts.counts.records.fetch_add(1, Ordering::Relaxed);
        let held = match &record.body {
            Body::Exec(facts) => facts.held,
            _ => Held::No,
        };
        let (view, target) = {
            let mut tree = self.parts.tree.lock().unwrap_or_else(PoisonError::into_inner);
            let view = tree.take_in(&record);
            (view, other_process(&record.body).and_then(|other| tree.process(other).cloned()))
        };
        let ended = matches!(record.body, Body::Exit(_)).then_some(record.task.key);
        let event = self.event(record.at, view, activity(record.body));
        self.judge(event, target.as_deref(), held);
        if let Some(ended) = ended {
            self.recent.forget(ended);
        }
    }

    /// Judges a process that was found held when the agent started, as if its exec were seen now.
    pub fn judge_held(&mut self, process: ProcessKey, at: BootNs) {
        let view = {
            let mut tree = self.parts.tree.lock().unwrap_or_else(PoisonError::into_inner);
            tree.look(process)
        };
        let Some(view) = view else {
            self.parts.holder.let_go(process);
            return;
        };
        let requested = view.process.exe.clone();
        let event = self.event(at, view, Activity::Exec { requested });
        self.judge(event, None, Held::Yes);
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

    fn judge(&mut self, event: Event, target: Option<&Process>, held: Held) {
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
        let asks = |index: &RuleIndex| rules.rule(*index).map_or(Reaction::None, |rule| rule.reaction);
        let wanted = self.hits.iter().map(asks).max().unwrap_or_default();
        let reactions = self.react(&event, wanted, generation, held);
        self.parts.counts.matches.fetch_add(self.hits.len() as u64, Ordering::Relaxed);
        for hit in std::mem::take(&mut self.hits) {
            let Some(rule) = rules.rule(hit) else { continue };
            let id = FindingId::derive(&event.id, &rule.id);
            let (folded, matched) = {
                let mut fold = self.parts.fold.lock().unwrap_or_else(PoisonError::into_inner);
                fold.take_in(rule, &event.process, &id, event.time, || {
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
                reactions: reactions.clone(),
                loss: LossWindow::default(), // the reporter asks the probes
            };
            if self.draft(Draft::Finding(Box::new(finding)), rule.level) == Told::No {
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
    fn react(&mut self, event: &Event, wanted: Reaction, generation: u64, held: Held) -> Vec<ActionRecord> {
        let process = event.process.key;
        let mut records = Vec::new();
        let act = wanted != Reaction::None && self.parts.authority == Authority::React;
        // What a person has lifted stays lifted: a process is reacted to once by one set of rules.
        if act && (held == Held::Yes || self.reacted.first(process, generation)) {
            if held == Held::Yes {
                self.do_one(NodeAction::Stop, process, &mut records);
            }
            // An accomplice could send SIGCONT: a freeze follows.
            self.do_one(NodeAction::Freeze(FreezeScope::Subtree), process, &mut records);
        }
        if held == Held::Yes {
            if records.is_empty() {
                self.parts.holder.let_go(process);
            } else {
                self.reacted.first(process, generation);
                self.parts.holder.taken_over(process);
            }
        }
        records
    }

    fn do_one(&self, action: NodeAction, process: ProcessKey, records: &mut Vec<ActionRecord>) {
        let name = action.name();
        match self.parts.reactor.react(action, Target::Process { process }, self.parts.clock.now()) {
            Ok(record) => records.push(record),
            Err(failure) => {
                self.parts.counts.failed_reactions.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(pid = process.pid.0, action = name, %failure, "a reaction was not done");
            }
        }
    }

    /// High and critical wait for the reporter, which is quick; others are given up when it is behind, and counted.
    fn draft(&self, draft: Draft, level: Level) -> Told {
        let is_finding = matches!(draft, Draft::Finding(_));
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    Yes,
}

/// Processes that were reacted to, with the generation of rules that asked for it.
#[derive(Debug, Default)]
struct Reacted {
    by: HashMap<ProcessKey, u64>,
    order: VecDeque<ProcessKey>,
}

impl Reacted {
    /// Processes remembered (I11).
    const MOST: usize = 4096;

    /// Whether this is the first time.
    fn first(&mut self, process: ProcessKey, generation: u64) -> bool {
        match self.by.insert(process, generation) {
            Some(before) => before != generation,
            None => {
                self.order.push_back(process);
                if self.order.len() > Self::MOST
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.by.remove(&oldest);
                }
                true
            }
        }
    }
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
