//! Actions on namespaces.

use hyper::Method;
use model::{ClusterAction, DenyImage, Effect, Target};
use serde_json::{Value, json};

use crate::world::{World, target};

async fn namespace(world: &World) -> Target {
    let found = world.get(&format!("/api/v1/namespaces/{}", world.namespace)).await.unwrap();
    target(&found, "v1", "Namespace")
}

async fn try_make(world: &World, collection: &str, object: &Value) -> Result<Value, String> {
    world.request(Method::POST, &format!("{collection}?dryRun=All"), Some(object), "application/json").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_an_image_is_refused_in_pods_and_in_what_makes_pods_and_then_taken() {
    let Some(world) = World::of("cluster.deny-image").await else { return };
    let pods = world.below("pods");
    let with = |image: &str| {
        let mut pod = world.pod(json!({}));
        pod["spec"]["containers"][0]["image"] = image.into();
        pod
    };
    let running = world.make(&pods, with("registry.example/miner:1")).await;
    let action = ClusterAction::DenyImage(DenyImage { image: "registry.example/miner:1".into() });
    let act = world.begin(action, namespace(&world).await).await.unwrap();
    let theirs = json!({"spec": {"failurePolicy": "Ignore"}});
    act.prove_all(std::slice::from_ref(&pods), &act.made(), theirs, &["was absent", "Ignore"]).await;
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let refused = async |collection: &str, object: Value| {
        let object = &object;
        world
            .until(async || {
                try_make(&world, collection, object).await.is_err_and(|said| said.contains("refused in"))
            })
            .await;
    };
    refused(&pods, with("registry.example/miner:1")).await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": with("registry.example/miner:1")["spec"]});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    refused(&world.of_group("apps/v1", "deployments"), deployment).await;
    let mut job = template.clone();
    job["spec"]["restartPolicy"] = "Never".into();
    let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": job}}}});
    refused(&world.of_group("batch/v1", "cronjobs"), cron).await;
    let mut init = with("good:1");
    init["spec"]["initContainers"] = json!([{"name": "i", "image": "registry.example/miner:1"}]);
    refused(&pods, init).await;
    // Nearly every pod is made by the cluster's own controllers: they bring it in as little as a person does.
    let as_controller = async |name: &str| {
        let user = format!("system:serviceaccount:kube-system:{name}");
        let path = format!("{pods}?dryRun=All");
        let pod = with("registry.example/miner:1");
        world.try_as(&user, Method::POST, &path, Some(&pod)).await
    };
    for name in ["replicaset-controller", "job-controller", "daemon-set-controller", "statefulset-controller"]
    {
        world.until(async || as_controller(name).await.is_err_and(|said| said.contains("refused in"))).await;
    }
    // The system's own namespaces and ours take what they take.
    for place in ["kube-system", "default"] {
        let all = format!("/api/v1/namespaces/{place}/serviceaccounts");
        drop(
            world
                .request(
                    Method::POST,
                    &all,
                    Some(&json!({"metadata": {"name": "default"}})),
                    "application/json",
                )
                .await,
        );
        try_make(&world, &format!("/api/v1/namespaces/{place}/pods"), &with("registry.example/miner:1"))
            .await
            .unwrap();
    }
    // Others are taken, and what runs may be labelled.
    try_make(&world, &pods, &with("good:1")).await.unwrap();
    let path = format!("{pods}/{}", running["metadata"]["name"].as_str().unwrap());
    world.change(&path, json!({"metadata": {"labels": {"seen": "yes"}}})).await;
    // So may one that has it only as a debug container: its finalizers must be able to go.
    let debugged = world.make(&pods, with("good:1")).await;
    act.revert().await.unwrap();
    let path = format!("{pods}/{}", debugged["metadata"]["name"].as_str().unwrap());
    let debug =
        json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "registry.example/miner:1"}]}});
    let mut whole = world.get(&path).await.unwrap();
    whole["spec"]["ephemeralContainers"] = debug["spec"]["ephemeralContainers"].clone();
    world.until(async || try_make(&world, &pods, &with("registry.example/miner:1")).await.is_ok()).await;
    let ephemeral = format!("{path}/ephemeralcontainers");
    world.request(Method::PUT, &ephemeral, Some(&whole), "application/json").await.unwrap();
    act.apply().await.unwrap();
    refused(&pods, with("registry.example/miner:1")).await;
    world.change(&path, json!({"metadata": {"labels": {"seen": "yes"}}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_refused_under_another_name_that_means_it() {
    let Some(world) = World::of("cluster.deny-image").await else { return };
    let pods = world.below("pods");
    let action = ClusterAction::DenyImage(DenyImage { image: "evil/miner".into() });
    let act = world.begin(action, namespace(&world).await).await.unwrap();
    act.apply().await.unwrap();
    for image in ["evil/miner", "docker.io/evil/miner:latest", "index.docker.io/evil/miner"] {
        let mut pod = world.pod(json!({}));
        pod["spec"]["containers"][0]["image"] = image.into();
        let said = async || try_make(&world, &pods, &pod).await.err().unwrap_or_default();
        world.until(async || said().await.contains("refused in")).await;
    }
    for other in ["evil/miner:2", "good/miner"] {
        let mut pod = world.pod(json!({}));
        pod["spec"]["containers"][0]["image"] = other.into();
        try_make(&world, &pods, &pod).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_nobody_gets_a_session_in_a_namespace_and_then_may_again() {
    let Some(world) = World::of("cluster.deny-exec").await else { return };
    let pod = world.make(&world.below("pods"), world.pod(json!({}))).await;
    let exec = format!(
        "{}/{}/exec?command=id&stdout=true",
        world.below("pods"),
        pod["metadata"]["name"].as_str().unwrap()
    );
    let act = world.begin(ClusterAction::DenyExec, namespace(&world).await).await.unwrap();
    let theirs = json!({"spec": {"failurePolicy": "Ignore"}});
    act.prove_all(&[world.below("pods")], &act.made(), theirs, &["was absent", "Ignore"]).await;
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let said =
        async || world.request(Method::POST, &exec, None, "application/json").await.err().unwrap_or_default();
    world.until(async || said().await.contains("no sessions in")).await;
    act.revert().await.unwrap();
    // Without a kubelet it fails for another reason.
    world.until(async || !said().await.contains("no sessions in")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_no_more_pods_than_now_and_then_more_again() {
    let Some(world) = World::of("cluster.clamp-quota").await else { return };
    let pods = world.below("pods");
    for _ in 0..2 {
        world.make(&pods, world.pod(json!({}))).await;
    }
    let quotas = world.below("resourcequotas");
    let act = world.begin(ClusterAction::ClampQuota, namespace(&world).await).await.unwrap();
    let theirs = json!({"spec": {"hard": {"pods": "8"}}});
    act.prove_all(std::slice::from_ref(&pods), &act.made(), theirs, &["was absent", "\"2\"", "\"8\""]).await;
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let all = world.get(&quotas).await.unwrap();
    assert_eq!(all["items"][0]["spec"]["hard"], json!({"pods": "2"}));
    let name = all["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    // Somebody changes our quota: a person decides.
    let path = format!("{quotas}/{name}");
    act.prove_drift(&path, json!({"spec": {"hard": {"pods": "9"}}}), &["was absent", "\"2\"", "\"9\""]).await;
    world.change(&path, json!({"spec": {"hard": {"pods": "2"}}})).await;
    act.revert().await.unwrap();
    assert!(world.get(&path).await.is_none());
    act.apply().await.unwrap();
    act.prove_gone(&path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_left_alone() {
    let Some(world) = World::of("cluster.clamp-quota").await else { return };
    let act = world.begin(ClusterAction::ClampQuota, namespace(&world).await).await.unwrap();
    let model::Edit::Make { object, .. } = &act.captured.edits[0] else { panic!() };
    let quotas = world.below("resourcequotas");
    world.make(&quotas, json!({"metadata": {"name": object.name}, "spec": {"hard": {"pods": "7"}}})).await;
    let refused = act.apply().await.err().unwrap();
    assert!(refused.to_string().contains("is not ours"), "{refused}");
    act.revert().await.unwrap();
    let now = world.get(&format!("{quotas}/{}", object.name)).await.unwrap();
    assert_eq!(now["spec"]["hard"]["pods"], "7", "what is not ours is neither changed nor deleted");
}
