//! Carries out one phase of one action, whatever the action: checks first, then the phase.

use std::{sync::Arc, time::Duration};

use kube::Client;
use model::{
    ActionFailure, ActionRecord, ClusterAction, CommandOutcome, Effect, NodeAction, NodeCommand, NodeId,
    OnDrift, Phase, PhaseDone, RollbackState, Timestamp,
};

use crate::{
    actions,
    api::{Api, ApiFault},
    edits::{self, Undone},
    job::{ActConfig, Job, Look},
    protect,
};

/// How long one look at what is in force may take.
const LOOK: Duration = Duration::from_secs(30);

/// Carries out commands in the API server. Every phase may be repeated: what is done already is not done again.
pub struct Executor {
    api: Api,
    config: ActConfig,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Executor {
    /// With a client of the API server; what it may do is what the client's account may.
    #[must_use]
    pub fn new(client: Client, config: ActConfig) -> Self {
        Self { api: Api::new(client, Arc::clone(&config.leads)), config }
    }

    /// Does what a command says and tells what came of it.
    pub async fn carry_out(&self, command: &NodeCommand) -> CommandOutcome {
        let result = self.phase(command).await;
        match &result {
            Ok(_) => tracing::debug!(key = %command.key, "done in the API server"),
            Err(failure) => tracing::warn!(key = %command.key, %failure, "not done in the API server"),
        }
        CommandOutcome {
            key: command.key.clone(),
            action_id: command.action_id.clone(),
            phase: command.phase.name().into(),
            at: self.now(),
            result,
        }
    }

    /// Whether the effect of an action that was verified is still there. Nothing is changed, whatever is found: this is no way to an action.
    ///
    /// # Errors
    /// When the target is gone, or it cannot be told.
    pub async fn look(&self, record: &ActionRecord) -> Result<Effect, ActionFailure> {
        let (NodeAction::Cluster(action), Some(RollbackState::Cluster(captured)), Some(incident)) =
            (&record.action, &record.rollback, &record.incident)
        else {
            let because = "it is not looked at in the API server".into();
            return Err(ActionFailure::Unsupported { operation: record.action.name().into(), because });
        };
        let job = Job {
            api: &self.api,
            config: &self.config,
            id: &record.id,
            incident,
            target: &record.target,
            action: action.name(),
            deadline: self.now().plus(LOOK),
        };
        match actions::verify(&job, action, captured).await? {
            Look::InForce => Ok(Effect::InForce),
            Look::Missing(found) => Ok(Effect::Missing { found }),
        }
    }

    /// Whether the API server answers.
    ///
    /// # Errors
    /// Why not.
    pub async fn is_there(&self) -> Result<(), String> {
        self.api.is_there().await.map_err(|fault: ApiFault| fault.to_string())
    }

    fn now(&self) -> Timestamp {
        (self.config.clock)()
    }

    async fn phase(&self, command: &NodeCommand) -> Result<PhaseDone, ActionFailure> {
        let NodeAction::Cluster(action) = &command.action else {
            return Err(refused(command, "it is done on a node and not in the API server"));
        };
        if command.node != NodeId::cluster() {
            return Err(refused(command, &format!("it is for {}", command.node)));
        }
        if command.deadline < self.now() {
            return Err(ActionFailure::Expired);
        }
        let job = Job {
            api: &self.api,
            config: &self.config,
            id: &command.action_id,
            incident: &command.incident,
            target: &command.target,
            action: action.name(),
            deadline: command.deadline,
        };
        if !matches!(command.phase, Phase::Revert { .. }) {
            protect::check(&job)?;
        }
        match &command.phase {
            Phase::Capture => {
                let captured = actions::capture(&job, action).await?;
                Ok(PhaseDone::Captured { rollback: RollbackState::Cluster(Box::new(captured)) })
            }
            Phase::Apply { rollback } => {
                let outputs = actions::apply(&job, action, of_cluster(command, rollback)?).await?;
                Ok(PhaseDone::Applied { outputs })
            }
            Phase::Verify { rollback } => self.verify(&job, action, command, rollback).await,
            Phase::Revert { rollback, on_drift } => {
                let captured = of_cluster(command, rollback)?;
                Ok(match edits::revert(&self.api, captured, &job.manager(), *on_drift).await? {
                    Undone::Restored(detail) => PhaseDone::Reverted { detail },
                    Undone::Drifted(difference) => PhaseDone::Drifted { difference },
                })
            }
        }
    }

    async fn verify(
        &self,
        job: &Job<'_>,
        action: &ClusterAction,
        command: &NodeCommand,
        rollback: &RollbackState,
    ) -> Result<PhaseDone, ActionFailure> {
        let captured = of_cluster(command, rollback)?;
        match actions::verify(job, action, captured).await {
            Ok(Look::InForce) => Ok(PhaseDone::Verified { effect: Effect::InForce }),
            Ok(Look::Missing(found)) => Ok(PhaseDone::Verified { effect: Effect::Missing { found } }),
            // The run takes an action whose target is gone for over: what was made for it must not stay behind.
            Err(gone @ ActionFailure::TargetGone { .. }) => {
                match edits::revert(&self.api, captured, &job.manager(), OnDrift::Ask).await {
                    Ok(Undone::Restored(_)) | Err(ActionFailure::TargetGone { .. }) => Err(gone),
                    Ok(Undone::Drifted(found)) => {
                        Ok(PhaseDone::Verified { effect: Effect::Missing { found } })
                    }
                    Err(failure) => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
    }
}

fn of_cluster<'a>(
    command: &NodeCommand,
    rollback: &'a RollbackState,
) -> Result<&'a model::ClusterState, ActionFailure> {
    match rollback {
        RollbackState::Cluster(captured) => Ok(captured),
        _ => Err(ActionFailure::TargetChanged {
            target: command.target.to_string(),
            expected: "the rollback state of this action".into(),
            found: "one of another action".into(),
        }),
    }
}

fn refused(command: &NodeCommand, because: &str) -> ActionFailure {
    ActionFailure::Unsupported { operation: command.action.name().into(), because: because.into() }
}
