//! Cgroups and processes that somebody puts into a jail: whoever stands in it is held, and let out; and the jail goes.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use ground::{Ground, Heard, cgroup_of, key, lives, now, open, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, Which};
use model::{ActionState, FreezeScope, KillScope, NodeAction, PhaseDone, RollbackState};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);

fn sleeper(ground: &Ground) -> u32 {
    let pid = ground.start(Command::new("sleep").arg("1000").stdout(Stdio::null()));
    wait_for("it to rest", || state_of(pid) == Some('S'));
    pid
}

/// Two spinning processes, the first the parent of the second.
fn spinning(ground: &Ground) -> [u32; 2] {
    let root = ground.shell("while :; do :; done & while :; do :; done");
    ground.await_members(2);
    [root, ground.members().into_iter().find(|pid| *pid != root).unwrap()]
}

fn jail_of(ground: &Ground, pid: u32) -> PathBuf {
    let path = cgroup_of(pid).unwrap();
    ground.cgroup.join(path.strip_prefix(&format!("{}/", ground.path)).unwrap())
}

fn put(pid: u32, cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string()).unwrap();
}

fn lift(contain: &Contain) {
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))), "{lifted:?}");
    assert!(contain.in_force().is_empty());
}

/// Somebody makes cgroups in the jail, one of them with a name that is no text, and moves a member and others into them.
#[test]
fn a_cgroup_in_a_jail_keeps_neither_the_jail_nor_who_is_in_it() {
    use std::os::unix::ffi::OsStrExt;
    let Some(ground) = Ground::new("in the jail") else { return };
    let [root, child] = spinning(&ground);
    let (late, other) = (sleeper(&ground), sleeper(&ground));
    let before = ground.snapshot();
    let heard = Arc::new(Heard::default());
    let mut config = ground.config();
    config.lineage = Some(heard.clone());
    let contain = open(&config);
    contain.react(SUBTREE, process(root), now()).unwrap();
    let jail = jail_of(&ground, child);
    let within = jail.join(std::ffi::OsStr::from_bytes(b"\xff")).join("within");
    fs::create_dir_all(&within).unwrap();
    fs::create_dir(jail.join("beside")).unwrap();
    put(child, &within);
    put(late, &within);
    put(other, &within);
    heard.0.lock().unwrap().push(key(late));
    let drifts = contain.watch(now());
    assert!(drifts.iter().all(|drift| drift.again.is_ok()), "{drifts:?}");
    assert_eq!(contain.watch(now()), [], "it is complete now");
    let record = contain.in_force().remove(0);
    let Some(RollbackState::Freeze { members, .. }) = &record.rollback else { panic!("{record:?}") };
    assert!(members.iter().all(|one| one.from == ground.path), "{members:?}");
    lift(&contain);
    wait_for("both to run", || [root, child].iter().all(|pid| state_of(*pid) == Some('R')));
    assert_eq!(ground.snapshot(), before);
}

/// Somebody puts a process in for each that is let out: the release says what is left, lets it run, and comes to its end later.
#[test]
fn a_jail_that_is_filled_while_it_is_emptied_is_thawed_and_told_of_and_goes_later() {
    let Some(ground) = Ground::new("filled again") else { return };
    let [root, _] = spinning(&ground);
    let others = [sleeper(&ground), sleeper(&ground)];
    let before = ground.snapshot();
    let into: Arc<Mutex<Option<PathBuf>>> = Arc::default();
    let hook_into = Arc::clone(&into);
    let mut config = ground.config();
    config.on_step = Some(Arc::new(move |step| {
        let into = hook_into.lock().unwrap();
        if let (Some(jail), "move back") = (&*into, step) {
            // whichever is let out by this very step comes back with the next
            others.iter().for_each(|pid| put(*pid, jail));
        }
    }));
    let contain = open(&config);
    let record = contain.react(SUBTREE, process(root), now()).unwrap();
    let jail = jail_of(&ground, root);
    *into.lock().unwrap() = Some(jail.clone());
    let lifted = contain.release(&Which::All);
    let told = format!("{:?}", lifted[0].result);
    assert!(lifted[0].result.is_err() && others.iter().any(|pid| told.contains(&pid.to_string())), "{told}");
    assert_eq!(fs::read_to_string(jail.join("cgroup.freeze")).unwrap().trim(), "0", "all of them run");
    assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Reverting);
    *into.lock().unwrap() = None;
    drop(contain);
    let contain = ground.contain();
    let recovered = contain.recover(now());
    assert!(recovered.iter().all(|one| one.failure.is_none()), "{recovered:?}");
    assert!(contain.in_force().is_empty());
    assert_eq!(ground.snapshot(), before);
}

/// One of a tree that is killed is put into a cgroup in the jail before the kill reaches it.
#[test]
fn a_cgroup_in_a_jail_hides_nobody_from_a_kill() {
    let Some(ground) = Ground::new("kill in the jail") else { return };
    let [root, child] = spinning(&ground);
    let mut config = ground.config();
    let hook_ground = ground.cgroup.clone();
    let went = Arc::new(Mutex::new(false));
    config.on_step = Some(Arc::new(move |step| {
        let mut went = went.lock().unwrap();
        // right before the jail's members are listed
        if step == "journal" && !*went && cgroup_of(child).is_some_and(|at| at.contains("hemostat-jail-")) {
            *went = true;
            let name = cgroup_of(child).unwrap().rsplit('/').next().unwrap().to_owned();
            let within = hook_ground.join(name).join("within");
            fs::create_dir(&within).unwrap();
            put(child, &within);
        }
    }));
    let contain = open(&config);
    contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
    wait_for("their end", || !lives(root) && !lives(child));
    assert!(contain.in_force().is_empty());
    wait_for("the jail to go", || ground.snapshot().cgroups.len() == 1);
}
