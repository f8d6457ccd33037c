//! I6 on a real cluster: what is protected is left alone, and the reason stands in status.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::demo::cluster::stage::{IMAGE, NAMESPACE, Pod, Stage, name, pods, states};

/// A pod that must not be touched, and a word of the reason.
struct Case {
    what: &'static str,
    namespace: &'static str,
    object: Value,
    because: &'static str,
}

pub(super) fn prove(stage: &Stage) -> Result<()> {
    let policy = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponsePolicy",
        "metadata": {"name": "vault", "namespace": NAMESPACE},
        "spec": {"match": {}, "protected": {"namespaces": ["vault"]}, "widest": "Namespace"}});
    stage.kubectl.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vault"}}))?;
    stage.kubectl.apply(&policy)?;
    for case in cases() {
        one(stage, &case)?;
    }
    stage.kubectl.ask(&["delete", "responsepolicy", "vault", "--namespace", NAMESPACE])?;
    stage.kubectl.ask(&["delete", "namespace", "vault", "--wait=false"]).map(drop)
}

fn cases() -> [Case; 4] {
    let pod = |namespace: &str, name: &str, extra: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container()]}});
        merge(&mut object, extra);
        object
    };
    let ours = json!({"metadata": {"labels": {"app.kubernetes.io/name": "hemostat"}}});
    let network = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "network", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "network"}}, "template": {"metadata": {"labels": {"app": "network"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container()],
                "volumes": [{"name": "cni", "hostPath": {"path": "/etc/cni", "type": "DirectoryOrCreate"}}]}}}});
    [
        Case {
            what: "a system namespace",
            namespace: "kube-system",
            object: pod("kube-system", "system", json!({})),
            because: "kube-system",
        },
        Case {
            what: "a namespace on the protected list",
            namespace: "vault",
            object: pod("vault", "kept", json!({})),
            because: "vault",
        },
        Case {
            what: "a pod of ours",
            namespace: NAMESPACE,
            object: pod(NAMESPACE, "ours", ours),
            because: "hemostat",
        },
        Case {
            what: "a DaemonSet of the network",
            namespace: "default",
            object: network,
            because: "network",
        },
    ]
}

fn container() -> Value {
    json!({"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sleep", "3600"]})
}

fn merge(into: &mut Value, extra: Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, extra) => *into = extra,
    }
}

fn one(stage: &Stage, case: &Case) -> Result<()> {
    stage.kubectl.apply(&case.object)?;
    let selector = match case.object["kind"].as_str() {
        Some("DaemonSet") => "app=network".to_owned(),
        _ => format!("app={}", name(&case.object)),
    };
    let ready = ["wait", "--for=condition=Ready", "pod", "--namespace", case.namespace, "--timeout=60s"];
    stage.wait("its pod is there", || Ok(!pods(&stage.kubectl, case.namespace, &selector)?.is_empty()))?;
    stage.kubectl.ask(&[&ready[..], &["--selector", &selector]].concat())?;
    let pod: Pod = pods(&stage.kubectl, case.namespace, &selector)?
        .into_iter()
        .next()
        .ok_or_else(|| anyhow::anyhow!("{}: no pod", case.what))?;
    let miner = stage.mine_in(case.namespace, &pod)?;
    let mut found = Value::Null;
    let mut actions = Vec::new();
    stage.wait(&format!("{} is refused, with the reason in status", case.what), || {
        let all = stage.kubectl.ask_json(&["get", "incidents", "--all-namespaces"])?;
        let about = |one: &&Value| {
            one["status"]["target"].as_str().unwrap_or_default().contains(&pod.name)
                && one["spec"]["verdict"].is_null()
        };
        let Some(incident) = all["items"].as_array().into_iter().flatten().find(about) else {
            return Ok(false);
        };
        found = incident.clone();
        actions = stage.actions(&found)?;
        // In the gate's reasons where it is known before anything begins, else in the action that was not done.
        let said = found["status"]["runs"].to_string();
        let refused = |one: &Value| {
            let detail = one["status"]["detail"].as_str().unwrap_or_default();
            one["status"]["state"] == "Failed" && detail.contains("protected")
        };
        let told = (said.contains("protected") && said.contains(case.because)) || actions.iter().any(refused);
        ensure!(told, "its status says {said}, its actions {:?}", states(&actions));
        Ok(true)
    })?;
    // What the playbook would have done to it in the cluster is not there.
    let done = actions.iter().find(|one| {
        let of_cluster =
            one["spec"]["plan"]["action"].as_str().is_some_and(|name| name.starts_with("cluster."));
        let changes = one["spec"]["plan"]["undo"]["class"] != "Nothing";
        of_cluster && changes && !one["status"]["applied"].is_null()
    });
    ensure!(done.is_none(), "{}: something was done to it: {done:?}", case.what);
    let by_run = actions.iter().find(|one| {
        // What the node did by itself has no step: nodes know nothing of namespaces, and a run takes it in so that it is undone with the rest.
        !one["spec"]["plan"]["step"].is_null()
            && one["spec"]["plan"]["undo"]["class"] != "Nothing"
            && !one["status"]["applied"].is_null()
    });
    if case.namespace == "vault" || case.namespace == "kube-system" {
        ensure!(by_run.is_none(), "{}: a playbook acted on it: {by_run:?}", case.what);
    }
    stage.false_positive(&found)?;
    miner.end_in(stage, case.namespace, &pod)?;
    let kind = case.object["kind"].as_str().unwrap_or_default();
    stage
        .kubectl
        .ask(&["delete", kind, name(&case.object), "--namespace", case.namespace, "--wait=false"])
        .map(drop)
}
