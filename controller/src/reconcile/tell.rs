//! Events on what an incident is about, so that `kubectl describe pod` tells of it.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use model::Attribution;

use super::mirror::Mirror;
use crate::api::Story;

impl Mirror {
    /// Tells of something: on the pod where it is known, else on the Incident. Best effort: nothing depends on an Event.
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
        let pod = story.view.incident.pods.iter().find_map(|known| match &known.attribution {
            Attribution::Resolved { pod, .. } => Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            }),
            _ => None,
        });
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
