//! Drives the runs of playbooks: inputs in, effects out, each journalled before what follows from it.

use model::{
    ActionId, ActionRecord, ActionState, AuditKind, CommandOutcome, Finding, FindingId, GateOutcome,
    IncidentId, NodeAction, NodeId, PlaybookName, ProcessKey, RecordObject, RunId, RunSummary, Target,
    Timestamp,
};
use respond::run::{Effect, Input as RunInput, Run, Transition};
use serde::{Deserialize, Serialize};

use super::{
    Core,
    incidents::{Whole, is_in_force},
    ingest::{agent, controller},
    turn::Turn,
};
use crate::{
    api::{ApiError, ApiErrorKind},
    audit::Draft,
    start::StartError,
    store::{ReadBack, Store, StoreError, Table, journal_key},
};

/// Runs kept in memory before those that are over are let go.
const MAX_LOADED: usize = 256;

/// A run in the table of runs; the journal has its story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRow {
    pub(super) run: RunId,
    pub(super) incident: IncidentId,
    pub(super) node: NodeId,
    pub(super) life: Life,
    /// The node's own reactions that this run undoes.
    pub(super) undoes: Vec<ActionId>,
    pub(super) began: Timestamp,
    /// By how much the wall clock had been set in all when it began, in nanoseconds: so long as it was not set again, none of that matters.
    #[serde(default)]
    pub(super) set: i64,
    /// What the gate said, and how many actions came of it: for budgets.
    pub(super) outcome: GateOutcome,
    pub(super) actions: u32,
    /// What it answers; nothing where it only holds what the node did by itself.
    #[serde(default)]
    pub(super) answers: Option<Answers>,
    /// Whether something of it is in force.
    #[serde(default)]
    pub(super) grip: Grip,
    /// What its playbook wanted.
    #[serde(default)]
    pub(super) want: Option<respond::gate::Want>,
    /// What judgements of it say something of.
    #[serde(default)]
    pub(super) judged_as: respond::gate::JudgedAs,
}

/// What a run answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    pub(super) playbook: PlaybookName,
    pub(super) finding: FindingId,
    pub(super) rule: String,
    pub(super) process: ProcessKey,
    /// What it was done to, where another source than the kernel told: one account may do the same to many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<RecordObject>,
}

impl Answers {
    pub(super) fn new(playbook: PlaybookName, finding: &Finding) -> Self {
        Self {
            playbook,
            finding: finding.id.clone(),
            rule: finding.rule.id.clone(),
            process: finding.event.process.key,
            object: object(finding),
        }
    }
}

/// What a finding of another source than the kernel is about.
pub(super) fn object(finding: &Finding) -> Option<RecordObject> {
    finding.event.record().and_then(|record| record.object.clone())
}

/// Whether a run holds a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Grip {
    /// Nothing of it that contains is in force.
    #[default]
    None,
    /// Something on the process or its cgroup is in force, or the process was killed.
    Holds,
}

/// Whether a run is loaded at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Life {
    /// Something may still happen by itself.
    Live,
    /// Only a person can make something happen.
    Over,
}

impl RunRow {
    pub(super) fn is_live(&self) -> bool {
        self.life == Life::Live
    }

    /// When it began, by a clock that nobody sets ([`super::clocks`]).
    pub(super) fn began_steadily(&self) -> Timestamp {
        Timestamp(self.began.0.saturating_sub(self.set))
    }
}

/// The run as its journal tells it.
pub(super) fn replay(store: &Store, run: &RunId) -> Result<Run, StartError> {
    let transitions: Vec<Transition> =
        store.scan(Table::Journal, &prefix(run))?.into_iter().map(|(_, transition)| transition).collect();
    Run::replay(&transitions).map_err(|e| StartError::Run { run: run.to_string(), because: e.to_string() })
}

impl Core {
    /// Goes on with what an earlier life left: the nodes are asked as soon as they say hello (I7).
    pub(super) fn recover(&mut self, turn: &mut Turn) {
        if self.state.audit.head.count == 0 {
            let first = format!("{}{}", crate::audit::FIRST_WORDS, self.state.audit.key.fingerprint());
            self.audit_system(turn, first);
        }
        let (version, playbooks) = (env!("CARGO_PKG_VERSION"), self.state.book.len());
        let runs: Vec<RunId> = self.state.runs.keys().cloned().collect();
        self.audit_system(
            turn,
            format!(
                "the controller starts: version {version}, {playbooks} playbooks, {} runs go on",
                runs.len()
            ),
        );
        for run in runs {
            tracing::info!(%run, "a run goes on");
            self.drive_with(&run, turn, |run, now| run.recover(now));
        }
    }

    pub(super) fn node_back(&mut self, node: &NodeId, turn: &mut Turn) {
        for run in self.runs_on(node) {
            self.drive(&run, RunInput::NodeBack(node.clone()), turn);
        }
    }

    pub(super) fn node_lost(&mut self, node: &NodeId, turn: &mut Turn) {
        for run in self.runs_on(node) {
            self.drive(&run, RunInput::NodeLost(node.clone()), turn);
        }
    }

    pub(super) fn read_back(&mut self, run: &RunId, seq: u64, turn: &mut Turn) {
        let found: Option<Transition> = match self.state.store.get(Table::Journal, &journal_key(run, seq)) {
            Ok(found) => found,
            Err(error) => {
                self.store_failed(&error);
                None
            }
        };
        self.drive(run, RunInput::ReadBack { seq, found: found.map(Box::new) }, turn);
    }

    pub(super) fn tick(&mut self, turn: &mut Turn) {
        self.forgive(turn.now);
        self.correlate(turn);
        self.attribute_again(turn);
        self.enrich_again(turn.now);
        self.watch_flows(turn);
        self.review_promotions(turn);
        self.send_traces();
        let due: Vec<RunId> = self
            .state
            .runs
            .iter()
            .filter(|(_, run)| run.next_deadline().is_some_and(|at| at <= turn.now))
            .map(|(id, _)| id.clone())
            .collect();
        for run in due {
            self.drive(&run, RunInput::Tick, turn);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let runs = self.state.runs.values().filter_map(Run::next_deadline);
        let now = (self.config.clock)();
        let asked = self.next_attribution(now).into_iter().chain(self.next_look(now));
        runs.chain(self.state.correlations.next_due()).chain(asked).min()
    }

    /// A node's answer goes to the run of its action; the node answers only for itself.
    pub(super) fn run_outcome(&mut self, node: &NodeId, outcome: CommandOutcome, turn: &mut Turn) {
        let owner = self
            .state
            .owners
            .get(&outcome.action_id)
            .filter(|run| {
                let run = self.state.runs.get(*run);
                run.is_some_and(|run| run.place(&outcome.action_id).as_ref() == Some(node))
            })
            .cloned();
        match owner {
            Some(run) => {
                self.note_scan(&run, &outcome, turn);
                self.drive(&run, RunInput::Outcome(Box::new(outcome)), turn);
            }
            None => tracing::debug!(%node, key = %outcome.key, "an answer that no run waits for"),
        }
    }

    /// A node speaks of an action that belongs to a run: one that was lifted there, or its own reaction.
    pub(super) fn reported(&mut self, run: &RunId, node: &NodeId, record: ActionRecord, turn: &mut Turn) {
        let lifted = matches!(record.state, ActionState::Reverted | ActionState::Vacuous);
        match self.run(run) {
            Ok(known) if known.node() == node && lifted => {
                let by_person = record.state == ActionState::Reverted
                    && known
                        .records()
                        .iter()
                        .any(|r| r.id == record.id && is_in_force(r) && r.state != ActionState::Reverting);
                if by_person {
                    self.lifted(run, &record);
                }
                let input = RunInput::Released { action: record.id.clone(), by: agent(node) };
                self.drive(run, input, turn);
            }
            Ok(known) if known.node() == node => {}
            Ok(_) => tracing::warn!(%node, %run, "a node speaks of another node's run"),
            Err(error) => tracing::warn!(%node, %run, %error, "a node speaks of an unknown run"),
        }
    }

    /// One input to one run, and everything that follows.
    pub(super) fn drive(&mut self, id: &RunId, input: RunInput, turn: &mut Turn) {
        self.drive_with(id, turn, |run, now| run.step(now, input));
    }

    fn drive_with(
        &mut self,
        id: &RunId,
        turn: &mut Turn,
        step: impl FnOnce(&mut Run, Timestamp) -> Vec<Effect>,
    ) {
        let span = tracing::info_span!("run", %id);
        let _entered = span.enter();
        if let Err(error) = self.load_run(id) {
            tracing::error!(%error, "a run cannot be gone on with");
            return;
        }
        let Some(run) = self.state.runs.get_mut(id) else { return };
        let effects = step(run, turn.now);
        self.carry_out(id, effects, turn);
    }

    pub(super) fn carry_out(&mut self, id: &RunId, effects: Vec<Effect>, turn: &mut Turn) {
        let Some(incident) = self.state.runs.get(id).map(|run| run.incident().clone()) else { return };
        let incident = self.root(&incident);
        let mut lines = Vec::new();
        for effect in effects {
            match effect {
                Effect::Journal(transition) => {
                    turn.transition(format!("{id}/{}/{}", transition.seq, name_of(&transition)));
                    self.step_beside(id, &transition.change, turn);
                    turn.batch.put(
                        Table::Journal,
                        journal_key(id, transition.seq),
                        &transition,
                        ReadBack::Yes,
                    );
                }
                Effect::ReadBack { seq } => turn.read_backs.push((id.clone(), seq)),
                Effect::Send(command) => turn.send(command),
                Effect::AskApproval(request) => {
                    lines.push((
                        controller(),
                        format!("{} waits for a person: {}", request.step, request.because),
                    ));
                }
                // What a person wanted is in the log already, with the reason given ([`super::people`]).
                Effect::Audit(fact) if fact.kind == AuditKind::Human && is_person(&fact.actor) => {}
                Effect::Audit(fact) => {
                    turn.audit(Draft {
                        at: turn.now,
                        actor: fact.actor.clone(),
                        kind: fact.kind,
                        incident: Some(incident.clone()),
                        run: Some(id.clone()),
                        action: fact.action,
                        what: fact.what.clone(),
                    });
                    lines.push((fact.actor, fact.what));
                }
                Effect::Notify(what) => {
                    tracing::warn!(%incident, what, "a person should know");
                    lines.push((controller(), what));
                }
            }
        }
        self.mirror(id, &incident, lines, turn);
    }

    /// Brings the incident to what the run says now.
    fn mirror(
        &mut self,
        id: &RunId,
        incident: &IncidentId,
        lines: Vec<(model::Actor, String)>,
        turn: &mut Turn,
    ) {
        let Some(run) = self.state.runs.get(id) else { return };
        let (summary, actions): (RunSummary, Vec<ActionRecord>) = (run.summary(), run.records());
        match run.is_watching() {
            true => self.state.watching.insert(id.clone()),
            false => self.state.watching.remove(id),
        };
        let life = if run.is_over() { Life::Over } else { Life::Live };
        self.state.promotions.change(id, |beside| beside.ended(summary.state), &mut turn.batch);
        let done = u32::try_from(actions.iter().filter(|a| a.step.is_some()).count()).unwrap_or(u32::MAX);
        let grip = if actions.iter().any(holds) { Grip::Holds } else { Grip::None };
        if let Some(row) = self.state.rows.get_mut(id)
            && (row.life, row.actions, row.grip) != (life, done, grip)
        {
            (row.life, row.actions, row.grip) = (life, done, grip);
            turn.batch.put(Table::Runs, id.as_str().as_bytes().to_vec(), row, ReadBack::Yes);
        }
        for record in &actions {
            if !self.state.owners.contains_key(&record.id) {
                self.state.owners.insert(record.id.clone(), id.clone());
            }
            if let Some(adopted) = self.state.adopted.get_mut(&record.id)
                && adopted.record.state != record.state
            {
                adopted.record.clone_from(record);
                turn.batch.put(Table::Adopted, record.id.as_str().as_bytes().to_vec(), adopted, ReadBack::No);
            }
        }
        let edited = self.edit(
            incident,
            |whole, now| {
                for (actor, what) in lines {
                    whole.tell(now, &actor, what);
                }
                for record in &actions {
                    whole.record(record, now);
                }
                put_summary(whole, summary, now);
            },
            turn,
        );
        if let Err(error) = edited {
            tracing::error!(%incident, %error, "an incident cannot be brought up to date");
        }
    }

    /// Changes an incident, and what follows for its state.
    pub(super) fn edit(
        &mut self,
        id: &IncidentId,
        change: impl FnOnce(&mut Whole, Timestamp),
        turn: &mut Turn,
    ) -> Result<(), ApiError> {
        let found = self.state.incidents.get(&self.state.store, id);
        match found {
            Ok(Some(whole)) => change(whole, turn.now),
            Ok(None) => {
                return Err(ApiError::new(ApiErrorKind::Unknown, format!("there is no incident {id}")));
            }
            Err(error) => return Err(self.store_failed(&error)),
        }
        self.settle(id, turn).map_err(|error| self.store_failed(&error))
    }

    /// The run, loaded from its journal where it is over.
    pub(super) fn run(&mut self, id: &RunId) -> Result<&Run, ApiError> {
        self.load_run(id)?;
        self.state
            .runs
            .get(id)
            .ok_or_else(|| ApiError::new(ApiErrorKind::Unknown, format!("there is no run {id}")))
    }

    /// Runs of an incident, oldest first.
    pub(super) fn runs_of(&mut self, id: &IncidentId) -> Result<Vec<RunSummary>, ApiError> {
        let found = self.state.incidents.get(&self.state.store, id);
        match found {
            Ok(whole) => Ok(whole.map(|w| w.row.incident.runs.clone()).unwrap_or_default()),
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    pub(super) fn is_live(&self, id: &RunId) -> bool {
        self.state.rows.get(id).is_some_and(RunRow::is_live)
    }

    /// The incident and the run that an action belongs to; a node's own reaction gets a run to be undone by.
    pub(super) fn owner_of(
        &mut self,
        action: &ActionId,
        turn: &mut Turn,
    ) -> Result<Option<(IncidentId, RunId)>, ApiError> {
        if let Some(adopted) = self.state.adopted.get(action) {
            let incident = match adopted.incident.clone() {
                Some(incident) => self.root(&incident),
                None => self.shelter(action, turn)?,
            };
            if !self.state.undone_by.contains_key(action) {
                self.own_reactions(&incident, turn)?;
            }
            return Ok(self.state.undone_by.get(action).map(|run| (incident, run.clone())));
        }
        let ids: Vec<IncidentId> =
            self.state.incidents.visible().filter(|i| i.actions > 0).map(|i| i.id.clone()).collect();
        for id in ids {
            let found = self.state.incidents.get(&self.state.store, &id);
            let whole = match found {
                Ok(whole) => whole,
                Err(error) => return Err(self.store_failed(&error)),
            };
            let record = whole.and_then(|w| w.row.incident.actions.iter().find(|a| a.id == *action));
            if let Some(run) = record.and_then(|record| record.run.clone()) {
                return Ok(Some((id, run)));
            }
        }
        Ok(None)
    }

    /// On which node an action is.
    pub(super) fn node_of(&self, record: &ActionRecord) -> NodeId {
        let by_run = record.run.as_ref().and_then(|run| self.state.rows.get(run)).map(|row| row.node.clone());
        by_run
            .or_else(|| self.state.adopted.get(&record.id).map(|a| a.node.clone()))
            .unwrap_or_else(|| NodeId::new("unknown"))
    }

    pub(super) fn audit_reaction(&self, node: &NodeId, record: &ActionRecord, turn: &mut Turn) {
        turn.audit(Draft {
            at: turn.now,
            actor: agent(node),
            kind: AuditKind::Outcome,
            incident: record.incident.clone(),
            run: None,
            action: Some(record.id.clone()),
            what: format!(
                "{} on {}, by the node itself: {:?}",
                record.action.name(),
                record.target,
                record.state
            ),
        });
    }

    fn runs_on(&self, node: &NodeId) -> Vec<RunId> {
        self.state.runs.iter().filter(|(_, run)| run.concerns(node)).map(|(id, _)| id.clone()).collect()
    }

    /// Where an incident's story goes on.
    pub(super) fn root(&mut self, id: &IncidentId) -> IncidentId {
        let mut id = id.clone();
        // Merges always go to an older incident, so this ends; the bound is for a journal that somebody edited.
        for _ in 0..64 {
            match self.state.incidents.get(&self.state.store, &id) {
                Ok(Some(whole)) => match &whole.row.merged_into {
                    Some(into) => id = into.clone(),
                    None => break,
                },
                _ => break,
            }
        }
        id
    }

    /// Forgets the runs of an incident that is forgotten.
    pub(super) fn forget_runs(&mut self, incident: &IncidentId, turn: &mut Turn) -> Result<(), StoreError> {
        let runs: Vec<RunId> = self.state.rows.of(incident).map(|row| row.run.clone()).collect();
        for run in runs {
            for (key, _) in self.state.store.scan::<serde::de::IgnoredAny>(Table::Journal, &prefix(&run))? {
                turn.batch.remove(Table::Journal, key);
            }
            turn.batch.remove(Table::Runs, run.as_str().as_bytes().to_vec());
            self.state.runs.remove(&run);
            self.state.rows.remove(&run);
        }
        let actions: Vec<ActionId> = self
            .state
            .adopted
            .values()
            .filter(|a| a.incident.as_ref() == Some(incident))
            .map(|a| a.record.id.clone())
            .collect();
        for action in actions {
            self.state.adopted.remove(&action);
            self.state.undone_by.remove(&action);
            turn.batch.remove(Table::Adopted, action.as_str().as_bytes().to_vec());
        }
        Ok(())
    }

    /// Lets go of runs that are over when there are many in memory; their journal has them.
    pub(super) fn unload_runs(&mut self) {
        if self.state.runs.len() > MAX_LOADED {
            let rows = &self.state.rows;
            self.state.runs.retain(|id, _| rows.get(id).is_some_and(RunRow::is_live));
            let runs = &self.state.runs;
            self.state.owners.retain(|_, run| runs.contains_key(run));
        }
    }

    fn load_run(&mut self, id: &RunId) -> Result<(), ApiError> {
        if !self.state.runs.contains_key(id) {
            if !self.state.rows.contains(id) {
                return Err(ApiError::new(ApiErrorKind::Unknown, format!("there is no run {id}")));
            }
            let run = replay(&self.state.store, id)
                .map_err(|error| ApiError::new(ApiErrorKind::Unavailable, error.to_string()))?;
            let owned = run.records().into_iter().map(|record| (record.id, id.clone()));
            self.state.owners.extend(owned);
            self.state.runs.insert(id.clone(), run);
        }
        Ok(())
    }
}

/// Whether an action has hold of a process.
fn holds(record: &ActionRecord) -> bool {
    let killed = matches!(record.action, NodeAction::Kill(_))
        && matches!(record.state, ActionState::Applied | ActionState::Verified);
    let holds = match &record.target {
        Target::Process { .. } | Target::Cgroup { .. } => true,
        Target::Object(object) => object.kind == "Pod",
        Target::File { .. } | Target::Account(_) | Target::Channel { .. } => false,
    };
    killed || (is_in_force(record) && holds)
}

fn put_summary(whole: &mut Whole, summary: RunSummary, now: Timestamp) {
    let runs = &mut whole.row.incident.runs;
    match runs.iter_mut().find(|known| known.id == summary.id) {
        Some(known) if *known == summary => return,
        Some(known) => *known = summary,
        None => runs.push(summary),
    }
    whole.touch(now);
}

fn is_person(actor: &model::Actor) -> bool {
    actor.as_str().starts_with("user:")
}

/// The transition's name as the journal writes it.
fn name_of(transition: &Transition) -> String {
    let change = serde_json::to_value(&transition.change).unwrap_or_default();
    change.get("change").and_then(|name| name.as_str()).unwrap_or("unknown").to_owned()
}

fn prefix(run: &RunId) -> Vec<u8> {
    let mut key = run.as_str().as_bytes().to_vec();
    key.push(0);
    key
}
