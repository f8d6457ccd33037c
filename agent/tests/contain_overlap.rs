//! Several freezes and stops of processes that belong together, made and lifted in any order, on the real kernel.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{collections::BTreeSet, fs, process::Command};

use ground::{Ground, cgroup_of, key, now, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, Which};
use model::{
    ActionId, ActionState, CommandKey, FreezeScope, Frozen, IncidentId, NodeAction, NodeCommand, NodeId,
    Phase, PhaseDone, RollbackState, Target, Timestamp,
};
use proptest::prelude::*;

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

/// A chain of processes, each the child of the one before, the first one's pid first.
fn chain(ground: &Ground, length: usize) -> Vec<u32> {
    let script = ground.dir.path().join("chain.sh");
    let text = r#"if [ $1 -gt 1 ]; then sh "$0" $(($1-1)) & wait; else exec sleep 1000; fi"#;
    fs::write(&script, text).unwrap();
    let root = ground.start(Command::new("sh").arg(&script).arg(length.to_string()));
    let child = |pid: u32| -> Option<u32> {
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .ok()?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    let mut pids = vec![root];
    wait_for("the chain", || {
        pids.truncate(1);
        while let Some(next) = child(pids[pids.len() - 1]) {
            pids.push(next);
        }
        let last = pids[pids.len() - 1];
        pids.len() >= length
            && fs::read_to_string(format!("/proc/{last}/comm")).is_ok_and(|name| name.trim() == "sleep")
    });
    wait_for("all to rest", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
    pids
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn is_in_frozen_jail(pid: u32) -> bool {
    let path = cgroup_of(pid).unwrap();
    let mount = ground::mount_of("cgroup2").unwrap();
    path.contains("/hemostat-jail-")
        && fs::read_to_string(mount.join(path.trim_start_matches('/')).join("cgroup.freeze")).unwrap().trim()
            == "1"
}

fn lift(contain: &Contain, id: &ActionId) {
    let lifted = contain.release(&Which::One(id.clone()));
    assert!(
        matches!(&lifted[..], [one] if matches!(one.result, Ok(PhaseDone::Reverted { .. }))),
        "{lifted:?}"
    );
}

#[test]
fn i5_a_child_and_then_its_ancestor_are_frozen_and_lifted_in_any_order() {
    for child_first in [true, false] {
        let Some(ground) = Ground::new("child and ancestor") else { return };
        let pids = chain(&ground, 3);
        let (root, child) = (pids[0], pids[pids.len() - 1]);
        let (other, elsewhere) = ground.sub("elsewhere");
        fs::write(other.join("cgroup.procs"), child.to_string()).unwrap();
        let before = ground.snapshot();
        let contain = ground.contain();
        let of_child = contain.react_freeze(key(child), now()).unwrap();
        let of_root = contain.react_freeze(key(root), now()).unwrap();
        for _ in 0..2 {
            assert_eq!(contain.watch(now()), [], "the two do not fight over the child");
        }
        assert!(pids.iter().all(|pid| is_in_frozen_jail(*pid)));
        if child_first {
            lift(&contain, &of_child.id);
            assert!(pids.iter().all(|pid| is_in_frozen_jail(*pid)), "the ancestor's freeze holds all");
            assert_eq!(contain.watch(now()), []);
            lift(&contain, &of_root.id);
        } else {
            lift(&contain, &of_root.id);
            assert!(is_in_frozen_jail(child), "the child's freeze holds it");
            assert_eq!(cgroup_of(root).unwrap(), ground.path, "the ancestor runs");
            assert_eq!(contain.watch(now()), []);
            lift(&contain, &of_child.id);
        }
        assert_eq!(cgroup_of(child).unwrap(), elsewhere);
        assert_eq!(ground.snapshot(), before);
        assert!(contain.in_force().is_empty());
    }
}

#[test]
fn i5_three_freezes_of_one_cgroup_hold_until_the_last_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let Some(ground) = Ground::new("three freezes") else { return };
        ground.shell("while :; do :; done");
        let before = ground.snapshot();
        let contain = ground.contain();
        for name in ["one", "two", "three"] {
            done(&contain, &CGROUP, &ground.target(), name);
        }
        let ids = ["act-one", "act-two", "act-three"].map(ActionId::new);
        for (nth, which) in order.into_iter().enumerate() {
            assert_eq!(
                fs::read_to_string(ground.cgroup.join("cgroup.freeze")).unwrap().trim(),
                "1",
                "{order:?} {nth}"
            );
            lift(&contain, &ids[which]);
        }
        assert_eq!(ground.snapshot(), before, "{order:?}");
    }
}

/// Between the capture and the apply of a command the process is moved and stopped by others: that is what is restored.
#[test]
fn i5_what_is_restored_is_what_was_when_it_was_done_and_not_when_it_was_planned() {
    for action in [SUBTREE, NodeAction::Stop] {
        let Some(ground) = Ground::new("late apply") else { return };
        let pid = ground.shell("exec sleep 1000");
        wait_for("it to rest", || state_of(pid) == Some('S'));
        let contain = ground.contain();
        let target = process(pid);
        let captured = contain.handle(&command(&action, &target, Phase::Capture, "k"), now()).result.unwrap();
        let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
        let (other, _) = ground.sub("other");
        fs::write(other.join("cgroup.procs"), pid.to_string()).unwrap();
        signal(pid, rustix::process::Signal::STOP);
        wait_for("their stop", || state_of(pid) == Some('T'));
        let before = ground.snapshot();
        let apply = Phase::Apply { rollback: rollback.clone() };
        contain.handle(&command(&action, &target, apply, "k"), now()).result.unwrap();
        let revert =
            command(&action, &target, Phase::Revert { rollback, on_drift: model::OnDrift::Ask }, "k");
        let reverted = contain.handle(&revert, now()).result;
        assert!(matches!(reverted, Ok(PhaseDone::Reverted { .. })), "{reverted:?}");
        assert_eq!(ground.snapshot(), before, "{action:?}");
    }
}

/// A freeze without a jail and a stop of the same process, both by signal: the one lifted first does not continue it.
#[test]
fn i5_two_that_hold_by_signal_hold_until_both_are_lifted() {
    for first in [0, 1] {
        let Some(ground) = Ground::new("two by signal") else { return };
        let pid = ground.shell("exec sleep 1000");
        wait_for("it to rest", || state_of(pid) == Some('S'));
        fs::write(ground.cgroup.join("cgroup.max.descendants"), "0").unwrap();
        let before = ground.snapshot();
        let contain = ground.contain();
        done(&contain, &NodeAction::Stop, &process(pid), "stop");
        done(&contain, &SUBTREE, &process(pid), "freeze");
        let mut ids = vec![ActionId::new("act-stop"), ActionId::new("act-freeze")];
        lift(&contain, &ids.remove(first));
        assert_eq!(contain.watch(now()), []);
        assert_eq!(state_of(pid), Some('T'), "the other holds it");
        lift(&contain, &ids.remove(0));
        wait_for("it to run", || ground.snapshot() == before);
    }
}

/// One step of a sequence: freeze or stop one of the chain, freeze the whole cgroup, or lift one of what is in force.
#[derive(Debug, Clone)]
enum Step {
    Freeze(prop::sample::Index),
    Stop(prop::sample::Index),
    FreezeCgroup,
    Lift(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Step::Freeze),
        1 => any::<prop::sample::Index>().prop_map(Step::Stop),
        1 => Just(Step::FreezeCgroup),
        4 => any::<prop::sample::Index>().prop_map(Step::Lift),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    /// Whatever is frozen, stopped and lifted in whatever order: who is held by a freeze stands in a frozen jail, who is held by none is
    /// at home, nothing is taken for drift, and in the end all is as it was.
    #[test]
    fn i5_any_sequence_of_overlapping_freezes_restores_exactly(
        steps in proptest::collection::vec(step(), 1..14),
        moved in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..2), 0..3),
        stopped in proptest::collection::vec(any::<prop::sample::Index>(), 0..2),
        without_jails in proptest::bool::weighted(0.2),
    ) {
        let Some(ground) = Ground::new("overlap property") else { return Ok(()) };
        let pids = chain(&ground, 3);
        let subs = [ground.sub("a"), ground.sub("b")];
        for (which, sub) in &moved {
            fs::write(subs[*sub].0.join("cgroup.procs"), which.get(&pids).to_string()).unwrap();
        }
        for which in &stopped {
            let pid = *which.get(&pids);
            signal(pid, rustix::process::Signal::STOP);
            wait_for("the stop", || state_of(pid) == Some('T'));
        }
        if without_jails {
            for at in [&ground.cgroup, &subs[0].0, &subs[1].0] {
                fs::write(at.join("cgroup.max.descendants"), if at == &ground.cgroup { "2" } else { "0" }).unwrap();
            }
        }
        let before = ground.snapshot();
        let home = |pid: &u32| before.processes[pid].0.clone();
        let contain = ground.contain();
        let mut standing: Vec<(ActionId, NodeAction, Option<usize>)> = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            let name = format!("{n}");
            match step {
                Step::Freeze(which) => {
                    let at = which.index(pids.len());
                    done(&contain, &SUBTREE, &process(pids[at]), &name);
                    standing.push((ActionId::new(format!("act-{name}")), SUBTREE, Some(at)));
                }
                Step::Stop(which) => {
                    let at = which.index(pids.len());
                    done(&contain, &NodeAction::Stop, &process(pids[at]), &name);
                    standing.push((ActionId::new(format!("act-{name}")), NodeAction::Stop, Some(at)));
                }
                Step::FreezeCgroup => {
                    done(&contain, &CGROUP, &ground.target(), &name);
                    standing.push((ActionId::new(format!("act-{name}")), CGROUP, None));
                }
                Step::Lift(_) if standing.is_empty() => continue,
                Step::Lift(which) => {
                    let (id, ..) = standing.remove(which.index(standing.len()));
                    lift(&contain, &id);
                }
            }
            let held: BTreeSet<usize> = standing
                .iter()
                .filter(|(_, action, _)| *action == SUBTREE)
                .flat_map(|(_, _, at)| at.unwrap()..pids.len())
                .collect();
            for (at, pid) in pids.iter().enumerate() {
                if !held.contains(&at) {
                    prop_assert_eq!(cgroup_of(*pid).unwrap(), home(pid), "after step {}", n);
                } else if !without_jails {
                    prop_assert!(is_in_frozen_jail(*pid), "process {} after step {}", at, n);
                }
            }
            let drifts = contain.watch(now());
            prop_assert!(drifts.is_empty(), "after step {}: {:?}", n, drifts);
            prop_assert_eq!(contain.in_force().len(), standing.len());
        }
        while let Some((id, ..)) = standing.pop() {
            lift(&contain, &id);
        }
        wait_for("the signals", || {
            ground.snapshot().processes.iter().all(|(pid, (_, stopped))| before.processes[pid].1 == *stopped)
        });
        prop_assert_eq!(ground.snapshot(), before);
    }
}

/// The first of two freezes is being applied again by the watch while the second holds the process: nothing goes back and forth.
#[test]
fn a_freeze_that_is_done_again_takes_the_process_from_the_other_and_both_are_content() {
    let Some(ground) = Ground::new("done again") else { return };
    let pids = chain(&ground, 2);
    let before = ground.snapshot();
    let contain = ground.contain();
    let of_child = contain.react_freeze(key(pids[pids.len() - 1]), now()).unwrap();
    let of_root = contain.react_freeze(key(pids[0]), now()).unwrap();
    let Some(RollbackState::Freeze { jail: Some(jail), members, was_frozen, .. }) = &of_child.rollback else {
        panic!("{of_child:?}")
    };
    assert_eq!((members[0].from.as_str(), *was_frozen), (ground.path.as_str(), Frozen::No));
    // somebody thaws the child's jail, which is empty by now
    let at = ground::mount_of("cgroup2").unwrap().join(jail.trim_start_matches('/'));
    fs::write(at.join("cgroup.freeze"), "0").unwrap();
    assert_eq!(contain.watch(now()).len(), 1);
    assert_eq!(contain.watch(now()), []);
    assert!(pids.iter().all(|pid| is_in_frozen_jail(*pid)));
    for id in [of_root.id, of_child.id] {
        lift(&contain, &id);
        assert_eq!(contain.record(&id).unwrap().state, ActionState::Reverted);
    }
    assert_eq!(ground.snapshot(), before);
}

fn done(contain: &Contain, action: &NodeAction, target: &Target, name: &str) {
    let captured = contain.handle(&command(action, target, Phase::Capture, name), now()).result.unwrap();
    let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
    contain.handle(&command(action, target, Phase::Apply { rollback }, name), now()).result.unwrap();
}

fn command(action: &NodeAction, target: &Target, phase: Phase, name: &str) -> NodeCommand {
    NodeCommand {
        key: CommandKey::new(name),
        action_id: ActionId::new(format!("act-{name}")),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: action.clone(),
        target: target.clone(),
        phase,
    }
}
