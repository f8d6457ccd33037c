//! The cluster comes up, serves, is audited, and is gone without a trace, also when its maker is killed at any point.

use hemostat_cluster_tests::{
    Xtask, alive, audited, cache, cgroup, folders_of_kubernetes, state, traces, wait_until,
};

/// Takes it down also when a test panics.
struct Down<'a>(&'a Xtask);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _best_effort = self.0.cluster(&["down"]);
    }
}

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": {"containers": [{
    "name": "one", "image": "hemostat.dev/own:1", "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "echo started; sleep 3600"]}]}}"#;

#[test]
fn a_pod_runs_an_exec_is_audited_and_nothing_is_left() {
    let Some(xtask) = Xtask::here() else { return };
    xtask.cluster(&["down"]).unwrap();
    let folders = folders_of_kubernetes();
    let down = Down(&xtask);
    let said = xtask.cluster(&["up"]).unwrap();
    assert!(said.starts_with("export KUBECONFIG="), "{said}");
    let again = xtask.cluster(&["up"]).unwrap_err().to_string();
    assert!(again.contains("is up already"), "{again}");
    let status = xtask.cluster(&["status"]).unwrap();
    assert!(status.contains("Ready") && !status.contains("GONE"), "{status}");

    // An image of a static program, without a registry. The program is the shell that is cached with the cluster.
    let program = cache().unwrap().join("cluster/bin/busybox");
    xtask.cluster(&["load", "--name", "hemostat.dev/own:1", "--program", program.to_str().unwrap()]).unwrap();
    let dynamic = std::env::current_exe().unwrap();
    let refused =
        xtask.cluster(&["load", "--name", "hemostat.dev/x:1", "--program", dynamic.to_str().unwrap()]);
    assert!(refused.unwrap_err().to_string().contains("linked dynamically"));

    let manifest = state().join("pod.json");
    std::fs::write(&manifest, POD).unwrap();
    xtask.kubectl(&["apply", "--filename", manifest.to_str().unwrap()]).unwrap();
    xtask.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]).unwrap();
    let answer = xtask
        .kubectl(&["exec", "one", "--", "/bin/sh", "-c", "echo from-inside; cat /proc/self/cgroup"])
        .unwrap();
    assert!(answer.contains("from-inside") && answer.contains("kubepods"), "{answer}");
    assert!(xtask.kubectl(&["logs", "one"]).unwrap().contains("started"));

    // Who ran what in the pod stands in the audit log, and no secret's content does.
    wait_until(|| exec_entry().is_some()).unwrap();
    let entry = exec_entry().unwrap();
    assert_eq!(entry["user"]["username"], "hemostat-dev");
    assert!(entry["requestURI"].as_str().unwrap().contains("from-inside"), "{entry}");
    xtask.kubectl(&["create", "secret", "generic", "s", "--from-literal=password=dont-log-me"]).unwrap();
    wait_until(|| {
        audited()
            .unwrap()
            .iter()
            .any(|entry| entry["objectRef"]["resource"] == "secrets" && entry["verb"] == "create")
    })
    .unwrap();
    let log = std::fs::read_to_string(state().join("audit.log")).unwrap();
    assert!(!log.contains("dont-log-me") && !log.contains("ZG9udC1sb2ctbWU"));

    drop(down);
    assert_eq!(traces(), [].into());
    assert_eq!(folders_of_kubernetes(), folders);
}

#[test]
fn killed_at_any_point_of_up_nothing_runs_on_and_down_removes_the_rest() {
    let Some(xtask) = Xtask::here() else { return };
    xtask.cluster(&["down"]).unwrap();
    let folders = folders_of_kubernetes();
    let _down = Down(&xtask);
    let gone = |point: &str| {
        // Without anybody's help: the last process takes network and mounts with it.
        wait_until(|| alive().is_empty())
            .unwrap_or_else(|error| panic!("after {point}: {error}: {:#?}", alive()));
        xtask.cluster(&["down"]).unwrap();
        assert_eq!(traces(), [].into(), "after {point}");
        assert_eq!(folders_of_kubernetes(), folders, "after {point}");
    };
    xtask.kill_up_when(|| state().exists()).unwrap();
    gone("its folder");
    xtask.kill_up_when(|| state().join("record.json").exists()).unwrap();
    gone("its record");
    xtask.kill_up_when(|| cgroup().exists()).unwrap();
    gone("its cgroup");
    xtask.kill_up_when(|| std::path::Path::new("/sys/class/net/hemostat-c8").exists()).unwrap();
    gone("its link");
    xtask.kill_up_when(|| state().join("logs/etcd.pid").exists()).unwrap();
    gone("etcd");
    for point in ["API server ready", "containerd ready", "node ready"] {
        xtask.kill_up_at(point).unwrap();
        gone(point);
    }
    // The next start removes what a killed one left.
    xtask.kill_up_at("containerd ready").unwrap();
    xtask.cluster(&["up"]).unwrap();
    xtask.cluster(&["down"]).unwrap();
    assert_eq!(traces(), [].into());
}

fn exec_entry() -> Option<serde_json::Value> {
    audited().ok()?.into_iter().find(|entry| entry["objectRef"]["subresource"] == "exec")
}
