//! A scan's life on the real API server. Its Job's controller and its pod's kubelet are played, and the report is a stand-in's: a scanner
//! needs its database and a registry, which are not to be had here.

use hemostat_act::Scanner;
use model::{ActionFailure, ClusterAction, Effect, Outputs, ScanImage};
use serde_json::{Value, json};

use crate::{
    kubelet::Kubelet,
    world::{Act, World, target},
};

const IMAGE: &str = "registry.example/miner:1";
const EXACT: &str =
    "registry.example/miner@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn report() -> String {
    json!({
        "SchemaVersion": 2, "ArtifactName": EXACT, "ArtifactType": "container_image",
        "Results": [{"Target": "debian", "Class": "os-pkgs", "Vulnerabilities": [
            {"VulnerabilityID": "CVE-2021-44228", "PkgName": "log4j", "InstalledVersion": "2.14", "FixedVersion": "2.15", "Severity": "CRITICAL"},
        ]}],
    })
    .to_string()
}

async fn world() -> Option<(World, Kubelet, Value)> {
    let mut scanner: Scanner = "trivy=registry.example/trivy:1".parse().unwrap();
    (scanner.arguments, scanner.pull_secret) = (vec!["--offline-scan".into()], Some("pull".into()));
    let world = World::with("cluster.scan-image", &[], Vec::new(), Some(scanner)).await?;
    let kubelet = Kubelet::on(&world, true).await?;
    let home = format!("/api/v1/namespaces/{}/serviceaccounts", world.home);
    world.make(&home, json!({"metadata": {"name": "default"}})).await;
    let mut pod = world.pod(json!({"app": "x"}));
    pod["spec"]["containers"][0]["image"] = IMAGE.into();
    let pod = world.make(&world.below("pods"), pod).await;
    let path = format!("{}/{}", world.below("pods"), pod["metadata"]["name"].as_str().unwrap());
    let status = json!({"name": "c", "image": IMAGE, "imageID": EXACT, "ready": true, "restartCount": 0, "state": {"running": {}}});
    world.change(&format!("{path}/status"), json!({"status": {"containerStatuses": [status]}})).await;
    Some((world, kubelet, pod))
}

fn scan() -> ClusterAction {
    ClusterAction::ScanImage(ScanImage { image: IMAGE.into() })
}

/// The action, while its Job's controller and its pod's kubelet do their part.
async fn played(
    world: &World,
    kubelet: &Kubelet,
    act: &Act<'_>,
    complete: bool,
) -> Result<Outputs, ActionFailure> {
    let at = act.made();
    let others = async {
        world.until(async || world.get(&at).await.is_some()).await;
        let made = world.get(&at).await.unwrap();
        let (name, uid) = (made["metadata"]["name"].clone(), made["metadata"]["uid"].clone());
        let pods = format!("/api/v1/namespaces/{}/pods", world.home);
        let template = &made["spec"]["template"];
        let mut pod = json!({
            "metadata": {
                "generateName": "scan-", "labels": template["metadata"]["labels"],
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true}],
            },
            "spec": template["spec"],
        });
        pod["spec"]["nodeName"] = kubelet.node.clone().into();
        world.make(&pods, pod).await;
        // Somebody else's pod that calls itself the Job's, and came later, says what it likes.
        let mut foreign = json!({"metadata": {"generateName": "z-foreign-", "labels": {"batch.kubernetes.io/job-name": name}}, "spec": template["spec"]});
        foreign["spec"]["nodeName"] = "nowhere".into();
        world.make(&pods, foreign).await;
        let time = "2026-11-22T12:00:00Z";
        let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "lastProbeTime": time, "lastTransitionTime": time});
        let status = if complete {
            json!({"startTime": time, "completionTime": time, "succeeded": 1, "uncountedTerminatedPods": {}, "conditions": [condition("SuccessCriteriaMet", "CompletionsReached"), condition("Complete", "CompletionsReached")]})
        } else {
            json!({"startTime": time, "failed": 1, "uncountedTerminatedPods": {}, "conditions": [condition("FailureTarget", "BackoffLimitExceeded"), condition("Failed", "BackoffLimitExceeded")]})
        };
        world.change(&format!("{at}/status"), json!({"status": status})).await;
    };
    let (done, ()) = tokio::join!(act.apply(), others);
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_names_known_vulnerabilities_keeps_its_report_and_leaves_no_job() {
    let Some((world, kubelet, pod)) = world().await else { return };
    kubelet.says(&format!("GET /containerLogs/{}/", world.home), 200, format!("INFO hello\n{}\n", report()));
    let act = world.begin(scan(), target(&pod, "v1", "Pod")).await.unwrap();
    let outputs = played(&world, &kubelet, &act, true).await.unwrap();
    assert_eq!(
        (&outputs["vulnerable"], &outputs["critical"], &outputs["ids"], &outputs["scanner"]),
        (&json!(true), &json!(1), &json!(["CVE-2021-44228"]), &json!("trivy"))
    );
    assert_eq!(outputs["image"], json!(EXACT), "which image it says it of");
    assert!(world.get(&act.made()).await.is_none(), "its Job is gone");
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    assert_eq!(act.apply().await.unwrap(), outputs, "once");
    assert!(world.get(&act.made()).await.is_none(), "and no Job is made again");
    let asked = kubelet.heard.lock().unwrap().clone();
    assert!(asked[0].contains("/scanner?"), "{asked:?}");
    let bundle = std::path::PathBuf::from(outputs["bundle"].as_str().unwrap());
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.join("manifest.json")).unwrap()).unwrap();
    let words = manifest["words"].to_string();
    assert!(words.contains(EXACT) && words.contains("--offline-scan"), "the very image, {words}");
    std::fs::write(bundle.join("report.log"), "{}").unwrap();
    assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_fails_or_says_half_is_no_clean_one() {
    let Some((world, kubelet, pod)) = world().await else { return };
    let logs = format!("GET /containerLogs/{}/", world.home);
    let of = target(&pod, "v1", "Pod");
    kubelet.says(&logs, 200, "FATAL\tunable to pull: unauthorized\n");
    let act = world.begin(scan(), of.clone()).await.unwrap();
    let failed = played(&world, &kubelet, &act, false).await.unwrap_err().to_string();
    assert!(failed.contains("BackoffLimitExceeded") && failed.contains("unauthorized"), "{failed}");
    assert!(world.get(&act.made()).await.is_none(), "its Job is gone");
    let whole = report();
    kubelet.says(&logs, 200, &whole[..whole.len() / 2]);
    let act = world.begin(scan(), of.clone()).await.unwrap();
    let failed = played(&world, &kubelet, &act, true).await.unwrap_err().to_string();
    assert!(failed.contains("no whole report"), "{failed}");
    assert!(world.get(&act.made()).await.is_none(), "its Job is gone");
    assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
    for (image, because) in
        [("registry.example/other:1", "none of its containers"), ("--server=evil", "no name")]
    {
        let action = ClusterAction::ScanImage(ScanImage { image: image.into() });
        let refused = world.begin(action, of.clone()).await.err().unwrap().to_string();
        assert!(refused.contains(because), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_scanner_may_make_jobs_at_home_and_nowhere_else() {
    let Some((world, _kubelet, _)) = world().await else { return };
    let user = format!("act-{}", world.namespace.trim_start_matches("ns-"));
    let job = json!({"metadata": {"generateName": "x-"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let make = async |namespace: &str| {
        let all = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
        world.try_as(&user, hyper::Method::POST, &all, Some(&job)).await
    };
    world.until(async || make(&world.home).await.is_ok()).await;
    let refused = make(&world.namespace).await.unwrap_err();
    assert!(refused.contains("forbidden"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_scanner_nothing_is_scanned_and_that_is_said() {
    let Some(world) = World::of("cluster.scan-image").await else { return };
    let pod = world.make(&world.below("pods"), world.pod(json!({}))).await;
    let refused = world.begin(scan(), target(&pod, "v1", "Pod")).await.err().unwrap();
    assert!(refused.to_string().contains("--scanner"), "{refused}");
}
