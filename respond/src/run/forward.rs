//! Steps: when they begin, whom they ask, how they end.

use model::{
    ActionId, Actor, ApprovalRequest, AuditKind, GateOutcome, OnDrift, StepName, Timestamp, short_hash,
};
use serde_json::{Map, Value, json};

use super::{
    Answer, Change, Effect, Reactions, Refusal, RollbackScope, Run, StepEnd, Work,
    state::{Consent, Phase, StepState, Watch},
    system, whole_run,
};
use crate::{
    action::describe,
    expression::Variables,
    target::{self, Unfit},
};
use crds::{Approval, OnFailure, Sign, VerifyPolicy};
use model::ActionState;

impl Run {
    /// Begins every step whose time has come.
    pub(super) fn begin_steps(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let asks = self.start.decision.outcome == GateOutcome::Approval || self.held.is_some();
        if asks && !self.steps.is_empty() {
            match self.whole {
                Consent::None => return self.ask_whole(now, out),
                Consent::Asked(_) => return,
                Consent::Given => {}
                Consent::Refused => return,
            }
        }
        if self.too_late(now) {
            return self.end_unbegun(
                StepEnd::Skipped,
                "the playbook's maximum duration has passed",
                now,
                out,
            );
        }
        for index in 0..self.steps.len() {
            if self.phase == Phase::Forward && self.steps[index].state == StepState::Waiting {
                self.begin_step(index, now, out);
            }
        }
    }

    /// Ends every step that has not begun, once nothing new begins.
    pub(super) fn drop_steps(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Stopped | Phase::RollingBack) {
            self.end_unbegun(StepEnd::Skipped, "the run stopped before it", now, out);
        }
    }

    fn end_unbegun(&mut self, end: StepEnd, because: &str, now: Timestamp, out: &mut Vec<Effect>) {
        for index in 0..self.steps.len() {
            if matches!(self.steps[index].state, StepState::Waiting | StepState::Asking) {
                self.end_step(index, end, because, now, out);
            }
        }
    }

    fn too_late(&self, now: Timestamp) -> bool {
        now >= self.last_begin()
    }

    pub(super) fn last_begin(&self) -> Timestamp {
        self.began.plus(self.plan.spec.maximum_duration.0)
    }

    fn begin_step(&mut self, index: usize, now: Timestamp, out: &mut Vec<Effect>) {
        let mut missing = None;
        for &need in &self.plan.steps[index].needs {
            match self.steps[need].state {
                StepState::Ended(StepEnd::Done | StepEnd::Skipped) => {}
                StepState::Ended(_) => missing = Some(need),
                _ => return,
            }
        }
        if let Some(need) = missing {
            let because =
                format!("it needs {}, which did not come to a good end", self.plan.steps[need].name);
            return self.end_step(index, StepEnd::Unreached, &because, now, out);
        }
        let agreed = match self.steps[index].consent {
            Consent::Refused => {
                let because = self.steps[index].because.clone();
                return self.end_step(index, StepEnd::Denied, &because, now, out);
            }
            Consent::Given => self.steps[index].agreed.clone(),
            Consent::None | Consent::Asked(_) => None,
        };
        if let Some(work) = agreed {
            return self.plan_action(index, work, now, out);
        }
        let variables = self.variables(index);
        let first = self.steps[index].alternative == 0;
        if let Some(when) = self.plan.steps[index].when.as_ref().filter(|_| first) {
            match when.holds(&variables) {
                Ok(true) => {}
                Ok(false) => {
                    let because = format!("when {} is false", when.text());
                    return self.end_step(index, StepEnd::Skipped, &because, now, out);
                }
                Err(error) => return self.fail_step(index, &error.to_string(), now, out),
            }
        }
        match self.resolve(index, &variables) {
            Ok(work) if self.asks(index) => self.ask_step(index, work, now, out),
            Ok(work) => self.plan_action(index, work, now, out),
            Err(unfit) => {
                out.push(Effect::Notify(format!("step {}: {unfit}", self.plan.steps[index].name)));
                self.another_way_or_fail(index, &unfit.to_string(), now, out);
            }
        }
    }

    /// What the step's expressions are evaluated over; nothing if it has none.
    fn variables(&self, index: usize) -> Variables {
        let step = &self.plan.steps[index];
        if step.when.is_none() && step.ways.iter().all(|way| way.expressions().next().is_none()) {
            return Variables::none();
        }
        Variables::with_steps(&self.start.facts, &self.step_facts())
    }

    fn resolve(&self, index: usize, variables: &Variables) -> Result<Work, Unfit> {
        let step = &self.plan.steps[index];
        let alternative = self.steps[index].alternative as usize;
        let way = step.ways.get(alternative).ok_or_else(|| Unfit::Unresolved {
            kind: "action",
            because: "the step has no such alternative".into(),
        })?;
        let limits = &self.plan.spec.blast_radius;
        let work = target::resolve(way, &self.start.facts, variables, limits, &self.start.grants)?;
        let mut touched: Vec<_> =
            self.actions.iter().filter(|a| a.step.is_some()).map(super::state::ActionRun::target).collect();
        touched.push(&work.target);
        touched.sort_by_key(|target| target.to_string());
        touched.dedup();
        let most = limits.maximum_targets as usize;
        if touched.len() > most {
            let because = format!("it would be target {} of at most {most}", touched.len());
            return Err(Unfit::TooWide { what: describe(&work.action, &work.target), because });
        }
        Ok(work)
    }

    /// Whether a person is asked before the step's present way.
    fn asks(&self, index: usize) -> bool {
        let step = &self.plan.steps[index];
        let Some(way) = step.ways.get(self.steps[index].alternative as usize) else { return true };
        let standing = self.start.grants.standing.contains_key(way.kind.name());
        step.approval == Approval::Required || (way.irreversible() && !standing)
    }

    fn ask_whole(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let would: Vec<String> = (0..self.steps.len())
            .map(|index| match self.resolve(index, &self.variables(index)) {
                Ok(work) => describe(&work.action, &work.target),
                Err(_) => self.plan.steps[index].ways.first().map_or("", |way| way.kind.name()).into(),
            })
            .collect();
        let request = ApprovalRequest {
            step: whole_run(),
            would: would.join("; "),
            because: self.held.clone().unwrap_or_else(|| self.start.decision.reasons.join("; ")),
            expires: self.approval_expires(now),
        };
        self.ask(request, 0, None, now, out);
    }

    /// What has not begun waits for a person; what has begun comes to its end.
    pub(super) fn hold(&mut self, because: String, now: Timestamp, out: &mut Vec<Effect>) {
        let waits = self.steps.iter().any(|step| step.state == StepState::Waiting);
        let acts = self.start.decision.outcome == GateOutcome::Automatic && self.held.is_none();
        if waits && acts && self.phase == Phase::Forward {
            self.record(Change::Held { because: because.clone() }, now, out);
            out.push(self.audit(AuditKind::Decision, system(), None, format!("held: {because}")));
        }
    }

    fn ask_step(&mut self, index: usize, work: Work, now: Timestamp, out: &mut Vec<Effect>) {
        let because = match work.action.undo() {
            model::UndoClass::Irreversible { residual } => format!("it cannot be undone: {residual}"),
            model::UndoClass::Compensable { residual } => {
                format!("it cannot be undone to the last: {residual}")
            }
            _ => "the playbook wants a person's word".into(),
        };
        let request = ApprovalRequest {
            step: self.plan.steps[index].name.clone(),
            would: describe(&work.action, &work.target),
            because,
            expires: self.approval_expires(now),
        };
        let alternative = self.steps[index].alternative;
        self.ask(request, alternative, Some(work), now, out);
    }

    fn ask(
        &mut self,
        request: ApprovalRequest,
        alternative: u32,
        work: Option<Work>,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        self.record(Change::Asked { request: request.clone(), alternative, work }, now, out);
        let what = format!("asked for {}: {}; {}", request.step, request.would, request.because);
        out.push(self.audit(AuditKind::Decision, system(), None, what));
        out.push(Effect::AskApproval(request));
    }

    fn approval_expires(&self, now: Timestamp) -> Timestamp {
        let wait = std::time::Duration::from_millis(self.start.grants.approval_timeout_ms);
        now.plus(wait).min(self.last_begin().max(now))
    }

    fn plan_action(&mut self, index: usize, work: Work, now: Timestamp, out: &mut Vec<Effect>) {
        let step = self.plan.steps[index].name.clone();
        let alternative = self.steps[index].alternative;
        let hash = short_hash([self.start.run.as_str(), step.as_str(), &alternative.to_string()], 4);
        let action = ActionId::new(format!("act-{hash}-{step}"));
        self.record(Change::Planned { action, step, alternative, work }, now, out);
    }

    pub(super) fn end_step(
        &mut self,
        index: usize,
        end: StepEnd,
        because: &str,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let step = self.plan.steps[index].name.clone();
        self.record(Change::StepEnded { step, end, because: because.into() }, now, out);
    }

    /// Ends the steps whose action has come to its end.
    pub(super) fn settle_steps(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        for index in 0..self.steps.len() {
            let StepState::Working(action) = self.steps[index].state else { continue };
            let action = &self.actions[action];
            let (state, detail) = (action.state, action.detail.clone());
            let policy = self.plan.steps[index].verify.policy;
            let idle = action.pending == super::state::Pending::Nothing;
            match state {
                ActionState::Verified if !idle => {}
                ActionState::Verified => match action.watch.clone() {
                    Watch::Seen(sign, what) => self.answer_sign(index, sign, &what, now, out),
                    Watch::NotYet | Watch::On | Watch::Quiet => {
                        self.end_step(index, StepEnd::Done, "", now, out);
                    }
                },
                ActionState::Vacuous => self.end_step(index, StepEnd::Done, &detail, now, out),
                ActionState::Applied if idle && policy == VerifyPolicy::Skip => {
                    self.end_step(index, StepEnd::Done, "nobody looked", now, out);
                }
                ActionState::Unverified
                    if policy == VerifyPolicy::Observe && !self.has_another_way(index) =>
                {
                    let because = format!("its effect was not seen: {detail}");
                    self.end_step(index, StepEnd::Done, &because, now, out);
                }
                ActionState::Unverified => {
                    let because = format!("its effect was not seen: {detail}");
                    self.another_way_or_fail(index, &because, now, out);
                }
                ActionState::Failed if action.order.is_none() && self.phase != Phase::Forward => {
                    self.end_step(index, StepEnd::Skipped, &detail, now, out);
                }
                ActionState::Failed => self.another_way_or_fail(index, &detail, now, out),
                ActionState::Reverting | ActionState::Reverted if action.cleanup.is_none() => {
                    self.end_step(index, StepEnd::Undone, "it was rolled back", now, out);
                }
                ActionState::RevertBlocked => {
                    let because = format!("it could not be undone: {detail}");
                    self.another_way_or_fail(index, &because, now, out);
                }
                _ => {}
            }
        }
    }

    /// The effect was seen, and the attack goes on: the next alternative comes in addition.
    fn answer_sign(&mut self, index: usize, sign: Sign, what: &str, now: Timestamp, out: &mut Vec<Effect>) {
        let because = format!("its effect was seen, and the attack goes on ({sign}): {what}");
        let observes = self.plan.steps[index].verify.policy == VerifyPolicy::Observe;
        match observes && !self.has_another_way(index) {
            true => self.end_step(index, StepEnd::Done, &because, now, out),
            false => self.another_way_or_fail(index, &because, now, out),
        }
    }

    fn has_another_way(&self, index: usize) -> bool {
        self.phase == Phase::Forward
            && (self.steps[index].alternative as usize) + 1 < self.plan.steps[index].ways.len()
    }

    fn another_way_or_fail(&mut self, index: usize, because: &str, now: Timestamp, out: &mut Vec<Effect>) {
        if !self.has_another_way(index) {
            return self.fail_step(index, because, now, out);
        }
        let step = self.plan.steps[index].name.clone();
        let alternative = self.steps[index].alternative + 1;
        let what = format!("step {step}: {because}; alternative {alternative} is tried");
        self.record(Change::NextAlternative { step, alternative, because: because.into() }, now, out);
        out.push(self.audit(AuditKind::Decision, system(), None, what));
    }

    fn fail_step(&mut self, index: usize, because: &str, now: Timestamp, out: &mut Vec<Effect>) {
        self.end_step(index, StepEnd::Failed, because, now, out);
        let because = format!("step {} failed: {because}", self.plan.steps[index].name);
        out.push(self.audit(AuditKind::Outcome, system(), None, because.clone()));
        out.push(Effect::Notify(because));
    }

    /// `onFailure` of the steps that failed. Follows from the state alone, so a crash after a step's end loses nothing.
    pub(super) fn answer_failures(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let failed = |wanted: OnFailure| {
            (0..self.steps.len()).find(|&index| {
                self.steps[index].state == StepState::Ended(StepEnd::Failed)
                    && self.plan.steps[index].on_failure == wanted
            })
        };
        let because = |index: usize| {
            format!("step {} failed: {}", self.plan.steps[index].name, self.steps[index].because)
        };
        let (back, stop) = (failed(OnFailure::Rollback), failed(OnFailure::Stop));
        match (self.phase, back, stop) {
            (Phase::Forward | Phase::Stopped, Some(index), _) => {
                let (scope, because) = (RollbackScope::Run, because(index));
                let reactions = Reactions::Stay;
                let on_drift = OnDrift::Ask;
                let change = Change::RollbackBegan { scope, by: system(), because, reactions, on_drift };
                self.record(change, now, out);
            }
            (Phase::Forward, None, Some(index)) => {
                let because = because(index);
                self.record(Change::Stopped { because }, now, out);
            }
            _ => {}
        }
    }

    pub(super) fn approve(
        &mut self,
        step: StepName,
        by: Actor,
        groups: &[String],
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        if self.may_decide(&step, &by, groups).is_ok() {
            let because = self.as_whom(&by, groups);
            self.decide(step, Answer::Approved, by, because, now, out);
        }
    }

    pub(super) fn deny(
        &mut self,
        step: StepName,
        (by, groups): (Actor, &[String]),
        because: String,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        if self.may_decide(&step, &by, groups).is_ok() {
            self.decide(step, Answer::Denied, by, because, now, out);
        }
    }

    pub(super) fn decide(
        &mut self,
        step: StepName,
        answer: Answer,
        by: Actor,
        because: String,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let because = match answer {
            Answer::Approved => because,
            Answer::Denied => format!("{by} said no: {because}"),
            Answer::Expired => "nobody answered in time".into(),
        };
        let what = format!("{step}: {answer:?} {because}");
        self.record(Change::Decided { step, answer, by: by.clone(), because }, now, out);
        let kind = if answer == Answer::Expired { AuditKind::Decision } else { AuditKind::Human };
        out.push(self.audit(kind, by, None, what));
    }

    /// Whether `by`, who certainly belongs to `groups`, may answer for `step` now.
    ///
    /// # Errors
    /// Why not, for the person.
    pub fn may_decide(&self, step: &StepName, by: &Actor, groups: &[String]) -> Result<(), Refusal> {
        if !self.waiting().iter().any(|request| request.step == *step) {
            return Err(Refusal::NotWaiting(step.clone()));
        }
        let refuse = |because: &str| Refusal::NotAllowed { who: by.clone(), because: because.into() };
        if !by.as_str().starts_with("user:") {
            return Err(refuse("only people approve"));
        }
        let approvers = &self.start.grants.approvers;
        let named = approvers.iter().any(|who| who == by.as_str());
        if !approvers.is_empty() && !named && self.group_of(groups).is_none() {
            return Err(refuse(&format!("the policy names {}", approvers.join(", "))));
        }
        Ok(())
    }

    /// The approving group among `groups`.
    fn group_of<'a>(&self, groups: &'a [String]) -> Option<&'a str> {
        let approvers = &self.start.grants.approvers;
        let names =
            |group: &&String| approvers.iter().any(|who| who.strip_prefix("group:") == Some(group.as_str()));
        groups.iter().find(names).map(String::as_str)
    }

    /// For the record: the group that gives them the word, where their own name does not.
    fn as_whom(&self, by: &Actor, groups: &[String]) -> String {
        let named = self.start.grants.approvers.iter().any(|who| who == by.as_str());
        match self.group_of(groups).filter(|_| !named) {
            Some(group) => format!("as one of group:{group}"),
            None => String::new(),
        }
    }

    /// `steps` as expressions see it.
    pub(super) fn step_facts(&self) -> Value {
        let mut all = Map::new();
        for (index, step) in self.plan.steps.iter().enumerate() {
            let mine = self.actions.iter().rev().find(|action| action.step == Some(index));
            let run = &self.steps[index];
            let state = match (mine, run.state) {
                (_, StepState::Ended(StepEnd::Skipped)) => "Skipped".into(),
                (_, StepState::Ended(StepEnd::Denied)) => "Denied".into(),
                (_, StepState::Ended(StepEnd::Unreached)) => "Unreached".into(),
                (Some(action), _) => format!("{:?}", action.state),
                (None, StepState::Ended(StepEnd::Failed)) => "Failed".into(),
                (None, _) => "Waiting".into(),
            };
            let succeeded = run.state == StepState::Ended(StepEnd::Done);
            let failed = run.state == StepState::Ended(StepEnd::Failed);
            let outputs = mine.map(|action| json!(action.outputs)).unwrap_or_else(|| json!({}));
            let observed = self.signs_of(index);
            let facts = json!({
                "state": state,
                "succeeded": succeeded,
                "failed": failed,
                "outputs": outputs,
                "observed": observed,
            });
            all.insert(step.name.to_string(), facts);
        }
        Value::Object(all)
    }
}
