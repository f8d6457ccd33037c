//! What people want. Every wish is audited with who had it, whether it could be met or not is the answer.

use model::{
    ActionId, ActionRecord, Actor, AuditKind, IncidentId, IncidentState, NodeId, OnDrift, RunId, StepName,
    Verdict,
};
use respond::run::{Input as RunInput, RollbackScope};

use super::{Change, Core, trust::Said, turn::Turn};
use crate::{
    api::{ApiError, ApiErrorKind, Done},
    audit::Draft,
    playbooks::Book,
    store::Rest,
};

/// A reason is shortened to so many characters (I11).
const MAX_REASON: usize = 1000;

/// What a person said to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Yes,
    No,
}

/// What a change answers with.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Changed {
    Done(Done),
    Automatic(crate::api::Automatic),
    Playbooks(crate::api::Playbooks),
}

impl Core {
    pub(super) fn change(&mut self, what: Change, by: &Actor, turn: &mut Turn) -> Result<Changed, ApiError> {
        let span = tracing::info_span!("wish", %by);
        let _entered = span.enter();
        let done = match what {
            Change::Approve { id, run, step, because, groups } => {
                let which = (run.as_ref(), step.as_ref());
                self.decide(&id, which, Word::Yes, (by, &groups), &reason(because), turn)
            }
            Change::Deny { id, run, step, because, groups } => {
                let which = (run.as_ref(), step.as_ref());
                self.decide(&id, which, Word::No, (by, &groups), &reason(because), turn)
            }
            Change::RollbackIncident { id, because } => {
                let id = self.find(&id)?;
                self.roll_back(&id, by, &reason(because), turn)
            }
            Change::RollbackAction { id, because, on_drift } => {
                self.roll_back_action(&ActionId::new(id), by, (&reason(because), on_drift), turn)
            }
            Change::Judge { id, verdict, because } => self.judge(&id, verdict, by, &reason(because), turn),
            Change::Close { id, because } => self.close(&id, by, &reason(because), turn),
            Change::Split { id, findings, because } => self.split(&id, &findings, by, &reason(because), turn),
            Change::Pause { because } => {
                return Ok(Changed::Automatic(self.pause(by, &reason(because), turn)));
            }
            Change::Resume { because } => {
                return Ok(Changed::Automatic(self.resume(by, &reason(because), turn)));
            }
            Change::BeginAnew { name, because } => {
                return self.begin_anew(&name, by, &reason(because), turn).map(Changed::Automatic);
            }
            Change::Reload => return Ok(Changed::Playbooks(self.reload(by, turn))),
            Change::Use(sources) => {
                self.state.sources = sources;
                return Ok(Changed::Playbooks(self.reload(by, turn)));
            }
            Change::Adopt { node, record, shelter } => {
                self.adopt(&node, *record, shelter.map(|shelter| *shelter), turn)
            }
        };
        done.map(Changed::Done)
    }

    fn decide(
        &mut self,
        id: &str,
        (run, step): (Option<&RunId>, Option<&StepName>),
        word: Word,
        (by, groups): (&Actor, &[String]),
        because: &str,
        turn: &mut Turn,
    ) -> Result<Done, ApiError> {
        let id = self.find(id)?;
        let mut waiting: Vec<(RunId, StepName)> = self
            .runs_of(&id)?
            .into_iter()
            .filter(|waits| run.is_none_or(|wanted| *wanted == waits.id))
            .flat_map(|run| run.waiting.into_iter().map(move |request| (run.id.clone(), request.step)))
            .collect();
        let mut others: Vec<String> = waiting.iter().map(|(_, waits)| waits.to_string()).collect();
        waiting.retain(|(_, waits)| step.is_none_or(|wanted| wanted == waits));
        if waiting.is_empty() {
            let what = step.map_or("nothing".to_owned(), |step| format!("no step {:?}", step.as_str()));
            others.dedup();
            let more = match (step, others.is_empty()) {
                (Some(_), true) => "; none of its steps does".to_owned(),
                (Some(_), false) => format!("; those that do: {}", others.join(", ")),
                (None, _) => String::new(),
            };
            return Err(conflict(format!("{what} of {id} waits for an approval{more}")));
        }
        // All or none: who may not decide one of them is told so before anything happens.
        for (run, step) in &waiting {
            self.run(run)?.may_decide(step, by, groups).map_err(|refusal| forbidden(&refusal))?;
        }
        let mut what = Vec::new();
        for (run, step) in waiting {
            let (input, said) = match word {
                Word::Yes => {
                    let groups = groups.to_vec();
                    (RunInput::Approve { step: step.clone(), by: by.clone(), groups }, "approved")
                }
                Word::No => {
                    self.undid_run(&id, &run).map_err(|error| self.store_failed(&error))?;
                    let because = because.to_owned();
                    let groups = groups.to_vec();
                    (RunInput::Deny { step: step.clone(), by: by.clone(), groups, because }, "denied")
                }
            };
            self.human(&id, Some(&run), None, by, format!("{said} {step} of {run}{}", tail(because)), turn);
            let word = if word == Word::Yes { Said::Agreed } else { Said::Refused };
            self.learn_answer(&id, &run, &step, word, turn);
            self.drive(&run, input, turn);
            what.push(format!("{step} of {run} is {said}"));
        }
        Ok(Done { incident: id, what })
    }

    fn roll_back(
        &mut self,
        id: &IncidentId,
        by: &Actor,
        because: &str,
        turn: &mut Turn,
    ) -> Result<Done, ApiError> {
        self.own_reactions(id, turn)?;
        // Newest first: what came later may stand on what came before.
        let mut runs = self.runs_of(id)?;
        runs.reverse();
        let mut what = Vec::new();
        let mut refusals = Vec::new();
        for run in runs {
            match self.run(&run.id)?.may_roll_back(&RollbackScope::Run) {
                Ok(()) => {
                    let scope = RollbackScope::Run;
                    let (why, on_drift) = (because.into(), OnDrift::Ask);
                    let input = RunInput::Rollback { scope, by: by.clone(), because: why, on_drift };
                    self.human(
                        id,
                        Some(&run.id),
                        None,
                        by,
                        format!("rolls back {}{}", run.id, tail(because)),
                        turn,
                    );
                    self.drive(&run.id, input, turn);
                    what.push(format!("{} is being rolled back", run.id));
                }
                Err(refusal) => refusals.push(format!("{}: {refusal}", run.id)),
            }
        }
        if what.is_empty() {
            let why = if refusals.is_empty() { "nothing was done".to_owned() } else { refusals.join("; ") };
            return Err(conflict(format!("there is nothing to roll back in {id}: {why}")));
        }
        self.undid_all(id).map_err(|error| self.store_failed(&error))?;
        self.calm(id, turn);
        self.settle(id, turn).map_err(|error| self.store_failed(&error))?;
        Ok(Done { incident: id.clone(), what })
    }

    fn roll_back_action(
        &mut self,
        action: &ActionId,
        by: &Actor,
        (because, on_drift): (&str, OnDrift),
        turn: &mut Turn,
    ) -> Result<Done, ApiError> {
        let Some((incident, run)) = self.owner_of(action, turn)? else {
            let Some(adopted) = self.state.adopted.get(action) else {
                let message = format!("there is no action {action}; `hemostat status` lists those in force");
                return Err(ApiError::new(ApiErrorKind::Unknown, message));
            };
            // Only what is in force and was reported with what undoes it gets a run to be undone by.
            let record = &adopted.record;
            return Err(conflict(match record.rollback {
                Some(_) => format!("nothing to undo: {action} is {:?}", record.state),
                None => format!("{action} was reported without what is needed to undo it"),
            }));
        };
        let scope = RollbackScope::Action(action.clone());
        self.run(&run)?.may_roll_back(&scope).map_err(|refusal| conflict(refusal.to_string()))?;
        let over = if on_drift == OnDrift::Overwrite { ", whatever others changed since" } else { "" };
        self.human(
            &incident,
            Some(&run),
            Some(action),
            by,
            format!("rolls back {action}{over}{}", tail(because)),
            turn,
        );
        let record = self.record_of(&run, action);
        self.undid_action(&incident, &run, record.as_ref()).map_err(|error| self.store_failed(&error))?;
        let (by, because) = (by.clone(), because.into());
        self.drive(&run, RunInput::Rollback { scope, by, because, on_drift }, turn);
        Ok(Done { incident, what: vec![format!("{action} is being rolled back")] })
    }

    /// Takes in an action that somebody else's journal tells of, into its incident; what is known already stays as it is.
    fn adopt(
        &mut self,
        node: &NodeId,
        record: ActionRecord,
        shelter: Option<super::Shelter>,
        turn: &mut Turn,
    ) -> Result<Done, ApiError> {
        let id = record.id.clone();
        let known = self.owner_of(&id, turn)?.map(|(incident, _)| incident);
        if known.is_none() {
            let incident = shelter.map(|shelter| self.shelter_again(shelter, turn));
            // Without its run, of which nothing is known: like what a node did by itself.
            let record = ActionRecord { run: None, step: None, incident: None, ..record };
            let taken = self.reaction(node, record, incident.as_ref(), turn);
            taken.map_err(|error| self.store_failed(&error))?;
        }
        let Some((incident, _)) = self.owner_of(&id, turn)? else {
            return Err(conflict(format!("{id} cannot be taken in: nothing of it is in force")));
        };
        Ok(Done { incident, what: vec![format!("{id} is taken in")] })
    }

    fn judge(
        &mut self,
        id: &str,
        verdict: Verdict,
        by: &Actor,
        because: &str,
        turn: &mut Turn,
    ) -> Result<Done, ApiError> {
        let id = self.find(id)?;
        let word = match verdict {
            Verdict::TruePositive => "a true positive",
            Verdict::FalsePositive => "a false positive",
        };
        self.human(&id, None, None, by, format!("judges it {word}{}", tail(because)), turn);
        self.edit(
            &id,
            |whole, now| {
                whole.row.incident.verdict = Some(verdict);
                whole.row.rest = Rest::Undisturbed;
                whole.touch(now);
            },
            turn,
        )?;
        self.learn_verdict(&id, verdict, turn).map_err(|error| self.store_failed(&error))?;
        self.close_group(&id, turn);
        let mut what = vec![format!("judged {word}")];
        if verdict == Verdict::FalsePositive {
            self.undid_all(&id).map_err(|error| self.store_failed(&error))?;
            match self.roll_back(&id, by, "false positive", turn) {
                Ok(done) => what.extend(done.what),
                Err(error) if error.kind == ApiErrorKind::Conflict => what.push(error.message),
                Err(error) => return Err(error),
            }
        }
        Ok(Done { incident: id, what })
    }

    fn close(&mut self, id: &str, by: &Actor, because: &str, turn: &mut Turn) -> Result<Done, ApiError> {
        let id = self.find(id)?;
        let known = self.state.incidents.get(&self.state.store, &id);
        let known = known.map(|whole| whole.map(|whole| whole.row.incident.state));
        if known.map_err(|error| self.store_failed(&error))? == Some(IncidentState::Closed) {
            return Ok(Done { incident: id, what: vec!["closed already; nothing was changed".into()] });
        }
        let live = self.runs_of(&id)?.into_iter().find(|run| self.state.runs.contains_key(&run.id));
        if let Some(run) = live.filter(|run| self.is_live(&run.id)) {
            return Err(conflict(format!("{} still runs: approve, deny or roll it back first", run.id)));
        }
        self.human(&id, None, None, by, format!("closes it{}", tail(because)), turn);
        self.edit(
            &id,
            |whole, now| {
                whole.row.incident.state = IncidentState::Closed;
                whole.touch(now);
            },
            turn,
        )?;
        self.close_group(&id, turn);
        Ok(Done { incident: id, what: vec!["closed; what is in force stays in force".into()] })
    }

    fn reload(&mut self, by: &Actor, turn: &mut Turn) -> crate::api::Playbooks {
        let book = Book::reload(&self.config.playbooks, &self.state.sources, &self.state.book);
        book.report(&self.health);
        self.state.book = book;
        self.modes_of_git(turn);
        let correlations = self.reload_rules(turn);
        self.state.corpus.run(&self.config.rules);
        let shown = self.state.book.show();
        turn.audit(Draft {
            at: turn.now,
            actor: by.clone(),
            kind: AuditKind::System,
            incident: None,
            run: None,
            action: None,
            what: format!(
                "playbooks read again: {} in use, {} broken; {correlations} correlations in use",
                shown.loaded.len(),
                shown.broken.len()
            ),
        });
        shown
    }

    /// A person's deed: into the audit log and the incident's history.
    pub(super) fn human(
        &mut self,
        incident: &IncidentId,
        run: Option<&RunId>,
        action: Option<&ActionId>,
        by: &Actor,
        what: String,
        turn: &mut Turn,
    ) {
        turn.audit(Draft {
            at: turn.now,
            actor: by.clone(),
            kind: AuditKind::Human,
            incident: Some(incident.clone()),
            run: run.cloned(),
            action: action.cloned(),
            what: what.clone(),
        });
        self.deed_beside(incident, run, by, &what, turn);
        // An incident that cannot be read is told where its runs are driven.
        drop(self.edit(incident, |whole, now| whole.tell(now, by, what), turn));
    }
}

fn reason(mut because: String) -> String {
    if let Some((at, _)) = because.char_indices().nth(MAX_REASON) {
        because.truncate(at);
    }
    because.retain(|c| !c.is_control());
    because
}

fn tail(because: &str) -> String {
    if because.is_empty() { String::new() } else { format!(": {because}") }
}

fn conflict(message: String) -> ApiError {
    ApiError::new(ApiErrorKind::Conflict, message)
}

fn forbidden(refusal: &respond::run::Refusal) -> ApiError {
    let kind = match refusal {
        respond::run::Refusal::NotAllowed { .. } => ApiErrorKind::Forbidden,
        _ => ApiErrorKind::Conflict,
    };
    ApiError::new(kind, refusal.to_string())
}
