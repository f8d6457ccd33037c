//! A question to a person.

use crds::{
    approval::{ApprovalSpec, Request, Summary},
    cut,
};
use model::{ApprovalRequest, Incident, RunSummary, Timestamp, short_hash};

use super::{bounded, moment};
use crate::api::RunStory;

/// The object's name: of one question in one run, asked again after another answer under another name.
pub(crate) fn approval_name(run: &RunSummary, request: &ApprovalRequest) -> String {
    let what = [run.id.as_str(), request.step.as_str(), &request.would, &request.expires.0.to_string()];
    let step = request.step.as_str().replace('_', "-");
    format!("appr-{}-{}", short_hash(what, 5), step.trim_matches('-'))
}

/// The question. `asks` is who the API server knows us as, `author` who wrote the playbook, where that is known.
pub(crate) fn approval_spec(
    incident: &Incident,
    run: &RunSummary,
    story: Option<&RunStory>,
    request: &ApprovalRequest,
    asks: &str,
    author: Option<&str>,
) -> ApprovalSpec {
    let whole = request.step == respond::run::whole_run();
    let action = story.and_then(|story| story.steps.get(&request.step)).map_or("step", String::as_str);
    let mut parties: Vec<String> = Vec::new();
    let of_sessions = incident.sessions.iter().map(|session| session.user.name.as_str());
    for party in of_sessions.chain(author) {
        let party = bounded(party, 256);
        if parties.len() < 32 && !party.is_empty() && !parties.contains(&party) {
            parties.push(party);
        }
    }
    ApprovalSpec {
        request: Request {
            incident: bounded(incident.id.as_str(), 253),
            run: bounded(run.id.as_str(), 253),
            playbook: bounded(run.playbook.as_str(), 253),
            step: (!whole).then(|| bounded(request.step.as_str(), 40)),
            action: if whole { "run".into() } else { bounded(action, 64) },
            would: told(&request.would),
            because: told(&request.because),
            residual: String::new(),
            requested_by: bounded(asks, 256),
            parties,
            approvers: story
                .map(|story| story.approvers.iter().take(64).cloned().collect())
                .unwrap_or_default(),
            expires: moment(request.expires),
        },
        decision: None,
    }
}

/// What its line in a table says.
pub(crate) fn approval_summary(spec: &ApprovalSpec, now: Timestamp) -> Summary {
    let (until, today) = (spec.request.expires.0.to_string(), now.to_string());
    let until = if until.get(..10) == today.get(..10) {
        format!("{}Z", until.get(11..16).unwrap_or_default())
    } else {
        // Without the century: `26-11-22`.
        until.get(2..10).unwrap_or_default().to_owned()
    };
    Summary {
        until,
        by: spec.decision.as_ref().map(|decision| cut(&decision.by, 20)).unwrap_or_default(),
        would: cut(&spec.request.would, 48),
    }
}

fn told(text: &str) -> String {
    if text.is_empty() { "not said".into() } else { bounded(text, 1024) }
}
