//! What nodes say: findings become incidents, exactly once (I3); reactions are adopted; answers go to their runs.

use std::time::Duration;

use detect::incident::{Key, entities_of, incident_of};
use model::{
    ActionRecord, Actor, CommandOutcome, Down, Finding, FindingId, GateOutcome, IncidentId, IncidentState,
    NodeId, Report, Seq, Timestamp, Up,
};
use respond::run::Sight;
use tokio::sync::mpsc;

use super::{
    Core, LinkNumber,
    answers::Answered,
    correlate::Reports,
    incidents::{begun, is_in_force},
    pods::bring,
    runs::RunRow,
    settle::is_rest,
    turn::Turn,
};
use crate::{
    health::Part,
    ledger::Told,
    metrics::{kind, level, phase_result},
    store::{Adopted, ReadBack, Rest, StoreError, Table, Visibility, seen_key},
};

/// Who speaks for the controller itself.
pub(crate) fn controller() -> Actor {
    Actor::new("system:controller")
}

/// Who speaks for a node.
pub(super) fn agent(node: &NodeId) -> Actor {
    Actor::agent(node)
}

/// How long health tells of a node that was refused.
const REFUSAL_SHOWN: Duration = Duration::from_secs(600);

/// Where a finding lies.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Place {
    incident: IncidentId,
    index: u32,
}

impl Core {
    pub(super) fn attached(&mut self, node: NodeId, link: LinkNumber, down: mpsc::Sender<Down>) {
        tracing::info!(%node, link, "a link came up");
        self.state.links.attach(node, link, down);
    }

    pub(super) fn detached(&mut self, node: &NodeId, link: LinkNumber, turn: &mut Turn) {
        if self.state.links.is_current(node, link) {
            tracing::info!(%node, link, "a link ended");
            self.state.links.detach(node);
            self.node_lost(node, turn);
        }
    }

    pub(super) fn heard(&mut self, node: NodeId, link: LinkNumber, up: Up, turn: &mut Turn) {
        if !self.state.links.is_current(&node, link) {
            // A newer connection took over: what is not acknowledged comes again over that one.
            return;
        }
        match up {
            Up::Hello { node: said, epoch } if said == node => {
                tracing::info!(%node, %epoch, "a node said hello");
                self.state.links.greet(&node);
                self.node_back(&node, turn);
            }
            Up::Hello { node: said, .. } => {
                self.refuse(&node, &format!("it calls itself {said}"));
                self.state.links.detach(&node);
            }
            Up::Status(status) if status.node == node => {
                if let Some(known) = self.state.links.get_mut(&node) {
                    known.status = Some(status);
                }
            }
            Up::Status(status) => self.refuse(&node, &format!("its status speaks for {}", status.node)),
            Up::Report { seq, report } => match self.reported_by(&node, link, seq, *report, turn) {
                Ok(()) => {}
                Err(error) => {
                    // Not acknowledged, and nothing of this connection is taken any more: it all comes again.
                    self.health.degraded(Part::Journal, error.to_string());
                    self.state.links.detach(&node);
                }
            },
            Up::Outcome(outcome) => self.outcome(&node, *outcome, turn),
        }
    }

    /// Takes a report in, and lets it leave the node's spool as soon as it is stored: here, and with the ledger where there is one.
    fn reported_by(
        &mut self,
        node: &NodeId,
        link: LinkNumber,
        seq: Seq,
        report: Report,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        if self.config.ledger.is_none() {
            self.report(node, seq, report, turn)?;
            turn.ack(node, seq);
            return Ok(());
        }
        self.report(node, seq, report.clone(), turn)?;
        let incident = match &report {
            Report::Finding(finding) => self.place_of(&finding.id, turn)?.map(|(incident, _)| incident),
            Report::Repeat { .. } | Report::Reaction(_) => None,
        };
        turn.keep(Told { node: node.clone(), link, seq, incident, report });
        Ok(())
    }

    pub(super) fn report(
        &mut self,
        node: &NodeId,
        seq: Seq,
        report: Report,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let mut row = self.state.nodes.get(node).cloned().unwrap_or_default();
        match report {
            Report::Finding(finding) => {
                let epoch = finding.event.id.epoch;
                let stored = seq <= row.seq && epoch <= row.epoch;
                if finding.event.id.node != *node {
                    self.refuse(node, &format!("a finding speaks for {}", finding.event.id.node));
                } else if finding.event.record().is_some() && !is_source(node) {
                    self.refuse(node, "it tells of a record, which only a log that is followed here does");
                } else if stored || self.is_seen(&finding.id, turn)? {
                    self.metrics.duplicates.inc();
                } else if self.again.is_over() {
                    self.remember(&finding.id, turn)?;
                } else {
                    // In this order: a finding that could not be taken in must not be a duplicate when it comes again.
                    let id = finding.id.clone();
                    self.accept(finding, turn)?;
                    self.remember(&id, turn)?;
                }
                // A spool that begins anew in a newer epoch begins to be counted anew.
                row.seq = if epoch > row.epoch { seq } else { row.seq.max(seq) };
                row.epoch = row.epoch.max(epoch);
            }
            Report::Repeat { .. } | Report::Reaction(_) if self.again.is_over() => row.seq = row.seq.max(seq),
            Report::Repeat { finding, count, last, moments } => {
                self.feed_again(&finding, count, last, &moments, turn)?;
                self.repeated(&finding, count, last, moments, turn)?;
                row.seq = row.seq.max(seq);
            }
            Report::Reaction(record) => {
                self.reaction(node, record, None, turn)?;
                row.seq = row.seq.max(seq);
            }
        }
        turn.batch.put(Table::Nodes, node.as_str().as_bytes().to_vec(), &row, ReadBack::Yes);
        self.state.nodes.insert(node.clone(), row);
        Ok(())
    }

    /// Takes a new finding in, wherever it comes from: correlations look at it, and unless its rule is only there for them it goes to
    /// its incident.
    pub(super) fn accept(&mut self, finding: Finding, turn: &mut Turn) -> Result<(), StoreError> {
        self.watch(&Sight::of(&finding, finding.last), turn);
        if self.feed(&finding, turn) == Reports::ThroughCorrelations {
            return Ok(());
        }
        let name = self.again.name().unwrap_or_else(|| incident_of(&finding));
        self.found(finding, name, Vec::new(), turn)
    }

    /// Puts a finding in its place, and beside it the evidence that has none yet; if it opens an incident, that is called `name`.
    pub(super) fn found(
        &mut self,
        finding: Finding,
        name: IncidentId,
        evidence: Vec<Finding>,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let now = turn.now;
        let node = finding.event.id.node.clone();
        let span = tracing::info_span!("finding", id = %finding.id, rule = finding.rule.id, %node);
        let _entered = span.enter();
        // For benches and for those who tune rules: findings that open nothing are seen nowhere else.
        tracing::debug!(
            level = level(finding.rule.level),
            title = finding.rule.title,
            image = finding.event.process.exe,
            command_line = finding.event.process.command_line,
            cgroup = finding.event.process.cgroup.0,
            matched = ?finding.matched,
            "a finding came"
        );
        self.metrics.findings.get_or_create(&kind(level(finding.rule.level))).inc();
        self.metrics.lag.set(now.since(finding.event.time).as_secs_f64());
        let early = self.state.correlator.forgotten_early();
        // When its node was booted decides which session it is in.
        if let Some(pods) = &self.config.pods {
            pods.learn(&finding);
        }
        let aliases = self.aliases(&finding);
        let placed = self.state.correlator.place_as(&finding, &aliases, name, now);
        self.metrics.groups_forgotten.inc_by(self.state.correlator.forgotten_early() - early);
        let mut id = placed.incident.clone();
        // One that was taken over from a lost controller is there before the finding that it is called after.
        if !self.state.incidents.contains(&id) {
            let incident = begun(&id, &finding.rule.title, finding.rule.level, finding.first, now);
            self.state.incidents.open(incident, Visibility::Dormant);
        }
        self.placed(&placed, turn)?;
        let reactions = finding.reactions.clone();
        let line = line_of(&finding);
        let entities = entities_of(&finding);
        let strong = finding.rule.level >= self.config.open_at;
        let finding_id = finding.id.clone();
        let answered = finding.clone();
        let Some(whole) = self.state.incidents.get(&self.state.store, &id)? else { return Ok(()) };
        let mut resting = is_rest(whole.row.incident.state);
        whole.tell(finding.first, &agent(&node), line);
        if let Some(index) = whole.add(finding, entities, now) {
            put_place(turn, &finding_id, &id, index);
        }
        for finding in evidence {
            let (finding_id, entities) = (finding.id.clone(), entities_of(&finding));
            whole.tell(finding.first, &agent(&finding.event.id.node), line_of(&finding));
            if let Some(index) = whole.add_evidence(finding, entities, now) {
                put_place(turn, &finding_id, &id, index);
            }
        }
        if strong && whole.row.visibility == Visibility::Dormant {
            whole.row.visibility = Visibility::Open;
            whole.row.incident.opened = now;
            self.metrics.incidents.get_or_create(&kind(level(whole.row.incident.severity))).inc();
            tracing::info!(incident = %id, title = whole.row.incident.title, "an incident was opened");
        }
        for record in reactions {
            self.reaction(&node, record, Some(&id), turn)?;
        }
        self.take_in(&node, &id, turn)?;
        self.attribute(&id, &answered, turn)?;
        // What was learnt of it meanwhile may have put it into another one.
        let root = self.root(&id);
        let is_elsewhere = std::mem::replace(&mut id, root) != id;
        let open = match self.state.incidents.get(&self.state.store, &id)? {
            Some(whole) => {
                if is_elsewhere {
                    resting = is_rest(whole.row.incident.state);
                }
                whole.row.visibility == Visibility::Open
            }
            None => false,
        };
        if open {
            self.enrich(&id, now)?;
        }
        if open
            && self.again.answers()
            && self.respond(&id, &answered, turn)? == Answered::Not
            && resting
            && strong
        {
            self.disturb(&id, turn)?;
        }
        self.settle(&id, turn)
    }

    /// The story of `absorbed` goes on in `into`, with which it shares something: findings, pods, sessions, runs and actions move there.
    pub(super) fn absorb(
        &mut self,
        into: &IncidentId,
        absorbed: &IncidentId,
        shared: &[Key],
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let now = turn.now;
        let by = match shared.iter().take(4).map(Key::to_string).collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => none,
            names => format!(" ({names})"),
        };
        let Some(other) = self.state.incidents.get(&self.state.store, absorbed)? else { return Ok(()) };
        let (state, rest) = (other.row.incident.state, other.row.rest);
        let incident = &mut other.row.incident;
        let findings = incident.findings.clone();
        let dropped = incident.findings_dropped;
        let (runs, actions) = (std::mem::take(&mut incident.runs), std::mem::take(&mut incident.actions));
        let (pods, sessions) = (incident.pods.clone(), incident.sessions.clone());
        incident.state = IncidentState::Closed;
        other.row.merged_into = Some(into.clone());
        other.tell(now, &controller(), format!("the same story as {into}{by}: it goes on there"));
        let (visibility, further) = (other.row.visibility, std::mem::take(&mut other.row.absorbed));
        // A run in shadow deals with nothing.
        let deals = |row: &RunRow| row.is_live() && row.outcome != GateOutcome::Shadow;
        let dealt_with =
            is_rest(state) || runs.iter().any(|run| self.state.rows.get(&run.id).is_some_and(deals));
        let unsettled = visibility == Visibility::Open && (rest == Rest::Disturbed || !dealt_with);
        let Some(whole) = self.state.incidents.get(&self.state.store, into)? else { return Ok(()) };
        let resting = is_rest(whole.row.incident.state);
        for finding in findings {
            let (finding_id, entities) = (finding.id.clone(), entities_of(&finding));
            whole.tell(finding.first, &agent(&finding.event.id.node), line_of(&finding));
            let added = match self.state.correlations.is_quiet(&finding) {
                true => whole.add_evidence(finding, entities, now),
                false => whole.add(finding, entities, now),
            };
            if let Some(index) = added {
                put_place(turn, &finding_id, into, index);
            }
        }
        whole.row.incident.findings_dropped += dropped;
        whole.row.incident.runs.extend(runs);
        bring(&mut whole.row.incident, pods, sessions);
        for record in &actions {
            whole.record(record, now);
        }
        if visibility == Visibility::Open {
            whole.row.visibility = Visibility::Open;
        }
        whole.row.absorbed.extend(further);
        whole.row.absorbed.push(absorbed.clone());
        whole.tell(
            now,
            &controller(),
            format!("{absorbed} is the same story{by}: its findings and actions are here now"),
        );
        if resting && unsettled {
            // Somebody was to look at it, and nobody looks at what is over.
            self.disturb(into, turn)?;
        }
        self.attribute_in(absorbed, into, turn);
        for record in &actions {
            if let Some(adopted) = self.state.adopted.get_mut(&record.id) {
                adopted.incident = Some(into.clone());
                turn.batch.put(
                    Table::Adopted,
                    record.id.as_str().as_bytes().to_vec(),
                    adopted,
                    ReadBack::Yes,
                );
            }
        }
        Ok(())
    }

    /// A node acted on its own authority, or lifted something locally.
    pub(super) fn reaction(
        &mut self,
        node: &NodeId,
        record: ActionRecord,
        incident: Option<&IncidentId>,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        if let Some(run) = record.run.clone() {
            self.reported(&run, node, record, turn);
            return Ok(());
        }
        let known = self.state.adopted.get(&record.id);
        if known.is_some_and(|k| k.node != *node) {
            self.refuse(node, "it reports another node's action");
            return Ok(());
        }
        let incident = incident
            .cloned()
            .or_else(|| known.and_then(|k| k.incident.clone()))
            .or_else(|| record.incident.clone().filter(|id| self.state.incidents.contains(id)))
            .or_else(|| self.incident_about(node, &record));
        let incident = match incident {
            Some(id) => {
                let whole = self.state.incidents.get(&self.state.store, &id)?;
                whole.is_none_or(|whole| whole.takes(&record.id)).then_some(id)
            }
            None => None,
        };
        let undone_by = self.state.undone_by.get(&record.id).cloned();
        let settled = |state| {
            use model::ActionState::{Failed, Reverted, Vacuous};
            matches!(state, Reverted | Vacuous | Failed)
        };
        if let Some(run) = undone_by {
            self.reported(&run, node, record, turn);
            return Ok(());
        }
        let record = match known {
            Some(known) if settled(known.record.state) => known.record.clone(),
            _ => record,
        };
        let is_news = known.is_none_or(|k| k.record != record || k.incident != incident);
        if !is_news {
            return Ok(());
        }
        let mut record = record;
        record.incident.clone_from(&incident);
        let adopted = Adopted { node: node.clone(), record: record.clone(), incident: incident.clone() };
        turn.batch.put(Table::Adopted, record.id.as_str().as_bytes().to_vec(), &adopted, ReadBack::Yes);
        self.state.adopted.insert(record.id.clone(), adopted);
        self.audit_reaction(node, &record, turn);
        self.limit_orphans(turn);
        if let Some(id) = incident
            && let Some(whole) = self.state.incidents.get(&self.state.store, &id)?
        {
            whole.tell(record.applied.unwrap_or(turn.now), &agent(node), record.told());
            whole.record(&record, turn.now);
            if is_in_force(&record) && whole.row.visibility == Visibility::Dormant {
                // What is in force is shown, however weak the finding that tells of it.
                whole.row.visibility = Visibility::Open;
                whole.row.incident.opened = turn.now;
            }
            self.give(&record, node, &id, turn);
            self.settle(&id, turn)?;
        }
        Ok(())
    }

    fn outcome(&mut self, node: &NodeId, outcome: CommandOutcome, turn: &mut Turn) {
        let result = if outcome.result.is_ok() { "done" } else { "failed" };
        self.metrics.outcomes.get_or_create(&phase_result(&outcome.phase, result)).inc();
        self.run_outcome(node, outcome, turn);
    }

    /// Reactions that belong to no incident are kept, but not without end; those in force are forgotten last.
    fn limit_orphans(&mut self, turn: &mut Turn) {
        let mut orphans: Vec<_> = self
            .state
            .adopted
            .values()
            .filter(|a| a.incident.is_none())
            .map(|a| (is_in_force(&a.record), a.record.planned, a.record.id.clone()))
            .collect();
        let excess = orphans.len().saturating_sub(self.config.limits.orphans);
        orphans.sort();
        for (_, _, id) in orphans.into_iter().take(excess) {
            self.state.adopted.remove(&id);
            turn.batch.remove(Table::Adopted, id.as_str().as_bytes().to_vec());
        }
    }

    /// A refusal is shown for a while, not for ever.
    pub(super) fn forgive(&mut self, now: Timestamp) {
        if self.refused.is_some_and(|at| now.since(at) > REFUSAL_SHOWN) {
            self.refused = None;
            self.health.restored(Part::Ingest);
        }
    }

    pub(super) fn is_seen(&self, id: &FindingId, turn: &Turn) -> Result<bool, StoreError> {
        Ok(turn.seen.contains(id) || self.state.store.get::<u64>(Table::Seen, &seen_key(id))?.is_some())
    }

    pub(super) fn remember(&mut self, id: &FindingId, turn: &mut Turn) -> Result<(), StoreError> {
        let seen = &mut self.state.seen;
        turn.batch.put(Table::Seen, seen_key(id), &seen.next, ReadBack::No);
        turn.batch.put(Table::SeenOrder, seen.next.to_be_bytes().to_vec(), id, ReadBack::No);
        seen.next += 1;
        while seen.next - seen.oldest > self.config.limits.seen {
            let key = seen.oldest.to_be_bytes();
            if let Some(old) = self.state.store.get::<FindingId>(Table::SeenOrder, &key)? {
                turn.batch.remove(Table::Seen, seen_key(&old));
                turn.batch.remove(Table::FindingPlaces, seen_key(&old));
            }
            turn.batch.remove(Table::SeenOrder, key.to_vec());
            seen.oldest += 1;
        }
        turn.batch.put(Table::Meta, b"seen".to_vec(), seen, ReadBack::No);
        turn.seen.insert(id.clone());
        Ok(())
    }

    /// Where a finding lies: in which incident, and as which of its findings.
    pub(super) fn place_of(
        &self,
        id: &FindingId,
        turn: &Turn,
    ) -> Result<Option<(IncidentId, u32)>, StoreError> {
        if let Some(place) = turn.places.get(id) {
            return Ok(Some(place.clone()));
        }
        let place = self.state.store.get::<Place>(Table::FindingPlaces, &seen_key(id))?;
        Ok(place.map(|place| (place.incident, place.index)))
    }

    fn refuse(&mut self, node: &NodeId, because: &str) {
        self.metrics.refused.inc();
        self.refused = Some((self.config.clock)());
        self.health.degraded(Part::Ingest, format!("node {node} was refused: {because}"));
    }
}

/// What a history says of a finding's own event.
fn line_of(finding: &Finding) -> String {
    let event = &finding.event;
    let what = event.record().map_or_else(|| event.process.command_line.clone(), model::Record::told);
    format!("{}: {what} ({})", finding.rule.title, event.id)
}

/// Whether it is a log and no node: no certificate is for a name with a colon ([`crate::ingest::SourceSpec::name`]).
fn is_source(name: &NodeId) -> bool {
    name.as_str().contains(':')
}

pub(super) fn put_place(turn: &mut Turn, finding: &FindingId, incident: &IncidentId, index: u32) {
    let place = Place { incident: incident.clone(), index };
    turn.batch.put(Table::FindingPlaces, seen_key(finding), &place, ReadBack::No);
    turn.places.insert(finding.clone(), (place.incident, index));
}
