//! `cluster.collect-evidence`: a pod's manifest, its events and its containers' logs, in a folder with a manifest of hashes; with
//! `memory: Private` the kubelet is asked for a checkpoint of each container, which stays on its node. Changes nothing.

use model::{ActionFailure, ClusterState, CollectEvidence, MemoryCapture, ObjectRef, Outputs};
use serde_json::{Value, json};

use super::bundle::{Bundle, pretty};
use crate::{
    api::percent_encoded,
    job::{Job, Look},
    permissions::{Rule, rule},
    shown::masked,
};

/// Bytes of one log, at most (I11).
const MAX_LOG: usize = 16 << 20;
/// Containers of a pod whose logs are taken, at most (I11).
const MAX_CONTAINERS: usize = 64;

pub(super) fn permissions() -> Vec<Rule> {
    vec![rule("", &["pods"], &["get"]), rule("", &["pods/log"], &["get"]), rule("", &["events"], &["list"])]
}

/// A checkpoint is asked of the kubelet, through the API server.
pub(super) fn checkpoint_permissions() -> Vec<Rule> {
    vec![rule("", &["nodes/proxy"], &["create"])]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    job.read_a(&["Pod"]).await?;
    Ok(ClusterState::default())
}

pub(super) async fn apply(job: &Job<'_>, with: &CollectEvidence) -> Result<Outputs, ActionFailure> {
    let bundle = Bundle::of(job, "pod");
    if !bundle.is_there() {
        collect(job, with, &bundle).await?;
    }
    bundle.outputs()
}

pub(super) fn verify(job: &Job<'_>) -> Look {
    Bundle::of(job, "pod").verify()
}

async fn collect(job: &Job<'_>, with: &CollectEvidence, bundle: &Bundle) -> Result<(), ActionFailure> {
    let (object, pod) = job.read_a(&["Pod"]).await?;
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut incomplete: Vec<String> = Vec::new();
    // Nothing but memory holds secrets in clear text, here as on a node.
    files.push(("pod.json".into(), pretty(&masked(&pod))));
    let about = format!("fieldSelector={}", percent_encoded(&format!("involvedObject.uid={}", object.uid)));
    match job.api.list("v1", "Event", object.namespace.as_deref(), &about).await {
        Ok(events) => files.push(("events.json".into(), pretty(&Value::Array(events)))),
        Err(fault) => incomplete.push(format!("events: {fault}")),
    }
    let mut checkpoints = Vec::new();
    for container in containers(&pod, &["initContainers", "containers", "ephemeralContainers"]) {
        for (previous, suffix) in [("false", ""), ("true", ".previous")] {
            let query = format!(
                "container={}&previous={previous}&timestamps=true&tailLines={}&limitBytes={MAX_LOG}",
                percent_encoded(container),
                with.lines
            );
            match job.api.text_below(&object, "log", &query).await {
                // Names in a pod are DNS labels, so they are sound as file names.
                Ok(log) => files.push((format!("{container}{suffix}.log"), log.into_bytes())),
                // A container that never restarted has no earlier log.
                Err(_) if previous == "true" => {}
                Err(fault) => incomplete.push(format!("log of {container}: {fault}")),
            }
        }
    }
    if with.memory == MemoryCapture::Private {
        for container in containers(&pod, &["containers"]) {
            match checkpoint(job, &object, &pod, container).await {
                Ok(places) => checkpoints.push(json!({"container": container, "on_node": places})),
                Err(because) => incomplete.push(format!("checkpoint of {container}: {because}")),
            }
        }
    }
    let about = json!({
        "incident": job.incident, "action": job.id, "pod": object, "collected": (job.config.clock)(),
        "node": pod["spec"]["nodeName"], "checkpoints": checkpoints, "incomplete": incomplete,
    });
    bundle.write(files, about)
}

fn containers<'a>(pod: &'a Value, lists: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let all = lists.iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    all.filter_map(|container| container["name"].as_str()).take(MAX_CONTAINERS)
}

/// Where the kubelet keeps a checkpoint of a container, on its node. Not every kubelet can, nor every container runtime.
/// <https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/>
async fn checkpoint(job: &Job<'_>, pod: &ObjectRef, found: &Value, container: &str) -> Result<Value, String> {
    let name = found["spec"]["nodeName"].as_str().ok_or("it is on no node")?;
    let node = ObjectRef {
        api_version: "v1".into(),
        kind: "Node".into(),
        namespace: None,
        name: name.into(),
        uid: String::new(),
        as_of: None,
    };
    let below = format!(
        "proxy/checkpoint/{}/{}/{}",
        percent_encoded(pod.namespace.as_deref().unwrap_or_default()),
        percent_encoded(&pod.name),
        percent_encoded(container)
    );
    let answer = job.api.post_below(&node, &below, &json!({})).await.map_err(|fault| fault.to_string())?;
    Ok(answer["items"].clone())
}
