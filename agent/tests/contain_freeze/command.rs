//! Commands of the controller: each phase once, and none that is late, foreign or ambiguous.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use hemostat_agent::contain::Which;
use model::{
    ActionFailure, ActionId, CommandKey, Effect, NodeCommand, NodeId, Phase, PhaseDone, RollbackState,
    Timestamp,
};

use crate::{
    SUBTREE, command,
    ground::{Ground, now, open, process},
};

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

/// The agent dies after the effect and before its answer; the same command comes again, late.
#[test]
fn i7_what_was_done_before_a_crash_is_not_called_expired_after_it() {
    let Some(ground) = Ground::new("late answer") else { return };
    let pid = ground.shell("while :; do :; done");
    let before = ground.snapshot();
    let mut config = ground.config();
    let journal = config.state_dir.join("journal");
    config.on_step = Some(Arc::new(move |step| {
        let done = fs::read_to_string(&journal).unwrap_or_default().contains("\"line\":\"applied\"");
        assert!(step != "journal" || !done, "the agent dies here");
    }));
    let target = process(pid);
    let apply = || Phase::Apply { rollback: RollbackState::Nothing };
    let died = catch_unwind(AssertUnwindSafe(|| {
        let contain = open(&config);
        contain.handle(&command(&SUBTREE, &target, Phase::Capture, "k"), now()).result.unwrap();
        contain.handle(&command(&SUBTREE, &target, apply(), "k"), now())
    }));
    assert!(died.is_err(), "{died:?}");
    config.on_step = None;
    let contain = open(&config);
    contain.recover(now());
    assert_ne!(ground.snapshot(), before, "it is in force");
    let late = NodeCommand { deadline: Timestamp(0), ..command(&SUBTREE, &target, apply(), "k") };
    let again = contain.handle(&late, now());
    assert!(matches!(again.result, Ok(PhaseDone::Applied { .. })), "{again:?}");
    // And one that was not done is late.
    let other = NodeCommand { deadline: Timestamp(0), ..command(&SUBTREE, &target, apply(), "other") };
    assert_eq!(contain.handle(&other, now()).result, Err(ActionFailure::Expired));
    contain.release(&Which::All);
    assert_eq!(ground.snapshot(), before);
}
