//! Whoever goes into a cgroup that no path reaches stays whose it was: its pod is told by the cgroups around, and the cgroup by its id.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{fs, path::PathBuf, process::Command};

use ground::{Ground, cgroup_of, lives, nest::Nest, now, open, process, state_of, wait_for};
use hemostat_agent::{
    contain::{Contain, Guard, Which},
    workload::{WorkloadSource, Workloads},
};
use model::{
    ActionFailure, ActionId, ActionState, CgroupId, CommandKey, Effect, FreezeScope, IncidentId, KillScope,
    NetQuarantine, NodeAction, NodeCommand, NodeGuard, NodeId, Phase, PhaseDone, Pid, PodGuard,
    RollbackState, Target, Timestamp,
};

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);
const POD: &str = "6b1f0c3a-9d2e-4f7b-8a1c-2e3f4a5b6c7d";
const CONTAINER: &str = "3f4a0c7e9d2b1f6a8c5e7d9b0a1c2e3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b8c9d";

/// A container of a pod, with cgroups in it that are nested too deep.
fn in_a_pod(ground: &Ground) -> (PathBuf, Nest) {
    let pod = format!("pod{POD}");
    let kubelets = [b"kubepods".to_vec(), pod.clone().into_bytes(), CONTAINER.as_bytes().to_vec()];
    let nest = Nest::new(ground, kubelets.into_iter().chain((0..20).map(|_| vec![b'd'; 250])));
    (ground.cgroup.join("kubepods").join(pod).join(CONTAINER), nest)
}

/// The deepest cgroup as the agent's findings tell it, and the controller's commands after them.
fn told(nest: &Nest) -> Target {
    let id = CgroupId(rustix::fs::fstat(nest.deepest()).unwrap().st_ino);
    let workload = Workloads::open().unwrap().resolve(id, Pid(u32::MAX));
    Target::Cgroup { id, path: workload.cgroup_path().unwrap().to_owned() }
}

/// `None`, said aloud, where the kernel does not tell the cgroup of a process by its id.
fn needs_ids(ground: &Ground) -> Option<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).filter_map(|number| number.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    if version < (6, 13) {
        println!("SKIPPED: {}: Linux {version:?} does not tell the id of a process's cgroup", ground.path);
        return None;
    }
    Some(())
}

fn command(name: &str, action: NodeAction, target: Target, phase: Phase) -> NodeCommand {
    NodeCommand {
        key: CommandKey::new(format!("key-{name}")),
        action_id: ActionId::new(format!("act-{name}")),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action,
        target,
        phase,
    }
}

fn lift(contain: &Contain) {
    let lifted = contain.release(&Which::All);
    assert!(lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))), "{lifted:?}");
    assert!(contain.in_force().is_empty());
}

/// In a cluster a node's own reaction holds a process that went too deep like any other of its pod, and leaves alone that of a pod which it must
/// leave alone or does not know.
#[test]
fn i9_a_process_that_goes_too_deep_stays_its_pods() {
    let Some(ground) = Ground::new("deep in a pod") else { return };
    let Some(()) = needs_ids(&ground) else { return };
    let (container, nest) = in_a_pod(&ground);
    let root = ground.start_in(&container, Command::new("sh").args(["-c", "sleep 1000 & sleep 1000 & wait"]));
    wait_for("its children", || ground.members().len() == 3);
    let pids = ground.members();
    let child = *pids.iter().find(|pid| **pid != root).unwrap();
    nest.take(child);
    wait_for("all to rest", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
    let guard = Guard::load(ground.dir.path().join("pods.json"));
    let mut config = ground.config();
    config.guard = Some(guard.clone());
    let contain = open(&config);
    let say = |said: PodGuard| {
        guard.take(NodeGuard {
            generation: 1,
            pods: [(POD.to_owned(), said)].into(),
            ..NodeGuard::default()
        });
    };
    guard.take(NodeGuard::default());
    let unknown = contain.react(SUBTREE, process(child), now());
    assert!(matches!(unknown, Err(ActionFailure::Unattributed { .. })), "{unknown:?}");
    say(PodGuard::Never { because: "it is kept".into() });
    let kept = contain.react(SUBTREE, process(child), now());
    assert!(matches!(kept, Err(ActionFailure::Protected { .. })), "{kept:?}");
    say(PodGuard::Free);
    for target in [root, child] {
        let record = contain.react(SUBTREE, process(target), now()).unwrap();
        assert_eq!((record.state, record.detail.as_str()), (ActionState::Applied, ""), "nobody is left out");
        wait_for("its stop", || state_of(child) == Some('T'));
        assert!(target == child || cgroup_of(root).unwrap().contains("/hemostat-jail-"));
        assert_eq!(contain.watch(now()), []);
        lift(&contain);
        wait_for("all to go on", || pids.iter().all(|pid| state_of(*pid) == Some('S')));
        assert!(nest.has(child));
    }
}

/// Whom a freeze leaves out is not called frozen with the rest.
#[test]
fn i6_a_tree_of_which_one_is_left_out_is_not_called_frozen() {
    let Some(ground) = Ground::new("left out") else { return };
    let tool = ground.dir.path().join("tool");
    fs::copy(fs::canonicalize("/bin/sleep").unwrap(), &tool).unwrap();
    let root = ground.shell(&format!("{} 1000 & wait", tool.display()));
    let is_tool = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == tool);
    wait_for("its child", || ground.members().into_iter().any(is_tool));
    for with_child in [true, false] {
        let mut config = ground.config();
        if !with_child {
            config.protected.executables.push(tool.clone());
        }
        let contain = open(&config);
        let command = |phase| command(&format!("{with_child}"), SUBTREE, process(root), phase);
        let captured = contain.handle(&command(Phase::Capture), now()).result.unwrap();
        let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
        let applied = contain.handle(&command(Phase::Apply { rollback }), now()).result.unwrap();
        let PhaseDone::Applied { outputs } = applied else { panic!("{applied:?}") };
        assert_eq!(outputs.get("frozen"), Some(&serde_json::json!(with_child)), "{outputs:?}");
        assert_eq!(outputs.contains_key("spared"), !with_child, "{outputs:?}");
        lift(&contain);
    }
}

/// What a finding tells of such a cgroup (its id, and the path of the nearest around it) is enough to cut it off, to freeze it and to kill it,
/// and touches nobody around.
#[test]
fn i9_a_cgroup_that_is_too_deep_is_contained_by_its_id() {
    let Some(ground) = Ground::new("deep by id").and_then(Ground::with_bpffs) else { return };
    let (container, nest) = in_a_pod(&ground);
    let around = ground.start_in(&container, Command::new("sleep").arg("1000"));
    let deep = ground.shell("while :; do :; done");
    nest.take(deep);
    let target = told(&nest);
    let Target::Cgroup { id, path } = &target else { panic!("{target:?}") };
    let contain = ground.contain();
    let quarantine = NodeAction::NetQuarantine(NetQuarantine { allow: Vec::new() });
    for action in [quarantine, CGROUP] {
        let record = contain.react(action.clone(), target.clone(), now()).unwrap();
        assert_eq!(record.state, ActionState::Applied, "{action:?}");
        assert_eq!(contain.watch(now()), [], "{action:?}");
        let flags = rustix::fs::OFlags::RDONLY;
        let mode = rustix::fs::Mode::empty();
        let wish = rustix::fs::openat(nest.deepest(), "cgroup.freeze", flags, mode).unwrap();
        let wish = std::io::read_to_string(fs::File::from(wish)).unwrap();
        assert_eq!(wish.trim() == "1", action == CGROUP);
        lift(&contain);
        assert!(nest.has(deep), "{action:?}");
    }
    // another cgroup's id with that path is no such cgroup
    let (other, _) = ground.sub("other");
    let Target::Cgroup { id: of_other, .. } = ground::cgroup_target(&other, "/") else { return };
    assert_ne!(*id, of_other);
    let refused = contain.react(CGROUP, Target::Cgroup { id: of_other, path: path.clone() }, now());
    assert!(matches!(refused, Err(ActionFailure::TargetChanged { .. })), "{refused:?}");
    let kill = |phase| command("kill", NodeAction::Kill(KillScope::Process), target.clone(), phase);
    let none = || RollbackState::Nothing;
    contain.handle(&kill(Phase::Capture), now()).result.unwrap();
    contain.handle(&kill(Phase::Apply { rollback: none() }), now()).result.unwrap();
    wait_for("its end", || !lives(deep));
    let seen = contain.handle(&kill(Phase::Verify { rollback: none() }), now()).result.unwrap();
    assert_eq!(seen, PhaseDone::Verified { effect: Effect::InForce }, "the others around do not count");
    assert!(lives(around));
}
