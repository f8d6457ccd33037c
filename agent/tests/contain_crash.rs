//! I7: the agent is killed before every single step of every action, applying and undoing; the next start comes to the same end or to
//! nothing in force, and the undo still gives back what was.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ground::{Ground, Snapshot, file::Whole, lives, now, process, state_of, wait_for};
use hemostat_agent::contain::{Contain, ContainConfig, Which};
use model::{
    ActionFailure, ActionId, ActionState, BlockDestination, CaptureEvidence, CommandKey, CommandOutcome,
    Effect, FreezeScope, IncidentId, KillScope, MemoryCapture, NetQuarantine, NodeAction, NodeCommand,
    NodeId, Phase, PhaseDone, RollbackState, Target, Timestamp, UndoClass,
};
use serde::{Deserialize, Serialize};

/// What the agent that is to die is told.
#[derive(Serialize, Deserialize)]
struct Errand {
    state_dir: PathBuf,
    bpffs: PathBuf,
    action: NodeAction,
    target: Target,
    part: Part,
    /// Dies before this step.
    at: u32,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Capture and apply for the controller.
    Apply,
    /// Apply on the node's own authority.
    React,
    /// Lift what is in force.
    Release,
    /// Recover from the death of another.
    Recover,
}

/// A place with the action's target in it.
struct Scenery {
    ground: Ground,
    target: Target,
    pids: Vec<u32>,
    file: Option<PathBuf>,
    _elsewhere: Option<tempfile::TempDir>,
}

/// All that an undo must give back.
#[derive(Debug, PartialEq)]
struct Before {
    place: Snapshot,
    file: Option<Whole>,
    pins: usize,
}

impl Scenery {
    fn before(&self) -> Before {
        Before {
            place: self.ground.snapshot(),
            file: self.file.as_ref().filter(|path| path.exists()).map(|path| Whole::read(path)),
            pins: fs::read_dir(self.ground.dir.path().join("bpffs/hemostat")).map_or(0, Iterator::count),
        }
    }

    /// Runs the errand in a process of its own. Returns whether it lived to its end.
    fn run(&self, action: &NodeAction, part: Part, at: u32) -> bool {
        let errand = Errand {
            state_dir: self.ground.config().state_dir,
            bpffs: self.ground.config().bpffs,
            action: action.clone(),
            target: self.target.clone(),
            part,
            at,
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "mortal_agent", "--nocapture", "--test-threads=1"]);
        command.env("HEMOSTAT_ERRAND", serde_json::to_string(&errand).unwrap());
        let output = command.output().unwrap();
        match (output.status.signal(), output.status.success()) {
            (Some(9), _) => false,
            (None, true) => true,
            _ => panic!("{part:?} at {at}: {output:?}"),
        }
    }

    fn contain(&self) -> Contain {
        self.ground.contain()
    }
}

fn tree(name: &str) -> Option<Scenery> {
    let ground = Ground::new(name)?.with_bpffs()?;
    let script = "sleep 1000 & sleep 1000 & (sleep 1000; true) & wait";
    let root = ground.shell(script);
    ground.await_members(5);
    wait_for("the sleepers", || {
        let names = ground
            .members()
            .into_iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        names.filter(|name| name.trim() == "sleep").count() == 3
    });
    let pids = ground.members();
    Some(Scenery { target: process(root), ground, pids, file: None, _elsewhere: None })
}

fn whole_cgroup(name: &str) -> Option<Scenery> {
    let scenery = tree(name)?;
    Some(Scenery { target: scenery.ground.target(), ..scenery })
}

fn file(name: &str, across: bool) -> Option<Scenery> {
    let ground = Ground::new(name)?.with_bpffs()?;
    let elsewhere = across.then(|| tempfile::tempdir_in("/dev/shm").unwrap());
    let dir = elsewhere.as_ref().map_or(ground.dir.path(), tempfile::TempDir::path).join("files");
    fs::create_dir(&dir).unwrap();
    let path = dir.join("tool");
    let wanted = ground::file::Wanted {
        content: vec![7; 100_000],
        mode: 0o6755,
        owner: (1234, 5678),
        times: ((10, 11), (12, 13)),
        xattrs: vec![
            ("user.a".into(), b"b".to_vec()),
            ("security.capability".into(), ground::file::capability()),
        ],
    };
    ground::file::make(&path, &wanted);
    Some(Scenery {
        target: ground::file::target(&path),
        ground,
        pids: vec![],
        file: Some(path),
        _elsewhere: elsewhere,
    })
}

/// Not a test: the agent that is killed.
#[test]
fn mortal_agent() {
    let Ok(errand) = std::env::var("HEMOSTAT_ERRAND") else { return };
    let errand: Errand = serde_json::from_str(&errand).unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let mut config = ContainConfig::new(NodeId::new("test-node"), errand.state_dir);
    config.bpffs = errand.bpffs;
    config.on_step = Some(Arc::new(move |_| {
        if count.fetch_add(1, Ordering::Relaxed) == errand.at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    }));
    let contain = ground::open(&config);
    match errand.part {
        Part::Apply => {
            apply(&contain, &errand.action, &errand.target).result.unwrap();
        }
        Part::React => {
            contain.react(errand.action, errand.target, now()).unwrap();
        }
        Part::Release => {
            let lifted = contain.release(&Which::All);
            assert!(
                lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))),
                "{lifted:?}"
            );
        }
        Part::Recover => {
            contain.recover(now());
        }
    }
}

fn command(action: &NodeAction, target: &Target, phase: Phase) -> NodeCommand {
    NodeCommand {
        key: CommandKey::new("key"),
        action_id: ActionId::new("act-crash"),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: action.clone(),
        target: target.clone(),
        phase,
    }
}

fn apply(contain: &Contain, action: &NodeAction, target: &Target) -> CommandOutcome {
    let captured = contain.handle(&command(action, target, Phase::Capture), now());
    let Ok(PhaseDone::Captured { rollback }) = captured.result else { return captured };
    contain.handle(&command(action, target, Phase::Apply { rollback }), now())
}

/// Nothing stands half-way.
fn assert_settled(contain: &Contain, context: &str) {
    for record in contain.in_force() {
        assert!(
            matches!(record.state, ActionState::Applied | ActionState::Verified | ActionState::Unverified),
            "{context}: {record:?}"
        );
    }
    let drifts = contain.watch(now());
    assert!(drifts.is_empty(), "{context}: said to be in force and is not: {drifts:?}");
}

/// Kills the agent before every step of applying, then of undoing, then of recovering. Returns how many deaths that were.
fn die_everywhere(action: &NodeAction, first: Part, scene: impl Fn() -> Option<Scenery>) -> u32 {
    let mut deaths = 0;
    let exact = action.undo() == UndoClass::Exact;
    let name = action.name();
    for at in 0.. {
        let Some(scenery) = scene() else { return 0 };
        let before = scenery.before();
        let lived = scenery.run(action, first, at);
        let context = format!("{name} {first:?} killed before step {at}");
        // the death of the one that recovers, too
        if !lived {
            for again in 0..3 {
                scenery.run(action, Part::Recover, again * 2);
            }
        }
        let contain = scenery.contain();
        for recovered in contain.recover(now()) {
            assert_eq!(recovered.failure, None, "{context}: {:?}", recovered.record);
        }
        assert_settled(&contain, &context);
        if contain.in_force().is_empty() && exact {
            assert_eq!(scenery.before(), before, "{context}: nothing is in force");
        }
        if first == Part::Apply {
            // the controller repeats its commands and comes to the same end
            let outcome = apply(&contain, action, &scenery.target);
            assert!(matches!(outcome.result, Ok(PhaseDone::Applied { .. })), "{context}: {outcome:?}");
            let verify = command(action, &scenery.target, Phase::Verify { rollback: RollbackState::Nothing });
            let verified = contain.handle(&verify, now()).result;
            assert_eq!(verified, Ok(PhaseDone::Verified { effect: Effect::InForce }), "{context}");
            if exact {
                assert_eq!(contain.in_force().len(), 1, "{context}");
            }
        }
        if matches!(action, NodeAction::Kill(KillScope::Subtree)) {
            let untouched = first == Part::React && scenery.before() == before;
            wait_for("their end", || untouched || scenery.pids.iter().all(|pid| !lives(*pid)));
            wait_for("their leaving", || untouched || scenery.ground.members().is_empty());
            assert_eq!(scenery.ground.snapshot().cgroups.len(), 1, "{context}: a jail is left");
        }
        contain.release(&Which::All);
        if exact {
            wait_for("the signals", || scenery.pids.iter().all(|pid| state_of(*pid) != Some('T')));
            assert_eq!(scenery.before(), before, "{context}: after the undo");
        }
        assert!(contain.in_force().is_empty(), "{context}");
        if lived {
            break;
        }
        deaths += 1;
    }
    if !exact {
        return deaths;
    }
    for at in 0.. {
        let Some(scenery) = scene() else { return 0 };
        let before = scenery.before();
        {
            let contain = scenery.contain();
            apply(&contain, action, &scenery.target).result.unwrap();
        }
        wait_for("its effect", || scenery.before() != before);
        let lived = scenery.run(action, Part::Release, at);
        let context = format!("{name} killed before step {at} of its undo");
        if !lived {
            for again in 0..3 {
                scenery.run(action, Part::Recover, again * 2);
            }
        }
        let contain = scenery.contain();
        for recovered in contain.recover(now()) {
            assert_eq!(recovered.failure, None, "{context}: {:?}", recovered.record);
        }
        assert_settled(&contain, &context);
        contain.release(&Which::All);
        wait_for("the signals", || scenery.pids.iter().all(|pid| state_of(*pid) != Some('T')));
        assert_eq!(scenery.before(), before, "{context}");
        assert!(contain.in_force().is_empty(), "{context}");
        let late = apply(&contain, action, &scenery.target).result;
        let settled = matches!(late, Ok(PhaseDone::Applied { .. }) | Err(ActionFailure::Unsupported { .. }));
        assert!(settled && scenery.before() == before, "{context}: a late copy does nothing: {late:?}");
        if lived {
            break;
        }
        deaths += 1;
    }
    deaths
}

fn all_deaths(action: &NodeAction, scene: impl Fn() -> Option<Scenery>) {
    let mut deaths = die_everywhere(action, Part::Apply, &scene);
    if deaths > 0 {
        deaths += die_everywhere(action, Part::React, &scene);
        println!("{}: died {deaths} times", action.name());
        assert!(deaths >= 6, "every journal line and every effect is a step");
    }
}

#[test]
fn i7_stop() {
    all_deaths(&NodeAction::Stop, || tree("crash stop"));
}

#[test]
fn i7_freeze_subtree() {
    all_deaths(&NodeAction::Freeze(FreezeScope::Subtree), || tree("crash freeze"));
}

#[test]
fn i7_freeze_cgroup() {
    all_deaths(&NodeAction::Freeze(FreezeScope::Cgroup), || whole_cgroup("crash freeze cgroup"));
}

#[test]
fn i7_kill() {
    all_deaths(&NodeAction::Kill(KillScope::Subtree), || tree("crash kill"));
}

#[test]
fn i7_kill_cgroup() {
    all_deaths(&NodeAction::Kill(KillScope::Subtree), || whole_cgroup("crash kill cgroup"));
}

#[test]
fn i7_net_quarantine() {
    let allow = vec!["192.0.2.0/24".parse().unwrap()];
    all_deaths(&NodeAction::NetQuarantine(NetQuarantine { allow }), || whole_cgroup("crash quarantine"));
}

#[test]
fn i7_block_destination() {
    let block = BlockDestination { destination: "192.0.2.0/24".parse().unwrap(), port: Some(4444) };
    all_deaths(&NodeAction::BlockDestination(block), || whole_cgroup("crash block"));
}

#[test]
fn i7_destroy_sockets() {
    let scene = || tree("crash sockets");
    let deaths = die_everywhere(&NodeAction::DestroySockets, Part::Apply, scene);
    println!("node.destroy-sockets: died {deaths} times");
}

#[test]
fn i7_quarantine_file() {
    all_deaths(&NodeAction::QuarantineFile, || file("crash file", false));
}

#[test]
fn i7_quarantine_file_across_filesystems() {
    all_deaths(&NodeAction::QuarantineFile, || file("crash file across", true));
}

#[test]
fn i7_capture_evidence() {
    let with = CaptureEvidence { memory: MemoryCapture::Private };
    all_deaths(&NodeAction::CaptureEvidence(with), || tree("crash evidence"));
}
