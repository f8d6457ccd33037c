//! What holds for every change, over made-up objects.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// RFC 6902, as far as patches are made here.
fn patched(object: &Value, operations: &[Value]) -> Value {
    let mut object = object.clone();
    for operation in operations {
        let pointer = operation["path"].as_str().unwrap();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let last = last.replace("~1", "/").replace("~0", "~");
        match (operation["op"].as_str().unwrap(), object.pointer_mut(parent).unwrap()) {
            ("add", Value::Object(map)) => drop(map.insert(last, operation["value"].clone())),
            ("add", Value::Array(list)) => list.insert(last.parse().unwrap(), operation["value"].clone()),
            ("remove", Value::Object(map)) => drop(map.remove(&last).unwrap()),
            ("remove", Value::Array(list)) => drop(list.remove(last.parse().unwrap())),
            other => panic!("{other:?}"),
        }
    }
    object
}

fn labels() -> impl Strategy<Value = Value> {
    let map = proptest::collection::btree_map("[a-c/~]{1,3}", "[a-b]", 0..4);
    (map, proptest::collection::vec("[a-d]", 0..4), any::<bool>(), any::<bool>()).prop_map(
        |(map, list, has_map, has_list)| {
            let mut object = json!({"metadata": {"name": "x"}, "spec": {"replicas": 3}});
            if has_map {
                object["metadata"]["labels"] = json!(map);
            }
            if has_list {
                object["spec"]["taints"] = json!(list.iter().map(|k| json!({"key": k})).collect::<Vec<_>>());
            }
            object
        },
    )
}

proptest! {
    #[test]
    fn i5_back_restores_exactly_what_forward_changed(
        object in labels(), key in "[a-d/~]{1,3}", other in "[a-d/~]{1,3}", value in proptest::option::of("[a-b]"), item in "[a-f]", at in 0..4usize,
    ) {
        let mut changes: Vec<FieldChange> = Vec::new();
        changes.extend(set(&object, &["metadata", "labels", &key], value.map(Value::String)));
        if other != key {
            changes.extend(set(&object, &["metadata", "labels", &other], Some("new".into())));
        }
        changes.extend(set(&object, &["spec", "replicas"], Some(0.into())));
        changes.extend(set(&object, &["spec", "deep", "er"], Some(json!([1]))));
        if let Some(taken) = take(&object, &["spec", "taints"], at) {
            changes.push(taken);
        } else {
            changes.extend(put(&object, &["spec", "taints"], json!({"key": item}), Some("key")));
        }
        let forward = patched(&object, &patch(&object, &changes, Way::Forward));
        let doubled = object["spec"]["taints"].as_array().is_some_and(|l| l.iter().any(|a| l.iter().filter(|b| *b == a).count() > 1));
        prop_assume!(!doubled);
        for change in &changes {
            prop_assert_eq!(standing(&object, change), Standing::Before);
            prop_assert_eq!(standing(&forward, change), Standing::After);
        }
        prop_assert!(patch(&forward, &changes, Way::Forward).is_empty(), "done once");
        let reversed: Vec<FieldChange> = changes.iter().rev().cloned().collect();
        let back = patched(&forward, &patch(&forward, &reversed, Way::Back));
        prop_assert_eq!(&back, &object);
        prop_assert!(patch(&back, &reversed, Way::Back).is_empty(), "undone once");
        // somebody else's field in between stays
        let mut touched = forward.clone();
        touched["metadata"]["annotations"] = json!({"a": "b"});
        let back = patched(&touched, &patch(&touched, &reversed, Way::Back));
        prop_assert_eq!(&back["metadata"]["annotations"], &json!({"a": "b"}));
    }
}

#[test]
fn somebody_elses_edit_is_a_drift() {
    let object = json!({"spec": {"replicas": 3, "taints": []}});
    let change = set(&object, &["spec", "replicas"], Some(0.into())).unwrap();
    let now = json!({"spec": {"replicas": 5}});
    assert_eq!(standing(&now, &change), Standing::Drifted { now: "5".into() });
    assert_eq!(difference(&change, "5"), "spec.replicas: was 3, ours 0, now 5");
    let taint = json!({"key": "hemostat.dev/x", "effect": "NoSchedule"});
    let change = put(&object, &["spec", "taints"], taint, Some("key")).unwrap();
    let now = json!({"spec": {"taints": [{"key": "hemostat.dev/x", "effect": "NoExecute"}]}});
    assert!(matches!(standing(&now, &change), Standing::Drifted { .. }));
}

#[test]
fn what_the_server_adds_is_no_drift() {
    let wanted = json!({"spec": {"a": [{"b": 1}], "none": []}});
    assert!(covers(&json!({"spec": {"a": [{"b": 1, "c": 2}], "d": 1}, "status": {}}), &wanted));
    assert!(!covers(&json!({"spec": {"a": [{"b": 2}]}}), &wanted));
    assert!(!covers(&json!({"spec": {"a": []}}), &wanted));
}
