//! What a person decides: approve, deny, rollback, verdict, close.

use std::time::{Duration, Instant};

use anyhow::Result;
use controller::api::Done;
use model::{ActionState, IncidentState, StepName, Verdict};

use super::{client, refused};
use crate::{
    Shared,
    exit::{Ended, Exit},
    render,
};

/// How long `rollback` waits to tell how it ended.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Decision {
    /// The incident, or an unambiguous beginning of its name.
    incident: String,
    /// The step; everything that waits when left out.
    step: Option<String>,
    /// Why; goes into the timeline and the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(clap::Args)]
pub(crate) struct Rollback {
    /// The incident (`inc-…`) or one action (`act-…`).
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
    /// The incident, or an unambiguous beginning of its name.
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
    /// The incident, or an unambiguous beginning of its name.
    incident: String,
    /// Why; goes into the timeline and the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) async fn approve(shared: &Shared, decision: Decision) -> Result<Exit> {
    let step = decision.step.map(StepName::new);
    let done = client(shared).approve(&decision.incident, step, &decision.reason).await.map_err(refused)?;
    tell(shared, &done)
}

pub(crate) async fn deny(shared: &Shared, decision: Decision) -> Result<Exit> {
    let step = decision.step.map(StepName::new);
    let done = client(shared).deny(&decision.incident, step, &decision.reason).await.map_err(refused)?;
    tell(shared, &done)
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
