//! What a program may do to itself and its cgroups must not keep it from being contained: a name of any bytes, a cgroup that is removed between two
//! looks at it.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    process::Command,
    sync::{Arc, Mutex},
};

use ground::{Ground, key, lives, now, open, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, Which};
use model::{ActionState, FreezeScope, KillScope, NetQuarantine, NodeAction, PhaseDone, Target};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

/// Not a test: a program with threads, each of which calls itself what is no text, and spins.
#[test]
fn helper_without_a_name() {
    if std::env::var_os("HEMOSTAT_HELPER").is_none() {
        return;
    }
    fs::write("/proc/self/comm", b"\xff\xfe").unwrap();
    let spin = || {
        fs::write("/proc/thread-self/comm", b"(\xff)\n").unwrap();
        loop {
            std::hint::spin_loop();
        }
    };
    let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(spin)).collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn without_a_name(ground: &Ground) -> u32 {
    let pid = ground.start(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_without_a_name", "--nocapture"])
            .env("HEMOSTAT_HELPER", "1"),
    );
    let nameless = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.filter(|task| fs::read(task.path().join("comm")).is_ok_and(|name| name.contains(&0xff))).count()
    };
    wait_for("the threads to call themselves what is no text", || nameless() >= 4);
    pid
}

fn lift(contain: &Contain) {
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))), "{lifted:?}");
}

/// A process that has called itself what is no text is stopped, frozen, frozen with its cgroup, cut off, and killed like any other.
#[test]
fn a_name_that_is_no_text_keeps_nobody_from_being_contained() {
    let Some(ground) = Ground::new("nameless").and_then(Ground::with_bpffs) else { return };
    let pid = without_a_name(&ground);
    let contain = ground.contain();
    let before = ground.snapshot();
    let quarantine = NodeAction::NetQuarantine(NetQuarantine { allow: Vec::new() });
    let cases = [
        (NodeAction::Stop, process(pid)),
        (SUBTREE, process(pid)),
        (CGROUP, ground.target()),
        (quarantine, ground.target()),
    ];
    for (action, target) in cases {
        let record = contain.react(action.clone(), target, now()).unwrap();
        assert_eq!(record.state, ActionState::Applied, "{action:?}");
        assert!(contain.watch(now()).is_empty(), "{action:?} is in force");
        lift(&contain);
        wait_for("all to be as before", || ground.snapshot() == before);
    }
    contain.react(NodeAction::Kill(KillScope::Subtree), process(pid), now()).unwrap();
    wait_for("its end", || !lives(pid));
}

/// A tree that makes cgroups and removes them while it is gathered is frozen all the same.
#[test]
fn a_cgroup_that_goes_while_a_tree_is_gathered_frees_nobody() {
    let Some(ground) = Ground::new("going") else { return };
    let (place, _) = ground.sub("going");
    let root = ground.shell("sleep 1000 & while :; do :; done");
    ground.await_members(2);
    let child = ground.members().into_iter().find(|pid| *pid != root).unwrap();
    fs::write(place.join("cgroup.procs"), child.to_string()).unwrap();
    let mut config = ground.config();
    let went = Arc::new(Mutex::new(false));
    let hook_went = Arc::clone(&went);
    config.on_step = Some(Arc::new(move |step| {
        let mut went = hook_went.lock().unwrap();
        if step == "pause" && !*went {
            *went = true;
            fs::write(place.join("cgroup.kill"), "1").unwrap();
            wait_for("the cgroup to go", || fs::remove_dir(&place).is_ok());
        }
    }));
    let contain = open(&config);
    let record = contain.react(SUBTREE, process(root), now()).unwrap();
    assert!(*went.lock().unwrap(), "it went in the middle");
    assert_eq!(record.state, ActionState::Applied);
    assert!(contain.watch(now()).is_empty(), "who is left stands still");
    assert_eq!(record.target, Target::Process { process: key(root) });
    lift(&contain);
    wait_for("it to go on", || state_of(root) == Some('R'));
}
