//! Actions on pods and nodes.

use model::{
    ActionFailure, ClusterAction, CollectEvidence, Effect, IsolatePod, IsolationForm, Label, MemoryCapture,
    PhaseDone, Taint,
};
use serde_json::{Value, json};

use crate::{
    CASES, Random,
    kubelet::Kubelet,
    world::{World, target},
};

fn isolate(form: IsolationForm) -> ClusterAction {
    ClusterAction::IsolatePod(IsolatePod { form })
}

fn path_of(world: &World, pod: &Value) -> String {
    format!("{}/{}", world.below("pods"), pod["metadata"]["name"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_pod_is_taken_out_of_every_policy_that_allows_and_put_back_exactly() {
    let Some(world) = World::of("cluster.isolate-pod").await else { return };
    let policies = world.of_group("networking.k8s.io/v1", "networkpolicies");
    for case in 0..CASES {
        let mut random = Random(case);
        let mut labels = random.map();
        labels["app"] = "api".into();
        labels["tier"] = "web".into();
        let pod = world.make(&world.below("pods"), world.pod(labels)).await;
        let mut made = Vec::new();
        // Policies that allow, and one that only denies and so is not in the way.
        let selectors = [
            json!({"matchLabels": {"app": "api"}}),
            json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web", "db"]}]}),
            json!({"matchLabels": {"app": "api", "tier": "web"}}),
        ];
        for (at, selector) in selectors.iter().enumerate().take(usize::try_from(random.below(4)).unwrap()) {
            let name = format!("allow-{at}");
            let spec = json!({"podSelector": selector, "ingress": [{}], "egress": [{}]});
            world.make(&policies, json!({"metadata": {"name": name}, "spec": spec})).await;
            made.push(format!("{policies}/{name}"));
        }
        let deny = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
        world.make(&policies, json!({"metadata": {"name": "deny"}, "spec": deny})).await;
        made.push(format!("{policies}/deny"));
        let path = path_of(&world, &pod);
        let watched: Vec<String> = made.iter().cloned().chain([path.clone()]).collect();
        let act = world.begin(isolate(IsolationForm::Plain), target(&pod, "v1", "Pod")).await.unwrap();
        let theirs = json!({"spec": {"policyTypes": ["Ingress"]}});
        act.prove_all(&watched, &act.made(), theirs, &["was absent", "[\"Ingress\"]"]).await;
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        // A policy that somebody makes meanwhile lets traffic through, and that is seen.
        let own = json!({"podSelector": {}, "ingress": [{}]});
        world.make(&policies, json!({"metadata": {"name": "late"}, "spec": own})).await;
        assert!(matches!(act.verify().await.unwrap(), Effect::Missing { found } if found.contains("late")));
        world.delete(&format!("{policies}/late")).await;
        if case % 2 == 0 {
            let reverted = act.revert().await.unwrap();
            assert!(matches!(reverted, PhaseDone::Reverted { .. }), "{reverted:?}");
        } else {
            // The pod is gone: what was made for it goes, too.
            world.delete(&path).await;
            assert!(matches!(act.verify().await, Err(ActionFailure::TargetGone { .. })));
            let left = world.get(&policies).await.unwrap();
            assert_eq!(left["items"].as_array().unwrap().len(), made.len(), "{left}");
            assert!(matches!(act.revert().await, Err(ActionFailure::TargetGone { .. })));
        }
        for path in &made {
            world.delete(path).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_for_all_pods_is_said_to_be_in_the_way_and_a_host_network_to_be_out_of_reach() {
    let Some(world) = World::of("cluster.isolate-pod").await else { return };
    let policies = world.of_group("networking.k8s.io/v1", "networkpolicies");
    world
        .make(&policies, json!({"metadata": {"name": "all"}, "spec": {"podSelector": {}, "ingress": [{}]}}))
        .await;
    let pod = world.make(&world.below("pods"), world.pod(json!({"app": "api"}))).await;
    let refused = world.begin(isolate(IsolationForm::Plain), target(&pod, "v1", "Pod")).await.err().unwrap();
    assert!(refused.to_string().contains("NetworkPolicy all lets traffic through"), "{refused}");
    let mut host = world.pod(json!({}));
    host["spec"]["hostNetwork"] = true.into();
    let host = world.make(&world.below("pods"), host).await;
    let refused = world.begin(isolate(IsolationForm::Plain), target(&host, "v1", "Pod")).await.err().unwrap();
    assert!(refused.to_string().contains("its node's network"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_denying_policies_of_cilium_and_of_administrators_leave_others_alone() {
    let Some(world) = World::of("cluster.isolate-pod").await else { return };
    for (group, version, plural, kind, scope) in [
        ("cilium.io", "v2", "ciliumnetworkpolicies", "CiliumNetworkPolicy", "Namespaced"),
        ("cilium.io", "v2", "ciliumendpoints", "CiliumEndpoint", "Namespaced"),
        ("policy.networking.k8s.io", "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", "Cluster"),
    ] {
        definition(&world, group, version, plural, kind, scope).await;
    }
    let policies = world.of_group("networking.k8s.io/v1", "networkpolicies");
    world
        .make(&policies, json!({"metadata": {"name": "all"}, "spec": {"podSelector": {}, "ingress": [{}]}}))
        .await;
    for form in [IsolationForm::Cilium, IsolationForm::Admin] {
        let pod = world.make(&world.below("pods"), world.pod(json!({"app": "api"}))).await;
        let path = path_of(&world, &pod);
        let act = world.begin(isolate(form), target(&pod, "v1", "Pod")).await.unwrap();
        act.prove(&[path.clone(), format!("{policies}/all")]).await;
        let now = world.get(&path).await.unwrap();
        assert_eq!(now["metadata"]["labels"]["app"], "api", "no label goes where a denial wins");
        let label = now["metadata"]["labels"]
            .as_object()
            .unwrap()
            .keys()
            .find(|l| l.starts_with("isolate."))
            .unwrap();
        if form == IsolationForm::Cilium {
            let name = pod["metadata"]["name"].clone();
            let endpoints = world.of_group("cilium.io/v2", "ciliumendpoints");
            let endpoint = |labels: Value| {
                json!({
                    "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", "metadata": {"name": name},
                    "status": {"identity": {"labels": labels}},
                })
            };
            world.make(&endpoints, endpoint(json!(["k8s:app=api"]))).await;
            assert!(
                matches!(act.verify().await.unwrap(), Effect::Missing { .. }),
                "Cilium has not seen the label"
            );
            let at = format!("{endpoints}/{}", name.as_str().unwrap());
            world.change(&at, endpoint(json!(["k8s:app=api", format!("k8s:{label}=true")]))).await;
        }
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        let reverted = act.revert().await.unwrap();
        assert!(matches!(reverted, PhaseDone::Reverted { .. }), "{reverted:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_what_the_cluster_cannot_do_without_is_refused() {
    let Some(world) = World::of("cluster.isolate-pod").await else { return };
    let mut network = world.pod(json!({}));
    network["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/opt/cni/bin"}}]);
    let mut picture = world.pod(json!({}));
    picture["metadata"]["annotations"] =
        json!({"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file"});
    picture["spec"]["nodeName"] = "nowhere".into();
    // The agents may run elsewhere: by their account they are known.
    world.make(&world.below("serviceaccounts"), json!({"metadata": {"name": "agent"}})).await;
    let mut agent = world.pod(json!({}));
    agent["spec"]["serviceAccountName"] = "agent".into();
    for (pod, word) in [(agent, "Hemostat itself acts"), (network, "pods' network"), (picture, "static pod")]
    {
        let Ok(pod) =
            world.request(hyper::Method::POST, &world.below("pods"), Some(&pod), "application/json").await
        else {
            // Mirror pods only a kubelet may make.
            assert_eq!(word, "static pod");
            continue;
        };
        let refused =
            world.begin(isolate(IsolationForm::Plain), target(&pod, "v1", "Pod")).await.err().unwrap();
        assert!(refused.to_string().contains(word), "{refused}");
    }
    let at = |namespace: &str| {
        target(&json!({"metadata": {"name": "x", "uid": "y", "namespace": namespace}}), "v1", "Pod")
    };
    for namespace in ["kube-system", world.home.as_str()] {
        let refused = world.begin(isolate(IsolationForm::Plain), at(namespace)).await.err().unwrap();
        assert!(matches!(refused, ActionFailure::Protected { .. }), "{refused}");
    }
    // I9: another pod of that name is not the one that was meant.
    let pod = world.make(&world.below("pods"), world.pod(json!({}))).await;
    let mut system = target(&pod, "v1", "Pod");
    if let model::Target::Object(object) = &mut system {
        object.uid = "another".into();
    }
    let refused = world.begin(isolate(IsolationForm::Plain), system).await.err().unwrap();
    assert!(matches!(refused, ActionFailure::TargetGone { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_nobody_is_protected_by_what_a_pod_says_of_itself() {
    let Some(world) = World::of("cluster.isolate-pod").await else { return };
    let called = world.pod(json!({
        "app.kubernetes.io/name": "hemostat", "app.kubernetes.io/part-of": "hemostat",
        "app.kubernetes.io/component": "agent",
    }));
    let mut critical = world.pod(json!({}));
    critical["spec"]["priorityClassName"] = "system-node-critical".into();
    for pod in [called, critical] {
        let pod = world.make(&world.below("pods"), pod).await;
        let act = world.begin(isolate(IsolationForm::Plain), target(&pod, "v1", "Pod")).await.unwrap();
        act.apply().await.unwrap();
        act.revert().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_labels_are_put_on_and_taken_off_and_a_drift_blocks_the_undo() {
    let Some(world) = World::of("cluster.label").await else { return };
    for case in 0..CASES {
        let mut random = Random(case);
        let labels = random.map();
        let pod = world.make(&world.below("pods"), world.pod(labels)).await;
        let path = path_of(&world, &pod);
        let wanted =
            Label { labels: [("x.example.com/a".into(), "ours".into()), ("new".into(), "1".into())].into() };
        let act = world.begin(ClusterAction::Label(wanted), target(&pod, "v1", "Pod")).await.unwrap();
        act.prove_all(
            std::slice::from_ref(&path),
            &path,
            json!({"metadata": {"labels": {"new": "theirs", "x.example.com/a": null}}}),
            &["was absent", "ours \"1\"", "now \"theirs\""],
        )
        .await;
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        act.prove_drift(
            &path,
            json!({"metadata": {"labels": {"new": "theirs"}}}),
            &["was absent", "ours \"1\"", "now \"theirs\""],
        )
        .await;
        // Back as we left it, with a label of somebody else's: only ours goes.
        world.change(&path, json!({"metadata": {"labels": {"new": "1", "theirs": "x"}}})).await;
        act.revert().await.unwrap();
        let now = world.get(&path).await.unwrap();
        assert_eq!(now["metadata"]["labels"]["theirs"], "x");
        assert!(now["metadata"]["labels"].get("new").is_none());
    }
    let pod = world.make(&world.below("pods"), world.pod(json!({}))).await;
    let reserved = Label { labels: [("pod-security.kubernetes.io/enforce".into(), "x".into())].into() };
    assert!(world.begin(ClusterAction::Label(reserved), target(&pod, "v1", "Pod")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_pod_is_detached_from_its_services_and_its_replicaset_and_goes_back() {
    let Some(world) = World::of("cluster.detach-pod").await else { return };
    let template = json!({"metadata": {"labels": {"app": "api", "hash": "1"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "api"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "api", "hash": "1"}}, "template": template}});
    let set = world.make(&world.of_group("apps/v1", "replicasets"), set).await;
    for (name, selector) in [("one", json!({"app": "api"})), ("two", json!({"role": "edge"}))] {
        world
            .make(
                &world.below("services"),
                json!({"metadata": {"name": name}, "spec": {"selector": selector, "ports": [{"port": 80}]}}),
            )
            .await;
    }
    let mut pod = world.pod(json!({"app": "api", "hash": "1", "role": "edge", "stays": "x"}));
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "api", "uid": set["metadata"]["uid"], "controller": true}]);
    let pod = world.make(&world.below("pods"), pod).await;
    let path = path_of(&world, &pod);
    let act = world.begin(ClusterAction::DetachPod, target(&pod, "v1", "Pod")).await.unwrap();
    let theirs = json!({"metadata": {"labels": {"app": "theirs"}}});
    act.prove_all(
        std::slice::from_ref(&path),
        &path,
        theirs,
        &["was \"api\"", "ours absent", "now \"theirs\""],
    )
    .await;
    let now = world.get(&path).await.unwrap();
    assert_eq!(now["metadata"]["labels"], json!({"stays": "x"}));
    assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }), "the ReplicaSet has not let go");
    // As its controller does.
    world.change(&path, json!({"metadata": {"ownerReferences": null}})).await;
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    act.revert().await.unwrap();
    assert_eq!(world.get(&path).await.unwrap()["metadata"]["labels"], pod["metadata"]["labels"]);
    act.prove_gone(&path).await;
    let mut stateful = world.pod(json!({"app": "db"}));
    stateful["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": true}]);
    let stateful = world.make(&world.below("pods"), stateful).await;
    assert!(world.begin(ClusterAction::DetachPod, target(&stateful, "v1", "Pod")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_evicted_or_deleted_and_gone() {
    for (name, action) in
        [("cluster.evict-pod", ClusterAction::EvictPod), ("cluster.delete-pod", ClusterAction::DeletePod)]
    {
        let Some(world) = World::of(name).await else { return };
        let pod = world.make(&world.below("pods"), world.pod(json!({}))).await;
        let path = path_of(&world, &pod);
        let act = world.begin(action.clone(), target(&pod, "v1", "Pod")).await.unwrap();
        assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
        act.apply().await.unwrap();
        assert!(world.get(&path).await.is_none());
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    }
}

/// I9: between the look and the deed the pod went, and another has its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_pod_that_only_has_the_name_is_neither_evicted_nor_deleted() {
    for (name, action) in
        [("cluster.evict-pod", ClusterAction::EvictPod), ("cluster.delete-pod", ClusterAction::DeletePod)]
    {
        let Some(world) = World::of(name).await else { return };
        let mut pod = world.pod(json!({}));
        pod["metadata"] = json!({"name": "api-0"});
        let first = world.make(&world.below("pods"), pod.clone()).await;
        let path = path_of(&world, &first);
        let act = world.begin(action.clone(), target(&first, "v1", "Pod")).await.unwrap();
        world.delete(&format!("{path}?gracePeriodSeconds=0")).await;
        let second = world.make(&world.below("pods"), pod).await;
        let ended = act.apply().await;
        let there = world.get(&path).await;
        assert!(
            there.as_ref().is_some_and(|there| {
                there["metadata"]["uid"] == second["metadata"]["uid"]
                    && there["metadata"]["deletionTimestamp"].is_null()
            }),
            "{name}: {ended:?}, {there:?}"
        );
    }
}

/// What keeps a service up says no, in the API server's own words, and the pod runs on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_that_a_disruption_budget_forbids_fails_with_its_name() {
    let Some(world) = World::of("cluster.evict-pod").await else { return };
    let mut pod = world.pod(json!({"app": "api"}));
    pod["spec"]["nodeName"] = "n1".into();
    let pod = world.make(&world.below("pods"), pod).await;
    let path = path_of(&world, &pod);
    let ready = json!({"type": "Ready", "status": "True"});
    world
        .change(&format!("{path}/status"), json!({"status": {"phase": "Running", "conditions": [ready]}}))
        .await;
    let budgets = world.of_group("policy/v1", "poddisruptionbudgets");
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "api"}}});
    world.make(&budgets, json!({"metadata": {"name": "keeps-one"}, "spec": spec})).await;
    // As the controller for budgets writes it.
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1});
    world.change(&format!("{budgets}/keeps-one/status"), json!({ "status": status })).await;
    let act = world.begin(ClusterAction::EvictPod, target(&pod, "v1", "Pod")).await.unwrap();
    let refused = act.apply().await.unwrap_err().to_string();
    assert!(
        refused.contains("refuses: ") && refused.contains("disruption budget keeps-one needs 1 healthy pods"),
        "{refused}"
    );
    assert!(world.get(&path).await.unwrap()["metadata"]["deletionTimestamp"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_node_takes_no_more_pods_and_then_does_again() {
    let taints = [json!([]), json!([{"key": "k", "value": "v", "effect": "NoSchedule"}])];
    for (name, action) in
        [("cluster.cordon", ClusterAction::Cordon), ("cluster.taint", ClusterAction::Taint(Taint::default()))]
    {
        let Some(world) = World::of(name).await else { return };
        for (at, taints) in taints.iter().enumerate() {
            let node = format!("{}-{at}", world.namespace);
            let node = world
                .make("/api/v1/nodes", json!({"metadata": {"name": node}, "spec": {"taints": taints}}))
                .await;
            let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap());
            let act = world.begin(action.clone(), target(&node, "v1", "Node")).await.unwrap();
            if name == "cluster.cordon" {
                act.prove(std::slice::from_ref(&path)).await;
            } else {
                act.apply().await.unwrap();
                // Ours with another effect.
                let mut theirs = world.get(&path).await.unwrap()["spec"]["taints"].clone();
                theirs.as_array_mut().unwrap().last_mut().unwrap()["effect"] = "NoExecute".into();
                let theirs = json!({"spec": {"taints": theirs}});
                act.revert().await.unwrap();
                act.prove_all(
                    std::slice::from_ref(&path),
                    &path,
                    theirs,
                    &["NoSchedule", "now", "NoExecute"],
                )
                .await;
            }
            assert_eq!(act.verify().await.unwrap(), Effect::InForce);
            if name == "cluster.cordon" {
                // Somebody lets it take pods again: that is as it was.
                world.change(&path, json!({"spec": {"unschedulable": null}})).await;
                assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
            }
            act.revert().await.unwrap();
            world.delete(&path).await;
            assert!(matches!(act.revert().await, Err(ActionFailure::TargetGone { .. })));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_of_a_pod_is_kept_once_and_a_changed_file_is_seen() {
    let Some(world) = World::of("cluster.collect-evidence").await else { return };
    let mut pod = world.pod(json!({"app": "x"}));
    pod["spec"]["nodeName"] = "nowhere".into();
    let pod = world.make(&world.below("pods"), pod).await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "uid": pod["metadata"]["uid"], "name": pod["metadata"]["name"], "namespace": world.namespace}, "reason": "Odd"});
    world.make(&world.below("events"), event).await;
    let action = ClusterAction::CollectEvidence(CollectEvidence::default());
    let act = world.begin(action, target(&pod, "v1", "Pod")).await.unwrap();
    assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
    let outputs = act.apply().await.unwrap();
    assert_eq!(act.apply().await.unwrap(), outputs, "once");
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let bundle = std::path::PathBuf::from(outputs["bundle"].as_str().unwrap());
    let events = std::fs::read_to_string(bundle.join("events.json")).unwrap();
    assert!(events.contains("Odd"));
    // Without a kubelet there are no logs, and the manifest says so.
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.join("manifest.json")).unwrap()).unwrap();
    assert!(manifest["incomplete"][0].as_str().unwrap().contains("log of c"), "{manifest}");
    std::fs::write(bundle.join("pod.json"), "{}").unwrap();
    assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_of_each_container_is_asked_of_the_kubelet_and_its_absence_said() {
    let rights = [hemostat_act::permissions::CHECKPOINT];
    let Some(world) = World::with("cluster.collect-evidence", &rights, Vec::new(), None).await else {
        return;
    };
    let Some(kubelet) = Kubelet::on(&world, false).await else { return };
    let mut pod = world.pod(json!({"app": "x"}));
    pod["spec"]["nodeName"] = kubelet.node.clone().into();
    pod["spec"]["containers"][0]["env"] = json!([{"name": "PASSWORD", "value": "s3cret-value"}]);
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "side", "image": "i"}));
    let pod = world.make(&world.below("pods"), pod).await;
    let name = pod["metadata"]["name"].as_str().unwrap();
    let place = "/var/lib/kubelet/checkpoints/checkpoint-x.tar";
    let checkpoint = format!("POST /checkpoint/{}/{name}", world.namespace);
    kubelet.says(&format!("{checkpoint}/c"), 200, json!({"items": [place]}).to_string());
    kubelet.says(&format!("{checkpoint}/side"), 404, "the feature is off");
    kubelet.says("GET /containerLogs/", 200, "a line of the log\n");
    let action = ClusterAction::CollectEvidence(CollectEvidence {
        memory: MemoryCapture::Private,
        ..CollectEvidence::default()
    });
    let act = world.begin(action, target(&pod, "v1", "Pod")).await.unwrap();
    let outputs = act.apply().await.unwrap();
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let bundle = std::path::PathBuf::from(outputs["bundle"].as_str().unwrap());
    let read = |file: &str| std::fs::read_to_string(bundle.join(file)).unwrap();
    let manifest: Value = serde_json::from_str(&read("manifest.json")).unwrap();
    assert_eq!(manifest["checkpoints"], json!([{"container": "c", "on_node": [place]}]), "{manifest}");
    assert!(manifest["incomplete"][0].as_str().unwrap().contains("checkpoint of side"), "{manifest}");
    assert_eq!(read("c.log"), "a line of the log\n");
    assert!(!read("pod.json").contains("s3cret-value") && read("pod.json").contains("PASSWORD"));
    // Without being asked for memory nobody asks the kubelet for it.
    let asked = kubelet.heard.lock().unwrap().iter().filter(|line| line.contains("/checkpoint/")).count();
    assert_eq!(asked, 2);
    let plain = ClusterAction::CollectEvidence(CollectEvidence::default());
    world.begin(plain, target(&pod, "v1", "Pod")).await.unwrap().apply().await.unwrap();
    assert_eq!(kubelet.heard.lock().unwrap().iter().filter(|l| l.contains("/checkpoint/")).count(), 2);
}

/// The right to speak to kubelets is as good as root on every node, and so it is not one of the action's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_of_its_own_no_checkpoint_is_asked_for_and_everything_else_is_collected() {
    let Some(world) = World::of("cluster.collect-evidence").await else { return };
    let Some(kubelet) = Kubelet::on(&world, false).await else { return };
    let mut pod = world.pod(json!({"app": "x"}));
    pod["spec"]["nodeName"] = kubelet.node.clone().into();
    let pod = world.make(&world.below("pods"), pod).await;
    kubelet.says("GET /containerLogs/", 200, "a line of the log\n");
    kubelet.says("POST /checkpoint/", 200, json!({"items": ["/x"]}).to_string());
    let action = ClusterAction::CollectEvidence(CollectEvidence {
        memory: MemoryCapture::Private,
        ..CollectEvidence::default()
    });
    let act = world.begin(action, target(&pod, "v1", "Pod")).await.unwrap();
    let outputs = act.apply().await.unwrap();
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let bundle = std::path::PathBuf::from(outputs["bundle"].as_str().unwrap());
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["checkpoints"], json!([]), "{manifest}");
    let lacks = manifest["incomplete"][0].as_str().unwrap();
    assert!(
        lacks.starts_with("checkpoint of c: ") && lacks.contains("cannot create resource \"nodes/proxy\""),
        "{manifest}"
    );
    assert_eq!(std::fs::read_to_string(bundle.join("c.log")).unwrap(), "a line of the log\n");
    assert!(!kubelet.heard.lock().unwrap().iter().any(|line| line.contains("/checkpoint/")));
}

/// A definition of somebody else's, as far as its name and place go.
pub(crate) async fn definition(
    world: &World,
    group: &str,
    version: &str,
    plural: &str,
    kind: &str,
    scope: &str,
) {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let object = json!({
        "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/2091"},
        },
        "spec": {
            "group": group, "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": version, "served": true, "storage": true, "schema": schema}],
        },
    });
    let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    // Another test may have made it.
    drop(world.request(hyper::Method::POST, all, Some(&object), "application/json").await);
    for _ in 0..200 {
        if world.get(&format!("/apis/{group}/{version}/{plural}")).await.is_some() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{kind} is not served");
}
