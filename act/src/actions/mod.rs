//! The actions, one file each (those that only set a field of their target share one). An action captures: it decides every change and
//! what stands there before. Applying and reverting are the same for all ([`crate::edits`]); some look at their effect in a way of their
//! own.

mod bundle;
mod clamp_quota;
mod collect_evidence;
mod deny;
mod detach_pod;
mod end_pod;
mod invalidate_tokens;
mod isolate_pod;
mod owners;
mod restore_object;
mod roll_back_image;
mod scale;
mod scan_image;
mod simple;
mod subtract_subject;
mod suspend_sync;

use model::{ActionFailure, ClusterAction, ClusterState, Edit, Outputs};
use serde_json::json;

use crate::{
    api::reference,
    edits,
    job::{Job, Look},
    notify,
    permissions::{self, Rule},
};

/// Everything that the action will change, and what stands there now.
pub(crate) async fn capture(job: &Job<'_>, action: &ClusterAction) -> Result<ClusterState, ActionFailure> {
    let mut captured = match action {
        ClusterAction::IsolatePod(with) => isolate_pod::capture(job, with).await?,
        ClusterAction::Label(with) => simple::label::capture(job, with).await?,
        ClusterAction::DetachPod => detach_pod::capture(job).await?,
        ClusterAction::EvictPod | ClusterAction::DeletePod => end_pod::capture(job).await?,
        ClusterAction::Cordon => simple::cordon::capture(job).await?,
        ClusterAction::Taint(with) => simple::taint::capture(job, with).await?,
        ClusterAction::Scale(with) => scale::capture(job, with).await?,
        ClusterAction::PauseRollout => simple::pause_rollout::capture(job).await?,
        ClusterAction::Suspend => simple::suspend::capture(job).await?,
        ClusterAction::RollBackImage => roll_back_image::capture(job).await?,
        ClusterAction::SubtractSubject => subtract_subject::capture(job).await?,
        ClusterAction::InvalidateTokens => invalidate_tokens::capture(job).await?,
        ClusterAction::DenyExec => deny::exec(job).await?,
        ClusterAction::DenyImage(with) => deny::image(job, with).await?,
        ClusterAction::DenyWrites => deny::writes(job).await?,
        ClusterAction::RestoreObject(with) => restore_object::capture(job, with).await?,
        ClusterAction::ClampQuota => clamp_quota::capture(job).await?,
        ClusterAction::SuspendSync => suspend_sync::capture(job).await?,
        ClusterAction::CollectEvidence(_) => collect_evidence::capture(job).await?,
        ClusterAction::ScanImage(with) => scan_image::capture(job, with).await?,
        ClusterAction::Notify(_) => notify::capture(job)?,
    };
    if let Some(keeper) = kept_by_git(job, action, &captured).await? {
        captured
            .notes
            .push(format!("{keeper} keeps the target as Git says and may undo this: suspend it first"));
    }
    Ok(captured)
}

/// Does it.
pub(crate) async fn apply(
    job: &Job<'_>,
    action: &ClusterAction,
    captured: &ClusterState,
) -> Result<Outputs, ActionFailure> {
    let mut outputs = match action {
        ClusterAction::EvictPod => {
            end_pod::evict(job).await?;
            Outputs::new()
        }
        ClusterAction::CollectEvidence(with) => collect_evidence::apply(job, with).await?,
        ClusterAction::ScanImage(_) => scan_image::apply(job, captured).await?,
        ClusterAction::Notify(with) => notify::apply(job, with).await?,
        _ => {
            edits::apply(job.api, captured, &job.manager()).await?;
            match action {
                ClusterAction::IsolatePod(_) => isolate_pod::outputs(captured),
                ClusterAction::SubtractSubject => subtract_subject::outputs(captured),
                ClusterAction::RollBackImage => roll_back_image::outputs(captured),
                _ => Outputs::new(),
            }
        }
    };
    if !captured.notes.is_empty() {
        outputs.insert("notes".into(), json!(captured.notes));
    }
    Ok(outputs)
}

/// Observes the effect: the changes first, then what the action itself looks at.
pub(crate) async fn verify(
    job: &Job<'_>,
    action: &ClusterAction,
    captured: &ClusterState,
) -> Result<Look, ActionFailure> {
    if let ClusterAction::ScanImage(_) = action {
        // Its Job is gone by then: what it left is the report.
        return Ok(scan_image::verify(job));
    }
    if let Some(found) = edits::missing(job.api, captured).await? {
        return Ok(Look::Missing(found));
    }
    match action {
        ClusterAction::IsolatePod(_) => isolate_pod::verify(job, captured).await,
        ClusterAction::DetachPod => detach_pod::verify(job).await,
        ClusterAction::Scale(with) => scale::verify(job, with).await,
        ClusterAction::RollBackImage => roll_back_image::verify(job).await,
        ClusterAction::SubtractSubject => subtract_subject::verify(job).await,
        ClusterAction::InvalidateTokens => invalidate_tokens::verify(job, captured).await,
        ClusterAction::CollectEvidence(_) => Ok(collect_evidence::verify(job)),
        ClusterAction::Notify(_) => notify::verify(job),
        _ => Ok(Look::InForce),
    }
}

/// What an action of that name needs of RBAC.
pub(crate) fn permissions(action: &str) -> Vec<Rule> {
    match action {
        "cluster.isolate-pod" => isolate_pod::permissions(),
        "cluster.label" => simple::label::permissions(),
        "cluster.detach-pod" => detach_pod::permissions(),
        "cluster.evict-pod" => end_pod::evict_permissions(),
        "cluster.delete-pod" => end_pod::delete_permissions(),
        "cluster.cordon" => simple::cordon::permissions(),
        "cluster.taint" => simple::taint::permissions(),
        "cluster.scale" => scale::permissions(),
        "cluster.pause-rollout" => simple::pause_rollout::permissions(),
        "cluster.suspend" => simple::suspend::permissions(),
        "cluster.roll-back-image" => roll_back_image::permissions(),
        "cluster.subtract-subject" => subtract_subject::permissions(),
        "cluster.invalidate-tokens" => invalidate_tokens::permissions(),
        "cluster.deny-exec" | "cluster.deny-image" | "cluster.deny-writes" => deny::permissions(),
        "cluster.restore-object" => restore_object::permissions(),
        "cluster.clamp-quota" => clamp_quota::permissions(),
        "cluster.suspend-sync" => suspend_sync::permissions(),
        "cluster.collect-evidence" => collect_evidence::permissions(),
        permissions::CHECKPOINT => collect_evidence::checkpoint_permissions(),
        permissions::SCAN_OWN => scan_image::permissions_at_home(),
        "cluster.scan-image" => scan_image::permissions(),
        _ => Vec::new(),
    }
}

/// Who keeps what is changed as Git says, and so would undo it. Objects of our own and pods nobody keeps; nor is it looked at where that
/// may not be looked at: the permissions for it come with `cluster.suspend-sync`.
async fn kept_by_git(
    job: &Job<'_>,
    action: &ClusterAction,
    captured: &ClusterState,
) -> Result<Option<String>, ActionFailure> {
    if matches!(action, ClusterAction::SuspendSync) {
        return Ok(None);
    }
    for edit in &captured.edits {
        let Edit::Change { object, .. } = edit else { continue };
        if object.kind == "Pod" || object.kind == "Node" {
            continue;
        }
        let Some(found) = job.api.find(object).await? else { continue };
        match suspend_sync::keeper(job.api, &found).await {
            Ok(suspend_sync::Kept::By(keeper)) => return Ok(Some(reference(&keeper).to_string())),
            Ok(suspend_sync::Kept::Nobody) => {}
            Ok(suspend_sync::Kept::Claimed(because)) => return Ok(Some(format!("somebody ({because})"))),
            Err(ActionFailure::Unsupported { because, .. }) => {
                return Ok(Some(format!("somebody ({because})")));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}
