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

/// What the node did, or refused, by itself has no step.
fn is_own(action: &Value) -> bool {
    action["spec"]["plan"]["step"].is_null()
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
        let refused = |one: &&Value| {
            let detail = one["status"]["detail"].as_str().unwrap_or_default();
            one["status"]["state"] == "Failed" && detail.contains("protected")
        };
        let of_runs = |one: &&Value| !is_own(one);
        let by_run = (said.contains("protected") && said.contains(case.because))
            || actions.iter().filter(of_runs).any(|one| refused(&one));
        ensure!(by_run, "its status says {said}, its actions {:?}", states(&actions));
        // The rule's own reaction, before any playbook: the node itself refused it, and the incident tells why.
        let by_node = actions.iter().find(|one| is_own(one) && refused(one));
        let why = by_node.map(|one| one["status"]["detail"].to_string()).unwrap_or_default();
        ensure!(
            why.contains(case.because),
            "the node's refusal says {why:?}, all are {:?}",
            states(&actions)
        );
        Ok(true)
    })?;
    // Nothing was done to the process either: it neither stands still nor was it moved.
    let script = "cat /proc/$(cat /miner)/cgroup /proc/$(cat /miner)/status";
    let now =
        stage.kubectl.ask(&["exec", "--namespace", case.namespace, &pod.name, "--", "sh", "-c", script])?;
    ensure!(
        !now.contains("hemostat-jail") && !now.contains("(stopped)"),
        "{}: the node acted on the process: {now}",
        case.what
    );
    // What the playbook would have done to it in the cluster is not there.
    let done = actions.iter().find(|one| {
        let of_cluster =
            one["spec"]["plan"]["action"].as_str().is_some_and(|name| name.starts_with("cluster."));
        let changes = one["spec"]["plan"]["undo"]["class"] != "Nothing";
        of_cluster && changes && !one["status"]["applied"].is_null()
    });
    ensure!(done.is_none(), "{}: something was done to it: {done:?}", case.what);
    let acted = actions
        .iter()
        .find(|one| one["spec"]["plan"]["undo"]["class"] != "Nothing" && !one["status"]["applied"].is_null());
    ensure!(acted.is_none(), "{}: it was acted on: {acted:?}", case.what);
    // Not a false positive: two of those take the playbook back, and then no rule lets a node act.
    stage.judge_as(&found, "TruePositive")?;
    miner.end_in(stage, case.namespace, &pod)?;
    let kind = case.object["kind"].as_str().unwrap_or_default();
    stage
        .kubectl
        .ask(&["delete", kind, name(&case.object), "--namespace", case.namespace, "--wait=false"])
        .map(drop)
}
