//! Events on what an incident is about, so that `kubectl describe pod` tells of it once something is done.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use model::{Attribution, GateOutcome, Incident};

use super::mirror::Mirror;
use crate::api::Story;

impl Mirror {
    /// Tells of something: on the pod where it is known and something may be done, else on the Incident. Best effort: nothing depends on
    /// an Event.
    pub(crate) async fn tell(
        &self,
        story: &Story,
        reason: &str,
        what: &str,
        incident: &str,
        namespace: &str,
    ) {
        let shown = ObjectReference {
            api_version: Some("hemostat.dev/v1alpha1".into()),
            kind: Some("Incident".into()),
            name: Some(incident.into()),
            namespace: Some(namespace.into()),
            ..ObjectReference::default()
        };
        let pod = pod_to_tell_on(&story.view.incident);
        let calm = matches!(reason, "ActionReverted");
        let event = Event {
            type_: if calm { EventType::Normal } else { EventType::Warning },
            reason: reason.into(),
            note: Some(crds::cut(&format!("{incident}: {what}"), 1000)),
            action: reason.into(),
            secondary: pod.is_some().then(|| shown.clone()),
        };
        let about = pod.unwrap_or(shown);
        if let Err(failure) = self.reach.write(self.recorder.publish(&event, &about)).await {
            tracing::debug!(%failure, reason, "an Event could not be written");
        }
    }
}

/// The pod, unless all that goes on is watching: then nothing is written to what is not ours (I8).
fn pod_to_tell_on(incident: &Incident) -> Option<ObjectReference> {
    let acts = incident.runs.iter().any(|run| run.decision.outcome != GateOutcome::Shadow);
    if !acts && incident.actions.is_empty() {
        return None;
    }
    incident.pods.iter().find_map(|known| match &known.attribution {
        Attribution::Resolved { pod, .. } => Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn incident(runs: &Value) -> Incident {
        let pod = json!({
            "uid": "u", "namespace": "pay", "name": "api-0", "labels": {}, "namespace_labels": {}, "owners": [],
            "chain": model::OwnerChain::Whole, "service_account": null, "node": null, "network": model::PodNetwork::Pod,
            "origin": model::PodOrigin::Api, "addresses": [], "created": 1, "deleted": null,
        });
        let attribution =
            json!({"attribution": "resolved", "pod": pod, "container": null, "known": 1, "source": "watch"});
        serde_json::from_value(json!({
            "id": "inc-1", "title": "t", "severity": "high", "state": model::IncidentState::Open, "entities": [],
            "pods": [{"cgroup_uid": "u", "container_id": "c", "node": "n", "asked": 1, "attribution": attribution}],
            "findings": [], "findings_dropped": 0, "techniques": [], "first_event": 1, "opened": 1, "updated": 1,
            "contained": null, "verdict": null, "actions": [], "runs": runs, "timeline": [],
        }))
        .unwrap()
    }

    fn run(outcome: GateOutcome, state: model::RunState) -> Value {
        let decision = json!({"outcome": outcome, "reasons": []});
        json!({"id": "run-1", "playbook": "p", "decision": decision, "state": state, "waiting": []})
    }

    #[test]
    fn i8_in_shadow_nothing_is_told_on_an_owners_pod() {
        let shadow = run(GateOutcome::Shadow, model::RunState::Shadow);
        let acts = run(GateOutcome::Automatic, model::RunState::Running);
        let asks = run(GateOutcome::Approval, model::RunState::Waiting);
        let told = |runs: Value| pod_to_tell_on(&incident(&runs)).and_then(|pod| pod.name);
        assert_eq!(told(json!([])), None);
        assert_eq!(told(json!([shadow])), None);
        assert_eq!(told(json!([shadow, acts])).as_deref(), Some("api-0"));
        assert_eq!(told(json!([asks])).as_deref(), Some("api-0"));
    }
}
