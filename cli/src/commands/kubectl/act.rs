//! Words of people, written under their own name: the admission policy compares.

use anyhow::Result;
use crds::{
    approval::{Approval, State as Asked},
    response_action::ResponseAction,
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use model::ActionState;
use serde_json::json;

use super::{Cluster, Decision, refused};
use crate::{
    exit::{Ended, Exit},
    render::write_out,
};

/// Yes or no to an Approval, or to everything of an incident that waits.
pub(super) async fn decide(cluster: &Cluster, decision: &Decision, answer: &str) -> Result<Exit> {
    let me = cluster.me().await?;
    let waiting =
        |approval: &Approval| approval.status.as_ref().is_none_or(|status| status.state == Asked::Pending);
    let named: Vec<Approval> = cluster
        .all::<Approval>()
        .await?
        .into_iter()
        .filter(|one| {
            one.name_any() == decision.name || one.spec.request.incident.starts_with(&decision.name)
        })
        .collect();
    if named.is_empty() {
        return Err(Ended::with(Exit::Unknown, format!("nothing waits under {}", decision.name)));
    }
    let mut done = 0;
    for approval in named.iter().filter(|one| waiting(one) && one.spec.decision.is_none()) {
        let namespace = approval.namespace().unwrap_or_default();
        let api: Api<Approval> = Api::namespaced(cluster.client.clone(), &namespace);
        let patch = json!({"spec": {"decision": {"answer": answer, "by": me, "reason": decision.because}}});
        api.patch(&approval.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(refused)?;
        write_out(&format!("{}: {answer} by {me}: {}\n", approval.name_any(), approval.spec.request.would))?;
        done += 1;
    }
    if done == 0 {
        return Err(Ended::with(Exit::Conflict, format!("{} is answered already", decision.name)));
    }
    Ok(Exit::Good)
}

/// Asks for the undo of an action, or of everything of an incident that is in force.
pub(super) async fn revert(cluster: &Cluster, name: &str, because: &str) -> Result<Exit> {
    let me = cluster.me().await?;
    let in_force = |action: &ResponseAction| {
        use ActionState::{Applied, RevertBlocked, Unverified, Verified};
        action
            .status
            .as_ref()
            .is_some_and(|status| matches!(status.state, Applied | Verified | Unverified | RevertBlocked))
    };
    let named: Vec<ResponseAction> = cluster
        .all::<ResponseAction>()
        .await?
        .into_iter()
        .filter(|one| {
            one.name_any() == name || one.spec.plan.incident.as_ref().is_some_and(|id| id.starts_with(name))
        })
        .collect();
    if named.is_empty() {
        return Err(Ended::with(
            Exit::Unknown,
            format!("there is no action or incident {name} with actions"),
        ));
    }
    let mut done = 0;
    for action in named.iter().filter(|one| in_force(one)) {
        let namespace = action.namespace().unwrap_or_default();
        let api: Api<ResponseAction> = Api::namespaced(cluster.client.clone(), &namespace);
        let patch = json!({"spec": {"end": {"how": "Revert", "by": me, "reason": because}}});
        api.patch(&action.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(refused)?;
        write_out(&format!("{}: {} is to be undone\n", action.name_any(), action.spec.plan.action.0))?;
        done += 1;
    }
    if done == 0 {
        return Err(Ended::with(Exit::Conflict, format!("nothing of {name} is in force")));
    }
    Ok(Exit::Good)
}
