//! A scan and a checkpoint on a real cluster: the Job's controller, the scheduler, the kubelet and containerd do their own part. The
//! scanner is a stand-in that says what one says, since no database of vulnerabilities and no registry can be had here.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test of its own; what cannot be done fails it"
)]

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use hemostat_act::{ActConfig, Executor, Own};
use hemostat_cluster_tests::{Xtask, traces};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use model::{
    ActionId, ClusterAction, CollectEvidence, CommandKey, Effect, IncidentId, MemoryCapture, NodeAction,
    NodeCommand, NodeId, ObjectRef, Outputs, Phase, PhaseDone, ScanImage, Target, Timestamp,
};
use serde_json::{Value, json};

const IMAGE: &str = "hemostat.dev/busybox:1";

/// Says on its standard error what it was asked, and on its standard output a report of Trivy's form.
const STAND_IN: &str = r#"
#include <stdio.h>
int main(int n, char **words) {
    for (int at = 0; at < n; at++) fprintf(stderr, "INFO %s\n", words[at]);
    printf("{\"SchemaVersion\": 2, \"ArtifactName\": \"%s\", \"Results\": [{\"Target\": \"x\", \"Vulnerabilities\": "
           "[{\"VulnerabilityID\": \"CVE-2021-44228\", \"Severity\": \"CRITICAL\", \"FixedVersion\": \"2.15\"}]}]}\n", words[n - 1]);
    return 0;
}
"#;

struct Down<'a>(&'a Xtask);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _best_effort = self.0.cluster(&["down"]);
    }
}

#[test]
fn a_scan_runs_as_a_job_and_a_checkpoint_that_cannot_be_had_is_said() {
    let Some(xtask) = Xtask::here() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("scanner.c"), folder.path().join("scanner"));
    std::fs::write(&source, STAND_IN).unwrap();
    let compiled = Command::new("cc").args(["-static", "-o"]).arg(&program).arg(&source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("SKIPPED: a scan on a real cluster: no C compiler makes a static stand-in of the scanner");
        return;
    }
    xtask.cluster(&["down"]).unwrap();
    let down = Down(&xtask);
    xtask.cluster(&["up"]).unwrap();
    xtask
        .cluster(&["load", "--name", "hemostat.dev/scanner:1", "--program", &program.display().to_string()])
        .unwrap();
    for namespace in ["home", "victim"] {
        xtask.kubectl(&["create", "namespace", namespace]).unwrap();
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "miner", "namespace": "victim"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "3600"]}]},
    });
    let file = folder.path().join("pod.json");
    std::fs::write(&file, pod.to_string()).unwrap();
    xtask.kubectl(&["apply", "--filename", &file.display().to_string()]).unwrap();
    xtask.kubectl(&["wait", "-n", "victim", "--for=condition=Ready", "pod/miner", "--timeout=90s"]).unwrap();
    let uid =
        xtask.kubectl(&["get", "-n", "victim", "pod", "miner", "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let kubeconfig = xtask.cluster(&["kubeconfig"]).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(play(Path::new(kubeconfig.trim()), folder.path(), uid.trim()));
    let left = xtask.kubectl(&["get", "-n", "home", "jobs", "-o", "name"]).unwrap();
    assert_eq!(left.trim(), "", "no Job stays behind");
    drop(down);
    assert_eq!(traces(), [].into());
}

async fn play(kubeconfig: &Path, folder: &Path, uid: &str) {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
    let executor = Executor::new(
        Client::try_from(config).unwrap(),
        ActConfig {
            evidence: folder.join("evidence"),
            sent: folder.join("sent"),
            channels: Vec::new(),
            own: Own { namespace: "home".into(), accounts: Vec::new() },
            scanner: Some("trivy=hemostat.dev/scanner:1".parse().unwrap()),
            leads: Arc::new(|| true),
            clock: Arc::new(now),
        },
    );
    let target = Target::Object(ObjectRef {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: Some("victim".into()),
        name: "miner".into(),
        uid: uid.into(),
        as_of: None,
    });
    let scan = ClusterAction::ScanImage(ScanImage { image: IMAGE.into() });
    let outputs = carry_out(&executor, &scan, &target).await;
    assert_eq!((&outputs["vulnerable"], &outputs["critical"]), (&json!(true), &json!(1)), "{outputs:?}");
    let report = std::fs::read_to_string(Path::new(outputs["bundle"].as_str().unwrap()).join("report.log"));
    let report = report.unwrap();
    assert!(report.contains("busybox"), "what was looked at: {report}");

    let evidence =
        ClusterAction::CollectEvidence(CollectEvidence { memory: MemoryCapture::Private, lines: 10 });
    let outputs = carry_out(&executor, &evidence, &target).await;
    let bundle = Path::new(outputs["bundle"].as_str().unwrap());
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.join("manifest.json")).unwrap()).unwrap();
    println!("checkpoints {}, incomplete {}", manifest["checkpoints"], manifest["incomplete"]);
    // Where the runtime has no CRIU it says so, and the rest is there.
    let said = manifest["incomplete"].to_string().contains("checkpoint of c");
    assert!(said || manifest["checkpoints"][0]["on_node"].is_array(), "{manifest}");
    assert!(bundle.join("pod.json").exists() && bundle.join("c.log").exists());
}

/// Capture, apply, verify.
async fn carry_out(executor: &Executor, action: &ClusterAction, target: &Target) -> Outputs {
    let phase = async |phase: Phase| {
        let command = NodeCommand {
            key: CommandKey::new(format!("{}/{}", action.name(), phase.name())),
            action_id: ActionId::new(action.name()),
            incident: IncidentId::new("inc-1"),
            node: NodeId::cluster(),
            deadline: now().plus(Duration::from_secs(90)),
            action: NodeAction::Cluster(action.clone()),
            target: target.clone(),
            phase,
        };
        executor.carry_out(&command).await.result.unwrap()
    };
    let PhaseDone::Captured { rollback } = phase(Phase::Capture).await else { panic!() };
    let PhaseDone::Applied { outputs } = phase(Phase::Apply { rollback: rollback.clone() }).await else {
        panic!()
    };
    let seen = phase(Phase::Verify { rollback }).await;
    assert_eq!(seen, PhaseDone::Verified { effect: Effect::InForce });
    outputs
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}
