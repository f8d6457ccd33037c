//! What comes before what: nothing is changed before what restores it stands in the journal (I4), looked at from outside at every step
//! that an action makes.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use ground::{Ground, Snapshot, now, open, process, wait_for};
use hemostat_agent::contain::{StepHook, Which};
use model::{ActionState, FreezeScope, NodeAction, PhaseDone, Target};

/// Actions of the journal on the disk that have their rollback state there.
fn restorable(journal: &Path) -> usize {
    let text = fs::read_to_string(journal).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains("\"line\":\"put\"") && !line.contains("\"rollback\":null"))
        .count()
}

/// Does `action`; gives how often the world was looked at, and of these how often it had changed already.
fn watched(ground: Ground, action: &NodeAction, target: &Target) -> Option<(usize, usize)> {
    let ground = Arc::new(ground);
    let before = ground.snapshot();
    let mut config = ground.config();
    let journal = config.state_dir.join("journal");
    // how often it was looked at, how often it had changed, what was wrong: a panic in there would be one of the agent's
    let seen: Arc<Mutex<(usize, usize, Vec<String>)>> = Arc::default();
    let hook: StepHook = {
        let (ground, seen, before) = (Arc::clone(&ground), Arc::clone(&seen), before.clone());
        Arc::new(move |step| {
            let changed = differs(&before, &ground.snapshot());
            let mut seen = seen.lock().unwrap();
            seen.0 += 1;
            seen.1 += usize::from(changed);
            if changed && restorable(&journal) == 0 {
                seen.2.push(format!("something had changed at `{step}` and could not have been restored"));
            }
        })
    };
    config.on_step = Some(hook);
    let contain = open(&config);
    let record = match contain.react(action.clone(), target.clone(), now()) {
        Ok(record) => record,
        Err(failure) => {
            println!("SKIPPED: {action:?} cannot be done here: {failure}");
            return None;
        }
    };
    assert_eq!(record.state, ActionState::Applied);
    // on a busy machine one that is asked to stop comes to it when it is given the CPU
    wait_for("an effect that can be seen", || differs(&before, &ground.snapshot()));
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))), "{lifted:?}");
    assert_eq!(ground.snapshot(), before);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.2, Vec::<String>::new());
    Some((seen.0, seen.1))
}

/// A process may have begun or ended another in the meantime; what counts is where those of before are and how they stand.
fn differs(before: &Snapshot, after: &Snapshot) -> bool {
    before.cgroups != after.cgroups
        || before.processes.iter().any(|(pid, was)| after.processes.get(pid) != Some(was))
}

#[test]
fn i4_before_a_tree_is_frozen_what_restores_it_is_written_down() {
    let Some(ground) = Ground::new("i4 freeze") else { return };
    let pid = ground.shell("sleep 1000 & while :; do :; done");
    ground.await_members(2);
    let Some(looks) = watched(ground, &NodeAction::Freeze(FreezeScope::Subtree), &process(pid)) else {
        return;
    };
    assert!(looks.0 > looks.1 && looks.1 > 0, "it was looked at before and after: {looks:?}");
}

#[test]
fn i4_before_a_cgroup_is_frozen_what_restores_it_is_written_down() {
    let Some(ground) = Ground::new("i4 freeze cgroup") else { return };
    ground.shell("while :; do :; done");
    let target = ground.target();
    let Some(looks) = watched(ground, &NodeAction::Freeze(FreezeScope::Cgroup), &target) else { return };
    assert!(looks.0 > 0, "it was looked at: {looks:?}");
}

#[test]
fn i4_before_a_process_is_stopped_what_restores_it_is_written_down() {
    let Some(ground) = Ground::new("i4 stop") else { return };
    let pid = ground.shell("while :; do :; done");
    let Some(looks) = watched(ground, &NodeAction::Stop, &process(pid)) else { return };
    assert!(looks.0 > 0, "it was looked at: {looks:?}");
}
