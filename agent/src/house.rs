//! What must be looked at from time to time: clock, containments, exits whose record was lost; and the node's status.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use detect::matcher::RuleIndex;
use model::{
    AgentEpoch, BootNs, ClassCount, EventClass, HookState, LossWindow, NodeId, NodeStatus, Reaction,
    Timestamp, Up,
};
use tokio::sync::mpsc;

use crate::{
    allocator, aside,
    clock::Clock,
    contain::{Contain, Guard},
    edge::{Authority, Draft, EdgeCounts},
    probe::Probes,
    reporter::Losses,
    spool::Spool,
    tree::{ProcSource, ProcessTree, Procfs},
};

/// Clock and losses are looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// Containments are looked at this often, and /proc for processes whose exit was lost.
const WATCH_EVERY: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Agent, controller and rules have all been set up after this.
const STARTED_AFTER: Duration = Duration::from_secs(3);

/// Problems of rules that the status names (I11).
const MAX_OF_RULES: usize = 16;

/// Samples of losses kept: two minutes.
const SAMPLES: usize = 120;

/// How much was lost, by class, over the last two minutes (I2). By the kernel's clock: a wall clock that is set must not hide a loss.
#[derive(Debug, Default)]
pub struct LossWatch {
    samples: VecDeque<(BootNs, BTreeMap<EventClass, u64>)>,
}

impl LossWatch {
    /// Remembers how much was lost until now.
    pub fn sample(&mut self, now: BootNs, counts: &BTreeMap<EventClass, ClassCount>) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, lost(counts)));
    }

    /// From when on losses are known, and what was lost from then until now: from the last sample before `from`. Without such a sample: from
    /// the start on.
    #[must_use]
    pub fn since(
        &self,
        from: BootNs,
        counts: &BTreeMap<EventClass, ClassCount>,
    ) -> (BootNs, BTreeMap<EventClass, u64>) {
        let before = self.samples.iter().rev().find(|(at, _)| *at <= from).or_else(|| {
            // Samples begin after `from`: if none was dropped yet, all losses are since the start.
            (self.samples.len() == SAMPLES).then(|| self.samples.front()).flatten()
        });
        let nothing = BTreeMap::new();
        let (start, base) = before.map_or((from, &nothing), |(at, lost)| (*at, lost));
        let lost = lost(counts)
            .into_iter()
            .filter_map(|(class, now)| {
                let more = now.saturating_sub(base.get(&class).copied().unwrap_or(0));
                (more > 0).then_some((class, more))
            })
            .collect();
        (start, lost)
    }
}

fn lost(counts: &BTreeMap<EventClass, ClassCount>) -> BTreeMap<EventClass, u64> {
    counts.iter().filter(|(_, count)| count.lost() > 0).map(|(class, count)| (*class, count.lost())).collect()
}

/// What the agent's parts share.
pub struct Shared {
    /// This node.
    pub node: NodeId,
    /// This start.
    pub epoch: AgentEpoch,
    /// Time.
    pub clock: Arc<Clock>,
    /// The kernel side.
    pub probes: Mutex<Probes>,
    /// Processes.
    pub tree: Arc<Mutex<ProcessTree>>,
    /// Containment.
    pub contain: Arc<Contain>,
    /// Reports.
    pub spool: Arc<Mutex<Spool>>,
    /// What happened at the edge.
    pub counts: Arc<EdgeCounts>,
    /// Losses.
    pub losses: Mutex<LossWatch>,
    /// The rules in force.
    pub rules: Arc<detect::matcher::Swap>,
    /// What the controller says must be left alone.
    pub guard: Option<Guard>,
    /// Whether the node may act by itself.
    pub authority: Arc<RwLock<Authority>>,
    /// The reader has ended though nobody asked it to.
    pub blind: AtomicBool,
    /// Found wrong at the start.
    pub notes: Mutex<Vec<String>>,
    /// Wrong with the rules.
    pub of_rules: Mutex<Vec<String>>,
}

impl Shared {
    /// The node's own report.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let (hooks, counts, mut degraded) = {
            let probes = lock(&self.probes);
            let mut degraded = probes.degraded();
            let counts = probes.counts().unwrap_or_else(|error| {
                degraded.push(format!("losses are not known: {error}"));
                BTreeMap::new()
            });
            let undecoded = probes.undecoded();
            if undecoded > 0 {
                degraded.push(format!("{undecoded} records of the kernel side were not understood"));
            }
            (probes.hooks(), counts, degraded)
        };
        for hook in &hooks {
            if let HookState::Failed { because } = &hook.state {
                degraded.push(format!("hook {} is not attached: {because}", hook.hook));
            }
        }
        for (class, lost) in lost(&counts) {
            degraded.push(format!("{lost} {class:?} events were lost since the start"));
        }
        if self.blind.load(Ordering::Relaxed) {
            degraded.push("the reader has ended: nothing is seen any more; restart the agent".into());
        }
        degraded.extend(aside::degraded());
        let given_up = self.counts.given_up.load(Ordering::Relaxed);
        if given_up > 0 {
            degraded
                .push(format!("{given_up} findings below high were given up because reporting was behind"));
        }
        let failed = self.counts.failed_reactions.load(Ordering::Relaxed);
        if failed > 0 {
            degraded.push(format!("{failed} tries of reactions failed; the log says why"));
        }
        let withheld = self.counts.withheld_reactions.load(Ordering::Relaxed);
        if withheld > 0 {
            degraded.push(format!(
                "{withheld} reactions were withheld because rules asked for too many in a minute: only observed"
            ));
        }
        degraded.extend(lock(&self.spool).complaints());
        degraded.extend(self.guard.as_ref().and_then(Guard::degraded));
        degraded.extend(lock(&self.notes).iter().cloned());
        {
            let problems = lock(&self.of_rules);
            degraded.extend(problems.iter().take(MAX_OF_RULES).cloned());
            if let Some(more @ 1..) = problems.len().checked_sub(MAX_OF_RULES) {
                degraded.push(format!("{more} more problems of rules; the log names each"));
            }
        }
        let (_, rules) = self.rules.current();
        let holding = {
            let authority = self.authority.read().unwrap_or_else(PoisonError::into_inner);
            (0..rules.len() as u32)
                .filter_map(|index| rules.rule(RuleIndex(index)))
                .filter(|rule| rule.reaction == Reaction::Stop && authority.permits(rule))
                .map(|rule| rule.title.clone())
                .take(NodeStatus::MAX_HOLDING)
                .collect()
        };
        NodeStatus {
            node: self.node.clone(),
            epoch: self.epoch,
            at: self.clock.now(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            rules: rules.len() as u64,
            holding,
            loaded: None,
            hooks,
            counts,
            findings: self.counts.findings.load(Ordering::Relaxed),
            containments: self.contain.in_force().len() as u64,
            degraded,
        }
    }

    fn note(&self, text: String) {
        tracing::warn!("{text}");
        let mut notes = lock(&self.notes);
        if notes.len() < 32 {
            notes.push(text);
        }
    }
}

/// For the reporter.
pub(crate) struct ProbeLosses(pub(crate) Arc<Shared>);

impl Losses for ProbeLosses {
    fn around(&mut self, at: BootNs, time: Timestamp, before: Duration) -> LossWindow {
        // A count that cannot be read is said in the status; here it is as if nothing was lost since the last sample.
        let counts = lock(&self.0.probes).counts().unwrap_or_default();
        let nanos = u64::try_from(before.as_nanos()).unwrap_or(u64::MAX);
        let (from, lost) = lock(&self.0.losses).since(BootNs(at.0.saturating_sub(nanos)), &counts);
        // By the clock that gave the event its time, whatever it was set to since.
        let by_its_clock = |boot: BootNs| {
            let apart = i128::from(boot.0) - i128::from(at.0);
            Timestamp(time.0.saturating_add(i64::try_from(apart).unwrap_or_default()))
        };
        LossWindow { from: by_its_clock(from), to: by_its_clock(Clock::boot_now()), lost }
    }
}

/// The thread that keeps house until `stop`'s sender is gone.
pub(crate) struct House {
    pub(crate) shared: Arc<Shared>,
    pub(crate) status_every: Duration,
    pub(crate) to_uplink: mpsc::Sender<Up>,
    pub(crate) drafts: SyncSender<Draft>,
    pub(crate) stop: Receiver<()>,
}

impl House {
    pub(crate) fn run(self) {
        let mut prepares = self.prepares();
        let start = Instant::now();
        let (mut status_due, mut watch_due, mut sweep_due) =
            (start, start + WATCH_EVERY, start + SWEEP_EVERY);
        // The whole program has started by then; what that took in passing is not kept.
        let mut started_at = Some(start + STARTED_AFTER);
        let mut code = allocator::CodeWatch::default();
        loop {
            self.tick();
            if started_at.take_if(|at| Instant::now() >= *at).is_some() {
                allocator::give_back_now();
                allocator::let_go_of_code();
            }
            let now = Instant::now();
            if now >= watch_due {
                watch_due = now + WATCH_EVERY;
                self.watch();
                // One may have been used.
                prepares = prepares && self.prepares();
                if started_at.is_none() {
                    code.look();
                }
            }
            if now >= sweep_due {
                sweep_due = now + SWEEP_EVERY;
                self.sweep();
                allocator::give_back_now();
                code.let_go_if_grown();
            }
            if now >= status_due {
                status_due = now + self.status_every;
                // Full or closed: the next one says the same or better.
                let _ = self.to_uplink.try_send(Up::Status(Box::new(self.shared.status())));
            }
            match self.stop.recv_timeout(TICK.min(self.status_every)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// What the next network quarantine needs is loaded now, not when it is wanted; whether this kernel takes it.
    fn prepares(&self) -> bool {
        let prepared = self.shared.contain.prepare();
        if let Err(failure) = &prepared {
            self.shared.note(format!("network quarantine cannot be prepared: {failure}"));
        }
        prepared.is_ok()
    }

    fn tick(&self) {
        if let Some(moved) = self.shared.clock.measure() {
            let seconds = moved as f64 / 1e9;
            self.shared.note(format!(
                "the wall clock was set by {seconds:+.3} s; times of events follow it from now on"
            ));
        }
        let counts = lock(&self.shared.probes).counts();
        if let Ok(counts) = counts {
            lock(&self.shared.losses).sample(Clock::boot_now(), &counts);
        }
    }

    /// Exits whose record was lost, and who waits for peers without a record of it. /proc is read without holding the tree, which the
    /// reader needs.
    fn sweep(&self) {
        let living = lock(&self.shared.tree).living_keys();
        let mut procfs = Procfs::new();
        let (living, gone): (Vec<_>, Vec<_>) = living.into_iter().partition(|key| procfs.is_alive(*key));
        let listeners = procfs.listeners(&living);
        let mut tree = lock(&self.shared.tree);
        tree.have_ended(&gone, Clock::boot_now());
        tree.have_listeners(&listeners);
    }

    /// Somebody undid a containment: it was done again, and the controller is told.
    fn watch(&self) {
        for drift in self.shared.contain.watch(self.shared.clock.now()) {
            tracing::warn!(action = %drift.record.id, found = %drift.found, again = drift.again.is_ok(), "a containment was undone by somebody");
            let mut record = drift.record;
            record.detail = match &drift.again {
                Ok(()) => format!("undone by somebody ({}), and done again", drift.found),
                Err(failure) => {
                    format!("undone by somebody ({}), and not to be done again: {failure}", drift.found)
                }
            };
            let _ = self.drafts.try_send(Draft::Reaction(Box::new(record)));
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lost_ring: u64) -> BTreeMap<EventClass, ClassCount> {
        BTreeMap::from([(EventClass::Exec, ClassCount { lost_ring, ..ClassCount::default() })])
    }

    #[test]
    fn i2_losses_are_those_of_the_window() {
        let mut watch = LossWatch::default();
        let second = |n: u64| BootNs(n * 1_000_000_000);
        for n in 0..300 {
            watch.sample(second(n), &counts(n / 10));
        }
        let (from, lost) = watch.since(second(280), &counts(40));
        assert_eq!((from, lost), (second(280), BTreeMap::from([(EventClass::Exec, 12)])));
        assert!(watch.since(second(280), &counts(28)).1.is_empty());
        // Older than what is remembered: as far back as known, and it says from when.
        assert_eq!(watch.since(second(5), &counts(40)).0, second(180));
        // At the start all losses count. Samples and events have one clock, which nobody sets: what the wall clock said does not come in.
        let fresh = LossWatch::default();
        assert_eq!(fresh.since(second(1), &counts(3)).1[&EventClass::Exec], 3);
    }
}
