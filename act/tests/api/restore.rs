//! An object is as it was before the attack wrote it, or it is said why that cannot be known.

use model::{ActionFailure, ClusterAction, Effect, ObjectWrite, PhaseDone, RestoreObject, Timestamp};
use serde_json::{Value, json};

use crate::{
    CASES, Random,
    world::{World, by_name, next_second, now, target},
};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// A kind of object, what it means, and how it is told apart.
struct Sort {
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    part: &'static str,
}

const SORTS: [Sort; 3] = [
    Sort { version: "v1", kind: "ConfigMap", plural: "configmaps", part: "data" },
    Sort { version: RBAC, kind: "Role", plural: "roles", part: "rules" },
    Sort { version: RBAC, kind: "RoleBinding", plural: "rolebindings", part: "subjects" },
];

impl Sort {
    fn all(&self, world: &World) -> String {
        if self.version == "v1" {
            world.below(self.plural)
        } else {
            world.of_group(self.version, self.plural)
        }
    }

    /// Content that means something else for each number.
    fn content(&self, n: u64) -> Value {
        match self.kind {
            "ConfigMap" => {
                json!({"data": {"a": format!("v{n}"), "b": n.is_multiple_of(2).then(|| format!("w{n}"))}})
            }
            "Role" => {
                json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [format!("v{n}")]}]})
            }
            _ => {
                json!({"subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("u{n}")}]})
            }
        }
    }

    fn body(&self, name: &str, n: u64) -> Value {
        let mut body = self.content(n);
        body["metadata"] = json!({"name": name});
        if self.kind == "RoleBinding" {
            body["roleRef"] =
                json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
        }
        body
    }
}

/// A write, as the audit log tells of it at the level RequestResponse.
async fn write(world: &World, path: &str, content: Value) -> (Value, ObjectWrite) {
    let received = now();
    let answer = world.change(path, content).await;
    let version = answer["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    (answer, ObjectWrite { version, received, answered: now() })
}

fn restore(writes: &[ObjectWrite], began: Timestamp) -> ClusterAction {
    ClusterAction::RestoreObject(RestoreObject { writes: writes.to_vec(), began: Some(began) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_what_stood_before_the_attacks_first_write_comes_back_and_nothing_else_ever() {
    let Some(world) = World::of("cluster.restore-object").await else { return };
    let mut made = Vec::new();
    for case in 0..CASES {
        for sort in &SORTS {
            let name = format!("x-{case}");
            let path = format!("{}/{name}", sort.all(&world));
            made.push((case, sort, path, world.make(&sort.all(&world), sort.body(&name, 0)).await));
        }
    }
    // All of them are from before.
    next_second().await;
    let began = now();
    for (case, sort, path, first) in made {
        let mut random = Random(case);
        let mut writes = Vec::new();
        for n in 1..=1 + random.below(3) {
            writes.push(write(&world, &path, sort.content(n)).await.1);
        }
        let of = target(&first, sort.version, sort.kind);
        // The owner labels it meanwhile: that is nothing of what it means, and stays.
        if random.below(2) == 0 {
            world.change(&path, json!({"metadata": {"labels": {"seen": "yes"}}})).await;
        }
        let act = world.begin(restore(&writes, began), of.clone()).await.unwrap();
        let theirs = sort.content(90);
        act.prove_all(
            std::slice::from_ref(&path),
            &path,
            theirs,
            &["sha256", "ours"].map(|word| if sort.kind == "ConfigMap" { word } else { "ours" }),
        )
        .await;
        let now_there = world.get(&path).await.unwrap();
        assert_eq!(now_there[sort.part], first[sort.part], "case {case}: {writes:?}");
        assert_eq!(act.verify().await.unwrap(), Effect::InForce);
        let undone = act.revert().await.unwrap();
        assert!(matches!(undone, PhaseDone::Reverted { .. }), "{undone:?}");
        // Repaired by its owner: what the attack wrote stands there no more.
        let (_, repair) = write(&world, &path, sort.content(70 + random.below(9))).await;
        let refused = world.begin(restore(&writes, began), of.clone()).await.err().unwrap();
        assert!(refused.to_string().contains("not what the attack wrote"), "{refused}");
        // And then written by the attack again: what is before is the owner's repair, of which nothing is known.
        let (_, again) = write(&world, &path, sort.content(50)).await;
        let known: Vec<ObjectWrite> = writes.iter().cloned().chain([again.clone()]).collect();
        for told in [known, vec![again]] {
            let refused = world.begin(restore(&told, began), of.clone()).await.err().unwrap().to_string();
            assert!(
                refused.contains("written by somebody else") || refused.contains("after the incident began"),
                "{refused}"
            );
        }
        drop(repair);
        let stood = world.get(&path).await.unwrap();
        assert_eq!(stood[sort.part], sort.body("x", 50)[sort.part], "what is refused writes nothing");
        world.delete(&path).await;
        assert!(matches!(act.revert().await, Err(ActionFailure::TargetGone { .. })));
        let gone = world.begin(restore(&writes, began), of).await.err().unwrap();
        assert!(matches!(gone, ActionFailure::TargetGone { .. }), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_what_is_not_known_to_be_the_attacks_write_is_not_taken_back() {
    let Some(world) = World::of("cluster.restore-object").await else { return };
    let sort = &SORTS[1];
    let path = format!("{}/x", sort.all(&world));
    let first = world.make(&sort.all(&world), sort.body("x", 0)).await;
    next_second().await;
    // The owner changes it; then somebody sends what stands there already, which writes nothing and is answered with the owner's version.
    let (_, owners) = write(&world, &path, sort.content(1)).await;
    next_second().await;
    let began = now();
    let (answer, nothing) = write(&world, &path, sort.content(1)).await;
    assert_eq!(answer["metadata"]["resourceVersion"], owners.version.as_str());
    let of = target(&first, sort.version, sort.kind);
    let refused = async |writes: &[ObjectWrite], began| {
        world.begin(restore(writes, began), of.clone()).await.err().unwrap().to_string()
    };
    let said = refused(&[nothing], began).await;
    assert!(said.contains("may have changed nothing"), "{said}");
    // The audit log tells no version.
    let said = refused(&[], began).await;
    assert!(said.contains("RequestResponse"), "{said}");
    let odd = ObjectWrite { version: "x".into(), received: now(), answered: now() };
    let said = refused(&[odd], began).await;
    assert!(said.contains("no revision"), "{said}");
    // A version of another object.
    let (_, other) = {
        let path = format!("{}/other", sort.all(&world));
        world.make(&sort.all(&world), sort.body("other", 0)).await;
        write(&world, &path, sort.content(5)).await
    };
    let said = refused(&[other], began).await;
    assert!(said.contains("none of this object"), "{said}");
    // Of two writes only the second was told: before it stands the first, which came after the incident began.
    write(&world, &path, sort.content(2)).await;
    let (_, second) = write(&world, &path, sort.content(3)).await;
    let said = refused(&[second], began).await;
    assert!(said.contains("after the incident began"), "{said}");
    assert_eq!(world.get(&path).await.unwrap()["rules"], sort.content(3)["rules"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_binding_that_the_attack_made_means_nothing_afterwards_and_a_configmap_is_refused() {
    let Some(world) = World::of("cluster.restore-object").await else { return };
    for sort in &SORTS {
        let began = now();
        let received = now();
        let made = world.make(&sort.all(&world), sort.body("evil", 1)).await;
        let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let writes = [ObjectWrite { version, received, answered: now() }];
        let path = format!("{}/evil", sort.all(&world));
        // As the log names it at the level Metadata, or by its uid.
        for of in [
            target(&made, sort.version, sort.kind),
            by_name(target(&made, sort.version, sort.kind), Some(now())),
        ] {
            let begun = world.begin(restore(&writes, began), of).await;
            if sort.kind == "ConfigMap" {
                let refused = begun.err().unwrap();
                assert!(refused.to_string().contains("did not exist before"), "{refused}");
                continue;
            }
            let act = begun.unwrap();
            act.prove(std::slice::from_ref(&path)).await;
            assert!(world.get(&path).await.unwrap()[sort.part].is_null());
            act.revert().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_an_object_that_was_made_anew_is_not_the_one_that_a_record_named() {
    let Some(world) = World::of("cluster.label").await else { return };
    let label = || {
        let labels = [("seen".to_owned(), "yes".to_owned())].into();
        ClusterAction::Label(model::Label { labels })
    };
    let all = world.of_group("batch/v1", "jobs");
    let body = json!({"metadata": {"name": "x"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let first = world.make(&all, body.clone()).await;
    let named = now();
    let of = |as_of| by_name(target(&first, "batch/v1", "Job"), as_of);
    world.begin(label(), of(Some(named))).await.unwrap();
    let refused = world.begin(label(), of(None)).await.err().unwrap();
    assert!(refused.to_string().contains("neither its uid"), "{refused}");
    world.delete(&format!("{all}/x?propagationPolicy=Background")).await;
    let gone = world.begin(label(), of(Some(named))).await.err().unwrap();
    assert!(matches!(gone, ActionFailure::TargetGone { .. }), "{gone}");
    next_second().await;
    let anew = world.make(&all, body).await;
    assert_ne!(anew["metadata"]["uid"], first["metadata"]["uid"]);
    let refused = world.begin(label(), of(Some(named))).await.err().unwrap();
    assert!(matches!(refused, ActionFailure::TargetChanged { .. }), "{refused}");
    let refused = world.begin(label(), target(&first, "batch/v1", "Job")).await.err().unwrap();
    assert!(matches!(refused, ActionFailure::TargetGone { .. }), "{refused}");
    // A later record means the new one.
    world.begin(label(), of(Some(now()))).await.unwrap();
}
