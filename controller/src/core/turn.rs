//! From decided to done: what was decided becomes durable, then goes into the audit log, and only then has an effect.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem, thread,
    time::{Duration, Instant},
};

use model::{
    Actor, AuditEntry, AuditKind, FindingId, IncidentId, NodeCommand, NodeId, RunId, Seq, Timestamp,
};

use super::{Answer, Core, links::Acks};
use crate::{
    api::ApiError,
    attribute::Pods,
    audit::{Anchor, Draft, LogError},
    crash::Moment,
    health::Part,
    ledger::Told,
    metrics::kind,
    store::{Batch, ReadBack, Table},
};

/// Shortest and longest wait between two attempts to write.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Entries of the audit log that are not on the disk yet: so many, and so long.
const MAX_UNSYNCED: usize = 256;
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// What one round of inputs led to.
pub(super) struct Turn {
    /// When it began; the only time that its decisions know.
    pub(super) now: Timestamp,
    /// To be stored.
    pub(super) batch: Batch,
    /// Journal entries that a run wants to see read back (I4).
    pub(super) read_backs: Vec<(RunId, u64)>,
    /// Findings stored in this turn: incident and index.
    pub(super) places: BTreeMap<FindingId, (IncidentId, u32)>,
    /// Findings taken in in this turn, those too that only correlations tell of.
    pub(super) seen: BTreeSet<FindingId>,
    drafts: Vec<Draft>,
    transitions: Vec<String>,
    after: Vec<After>,
}

/// What happens once all is stored, in this order.
enum After {
    Ack(NodeId, Seq),
    /// To be kept elsewhere, and acknowledged then.
    Keep(Box<Told>),
    Send(Box<NodeCommand>),
    Reply(Answer, Result<Vec<u8>, ApiError>),
}

impl Turn {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            now,
            batch: Batch::default(),
            read_backs: Vec::new(),
            places: BTreeMap::new(),
            seen: BTreeSet::new(),
            drafts: Vec::new(),
            transitions: Vec::new(),
            after: Vec::new(),
        }
    }

    /// Everything up to `seq` may leave the node's spool.
    pub(super) fn ack(&mut self, node: &NodeId, seq: Seq) {
        self.after.push(After::Ack(node.clone(), seq));
    }

    /// A report leaves the node's spool once it is kept elsewhere, too.
    pub(super) fn keep(&mut self, told: Told) {
        self.after.push(After::Keep(Box::new(told)));
    }

    /// A command to a node.
    pub(super) fn send(&mut self, command: Box<NodeCommand>) {
        self.after.push(After::Send(command));
    }

    /// An answer to a request.
    pub(super) fn reply(&mut self, to: Answer, what: Result<Vec<u8>, ApiError>) {
        self.after.push(After::Reply(to, what));
    }

    /// A fact for the audit log.
    pub(super) fn audit(&mut self, draft: Draft) {
        self.drafts.push(draft);
    }

    /// Name of a transition, for tests and metrics.
    pub(super) fn transition(&mut self, name: String) {
        self.transitions.push(name);
    }
}

impl Core {
    /// A fact about the controller itself, for the audit log.
    pub(super) fn audit_system(&self, turn: &mut Turn, what: impl Into<String>) {
        turn.audit(Draft {
            at: turn.now,
            actor: Actor::new("system:controller"),
            kind: AuditKind::System,
            incident: None,
            run: None,
            action: None,
            what: what.into(),
        });
    }

    /// Stores, audits, acts; and again for what was read back, until nothing is left.
    pub(super) fn conclude(&mut self, mut turn: Turn) {
        loop {
            if self.store_and_act(&mut turn).is_err() {
                return;
            }
            let read_backs = mem::take(&mut turn.read_backs);
            if read_backs.is_empty() {
                break;
            }
            turn = self.turn();
            for (run, seq) in read_backs {
                self.read_back(&run, seq, &mut turn);
            }
        }
        self.state.incidents.evict(self.config.limits.cached_findings);
        self.state.correlations.evict();
        self.unload_runs();
        let revision = self.state.incidents.revision();
        self.revision.send_if_modified(|known| mem::replace(known, revision) != revision);
        self.gauge();
    }

    fn store_and_act(&mut self, turn: &mut Turn) -> Result<(), Stopping> {
        // First, so that what is new is known for what it is: an incident that was opened in this turn is not one that may go.
        self.note_facts(&mut turn.batch);
        self.state.incidents.flush(&mut turn.batch);
        self.measure(turn.now, &mut turn.batch);
        let (gone, too_many) = self.state.incidents.retire(self.config.limits.incidents, &mut turn.batch);
        if too_many > 0 {
            let what = format!(
                "{too_many} incidents more than the limit, all with something in force or open: close some"
            );
            self.health.degraded(Part::Grouping, what);
        } else {
            self.health.restored(Part::Grouping);
        }
        for id in gone {
            self.state.correlator.close(&id);
            if let Err(error) = self.forget_runs(&id, turn) {
                self.store_failed(&error);
            }
        }
        self.state.correlations.flush(&mut turn.batch);
        let entries = self.seal(turn);
        if !turn.batch.is_empty() {
            let crash = self.config.crash.clone();
            crash.reached(Moment::BeforeWrite, &turn.transitions);
            self.commit(&mut turn.batch)?;
            crash.reached(Moment::AfterWrite, &turn.transitions);
            self.append(&entries)?;
            crash.reached(Moment::AfterAudit, &turn.transitions);
            self.act(turn);
            crash.reached(Moment::AfterEffect, &turn.transitions);
            self.metrics.transitions.inc_by(turn.transitions.len() as u64);
        } else {
            self.act(turn);
        }
        self.state.links.flush();
        turn.transitions.clear();
        turn.batch = Batch::default();
        Ok(())
    }

    fn act(&mut self, turn: &mut Turn) {
        let leads = self.config.leads.as_ref().is_none_or(|leads| leads());
        self.state.links.let_acks(if leads { Acks::Go } else { Acks::Wait });
        for after in turn.after.drain(..) {
            match after {
                After::Ack(node, seq) => self.state.links.ack(&node, seq),
                After::Keep(told) => self.state.links.keep(told),
                After::Send(command) => {
                    self.metrics.commands.get_or_create(&kind(command.phase.name())).inc();
                    match &self.config.witness {
                        Some(witness) if witness.sees(&command.phase) => witness.tell(command),
                        _ => self.state.links.send(*command, self.config.limits.node_queue),
                    }
                }
                // Who asked may have gone meanwhile.
                After::Reply(to, what) => drop(to.send(what)),
            }
        }
    }

    /// Seals the facts of the turn and puts them beside what they tell of, so that both become durable together.
    fn seal(&mut self, turn: &mut Turn) -> Vec<AuditEntry> {
        let audit = &mut self.state.audit;
        let entries: Vec<AuditEntry> =
            turn.drafts.drain(..).map(|draft| audit.head.seal(&audit.key, draft)).collect();
        if entries.is_empty() {
            return entries;
        }
        for seq in mem::take(&mut audit.appended) {
            turn.batch.remove(Table::AuditPending, seq.to_be_bytes().to_vec());
        }
        for entry in &entries {
            turn.batch.put(Table::AuditPending, entry.seq.to_be_bytes().to_vec(), entry, ReadBack::Yes);
        }
        turn.batch.put(Table::Meta, b"audit_head".to_vec(), &audit.head, ReadBack::Yes);
        entries
    }

    /// Until it is durable, or the controller stops: nothing that was decided is dropped, and nothing leaves before.
    fn commit(&mut self, batch: &mut Batch) -> Result<(), Stopping> {
        let mut wait = BACKOFF.0;
        let begun = Instant::now();
        while let Err(error) = self.state.store.commit_all(batch) {
            self.stalled(&error.to_string(), &mut wait)?;
            if let Err(error) = self.state.store.reopen() {
                tracing::error!(%error, "the journal cannot be opened again");
            }
        }
        self.health.restored(Part::Storage);
        self.metrics.commit.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Until the audit log has it: an effect that the log does not tell of must not happen.
    fn append(&mut self, entries: &[AuditEntry]) -> Result<(), Stopping> {
        let Some(last) = entries.last() else { return Ok(()) };
        let mut wait = BACKOFF.0;
        while let Err(error) = self.state.audit.log.append(entries) {
            self.stalled(&error.to_string(), &mut wait)?;
        }
        self.health.restored(Part::Storage);
        let audit = &mut self.state.audit;
        if self.state.store.is_in_memory() {
            // A replay: nobody will read the log after it, and a busy disk must not hold it up.
            audit.appended.extend(entries.iter().map(|e| e.seq));
            return Ok(());
        }
        audit.unsynced.extend(entries.iter().map(|e| e.seq));
        audit.unsynced_since.get_or_insert_with(Instant::now);
        debug_assert_eq!(last.seq, self.state.audit.head.count);
        // The journal keeps them so long: not without bounds (I11).
        while self.state.audit.unsynced.len() >= MAX_UNSYNCED
            && let Err(error) = self.sync_audit()
        {
            self.stalled(&error.to_string(), &mut wait)?;
        }
        let anchor = Anchor::new(&self.state.audit.key, &self.state.audit.head);
        match anchor.write(&self.config.audit_anchor) {
            Ok(()) => self.health.restored(Part::Anchor),
            Err(error) => self.health.degraded(Part::Anchor, error.to_string()),
        }
        Ok(())
    }

    /// Brings the audit log to the disk, if that is due: no effect waits for it, since the journal has what it tells, too.
    pub(super) fn sync_audit_in_time(&mut self) {
        if self.state.audit.unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_AFTER)
            && let Err(error) = self.sync_audit()
        {
            self.health.degraded(Part::Storage, error.to_string());
        }
    }

    pub(super) fn sync_audit(&mut self) -> Result<(), LogError> {
        let audit = &mut self.state.audit;
        audit.log.sync()?;
        audit.appended.append(&mut audit.unsynced);
        audit.unsynced_since = None;
        Ok(())
    }

    fn stalled(&self, because: &str, wait: &mut Duration) -> Result<(), Stopping> {
        let what = format!(
            "{because}; nothing is acknowledged or done until it can be written: make room or mend the disk"
        );
        self.health.degraded(Part::Storage, what);
        if self.stop.is_cancelled() {
            tracing::error!(
                "the controller stops with decisions that could not be stored; agents will deliver again"
            );
            return Err(Stopping);
        }
        thread::sleep(*wait);
        *wait = (*wait * 2).min(BACKOFF.1);
        Ok(())
    }

    fn gauge(&mut self) {
        let m = &self.metrics;
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        m.runs_live.set(count(self.state.runs.len()));
        m.nodes_linked.set(count(self.state.links.up()));
        m.groups.set(count(self.state.correlator.len()));
        if let Some(size) = self.config.pods.as_ref().map(Pods::size) {
            m.pods_known.set(count(size.pods));
            m.pods_left_out.set(i64::try_from(size.overflow).unwrap_or(i64::MAX));
            // It stays: what was left out once is known only after a restart.
            if size.overflow > 0 && self.health.says(Part::Attribution).is_none() {
                let what = "there are more pods, owners or namespaces than are kept: what is left out is not known, and nothing is done that needs it";
                self.health.degraded(Part::Attribution, what);
            }
        }
        m.degraded.set(count(self.health.count()));
        self.state.correlations.gauge(m);
    }
}

/// The controller was asked to stop while nothing could be written.
struct Stopping;
