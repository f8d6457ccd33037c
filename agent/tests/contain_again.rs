//! A freeze that is applied again, because somebody undid a part of it or came late: who is in the jail stays in, whatever becomes of the others.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use ground::{Ground, Heard, cgroup_of, key, lives, now, open, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, Which};
use model::{FreezeScope, KillScope, NodeAction, PhaseDone};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);

/// A cgroup of which the kernel lets nobody's move be taken back exactly: threads of its processes may be in others. `None`, said aloud, where
/// there are no threaded cgroups.
fn immovable(ground: &Ground) -> Option<PathBuf> {
    let (mixed, _) = ground.sub("mixed");
    fs::create_dir(mixed.join("threads")).unwrap();
    match fs::write(mixed.join("threads/cgroup.type"), "threaded") {
        Ok(()) => Some(mixed),
        Err(error) => {
            println!("SKIPPED: threaded cgroups: {error}");
            None
        }
    }
}

fn sleeper(ground: &Ground, at: &Path) -> u32 {
    let pid = ground.start_in(at, Command::new("sleep").arg("1000").stdout(std::process::Stdio::null()));
    wait_for("it to rest", || state_of(pid) == Some('S'));
    pid
}

fn is_jailed(pid: u32) -> bool {
    let mount = ground::mount_of("cgroup2").unwrap();
    cgroup_of(pid).is_some_and(|path| {
        let wish = mount.join(path.trim_start_matches('/')).join("cgroup.freeze");
        path.contains("/hemostat-jail-") && fs::read_to_string(wish).is_ok_and(|wish| wish.trim() == "1")
    })
}

fn lift(contain: &Contain) {
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))), "{lifted:?}");
    assert!(contain.in_force().is_empty());
}

/// At each step after it is armed: whether that process is in its jail.
struct Witness(Arc<Mutex<(Option<u32>, Vec<&'static str>)>>);

impl Witness {
    fn of(config: &mut hemostat_agent::contain::ContainConfig) -> Self {
        let seen: Arc<Mutex<(Option<u32>, Vec<&'static str>)>> = Arc::default();
        let hook = Arc::clone(&seen);
        config.on_step = Some(Arc::new(move |step| {
            let mut seen = hook.lock().unwrap();
            if seen.0.is_some_and(|pid| !is_jailed(pid)) {
                seen.1.push(step);
            }
        }));
        Self(seen)
    }

    fn arm(&self, pid: u32) {
        self.0.lock().unwrap().0 = Some(pid);
    }

    /// The steps at which it was out.
    fn disarm(&self) -> Vec<&'static str> {
        let mut seen = self.0.lock().unwrap();
        seen.0 = None;
        std::mem::take(&mut seen.1)
    }
}

/// One is heard of late whom no jail takes: it is stopped by signal, and nobody is let out for it, not for a moment.
#[test]
fn one_who_cannot_be_moved_lets_nobody_out_of_the_jail() {
    let Some(ground) = Ground::new("again") else { return };
    let Some(mixed) = immovable(&ground) else { return };
    let root = ground.shell("sleep 1000 & while :; do :; done");
    ground.await_members(2);
    let late = sleeper(&ground, &mixed);
    let before = ground.snapshot();
    let heard = Arc::new(Heard::default());
    let mut config = ground.config();
    config.lineage = Some(heard.clone());
    let witness = Witness::of(&mut config);
    let contain = open(&config);
    contain.react(SUBTREE, process(root), now()).unwrap();
    assert!(is_jailed(root));
    heard.0.lock().unwrap().push(key(late));
    witness.arm(root);
    let drifts = contain.watch(now());
    assert_eq!(witness.disarm(), Vec::<&str>::new(), "{drifts:?}");
    assert!(is_jailed(root));
    assert!(drifts.iter().all(|drift| drift.again.is_ok()) && drifts.len() == 1, "{drifts:?}");
    wait_for("its stop", || state_of(late) == Some('T'));
    assert_eq!(contain.watch(now()), [], "it is complete now");
    // an accomplice lets it go on
    let raw = rustix::process::Pid::from_raw(i32::try_from(late).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::CONT).unwrap();
    wait_for("it to go on", || state_of(late) == Some('S'));
    witness.arm(root);
    let drifts = contain.watch(now());
    assert!(drifts.iter().all(|drift| drift.again.is_ok()) && drifts.len() == 1, "{drifts:?}");
    assert_eq!(witness.disarm(), Vec::<&str>::new());
    wait_for("its stop", || state_of(late) == Some('T'));
    lift(&contain);
    wait_for("all to be as before", || ground.snapshot() == before);
}

/// The same where it is there from the start, and where the agent is started anew in between: the others are in a jail, which nobody undoes by a
/// signal; and a kill reaches it as well.
#[test]
fn a_tree_of_which_one_cannot_be_moved_is_held_by_a_jail_and_by_signal() {
    let Some(ground) = Ground::new("mixed") else { return };
    let Some(mixed) = immovable(&ground) else { return };
    let root = ground.shell("(sleep 1000 & wait) & while :; do :; done");
    ground.await_members(3);
    let child = ground.members().into_iter().filter(|pid| *pid != root).min().unwrap();
    wait_for("its children to rest", || {
        ground.members().into_iter().filter(|pid| *pid != root).all(|pid| state_of(pid) == Some('S'))
    });
    fs::write(mixed.join("cgroup.procs"), child.to_string()).unwrap();
    let before = ground.snapshot();
    let contain = ground.contain();
    contain.react(SUBTREE, process(root), now()).unwrap();
    assert!(is_jailed(root));
    wait_for("its stop", || state_of(child) == Some('T'));
    assert!(cgroup_of(child).unwrap().ends_with("/mixed"));
    let grandchild = ground.members().into_iter().find(|pid| ![root, child].contains(pid)).unwrap();
    // it is found through its parent, which may stand only after the others were gathered
    wait_for("its stop", || is_jailed(grandchild) || state_of(grandchild) == Some('T'));
    assert_eq!(contain.watch(now()), []);
    drop(contain);
    let contain = ground.contain();
    assert!(contain.recover(now()).iter().all(|one| one.failure.is_none()));
    assert_eq!(contain.watch(now()), []);
    // the one is held on also when all the others have ended
    for pid in [root, grandchild] {
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
        wait_for("its end", || !lives(pid));
    }
    assert_eq!(contain.watch(now()), []);
    assert_eq!(state_of(child), Some('T'));
    lift(&contain);
    wait_for("it to go on", || !lives(child) || state_of(child) == Some('S'));
    assert_eq!(ground.snapshot().cgroups, before.cgroups);
}

#[test]
fn a_tree_of_which_one_cannot_be_moved_is_killed_whole() {
    let Some(ground) = Ground::new("mixed kill") else { return };
    let Some(mixed) = immovable(&ground) else { return };
    let root = ground.shell("sleep 1000 & while :; do :; done");
    ground.await_members(2);
    let child = ground.members().into_iter().find(|pid| *pid != root).unwrap();
    fs::write(mixed.join("cgroup.procs"), child.to_string()).unwrap();
    let contain = ground.contain();
    contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
    wait_for("their end", || !lives(root) && !lives(child));
    assert!(contain.in_force().is_empty());
}

/// The journal cannot be written while a freeze is done again: who is held is held on, and who came late stands by signal until there is room.
#[test]
fn a_freeze_that_cannot_be_done_again_lets_nobody_out() {
    let Some(ground) = Ground::new("again in vain") else { return };
    let state = ground.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let none = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("tmpfs", &state, "tmpfs", none, c"size=64k") {
        println!("SKIPPED: again in vain: no tmpfs can be mounted: {error}");
        return;
    }
    let _mounted = Mounted(state.clone());
    let root = ground.shell("while :; do :; done");
    // more than fits into what is left of the journal's last page
    let late: Vec<u32> = (0..60).map(|_| sleeper(&ground, &ground.cgroup)).collect();
    let before = ground.snapshot();
    let heard = Arc::new(Heard::default());
    let mut config = ground.config();
    config.lineage = Some(heard.clone());
    let witness = Witness::of(&mut config);
    let fills: Vec<PathBuf> = (0..64).map(|count| state.join(format!("fill-{count}"))).collect();
    let (look, hook_fills) = (config.on_step.take().unwrap(), fills.clone());
    let full = Arc::new(Mutex::new(false));
    let hook_full = Arc::clone(&full);
    config.on_step = Some(Arc::new(move |step| {
        look(step);
        if step == "jail" && *hook_full.lock().unwrap() {
            hook_fills.iter().take_while(|fill| fs::write(fill, [0; 4096]).is_ok()).count();
        }
    }));
    let contain = open(&config);
    contain.react(SUBTREE, process(root), now()).unwrap();
    heard.0.lock().unwrap().extend(late.iter().map(|pid| key(*pid)));
    *full.lock().unwrap() = true;
    witness.arm(root);
    let in_vain = contain.watch(now());
    *full.lock().unwrap() = false;
    assert_eq!(witness.disarm(), Vec::<&str>::new(), "{in_vain:?}");
    assert!(in_vain.iter().all(|drift| drift.again.is_err()) && in_vain.len() == 1, "{in_vain:?}");
    assert!(is_jailed(root));
    fills.iter().for_each(|fill| drop(fs::remove_file(fill)));
    wait_for("their stop", || late.iter().all(|pid| state_of(*pid) == Some('T')));
    // an accomplice lets one go on: there is room again, and all go to the jail
    let raw = rustix::process::Pid::from_raw(i32::try_from(late[0]).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::CONT).unwrap();
    wait_for("it to go on", || state_of(late[0]) == Some('S'));
    let drifts = contain.watch(now());
    assert!(drifts.iter().all(|drift| drift.again.is_ok()) && drifts.len() == 1, "{drifts:?}");
    assert!(is_jailed(root) && late.iter().all(|pid| is_jailed(*pid)));
    assert_eq!(contain.watch(now()), []);
    lift(&contain);
    wait_for("all to be as before", || ground.snapshot() == before);
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Somebody kills the first of a frozen tree and thaws the jail: those who are left are frozen again.
#[test]
fn a_tree_whose_first_has_ended_is_frozen_again() {
    let Some(ground) = Ground::new("first ended") else { return };
    let root = ground.shell("while :; do :; done & wait");
    ground.await_members(2);
    let child = ground.members().into_iter().find(|pid| *pid != root).unwrap();
    let late = sleeper(&ground, &ground.cgroup);
    let heard = Arc::new(Heard::default());
    let mut config = ground.config();
    config.lineage = Some(heard.clone());
    let contain = open(&config);
    contain.react(SUBTREE, process(root), now()).unwrap();
    let jail = ground.cgroup.join(cgroup_of(child).unwrap().rsplit('/').next().unwrap());
    let raw = rustix::process::Pid::from_raw(i32::try_from(root).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    wait_for("its end", || !lives(root));
    fs::write(jail.join("cgroup.freeze"), "0").unwrap();
    heard.0.lock().unwrap().push(key(late));
    let drifts = contain.watch(now());
    assert!(drifts.iter().all(|drift| drift.again.is_ok()) && drifts.len() == 1, "{drifts:?}");
    assert!(is_jailed(child) && is_jailed(late));
    assert_eq!(contain.watch(now()), []);
    lift(&contain);
    wait_for("it to run", || state_of(child) == Some('R'));
    assert_eq!(cgroup_of(late).unwrap(), ground.path);
}

/// Of many that are held some are killed while the agent looks after them: the others are held on.
#[test]
fn the_end_of_some_while_they_are_looked_at_frees_nobody() {
    let Some(ground) = Ground::new("ends") else { return };
    let root = ground.shell("i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; wait");
    ground.await_members(301);
    let contain = ground.contain();
    let record = contain.react(SUBTREE, process(root), now()).unwrap();
    let children: Vec<u32> = ground.members().into_iter().filter(|pid| *pid != root).collect();
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            for pid in children {
                let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
                wait_for("its end", || !lives(pid));
            }
        });
        while !killer.is_finished() {
            assert_eq!(contain.watch(now()), []);
            assert_eq!(contain.in_force().len(), 1, "{:?}", contain.record(&record.id));
        }
    });
    assert!(is_jailed(root));
    lift(&contain);
}

/// Of a tree near the bound some have ended: they leave room for those who came late, and do not keep them from being looked for.
#[test]
fn the_dead_of_a_tree_do_not_push_the_living_over_the_bound() {
    for without_jails in [false, true] {
        let Some(ground) = Ground::new("the dead") else { return };
        let root = ground.shell("i=0; while [ $i -lt 8 ]; do sleep 1000 & i=$((i+1)); done; wait");
        ground.await_members(9);
        wait_for("all to rest", || ground.members().into_iter().all(|pid| state_of(pid) == Some('S')));
        let children: Vec<u32> = ground.members().into_iter().filter(|pid| *pid != root).collect();
        let late: Vec<u32> = (0..9).map(|_| sleeper(&ground, &ground.cgroup)).collect();
        if without_jails {
            fs::write(ground.cgroup.join("cgroup.max.descendants"), "0").unwrap();
        }
        let is_held = |pid: u32| if without_jails { state_of(pid) == Some('T') } else { is_jailed(pid) };
        let heard = Arc::new(Heard::default());
        let mut config = ground.config();
        config.max_tree = 10;
        config.lineage = Some(heard.clone());
        let contain = open(&config);
        let record = contain.react(SUBTREE, process(root), now()).unwrap();
        for pid in children {
            let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
            wait_for("its end", || !lives(pid));
        }
        for some in [&late[..5], &late[5..]] {
            heard.0.lock().unwrap().extend(some.iter().map(|pid| key(*pid)));
            let drifts = contain.watch(now());
            assert!(drifts.iter().all(|drift| drift.again.is_ok()) && drifts.len() == 1, "{drifts:?}");
            wait_for("all who live to be held", || some.iter().all(|pid| is_held(*pid)));
        }
        assert!(is_held(root));
        assert_eq!(contain.record(&record.id).unwrap().detail, "", "nobody runs on");
        assert_eq!(contain.watch(now()), []);
        lift(&contain);
    }
}

/// A cgroup that was held still for the moment of the move is removed and made anew by somebody who freezes it: that is his (I9).
#[test]
fn i9_a_stranger_at_the_path_of_a_cgroup_that_was_held_still_is_not_thawed() {
    let Some(ground) = Ground::new("paused stranger") else { return };
    let (place, _) = ground.sub("place");
    let root = ground.shell("sleep 1000 & while :; do :; done");
    ground.await_members(2);
    let child = ground.members().into_iter().find(|pid| *pid != root).unwrap();
    fs::write(place.join("cgroup.procs"), child.to_string()).unwrap();
    let mut config = ground.config();
    let went = Arc::new(Mutex::new(false));
    let (hook_went, hook_place) = (Arc::clone(&went), place.clone());
    config.on_step = Some(Arc::new(move |step| {
        let mut went = hook_went.lock().unwrap();
        if step == "move child" && !*went {
            *went = true;
            fs::write(hook_place.join("cgroup.kill"), "1").unwrap();
            wait_for("the cgroup to go", || fs::remove_dir(&hook_place).is_ok());
            fs::create_dir(&hook_place).unwrap();
            fs::write(hook_place.join("cgroup.freeze"), "1").unwrap();
        }
    }));
    let contain = open(&config);
    contain.react(SUBTREE, process(root), now()).unwrap();
    assert!(*went.lock().unwrap(), "it went in the middle");
    let wish = fs::read_to_string(place.join("cgroup.freeze")).unwrap();
    assert_eq!(wish.trim(), "1");
    lift(&contain);
}

/// The agent dies while it does a freeze again and holds the cgroup still: its successor lets go on whoever lives beside the tree.
#[test]
fn i7_a_crash_while_a_freeze_is_done_again_leaves_nobody_else_frozen() {
    let Some(ground) = Ground::new("paused and died") else { return };
    let root = ground.shell("exec sleep 1000");
    let late = sleeper(&ground, &ground.cgroup);
    let beside = sleeper(&ground, &ground.cgroup);
    let heard = Arc::new(Heard::default());
    let mut config = ground.config();
    config.lineage = Some(heard.clone());
    let calm = config.clone();
    let armed = Arc::new(Mutex::new(false));
    let hook = Arc::clone(&armed);
    let asked = ground.cgroup.join("cgroup.freeze");
    let hook_asked = asked.clone();
    config.on_step = Some(Arc::new(move |step| {
        if step == "move child" && *hook.lock().unwrap() {
            assert_eq!(fs::read_to_string(&hook_asked).unwrap().trim(), "1", "the cgroup is held still");
            std::panic::resume_unwind(Box::new("the agent dies"));
        }
    }));
    let contain = open(&config);
    contain.react(SUBTREE, process(root), now()).unwrap();
    heard.0.lock().unwrap().push(key(late));
    *armed.lock().unwrap() = true;
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| contain.watch(now())));
    assert!(died.is_err());
    drop(contain);
    assert_eq!(fs::read_to_string(&asked).unwrap().trim(), "1");
    let contain = open(&calm);
    contain.recover(now());
    assert_eq!(fs::read_to_string(&asked).unwrap().trim(), "0");
    assert_eq!(cgroup_of(beside).unwrap(), ground.path);
    contain.watch(now());
    // in the jail or, since the signal is in the journal, where the death left it
    assert!(is_jailed(root) && (is_jailed(late) || state_of(late) == Some('T')));
    lift(&contain);
}

/// Root of his own container moves everybody out of the jail and removes it, and the cgroup in which it was; and the first of the tree may be
/// dead by then. Whoever lives is frozen again.
#[test]
fn a_jail_that_is_removed_with_all_around_it_is_made_again() {
    for (first_ends, all_around) in [(false, false), (true, false), (false, true), (true, true)] {
        let context = format!("first ends {first_ends}, all around {all_around}");
        let Some(ground) = Ground::new("removed jail") else { return };
        let (home, _) = ground.sub("home");
        let (elsewhere, path) = ground.sub("elsewhere");
        let root = ground.start_in(&home, Command::new("sh").args(["-c", "while :; do :; done & wait"]));
        ground.await_members(2);
        let child = ground.members().into_iter().find(|pid| *pid != root).unwrap();
        let contain = ground.contain();
        contain.react(SUBTREE, process(root), now()).unwrap();
        let jail = home.join(cgroup_of(child).unwrap().rsplit('/').next().unwrap());
        if first_ends {
            let raw = rustix::process::Pid::from_raw(i32::try_from(root).unwrap()).unwrap();
            rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
            wait_for("its end", || !lives(root));
        } else {
            fs::write(elsewhere.join("cgroup.procs"), root.to_string()).unwrap();
        }
        fs::write(elsewhere.join("cgroup.procs"), child.to_string()).unwrap();
        wait_for("the jail to go", || fs::remove_dir(&jail).is_ok());
        if all_around {
            fs::remove_dir(&home).unwrap();
        }
        wait_for("it to run", || state_of(child) == Some('R'));
        assert_eq!(cgroup_of(child).unwrap(), path);
        let drifts = contain.watch(now());
        assert!(drifts.iter().all(|drift| drift.again.is_ok()) && drifts.len() == 1, "{context}: {drifts:?}");
        assert!(is_jailed(child) && (first_ends || is_jailed(root)), "{context}");
        assert_eq!(contain.watch(now()), [], "{context}");
        // a successor finds it, too
        drop(contain);
        let contain = ground.contain();
        contain.recover(now());
        assert_eq!(contain.watch(now()), [], "{context}");
        lift(&contain);
        wait_for("it to run", || state_of(child) == Some('R'));
        assert!(!is_jailed(child) && !cgroup_of(child).unwrap().contains("jail"), "{context}");
        assert!(!ground.snapshot().cgroups.keys().any(|name| name.contains("jail")), "{context}");
    }
}
