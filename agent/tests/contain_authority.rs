//! On whose word something is done is not forgotten: what the node began by itself stays its own after a crash, and when it is done again.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ground::{Ground, cgroup_of, now, open, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, ContainConfig, Guard, Which};
use model::{
    ActionId, CommandKey, FreezeScope, IncidentId, NodeAction, NodeCommand, NodeGuard, NodeId, Phase,
    PhaseDone, Timestamp,
};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);

/// An agent of a cluster, with the controller's word.
fn guarded(ground: &Ground) -> (ContainConfig, Guard) {
    let guard = Guard::load(ground.dir.path().join("pods.json"));
    guard.take(NodeGuard::default());
    let mut config = ground.config();
    config.guard = Some(guard.clone());
    (config, guard)
}

fn on_command(contain: &Contain, pid: u32) {
    let command = |phase| NodeCommand {
        key: CommandKey::new("key"),
        action_id: ActionId::new("act-told"),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: SUBTREE,
        target: process(pid),
        phase,
    };
    let captured = contain.handle(&command(Phase::Capture), now()).result.unwrap();
    let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
    contain.handle(&command(Phase::Apply { rollback }), now()).result.unwrap();
}

/// A reaction is cut off in the middle, and then the controller says that nothing is to be done by rules: the next start undoes it. What the
/// controller had commanded comes to its end.
#[test]
fn i6_a_reaction_that_a_crash_cut_off_is_not_finished_as_if_it_were_commanded() {
    for told in [false, true] {
        let Some(ground) = Ground::new("cut off") else { return };
        let pid = ground.shell("exec sleep 1000");
        wait_for("it to rest", || state_of(pid) == Some('S'));
        let before = ground.snapshot();
        let (mut config, guard) = guarded(&ground);
        let dead = Arc::new(AtomicBool::new(false));
        let hook_dead = dead.clone();
        config.on_step = Some(Arc::new(move |step| {
            if step == "move" && !hook_dead.swap(true, Ordering::Relaxed) {
                panic!("the agent dies");
            }
        }));
        let contain = open(&config);
        let died = std::panic::catch_unwind(AssertUnwindSafe(|| match told {
            true => on_command(&contain, pid),
            false => drop(contain.react(SUBTREE, process(pid), now()).unwrap()),
        }));
        assert!(died.is_err());
        drop(contain);
        guard.take(NodeGuard { nothing: Some("too many places".into()), ..NodeGuard::default() });
        config.on_step = None;
        let contain = open(&config);
        contain.recover(now());
        if told {
            assert_eq!(contain.in_force().len(), 1);
            assert!(cgroup_of(pid).unwrap().contains("hemostat-jail-"));
            contain.release(&Which::All);
        }
        assert!(contain.in_force().is_empty());
        wait_for("it to be as before", || ground.snapshot() == before);
    }
}

/// Somebody thaws what a rule had frozen, and the controller has said meanwhile that rules are to do nothing.
#[test]
fn i6_a_reaction_is_not_done_again_where_rules_may_do_nothing_any_more() {
    let Some(ground) = Ground::new("not again") else { return };
    let pid = ground.shell("exec sleep 1000");
    wait_for("it to rest", || state_of(pid) == Some('S'));
    let before = ground.snapshot();
    let (config, guard) = guarded(&ground);
    let contain = open(&config);
    contain.react(SUBTREE, process(pid), now()).unwrap();
    guard.take(NodeGuard { nothing: Some("too many places".into()), ..NodeGuard::default() });
    assert!(contain.watch(now()).is_empty(), "it holds as long as nobody undoes it");
    fs::write(ground.cgroup.join("cgroup.procs"), pid.to_string()).unwrap();
    let drifts = contain.watch(now());
    assert!(matches!(&drifts[..], [one] if one.again.is_err()), "{drifts:?}");
    assert_eq!(cgroup_of(pid).unwrap(), ground.path);
    contain.release(&Which::All);
    wait_for("it to be as before", || ground.snapshot() == before);
}
