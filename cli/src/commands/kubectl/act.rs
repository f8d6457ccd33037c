//! Words of people, written under their own name: the admission policy compares.

use anyhow::Result;
use crds::{
    approval::{Approval, State as Asked},
    incident::Incident,
    response_action::ResponseAction,
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use model::ActionState;
use serde_json::json;

use super::{Cluster, Decision, Judgement, named::belongs};
use crate::{
    exit::{Ended, Exit},
    render::{one_line, write_out},
};

/// Yes or no to an Approval, or to everything of an incident that waits.
pub(super) async fn decide(cluster: &Cluster, decision: &Decision, answer: &str) -> Result<Exit> {
    let (me, groups) = cluster.me_and_groups().await?;
    let all: Vec<Approval> = cluster.all().await?;
    let named = match one_called(&all, &decision.name, "approval")? {
        Some(one) => vec![one],
        None => {
            let incident = cluster.incident(&decision.name).await?;
            let of_it = |one: &&Approval| belongs(*one, &incident, &one.spec.request.incident);
            all.iter().filter(of_it).collect()
        }
    };
    let state = |one: &Approval| one.status.as_ref().map_or(Asked::Pending, |status| status.state);
    let waits = |one: &&&Approval| state(one) == Asked::Pending && one.spec.decision.is_none();
    let waiting: Vec<&Approval> = named.iter().filter(waits).copied().collect();
    if waiting.is_empty() {
        let what = match named.as_slice() {
            [] => format!("nothing of {} waits for an answer", decision.name),
            [one] => format!("{} waits for no answer: {}", one.name_any(), over(one, state(one))),
            several => format!("none of the {} questions of {} waits any more", several.len(), decision.name),
        };
        return Err(Ended::with(Exit::Conflict, what));
    }
    for approval in waiting {
        let namespace = approval.namespace().unwrap_or_default();
        let api: Api<Approval> = Api::namespaced(cluster.client.clone(), &namespace);
        let mut said = json!({"answer": answer, "by": me, "reason": decision.because});
        // Only the groups that matter: by which of them the word is given stands in the record.
        let asked = |group: &&String| approval.spec.request.approvers.contains(&format!("group:{group}"));
        let mine: Vec<&String> = groups.iter().filter(asked).take(64).collect();
        if !mine.is_empty() {
            said["groups"] = json!(mine);
        }
        let patch = json!({"spec": {"decision": said}});
        api.patch(&approval.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(|error| cluster.refused(error))?;
        let would = one_line(&approval.spec.request.would, 1024);
        write_out(&format!("{}: {answer} by {me}: {would}\n", approval.name_any()))?;
    }
    Ok(Exit::Good)
}

/// Says what an incident was.
pub(super) async fn judge(cluster: &Cluster, name: &str, is: Judgement, because: &str) -> Result<Exit> {
    let me = cluster.me().await?;
    let incident = cluster.incident(name).await?;
    let (word, then) = match is {
        Judgement::TruePositive => ("TruePositive", ""),
        Judgement::FalsePositive => ("FalsePositive", ": everything that can be undone is to be undone"),
    };
    let namespace = incident.namespace().unwrap_or_default();
    let api: Api<Incident> = Api::namespaced(cluster.client.clone(), &namespace);
    let patch = json!({"spec": {"verdict": {"is": word, "by": me, "reason": because}}});
    api.patch(&incident.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(|error| cluster.refused(error))?;
    write_out(&format!("{}: {word} by {me}{then}\n", incident.name_any()))?;
    Ok(Exit::Good)
}

/// Asks for the undo of an action, or of everything of an incident that is in force.
pub(super) async fn revert(cluster: &Cluster, name: &str, because: &str) -> Result<Exit> {
    let me = cluster.me().await?;
    let in_force = |action: &&&ResponseAction| {
        use ActionState::{Applied, RevertBlocked, Unverified, Verified};
        action
            .status
            .as_ref()
            .is_some_and(|status| matches!(status.state, Applied | Verified | Unverified | RevertBlocked))
    };
    let all: Vec<ResponseAction> = cluster.all().await?;
    let named = match one_called(&all, name, "action")? {
        Some(one) => vec![one],
        None => {
            let incident = cluster.incident(name).await?;
            let id = |one: &ResponseAction| one.spec.plan.incident.clone().unwrap_or_default();
            all.iter().filter(|one| belongs(*one, &incident, &id(one))).collect()
        }
    };
    let wanted: Vec<&ResponseAction> = named.iter().filter(in_force).copied().collect();
    if wanted.is_empty() {
        return Err(Ended::with(Exit::Conflict, format!("nothing of {name} is in force")));
    }
    for action in wanted {
        let namespace = action.namespace().unwrap_or_default();
        let api: Api<ResponseAction> = Api::namespaced(cluster.client.clone(), &namespace);
        let patch = json!({"spec": {"end": {"how": "Revert", "by": me, "reason": because}}});
        api.patch(&action.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(|error| cluster.refused(error))?;
        write_out(&format!("{}: {} is to be undone\n", action.name_any(), action.spec.plan.action.0))?;
    }
    Ok(Exit::Good)
}

/// The one object of exactly this name; an error where two namespaces have one.
fn one_called<'a, K: kube::ResourceExt>(all: &'a [K], name: &str, what: &str) -> Result<Option<&'a K>> {
    let called: Vec<&K> = all.iter().filter(|one| one.name_any() == name).collect();
    match called.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => {
            let places: Vec<String> = several.iter().filter_map(|one| one.namespace()).collect();
            let message = format!("there is an {what} {name} in {}: choose with -n", places.join(" and in "));
            Err(Ended::with(Exit::Unknown, message))
        }
    }
}

/// Why an approval waits no more.
fn over(one: &Approval, state: Asked) -> String {
    let by = one.spec.decision.as_ref().map(|decision| decision.by.as_str());
    match (state, by) {
        (Asked::Pending, Some(by)) => format!("{by} has answered already"),
        (Asked::Approved, _) => format!("approved by {}", by.unwrap_or("somebody")),
        (Asked::Denied, _) => format!("denied by {}", by.unwrap_or("somebody")),
        (Asked::Expired, _) => "nobody answered in time, which is a no".into(),
        (Asked::Withdrawn, _) => "the question is no longer asked".into(),
        (Asked::Pending, None) => "it is pending".into(),
    }
}
