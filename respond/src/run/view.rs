//! What others see of a run.

use model::{
    ActionId, ActionRecord, ActionState, ApprovalRequest, IncidentId, NodeId, RunId, RunState, RunSummary,
    StepName, Timestamp,
};

use super::{
    AWAY_LIMIT, Run, RunStart,
    state::{Consent, Phase, StepState},
};
use crate::plan::Plan;

impl Run {
    /// Which run.
    #[must_use]
    pub fn id(&self) -> &RunId {
        &self.start.run
    }

    /// For which incident.
    #[must_use]
    pub fn incident(&self) -> &IncidentId {
        &self.start.incident
    }

    /// On which node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.start.node
    }

    /// Whether it has, or may have, to do with a node: its own, or the API server where it has an action there.
    #[must_use]
    pub fn concerns(&self, node: &NodeId) -> bool {
        if *node != NodeId::cluster() {
            return *node == self.start.node;
        }
        self.plan.steps.iter().any(|step| step.ways.iter().any(|way| way.kind.in_cluster()))
    }

    /// On which node an action of it is done.
    #[must_use]
    pub fn place(&self, action: &ActionId) -> Option<NodeId> {
        self.index(action).map(|index| self.actions[index].place(&self.start.node))
    }

    /// The plan that it follows.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it was decided from.
    #[must_use]
    pub fn start(&self) -> &RunStart {
        &self.start
    }

    /// Position of its last journal entry.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> RunState {
        let reverting = self.actions.iter().any(|a| a.state == ActionState::Reverting && a.cleanup.is_none());
        match self.phase {
            Phase::RollingBack => RunState::RollingBack,
            Phase::Over(RunState::Shadow) => RunState::Shadow,
            Phase::Over(_) if reverting => RunState::RollingBack,
            Phase::Over(RunState::Succeeded | RunState::Failed) if self.all_undone() => RunState::RolledBack,
            Phase::Over(state) => state,
            Phase::Forward | Phase::Stopped => {
                let working = self.steps.iter().any(|step| matches!(step.state, StepState::Working(_)));
                let asking = self.steps.iter().any(|step| step.state == StepState::Asking)
                    || matches!(self.whole, Consent::Asked(_));
                if asking && !working { RunState::Waiting } else { RunState::Running }
            }
        }
    }

    /// Something was undone, and nothing that can be undone is left in force.
    fn all_undone(&self) -> bool {
        let undone = self.actions.iter().any(|a| a.state == ActionState::Reverted);
        undone && !self.actions.iter().any(|a| a.in_force() && a.has_undo())
    }

    /// Whether it has come to its end and waits for no answer. It can still be rolled back.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_)) && self.next_deadline().is_none()
    }

    /// Why it ended, stopped or is rolled back.
    #[must_use]
    pub fn because(&self) -> &str {
        &self.ended_because
    }

    /// When every step that contains was in force.
    #[must_use]
    pub fn contained(&self) -> Option<Timestamp> {
        self.contained
    }

    /// When [`super::Input::Tick`] must come at the latest; `None` when nothing waits for time to pass. A tick too early does no
    /// harm.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let of_actions = self.actions.iter().enumerate().filter_map(|(index, action)| {
            let due = action.pending.due()?;
            match self.away_since(index) {
                Some(since) if self.held(index, since) => Some(since.plus(AWAY_LIMIT).max(due)),
                _ => Some(due),
            }
        });
        if self.phase != Phase::Forward {
            return of_actions.min();
        }
        let open = |state| matches!(state, StepState::Waiting | StepState::Asking);
        let begins = self.steps.iter().any(|step| open(step.state)).then(|| self.last_begin());
        let answers = self.requests().map(|request| request.expires);
        of_actions.chain(begins).chain(answers).min()
    }

    /// What a person is asked now.
    pub(super) fn waiting(&self) -> Vec<ApprovalRequest> {
        self.requests().cloned().collect()
    }

    fn requests(&self) -> impl Iterator<Item = &ApprovalRequest> {
        let steps = self.steps.iter().filter(|step| step.state == StepState::Asking);
        let consents = [&self.whole].into_iter().chain(steps.map(|step| &step.consent));
        consents.filter_map(|consent| match consent {
            Consent::Asked(request) if self.phase == Phase::Forward => Some(request),
            _ => None,
        })
    }

    /// Steps to which a person said yes; [`super::whole_run`] where it was to all.
    #[must_use]
    pub fn approved(&self) -> Vec<StepName> {
        let steps = self.steps.iter().zip(&self.plan.steps);
        let given =
            steps.filter(|(step, _)| step.consent == Consent::Given).map(|(_, plan)| plan.name.clone());
        let whole = (self.whole == Consent::Given).then(super::whole_run);
        whole.into_iter().chain(given).collect()
    }

    /// No step begins after this.
    #[must_use]
    pub fn last_word(&self) -> Timestamp {
        self.last_begin()
    }

    /// As the incident shows it.
    #[must_use]
    pub fn summary(&self) -> RunSummary {
        RunSummary {
            id: self.start.run.clone(),
            playbook: self.start.playbook.clone(),
            decision: self.start.decision.clone(),
            state: self.state(),
            waiting: self.waiting(),
        }
    }

    /// Every action, in the order in which they were planned.
    #[must_use]
    pub fn records(&self) -> Vec<ActionRecord> {
        self.actions
            .iter()
            .map(|action| ActionRecord {
                id: action.id.clone(),
                incident: Some(self.start.incident.clone()),
                run: Some(self.start.run.clone()),
                step: action.step.map(|step| self.plan.steps[step].name.clone()),
                action: action.work.action.clone(),
                target: action.work.target.clone(),
                state: action.state,
                rollback: action.rollback.clone(),
                planned: action.planned,
                applied: action.applied,
                detail: action.detail.clone(),
            })
            .collect()
    }
}
