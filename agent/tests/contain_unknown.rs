//! Containments that no journal tells of any more: they are found, and lifted as near as possible to how it was.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{fs, path::Path};

use ground::{Ground, cgroup_of, key, now, state_of, wait_for};
use hemostat_agent::contain::{Stray, Unknown};
use model::{NetQuarantine, NodeAction};

/// Of this test's cgroup alone: others have theirs beside.
fn without_journal(ground: &Ground, bpffs: &Path) -> Unknown {
    Unknown::without_journal(Some(&ground.cgroup), bpffs).unwrap()
}

#[test]
fn i7_a_frozen_tree_whose_journal_is_gone_is_found_and_let_go() {
    let Some(ground) = Ground::new("unknown") else { return };
    let pid = ground.shell("sleep 1000 & while :; do :; done");
    ground.await_members(2);
    let contain = ground.contain();
    contain.react_freeze(key(pid), now()).unwrap();
    let jail = cgroup_of(pid).unwrap();
    assert!(jail.contains("/hemostat-jail-"), "{jail}");
    let known = contain.unknown().find().unwrap();
    assert!(!known.iter().any(|stray| stray.to_string().contains(&jail)), "the journal knows it: {known:?}");
    drop(contain);
    fs::remove_file(ground.dir.path().join("state/journal")).unwrap();

    let again = ground.contain();
    let found = again.unknown().find().unwrap();
    assert!(
        found.iter().any(|stray| matches!(stray, Stray::Jail { path, processes: 2 } if *path == jail)),
        "{found:?}"
    );
    // who got a stop signal on the way in goes on, too
    assert!(std::process::Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap().success());
    let unknown = without_journal(&ground, ground.dir.path());
    let found = unknown.find().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let said = unknown.lift(&found[0]).unwrap();
    assert!(said.contains("2 processes") && said.contains("unknown"), "{said}");
    assert_eq!(cgroup_of(pid).unwrap(), ground.path);
    wait_for("it to run", || state_of(pid) == Some('R'));
    assert!(unknown.find().unwrap().is_empty());
    assert!(ground.snapshot().cgroups.keys().all(|path| path.is_empty()), "the jail is gone");
}

/// A process that made a cgroup in the jail, and another in that, hides nobody in them and keeps the jail from going no more than elsewhere.
#[test]
fn i7_who_is_in_a_cgroup_in_a_jail_that_no_journal_knows_is_let_go_too() {
    let Some(ground) = Ground::new("unknown within") else { return };
    let pid = ground.shell("sleep 1000 & while :; do :; done");
    ground.await_members(2);
    let contain = ground.contain();
    contain.react_freeze(key(pid), now()).unwrap();
    let jail = cgroup_of(pid).unwrap();
    drop(contain);
    fs::remove_file(ground.dir.path().join("state/journal")).unwrap();
    let within = ground.cgroup.join(jail.strip_prefix(&format!("{}/", ground.path)).unwrap()).join("a/b");
    fs::create_dir_all(&within).unwrap();
    fs::write(within.join("cgroup.procs"), pid.to_string()).unwrap();

    let unknown = without_journal(&ground, ground.dir.path());
    let found = unknown.find().unwrap();
    assert!(matches!(&found[..], [Stray::Jail { processes: 2, .. }]), "{found:?}");
    let said = unknown.lift(&found[0]).unwrap();
    assert!(said.contains("2 processes"), "{said}");
    wait_for("it to run", || state_of(pid) == Some('R'));
    assert_eq!(cgroup_of(pid).unwrap(), ground.path);
    assert!(ground.snapshot().cgroups.keys().all(|path| path.is_empty()), "the jail is gone");
}

#[test]
fn a_cgroup_that_somebody_else_gave_the_name_of_a_jail_is_left_alone() {
    let Some(ground) = Ground::new("foreign jail") else { return };
    let (theirs, _) = ground.sub("hemostat-jail-0123456789abcdef");
    std::os::unix::fs::chown(&theirs, Some(65534), None).unwrap();
    let (other, _) = ground.sub("hemostat-jail-mine");
    assert_eq!(without_journal(&ground, ground.dir.path()).find().unwrap(), []);
    assert!(theirs.exists() && other.exists());
}

#[test]
fn a_quarantine_whose_journal_is_gone_is_found_and_taken_out_of_force() {
    let Some(ground) = Ground::new("unknown pins").and_then(Ground::with_bpffs) else { return };
    let contain = ground.contain();
    let quarantine = NodeAction::NetQuarantine(NetQuarantine::default());
    contain.react(quarantine, ground.target(), now()).unwrap();
    assert!(!contain.unknown().find().unwrap().iter().any(|stray| matches!(stray, Stray::Pins { .. })));
    drop(contain);
    fs::remove_file(ground.dir.path().join("state/journal")).unwrap();

    let unknown = without_journal(&ground, &ground.config().bpffs);
    let found = unknown.find().unwrap();
    assert!(matches!(&found[..], [Stray::Pins { folder }] if folder.exists()), "{found:?}");
    unknown.lift(&found[0]).unwrap();
    assert_eq!(unknown.find().unwrap(), []);
}

#[test]
fn a_journal_that_had_to_be_put_aside_is_told() {
    let Some(ground) = Ground::new("put aside") else { return };
    let pid = ground.shell("sleep 1000");
    let contain = ground.contain();
    assert!(!contain.notes().iter().any(|note| note.contains("put aside")), "{:?}", contain.notes());
    contain.react_freeze(key(pid), now()).unwrap();
    drop(contain);
    let journal = ground.dir.path().join("state/journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[20] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let again = ground.contain();
    let notes = again.notes();
    assert!(notes.iter().any(|note| note.contains("journal.damaged")), "{notes:?}");
    let unknown = without_journal(&ground, ground.dir.path());
    for stray in unknown.find().unwrap() {
        unknown.lift(&stray).unwrap();
    }
    assert_eq!(cgroup_of(pid).unwrap(), ground.path);
}
