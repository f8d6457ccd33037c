//! Undo.

use model::{ActionState, OnDrift, Phase, RunState};

use super::{super::*, sim::*};

const CONTAIN: &str = r#"
    - {name: freeze, action: node.freeze}
    - {name: cut, action: node.net-quarantine, needs: [freeze]}
    - {name: keep, action: node.capture-evidence, needs: [cut]}
    - {name: file, action: node.quarantine-file, needs: [keep]}
"#;

fn undo(world: &mut World, scope: RollbackScope) {
    let on_drift = OnDrift::Ask;
    world.tell(Input::Rollback { scope, by: actor(), because: "a false positive".into(), on_drift });
    world.play();
}

fn reverts(world: &World) -> Vec<&'static str> {
    let undone = world.node.commands.iter().filter(|c| matches!(c.phase, Phase::Revert { .. }));
    undone.map(|c| c.action.name()).collect()
}

#[test]
fn a_run_is_undone_in_reverse_order_and_exactly() {
    let mut world = World::of(CONTAIN);
    world.play();
    assert_eq!(world.node.in_force.len(), 3);
    undo(&mut world, RollbackScope::Run);
    assert_eq!(world.run().state(), RunState::RolledBack);
    assert_eq!(reverts(&world), ["node.quarantine-file", "node.net-quarantine", "node.freeze"]);
    assert!(world.node.in_force.is_empty());
    assert!(world.run().may_roll_back(&RollbackScope::Run).is_err(), "nothing is left");
}

#[test]
fn one_action_is_undone_and_the_others_stay() {
    let mut world = World::of(CONTAIN);
    world.play();
    let cut = world.run().records()[1].id.clone();
    undo(&mut world, RollbackScope::Action(cut.clone()));
    assert_eq!(reverts(&world), ["node.net-quarantine"]);
    assert_eq!(world.node.in_force.len(), 2);
    assert_eq!(world.run().state(), RunState::Succeeded);
    assert!(matches!(world.run().may_roll_back(&RollbackScope::Action(cut)), Err(Refusal::NothingToUndo(_))));
    undo(&mut world, RollbackScope::Run);
    assert_eq!(world.run().state(), RunState::RolledBack);
}

#[test]
fn drift_blocks_one_undo_and_not_the_others() {
    let mut world = World::of(CONTAIN);
    world.faults.insert("cut", Fault::Drift);
    world.play();
    undo(&mut world, RollbackScope::Run);
    assert_eq!(world.run().state(), RunState::Failed);
    let blocked = &world.run().records()[1];
    assert_eq!(blocked.state, ActionState::RevertBlocked);
    assert!(blocked.detail.contains("was a, ours b, now c"));
    assert_eq!(world.node.in_force.len(), 1);
    assert!(world.notices.iter().any(|notice| notice.contains("is not undone")));
    world.faults.clear();
    undo(&mut world, RollbackScope::Run);
    assert_eq!(world.run().state(), RunState::RolledBack, "asked for again, it is tried again");
}

#[test]
fn drift_is_overwritten_only_where_a_person_says_so_and_only_that_time() {
    let mut world = World::of(CONTAIN);
    world.faults.insert("cut", Fault::Drift);
    world.play();
    undo(&mut world, RollbackScope::Run);
    assert_eq!(world.run().records()[1].state, ActionState::RevertBlocked);
    let (scope, on_drift) = (RollbackScope::Action(world.run().records()[1].id.clone()), OnDrift::Overwrite);
    world.tell(Input::Rollback { scope, by: actor(), because: "theirs is wrong".into(), on_drift });
    world.play();
    assert_eq!(world.run().records()[1].state, ActionState::Reverted);
    assert!(world.audit.iter().any(|fact| fact.what.contains("overwritten")));
    let asked = |c: &&model::NodeCommand| matches!(c.phase, Phase::Revert { on_drift: OnDrift::Ask, .. });
    let undone = world.node.commands.iter().filter(|c| matches!(c.phase, Phase::Revert { .. }));
    assert_eq!((undone.clone().filter(asked).count(), undone.count()), (4 - 1, 4), "{:?}", reverts(&world));
}

#[test]
fn an_undo_that_fails_is_tried_again() {
    let mut world = World::of(CONTAIN);
    world.faults.insert("file", Fault::UndoTwice);
    world.play();
    undo(&mut world, RollbackScope::Run);
    assert_eq!(world.run().state(), RunState::RolledBack);
    assert_eq!(reverts(&world).iter().filter(|name| **name == "node.quarantine-file").count(), 3);
}

#[test]
fn what_was_not_seen_is_still_undone() {
    let mut world = World::of("    - {name: cut, action: node.net-quarantine, verify: {policy: Observe}}\n");
    world.faults.insert("cut", Fault::Nothing);
    world.play();
    assert_eq!(world.run().records()[0].state, ActionState::Unverified);
    assert_eq!(world.run().state(), RunState::Succeeded);
    undo(&mut world, RollbackScope::Run);
    assert_eq!(reverts(&world), ["node.net-quarantine"]);
    assert_eq!(world.run().state(), RunState::RolledBack);
}

#[test]
fn i5_what_cannot_be_undone_is_named_and_left() {
    let mut world = World::of(
        r#"
    - {name: freeze, action: node.freeze}
    - {name: keep, action: node.capture-evidence, needs: [freeze]}
    - {name: kill, action: node.kill, needs: [keep], approval: Required}
"#,
    );
    world.play();
    let kill = world.run().records()[2].id.clone();
    let refusal = world.run().may_roll_back(&RollbackScope::Action(kill)).unwrap_err();
    assert!(refusal.to_string().contains("the processes are gone"), "{refusal}");
    undo(&mut world, RollbackScope::Run);
    assert_eq!(reverts(&world), ["node.freeze"]);
    assert!(
        world.notices.iter().any(|notice| notice.contains("the processes are gone")),
        "{:?}",
        world.notices
    );
}

#[test]
fn what_the_node_did_by_itself_is_undone_with_the_incident_and_not_with_a_failure() {
    let mut world = World::of(CONTAIN);
    world.play();
    let mut record = world.run().records()[0].clone();
    record.id = model::ActionId::new("own-freeze");
    (record.step, record.run) = (None, None);
    let failing = CONTAIN.replace("needs: [keep]}", "needs: [keep], onFailure: Rollback}");
    let mut begun = start(spec(&failing), GateOutcome::Automatic);
    begun.reactions = vec![record];
    let mut world = World::new(begun);
    world.faults.insert("file", Fault::Capture);
    world.play();
    assert_eq!(world.run().state(), RunState::RolledBack);
    let own = |world: &World| world.run().records()[0].state;
    assert_eq!(own(&world), ActionState::Verified, "the attacker is not let go because a step failed");
}

#[test]
fn a_release_on_the_node_counts_as_undone() {
    let mut world = World::of(CONTAIN);
    world.play();
    let freeze = world.run().records()[0].id.clone();
    world.tell(Input::Released { action: freeze, by: actor() });
    world.play();
    assert_eq!(world.run().records()[0].state, ActionState::Reverted);
    undo(&mut world, RollbackScope::Run);
    assert_eq!(reverts(&world), ["node.quarantine-file", "node.net-quarantine"]);
}

#[test]
fn a_rollback_in_the_middle_stops_what_has_not_begun() {
    let mut world = World::of(CONTAIN);
    let (scope, on_drift) = (RollbackScope::Run, OnDrift::Ask);
    world.tell(Input::Rollback { scope, by: actor(), because: "no".into(), on_drift });
    world.play();
    assert_eq!(world.run().state(), RunState::RolledBack);
    assert!(world.node.in_force.is_empty());
    assert!(world.run().records().len() < 4);
}
