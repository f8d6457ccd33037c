//! What an undo gives back where freezes overlap, homes have gone, and others may move processes.

use std::{fs, process::Command};

use hemostat_agent::contain::Which;
use model::{
    ActionId, ActionState, FreezeScope, KillScope, NodeAction, NodeCommand, Phase, PhaseDone, RollbackState,
};

use crate::{
    CGROUP, SUBTREE, command,
    ground::{self, Ground, cgroup_of, key, lives, now, process, wait_for},
    tree,
};

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
