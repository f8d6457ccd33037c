//! Actions on accounts.

use hyper::Method;
use model::{Account, AccountKind, ActionFailure, ClusterAction, Effect, PhaseDone, Target};
use serde_json::{Value, json};

use crate::{
    CASES, Random,
    world::{World, next_second, now},
};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn service_account(world: &World, name: &str) -> Target {
    let namespace = Some(world.namespace.clone());
    Target::Account(Account {
        kind: AccountKind::ServiceAccount,
        namespace,
        name: name.into(),
        as_of: Some(now()),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_an_account_is_taken_out_of_every_binding_and_put_back_where_it_stood() {
    let Some(world) = World::of("cluster.subtract-subject").await else { return };
    let roles = world.of_group(RBAC, "rolebindings");
    let wide = format!("/apis/{RBAC}/clusterrolebindings");
    for case in 0..CASES {
        let mut random = Random(case);
        let name = format!("thief-{case}");
        let own = json!({"kind": "ServiceAccount", "name": name, "namespace": world.namespace});
        let as_user = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("system:serviceaccount:{}:{name}", world.namespace)});
        let other = |n: u64| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("user-{n}")});
        let mut watched = Vec::new();
        for at in 0..4_u64 {
            // Others before and behind, and sometimes the account under both of its names, or nobody else.
            let mut subjects: Vec<Value> = (0..random.below(3)).map(other).collect();
            if at != 3 {
                subjects
                    .insert(usize::try_from(random.below(subjects.len() as u64 + 1)).unwrap(), own.clone());
            }
            if random.below(2) == 0 {
                subjects.push(as_user.clone());
            }
            let name = format!("b-{}-{case}-{at}", world.namespace);
            let body = json!({
                "metadata": {"name": name, "labels": random.map()},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
                "subjects": subjects,
            });
            let all = if at % 2 == 0 { &roles } else { &wide };
            world.make(all, body).await;
            watched.push(format!("{all}/{name}"));
        }
        let target = service_account(&world, &name);
        let act = world.begin(ClusterAction::SubtractSubject, target).await.unwrap();
        act.prove(&watched).await;
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        for binding in world.picture(&watched).await.into_iter().flatten() {
            assert!(!binding["subjects"].to_string().contains(&name), "{binding}");
        }
        assert!(!may_read(&world, &name).await, "its permissions are gone");
        // A new binding, made meanwhile, is seen.
        let late = json!({"metadata": {"name": "late"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": [own]});
        world.make(&roles, late).await;
        assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
        world.delete(&format!("{roles}/late")).await;
        // Somebody adds another subject meanwhile: it stays, and ours goes back beside it.
        let mut with_other = world.get(&watched[0]).await.unwrap()["subjects"].clone();
        if with_other.is_null() {
            with_other = json!([]);
        }
        with_other.as_array_mut().unwrap().push(other(99));
        world.change(&watched[0], json!({"subjects": with_other})).await;
        // One binding is deleted meanwhile: the others get their subject back.
        world.delete(&watched[1]).await;
        let reverted = act.revert().await.unwrap();
        assert!(matches!(reverted, PhaseDone::Reverted { .. }), "{reverted:?}");
        assert!(world.get(&watched[0]).await.unwrap()["subjects"].to_string().contains(&name));
        for path in watched.iter().filter(|path| **path != watched[1]) {
            world.delete(path).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_the_clusters_own_accounts_and_ours_are_refused() {
    let Some(world) = World::of("cluster.subtract-subject").await else { return };
    let own = format!("act-{}", world.namespace.trim_start_matches("ns-"));
    let agents = format!("system:serviceaccount:{}:agent", world.namespace);
    let controllers = format!("system:serviceaccount:{}:controller", world.home);
    for name in [
        "system:node:n1",
        "system:kube-scheduler",
        "system:serviceaccount:kube-system:x",
        own.as_str(),
        agents.as_str(),
        controllers.as_str(),
    ] {
        let target = Target::Account(Account::of_user(name));
        let refused = world.begin(ClusterAction::SubtractSubject, target).await.err().unwrap();
        assert!(matches!(refused, ActionFailure::Protected { .. }), "{name}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_token_of_a_service_account_ends() {
    let Some(world) = World::of("cluster.invalidate-tokens").await else { return };
    let accounts = world.below("serviceaccounts");
    let body = json!({"metadata": {"name": "api", "labels": {"a": "b"}}, "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "pull"}]});
    world.make(&accounts, body).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let token = world.make(&format!("{accounts}/api/token"), request).await["status"]["token"].clone();
    assert!(is_good(&world, &token).await);
    let meant = service_account(&world, "api");
    let act = world.begin(ClusterAction::InvalidateTokens, meant.clone()).await.unwrap();
    assert!(matches!(act.verify().await.unwrap(), Effect::Missing { .. }));
    act.apply().await.unwrap();
    act.apply().await.unwrap();
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let mut waited = 0;
    while is_good(&world, &token).await {
        waited += 1;
        assert!(waited < 300, "the token is still good");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let now = world.get(&format!("{accounts}/api")).await.unwrap();
    assert_eq!(
        (&now["metadata"]["labels"]["a"], &now["imagePullSecrets"][0]["name"]),
        (&json!("b"), &json!("pull"))
    );
    // What was known before is not about the new one: its tokens are nobody's loot.
    world.delete(&format!("{accounts}/api")).await;
    next_second().await;
    world.make(&accounts, json!({"metadata": {"name": "api"}})).await;
    let refused = world.begin(ClusterAction::InvalidateTokens, meant).await.err().unwrap();
    assert!(matches!(refused, ActionFailure::TargetChanged { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_an_account_changes_nothing_and_then_may_again() {
    let Some(world) = World::of("cluster.deny-writes").await else { return };
    // `ada` may do everything in the namespace.
    let binding = json!({"metadata": {"name": "ada"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("ada-{}", world.namespace)}]});
    world.make(&world.of_group(RBAC, "rolebindings"), binding).await;
    let ada = format!("ada-{}", world.namespace);
    let target = Target::Account(Account::of_user(&ada));
    let act = world.begin(ClusterAction::DenyWrites, target).await.unwrap();
    let theirs = json!({"spec": {"failurePolicy": "Ignore"}});
    act.prove_all(&[world.below("configmaps")], &act.made(), theirs, &["was absent", "Ignore"]).await;
    assert_eq!(act.verify().await.unwrap(), Effect::InForce);
    let write = async || {
        world
            .try_as(
                &ada,
                Method::POST,
                &world.below("configmaps"),
                Some(&json!({"metadata": {"generateName": "x-"}})),
            )
            .await
    };
    world.until(async || write().await.is_err_and(|said| said.contains("inc-1"))).await;
    // Others may.
    world.make(&world.below("configmaps"), json!({"metadata": {"generateName": "y-"}})).await;
    act.revert().await.unwrap();
    world.until(async || write().await.is_ok()).await;
}

async fn may_read(world: &World, name: &str) -> bool {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": format!("system:serviceaccount:{}:{name}", world.namespace), "resourceAttributes": {"namespace": world.namespace, "verb": "list", "resource": "pods"}},
    });
    let mut allowed = true;
    // RBAC is read from a cache that follows.
    for _ in 0..100 {
        let answer = world.make("/apis/authorization.k8s.io/v1/subjectaccessreviews", review.clone()).await;
        allowed = answer["status"]["allowed"] == true;
        if !allowed {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    allowed
}

async fn is_good(world: &World, token: &Value) -> bool {
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    world.make("/apis/authentication.k8s.io/v1/tokenreviews", review).await["status"]["authenticated"] == true
}
