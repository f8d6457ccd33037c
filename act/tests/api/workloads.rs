//! Actions on what keeps pods, and on objects that somebody changed.

use model::{ClusterAction, Effect, PhaseDone, Scale};
use serde_json::{Value, json};

use crate::{
    CASES, Random,
    pods::definition,
    world::{World, target},
};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "c", "image": image}, {"name": "side", "image": "side:1"}]}})
}

async fn deployment(world: &World, replicas: Option<u64>, labels: Value) -> (Value, String) {
    let all = world.of_group("apps/v1", "deployments");
    let mut body = json!({
        "metadata": {"generateName": "api-", "labels": labels},
        "spec": {"selector": {"matchLabels": {"app": "api"}}, "template": template("api:2")},
    });
    if let Some(replicas) = replicas {
        body["spec"]["replicas"] = replicas.into();
    }
    let made = world.make(&all, body).await;
    let path = format!("{all}/{}", made["metadata"]["name"].as_str().unwrap());
    (made, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_workload_is_scaled_with_its_autoscaler_and_back() {
    let Some(world) = World::of("cluster.scale").await else { return };
    let scalers = world.of_group("autoscaling/v2", "horizontalpodautoscalers");
    for case in 0..CASES {
        let mut random = Random(case);
        let replicas = [None, Some(0), Some(3), Some(5)][usize::try_from(random.below(4)).unwrap()];
        let (made, path) = deployment(&world, replicas, random.map()).await;
        let mut watched = vec![path.clone()];
        if random.below(2) == 0 {
            let mut spec = json!({"maxReplicas": 9, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": made["metadata"]["name"]}});
            if random.below(2) == 0 {
                spec["minReplicas"] = 2.into();
            }
            let name = format!("h-{case}");
            world.make(&scalers, json!({"metadata": {"name": name}, "spec": spec})).await;
            watched.push(format!("{scalers}/{name}"));
        }
        let act = world
            .begin(ClusterAction::Scale(Scale { replicas: 7 }), target(&made, "apps/v1", "Deployment"))
            .await
            .unwrap();
        act.prove_all(&watched, &path, json!({"spec": {"replicas": 4}}), &["ours 7", "now 4"]).await;
        let now = world.get(&path).await.unwrap();
        assert_eq!(now["spec"]["replicas"], 7);
        assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }), "nobody makes pods here");
        act.prove_drift(&path, json!({"spec": {"replicas": 4}}), &["ours 7", "now 4"]).await;
        // Drift of one object leaves the others as they are, too.
        if let Some(scaler) = watched.get(1) {
            assert_eq!(world.get(scaler).await.unwrap()["spec"]["maxReplicas"], 7);
            world.delete(scaler).await;
        }
        world.delete(&path).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_rollout_stands_still_and_goes_on() {
    let Some(world) = World::of("cluster.pause-rollout").await else { return };
    let (made, path) = deployment(&world, Some(1), json!({})).await;
    let of = target(&made, "apps/v1", "Deployment");
    let act = world.begin(ClusterAction::PauseRollout, of.clone()).await.unwrap();
    act.prove(std::slice::from_ref(&path)).await;
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    act.revert().await.unwrap();
    // What is so already is not undone.
    world.change(&path, json!({"spec": {"paused": true}})).await;
    let act = world.begin(ClusterAction::PauseRollout, of).await.unwrap();
    act.apply().await.unwrap();
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    act.revert().await.unwrap();
    assert_eq!(world.get(&path).await.unwrap()["spec"]["paused"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_cronjobs_and_jobs_are_suspended_and_go_on() {
    let Some(world) = World::of("cluster.suspend").await else { return };
    let mut pods = template("job:1");
    pods["spec"]["restartPolicy"] = "Never".into();
    let spec = json!({"template": pods});
    let (jobs, crons) = (world.of_group("batch/v1", "jobs"), world.of_group("batch/v1", "cronjobs"));
    let job = world.make(&jobs, json!({"metadata": {"name": "j"}, "spec": spec})).await;
    let cron =
        json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": spec}}});
    let cron = world.make(&crons, cron).await;
    for (object, kind, path) in [(job, "Job", format!("{jobs}/j")), (cron, "CronJob", format!("{crons}/c"))] {
        let act = world.begin(ClusterAction::Suspend, target(&object, "batch/v1", kind)).await.unwrap();
        act.prove(std::slice::from_ref(&path)).await;
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        // Somebody lets it go on: it is as it was, and the undo has nothing to do.
        world.change(&path, json!({"spec": {"suspend": false}})).await;
        assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
        let reverted = act.revert().await.unwrap();
        assert!(matches!(reverted, PhaseDone::Reverted { .. }), "{reverted:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_images_go_back_to_the_revision_before_and_forward_again() {
    let Some(world) = World::of("cluster.roll-back-image").await else { return };
    let (made, path) = deployment(&world, Some(1), json!({})).await;
    let sets = world.of_group("apps/v1", "replicasets");
    for (revision, image) in [(1, "api:0"), (2, "api:1"), (3, "api:2")] {
        let set = json!({
            "metadata": {
                "name": format!("api-{revision}"),
                // As its Deployment finds it.
                "labels": {"app": "api"},
                "annotations": {"deployment.kubernetes.io/revision": revision.to_string()},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": made["metadata"]["name"], "uid": made["metadata"]["uid"], "controller": true}],
            },
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "api"}}, "template": template(image)},
        });
        world.make(&sets, set).await;
    }
    let act =
        world.begin(ClusterAction::RollBackImage, target(&made, "apps/v1", "Deployment")).await.unwrap();
    let secret = "s3cret-value";
    let theirs = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "api:9", "env": [{"name": "P", "value": secret}]}]}}}});
    act.prove_all(std::slice::from_ref(&path), &path, theirs.clone(), &["c=api:2", "c=api:1", "now c=api:9"])
        .await;
    let now = world.get(&path).await.unwrap();
    let containers = &now["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!("api:1"), &json!("side:1")));
    // Whoever changes a container tells nobody its environment.
    world.change(&path, theirs).await;
    let PhaseDone::Drifted { difference } = act.revert().await.unwrap() else { panic!() };
    assert!(!difference.contains(secret), "{difference}");
    act.overwrite().await.unwrap();
    act.apply().await.unwrap();
    act.prove_gone(&path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_images_of_statefulsets_and_daemonsets_go_back_by_their_controller_revisions() {
    let Some(world) = World::of("cluster.roll-back-image").await else { return };
    for (kind, plural) in [("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets")] {
        let all = world.of_group("apps/v1", plural);
        let mut pods = template("api:2");
        pods["spec"]["initContainers"] = json!([{"name": "init", "image": "init:2"}]);
        let mut body = json!({"metadata": {"name": "db"}, "spec": {"selector": {"matchLabels": {"app": "api"}}, "template": pods}});
        if kind == "StatefulSet" {
            body["spec"]["serviceName"] = "db".into();
        }
        let made = world.make(&all, body).await;
        let path = format!("{all}/db");
        let revisions = world.of_group("apps/v1", "controllerrevisions");
        for (revision, image, init) in
            [(1, "api:0", "init:0"), (2, "api:1", "init:1"), (3, "api:2", "init:2")]
        {
            let mut pods = template(image);
            pods["spec"]["initContainers"] = json!([{"name": "init", "image": init}]);
            pods["$patch"] = "replace".into();
            let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": "db", "uid": made["metadata"]["uid"], "controller": true}]);
            let one = json!({"metadata": {"name": format!("{plural}-{revision}"), "labels": {"app": "api"}, "ownerReferences": owner}, "revision": revision, "data": {"spec": {"template": pods}}});
            world.make(&revisions, one).await;
        }
        let act = world.begin(ClusterAction::RollBackImage, target(&made, "apps/v1", kind)).await.unwrap();
        let theirs = json!({"spec": {"template": {"spec": {"initContainers": [{"name": "init", "image": "init:9"}]}}}});
        act.prove_all(std::slice::from_ref(&path), &path, theirs, &["now init=init:9"]).await;
        let spec = world.get(&path).await.unwrap()["spec"]["template"]["spec"].clone();
        assert_eq!(
            (&spec["containers"][0]["image"], &spec["initContainers"][0]["image"]),
            (&json!("api:1"), &json!("init:1"))
        );
        assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }), "nobody makes pods here");
        let seen = world.get(&path).await.unwrap()["metadata"]["generation"].clone();
        let status = if kind == "StatefulSet" {
            json!({"observedGeneration": seen, "replicas": 1, "updatedReplicas": 1})
        } else {
            json!({"observedGeneration": seen, "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2})
        };
        world.change(&format!("{path}/status"), json!({"status": status})).await;
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        act.prove_gone(&path).await;
    }
}

async fn keepers(world: &World) -> (String, String) {
    definition(world, "argoproj.io", "v1alpha1", "applications", "Application", "Namespaced").await;
    definition(world, "kustomize.toolkit.fluxcd.io", "v1", "kustomizations", "Kustomization", "Namespaced")
        .await;
    definition(world, "helm.toolkit.fluxcd.io", "v2", "helmreleases", "HelmRelease", "Namespaced").await;
    (
        world.of_group("argoproj.io/v1alpha1", "applications"),
        world.of_group("kustomize.toolkit.fluxcd.io/v1", "kustomizations"),
    )
}

fn application(name: &str, listed: &[&Value]) -> Value {
    let resources: Vec<Value> = listed
        .iter()
        .map(|one| json!({"group": "apps", "version": "v1", "kind": "Deployment", "namespace": one["metadata"]["namespace"], "name": one["metadata"]["name"]}))
        .collect();
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": name},
        "spec": {"project": "default", "destination": {"server": "https://kubernetes.default.svc"}, "syncPolicy": {"automated": {"prune": true, "selfHeal": true}}},
        "status": {"resources": resources},
    })
}

fn of_flux(kind: &str, name: &str, listed: &[&Value]) -> Value {
    let (version, resource) = match kind {
        "Kustomization" => ("kustomize.toolkit.fluxcd.io/v1", json!({"path": "./"})),
        _ => ("helm.toolkit.fluxcd.io/v2", json!({"interval": "5m"})),
    };
    let entries: Vec<Value> = listed
        .iter()
        .map(|one| json!({"id": format!("{}_{}_apps_Deployment", one["metadata"]["namespace"].as_str().unwrap(), one["metadata"]["name"].as_str().unwrap()), "v": "v1"}))
        .collect();
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": resource, "status": {"inventory": {"entries": entries}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_argo_cd_and_flux_leave_the_target_alone_and_then_do_not() {
    let Some(world) = World::of("cluster.suspend-sync").await else { return };
    let (applications, kustomizations) = keepers(&world).await;
    let releases = world.of_group("helm.toolkit.fluxcd.io/v2", "helmreleases");
    let name = format!("app-{}", world.namespace);
    let marks = |domain: &str| json!({format!("{domain}/name"): "apps", format!("{domain}/namespace"): world.namespace});
    let of_argo = json!({"app.kubernetes.io/instance": name});
    for (labels, all, kind) in [
        (of_argo, applications, "Application"),
        (marks("kustomize.toolkit.fluxcd.io"), kustomizations, "Kustomization"),
        (marks("helm.toolkit.fluxcd.io"), releases, "HelmRelease"),
    ] {
        let (made, deployed) = deployment(&world, Some(1), labels).await;
        let path = if kind == "Application" {
            world.make(&all, application(&name, &[&made])).await;
            format!("{all}/{name}")
        } else {
            world.make(&all, of_flux(kind, "apps", &[&made])).await;
            format!("{all}/apps")
        };
        // A pod that it makes leads to it, too.
        let sets = world.of_group("apps/v1", "replicasets");
        let owner = |of: &Value, kind: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": of["metadata"]["name"], "uid": of["metadata"]["uid"], "controller": true}]);
        let set = json!({"metadata": {"generateName": "api-", "ownerReferences": owner(&made, "Deployment")}, "spec": {"selector": {"matchLabels": {"app": "api"}}, "template": template("api:2")}});
        let set = world.make(&sets, set).await;
        let mut pod = world.pod(json!({"app": "api"}));
        pod["metadata"]["ownerReferences"] = owner(&set, "ReplicaSet");
        let pod = world.make(&world.below("pods"), pod).await;
        world.begin(ClusterAction::SuspendSync, target(&pod, "v1", "Pod")).await.unwrap();
        let act =
            world.begin(ClusterAction::SuspendSync, target(&made, "apps/v1", "Deployment")).await.unwrap();
        if kind == "Application" {
            let theirs = json!({"spec": {"syncPolicy": {"automated": {"prune": false}}}});
            act.prove_all(
                std::slice::from_ref(&path),
                &path,
                theirs,
                &["ours absent", "now {\"prune\":false}"],
            )
            .await;
        } else {
            act.prove(std::slice::from_ref(&path)).await;
        }
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        let reverted = act.revert().await.unwrap();
        assert!(matches!(reverted, PhaseDone::Reverted { .. }), "{reverted:?}");
        act.apply().await.unwrap();
        act.prove_gone(&path).await;
        world.delete(&deployed).await;
    }
    let (made, _) = deployment(&world, Some(1), json!({})).await;
    let refused =
        world.begin(ClusterAction::SuspendSync, target(&made, "apps/v1", "Deployment")).await.err().unwrap();
    assert!(refused.to_string().contains("neither Argo CD nor Flux"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_who_only_is_said_to_keep_the_target_is_not_suspended() {
    let Some(world) = World::of("cluster.suspend-sync").await else { return };
    let (applications, kustomizations) = keepers(&world).await;
    let (other, _) = deployment(&world, Some(1), json!({})).await;
    let name = |what: &str| format!("{what}-{}", world.namespace);
    world.make(&applications, application(&name("other"), &[&other])).await;
    let mut remote = application(&name("remote"), &[]);
    world.make(&kustomizations, of_flux("Kustomization", "other", &[&other])).await;
    let silent = json!({"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": {"name": "silent"}, "spec": {}});
    world.make(&world.of_group("helm.toolkit.fluxcd.io/v2", "helmreleases"), silent).await;
    let flux = |domain: &str, name: &str| json!({format!("{domain}/name"): name, format!("{domain}/namespace"): world.namespace});
    let (kustomize, helm) = ("kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io");
    for (labels, because) in [
        (json!({"app.kubernetes.io/instance": name("other")}), "does not list it"),
        (flux(kustomize, "other"), "does not list it"),
        (flux(kustomize, "nowhere"), "is not there"),
        (flux(helm, "silent"), "does not tell what it keeps"),
        (json!({"app.kubernetes.io/instance": name("remote")}), "keeps another cluster"),
    ] {
        let (made, _) = deployment(&world, Some(1), labels).await;
        if because.contains("another cluster") {
            remote = application(&name("remote"), &[&made]);
            remote["spec"]["destination"] = json!({"server": "https://elsewhere.example"});
            world.make(&applications, remote.clone()).await;
        }
        let of = target(&made, "apps/v1", "Deployment");
        let refused = world.begin(ClusterAction::SuspendSync, of).await.err().unwrap();
        assert!(refused.to_string().contains(because), "{refused}");
    }
    drop(remote);
    // A pod that says that it belongs to a workload which has another uid.
    let mut pod = world.pod(json!({"app": "api"}));
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": other["metadata"]["name"], "uid": "made-up", "controller": true}]);
    pod["metadata"]["labels"]["app.kubernetes.io/instance"] = name("other").into();
    let pod = world.make(&world.below("pods"), pod).await;
    let refused = world.begin(ClusterAction::SuspendSync, target(&pod, "v1", "Pod")).await.err().unwrap();
    assert!(refused.to_string().contains("does not list it"), "{refused}");
}
