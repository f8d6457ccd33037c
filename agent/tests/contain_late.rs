//! What comes late or twice: an orphan that is heard of after its tree was frozen, two undos at once, an undo that fails half way while the agent
//! looks after what is in force, a stranger's cgroup at the path of one that is gone.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, OnceLock},
};

use ground::{Ground, cgroup_of, key, now, open, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, Lineage, Which};
use model::{ActionId, ActionRecord, ActionState, FreezeScope, NodeAction, PhaseDone, ProcessKey, Target};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

fn lift(contain: &Contain, id: &ActionId) {
    let lifted = contain.release(&Which::One(id.clone()));
    assert!(
        matches!(&lifted[..], [one] if matches!(one.result, Ok(PhaseDone::Reverted { .. }))),
        "{lifted:?}"
    );
}

fn is_asked_to_freeze(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.freeze")).unwrap().trim() == "1"
}

/// Whoever it has been told of.
#[derive(Default)]
struct Heard(Mutex<HashMap<ProcessKey, Vec<ProcessKey>>>);

impl Heard {
    fn hear(&self, of: ProcessKey, descendant: ProcessKey) {
        self.0.lock().unwrap().entry(of).or_default().push(descendant);
    }
}

impl Lineage for Heard {
    fn descendants(&self, of: ProcessKey) -> Vec<ProcessKey> {
        self.0.lock().unwrap().get(&of).cloned().unwrap_or_default()
    }
}

/// A tree of one, and its grandchild whose parent has ended.
fn with_orphan(ground: &Ground) -> (u32, u32) {
    let mark = ground.dir.path().join("orphan");
    let script = format!("(sleep 1000 & echo $! > {}.new; mv {0}.new {0}); exec sleep 1001", mark.display());
    let root = ground.shell(&script);
    wait_for("the orphan", || mark.exists());
    let orphan: u32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
    wait_for("its parent's end", || ground.members().len() == 2 && ground.members().contains(&orphan));
    let names = || [root, orphan].map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap());
    wait_for("both to sleep", || names().iter().all(|name| name.trim() == "sleep"));
    wait_for("both to rest", || [root, orphan].iter().all(|pid| state_of(*pid) == Some('S')));
    (root, orphan)
}

/// The agent hears of a fork a moment after it happened, which may be after the freeze was complete.
#[test]
fn an_orphan_that_is_heard_of_after_the_freeze_is_gathered() {
    for without_jails in [false, true] {
        let Some(ground) = Ground::new("late orphan") else { return };
        let (root, orphan) = with_orphan(&ground);
        if without_jails {
            fs::write(ground.cgroup.join("cgroup.max.descendants"), "0").unwrap();
        }
        let before = ground.snapshot();
        let heard = Arc::new(Heard::default());
        let mut config = ground.config();
        config.lineage = Some(heard.clone());
        let contain = open(&config);
        let record = contain.react(SUBTREE, process(root), now()).unwrap();
        assert!(contain.watch(now()).is_empty());
        assert_eq!(state_of(orphan), Some('S'), "nobody knows of it");
        assert_eq!(cgroup_of(orphan).unwrap(), ground.path);
        heard.hear(key(root), key(orphan));
        let drifts = contain.watch(now());
        assert!(drifts.iter().all(|drift| drift.again.is_ok()), "{drifts:?}");
        if without_jails {
            wait_for("its stop", || state_of(orphan) == Some('T'));
        } else {
            assert!(cgroup_of(orphan).unwrap().contains("hemostat-jail-"));
        }
        assert!(contain.watch(now()).is_empty(), "it is complete now");
        lift(&contain, &record.id);
        wait_for("all to be as before", || ground.snapshot() == before);
    }
}

/// A protected one is not gathered later either, and is not tried again and again.
#[test]
fn i6_a_protected_orphan_that_is_heard_of_after_the_freeze_is_left_alone() {
    let Some(ground) = Ground::new("late protected orphan") else { return };
    let tool = ground.dir.path().join("tool");
    fs::copy(fs::canonicalize("/bin/sleep").unwrap(), &tool).unwrap();
    let root = ground.shell("exec sleep 1000");
    let orphan = ground.start(Command::new(&tool).arg("1000"));
    wait_for("its exec", || fs::read_link(format!("/proc/{orphan}/exe")).is_ok_and(|exe| exe == tool));
    let heard = Arc::new(Heard::default());
    let mut config = ground.config();
    config.lineage = Some(heard.clone());
    config.protected.executables.push(tool);
    let contain = open(&config);
    let record = contain.react(SUBTREE, process(root), now()).unwrap();
    heard.hear(key(root), key(orphan));
    assert_eq!(contain.watch(now()), []);
    assert_eq!(cgroup_of(orphan).unwrap(), ground.path);
    lift(&contain, &record.id);
}

/// Both come to the same end, whichever begins, and also where the second comes while the first is half way.
#[test]
fn two_undos_of_one_freeze_in_place_come_to_one_end() {
    for half_way in ["journal", "thaw"] {
        let Some(ground) = Ground::new("two undos") else { return };
        ground.shell("while :; do :; done");
        let before = ground.snapshot();
        let contain: Arc<OnceLock<Contain>> = Arc::default();
        let second: Arc<Mutex<Option<std::thread::JoinHandle<bool>>>> = Arc::default();
        let armed: Arc<Mutex<Option<ActionId>>> = Arc::default();
        let mut config = ground.config();
        let (hook_contain, hook_second, hook_armed) = (contain.clone(), second.clone(), armed.clone());
        config.on_step = Some(Arc::new(move |step| {
            if step != half_way {
                return;
            }
            let Some(id) = hook_armed.lock().unwrap().take() else { return };
            let contain = hook_contain.clone();
            let other = std::thread::spawn(move || {
                let lifted = contain.get().unwrap().release(&Which::One(id));
                lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. })))
            });
            *hook_second.lock().unwrap() = Some(other);
        }));
        assert!(contain.set(open(&config)).is_ok());
        let contain = contain.get().unwrap();
        let record = contain.react(CGROUP, ground.target(), now()).unwrap();
        *armed.lock().unwrap() = Some(record.id.clone());
        lift(contain, &record.id);
        let other = second.lock().unwrap().take().unwrap();
        assert!(other.join().unwrap(), "{half_way}");
        assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Reverted, "{half_way}");
        assert_eq!(ground.snapshot(), before, "{half_way}");
        // somebody else freezes it: an undo that comes later still does not touch that
        fs::write(ground.cgroup.join("cgroup.freeze"), "1").unwrap();
        contain.release(&Which::All);
        assert!(is_asked_to_freeze(&ground.cgroup), "{half_way}");
        fs::write(ground.cgroup.join("cgroup.freeze"), "0").unwrap();
    }
}

/// The frozen cgroup ends; another is made at its path by somebody else. It is a stranger's (I9).
#[test]
fn i9_a_stranger_at_the_path_of_a_cgroup_that_was_frozen_is_not_touched() {
    for (by_process, frozen, by_watch) in
        [(false, true, false), (true, true, false), (false, false, true), (true, false, true)]
    {
        let context = format!("by process {by_process}, frozen {frozen}, by watch {by_watch}");
        let Some(ground) = Ground::new("stranger's cgroup") else { return };
        let (cgroup, path) = ground.sub("unit");
        let pid = ground.start_in(&cgroup, Command::new("sleep").arg("1000"));
        let contain = ground.contain();
        let target: Target = if by_process { process(pid) } else { ground::cgroup_target(&cgroup, &path) };
        let record = contain.react(CGROUP, target, now()).unwrap();
        assert!(is_asked_to_freeze(&cgroup));
        fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
        wait_for("it to go", || fs::remove_dir(&cgroup).is_ok());
        ground.sub("unit");
        let stranger = ground.start_in(&cgroup, Command::new("sleep").arg("1000"));
        if frozen {
            fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
        }
        if by_watch {
            assert_eq!(contain.watch(now()), [], "{context}");
        }
        contain.release(&Which::All);
        assert_eq!(is_asked_to_freeze(&cgroup), frozen, "{context}");
        assert_eq!(cgroup_of(stranger).unwrap(), path, "{context}");
        assert_eq!(contain.record(&record.id).unwrap().state, ActionState::Vacuous, "{context}");
        assert!(contain.in_force().is_empty(), "{context}");
        fs::write(cgroup.join("cgroup.freeze"), "0").unwrap();
    }
}

/// One freeze of the cgroup that is gone, and one of the other that was made at its path by somebody who had frozen it: each gives back its own.
#[test]
fn i9_two_freezes_at_one_path_are_not_taken_for_one() {
    let Some(ground) = Ground::new("two at one path") else { return };
    let (cgroup, path) = ground.sub("unit");
    ground.start_in(&cgroup, Command::new("sleep").arg("1000"));
    let contain = ground.contain();
    let first = contain.react(CGROUP, ground::cgroup_target(&cgroup, &path), now()).unwrap();
    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    wait_for("it to go", || fs::remove_dir(&cgroup).is_ok());
    ground.sub("unit");
    ground.start_in(&cgroup, Command::new("sleep").arg("1000"));
    fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
    let second = contain.react(CGROUP, ground::cgroup_target(&cgroup, &path), now()).unwrap();
    lift(&contain, &first.id);
    assert!(is_asked_to_freeze(&cgroup));
    lift(&contain, &second.id);
    assert!(is_asked_to_freeze(&cgroup), "as it was found");
    fs::write(cgroup.join("cgroup.freeze"), "0").unwrap();
}

/// What is to be released, and how that stood afterwards.
type Asked = (ActionId, Option<ActionRecord>);

/// What a release was asked for and could not finish is finished by the watch, never done again: also where the watch had it among what is in
/// force when the release began.
#[test]
fn i5_after_a_release_that_failed_half_way_the_watch_goes_on_with_the_undo() {
    let Some(ground) = Ground::new("half released") else { return };
    let first = ground.shell("exec sleep 1000");
    let second = ground.shell("exec sleep 1001");
    wait_for("both to rest", || [first, second].iter().all(|pid| state_of(*pid) == Some('S')));
    let before = ground.snapshot();
    let contain: Arc<OnceLock<Contain>> = Arc::default();
    let in_the_way = Arc::new(Mutex::new(None));
    let released: Arc<Mutex<Option<Asked>>> = Arc::default();
    let mut config = ground.config();
    let (hook_contain, hook_way, hook_released) = (contain.clone(), in_the_way.clone(), released.clone());
    config.on_step = Some(Arc::new(move |step| match step {
        // the watch mends the first, and has looked up already that the second is in force
        "stop" => {
            let now = hook_released.lock().unwrap().clone();
            let Some((id, None)) = now else { return };
            let contain = hook_contain.get().unwrap();
            let by_person = id.clone();
            let lifted = std::thread::scope(|scope| {
                scope.spawn(|| contain.release(&Which::One(by_person))).join().unwrap()
            });
            let one = lifted.into_iter().next().unwrap();
            assert!(one.result.is_err(), "{one:?}");
            *hook_released.lock().unwrap() = Some((id, Some(one.record)));
        }
        // its jail cannot be removed
        "remove jail" => {
            let way: Option<std::path::PathBuf> = hook_way.lock().unwrap().clone();
            if let Some(way) = way {
                // the agent lets none be made by then: whoever may make some may also take that back
                let _raised = fs::write(way.parent().unwrap().join("cgroup.max.descendants"), "max");
                let _there = fs::create_dir(way);
            }
        }
        _ => {}
    }));
    assert!(contain.set(open(&config)).is_ok());
    let contain = contain.get().unwrap();
    let one = contain.react(SUBTREE, process(first), now()).unwrap();
    let two = contain.react(SUBTREE, process(second), now()).unwrap();
    let jail = |pid: u32| ground.cgroup.join(cgroup_of(pid).unwrap().rsplit('/').next().unwrap());
    let (jail_of_one, jail_of_two) = (jail(first), jail(second));
    *in_the_way.lock().unwrap() = Some(jail_of_two.join("in-the-way"));
    *released.lock().unwrap() = Some((two.id.clone(), None));
    fs::write(jail_of_one.join("cgroup.freeze"), "0").unwrap();
    let drifts = contain.watch(now());
    let (_, record) = released.lock().unwrap().clone().unwrap();
    assert_eq!(record.unwrap().state, ActionState::Reverting, "the release came in the middle of the watch");
    assert!(drifts.iter().all(|drift| drift.record.id == one.id), "{drifts:?}");
    assert_eq!(cgroup_of(second).unwrap(), ground.path, "it is not taken again");
    let way = in_the_way.lock().unwrap().take().unwrap();
    let _gone = fs::remove_dir(way);
    contain.watch(now());
    assert_eq!(contain.record(&two.id).unwrap().state, ActionState::Reverted);
    assert_eq!(contain.in_force().len(), 1);
    lift(contain, &one.id);
    wait_for("all to be as before", || ground.snapshot() == before);
}
