//! What people wrote into the resources: answers to questions, verdicts, ends. Each goes to the core as a wish of the user whose name the
//! admission policy has bound to it, and what became of it is said in the object.

use crds::{
    Holds,
    approval::{Answer, Approval, State as Asked},
    incident::{Incident as ShownIncident, VerdictName},
    response_action::{Ending, ResponseAction},
};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::{Api, ResourceExt as _, api::DynamicObject};
use model::{ActionState, Actor, IncidentState, OnDrift, RunId, StepName, Verdict};
use respond::run::whole_run;

use super::{
    mirror::Mirror,
    reach::Failure,
    show::{approval_summary, condition, is_settled, moment, object_name},
};
use crate::{
    api::{ApiError, ApiErrorKind, Story},
    core::Change,
};

/// Whether a wish was heard, so that the story is another one now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    Something,
}

/// Somebody wants an action undone.
#[derive(Debug)]
pub(crate) struct WantedBack {
    pub(crate) by: String,
    pub(crate) because: String,
    pub(crate) on_drift: OnDrift,
}

impl Mirror {
    /// Hands on what people wrote about an incident.
    pub(crate) async fn hear(&self, story: &Story) -> Result<Heard, Failure> {
        let id = story.view.incident.id.as_str();
        let mut heard = Heard::Nothing;
        for object in self.approvals.of(id) {
            if let Ok(approval) = object.as_ref().clone().try_parse::<Approval>()
                && self.hear_answer(story, &approval).await? == Heard::Something
            {
                heard = Heard::Something;
            }
        }
        // By its name, which nobody can change: another incident's object under this label speaks for nobody here.
        for object in self.incidents.of(id).iter().filter(|object| object.name_any() == object_name(id)) {
            if let Ok(incident) = object.as_ref().clone().try_parse::<ShownIncident>()
                && self.hear_verdict(story, &incident).await? == Heard::Something
            {
                heard = Heard::Something;
            }
        }
        for object in self.actions.of(id) {
            if let Ok(action) = object.as_ref().clone().try_parse::<ResponseAction>()
                && self.hear_end(story, &action).await? == Heard::Something
            {
                heard = Heard::Something;
            }
        }
        Ok(heard)
    }

    async fn hear_answer(&self, story: &Story, approval: &Approval) -> Result<Heard, Failure> {
        let state = approval.status.as_ref().map_or(Asked::Pending, |status| status.state);
        let (Some(decision), Asked::Pending) = (&approval.spec.decision, state) else {
            return Ok(Heard::Nothing);
        };
        let request = &approval.spec.request;
        let step = request.step.as_ref().map_or_else(whole_run, |step| StepName::new(step.clone()));
        let run = RunId::new(request.run.clone());
        let refusal = if !self.bound("approvals.hemostat.dev").await? {
            Some(unbound("approvals.hemostat.dev"))
        } else if decision.by == request.requested_by || decision.by == self.me {
            Some(format!("{} asked for this and cannot decide on it", decision.by))
        } else if request.parties.contains(&decision.by) {
            Some(format!("{} is part of the incident and cannot decide on it", decision.by))
        } else {
            None
        };
        let (state, holds, reason, message) = match refusal {
            Some(refusal) => (Asked::Withdrawn, Holds::False, "Refused", refusal),
            None => {
                let wish = match decision.answer {
                    Answer::Approve => Change::Approve {
                        id: request.incident.clone(),
                        run: Some(run.clone()),
                        step: Some(step.clone()),
                        because: decision.reason.clone(),
                        groups: decision.groups.clone(),
                    },
                    Answer::Deny => Change::Deny {
                        id: request.incident.clone(),
                        run: Some(run.clone()),
                        step: Some(step.clone()),
                        because: decision.reason.clone(),
                        groups: decision.groups.clone(),
                    },
                };
                let over = match decision.answer {
                    Answer::Approve => Asked::Approved,
                    Answer::Deny => Asked::Denied,
                };
                // Killed after it was taken in and before that was written here: it holds.
                let known = story.runs.iter().any(|known| known.run == run && known.approved.contains(&step));
                match self.wish(wish, &decision.by).await {
                    Ok(()) => (over, Holds::True, "Applied", format!("{} said so", decision.by)),
                    Err(_) if known && over == Asked::Approved => {
                        (over, Holds::True, "Applied", format!("{} said so", decision.by))
                    }
                    Err(error) if error.kind == ApiErrorKind::Unavailable => {
                        return Err(Failure::Away(error.message));
                    }
                    Err(error) => (Asked::Withdrawn, Holds::False, "Refused", error.message),
                }
            }
        };
        self.end_approval(approval, state, holds, reason, &message).await?;
        Ok(if holds == Holds::True { Heard::Something } else { Heard::Nothing })
    }

    /// Writes how a question ended.
    pub(crate) async fn end_approval(
        &self,
        approval: &Approval,
        state: Asked,
        holds: Holds,
        reason: &str,
        message: &str,
    ) -> Result<(), Failure> {
        let now = (self.clock)();
        let generation = approval.metadata.generation.unwrap_or(0);
        let status = crds::approval::ApprovalStatus {
            observed_generation: generation,
            state,
            summary: approval_summary(&approval.spec, now),
            over: Some(moment(now)),
            conditions: vec![condition("Decided", holds, reason, message, now, generation)],
        };
        let namespace = approval.namespace().unwrap_or_default();
        self.put_status::<Approval>(&namespace, &approval.name_any(), &status).await?;
        tracing::info!(approval = approval.name_any(), ?state, reason, message, "a question is over");
        Ok(())
    }

    async fn hear_verdict(&self, story: &Story, object: &ShownIncident) -> Result<Heard, Failure> {
        let incident = &story.view.incident;
        let mut heard = Heard::Nothing;
        if let Some(said) = &object.spec.verdict {
            let verdict = match said.is {
                VerdictName::TruePositive => Verdict::TruePositive,
                VerdictName::FalsePositive => Verdict::FalsePositive,
            };
            if incident.verdict != Some(verdict) && self.bound("incidents.hemostat.dev").await? {
                let wish =
                    Change::Judge { id: incident.id.to_string(), verdict, because: said.reason.clone() };
                self.wish_or_tell(wish, &said.by).await?;
                heard = Heard::Something;
            }
        }
        if let Some(closed) = &object.spec.closed
            && incident.state != IncidentState::Closed
            && self.bound("incidents.hemostat.dev").await?
        {
            let wish = Change::Close { id: incident.id.to_string(), because: closed.reason.clone() };
            if self.wish_or_tell(wish, &closed.by).await? == Heard::Something {
                heard = Heard::Something;
            }
        }
        Ok(heard)
    }

    async fn hear_end(&self, story: &Story, object: &ResponseAction) -> Result<Heard, Failure> {
        let Some(record) = story
            .view
            .incident
            .actions
            .iter()
            .find(|record| super::show::action_name(&record.id) == object.name_any())
        else {
            return Ok(Heard::Nothing);
        };
        let Some(wanted) = self.wants_back(object).await? else { return Ok(Heard::Nothing) };
        let seen = object.status.as_ref().map_or(0, |status| status.observed_generation);
        let anew = object.metadata.generation.unwrap_or(0) > seen;
        let due = match record.state {
            ActionState::Applied | ActionState::Verified | ActionState::Unverified => !is_settled(record),
            // Once for each time that somebody says so: the target drifted, and saying it again means to try again.
            ActionState::RevertBlocked => anew,
            _ => false,
        };
        if !due {
            return Ok(Heard::Nothing);
        }
        let WantedBack { by, because, on_drift } = wanted;
        let wish = Change::RollbackAction { id: record.id.to_string(), because, on_drift };
        self.wish_or_tell(wish, &by).await
    }

    /// Who wants an action undone, and why: by its `end`, or by deleting the object.
    pub(crate) async fn wants_back(&self, object: &ResponseAction) -> Result<Option<WantedBack>, Failure> {
        match &object.spec.end {
            Some(end) if end.how == Ending::Accept => Ok(None),
            Some(end) if self.bound("responseactions.hemostat.dev").await? => Ok(Some(WantedBack {
                by: end.by.clone(),
                because: end.reason.clone(),
                on_drift: match end.on_drift {
                    crds::response_action::OnDrift::Ask => OnDrift::Ask,
                    crds::response_action::OnDrift::Overwrite => OnDrift::Overwrite,
                },
            })),
            Some(_) => Ok(None),
            // Who deleted it stands in the API server's audit log, and not in the object.
            None if object.metadata.deletion_timestamp.is_some() => Ok(Some(WantedBack {
                by: "unknown".into(),
                because: "its ResponseAction was deleted".into(),
                on_drift: OnDrift::Ask,
            })),
            None => Ok(None),
        }
    }

    /// A wish that must be met, or be tried again.
    pub(crate) async fn wish_as(&self, what: Change, by: Actor) -> Result<(), Failure> {
        match self.asker.change(what, by).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ApiErrorKind::Unavailable => Err(Failure::Away(error.message)),
            Err(error) => Err(Failure::Conflict(error.message)),
        }
    }

    pub(crate) async fn wish(&self, what: Change, by: &str) -> Result<(), ApiError> {
        self.asker.change(what, Actor::new(format!("user:{by}"))).await.map(drop)
    }

    pub(crate) async fn wish_or_tell(&self, what: Change, by: &str) -> Result<Heard, Failure> {
        match self.wish(what, by).await {
            Ok(()) => Ok(Heard::Something),
            Err(error) if error.kind == ApiErrorKind::Unavailable => Err(Failure::Away(error.message)),
            Err(error) => {
                tracing::warn!(by, %error, "a wish could not be met");
                Ok(Heard::Nothing)
            }
        }
    }

    /// Whether the policy that binds words to their speakers is in force: without it anybody could write anybody's name.
    async fn bound(&self, policy: &str) -> Result<bool, Failure> {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.reach.client.clone());
        let found = self.reach.read(bindings.get_opt(policy)).await?;
        let spec = found.and_then(|binding| binding.spec).unwrap_or_default();
        let denies = spec.validation_actions.iter().flatten().any(|action| action == "Deny");
        let holds = denies && spec.policy_name.as_deref() == Some(policy) && spec.match_resources.is_none();
        if !holds {
            tracing::error!("{}", unbound(policy));
        }
        Ok(holds)
    }
}

/// Why nobody is believed.
fn unbound(policy: &str) -> String {
    format!(
        "the ValidatingAdmissionPolicyBinding {policy} does not deny (apply deploy/admission): nobody knows who wrote this"
    )
}

/// The object's own, where it can be read.
pub(crate) fn parsed<T>(object: &DynamicObject) -> Option<T>
where
    T: kube::Resource + serde::de::DeserializeOwned,
{
    object.clone().try_parse::<T>().ok()
}
