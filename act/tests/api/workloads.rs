//! Actions on what keeps pods, and on objects that somebody changed.

use model::{ActionFailure, ClusterAction, Effect, PhaseDone, Scale};
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
        act.prove(&watched).await;
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
                "annotations": {"deployment.kubernetes.io/revision": revision.to_string()},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": made["metadata"]["name"], "uid": made["metadata"]["uid"], "controller": true}],
            },
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "api"}}, "template": template(image)},
        });
        world.make(&sets, set).await;
    }
    let act =
        world.begin(ClusterAction::RollBackImage, target(&made, "apps/v1", "Deployment")).await.unwrap();
    act.prove(std::slice::from_ref(&path)).await;
    let now = world.get(&path).await.unwrap();
    let containers = &now["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!("api:1"), &json!("side:1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_changed_object_is_as_before_its_change_and_then_as_changed() {
    let Some(world) = World::of("cluster.restore-object").await else { return };
    let rbac = "rbac.authorization.k8s.io/v1";
    let rule = |verb: &str| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]);
    let cases = [
        (
            "v1",
            "ConfigMap",
            world.below("configmaps"),
            json!({"data": {"a": "1", "b": "2"}}),
            json!({"data": {"a": "evil", "b": null}}),
        ),
        (
            rbac,
            "Role",
            world.of_group(rbac, "roles"),
            json!({"rules": rule("get")}),
            json!({"rules": rule("*")}),
        ),
    ];
    for (version, kind, all, body, change) in cases {
        let mut body = body;
        body["metadata"] = json!({"name": "x"});
        let first = world.make(&all, body).await;
        let path = format!("{all}/x");
        world.change(&path, change).await;
        let act = world.begin(ClusterAction::RestoreObject, target(&first, version, kind)).await.unwrap();
        act.prove(std::slice::from_ref(&path)).await;
        let part = if kind == "Role" { "rules" } else { "data" };
        assert_eq!(world.get(&path).await.unwrap()[part], first[part]);
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        world.delete(&path).await;
        assert!(matches!(act.revert().await, Err(ActionFailure::TargetGone { .. })));
    }
    // A binding that was not there before means nothing afterwards.
    let bindings = world.of_group(rbac, "rolebindings");
    let binding = json!({"metadata": {"name": "evil"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "mallory"}]});
    let made = world.make(&bindings, binding).await;
    let path = format!("{bindings}/evil");
    let act = world.begin(ClusterAction::RestoreObject, target(&made, rbac, "RoleBinding")).await.unwrap();
    act.prove(std::slice::from_ref(&path)).await;
    assert!(world.get(&path).await.unwrap().get("subjects").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_argo_cd_and_flux_leave_the_target_alone_and_then_do_not() {
    let Some(world) = World::of("cluster.suspend-sync").await else { return };
    definition(&world, "argoproj.io", "v1alpha1", "applications", "Application", "Namespaced").await;
    definition(&world, "kustomize.toolkit.fluxcd.io", "v1", "kustomizations", "Kustomization", "Namespaced")
        .await;
    let applications = world.of_group("argoproj.io/v1alpha1", "applications");
    let name = format!("app-{}", world.namespace);
    let application = json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": name},
        "spec": {"project": "default", "syncPolicy": {"automated": {"prune": true, "selfHeal": true}}},
    });
    world.make(&applications, application).await;
    let kustomizations = world.of_group("kustomize.toolkit.fluxcd.io/v1", "kustomizations");
    let kustomization = json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": {"name": "apps"}, "spec": {"path": "./"}});
    world.make(&kustomizations, kustomization).await;
    let of_flux = json!({"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": world.namespace});
    let of_argo = json!({"app.kubernetes.io/instance": name});
    for (labels, path) in
        [(of_argo, format!("{applications}/{name}")), (of_flux, format!("{kustomizations}/apps"))]
    {
        let (made, _) = deployment(&world, Some(1), labels).await;
        let act =
            world.begin(ClusterAction::SuspendSync, target(&made, "apps/v1", "Deployment")).await.unwrap();
        act.prove(std::slice::from_ref(&path)).await;
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        let reverted = act.revert().await.unwrap();
        assert!(matches!(reverted, PhaseDone::Reverted { .. }), "{reverted:?}");
    }
    let (made, _) = deployment(&world, Some(1), json!({})).await;
    let refused =
        world.begin(ClusterAction::SuspendSync, target(&made, "apps/v1", "Deployment")).await.err().unwrap();
    assert!(refused.to_string().contains("neither Argo CD nor Flux"), "{refused}");
}
