//! What is protected is not touched (I6).

use std::fs;

use hemostat_agent::contain::Which;
use model::{ActionFailure, KillScope, NodeAction};

use crate::{
    CGROUP, SUBTREE,
    ground::{self, Ground, cgroup_of, key, now, process, state_of, wait_for},
    tree,
};

#[test]
fn i6_what_is_protected_is_never_touched() {
    let Some(ground) = Ground::new("protected") else { return };
    let contain = ground.contain();
    let parent = ground::stat_field(std::process::id(), 1).unwrap().parse().unwrap();
    for pid in [1, std::process::id(), parent] {
        for action in [SUBTREE, NodeAction::Kill(KillScope::Process), NodeAction::Stop] {
            let refused = contain.react(action.clone(), process(pid), now());
            assert!(
                matches!(refused, Err(ActionFailure::Protected { .. })),
                "pid {pid} {action:?}: {refused:?}"
            );
        }
    }
    let root = ground::cgroup_target(ground.cgroup.parent().unwrap(), "/");
    for action in [
        CGROUP,
        NodeAction::Kill(KillScope::Subtree),
        NodeAction::NetQuarantine(model::NetQuarantine::default()),
    ] {
        let refused = contain.react(action.clone(), root.clone(), now());
        assert!(matches!(refused, Err(ActionFailure::Protected { .. })), "{action:?}: {refused:?}");
    }
    assert!(contain.in_force().is_empty());
}

#[test]
fn i6_a_protected_descendant_is_left_out_and_named_and_the_rest_is_contained() {
    for without_jail in [false, true] {
        let Some(ground) = Ground::new("protected child") else { return };
        let root = tree(&ground, &[2, 2]);
        if without_jail {
            fs::write(ground.cgroup.join("cgroup.max.descendants"), "0").unwrap();
        }
        let before = ground.snapshot();
        let is_leaf = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
        };
        let (leaves, inner): (Vec<u32>, Vec<u32>) = ground.members().into_iter().partition(is_leaf);
        // only the leaves are protected
        let mut config = ground.config();
        config.protected.executables = vec![fs::read_link(format!("/proc/{}/exe", leaves[0])).unwrap()];
        let contain = ground::open(&config);
        let record = contain.react_freeze(key(root), now()).unwrap();
        assert_eq!((leaves.len(), inner.len()), (4, 3));
        for leaf in &leaves {
            assert_eq!(cgroup_of(*leaf).unwrap(), ground.path);
            wait_for("the leaf to sleep", || state_of(*leaf) == Some('S'));
            assert!(record.detail.contains(&format!("pid {leaf} ")), "{}", record.detail);
        }
        for pid in &inner {
            if without_jail {
                assert_eq!(state_of(*pid), Some('T'));
            } else {
                assert_ne!(cgroup_of(*pid).unwrap(), ground.path);
            }
        }
        assert!(contain.watch(now()).is_empty());
        contain.release(&Which::All);
        wait_for("all to be as before", || ground.snapshot() == before);
        let killed = contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
        assert!(killed.detail.contains("protected"), "{}", killed.detail);
        wait_for("the end of the rest", || ground.members() == leaves);
        let refused = contain.react_freeze(key(leaves[0]), now());
        assert!(matches!(refused, Err(ActionFailure::Protected { .. })), "{refused:?}");
    }
}
