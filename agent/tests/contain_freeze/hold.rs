//! A freeze holds everyone of a tree or cgroup, and its undo lets them go on.

use std::{fs, process::Command};

use hemostat_agent::contain::Which;
use model::{ActionState, KillScope, NodeAction, PhaseDone};

use crate::{
    ground::{self, Ground, cgroup_of, key, lives, now, process, wait_for},
    tree,
};

#[test]
fn i5_a_spinning_process_is_frozen_and_goes_on_where_it_was() {
    let Some(ground) = Ground::new("freeze") else { return };
    let pid = ground.shell("while :; do :; done");
    let before = ground.snapshot();
    let contain = ground.contain();
    let record = contain.react_freeze(key(pid), now()).unwrap();
    assert_eq!(record.state, ActionState::Applied);
    let jail = cgroup_of(pid).unwrap();
    assert!(jail.starts_with(&format!("{}/hemostat-jail-", ground.path)), "{jail}");
    let events =
        fs::read_to_string(ground.cgroup.join(jail.rsplit('/').next().unwrap()).join("cgroup.events"))
            .unwrap();
    assert!(events.contains("frozen 1"), "{events}");
    assert_eq!(contain.in_force().len(), 1);
    // the same again is the same containment
    assert_eq!(contain.react_freeze(key(pid), now()).unwrap().id, record.id);
    assert_eq!(contain.in_force().len(), 1);

    let lifted = contain.release(&Which::All);
    assert!(
        matches!(&lifted[..], [one] if matches!(one.result, Ok(PhaseDone::Reverted { .. }))),
        "{lifted:?}"
    );
    assert_eq!(ground.snapshot(), before);
    assert!(contain.in_force().is_empty());
    let ticks = || ground::stat_field(pid, 11).unwrap().parse::<u64>().unwrap();
    let then = ticks();
    wait_for("the process to burn CPU again", || ticks() > then);
}

#[test]
fn nobody_escapes_from_a_fork_storm() {
    let Some(ground) = Ground::new("storm") else { return };
    let contain = ground.contain();
    for _ in 0..5 {
        let root = ground.shell("while :; do (sleep 0.01; (sleep 0.01; sleep 0.01) & wait) & done");
        wait_for("the storm", || ground.members().len() > 20);
        let record = contain.react_freeze(key(root), now()).unwrap();
        let outside: Vec<u32> = ground
            .members()
            .into_iter()
            .filter(|pid| lives(*pid) && cgroup_of(*pid).is_some_and(|path| path == ground.path))
            .collect();
        assert_eq!(outside, Vec::<u32>::new(), "these run on");
        assert_eq!(
            fs::read_to_string(ground.cgroup.join("cgroup.freeze")).unwrap().trim(),
            "0",
            "only the jail is frozen"
        );
        assert!(
            contain.watch(now()).is_empty(),
            "everyone stands still by now, also whoever was in the middle of a fork"
        );
        let frozen = ground.members();
        (0..1000).for_each(|_| std::thread::yield_now());
        assert_eq!(ground.members(), frozen, "nobody forks in the jail");
        assert_eq!(contain.release(&Which::One(record.id)).len(), 1);
        assert_eq!(ground.snapshot().cgroups.len(), 1, "the jail is gone");
        wait_for("the storm to go on", || ground.members().iter().any(|pid| !frozen.contains(pid)));
        contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
        wait_for("the storm to end", || ground.members().is_empty());
    }
}

/// While a tree with children is gathered, its cgroup stands still: a child that forks and ends before it is moved would leave an
/// orphan that nobody could attribute.
#[test]
fn the_cgroup_stands_still_while_a_tree_is_gathered() {
    let Some(ground) = Ground::new("pause") else { return };
    let root = tree(&ground, &[3, 2]);
    let wishes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut config = ground.config();
    let (seen, wish) = (wishes.clone(), ground.cgroup.join("cgroup.freeze"));
    config.on_step = Some(std::sync::Arc::new(move |step| {
        if step == "move child" {
            seen.lock().unwrap().push(fs::read_to_string(&wish).unwrap().trim().to_owned());
        }
    }));
    let contain = ground::open(&config);
    contain.react_freeze(key(root), now()).unwrap();
    assert_eq!(*wishes.lock().unwrap(), vec!["1"; 9]);
    assert_eq!(fs::read_to_string(ground.cgroup.join("cgroup.freeze")).unwrap().trim(), "0");
    contain.release(&Which::All);
}

#[test]
fn all_threads_stand_still() {
    let Some(ground) = Ground::new("threads") else { return };
    let helper = std::env::current_exe().unwrap();
    let pid = ground.start(
        Command::new(helper)
            .args(["--exact", "hold::helper_threads", "--nocapture"])
            .env("HEMOSTAT_HELPER", "threads"),
    );
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    wait_for("the threads", || threads() >= 9);
    let contain = ground.contain();
    contain.react_freeze(key(pid), now()).unwrap();
    let burnt = || -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap())
            .collect();
        all.sort();
        all
    };
    // the signal that stopped them first has been taken back: within the kernel each goes over from the one stand to the other
    wait_for("the freezer to hold all threads", || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
        })
    });
    let then = burnt();
    for _ in 0..1000 {
        std::thread::yield_now();
    }
    assert_eq!(burnt(), then, "no thread was given the CPU");
    contain.release(&Which::All);
    wait_for("the threads to go on", || burnt() != then);
}

/// Not a test: what `all_threads_stand_still` starts.
#[test]
fn helper_threads() {
    if std::env::var_os("HEMOSTAT_HELPER").is_none() {
        return;
    }
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop()
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

#[test]
fn a_thaw_by_somebody_else_is_undone() {
    let Some(ground) = Ground::new("drift") else { return };
    let root = tree(&ground, &[2]);
    let contain = ground.contain();
    contain.react_freeze(key(root), now()).unwrap();
    let jail = ground.cgroup.join(cgroup_of(root).unwrap().rsplit('/').next().unwrap());
    fs::write(jail.join("cgroup.freeze"), "0").unwrap();
    assert_eq!(contain.watch(now()).len(), 1);
    assert_eq!(fs::read_to_string(jail.join("cgroup.freeze")).unwrap().trim(), "1");
    // a member is moved out
    fs::write(ground.cgroup.join("cgroup.procs"), root.to_string()).unwrap();
    assert_eq!(contain.watch(now()).len(), 1);
    assert_eq!(ground.cgroup.join(cgroup_of(root).unwrap().rsplit('/').next().unwrap()), jail);
    assert!(contain.watch(now()).is_empty());
    contain.release(&Which::All);
    assert!(!jail.exists());
}
