//! What a person decides: approve, deny, rollback, verdict, close.

use std::{
    io::{BufRead as _, IsTerminal as _, Read as _},
    time::{Duration, Instant},
};

use anyhow::Result;
use controller::api::Done;
use model::{ActionState, ApprovalRequest, Incident, IncidentState, StepName, Verdict};

use super::{client, incident_id, now, refused};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{self, age, one_line},
};

/// How long `rollback` waits to tell how it ended.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Decision {
    /// The incident, or an unambiguous beginning of its name: four characters after `inc-` at least.
    #[arg(value_parser = incident_id)]
    incident: String,
    /// The step. Without it, what waits is listed, and you are asked.
    step: Option<String>,
    /// All steps that wait, without being asked; they are listed.
    #[arg(long, conflicts_with = "step")]
    all: bool,
    /// Why; goes into the timeline and the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(clap::Args)]
pub(crate) struct Rollback {
    /// The incident (`inc-…`) or one action (`act-…`).
    #[arg(value_parser = incident_id)]
    what: String,
    /// Why; goes into the timeline and the audit log.
    #[arg(long, default_value = "")]
    reason: String,
    /// Do not wait for its end.
    #[arg(long)]
    no_wait: bool,
}

#[derive(clap::Args)]
pub(crate) struct Judgement {
    /// The incident, or an unambiguous beginning of its name: four characters after `inc-` at least.
    #[arg(value_parser = incident_id)]
    incident: String,
    /// What it was.
    #[arg(value_enum)]
    verdict: VerdictName,
    /// Why; goes into the timeline and the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum VerdictName {
    TruePositive,
    FalsePositive,
}

#[derive(clap::Args)]
pub(crate) struct Closing {
    /// The incident, or an unambiguous beginning of its name: four characters after `inc-` at least.
    #[arg(value_parser = incident_id)]
    incident: String,
    /// Why; goes into the timeline and the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(clap::Args)]
pub(crate) struct Splitting {
    /// The incident, or an unambiguous beginning of its name: four characters after `inc-` at least.
    #[arg(value_parser = incident_id)]
    incident: String,
    /// Findings that are another story, by their whole names (`hemostat incidents show -o json`).
    #[arg(required = true, num_args = 1..=256)]
    findings: Vec<String>,
    /// Why; goes into both timelines and the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn approve(shared: &Shared, decision: Decision) -> Result<Exit> {
    decide(shared, decision, Word::Approve).await
}

pub(crate) async fn deny(shared: &Shared, decision: Decision) -> Result<Exit> {
    decide(shared, decision, Word::Deny).await
}

/// What a person says to a step that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Approve,
    Deny,
}

impl Word {
    fn name(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }
}

async fn decide(shared: &Shared, decision: Decision, word: Word) -> Result<Exit> {
    let client = client(shared);
    let say = async |incident: &str, step: Option<StepName>| match word {
        Word::Approve => client.approve(incident, step, &decision.reason).await,
        Word::Deny => client.deny(incident, step, &decision.reason).await,
    };
    if let Some(step) = &decision.step {
        let done = say(&decision.incident, Some(StepName::new(step.clone()))).await.map_err(refused)?;
        return tell(shared, &done);
    }
    let view = client.incident(&decision.incident).await.map_err(refused)?;
    let waiting = waiting(&view.incident);
    if waiting.is_empty() {
        // The controller says why there is nothing to decide.
        let done = say(&decision.incident, None).await.map_err(refused)?;
        return tell(shared, &done);
    }
    let list = listed(&view.incident, &waiting, word);
    render::write_err(&list)?;
    if !decision.all && !is_wanted(word, waiting.len())? {
        return Err(Ended::with(
            Exit::Usage,
            format!("nothing was decided: name a step, or {} them all with --all", word.name()),
        ));
    }
    // Only what was shown: a step that has come to wait meanwhile is not meant.
    let mut all = Done { incident: view.incident.id.clone(), what: Vec::new() };
    for request in waiting {
        let done = say(view.incident.id.as_str(), Some(request.step.clone())).await.map_err(refused)?;
        all.what.extend(done.what);
    }
    tell(shared, &all)
}

fn waiting(incident: &Incident) -> Vec<&ApprovalRequest> {
    let mut all: Vec<&ApprovalRequest> = Vec::new();
    for request in incident.runs.iter().flat_map(|run| &run.waiting) {
        if !all.iter().any(|known| known.step == request.step) {
            all.push(request);
        }
    }
    all
}

fn listed(incident: &Incident, waiting: &[&ApprovalRequest], word: Word) -> String {
    let mut out = format!(
        "{} ({}): {} a person\n",
        incident.id,
        one_line(&incident.title, 100),
        match waiting.len() {
            1 => "1 step waits for".to_owned(),
            many => format!("{many} steps wait for"),
        }
    );
    for request in waiting {
        out.push_str(&format!(
            "  {}: {} ({}; {} left)\n    hemostat {} {} {}\n",
            request.step,
            one_line(&request.would, 300),
            one_line(&request.because, 300),
            age(now(), request.expires),
            word.name(),
            incident.id,
            request.step
        ));
    }
    out
}

/// Asks; where nobody can answer, the answer is no.
fn is_wanted(word: Word, steps: usize) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let what = if steps == 1 { "it".to_owned() } else { format!("all {steps}") };
    render::write_err(&format!("{} {what}? [y/N] ", word.name()))?;
    let mut answer = String::new();
    std::io::stdin().lock().take(64).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(crate) async fn verdict(shared: &Shared, judgement: Judgement) -> Result<Exit> {
    let verdict = match judgement.verdict {
        VerdictName::TruePositive => Verdict::TruePositive,
        VerdictName::FalsePositive => Verdict::FalsePositive,
    };
    let done =
        client(shared).judge(&judgement.incident, verdict, &judgement.reason).await.map_err(refused)?;
    tell(shared, &done)
}

pub(crate) async fn close(shared: &Shared, closing: Closing) -> Result<Exit> {
    let done = client(shared).close(&closing.incident, &closing.reason).await.map_err(refused)?;
    tell(shared, &done)
}

pub(crate) async fn split(shared: &Shared, splitting: Splitting) -> Result<Exit> {
    let findings: Vec<model::FindingId> = splitting.findings.into_iter().map(model::FindingId::new).collect();
    let done =
        client(shared).split(&splitting.incident, &findings, &splitting.reason).await.map_err(refused)?;
    tell(shared, &done)
}

pub(crate) async fn rollback(shared: &Shared, rollback: Rollback) -> Result<Exit> {
    let client = client(shared);
    let one_action = rollback.what.starts_with("act-");
    let done = if one_action {
        client.rollback_action(&rollback.what, &rollback.reason).await
    } else {
        client.rollback_incident(&rollback.what, &rollback.reason).await
    }
    .map_err(refused)?;
    tell(shared, &done)?;
    if rollback.no_wait {
        return Ok(Exit::Good);
    }
    let patience = Instant::now() + ROLLBACK_PATIENCE;
    let mut since = 0;
    while Instant::now() < patience {
        let view = client.incident(done.incident.as_str()).await.map_err(refused)?;
        let actions =
            view.incident.actions.iter().filter(|action| !one_action || action.id.as_str() == rollback.what);
        let mut blocked = Vec::new();
        let mut waiting = false;
        for action in actions {
            match action.state {
                ActionState::RevertBlocked => {
                    blocked.push(format!("{} on {}: {}", action.action.name(), action.target, action.detail))
                }
                ActionState::Reverting => waiting = true,
                ActionState::Applied | ActionState::Verified | ActionState::Unverified => {
                    waiting |= action.action.undo() == model::UndoClass::Exact;
                }
                _ => {}
            }
        }
        if !blocked.is_empty() {
            return Err(Ended::with(
                Exit::Conflict,
                format!(
                    "not undone, since the target changed meanwhile; a person must decide:\n  {}",
                    blocked.join("\n  ")
                ),
            ));
        }
        let settled =
            one_action || matches!(view.incident.state, IncidentState::RolledBack | IncidentState::Closed);
        if !waiting && settled {
            render::write_out("undone\n")?;
            return Ok(Exit::Good);
        }
        since = client.watch(since, Duration::from_millis(500)).await.map_err(refused)?.revision;
    }
    Err(Ended::with(
        Exit::Bad,
        format!(
            "the rollback has begun and is not at its end after {ROLLBACK_PATIENCE:?}; see: hemostat incidents show {}",
            done.incident
        ),
    ))
}

fn tell(shared: &Shared, done: &Done) -> Result<Exit> {
    render::print(shared.output, done, |_| {
        done.what.iter().map(|what| format!("{}: {what}\n", done.incident)).collect()
    })?;
    Ok(Exit::Good)
}
