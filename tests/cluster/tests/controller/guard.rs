//! What nodes leave alone, and which rules let them act, follows what stands in the API server.

use model::{NodeGuard, PodGuard};
use serde_json::json;

use crate::{
    node::{Node, miner},
    scene::{HOME, Scene, until},
};

fn guard(node: &Node) -> NodeGuard {
    node.world.lock().unwrap().guard.clone().unwrap_or_default()
}

fn is_never(node: &Node, uid: &str, word: &str) -> bool {
    matches!(guard(node).pods.get(uid), Some(PodGuard::Never { because }) if because.contains(word))
}

fn is_asked(node: &Node, uid: &str, word: &str) -> bool {
    matches!(guard(node).pods.get(uid), Some(PodGuard::Asked { because }) if because.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_node_is_told_which_of_its_pods_it_leaves_alone_and_of_every_change() {
    let Some(scene) = Scene::new() else { return };
    let process = scene.start("one");
    let node = scene.node(&process, "n1").await;
    scene.kubectl(&["create", "namespace", "vault"]);
    let (pay, vault, system) =
        (scene.pod_in("pay", "a"), scene.pod_in("vault", "b"), scene.pod_in("kube-system", "c"));
    until("the pods are told", || {
        let known = guard(&node).pods;
        [&pay, &vault].iter().all(|uid| known.get(*uid) == Some(&PodGuard::Free))
    })
    .await;
    assert!(is_never(&node, &system, "kube-system"));
    let own = scene.get(&["pods", "-n", HOME])["items"][0]["metadata"]["uid"].as_str().unwrap().to_owned();
    until("our own pod is left alone", || is_never(&node, &own, "own")).await;
    let first = guard(&node).generation;
    scene.apply(
        &json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponsePolicy",
            "metadata": {"name": "vault", "namespace": HOME}, "spec": {"protected": {"namespaces": ["vault"]}}})
        .to_string(),
    );
    until("the policy's namespace is left alone", || is_never(&node, &vault, "vault")).await;
    assert!(guard(&node).generation > first);
    scene.kubectl(&["label", "namespace", "pay", "hemostat.dev/automatic=off"]);
    until("the label of a namespace counts", || is_asked(&node, &pay, "label")).await;
    scene.kubectl(&["label", "namespace", "pay", "hemostat.dev/automatic-"]);
    until("and its absence", || guard(&node).pods[&pay] == PodGuard::Free).await;
    scene.apply(
        &json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponsePolicy",
            "metadata": {"name": "slow", "namespace": "pay"}, "spec": {"mode": "Approve"}})
        .to_string(),
    );
    until("a policy's mode counts", || is_asked(&node, &pay, "slow")).await;
    node.close().await;
    process.stop();
}

/// Two false positives of automatic runs cost a playbook its mode: from then on no node acts by itself for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_a_playbook_that_was_taken_back_lets_no_node_act_by_itself() {
    let Some(scene) = Scene::new() else { return };
    let process = scene.start("one");
    let rule = "title: m\nid: rule-miner\nlogsource: {product: linux, category: process_creation}\ndetection:\n  s:\n    \
                Image|endswith: /xmrig\n  condition: s\nlevel: critical\nhemostat:\n  reaction: freeze\n";
    scene.apply(
        &json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "RuleSet", "metadata": {"name": "r"},
            "spec": {"inline": [{"name": "m.yml", "sigma": rule}]}})
        .to_string(),
    );
    scene.apply(&crate::playbook("Auto"));
    let node = scene.node(&process, "n1").await;
    let may_act = || node.world.lock().unwrap().rules.as_ref().map(|rules| rules.may_act.clone());
    until("the rule may act", || may_act() == Some(vec!["rule-miner".into()])).await;
    // Both act before anybody has judged the first: after that the gate would ask.
    let other = scene.node(&process, "n2").await;
    node.tell(miner("n1", 41));
    other.tell(miner("n2", 42));
    let acted = |it: &serde_json::Value| {
        let waits = |one: &&serde_json::Value| one["status"]["state"] == "NeedsApproval";
        it["items"].as_array().unwrap().iter().filter(waits).count() == 2
    };
    let all = scene.wait(&["incidents", "-n", HOME], acted);
    for open in all["items"].as_array().unwrap() {
        let name = open["metadata"]["name"].as_str().unwrap();
        scene.false_positive(HOME, name);
        scene.wait(&["incident", name, "-n", HOME], |it| it["status"]["state"] == "RolledBack");
    }
    let taken_back = scene.wait(&["playbook", "miner"], |it| it["status"]["mode"] == "Approve");
    assert_eq!(taken_back["spec"]["mode"], "Auto", "what people wrote stays");
    until("no rule may act", || may_act() == Some(vec![])).await;
    node.close().await;
    other.close().await;
    process.stop();
}
