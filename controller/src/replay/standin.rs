//! Takes the place of nodes and cluster: says that everything was done and touches nothing, so that a playbook comes to its end as it would.

use std::time::Duration;

use model::{
    ActionFailure, CommandOutcome, Effect, NodeCommand, NodeId, Outputs, Phase, PhaseDone, RollbackState,
    Timestamp,
};

/// How long an answer takes: what was measured of nodes and of an API server (docs/benchmarks.md, "respond"), so that what depends on
/// the order of answers comes as it mostly does. No figure of a replay tells how fast an action is.
const NODE: Duration = Duration::from_millis(2);
const CLUSTER: Duration = Duration::from_millis(100);

/// What the place would say, and when.
pub(super) fn answer(command: &NodeCommand, now: Timestamp) -> (Timestamp, CommandOutcome) {
    let at = now.plus(if command.node == NodeId::cluster() { CLUSTER } else { NODE });
    let result = if command.deadline < at { Err(ActionFailure::Expired) } else { Ok(done(command)) };
    let outcome = CommandOutcome {
        key: command.key.clone(),
        action_id: command.action_id.clone(),
        phase: command.phase.name().into(),
        at,
        result,
    };
    (at, outcome)
}

fn done(command: &NodeCommand) -> PhaseDone {
    match &command.phase {
        Phase::Capture => {
            let rollback = if command.action.undo().has_undo() {
                RollbackState::Network {
                    pins: format!("replay/{}", command.action_id),
                    cgroup: String::new(),
                }
            } else {
                RollbackState::Nothing
            };
            PhaseDone::Captured { rollback }
        }
        Phase::Apply { .. } => PhaseDone::Applied { outputs: Outputs::new() },
        Phase::Verify { .. } => PhaseDone::Verified { effect: Effect::InForce },
        Phase::Revert { .. } => PhaseDone::Reverted { detail: "replayed: nothing was done".into() },
    }
}
