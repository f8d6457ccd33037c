//! Threads of one process in cgroups of their own (threaded cgroups): a move takes all threads together, and what it takes apart it could not
//! put back. And the bound on how many one freeze gathers.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use ground::{Ground, cgroup_of, lives, now, open, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, Which};
use model::{
    ActionId, ActionState, CommandKey, FreezeScope, IncidentId, KillScope, NetQuarantine, NodeAction,
    NodeCommand, NodeId, Phase, PhaseDone, RollbackState, Timestamp,
};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

/// Not a test: a program with three threads beside its first, each of which spins; with a child of one thread where that is wished.
#[test]
fn helper_with_threads() {
    if std::env::var_os("HEMOSTAT_HELPER").is_none() {
        return;
    }
    let threads: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn threaded_program(ground: &Ground, at: &Path) -> (u32, Vec<u32>) {
    let pid = ground.start_in(
        at,
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_with_threads", "--nocapture", "--test-threads=1"])
            .env("HEMOSTAT_HELPER", "1"),
    );
    (pid, threads_of(pid))
}

/// All but the first, once they are there.
fn threads_of(pid: u32) -> Vec<u32> {
    let list = || -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).filter(|task| *task != pid).collect()
    };
    // the one that runs the test, and its three
    wait_for("its threads", || list().len() == 4);
    let mut threads = list();
    threads.sort_unstable();
    threads
}

/// Where every thread is, and whether it is stopped.
fn threads_now(pids: &[u32]) -> BTreeMap<u32, (String, bool)> {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten());
    tasks
        .map(|task| {
            let text = fs::read_to_string(task.path().join("cgroup")).unwrap();
            let place = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
            let stat = fs::read_to_string(task.path().join("stat")).unwrap();
            let stopped = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
            (task.file_name().to_str().unwrap().parse().unwrap(), (place, stopped))
        })
        .collect()
}

/// What every thread of them has been given of the CPU.
fn burnt(pids: &[u32]) -> Vec<String> {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten());
    tasks.map(|task| fs::read_to_string(task.path().join("schedstat")).unwrap()).collect()
}

/// Every thread stands: by signal, or with the cgroup; and then none is given the CPU, once the kernel has done its own part.
fn await_stand(ground: &Ground, pids: &[u32]) {
    let frozen = || fs::read_to_string(ground.cgroup.join("cgroup.events")).unwrap().contains("frozen 1");
    wait_for("all threads to stand", || frozen() || threads_now(pids).values().all(|(_, stopped)| *stopped));
    wait_for("no thread to be given the CPU", || {
        let then = burnt(pids);
        (0..20).for_each(|_| std::thread::yield_now());
        burnt(pids) == then
    });
}

fn lift(contain: &Contain) {
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))), "{lifted:?}");
    assert!(contain.in_force().is_empty());
}

/// `None`, said aloud, where there are no threaded cgroups.
fn threaded(ground: &Ground, name: &str) -> Option<std::path::PathBuf> {
    let (sub, _) = ground.sub(name);
    match fs::write(sub.join("cgroup.type"), "threaded") {
        Ok(()) => Some(sub),
        Err(error) => {
            println!("SKIPPED: threaded cgroups: {error}");
            None
        }
    }
}

/// The threads of one process are in three cgroups; the first in the domain, or in a threaded one itself. Frozen as a tree it is stopped by
/// signal and not moved; frozen by its cgroup all its threads stand; and every thread is where it was.
#[test]
fn i5_threads_in_cgroups_of_their_own_are_held_and_stay_where_they_are() {
    for first_in_threaded in [false, true] {
        for action in [SUBTREE, CGROUP] {
            let Some(ground) = Ground::new("threads apart") else { return };
            let (pid, threads) = threaded_program(&ground, &ground.cgroup);
            let Some(one) = threaded(&ground, "one") else { return };
            let Some(two) = threaded(&ground, "two") else { return };
            fs::write(one.join("cgroup.threads"), threads[0].to_string()).unwrap();
            fs::write(two.join("cgroup.threads"), threads[1].to_string()).unwrap();
            if first_in_threaded {
                fs::write(one.join("cgroup.threads"), pid.to_string()).unwrap();
            }
            let before = threads_now(&[pid]);
            let contain = ground.contain();
            let context = format!("{action:?}, first in a threaded one: {first_in_threaded}");
            let record = contain.react(action, process(pid), now()).unwrap();
            assert_eq!(record.state, ActionState::Applied, "{context}");
            await_stand(&ground, &[pid]);
            assert!(contain.watch(now()).is_empty(), "{context}");
            let places = |all: &BTreeMap<u32, (String, bool)>| -> Vec<String> {
                all.values().map(|(place, _)| place.clone()).collect()
            };
            assert_eq!(places(&threads_now(&[pid])), places(&before), "{context}: nothing is moved");
            let then = burnt(&[pid]);
            lift(&contain);
            wait_for("all to be as before", || threads_now(&[pid]) == before);
            wait_for("it to go on", || burnt(&[pid]) != then);
        }
    }
}

/// A child of the tree has its threads in cgroups of their own: the whole tree is held by signal, and no thread is moved.
#[test]
fn i5_a_child_with_threads_in_cgroups_of_their_own_is_not_torn_from_them() {
    let Some(ground) = Ground::new("threaded child") else { return };
    let (roots, _) = ground.sub("root");
    let (domain, _) = ground.sub("domain");
    let exe = std::env::current_exe().unwrap();
    let script = format!(
        "HEMOSTAT_HELPER=1 {} --exact helper_with_threads --nocapture --test-threads=1 >/dev/null & wait",
        exe.display()
    );
    let root = ground.start_in(&roots, Command::new("sh").args(["-c", &script]));
    ground.await_members(2);
    let child = ground.members().into_iter().find(|pid| *pid != root).unwrap();
    let threads = threads_of(child);
    fs::write(domain.join("cgroup.procs"), child.to_string()).unwrap();
    let below = domain.join("threads");
    fs::create_dir(&below).unwrap();
    if let Err(error) = fs::write(below.join("cgroup.type"), "threaded") {
        println!("SKIPPED: threaded cgroups: {error}");
        return;
    }
    fs::write(below.join("cgroup.threads"), threads[0].to_string()).unwrap();
    fs::write(below.join("cgroup.threads"), child.to_string()).unwrap();
    let pids = [root, child];
    let before = threads_now(&pids);
    let contain = ground.contain();
    contain.react(SUBTREE, process(root), now()).unwrap();
    await_stand(&ground, &pids);
    assert!(contain.watch(now()).is_empty());
    lift(&contain);
    wait_for("all to be as before", || threads_now(&pids) == before);
    // and all of it is killed
    contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
    wait_for("their end", || !lives(root) && !lives(child));
}

/// The sockets of a process belong to its threads' cgroups: it is cut off with all of them.
#[test]
fn a_process_whose_first_thread_is_in_a_threaded_cgroup_is_cut_off_with_its_domain() {
    let Some(ground) = Ground::new("threads cut off").and_then(Ground::with_bpffs) else { return };
    let (pid, _) = threaded_program(&ground, &ground.cgroup);
    let Some(one) = threaded(&ground, "one") else { return };
    fs::write(one.join("cgroup.threads"), pid.to_string()).unwrap();
    let contain = ground.contain();
    let quarantine = NodeAction::NetQuarantine(NetQuarantine { allow: Vec::new() });
    let record = contain.react(quarantine, process(pid), now()).unwrap();
    assert!(
        matches!(&record.rollback, Some(RollbackState::Network { cgroup, .. }) if *cgroup == ground.path),
        "{record:?}"
    );
    assert!(contain.watch(now()).is_empty());
    lift(&contain);
}

/// A tree larger than one freeze gathers: who is known is held, and what is missing is said.
#[test]
fn i11_of_a_tree_beyond_the_bound_what_is_known_is_held_and_the_rest_told() {
    beyond_the_bound(false);
}

/// The same where no jail can be made.
#[test]
fn i11_by_signal_too_what_is_known_of_a_tree_beyond_the_bound_is_held_and_the_rest_told() {
    beyond_the_bound(true);
}

fn beyond_the_bound(without_jails: bool) {
    let Some(ground) = Ground::new("beyond the bound") else { return };
    let root = ground.shell("i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; wait");
    ground.await_members(201);
    wait_for("all to rest", || ground.members().into_iter().all(|pid| state_of(pid) == Some('S')));
    if without_jails {
        fs::write(ground.cgroup.join("cgroup.max.descendants"), "0").unwrap();
    }
    let before = ground.snapshot();
    let mut config = ground.config();
    config.max_tree = 100;
    let contain = open(&config);
    let command = |phase| NodeCommand {
        key: CommandKey::new("key"),
        action_id: ActionId::new("act-bound"),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: SUBTREE,
        target: process(root),
        phase,
    };
    let captured = contain.handle(&command(Phase::Capture), now()).result.unwrap();
    let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
    let applied = contain.handle(&command(Phase::Apply { rollback }), now()).result.unwrap();
    let PhaseDone::Applied { outputs } = applied else { panic!("{applied:?}") };
    let partial = outputs.get("partial").and_then(|text| text.as_str()).unwrap_or_default().to_owned();
    assert!(partial.contains("100"), "{outputs:?}");
    assert_eq!(outputs.get("frozen"), Some(&serde_json::json!(false)), "not all of it");
    let is_held = |pid: u32| match without_jails {
        true => state_of(pid) == Some('T'),
        false => cgroup_of(pid).is_some_and(|at| at.contains("hemostat-jail-")),
    };
    let held = || ground.members().into_iter().filter(|pid| is_held(*pid)).count();
    let record = contain.record(&ActionId::new("act-bound")).unwrap();
    assert!(record.detail.contains(&partial), "{record:?}");
    let Some(RollbackState::Freeze { members, stopped, .. }) = &record.rollback else { panic!("{record:?}") };
    let known = if without_jails { stopped.len() } else { members.len() };
    assert!((64..=165).contains(&known), "{known} are held");
    wait_for("them to stand", || held() == known);
    assert!(is_held(root));
    assert_eq!(contain.watch(now()), [], "told once");
    assert_eq!(held(), known);
    lift(&contain);
    wait_for("all to be as before", || ground.snapshot() == before);
}

/// A tree of which a part runs on has not been killed, whoever of it is dead.
#[test]
fn i11_a_kill_of_a_tree_beyond_the_bound_is_not_called_done() {
    let Some(ground) = Ground::new("kill beyond the bound") else { return };
    let root = ground.shell("i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; wait");
    ground.await_members(201);
    wait_for("all to rest", || ground.members().into_iter().all(|pid| state_of(pid) == Some('S')));
    let mut config = ground.config();
    config.max_tree = 100;
    let contain = open(&config);
    let command = |phase| NodeCommand {
        key: CommandKey::new("key"),
        action_id: ActionId::new("act-kill"),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: NodeAction::Kill(KillScope::Subtree),
        target: process(root),
        phase,
    };
    let captured = contain.handle(&command(Phase::Capture), now()).result.unwrap();
    let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
    let refused = contain.handle(&command(Phase::Apply { rollback }), now()).result.unwrap_err();
    assert!(refused.to_string().contains("were killed"), "{refused}");
    wait_for("the known to be gone", || ground.members().len() < 200);
    let left = ground.members();
    assert!(!left.is_empty(), "the test's tree is too small");
    assert!(left.iter().all(|pid| cgroup_of(*pid).is_some_and(|at| !at.contains("hemostat-jail-"))));
    assert!(contain.in_force().is_empty());
}
