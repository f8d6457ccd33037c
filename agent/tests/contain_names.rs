//! What a program may call its cgroups must not keep it from being contained, nor let the undo miss its place: a name that is no text, one that
//! looks like the kernel's mark of a removed cgroup, one that no path reaches.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path, process::Command};

use ground::{Ground, key, nest::Nest, now, open, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, ContainConfig, Which};
use model::{
    ActionFailure, ActionState, FreezeScope, NetQuarantine, NodeAction, NodeId, PhaseDone, RollbackState,
};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

/// What /proc says of its place, as bytes; nothing where even that is too long to be said.
fn place(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

fn is_asked_to_freeze(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.freeze")).unwrap().trim() == "1"
}

fn lift(contain: &Contain) {
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))), "{lifted:?}");
    assert!(contain.in_force().is_empty());
}

/// In a cgroup whose name is no text, whoever it is: frozen with all below, frozen in place, cut off; and back exactly there.
#[test]
fn i5_in_a_cgroup_whose_name_is_no_text_everybody_is_contained_and_comes_back() {
    // one that is no text, and one with the very characters that could be taken for another's
    for name in [b"no \xff\xfe\xc3 text".as_slice(), "\u{10feff}\u{10fe41} \u{10fe00}".as_bytes()] {
        let Some(ground) = Ground::new("no text").and_then(Ground::with_bpffs) else { return };
        let cgroup = ground.cgroup.join(OsStr::from_bytes(name));
        fs::create_dir(&cgroup).unwrap();
        let pid = ground.start_in(&cgroup, Command::new("sh").args(["-c", "sleep 1000 & wait"]));
        wait_for("its child", || ground.members().len() == 2);
        let pids = ground.members();
        wait_for("both to rest", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
        let home = place(pid);
        let contain = ground.contain();
        let record = contain.react(SUBTREE, process(pid), now()).unwrap();
        assert_eq!(record.state, ActionState::Applied);
        for pid in &pids {
            assert!(place(*pid).windows(14).any(|some| some == b"hemostat-jail-"), "{}", pid);
        }
        assert!(contain.watch(now()).is_empty());
        // the agent is started anew
        drop(contain);
        let contain = ground.contain();
        assert!(contain.recover(now()).iter().all(|one| one.failure.is_none()));
        lift(&contain);
        assert!(pids.iter().all(|pid| place(*pid) == home));
        contain.react(CGROUP, process(pid), now()).unwrap();
        assert!(is_asked_to_freeze(&cgroup));
        assert!(contain.watch(now()).is_empty());
        lift(&contain);
        assert!(!is_asked_to_freeze(&cgroup));
        let quarantine = NodeAction::NetQuarantine(NetQuarantine { allow: Vec::new() });
        contain.react(quarantine, process(pid), now()).unwrap();
        assert!(contain.watch(now()).is_empty());
        lift(&contain);
        assert!(pids.iter().all(|pid| place(*pid) == home));
    }
}

/// A protected process is found wherever it is below.
#[test]
fn i6_a_protected_process_in_a_cgroup_whose_name_is_no_text_is_seen() {
    let Some(ground) = Ground::new("protected, no text") else { return };
    let cgroup = ground.cgroup.join(OsStr::from_bytes(b"\xff"));
    fs::create_dir(&cgroup).unwrap();
    let sleep = fs::canonicalize("/bin/sleep").unwrap();
    let pid = ground.start_in(&cgroup, Command::new(&sleep).arg("1000"));
    wait_for("its exec", || fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == sleep));
    let mut config = ground.config();
    config.protected.executables.push(sleep);
    let contain = open(&config);
    let refused = contain.react(CGROUP, ground.target(), now());
    assert!(matches!(refused, Err(ActionFailure::Protected { .. })), "{refused:?}");
}

/// The kernel writes ` (deleted)` after the path of a removed cgroup; anybody may call a living one so, beside one that is called like the rest.
#[test]
fn i9_a_cgroup_that_is_called_deleted_is_not_taken_for_another() {
    let Some(ground) = Ground::new("deleted").and_then(Ground::with_bpffs) else { return };
    let (other, other_path) = ground.sub("x");
    let (cgroup, path) = ground.sub("x (deleted)");
    let pid = ground.start_in(&cgroup, Command::new("sleep").arg("1000"));
    let stranger = ground.start_in(&other, Command::new("sleep").arg("1000"));
    wait_for("both to rest", || [pid, stranger].iter().all(|pid| state_of(*pid) == Some('S')));
    let before = ground.snapshot();
    assert_ne!(path, other_path);
    let contain = ground.contain();
    contain.react(SUBTREE, process(pid), now()).unwrap();
    assert!(contain.watch(now()).is_empty());
    lift(&contain);
    assert_eq!(ground.snapshot(), before);
    let record = contain.react(CGROUP, process(pid), now()).unwrap();
    assert!(is_asked_to_freeze(&cgroup) && !is_asked_to_freeze(&other));
    assert!(
        matches!(&record.rollback, Some(RollbackState::Freeze { in_place: Some(at), .. }) if *at == path),
        "{record:?}"
    );
    lift(&contain);
    let quarantine = NodeAction::NetQuarantine(NetQuarantine { allow: Vec::new() });
    let record = contain.react(quarantine, process(pid), now()).unwrap();
    assert!(
        matches!(&record.rollback, Some(RollbackState::Network { cgroup, .. }) if *cgroup == path),
        "{record:?}"
    );
    lift(&contain);
    assert_eq!(ground.snapshot(), before);
}

fn too_deep(ground: &Ground) -> Nest {
    Nest::new(ground, (0..20).map(|_| vec![b'd'; 250]))
}

/// Nobody can name the cgroup, the kernel neither: whoever is in it is stopped by signal, stays where it is, and goes on there.
#[test]
fn i5_in_a_cgroup_deeper_than_any_path_a_tree_is_held_by_signal() {
    let Some(ground) = Ground::new("too deep").and_then(Ground::with_bpffs) else { return };
    let pid = ground.shell("sleep 1000 & sleep 1000 & wait");
    wait_for("its children", || ground.members().len() == 3);
    let pids = ground.members();
    let nest = too_deep(&ground);
    pids.iter().for_each(|pid| nest.take(*pid));
    wait_for("all to rest", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
    let contain = ground.contain();
    let record = contain.react(SUBTREE, process(pid), now()).unwrap();
    assert_eq!(record.state, ActionState::Applied);
    wait_for("all to stand", || pids.iter().all(|pid| state_of(*pid) == Some('T')));
    assert!(contain.watch(now()).is_empty());
    lift(&contain);
    wait_for("all to go on", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
    assert!(pids.iter().all(|pid| nest.has(*pid)), "where they were");
    // what needs the cgroup itself says that it cannot be named
    let quarantine = NodeAction::NetQuarantine(NetQuarantine { allow: Vec::new() });
    for action in [CGROUP, quarantine] {
        let refused = contain.react(action, process(pid), now());
        let told = refused.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(told.contains("too deep"), "{refused:?}");
    }
    assert!(contain.in_force().is_empty());
}

/// One of a tree is where no path reaches: it does not keep the others from being held, nor itself.
#[test]
fn i5_a_child_in_a_cgroup_deeper_than_any_path_frees_nobody() {
    let Some(ground) = Ground::new("child too deep") else { return };
    let root = ground.shell("sleep 1000 & sleep 1000 & wait");
    wait_for("its children", || ground.members().len() == 3);
    let pids = ground.members();
    let child = *pids.iter().find(|pid| **pid != root).unwrap();
    let nest = too_deep(&ground);
    nest.take(child);
    wait_for("all to rest", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
    let before: Vec<_> = pids.iter().map(|pid| place(*pid)).collect();
    let contain = ground.contain();
    let record = contain.react(SUBTREE, process(root), now()).unwrap();
    assert_eq!(record.state, ActionState::Applied);
    wait_for("all to stand", || pids.iter().all(|pid| state_of(*pid) == Some('T')));
    assert!(contain.watch(now()).is_empty());
    lift(&contain);
    wait_for("all to go on", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
    assert!(nest.has(child));
    assert_eq!(pids.iter().map(|pid| place(*pid)).collect::<Vec<_>>(), before);
}

/// The cgroup can just be named, a jail in it no more: the jail is made further up, and the undo finds both.
#[test]
fn i5_a_jail_is_made_where_a_path_still_reaches_it() {
    for spare in [1, 10, 30, 40] {
        let Some(ground) = Ground::new("at the limit") else { return };
        let pid = ground.shell("sleep 1000 & wait");
        wait_for("its child", || ground.members().len() == 2);
        let pids = ground.members();
        // 4,095 bytes can be named, the slash before each name counts
        let mut left = 4095 - spare - ground.path.len();
        let mut names = Vec::new();
        while left > 0 {
            let length = if left > 300 { 200 } else { left.min(250) - 1 };
            names.push(vec![b'n'; length]);
            left -= length + 1;
            if left == 1 {
                names.last_mut().unwrap().push(b'n');
                left = 0;
            }
        }
        let nest = Nest::new(&ground, names);
        pids.iter().for_each(|pid| nest.take(*pid));
        wait_for("both to rest", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
        let home = place(pid);
        assert!(!home.is_empty(), "it can be named");
        let contain = ground.contain();
        let record = contain.react(SUBTREE, process(pid), now()).unwrap();
        assert_eq!(record.state, ActionState::Applied, "{spare}");
        assert!(contain.watch(now()).is_empty(), "{spare}");
        lift(&contain);
        wait_for("both to go on", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
        assert!(pids.iter().all(|pid| nest.has(*pid) && place(*pid) == home), "{spare}");
    }
}

/// Not a test: an agent that may have few files open, and freezes a cgroup with many within each other.
#[test]
fn agent_above_a_deep_nest() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let Ok(errand) = std::env::var("HEMOSTAT_DEEP_NEST") else { return };
    let (state, pid) = errand.split_once(' ').unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: Some(128) }).unwrap();
    let contain = open(&ContainConfig::new(NodeId::new("test-node"), state.into()));
    let pid = pid.parse().unwrap();
    let record = contain.react(CGROUP, process(pid), now()).unwrap();
    assert_eq!(record.target, process(pid));
    assert_eq!(key(pid).pid.0, pid);
    contain.release(&Which::All);
}

#[test]
fn i11_cgroups_nested_deeper_than_files_may_be_open_keep_nobody_from_being_frozen() {
    let Some(ground) = Ground::new("deep nest") else { return };
    let pid = ground.shell("exec sleep 1000");
    let _nest = Nest::new(&ground, (0..300).map(|_| vec![b'x']));
    let errand = format!("{} {pid}", ground.dir.path().join("state").display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "agent_above_a_deep_nest", "--nocapture", "--test-threads=1"]);
    let output = command.env("HEMOSTAT_DEEP_NEST", errand).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
