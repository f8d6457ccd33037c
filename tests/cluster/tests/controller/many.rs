//! What a pod costs the controller's memory, measured on a real API server with that many objects:
//! `cargo test -p hemostat-cluster-tests --test controller -- --ignored --nocapture many`.

use std::{fmt::Write as _, fs};

use kube::{
    Api, Client, Config,
    api::{DynamicObject, Patch, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::ApiResource,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    FREEZE,
    scene::{Process, Scene, until},
    steps,
};

/// Pods after each of which it is measured. HEMOSTAT_PODS says others.
const COUNTS: [usize; 2] = [5_000, 10_000];
/// What a pod may cost at most while nothing happens.
const MOST_BYTES: u64 = 16 << 10;
/// Requests under way at the same time.
const AT_ONCE: usize = 24;

/// Of the size of usual ones: an owner, labels, two containers with environment and mounts, and a status.
fn pod(n: usize) -> (Value, Value) {
    let env: Vec<Value> =
        (0..12).map(|at| json!({"name": format!("SETTING_{at}"), "value": "v".repeat(24)})).collect();
    let container = |name: &str| {
        json!({"name": name, "image": format!("registry.example.com/shop/{name}:1.{}", n % 40), "env": env,
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]})
    };
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("api-{}", n / 20), "uid": format!("00000000-0000-4000-8000-{:012}", n / 20),
        "controller": true});
    let object = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("api-{n}"), "namespace": "pay", "ownerReferences": [owner],
            "labels": {"app": format!("api-{}", n / 20), "pod-template-hash": "6c9f7d5b8", "team": "pay", "tier": "web"},
            "annotations": {"checksum/config": "0".repeat(64)}},
        "spec": {"nodeName": format!("node-{}", n % 200), "serviceAccountName": "default", "automountServiceAccountToken": false,
            "volumes": [{"name": "tmp", "emptyDir": {}}], "containers": [container("api"), container("proxy")]}});
    let status = |name: &str| {
        json!({"name": name, "image": format!("registry.example.com/shop/{name}:1"), "ready": true, "restartCount": 0,
            "imageID": format!("registry.example.com/shop/{name}@sha256:{}", "0".repeat(64)),
            "containerID": format!("containerd://{n:064x}"), "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
    };
    let address = format!("10.{}.{}.{}", 64 + n / 65536, n / 256 % 256, n % 256);
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "192.0.2.1",
        "containerStatuses": [status("api"), status("proxy")]}});
    (object, status)
}

async fn make(api: &Api<DynamicObject>, n: usize) {
    let (object, status) = pod(n);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
    api.patch_status(&format!("api-{n}"), &Default::default(), &Patch::Merge(status)).await.unwrap();
}

async fn make_all(api: &Api<DynamicObject>, from: usize, to: usize) {
    let mut under_way = JoinSet::new();
    for n in from..to {
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await.unwrap().unwrap();
        }
        let api = api.clone();
        under_way.spawn(async move { make(&api, n).await });
    }
    while let Some(made) = under_way.join_next().await {
        made.unwrap();
    }
}

fn pods() -> ApiResource {
    ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: "Pod".into(),
        plural: "pods".into(),
    }
}

/// Bytes of the controller: its own memory that is resident, and the most that ever was, without the program's file.
fn memory(process: &Process) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let read = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    (read("RssAnon:"), read("VmHWM:").saturating_sub(read("RssFile:")))
}

async fn knows(process: &Process, pods: usize) {
    let line = format!("hemostat_controller_pods_known {pods}\n");
    until("every pod is known", || process.ask("/metrics").is_some_and(|text| text.contains(&line))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "minutes, and a figure: docs/kubernetes.md has it"]
async fn i11_what_a_pod_costs() {
    let Some(scene) = Scene::new() else { return };
    let counts = std::env::var("HEMOSTAT_PODS").ok().map_or(COUNTS.to_vec(), |said| {
        said.split(',').map(|count| count.parse().unwrap()).collect::<Vec<usize>>()
    });
    scene.apply(&steps(&[FREEZE]));
    scene.kubectl(&["create", "serviceaccount", "default", "-n", "pay"]);
    let file = Kubeconfig::read_from(scene.server.kubeconfig("admin")).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    let api: Api<DynamicObject> = Api::namespaced_with(Client::try_from(config).unwrap(), "pay", &pods());
    let mut process = scene.start("one");
    let (empty, _) = memory(&process);
    let mut said = format!(
        "{:>8} {:>12} {:>12} {:>12} {:>12}\n{:>8} {:>12}\n",
        "pods",
        "MiB",
        "bytes/pod",
        "anew MiB",
        "most MiB",
        0,
        empty >> 20
    );
    let mut made = 0;
    for count in counts {
        let from = std::time::Instant::now();
        make_all(&api, made, count).await;
        println!("{made} to {count} pods made in {:?}", from.elapsed());
        made = count;
        knows(&process, count).await;
        let (grown, _) = memory(&process);
        // One that begins with all of them listed, with nothing of its own.
        process.stop();
        process = scene.start(&format!("of-{count}"));
        knows(&process, count).await;
        let (own, most) = memory(&process);
        let each = own.saturating_sub(empty) / count as u64;
        let mib = [grown, own, most].map(|bytes| bytes >> 20);
        writeln!(said, "{count:>8} {:>12} {each:>12} {:>12} {:>12}", mib[0], mib[1], mib[2]).unwrap();
        assert!(each <= MOST_BYTES, "{said}");
    }
    println!("{said}");
    process.stop();
}
