//! With Cilium a policy really cuts a pod off, and its withdrawal really gives it back.

use std::path::Path;

use hemostat_cluster_tests::{Xtask, state, traces, wait_until};

struct Down<'a>(&'a Xtask);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _best_effort = self.0.cluster(&["down"]);
    }
}

const PODS: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server", "labels": {"app": "server"}}, "spec": {"terminationGracePeriodSeconds": 0,
    "containers": [{"name": "c", "image": "hemostat.dev/busybox:1", "imagePullPolicy": "Never", "command": ["httpd", "-f", "-p", "8080", "-h", "/etc"]}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "labels": {"app": "client"}}, "spec": {"terminationGracePeriodSeconds": 0,
    "containers": [{"name": "c", "image": "hemostat.dev/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "3600"]}]}}]}"#;

const DENY: &str = r#"{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "deny"}, "spec": {
    "endpointSelector": {"matchLabels": {"app": "server"}}, "ingressDeny": [{"fromEntities": ["all"]}]}}"#;

#[test]
fn a_deny_policy_cuts_a_pod_off_and_its_withdrawal_gives_it_back() {
    let Some(xtask) = Xtask::here() else { return };
    if !hemostat_cluster_tests::cache().is_some_and(|cache| cache.join("cluster/cilium/version").exists()) {
        println!(
            "SKIPPED: Cilium: it is not built yet; `cargo xtask cluster up --cni cilium` builds it, about 5 minutes once"
        );
        return;
    }
    xtask.cluster(&["down"]).unwrap();
    let down = Down(&xtask);
    xtask.cluster(&["up", "--cni", "cilium"]).unwrap();
    apply(&xtask, &state().join("pods.json"), PODS).unwrap();
    xtask.kubectl(&["wait", "--for=condition=Ready", "pod/server", "pod/client", "--timeout=90s"]).unwrap();
    let address = xtask.kubectl(&["get", "pod", "server", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let url = format!("http://{}:8080/group", address.trim());
    let answers =
        || xtask.kubectl(&["exec", "client", "--", "timeout", "1", "wget", "-q", "-O", "-", &url]).is_ok();
    wait_until(answers).unwrap();
    apply(&xtask, &state().join("deny.json"), DENY).unwrap();
    wait_until(|| !answers()).unwrap();
    xtask.kubectl(&["delete", "ciliumnetworkpolicy", "deny"]).unwrap();
    wait_until(answers).unwrap();
    drop(down);
    assert_eq!(traces(), [].into());
}

fn apply(xtask: &Xtask, file: &Path, manifest: &str) -> anyhow::Result<String> {
    std::fs::write(file, manifest)?;
    xtask.kubectl(&["apply", "--filename", &file.display().to_string()])
}
