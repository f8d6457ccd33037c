//! An incident as one document, with the plans of its runs.

use model::{RunId, UndoClass};
use narrate::{Document, Known, PlanTold, StepTold, document, shown};
use respond::run::StepPreview;

use super::Core;
use crate::api::ApiError;

/// Characters of one text.
const LONGEST: usize = 600;

impl Core {
    /// The narrative of the incident that a person means.
    pub(super) fn narrative(&mut self, id: &str) -> Result<Document, ApiError> {
        let incident = self.view(id)?.incident;
        let mut plans = Vec::new();
        for run in &incident.runs {
            plans.push(self.plan_told(&run.id)?);
        }
        let unanswered = match self.state.book.len() {
            0 => "No playbook is loaded: nothing is done about it but by people.",
            _ => "No playbook in use answers it; `hemostat playbook list` shows those.",
        };
        let now = (self.config.clock)();
        Ok(document(&incident, &Known { plans: &plans, unanswered, now }))
    }

    fn plan_told(&mut self, id: &RunId) -> Result<PlanTold, ApiError> {
        let run = self.run(id)?;
        let start = run.start();
        Ok(PlanTold {
            run: id.to_string(),
            description: shown(&start.spec.description, LONGEST),
            widest: format!("{:?}", start.spec.blast_radius.widest.min(start.grants.widest)),
            maximum_targets: start.spec.blast_radius.maximum_targets,
            approvers: start.grants.approvers.iter().map(|who| shown(who, LONGEST)).collect(),
            steps: run.preview().into_iter().map(step_told).collect(),
        })
    }
}

fn step_told(step: StepPreview) -> StepTold {
    let undo = match (&step.undo, &step.standing) {
        (UndoClass::Exact, _) => "exactly".to_owned(),
        (UndoClass::Nothing, _) => "changes nothing".to_owned(),
        (UndoClass::Compensable { residual }, None) => format!("all but: {residual}; it waits for a person"),
        (UndoClass::Compensable { residual }, Some(by)) => {
            format!("all but: {residual}; standing approval of {by}")
        }
        (UndoClass::Irreversible { residual }, None) => {
            format!("cannot be: {residual}; it waits for a person")
        }
        (UndoClass::Irreversible { residual }, Some(by)) => {
            format!("cannot be: {residual}; standing approval of {by}")
        }
    };
    StepTold {
        name: step.step.to_string(),
        action: step.action.to_owned(),
        needs: step.needs.iter().map(ToString::to_string).collect(),
        would: shown(&step.would, LONGEST),
        undo: shown(&undo, LONGEST),
        state: String::new(),
    }
}
