//! `revert ∘ apply = identity` (I5) of everything that makes processes stand still: in a jail, in place, by the signal of a stop, and by
//! signal where no jail can be made.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use hemostat_agent::contain::{Contain, Which};
use model::{ActionId, Frozen, NodeAction, OnDrift, Phase, PhaseDone, RollbackState, StoppedProcess, Target};
use proptest::{prelude::*, sample::Index};
use rustix::process::Signal;

use crate::{
    CGROUP, SUBTREE, command,
    ground::{Ground, Snapshot, cgroup_of, now, patience, process, state_of, wait_for},
    signal, tree,
};

/// Any tree with any past: some members stopped by somebody else, some in cgroups of their own, one of which may be frozen.
#[derive(Debug, Clone)]
struct World {
    widths: Vec<u32>,
    stopped: Vec<Index>,
    moved: Vec<(Index, usize)>,
    frozen: bool,
}

fn world() -> impl Strategy<Value = World> {
    let widths = proptest::collection::vec(1_u32..4, 0..4);
    let stopped = proptest::collection::vec(any::<Index>(), 0..4);
    let moved = proptest::collection::vec((any::<Index>(), 0_usize..3), 0..5);
    (widths, stopped, moved, any::<bool>()).prop_map(|(widths, stopped, moved, frozen)| World {
        widths,
        stopped,
        moved,
        frozen,
    })
}

/// The world as it stands, and what the tests need of it.
struct Stage {
    ground: Ground,
    root: u32,
    members: Vec<u32>,
    /// Of the sub-cgroup that may be frozen.
    frozen: Option<PathBuf>,
}

impl World {
    fn stage(&self, name: &str) -> Option<Stage> {
        let ground = Ground::new(name)?;
        let root = tree(&ground, &self.widths);
        let subs = [ground.sub("a"), ground.sub("b"), ground.sub("c")];
        let members = ground.members();
        for (which, sub) in &self.moved {
            fs::write(subs[*sub].0.join("cgroup.procs"), which.get(&members).to_string()).unwrap();
        }
        for which in &self.stopped {
            let pid = *which.get(&members);
            signal(pid, Signal::STOP);
            wait_for("the stop", || state_of(pid) == Some('T'));
        }
        let frozen = self.frozen.then(|| subs[0].0.join("cgroup.freeze"));
        if let Some(wish) = &frozen {
            fs::write(wish, "1").unwrap();
        }
        // Who has not come to rest would change by itself.
        wait_for("all to rest", || members.iter().all(|pid| matches!(state_of(*pid), Some('S' | 'T'))));
        Some(Stage { ground, root, members, frozen })
    }
}

impl Stage {
    fn exact(&self) -> Exact {
        let signals = self.members.iter().map(|pid| (*pid, signals_of(*pid))).collect();
        Exact { place: self.ground.snapshot(), signals }
    }

    /// All is as before, once everybody has taken what was sent to him; the difference where it stays.
    fn is_again(&self, before: &Exact) -> Result<(), TestCaseError> {
        self.is_again_but_for(before, None)
    }

    /// The same where an accomplice continued one of them: his SIGCONT takes a stop that was pending with it, and where its cgroup was
    /// frozen by somebody else, the one who stood stopped there has the stop that replaced it pending until the thaw.
    fn is_again_but_for(&self, before: &Exact, continued: Option<u32>) -> Result<(), TestCaseError> {
        let begun = Instant::now();
        let before = before.clone().with_pending_stop_done(continued);
        let now = || self.exact().with_pending_stop_done(continued);
        while now() != before && begun.elapsed() < patience() {
            std::thread::yield_now();
        }
        prop_assert_eq!(now(), before);
        Ok(())
    }

    /// It is stopped, or the cgroup that it was put in by somebody else holds it.
    fn stands(&self, pid: u32) -> bool {
        let before_us =
            self.frozen.is_some() && cgroup_of(pid).is_some_and(|at| at == format!("{}/a", self.ground.path));
        state_of(pid) == Some('T') || before_us
    }

    /// No jail can be made below any of its cgroups any more.
    fn forbid_jails(&self) {
        fs::write(self.ground.cgroup.join("cgroup.max.descendants"), "0").unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(wish) = &self.frozen {
            let _thawed = fs::write(wish, "0");
        }
    }
}

/// Places, freeze wishes and stops; and of each process its parent, its threads, and what it ignores, handles and has pending. Not what it
/// blocks: a shell that waits blocks all in passing whenever it hears of a child, and where in that it was stopped is chance.
#[derive(Debug, Clone, PartialEq)]
struct Exact {
    place: Snapshot,
    signals: BTreeMap<u32, BTreeMap<String, String>>,
}

impl Exact {
    /// As if this one had taken a SIGSTOP that is pending.
    fn with_pending_stop_done(mut self, pid: Option<u32>) -> Self {
        const STOP: u64 = 1 << 18;
        let Some(pid) = pid else { return self };
        let stopped = &mut self.place.processes.get_mut(&pid).unwrap().1;
        let pending = self.signals.get_mut(&pid).unwrap().get_mut("ShdPnd").unwrap();
        let bits = u64::from_str_radix(pending, 16).unwrap();
        *stopped |= bits & STOP != 0;
        *pending = format!("{:016x}", bits & !STOP);
        self
    }
}

fn signals_of(pid: u32) -> BTreeMap<String, String> {
    const KEPT: [&str; 6] = ["PPid", "Threads", "SigPnd", "ShdPnd", "SigIgn", "SigCgt"];
    // A parent is told that a child stopped and went on, and a parent that is stopped itself has that pending. Likewise our SIGCONT to one
    // that blocked all in passing when somebody froze its cgroup: it is dropped as soon as it runs.
    const PASSING: u64 = (1 << 16) | (1 << 17);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    let kept = fields.filter(|(name, _)| KEPT.contains(name)).map(|(name, value)| {
        let value = match name {
            "SigPnd" | "ShdPnd" => {
                format!("{:016x}", u64::from_str_radix(value.trim(), 16).unwrap() & !PASSING)
            }
            _ => value.trim().to_owned(),
        };
        (name.to_owned(), value)
    });
    kept.collect()
}

/// Who asks for an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Controller,
    /// The agent's own reaction.
    Node,
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![Just(By::Controller), Just(By::Node)]
}

fn done(contain: &Contain, by: By, action: &NodeAction, target: &Target, name: &str) -> ActionId {
    if by == By::Node {
        return contain.react(action.clone(), target.clone(), now()).unwrap().id;
    }
    let captured = contain.handle(&command(action, target, Phase::Capture, name), now()).result.unwrap();
    let PhaseDone::Captured { rollback } = captured else { panic!("{captured:?}") };
    contain.handle(&command(action, target, Phase::Apply { rollback }, name), now()).result.unwrap();
    ActionId::new(format!("act-{name}"))
}

/// By the controller's command where it asked, by `hemostat release` where the node acted.
fn undone(contain: &Contain, by: By, action: &NodeAction, target: &Target, id: &ActionId) {
    if by == By::Node {
        let lifted = contain.release(&Which::One(id.clone()));
        assert!(matches!(lifted[0].result, Ok(PhaseDone::Reverted { .. })), "{lifted:?}");
        return;
    }
    let rollback = contain.record(id).unwrap().rollback.unwrap();
    let name = id.as_str().trim_start_matches("act-");
    let revert = command(action, target, Phase::Revert { rollback, on_drift: OnDrift::Ask }, name);
    let result = contain.handle(&revert, now()).result;
    assert!(matches!(result, Ok(PhaseDone::Reverted { .. })), "{result:?}");
}

/// The agent is started anew, as after a crash.
fn restarted(stage: &Stage, contain: Contain) -> Contain {
    drop(contain);
    let contain = stage.ground.contain();
    assert!(contain.recover(now()).iter().all(|one| one.failure.is_none()));
    contain
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 8, ..ProptestConfig::default() })]

    /// After the revert every process is in its cgroup and in its state, and no cgroup was added or changed.
    #[test]
    fn i5_freeze_revert_restores_exactly(
        world in world(),
        scope in prop_oneof![Just(SUBTREE), Just(CGROUP)],
        by in by(),
    ) {
        let Some(stage) = world.stage("freeze property") else { return Ok(()) };
        let before = stage.exact();
        let contain = stage.ground.contain();
        let target = if scope == SUBTREE { process(stage.root) } else { stage.ground.target() };
        let id = done(&contain, by, &scope, &target, "freeze");
        prop_assert_ne!(&stage.ground.snapshot(), &before.place);
        prop_assert!(contain.watch(now()).is_empty());
        undone(&contain, by, &scope, &target, &id);
        stage.is_again(&before)?;
    }

    /// Any of them stopped, by command or by the agent that takes over what its hook has stopped, and lifted in any order, also by an agent
    /// that was started anew: who is wanted stopped stands, nobody else is touched, and in the end all is as it was.
    #[test]
    fn i5_stop_revert_restores_exactly(
        world in world(),
        wanted in proptest::collection::vec((any::<Index>(), by()), 1..5),
        order in proptest::collection::vec(any::<Index>(), 5),
        restart in any::<bool>(),
    ) {
        let Some(stage) = world.stage("stop property") else { return Ok(()) };
        let before = stage.exact();
        let mut contain = stage.ground.contain();
        let mut standing: Vec<(ActionId, By, u32)> = Vec::new();
        for (n, (which, by)) in wanted.iter().enumerate() {
            let pid = *which.get(&stage.members);
            // Only what runs comes to an exec and is stopped there; whoever is stopped already is the controller's to ask for.
            let known = standing.iter().any(|(_, _, wanted)| *wanted == pid);
            let by = if known || state_of(pid) == Some('T') { By::Controller } else { *by };
            if by == By::Node {
                signal(pid, Signal::STOP);
            }
            let id = done(&contain, by, &NodeAction::Stop, &process(pid), &n.to_string());
            standing.push((id, by, pid));
        }
        if restart {
            contain = restarted(&stage, contain);
        }
        let mut order = order.iter();
        loop {
            for pid in &stage.members {
                if standing.iter().any(|(_, _, wanted)| wanted == pid) {
                    wait_for("the stop", || stage.stands(*pid));
                } else {
                    wait_for("the others to be as they were", || {
                        (state_of(*pid) == Some('T')) == before.place.processes[pid].1
                    });
                }
            }
            prop_assert_eq!(contain.watch(now()), []);
            prop_assert_eq!(contain.in_force().len(), standing.len());
            prop_assert_eq!(&stage.ground.snapshot().cgroups, &before.place.cgroups);
            let Some((id, by, pid)) = order.next().filter(|_| !standing.is_empty()).map(|which| {
                standing.remove(which.index(standing.len()))
            }) else { break };
            undone(&contain, by, &NodeAction::Stop, &process(pid), &id);
        }
        stage.is_again(&before)?;
    }

    /// The same where no jail can be made: the tree is stopped by signal, each as it was found written down before, and so it goes on.
    #[test]
    fn i5_a_freeze_by_signal_and_its_revert_restore_exactly(
        world in world(),
        of_one in proptest::option::of(any::<Index>()),
        by in by(),
        root_first in any::<bool>(),
        restart in any::<bool>(),
        continued in proptest::option::of(any::<Index>()),
    ) {
        let Some(stage) = world.stage("freeze by signal property") else { return Ok(()) };
        stage.forbid_jails();
        let before = stage.exact();
        let mut contain = stage.ground.contain();
        let mut standing = vec![(done(&contain, by, &SUBTREE, &process(stage.root), "root"), stage.root)];
        let one = of_one.map(|which| *which.get(&stage.members)).filter(|one| *one != stage.root);
        if let Some(one) = one {
            standing.push((done(&contain, by, &SUBTREE, &process(one), "one"), one));
        }
        let Some(RollbackState::Freeze { stopped, .. }) = contain.record(&standing[0].0).unwrap().rollback else {
            panic!()
        };
        let found = |one: &StoppedProcess| (one.process.pid.0, one.was_stopped == Frozen::Yes);
        let found: BTreeMap<u32, bool> = stopped.iter().map(found).collect();
        let was: BTreeMap<u32, bool> =
            before.place.processes.iter().map(|(pid, (_, stopped))| (*pid, *stopped)).collect();
        prop_assert_eq!(found, was, "captured is what was");
        let continued = continued.map(|which| *which.get(&stage.members));
        if let Some(pid) = continued {
            // An accomplice: it is stopped again, and what it was before is not forgotten over that.
            signal(pid, Signal::CONT);
            contain.watch(now());
        }
        if restart {
            contain = restarted(&stage, contain);
        }
        if !root_first {
            standing.reverse();
        }
        while !standing.is_empty() {
            prop_assert_eq!(contain.watch(now()), []);
            prop_assert_eq!(&stage.ground.snapshot().cgroups, &before.place.cgroups, "no jail");
            if standing.iter().any(|(_, pid)| *pid == stage.root) {
                let stands = || stage.members.iter().all(|pid| stage.stands(*pid));
                wait_for("all of the tree to stand", stands);
            }
            let (id, pid) = standing.remove(0);
            undone(&contain, by, &SUBTREE, &process(pid), &id);
        }
        prop_assert!(contain.in_force().is_empty());
        stage.is_again_but_for(&before, continued)?;
    }
}
