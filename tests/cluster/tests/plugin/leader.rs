//! What is asked of the controller that leads comes to its pod, by the real kubectl, and is nobody else's. There is no node here, so that
//! kubectl gets as far as the pod and no further.

use serde_json::json;

use crate::scene::Scene;

#[test]
fn the_leader_is_who_the_lease_names_and_kubectl_is_sent_there() {
    let Some(scene) = Scene::new(&["sec"]) else { return };
    let said = scene.plugin("admin", 80, &["leader", "-n", "sec", "status"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("no controller leads in the namespace sec"), "{}", said.err);

    let lease = |holder: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "hemostat-controller", "namespace": "sec"},
            "spec": {"holderIdentity": holder}})
        .to_string()
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hemostat-controller-7d", "namespace": "sec"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "controller", "image": "none"}]}});
    scene.server.kubectl(&["create", "serviceaccount", "default", "-n", "sec"]).unwrap();
    scene.server.create("admin", &pod.to_string(), &[]).unwrap();
    scene.server.create("admin", &lease("hemostat-controller-7d"), &[]).unwrap();
    let said = scene.plugin("admin", 80, &["leader", "-n", "sec", "policy", "promotion", "--patch", "-"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("pod hemostat-controller-7d does not have a host assigned"), "{}", said.err);

    // A pause outlives the leader: also where he is not reached, it stands on the namespace.
    let label = || {
        let path = "jsonpath={.metadata.labels.hemostat\\.dev/automatic}";
        scene.server.kubectl(&["get", "namespace", "sec", "-o", path]).unwrap()
    };
    for (word, stands) in [("pause", "off"), ("resume", "")] {
        let said = scene.plugin("admin", 80, &["leader", "-n", "sec", word, "--reason", "a drill"]);
        assert_eq!((said.code, label().as_str()), (1, stands), "{said:?}");
        assert!(said.err.contains("label hemostat.dev/automatic of namespace sec"), "{}", said.err);
    }

    // Who may not, and what nobody may so.
    let said = scene.plugin("eve", 80, &["leader", "-n", "sec", "status"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("cannot get resource \"leases\""), "{}", said.err);
    let said = scene.plugin("admin", 80, &["leader", "-n", "sec", "approve", "inc-1", "--all"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("`kubectl hemostat approve` does it in your own name"), "{}", said.err);
}
