//! Which run answers what: a playbook for a new finding, a run of its own for what the node did by itself.

use std::{collections::BTreeSet, sync::Arc};

use crds::{Match, Protected, ResponsePolicySpec};
use model::{
    ActionId, ActionRecord, Finding, GateOutcome, Incident, IncidentId, NodeId, RunId, TimelineEntry,
    Timestamp,
};
use respond::{
    gate::{self, JudgedAs, Situation, Usage, Want},
    plan::Plan,
    run::{Input as RunInput, Run, RunStart},
    trigger,
};

use super::{
    Core,
    covered::{covers, says},
    incidents::is_in_force,
    ingest::controller,
    links::Presence,
    runs::{Answers, Grip, Life, RunRow, object},
    turn::Turn,
};
use crate::{
    api::ApiError,
    metrics::kind,
    store::{ReadBack, StoreError, Table, Undone},
};

/// What a run that answers something is about.
struct About<'a> {
    finding: &'a Finding,
    want: Want,
    judged_as: JudgedAs,
}

impl Core {
    /// Answers a new finding of an incident, if a playbook does, nothing holds its process yet, and no person undid or refused
    /// the same.
    pub(super) fn respond(
        &mut self,
        id: &IncidentId,
        new: &Finding,
        turn: &mut Turn,
    ) -> Result<Answered, StoreError> {
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(Answered::Not) };
        if self.state.book.len() == 0 {
            return Ok(Answered::Not);
        }
        let node = new.event.id.node.clone();
        // The finding at hand first; then the incident as a whole, for playbooks that look at several findings.
        let alone = whole.header_with(new.clone());
        let mut faults = BTreeSet::new();
        let mut chosen = self.choose(&alone, &node, &mut faults);
        if chosen.is_none() {
            let Some(whole) = self.state.incidents.get(&self.state.store, id)? else {
                return Ok(Answered::Not);
            };
            let mut incident = whole.row.incident.clone();
            incident.findings.retain(|finding| !self.state.correlations.is_quiet(finding));
            chosen = self.choose(&incident, &node, &mut faults);
        }
        for fault in faults {
            self.tell(id, &format!("the trigger of playbook {fault}"), turn);
        }
        let Some((plan, answered)) = chosen else { return Ok(Answered::Not) };
        let covering = self.state.rows.about(&answered).find(|row| covers(row, plan.name(), &answered, new));
        if let Some((run, of)) = covering.map(|row| (row.run.clone(), row.incident.clone())) {
            if self.root(&of) != *id {
                self.tell(
                    id,
                    &format!("{run} of {of} deals with {} already", answered.event.process.key.pid),
                    turn,
                );
            }
            return Ok(Answered::Before);
        }
        if let Some(what) = self.undone_before(&answered, turn.now) {
            self.tell(id, &what, turn);
            return Ok(Answered::Not);
        }
        let n = alone.runs.iter().filter(|r| r.playbook == *plan.name()).count();
        if n >= self.config.limits.runs_per_playbook {
            self.tell(
                id,
                &format!("{} has run {n} times for this incident: no more by itself", plan.name()),
                turn,
            );
            return Ok(Answered::Not);
        }
        let Some(whole) = self.state.incidents.get(&self.state.store, id)? else { return Ok(Answered::Not) };
        let incident = whole.row.incident.clone();
        let reactions = self.free_reactions(&incident);
        let mut policies = self.state.book.policies_for(&incident);
        // So that the gate's own reasons say it, too.
        policies.extend(self.own_protection());
        let want = Want::of(&plan, &incident, &answered, &node, turn.now);
        let evidence = self.evidence(&plan, &answered, &want);
        let paused = self.paused(turn.now);
        let mut situation = Situation {
            incident: &incident,
            finding: &answered,
            node: &node,
            policies: &policies,
            used: Usage::default(),
            reactions: &reactions,
            evidence: &evidence,
            paused: paused.as_ref(),
            now: turn.now,
        };
        situation.used = self.usage(Some(&want), turn.now);
        let mut start = gate::decide(&plan, &situation);
        start.run = self.fresh(&start.run);
        let shadow = start.decision.outcome == GateOutcome::Shadow;
        if shadow && self.state.rows.of(id).any(|row| says(row, plan.name(), &answered)) {
            // What would be done is written down already.
            return Ok(Answered::Not);
        }
        let judged_as = gate::judged_as(&plan, &situation);
        self.begin(start, Some(About { finding: &answered, want, judged_as }), turn);
        Ok(if shadow { Answered::Not } else { Answered::Now })
    }

    /// What a person undid or refused for the process of a finding and its rule, or for a process that it descends from. An account never
    /// ends as a process does: a decision about what it did to something holds for a day.
    fn undone_before(&self, finding: &Finding, now: Timestamp) -> Option<String> {
        let process = finding.event.process.key;
        let above = finding.ancestors.iter().map(|ancestor| ancestor.key);
        std::iter::once(process).chain(above).find_map(|of| {
            let rule = finding.rule.id.clone();
            let undone =
                Undone { node: finding.event.id.node.clone(), process: of, rule, object: object(finding) };
            let incident = self.state.incidents.undone_in(&undone, now)?;
            let whom = if of == process { String::new() } else { format!(", of which {} is a descendant", process.pid) };
            Some(format!(
                "in {incident} a person undid or refused the answer to {} for pid {}{whom}: it is not done again by itself",
                undone.rule, of.pid
            ))
        })
    }

    /// Our own namespace is never touched (I6), whatever policies there are and whomever they are for.
    fn own_protection(&self) -> Option<(String, ResponsePolicySpec)> {
        let own = self.config.own_namespace.clone()?;
        let nobody = Match { playbooks: vec!["-".into()], ..Match::default() };
        let protected = Protected { namespaces: vec![own], ..Protected::default() };
        Some((
            "hemostat".into(),
            ResponsePolicySpec { matches: nobody, protected, ..ResponsePolicySpec::default() },
        ))
    }

    fn choose(
        &self,
        incident: &Incident,
        node: &NodeId,
        faults: &mut BTreeSet<String>,
    ) -> Option<(Arc<Plan>, Finding)> {
        let search = trigger::choose(self.state.book.plans(), incident, node);
        faults.extend(search.faults.iter().map(|(plan, error)| format!("{}: {error}", plan.name())));
        search.choice.map(|choice| (Arc::clone(choice.plan), choice.finding.clone()))
    }

    /// Gives the node's own reactions that no run undoes to a run that does nothing else.
    pub(super) fn own_reactions(&mut self, id: &IncidentId, turn: &mut Turn) -> Result<(), ApiError> {
        let found = self.state.incidents.get(&self.state.store, id);
        let incident = match found {
            Ok(Some(whole)) => whole.row.incident.clone(),
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.store_failed(&error)),
        };
        let free = self.free_reactions(&incident);
        let nodes: BTreeSet<NodeId> = free.iter().map(|record| self.node_of(record)).collect();
        for node in nodes {
            let reactions: Vec<ActionRecord> =
                free.iter().filter(|record| self.node_of(record) == node).cloned().collect();
            let finding = incident.findings.iter().find(|f| f.event.id.node == node);
            let mut start = match finding {
                Some(finding) => gate::adopt(&Situation {
                    incident: &incident,
                    finding,
                    node: &node,
                    policies: &self.state.book.policies_for(&incident),
                    used: Usage::default(),
                    reactions: &reactions,
                    evidence: &gate::Evidence::default(),
                    paused: None,
                    now: turn.now,
                }),
                None => gate::adopt_without_finding(&incident, &node, &reactions),
            };
            start.run = self.fresh(&start.run);
            self.begin(start, None, turn);
        }
        Ok(())
    }

    /// `about` nothing where a run only holds what the node did by itself.
    fn begin(&mut self, start: RunStart, about: Option<About<'_>>, turn: &mut Turn) {
        let (id, incident) = (start.run.clone(), start.incident.clone());
        let outcome = match start.decision.outcome {
            GateOutcome::Automatic => "automatic",
            GateOutcome::Approval => "approval",
            GateOutcome::Shadow => "shadow",
        };
        self.metrics.decisions.get_or_create(&kind(outcome)).inc();
        tracing::info!(run = %id, %incident, playbook = %start.playbook, outcome, "a run begins");
        // A run in shadow touches nothing (I8), so it undoes nothing either.
        let undoes: Vec<ActionId> = match start.decision.outcome {
            GateOutcome::Shadow => Vec::new(),
            _ => start.reactions.iter().map(|record| record.id.clone()).collect(),
        };
        let row = RunRow {
            run: id.clone(),
            incident,
            node: start.node.clone(),
            life: Life::Live,
            undoes,
            began: turn.now,
            set: self.state.clock_set,
            outcome: start.decision.outcome,
            actions: 0,
            answers: about
                .as_ref()
                .map(|About { finding, .. }| Answers::new(start.playbook.clone(), finding)),
            judged_as: about.as_ref().map(|about| about.judged_as).unwrap_or_default(),
            grip: Grip::None,
            want: about.map(|about| about.want),
        };
        let node = start.node.clone();
        let (run, effects) = match Run::begin(start, turn.now) {
            Ok(begun) => begun,
            Err(error) => {
                let what = format!("the playbook {} cannot be run: {error}", row.run);
                self.tell(&row.incident, &what, turn);
                return;
            }
        };
        turn.batch.put(Table::Runs, id.as_str().as_bytes().to_vec(), &row, ReadBack::Yes);
        let of = row.incident.clone();
        self.state.undone_by.extend(row.undoes.iter().map(|action| (action.clone(), id.clone())));
        self.record_beside(&row, run.start(), turn);
        self.state.rows.insert(row);
        self.state.runs.insert(id.clone(), run);
        if outcome != "shadow" {
            self.calm(&of, turn);
        }
        self.carry_out(&id, effects, turn);
        for place in [node, NodeId::cluster()] {
            let concerned = self.state.runs.get(&id).is_some_and(|run| run.concerns(&place));
            if concerned && self.state.links.presence(&place) == Presence::Gone {
                self.drive(&id, RunInput::NodeLost(place), turn);
            }
        }
    }

    /// Gives a reaction of the node to a run of its incident that is not over, so that both are undone together.
    pub(super) fn give(
        &mut self,
        record: &ActionRecord,
        node: &NodeId,
        incident: &IncidentId,
        turn: &mut Turn,
    ) {
        if !is_in_force(record) || record.rollback.is_none() {
            return;
        }
        // Those that are not over are in memory.
        let taker = self
            .state
            .runs
            .keys()
            .filter_map(|run| self.state.rows.get(run))
            .filter(|row| row.is_live() && row.node == *node && row.outcome != GateOutcome::Shadow)
            .map(|row| (row.run.clone(), row.incident.clone()))
            .collect::<Vec<_>>()
            .into_iter()
            .find(|(_, of)| self.root(of) == *incident);
        let Some((run, _)) = taker else { return };
        self.state.undone_by.insert(record.id.clone(), run.clone());
        if let Some(row) = self.state.rows.get_mut(&run) {
            row.undoes.push(record.id.clone());
            turn.batch.put(Table::Runs, run.as_str().as_bytes().to_vec(), row, ReadBack::Yes);
        }
        self.drive(&run, RunInput::Reaction(Box::new(record.clone())), turn);
    }

    /// The node's own reactions that are in force and that no run undoes yet.
    fn free_reactions(&self, incident: &Incident) -> Vec<ActionRecord> {
        let free = |record: &&ActionRecord| {
            record.run.is_none()
                && record.rollback.is_some()
                && is_in_force(record)
                && !self.state.undone_by.contains_key(&record.id)
        };
        incident.actions.iter().filter(free).cloned().collect()
    }

    /// `wanted`, or the first free one after it.
    fn fresh(&self, wanted: &RunId) -> RunId {
        let mut id = wanted.clone();
        let mut n = 1;
        while self.state.rows.contains(&id) {
            n += 1;
            id = RunId::new(format!("{wanted}-{n}"));
        }
        id
    }

    fn tell(&mut self, id: &IncidentId, what: &str, turn: &mut Turn) {
        if let Ok(Some(whole)) = self.state.incidents.get(&self.state.store, id) {
            let said = |entry: &TimelineEntry| entry.what == what;
            if !whole.row.incident.timeline.iter().any(said) {
                tracing::warn!(incident = %id, what, "a person should know");
                whole.tell(turn.now, &controller(), what);
            }
        }
    }
}

/// What came of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// A run was begun that does something.
    Now,
    /// A run deals with its process already.
    Before,
    /// Nothing is done about it.
    Not,
}
