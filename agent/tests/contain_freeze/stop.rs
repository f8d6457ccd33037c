//! Stops by signal: adopted, taken late, and undone for ours alone.

use std::{fs, process::Command};

use hemostat_agent::contain::Which;
use model::{ActionState, Effect, Frozen, NodeAction, NodeCommand, Phase, PhaseDone, RollbackState};

use rustix::process::Signal;

use crate::{
    SUBTREE, command,
    ground::{Ground, cgroup_of, key, lives, now, process, state_of, wait_for},
    signal,
};

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
    for pid in [ours, theirs] {
        signal(pid, Signal::STOP);
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
    signal(ours, Signal::CONT);
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
fn i4_who_is_continued_while_somebody_elses_freeze_holds_it_is_stopped_again() {
    let Some(ground) = Ground::new("continued in a frozen cgroup") else { return };
    let (frozen, _) = ground.sub("frozen");
    for (was_stopped, name) in [(false, "a"), (true, "b")] {
        let pid = ground.shell("while :; do :; done");
        if was_stopped {
            signal(pid, Signal::STOP);
            wait_for("the stop", || state_of(pid) == Some('T'));
        }
        fs::write(frozen.join("cgroup.procs"), pid.to_string()).unwrap();
        fs::write(frozen.join("cgroup.freeze"), "1").unwrap();
        wait_for("the freeze", || {
            fs::read_to_string(frozen.join("cgroup.events")).unwrap().contains("frozen 1")
        });
        let contain = ground.contain();
        let apply =
            |phase, name| contain.handle(&command(&NodeAction::Stop, &process(pid), phase, name), now());
        let captured = apply(Phase::Capture, name).result.unwrap();
        let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
        apply(Phase::Apply { rollback }, name).result.unwrap();
        assert_eq!(contain.watch(now()), []);

        // An accomplice: only its cgroup holds it now, and he may thaw that, too.
        signal(pid, Signal::CONT);
        assert!(!contain.watch(now()).is_empty(), "it is seen to be continued");
        assert_eq!(contain.watch(now()), []);
        fs::write(frozen.join("cgroup.freeze"), "0").unwrap();
        wait_for("the stop to hold it", || state_of(pid) == Some('T'));

        contain.release(&Which::All);
        if was_stopped {
            assert_eq!(state_of(pid), Some('T'), "as it was found");
        } else {
            wait_for("it to go on", || state_of(pid) == Some('R'));
        }
        signal(pid, Signal::KILL);
        wait_for("the end", || !lives(pid));
    }
}
