//! What lives and is not seen: another mount lies over its cgroup. It is not gone, nothing is done to it, and what holds it is not given up (I9).

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{path::PathBuf, process::Command};

use ground::{Ground, cgroup_of, cgroup_target, key, now, process};
use hemostat_agent::contain::{Contain, Which};
use model::{
    ActionFailure, ActionId, ActionState, CommandKey, CommandOutcome, FreezeScope, IncidentId, NetQuarantine,
    NodeAction, NodeCommand, NodeId, Phase, PhaseDone, Target, Timestamp,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

/// Somebody in a cgroup below the test's own, which is covered: the process, and the cgroup.
fn somebody(ground: &Ground) -> (u32, Target) {
    let (cgroup, path) = ground.sub("pod");
    let pid = ground.start_in(&cgroup, Command::new("sh").args(["-c", "while :; do :; done"]));
    ground.await_members(1);
    (pid, cgroup_target(&cgroup, &path))
}

/// An empty file system over the test's own cgroup; gone with it.
struct Cover(PathBuf);

impl Cover {
    fn over(ground: &Ground) -> Option<Self> {
        match mount("none", &ground.cgroup, "tmpfs", MountFlags::empty(), None) {
            Ok(()) => Some(Self(ground.cgroup.clone())),
            Err(error) => {
                println!("SKIPPED: unseen: nothing can be mounted: {error}");
                None
            }
        }
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn quarantine() -> NodeAction {
    NodeAction::NetQuarantine(NetQuarantine::default())
}

fn told(contain: &Contain, action: &NodeAction, target: &Target, phase: Phase) -> CommandOutcome {
    let name = format!("{}-{}", action.name().trim_start_matches("node."), target.to_string().len());
    let command = NodeCommand {
        key: CommandKey::new(&name),
        action_id: ActionId::new(format!("act-{name}")),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: action.clone(),
        target: target.clone(),
        phase,
    };
    contain.handle(&command, now())
}

fn is_unresolved(outcome: &Result<PhaseDone, ActionFailure>) -> bool {
    matches!(outcome, Err(ActionFailure::Unattributed { because, .. }) if because.contains("yet it is there"))
}

fn done(contain: &Contain, action: &NodeAction, target: &Target) {
    let captured = told(contain, action, target, Phase::Capture).result.unwrap();
    let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
    told(contain, action, target, Phase::Apply { rollback }).result.unwrap();
}

#[test]
fn i9_what_lives_and_is_not_seen_is_unresolved_and_nothing_is_done_until_it_is_seen_again() {
    let Some(ground) = Ground::new("unseen").and_then(Ground::with_bpffs) else { return };
    let (pid, cgroup) = somebody(&ground);
    let (before, process) = (ground.snapshot(), process(pid));
    let contain = ground.contain();
    let Some(cover) = Cover::over(&ground) else { return };
    let own =
        contain.react_freeze(key(pid), now()).map(|_| PhaseDone::Applied { outputs: Default::default() });
    assert!(is_unresolved(&own), "on its own word: {own:?}");
    for (action, target) in [(&SUBTREE, &process), (&quarantine(), &cgroup), (&CGROUP, &cgroup)] {
        let outcome = told(&contain, action, target, Phase::Capture);
        assert!(is_unresolved(&outcome.result), "{action:?}: {outcome:?}");
    }
    assert_eq!(
        std::fs::read_dir(&ground.cgroup).unwrap().count(),
        0,
        "nothing was made in what lies over it"
    );
    drop(cover);
    assert_eq!(ground.snapshot(), before);
    assert!(contain.in_force().is_empty());
    // The very same commands, told again.
    for (action, target) in [(&SUBTREE, &process), (&quarantine(), &cgroup)] {
        done(&contain, action, target);
    }
    assert_eq!(contain.in_force().len(), 2);
    assert!(contain.release(&Which::All).iter().all(|lifted| lifted.result.is_ok()));
    assert_eq!(ground.snapshot(), before);
}

#[test]
fn i9_what_holds_somebody_who_is_not_seen_holds_on() {
    let Some(ground) = Ground::new("holds unseen").and_then(Ground::with_bpffs) else { return };
    let (pid, cgroup) = somebody(&ground);
    let (before, process) = (ground.snapshot(), process(pid));
    let contain = ground.contain();
    for (action, target) in [(&SUBTREE, &process), (&quarantine(), &cgroup)] {
        done(&contain, action, target);
    }
    let held = ground.snapshot();
    let Some(cover) = Cover::over(&ground) else { return };
    contain.watch(now());
    assert_eq!(contain.in_force().len(), 2, "nothing was lifted: {:?}", contain.in_force());
    assert_eq!(
        std::fs::read_dir(&ground.cgroup).unwrap().count(),
        0,
        "nothing was made in what lies over it"
    );
    drop(cover);
    assert_eq!(ground.snapshot(), held);
    assert!(contain.watch(now()).is_empty(), "all of it holds");
    assert!(contain.release(&Which::All).iter().all(|lifted| lifted.result.is_ok()));
    assert_eq!(ground.snapshot(), before);
}

/// Another cgroup that is mounted over one is a cgroup as well, and not the one that was frozen.
#[test]
fn i5_an_undo_finds_the_cgroup_over_which_another_is_mounted() {
    let Some(ground) = Ground::new("covered by another") else { return };
    let (_, cgroup) = somebody(&ground);
    let (other, _) = ground.sub("other");
    let before = ground.snapshot();
    let contain = ground.contain();
    done(&contain, &CGROUP, &cgroup);
    let place = ground.cgroup.join("pod");
    if let Err(error) = mount_bind(&other, &place) {
        println!("SKIPPED: covered by another: nothing can be mounted: {error}");
        return;
    }
    let cover = Cover(place);
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|lifted| lifted.result.is_ok()), "{lifted:?}");
    assert!(contain.in_force().is_empty());
    drop(cover);
    assert_eq!(ground.snapshot(), before);
}

/// As networks and runtimes do it, Cilium for one.
#[test]
fn a_part_of_the_tree_that_is_mounted_over_itself_is_what_it_was() {
    let Some(ground) = Ground::new("over itself").and_then(Ground::with_bpffs) else { return };
    let (pid, cgroup) = somebody(&ground);
    let before = ground.snapshot();
    let contain = ground.contain();
    if let Err(error) = mount_bind(&ground.cgroup, &ground.cgroup) {
        println!("SKIPPED: over itself: nothing can be mounted: {error}");
        return;
    }
    let cover = Cover(ground.cgroup.clone());
    for (action, target) in [(&SUBTREE, &process(pid)), (&quarantine(), &cgroup)] {
        done(&contain, action, target);
    }
    assert!(contain.watch(now()).is_empty(), "all of it holds");
    assert!(contain.release(&Which::All).iter().all(|lifted| lifted.result.is_ok()));
    drop(cover);
    assert_eq!(ground.snapshot(), before);
}

/// Whoever was put into a cgroup in the jail is as frozen as who is in the jail itself.
#[test]
fn i5_an_undo_does_not_forget_who_is_in_a_cgroup_in_a_jail_that_it_does_not_see() {
    let Some(ground) = Ground::new("nested unseen") else { return };
    let (pid, _) = somebody(&ground);
    let contain = ground.contain();
    let record = contain.react_freeze(key(pid), now()).unwrap();
    let jail = ground.cgroup.parent().unwrap().join(cgroup_of(pid).unwrap().trim_start_matches('/'));
    let inner = jail.join("a");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("cgroup.procs"), pid.to_string()).unwrap();
    let Some(cover) = Cover::over(&ground) else { return };
    let lifted = contain.release(&Which::One(record.id.clone()));
    assert!(lifted[0].result.is_err(), "{lifted:?}");
    assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Reverting);
    drop(cover);
    contain.watch(now());
    assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Reverted);
    assert!(!jail.exists(), "nobody is held in {}", jail.display());
}

/// An undo that was told to be done would leave somebody frozen for ever.
#[test]
fn i5_an_undo_that_does_not_see_whom_it_lets_go_says_so_and_is_done_once_it_does() {
    let Some(ground) = Ground::new("undo unseen") else { return };
    let (pid, _) = somebody(&ground);
    let before = ground.snapshot();
    let contain = ground.contain();
    let record = contain.react_freeze(key(pid), now()).unwrap();
    let held = ground.snapshot();
    let Some(cover) = Cover::over(&ground) else { return };
    let lifted = contain.release(&Which::One(record.id.clone()));
    assert!(lifted[0].result.is_err(), "{lifted:?}");
    assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Reverting);
    drop(cover);
    assert_ne!(held, before);
    contain.watch(now());
    assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Reverted);
    assert_eq!(ground.snapshot(), before, "exactly as before");
}

/// A cgroup is known by its id, which the kernel gives once: its undo needs no path.
#[test]
fn i5_a_cgroup_that_was_frozen_in_place_is_thawed_by_its_id_where_its_path_is_not_seen() {
    let Some(ground) = Ground::new("thaw unseen") else { return };
    let (_, cgroup) = somebody(&ground);
    let before = ground.snapshot();
    let contain = ground.contain();
    done(&contain, &CGROUP, &cgroup);
    let Some(cover) = Cover::over(&ground) else { return };
    let lifted = contain.release(&Which::All);
    assert!(matches!(&lifted[0].result, Ok(PhaseDone::Reverted { .. })), "{lifted:?}");
    assert_eq!(lifted[0].record.state, ActionState::Reverted, "and not vacuous: {lifted:?}");
    drop(cover);
    assert_eq!(ground.snapshot(), before);
}
