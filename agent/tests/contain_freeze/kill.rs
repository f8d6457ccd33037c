//! A kill reaches the whole tree and nobody else.

use std::{fs, process::Command};

use hemostat_agent::contain::Which;
use model::{ActionFailure, ActionState, KillScope, NodeAction, Target};

use crate::{
    SUBTREE, TREE,
    ground::{Ground, cgroup_of, key, lives, now, process, state_of, wait_for},
    tree,
};

#[test]
fn kill_reaches_the_whole_tree_and_nobody_else() {
    let Some(ground) = Ground::new("kill") else { return };
    let bystander = ground.shell("exec sleep 1000");
    wait_for("the bystander", || ground.members() == [bystander]);
    let script = ground.dir.path().join("t.sh");
    fs::write(&script, TREE).unwrap();
    let root = ground.start(Command::new("sh").arg(&script).args(["3", "3"]));
    ground.await_members(14);
    let contain = ground.contain();
    let record = contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
    assert_eq!(record.state, ActionState::Applied);
    wait_for("the others to leave the cgroup", || ground.members() == [bystander]);
    assert_eq!(ground.snapshot().cgroups.len(), 1, "no jail is left");
    assert!(contain.in_force().is_empty(), "a kill holds nothing");
    let again = contain.react(NodeAction::Kill(KillScope::Process), process(bystander), now()).unwrap();
    assert!(!lives(bystander), "{again:?}");
    let gone = contain.react(NodeAction::Kill(KillScope::Process), again.target, now());
    assert!(matches!(gone, Err(ActionFailure::TargetGone { .. })), "{gone:?}");
}

/// A program whose first thread has ended shows as a zombie in /proc and runs on.
#[test]
fn a_program_without_its_first_thread_does_not_escape() {
    let Some(ground) = Ground::new("dead leader") else { return };
    let script = "import threading,ctypes\n\ndef spin():\n while True: pass\nthreading.Thread(target=spin).start()\nctypes.CDLL(None).pthread_exit(0)";
    if !Command::new("python3").arg("-c").arg("").status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: dead leader: no python3");
        return;
    }
    let pid = ground.start(Command::new("python3").args(["-c", script]));
    wait_for("the first thread to end", || state_of(pid) == Some('Z'));
    let contain = ground.contain();
    let before = ground.snapshot();
    let freeze = contain.react_freeze(key(pid), now()).unwrap();
    assert!(cgroup_of(pid).unwrap().contains("hemostat-jail-"));
    assert!(contain.watch(now()).is_empty());
    contain.release(&Which::One(freeze.id));
    assert_eq!(ground.snapshot(), before);
    let stop = contain.react(NodeAction::Stop, process(pid), now()).unwrap();
    assert!(contain.watch(now()).is_empty(), "it is seen to be stopped");
    contain.release(&Which::One(stop.id));
    contain.react(NodeAction::Kill(KillScope::Subtree), process(pid), now()).unwrap();
    wait_for("its end", || ground.members().is_empty());
}

#[test]
fn kill_works_on_a_frozen_tree() {
    let Some(ground) = Ground::new("kill frozen") else { return };
    let root = tree(&ground, &[2, 2]);
    let contain = ground.contain();
    contain.react_freeze(key(root), now()).unwrap();
    contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
    wait_for("their end", || ground.members().iter().all(|pid| !lives(*pid)));
    contain.watch(now());
    assert_eq!(ground.snapshot().cgroups.len(), 1, "the jail went with them");
    assert!(contain.in_force().is_empty());
}

/// The pid of a dead process is given to a new one, which must live (I9).
#[test]
fn i9_a_reused_pid_is_not_killed() {
    let Some(ground) = Ground::new("pid reuse") else { return };
    let last = "/proc/sys/kernel/ns_last_pid";
    if fs::OpenOptions::new().write(true).open(last).is_err() {
        println!("SKIPPED: pid reuse: no {last} (CONFIG_CHECKPOINT_RESTORE)");
        return;
    }
    let mut victim = Command::new("sleep").arg("1000").spawn().unwrap();
    let (pid, old) = (victim.id(), key(victim.id()));
    victim.kill().unwrap();
    victim.wait().unwrap();
    // another start time needs another clock tick
    let tick = || fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().to_owned();
    let then = tick();
    wait_for("the next tick", || tick() != then);
    let mut successor = None;
    for _ in 0..1000 {
        fs::write(last, (pid - 1).to_string()).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        if child.id() == pid {
            successor = Some(child);
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let Some(mut successor) = successor else {
        println!("SKIPPED: pid reuse: the pid was always taken by somebody else");
        return;
    };
    let contain = ground.contain();
    let target = Target::Process { process: old };
    for action in [
        NodeAction::Kill(KillScope::Process),
        NodeAction::Kill(KillScope::Subtree),
        SUBTREE,
        NodeAction::Stop,
    ] {
        let refused = contain.react(action.clone(), target.clone(), now());
        assert!(matches!(refused, Err(ActionFailure::TargetChanged { .. })), "{action:?}: {refused:?}");
    }
    assert!(lives(pid));
    successor.kill().unwrap();
    successor.wait().unwrap();
}
