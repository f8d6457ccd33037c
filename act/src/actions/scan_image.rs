//! `cluster.scan-image`: a scanner looks for known vulnerabilities in a container's image, as a Job in our own namespace. Its report is
//! kept, and later steps see what it says: a playbook can open a ticket only where a known vulnerability is named.
//!
//! The Job is the one thing that is made, and it goes once its report is read; if nobody reads it, it ends and goes by itself. It has no
//! rights in the API server and nothing of the incident but the name of the image.

use std::time::Duration;

use model::{ActionFailure, ClusterState, Edit, ObjectRef, Outputs, ScanImage};
use serde_json::{Value, json};

use super::{bundle::Bundle, deny::is_image};
use crate::{
    api::{ApiFault, percent_encoded, reference, seconds},
    edits,
    job::{INCIDENT, Job, Look, state},
    permissions::{Rule, rule},
    scanner::Scanner,
};

/// Between two looks whether the Job is over.
const LOOK: Duration = Duration::from_millis(500);
/// The Job ends by itself after this, and goes after that, whatever becomes of us.
const LONGEST: u32 = 900;
const GOES_AFTER: u32 = 600;
/// What is left of the time of the command for the report and the answer.
const REST: Duration = Duration::from_secs(2);
/// Bytes of a report, at most (I11).
const MAX_REPORT: usize = 32 << 20;
const CONTAINER: &str = "scanner";
const REPORT: &str = "report.log";
/// On the Job's pod: the image that is looked at.
const IMAGE: &str = "hemostat.dev/image";

pub(super) fn permissions() -> Vec<Rule> {
    vec![rule("", &["pods"], &["get"])]
}

/// In our own namespace, and in no other: whoever may make Jobs may run anything.
pub(super) fn permissions_at_home() -> Vec<Rule> {
    vec![
        rule("batch", &["jobs"], &["get", "create", "delete"]),
        rule("", &["pods"], &["list"]),
        rule("", &["pods/log"], &["get"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>, with: &ScanImage) -> Result<ClusterState, ActionFailure> {
    let (_, pod) = job.read_a(&["Pod"]).await?;
    let scanner = scanner(job)?;
    if !is_image(&with.image) {
        return Err(job.unsupported(format!("`{:.80}` is no name of an image", with.image)));
    }
    let image = exactly(&pod, &with.image)
        .ok_or_else(|| job.unsupported(format!("none of its containers has the image {}", with.image)))?;
    let home = job.config.own.namespace.as_str();
    Ok(state([job.made("batch/v1", "Job", Some(home), body(job, scanner, &image))]))
}

pub(super) async fn apply(job: &Job<'_>, captured: &ClusterState) -> Result<Outputs, ActionFailure> {
    let scanner = scanner(job)?;
    let bundle = Bundle::of(job, "scan");
    if !bundle.is_there() {
        edits::apply(job.api, captured, &job.manager()).await?;
        let Some(Edit::Make { object, .. }) = captured.edits.first() else {
            return Err(job.unsupported("nothing was captured"));
        };
        let ended = wait(job, object).await;
        let done = match ended {
            Ok(End::Complete(made)) => keep(job, scanner, &bundle, &made).await,
            Ok(End::Failed(made, because)) => Err(job.unsupported(format!(
                "the scanner failed: {because}; it said: {}",
                last_words(job, &made).await
            ))),
            Err(failure) => Err(failure),
        };
        // A controller that leads no longer leaves it to the next one.
        if (job.config.leads)() {
            clear(job, object).await;
        }
        done?;
    }
    let log = String::from_utf8_lossy(&bundle.read(REPORT)?).into_owned();
    let findings = scanner.report(&log).map_err(|error| job.unsupported(error.to_string()))?;
    let mut outputs = bundle.outputs()?;
    outputs.extend(findings.outputs());
    outputs.insert("scanner".into(), json!(scanner.kind.name()));
    if let Some(image) = looked_at(captured) {
        outputs.insert("image".into(), json!(image));
    }
    Ok(outputs)
}

pub(super) fn verify(job: &Job<'_>) -> Look {
    Bundle::of(job, "scan").verify()
}

fn scanner<'a>(job: &Job<'a>) -> Result<&'a Scanner, ActionFailure> {
    let missing = || job.unsupported("the controller was given no scanner (--scanner)");
    job.config.scanner.as_ref().ok_or_else(missing)
}

/// The image by its digest, where the node tells it: a name may mean another image by now.
fn exactly(pod: &Value, image: &str) -> Option<String> {
    let mut known = false;
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let statuses = pod["status"][format!("{}Statuses", list.trim_end_matches('s'))].as_array();
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            if container["image"] != image {
                continue;
            }
            known = true;
            let mut of_name =
                statuses.into_iter().flatten().filter(|status| status["name"] == container["name"]);
            let exact = of_name.find_map(|status| status["imageID"].as_str());
            let exact = exact.map(|id| id.trim_start_matches("docker-pullable://"));
            if let Some(exact) = exact.filter(|id| id.contains("@sha256:") && is_image(id)) {
                return Some(exact.to_owned());
            }
        }
    }
    known.then(|| image.to_owned())
}

/// The image that was captured to be looked at.
fn looked_at(captured: &ClusterState) -> Option<&str> {
    let Some(Edit::Make { content, .. }) = captured.edits.first() else { return None };
    content["spec"]["template"]["metadata"]["annotations"][IMAGE].as_str()
}

fn body(job: &Job<'_>, scanner: &Scanner, image: &str) -> Value {
    let mut volumes = vec![json!({"name": "work", "emptyDir": {"sizeLimit": "8Gi"}})];
    let mut mounts = vec![json!({"name": "work", "mountPath": "/work"})];
    let mut variables = vec![
        json!({"name": "HOME", "value": "/work"}),
        json!({"name": "TMPDIR", "value": "/work"}),
        json!({"name": "XDG_CACHE_HOME", "value": "/work/cache"}),
        json!({"name": "TRIVY_CACHE_DIR", "value": "/work/cache"}),
        json!({"name": "GRYPE_DB_CACHE_DIR", "value": "/work/cache"}),
        json!({"name": "GRYPE_CHECK_FOR_APP_UPDATE", "value": "false"}),
    ];
    if let Some(secret) = &scanner.pull_secret {
        let items = json!([{"key": ".dockerconfigjson", "path": "config.json"}]);
        volumes.push(json!({"name": "pull", "secret": {"secretName": secret, "items": items}}));
        mounts.push(json!({"name": "pull", "mountPath": "/pull", "readOnly": true}));
        variables.push(json!({"name": "DOCKER_CONFIG", "value": "/pull"}));
    }
    json!({"spec": {
        "backoffLimit": 0, "completions": 1, "parallelism": 1,
        "activeDeadlineSeconds": LONGEST, "ttlSecondsAfterFinished": GOES_AFTER,
        "template": {
            "metadata": {"labels": {
                "app.kubernetes.io/managed-by": "hemostat", "app.kubernetes.io/component": "scanner",
                INCIDENT: job.incident.as_str(),
            }, "annotations": {IMAGE: image}},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": CONTAINER, "image": scanner.image, "args": scanner.words(image),
                    "env": variables, "volumeMounts": mounts,
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    // What it writes is bounded by its volume: not every node counts local storage, and none would take it there.
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "512Mi"},
                        "limits": {"cpu": "2", "memory": "2Gi"},
                    },
                }],
                "volumes": volumes,
            },
        },
    }})
}

/// How the Job ended.
enum End {
    Complete(Value),
    Failed(Value, String),
}

async fn wait(job: &Job<'_>, object: &ObjectRef) -> Result<End, ActionFailure> {
    let left = job.deadline.since((job.config.clock)()).saturating_sub(REST);
    let until = tokio::time::Instant::now() + left;
    loop {
        if !(job.config.leads)() {
            return Err(away(object, "this controller's lease has run out"));
        }
        // Not the target: it is no good end that the Job was taken away.
        let found = job.api.find(object).await?.ok_or_else(|| away(object, "somebody took its Job away"))?;
        let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
        let over =
            conditions.filter(|one| one["status"] == "True").find_map(|one| match one["type"].as_str() {
                Some("Complete") => Some(None),
                Some("Failed") => {
                    Some(Some(one["reason"].as_str().unwrap_or("it does not say why").to_owned()))
                }
                _ => None,
            });
        match over {
            Some(None) => return Ok(End::Complete(found)),
            Some(Some(because)) => return Ok(End::Failed(found, because)),
            None if tokio::time::Instant::now() >= until => {
                let because = format!("the scanner was not ready in time{}", waits_for(job, &found).await);
                return Err(away(object, &because));
            }
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Its report, if it is one, goes to the evidence.
async fn keep(job: &Job<'_>, scanner: &Scanner, bundle: &Bundle, made: &Value) -> Result<(), ActionFailure> {
    let log = log(job, made, &format!("limitBytes={MAX_REPORT}")).await?;
    scanner.report(&log).map_err(|error| job.unsupported(error.to_string()))?;
    let about = json!({
        "incident": job.incident, "action": job.id, "scanner": scanner.kind.name(), "scanner_image": scanner.image,
        "words": made["spec"]["template"]["spec"]["containers"][0]["args"], "scanned": (job.config.clock)(),
    });
    // As it was said: whoever looks at it later may want more of it than is read here.
    bundle.write(vec![(REPORT.into(), log.into_bytes())], about)
}

/// The log of the Job's pod.
async fn log(job: &Job<'_>, made: &Value, query: &str) -> Result<String, ActionFailure> {
    let of = reference(made);
    let Some(pod) = pod(job, &of).await? else { return Err(away(&of, "its pod is not there")) };
    let read = job.api.text_below(&reference(&pod), "log", &format!("container={CONTAINER}&{query}")).await;
    read.map_err(|fault| away(&of, &fault.to_string()))
}

/// The newest pod that is certainly the Job's: a label says nothing of that.
async fn pod(job: &Job<'_>, of: &ObjectRef) -> Result<Option<Value>, ActionFailure> {
    let selected =
        format!("labelSelector={}", percent_encoded(&format!("batch.kubernetes.io/job-name={}", of.name)));
    let pods = job.api.list("v1", "Pod", of.namespace.as_deref(), &selected).await?;
    let own = |pod: &Value| super::owners::controller(pod).is_some_and(|owner| owner.uid == of.uid);
    let own = pods.into_iter().filter(own);
    Ok(own.max_by_key(|pod| seconds(&pod["metadata"]["creationTimestamp"])))
}

/// Why a Job is not over, as far as its pod tells: it has no place, or its image cannot be had.
async fn waits_for(job: &Job<'_>, made: &Value) -> String {
    let Ok(Some(pod)) = pod(job, &reference(made)).await else { return ": it has no pod".into() };
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let unscheduled =
        conditions.into_iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "False");
    let told = unscheduled.unwrap_or(waiting);
    let Some(reason) = told["reason"].as_str() else { return String::new() };
    let message: String = told["message"].as_str().unwrap_or_default().chars().take(300).collect();
    format!(": its pod waits ({reason}: {message})")
}

/// What a scanner that failed said last, on one line.
async fn last_words(job: &Job<'_>, made: &Value) -> String {
    match log(job, made, "tailLines=5&limitBytes=2000").await {
        Ok(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect(),
        Err(failure) => format!("(not to be had: {failure})"),
    }
}

async fn clear(job: &Job<'_>, object: &ObjectRef) {
    let gone = match job.api.find(object).await {
        Ok(Some(found)) => job.api.delete(&reference(&found), None).await,
        Ok(None) => Ok(()),
        Err(fault) => Err(fault),
    };
    match gone {
        Ok(()) | Err(ApiFault::NotFound { .. } | ApiFault::Conflict { .. }) => {}
        Err(fault) => tracing::warn!(%fault, %object, "a scanner's Job is left to go by itself"),
    }
}

fn away(object: &ObjectRef, because: &str) -> ActionFailure {
    ActionFailure::Io {
        operation: "scan an image".into(),
        object: object.to_string(),
        because: because.into(),
    }
}
