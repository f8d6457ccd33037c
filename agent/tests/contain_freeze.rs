//! Freeze, stop and kill on the real kernel.
//! Long because every check of a freeze, its undo and what it spares is read beside the others that share its cgroups and processes.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{fs, process::Command};

use ground::{Ground, cgroup_of, key, lives, now, process, state_of, wait_for};
use hemostat_agent::contain::Which;
use model::{
    ActionFailure, ActionId, ActionState, CommandKey, Effect, FreezeScope, Frozen, IncidentId, KillScope,
    NodeAction, NodeCommand, NodeId, Phase, PhaseDone, RollbackState, Target, Timestamp,
};
use proptest::prelude::*;

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

/// `sh TREE W1 W2 …` is a process with W1 children, each of which has W2 children, …
const TREE: &str = r#"w=$1; [ $# -gt 0 ] && shift; i=0
while [ $i -lt ${w:-0} ]; do sh "$0" "$@" & i=$((i+1)); done
if [ ${w:-0} = 0 ]; then exec sleep 1000; fi
wait"#;

fn tree(ground: &Ground, widths: &[u32]) -> u32 {
    let script = ground.dir.path().join("tree.sh");
    fs::write(&script, TREE).unwrap();
    let root = ground.start(Command::new("sh").arg(&script).args(widths.iter().map(u32::to_string)));
    let mut level = 1;
    let mut count = 1;
    for width in widths {
        level *= width;
        count += level;
    }
    ground.await_members(usize::try_from(count).unwrap());
    wait_for("the leaves", || {
        let names = ground
            .members()
            .into_iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        names.filter(|name| name.trim() == "sleep").count() == usize::try_from(level).unwrap()
    });
    root
}

fn command(action: &NodeAction, target: &Target, phase: Phase, key: &str) -> NodeCommand {
    NodeCommand {
        key: CommandKey::new(key),
        action_id: ActionId::new(format!("act-{key}")),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: action.clone(),
        target: target.clone(),
        phase,
    }
}

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
            .args(["--exact", "helper_threads", "--nocapture"])
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 8, ..ProptestConfig::default() })]

    /// Any tree, some members stopped by somebody else, some in cgroups of their own, one of those frozen: after the revert every
    /// process is in its cgroup and in its state, and no cgroup was added or changed.
    #[test]
    fn i5_freeze_revert_restores_exactly(
        widths in proptest::collection::vec(1_u32..4, 0..4),
        stopped in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        moved in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..3), 0..5),
        scope in prop_oneof![Just(SUBTREE), Just(CGROUP)],
        frozen_before in any::<bool>(),
    ) {
        let Some(ground) = Ground::new("freeze property") else { return Ok(()) };
        let root = tree(&ground, &widths);
        let subs = [ground.sub("a"), ground.sub("b"), ground.sub("c")];
        let members = ground.members();
        for (which, sub) in &moved {
            fs::write(subs[*sub].0.join("cgroup.procs"), which.get(&members).to_string()).unwrap();
        }
        for which in &stopped {
            let pid = *which.get(&members);
            rustix::process::kill_process(rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), rustix::process::Signal::STOP).unwrap();
            wait_for("the stop", || state_of(pid) == Some('T'));
        }
        if frozen_before {
            fs::write(subs[0].0.join("cgroup.freeze"), "1").unwrap();
        }
        let before = ground.snapshot();
        let contain = ground.contain();
        let target = if scope == SUBTREE { process(root) } else { ground.target() };
        let record = contain.react(scope, target, now()).unwrap();
        prop_assert_ne!(&ground.snapshot(), &before);
        prop_assert!(contain.watch(now()).is_empty());
        let lifted = contain.release(&Which::One(record.id));
        prop_assert!(matches!(lifted[0].result, Ok(PhaseDone::Reverted { .. })), "{:?}", lifted);
        prop_assert_eq!(ground.snapshot(), before);
        if frozen_before {
            fs::write(subs[0].0.join("cgroup.freeze"), "0").unwrap();
        }
    }
}

#[test]
fn a_command_is_done_once_in_each_phase() {
    let Some(ground) = Ground::new("command") else { return };
    let pid = ground.shell("while :; do :; done");
    let before = ground.snapshot();
    let contain = ground.contain();
    let target = process(pid);
    let captured = contain.handle(&command(&SUBTREE, &target, Phase::Capture, "k"), now());
    let Ok(PhaseDone::Captured { rollback }) = captured.result.clone() else { panic!("{captured:?}") };
    assert_eq!(ground.snapshot(), before, "a capture changes nothing");
    assert_eq!(contain.handle(&command(&SUBTREE, &target, Phase::Capture, "k"), now()), captured);
    let apply = command(&SUBTREE, &target, Phase::Apply { rollback: rollback.clone() }, "k");
    let applied = contain.handle(&apply, now());
    assert!(matches!(applied.result, Ok(PhaseDone::Applied { .. })), "{applied:?}");
    assert_eq!(contain.handle(&apply, now()), applied, "the same outcome");
    let verify = command(&SUBTREE, &target, Phase::Verify { rollback: rollback.clone() }, "k");
    assert_eq!(contain.handle(&verify, now()).result, Ok(PhaseDone::Verified { effect: Effect::InForce }));
    // after a restart, too
    drop(contain);
    let contain = ground.contain();
    assert!(contain.recover(now()).iter().all(|one| one.failure.is_none()));
    assert_eq!(contain.handle(&apply, now()), applied);
    let revert = command(&SUBTREE, &target, Phase::Revert { rollback, on_drift: model::OnDrift::Ask }, "k");
    let reverted = contain.handle(&revert, now());
    assert!(matches!(reverted.result, Ok(PhaseDone::Reverted { .. })), "{reverted:?}");
    assert_eq!(ground.snapshot(), before);
    assert_eq!(contain.handle(&revert, now()), reverted);
    assert_eq!(contain.handle(&apply, now()), applied, "a late copy is answered, not done");
    assert_eq!(ground.snapshot(), before);
    let late = NodeCommand { key: CommandKey::new("other"), ..apply };
    assert!(matches!(contain.handle(&late, now()).result, Err(ActionFailure::Unsupported { .. })));
}

#[test]
fn i9_commands_that_are_late_foreign_or_ambiguous_are_refused() {
    let Some(ground) = Ground::new("refused") else { return };
    let pid = ground.shell("sleep 1000");
    let contain = ground.contain();
    let good = command(&SUBTREE, &process(pid), Phase::Capture, "k");
    let foreign = NodeCommand { node: NodeId::new("another"), ..good.clone() };
    assert!(matches!(contain.handle(&foreign, now()).result, Err(ActionFailure::Unsupported { .. })));
    let late = NodeCommand { deadline: Timestamp(1), ..good.clone() };
    assert_eq!(contain.handle(&late, now()).result, Err(ActionFailure::Expired));
    assert!(contain.handle(&good, now()).result.is_ok());
    let other_target = NodeCommand { target: process(std::process::id()), ..good.clone() };
    assert!(matches!(contain.handle(&other_target, now()).result, Err(ActionFailure::TargetChanged { .. })));
    let other_action = NodeCommand { action_id: ActionId::new("act-2"), ..good };
    assert!(matches!(contain.handle(&other_action, now()).result, Err(ActionFailure::TargetChanged { .. })));
    assert!(contain.in_force().is_empty());
}

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

/// Whoever may make cgroups may give one the name of a jail.
#[test]
fn a_cgroup_with_the_name_of_a_jail_is_an_ordinary_one() {
    let Some(ground) = Ground::new("false jail") else { return };
    let (at, path) = ground.sub("hemostat-jail-0123456789abcdef");
    let inside = ground.start_in(&at, Command::new("sleep").arg("1000"));
    let around = ground.shell("exec sleep 1000");
    ground.await_members(2);
    let before = ground.snapshot();
    let contain = ground.contain();
    // the whole of its cgroup is the false jail, not what is around it
    let record = contain.react(CGROUP, process(inside), now()).unwrap();
    assert!(
        matches!(&record.rollback, Some(RollbackState::Freeze { in_place: Some(place), .. }) if *place == path),
        "{record:?}"
    );
    assert_eq!(fs::read_to_string(ground.cgroup.join("cgroup.freeze")).unwrap().trim(), "0");
    contain.release(&Which::All);
    assert_eq!(ground.snapshot(), before);
    // and a subtree gets a true jail within
    contain.react_freeze(key(inside), now()).unwrap();
    let jail = cgroup_of(inside).unwrap();
    assert!(jail.starts_with(&format!("{path}/hemostat-jail-")), "{jail}");
    assert_eq!(cgroup_of(around).unwrap(), ground.path);
    contain.release(&Which::All);
    assert_eq!(ground.snapshot(), before);
}

/// A file system that is held still, in which whoever writes sleeps uninterruptibly.
struct Held {
    at: std::path::PathBuf,
}

impl Held {
    fn new(dir: &std::path::Path) -> Option<Self> {
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).stdout(std::process::Stdio::null()).status();
            done.is_ok_and(|status| status.success())
        };
        let (image, at) = (dir.join("image"), dir.join("held"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let (image, place) = (image.to_str().unwrap(), at.to_str().unwrap());
        let made = run("mkfs.ext4", &["-q", image]) && run("mount", &["-o", "loop", image, place]);
        if !made {
            println!("SKIPPED: uninterruptible sleep: no loop mount of an ext4 can be made");
            return None;
        }
        let held = Self { at: at.clone() };
        if run("fsfreeze", &["-f", place]) {
            return Some(held);
        }
        println!("SKIPPED: uninterruptible sleep: no fsfreeze");
        None
    }

    fn thaw(&self) {
        let _thawed = Command::new("fsfreeze").arg("-u").arg(&self.at).status();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _thawed =
            Command::new("fsfreeze").arg("-u").arg(&self.at).stderr(std::process::Stdio::null()).status();
        let _unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn uninterruptible_sleep_is_no_drift() {
    let Some(ground) = Ground::new("uninterruptible sleep") else { return };
    let Some(held) = Held::new(ground.dir.path()) else { return };
    let pid = ground.shell(&format!("while :; do echo x > {}/file; done", held.at.display()));
    wait_for("the sleep", || state_of(pid) == Some('D'));
    let contain = ground.contain();
    let record = contain.react_freeze(key(pid), now()).unwrap();
    assert_eq!(record.state, ActionState::Applied);
    for _ in 0..3 {
        assert_eq!(contain.watch(now()), []);
    }
    // asked by the controller, it is told as it is
    let verify = Phase::Verify { rollback: record.rollback.clone().unwrap() };
    let verify =
        NodeCommand { action_id: record.id.clone(), ..command(&SUBTREE, &process(pid), verify, "v") };
    let seen = contain.handle(&verify, now()).result;
    assert!(matches!(seen, Ok(PhaseDone::Verified { effect: Effect::Missing { .. } })), "{seen:?}");
    contain.release(&Which::All);
    // nor is a stop that it has not taken yet
    let stop = contain.react(NodeAction::Stop, process(pid), now()).unwrap();
    assert_eq!(stop.state, ActionState::Applied);
    assert_eq!(contain.watch(now()), []);
    held.thaw();
    wait_for("the stop", || state_of(pid) == Some('T'));
    contain.release(&Which::All);
    wait_for("it to go on", || state_of(pid) != Some('T'));
    fs::write(ground.cgroup.join("cgroup.kill"), "1").unwrap();
    wait_for("its end", || !lives(pid));
}

#[test]
fn a_stopped_process_is_adopted_and_only_ours_is_continued() {
    let Some(ground) = Ground::new("stop") else { return };
    let (ours, theirs) = (ground.shell("while :; do :; done"), ground.shell("while :; do :; done"));
    let signal = |pid: u32, signal| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    for pid in [ours, theirs] {
        signal(pid, rustix::process::Signal::STOP);
        wait_for("the stop", || state_of(pid) == Some('T'));
    }
    let contain = ground.contain();
    // the agent takes over what its hook stopped
    contain.react(NodeAction::Stop, process(ours), now()).unwrap();
    // the controller asks for a stop of what somebody else stopped before
    let target = process(theirs);
    let captured =
        contain.handle(&command(&NodeAction::Stop, &target, Phase::Capture, "s"), now()).result.unwrap();
    let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
    assert!(
        matches!(&rollback, RollbackState::Stop { processes } if processes[0].was_stopped == Frozen::Yes)
    );
    let apply = command(&NodeAction::Stop, &target, Phase::Apply { rollback }, "s");
    assert!(contain.handle(&apply, now()).result.is_ok());
    assert_eq!(contain.in_force().len(), 2);
    // somebody continues ours: it is stopped again
    signal(ours, rustix::process::Signal::CONT);
    let drifts = contain.watch(now());
    assert!(matches!(&drifts[..], [drift] if drift.again.is_ok()), "{drifts:?}");
    wait_for("the stop", || state_of(ours) == Some('T'));
    // stop, then freeze, then both undone in the order of their making
    let freeze = contain.react_freeze(key(ours), now()).unwrap();
    let stop = contain.in_force()[0].id.clone();
    contain.release(&Which::One(stop));
    assert!(cgroup_of(ours).unwrap().contains("hemostat-jail-"), "still held by the freeze");
    contain.release(&Which::One(freeze.id));
    contain.release(&Which::All);
    wait_for("ours to run", || state_of(ours) == Some('R'));
    assert_eq!(state_of(theirs), Some('T'), "theirs was stopped before us");
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

#[test]
fn i5_two_freezes_of_one_thing_hold_until_both_are_undone_in_any_order() {
    for (first, second, undo_first) in
        [(SUBTREE, SUBTREE, 0), (SUBTREE, SUBTREE, 1), (CGROUP, CGROUP, 0), (CGROUP, CGROUP, 1)]
    {
        let Some(ground) = Ground::new("two freezes") else { return };
        let pid = ground.shell("while :; do :; done");
        let before = ground.snapshot();
        let contain = ground.contain();
        let target = if first == SUBTREE { process(pid) } else { ground.target() };
        for (name, action) in [("one", &first), ("two", &second)] {
            let captured =
                contain.handle(&command(action, &target, Phase::Capture, name), now()).result.unwrap();
            let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
            contain.handle(&command(action, &target, Phase::Apply { rollback }, name), now()).result.unwrap();
        }
        let mut ids = vec![ActionId::new("act-one"), ActionId::new("act-two")];
        let undone = ids.remove(undo_first);
        contain.release(&Which::One(undone));
        assert!(contain.watch(now()).is_empty(), "{first:?} still holds");
        assert_ne!(ground.snapshot(), before);
        contain.release(&Which::One(ids.remove(0)));
        assert_eq!(ground.snapshot(), before, "{first:?}, {undo_first} first");
    }
}

#[test]
fn a_revert_after_every_member_has_ended_leaves_nothing() {
    let Some(ground) = Ground::new("vacuous") else { return };
    let root = tree(&ground, &[2]);
    let contain = ground.contain();
    let record = contain.react_freeze(key(root), now()).unwrap();
    fs::write(ground.cgroup.join("cgroup.kill"), "1").unwrap();
    wait_for("their end", || ground.members().is_empty());
    contain.release(&Which::One(record.id.clone()));
    assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Vacuous);
    assert_eq!(ground.snapshot().cgroups.len(), 1);
}

/// Who comes from a cgroup that has ended meanwhile must not stand for ever: it goes to that of the tree's root, or to the nearest around
/// its own, and the outcome says so.
#[test]
fn who_has_no_home_any_more_goes_to_a_defined_place_and_it_is_said() {
    for root_is_below in [false, true] {
        let Some(ground) = Ground::new("home gone") else { return };
        let (roots, roots_path) =
            if root_is_below { ground.sub("roots") } else { (ground.cgroup.clone(), ground.path.clone()) };
        let (other, other_path) = ground.sub("other");
        let script = format!("sleep 1000 & echo $! > {}/cgroup.procs; wait", other.display());
        let root = ground.start_in(&roots, Command::new("sh").args(["-c", &script]));
        wait_for("the child to move", || !fs::read_to_string(other.join("cgroup.procs")).unwrap().is_empty());
        let child: u32 = fs::read_to_string(other.join("cgroup.procs")).unwrap().trim().parse().unwrap();
        let contain = ground.contain();
        let record = contain.react_freeze(key(root), now()).unwrap();
        fs::remove_dir(&other).unwrap();
        let Some(rollback) = record.rollback.clone() else { panic!() };
        let revert = NodeCommand {
            action_id: record.id.clone(),
            ..command(
                &SUBTREE,
                &process(root),
                Phase::Revert { rollback, on_drift: model::OnDrift::Ask },
                "r",
            )
        };
        let done = contain.handle(&revert, now()).result;
        let Ok(PhaseDone::Reverted { detail }) = &done else { panic!("{done:?}") };
        let said = format!("pid {child} is in cgroup {roots_path}, since its own, {other_path}, is gone");
        assert!(detail.contains(&said), "{detail}");
        assert_eq!(cgroup_of(child).unwrap(), roots_path);
        assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Reverted);
        assert!(contain.in_force().is_empty());
    }
}

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

/// Who keeps a cgroup may move processes within it: a jail inside would be theirs to empty.
#[test]
fn i5_the_keeper_of_a_cgroup_cannot_empty_the_jail() {
    const KEEPER: u32 = 65_534;
    let Some(ground) = Ground::new("keeper") else { return };
    let (kept, kept_path) = ground.sub("kept");
    let give = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(KEEPER), Some(KEEPER)).unwrap();
    give(&kept);
    give(&kept.join("cgroup.procs"));
    let (inner, inner_path) = ground.sub("kept/inner");
    give(&inner);
    give(&inner.join("cgroup.procs"));
    let victim = ground.start_in(&inner, Command::new("sh").args(["-c", "sleep 1000 & wait"]));
    wait_for("its child", || ground.members().len() == 2);
    let before = ground.snapshot();
    let contain = ground.contain();
    let record = contain.react_freeze(key(victim), now()).unwrap();
    let jail = cgroup_of(victim).unwrap();
    assert!(
        jail.starts_with(&format!("{}/hemostat-jail-", ground.path)),
        "{jail}: around what was given away"
    );
    // another of the keeper's processes, in the cgroup that it keeps, tries to take the victim back
    let mut accomplice = Command::new("sh");
    accomplice.arg("-c").arg(format!(
        "for at in . inner; do echo {victim} > {kept}/$at/cgroup.procs && exit 7; done; exit 8",
        kept = kept.display()
    ));
    std::os::unix::process::CommandExt::uid(&mut accomplice, KEEPER);
    accomplice.stderr(std::process::Stdio::null());
    assert_eq!(accomplice.status().unwrap().code(), Some(8));
    assert_eq!(cgroup_of(victim).unwrap(), jail);
    assert!(contain.watch(now()).is_empty());
    // its home is still what it was: a second action on the process means the cgroup that it came from
    let evil = NodeAction::Freeze(FreezeScope::Cgroup);
    let second = contain.react(evil, process(victim), now()).unwrap();
    assert!(
        matches!(&second.rollback, Some(RollbackState::Freeze { in_place: Some(at), .. }) if *at == inner_path),
        "{second:?}"
    );
    contain.release(&Which::One(second.id));
    assert!(matches!(contain.release(&Which::One(record.id))[0].result, Ok(PhaseDone::Reverted { .. })));
    assert_eq!(ground.snapshot(), before);
    assert_eq!(cgroup_of(victim).unwrap(), inner_path);
    assert!(inner_path.starts_with(&kept_path));
    // a kill of the cgroup finds who stands in a jail around it
    contain.react_freeze(key(victim), now()).unwrap();
    let target = ground::cgroup_target(&inner, &inner_path);
    let kill = NodeAction::Kill(KillScope::Subtree);
    for (phase, key) in [(Phase::Capture, "k"), (Phase::Apply { rollback: RollbackState::Nothing }, "k")] {
        let outcome = contain.handle(&command(&kill, &target, phase, key), now());
        assert!(outcome.result.is_ok(), "{outcome:?}");
    }
    wait_for("its end", || !lives(victim));
}
