//! A revert of an action that this node does not know brings its rollback state with it. Only what a capture of that very action could have
//! given is carried out: anything else would let whoever speaks for the controller move, continue and thaw whom he likes.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{fs, process::Command};

use ground::{Ground, cgroup_of, key, now, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, Which};
use model::{
    ActionFailure, ActionId, CommandKey, FreezeScope, Frozen, IncidentId, MovedProcess, NodeAction,
    NodeCommand, NodeId, OnDrift, Phase, PhaseDone, RollbackState, StoppedProcess, Target, Timestamp,
};
use rustix::process::Signal;

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

fn command(action: &NodeAction, target: &Target, phase: Phase, id: &str) -> NodeCommand {
    NodeCommand {
        key: CommandKey::new(format!("key-{id}")),
        action_id: ActionId::new(id),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: action.clone(),
        target: target.clone(),
        phase,
    }
}

fn revert(
    contain: &Contain,
    action: &NodeAction,
    target: &Target,
    rollback: RollbackState,
    id: &str,
) -> Result<PhaseDone, ActionFailure> {
    let phase = Phase::Revert { rollback, on_drift: OnDrift::Ask };
    contain.handle(&command(action, target, phase, id), now()).result
}

fn captured(contain: &Contain, action: &NodeAction, target: &Target, id: &str) -> RollbackState {
    let done = contain.handle(&command(action, target, Phase::Capture, id), now()).result.unwrap();
    let PhaseDone::Captured { rollback } = done else { panic!("{done:?}") };
    rollback
}

fn stop(pid: u32) {
    let number = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(number, Signal::STOP).unwrap();
    wait_for("the stop", || state_of(pid) == Some('T'));
}

fn stopped(pid: u32) -> StoppedProcess {
    StoppedProcess { process: key(pid), was_stopped: Frozen::No }
}

/// The journal is lost; what the controller was given at the capture undoes what stands, exactly.
#[test]
fn i5_what_a_capture_gave_undoes_it_after_the_journal_is_lost() {
    for action in [SUBTREE, CGROUP, NodeAction::Stop] {
        let Some(ground) = Ground::new("lost journal") else { return };
        let pid = ground.shell("sleep 1000 & wait");
        ground.await_members(2);
        wait_for("both to rest", || ground.members().iter().all(|pid| state_of(*pid) == Some('S')));
        let before = ground.snapshot();
        let contain = ground.contain();
        let target = if action == CGROUP { ground.target() } else { process(pid) };
        let rollback = captured(&contain, &action, &target, "act-lost");
        let apply = Phase::Apply { rollback: rollback.clone() };
        contain.handle(&command(&action, &target, apply, "act-lost"), now()).result.unwrap();
        drop(contain);
        fs::remove_file(ground.dir.path().join("state/journal")).unwrap();
        let contain = ground.contain();
        let done = revert(&contain, &action, &target, rollback, "act-lost");
        assert!(matches!(done, Ok(PhaseDone::Reverted { .. })), "{action:?}: {done:?}");
        wait_for("all to be as before", || ground.snapshot() == before);
        assert!(contain.in_force().is_empty());
    }
}

/// What the node told of its own reaction names whom it moved and stopped, too: that undoes it as well.
#[test]
fn i5_what_a_reaction_told_undoes_it_after_the_journal_is_lost() {
    for without_jails in [false, true] {
        let Some(ground) = Ground::new("lost reaction") else { return };
        let pid = ground.shell("sleep 1000 & sleep 1000 & wait");
        ground.await_members(3);
        wait_for("all to rest", || ground.members().iter().all(|pid| state_of(*pid) == Some('S')));
        if without_jails {
            fs::write(ground.cgroup.join("cgroup.max.descendants"), "0").unwrap();
        }
        let before = ground.snapshot();
        let contain = ground.contain();
        let told = contain.react(SUBTREE, process(pid), now()).unwrap();
        let rollback = told.rollback.unwrap();
        let RollbackState::Freeze { members, stopped, .. } = &rollback else { panic!("{rollback:?}") };
        assert_eq!(members.len().max(stopped.len()), 3, "{rollback:?}");
        drop(contain);
        fs::remove_file(ground.dir.path().join("state/journal")).unwrap();
        let contain = ground.contain();
        let done = revert(&contain, &SUBTREE, &process(pid), rollback, told.id.as_str());
        assert!(matches!(done, Ok(PhaseDone::Reverted { .. })), "{without_jails}: {done:?}");
        wait_for("all to be as before", || ground.snapshot() == before);
        assert!(contain.in_force().is_empty());
    }
}

/// A cgroup has one text. By another, what is protected would not be known for it.
#[test]
fn i6_another_text_for_the_same_cgroup_names_nothing() {
    let Some(ground) = Ground::new("other text") else { return };
    let pid = ground.shell("exec sleep 1000");
    wait_for("it to rest", || state_of(pid) == Some('S'));
    let Target::Cgroup { id, path } = ground.target() else { panic!() };
    let (above, name) = path.rsplit_once('/').unwrap();
    let private: String =
        name.bytes().map(|byte| char::from_u32(0x10_FE00 + u32::from(byte)).unwrap()).collect();
    let contain = ground.contain();
    for other in [format!("{above}/{private}"), format!("{path}/../{name}"), format!("{above}/./{name}")] {
        let target = Target::Cgroup { id, path: other.clone() };
        let refused = contain.handle(&command(&CGROUP, &target, Phase::Capture, "act-text"), now()).result;
        assert!(refused.is_err(), "{other}: {refused:?}");
    }
    captured(&contain, &CGROUP, &ground.target(), "act-plain");
}

/// Everything that a capture of this action on this target could not have given is refused, and nothing is touched.
#[test]
fn i9_a_state_that_no_capture_could_have_given_is_refused() {
    let Some(ground) = Ground::new("foreign state") else { return };
    let victim = ground.shell("exec sleep 1000");
    let (other, other_path) = ground.sub("other");
    let stranger = ground.start_in(&other, Command::new("sleep").arg("1000"));
    wait_for("both to rest", || [victim, stranger].iter().all(|pid| state_of(*pid) == Some('S')));
    stop(stranger);
    fs::write(other.join("cgroup.freeze"), "1").unwrap();
    // one of ours, held for another action
    let contain = ground.contain();
    let held = ground.shell("exec sleep 1000");
    wait_for("it to rest", || state_of(held) == Some('S'));
    let kept = contain.react(SUBTREE, process(held), now()).unwrap();
    let Some(RollbackState::Freeze { jail: Some(jail_of_another), .. }) = kept.rollback.clone() else {
        panic!()
    };
    let RollbackState::Freeze { jail: Some(jail), .. } =
        captured(&contain, &SUBTREE, &process(victim), "act-shape")
    else {
        panic!()
    };
    contain.release(&Which::One(ActionId::new("act-shape")));
    let before = ground.snapshot();
    let freeze =
        |jail: Option<&str>, who: u32, from: &str, stopped: Vec<StoppedProcess>| RollbackState::Freeze {
            jail: jail.map(str::to_owned),
            members: vec![MovedProcess { process: key(who), from: from.to_owned() }],
            was_frozen: Frozen::No,
            in_place: None,
            in_place_id: None,
            stopped,
        };
    let in_place = |path: &str, was_frozen| RollbackState::Freeze {
        jail: None,
        members: Vec::new(),
        was_frozen,
        in_place: Some(path.to_owned()),
        in_place_id: None,
        stopped: Vec::new(),
    };
    let home = ground.path.as_str();
    let one = process(victim);
    let cases = [
        (
            "a stranger is continued",
            NodeAction::Stop,
            one.clone(),
            RollbackState::Stop { processes: vec![stopped(victim), stopped(stranger)] },
        ),
        ("the state of another action", NodeAction::Stop, one.clone(), freeze(None, victim, home, vec![])),
        ("a stranger's cgroup is thawed", CGROUP, ground.target(), in_place(&other_path, Frozen::No)),
        ("a cgroup is frozen by an undo", SUBTREE, one.clone(), in_place(home, Frozen::Yes)),
        ("another's jail", SUBTREE, one.clone(), freeze(Some(&jail_of_another), victim, home, vec![])),
        ("a cgroup that is no jail", SUBTREE, one.clone(), freeze(Some(&other_path), victim, home, vec![])),
        ("another process", SUBTREE, one.clone(), freeze(Some(&jail), stranger, home, vec![])),
        ("it goes elsewhere than where its jail is", SUBTREE, one, freeze(Some(&jail), victim, "/", vec![])),
    ];
    for (n, (context, action, target, rollback)) in cases.into_iter().enumerate() {
        // an agent beside, whose journal knows nothing
        let mut config = ground.config();
        config.state_dir = ground.dir.path().join(format!("state-{n}"));
        let fresh = ground::open(&config);
        let done = revert(&fresh, &action, &target, rollback, "act-shape");
        assert!(done.is_err(), "{context}: {done:?}");
        assert_eq!(ground.snapshot(), before, "{context}");
        assert!(fresh.in_force().is_empty(), "{context}");
    }
    // whom else the state names is left alone unless this action holds him
    let mut strangers = freeze(Some(&jail), victim, home, vec![stopped(victim), stopped(stranger)]);
    if let RollbackState::Freeze { members, .. } = &mut strangers {
        members.push(MovedProcess { process: key(stranger), from: home.to_owned() });
    }
    let mut config = ground.config();
    config.state_dir = ground.dir.path().join("state-strangers");
    let fresh = ground::open(&config);
    let done = revert(&fresh, &SUBTREE, &process(victim), strangers, "act-shape");
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(ground.snapshot(), before, "strangers");
    fs::write(other.join("cgroup.freeze"), "0").unwrap();
    contain.release(&Which::All);
    assert_eq!(cgroup_of(held).unwrap(), ground.path);
}

/// A file that stands where it stood gets no owner, mode or attribute on a controller's word alone.
#[test]
fn i9_a_file_that_is_not_in_the_store_is_not_changed() {
    let Some(ground) = Ground::new("foreign file") else { return };
    let contain = ground.contain();
    let path = ground.dir.path().join("tool");
    let wanted = ground::file::Wanted {
        content: b"x".to_vec(),
        mode: 0o755,
        owner: (0, 0),
        times: ((1, 2), (3, 4)),
        xattrs: vec![],
    };
    ground::file::make(&path, &wanted);
    let target = ground::file::target(&path);
    let mut state = captured(&contain, &NodeAction::QuarantineFile, &target, "act-file");
    if let RollbackState::File(state) = &mut state {
        state.mode |= 0o6000;
    }
    drop(contain);
    fs::remove_file(ground.dir.path().join("state/journal")).unwrap();
    let contain = ground.contain();
    let before = ground::file::Whole::read(&path);
    let done = revert(&contain, &NodeAction::QuarantineFile, &target, state, "act-file");
    assert_eq!(ground::file::Whole::read(&path), before, "{done:?}");
}

/// Its rollback state is here: the node's own word counts, whatever comes with the command.
#[test]
fn i5_the_nodes_own_journal_comes_first() {
    let Some(ground) = Ground::new("own journal first") else { return };
    let pid = ground.shell("exec sleep 1000");
    let (other, other_path) = ground.sub("other");
    let stranger = ground.start_in(&other, Command::new("sleep").arg("1000"));
    wait_for("both to rest", || [pid, stranger].iter().all(|pid| state_of(*pid) == Some('S')));
    fs::write(other.join("cgroup.freeze"), "1").unwrap();
    let before = ground.snapshot();
    let contain = ground.contain();
    let rollback = captured(&contain, &CGROUP, &process(pid), "act-own");
    let apply = Phase::Apply { rollback };
    // the sub-cgroup is frozen with it, and stays so by its own wish
    contain.handle(&command(&CGROUP, &process(pid), apply, "act-own"), now()).result.unwrap();
    let theirs = RollbackState::Freeze {
        jail: None,
        members: Vec::new(),
        was_frozen: Frozen::No,
        in_place: Some(other_path),
        in_place_id: None,
        stopped: Vec::new(),
    };
    let done = revert(&contain, &CGROUP, &process(pid), theirs, "act-own");
    assert!(matches!(done, Ok(PhaseDone::Reverted { .. })), "{done:?}");
    assert_eq!(ground.snapshot(), before);
    fs::write(other.join("cgroup.freeze"), "0").unwrap();
}

/// A freeze that an agent of before recorded bears no id of its cgroup: it hands over to a later one all the same.
#[test]
fn i5_a_freeze_recorded_before_cgroups_had_ids_hands_over_to_a_later_one() {
    let Some(ground) = Ground::new("older record") else { return };
    let pid = ground.shell("exec sleep 1000");
    wait_for("it to rest", || state_of(pid) == Some('S'));
    let before = ground.snapshot();
    let contain = ground.contain();
    let target = ground.target();
    let apply = |contain: &Contain, id: &str| {
        let phase = Phase::Apply { rollback: captured(contain, &CGROUP, &target, id) };
        contain.handle(&command(&CGROUP, &target, phase, id), now()).result.unwrap();
    };
    apply(&contain, "act-older");
    let Target::Cgroup { id, .. } = target else { panic!() };
    drop(contain);
    let journal = ground.dir.path().join("state/journal");
    let text = fs::read_to_string(&journal).unwrap().replace(&format!(",\"in_place_id\":{}", id.0), "");
    assert!(!text.contains("in_place_id"), "{text}");
    let signed = text.lines().map(|line| {
        let json = line.split_once(' ').unwrap().1;
        format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
    });
    fs::write(&journal, signed.collect::<String>()).unwrap();
    let contain = ground.contain();
    apply(&contain, "act-later");
    let undo = |id| revert(&contain, &CGROUP, &target, RollbackState::Nothing, id).unwrap();
    undo("act-older");
    let is_frozen = || fs::read_to_string(ground.cgroup.join("cgroup.freeze")).unwrap().trim() == "1";
    assert!(is_frozen(), "the later one is in force");
    undo("act-later");
    assert!(!is_frozen());
    wait_for("all to be as before", || ground.snapshot() == before);
}
