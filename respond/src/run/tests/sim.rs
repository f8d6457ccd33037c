//! A controller, its journal, a node and a person, in memory, with crashes wherever a test wants one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use crds::{PlaybookSpec, Protected, Radius};
use model::{
    ActionFailure, ActionId, Actor, BootNs, CgroupId, CommandKey, CommandOutcome, Effect as Seen,
    GateDecision, GateOutcome, IncidentId, NodeAction, NodeCommand, NodeId, OnDrift, Outputs, Phase,
    PhaseDone, Pid, PlaybookName, ProcessKey, RollbackState, RunId, RunState, Timestamp, UndoClass,
};
use serde_json::json;

use super::super::*;
use crate::facts::{Facts, Subject};

/// What goes wrong with the action of a step, always in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The capture fails.
    Capture,
    /// The apply fails half done.
    Half,
    /// This kernel cannot.
    Unsupported,
    /// It says that it is done and is not.
    Nothing,
    /// Done, and seen only at the second look.
    Slow,
    /// Done, and nobody says so.
    Silent,
    /// The target is gone.
    Gone,
    /// Somebody changed the target meanwhile: the undo is refused.
    Drift,
    /// The first two undos fail.
    UndoTwice,
}

/// The node: what is in force on it, newest last, and what cannot be undone.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) in_force: Vec<ActionId>,
    /// Half of it is in force.
    pub(super) half: BTreeSet<ActionId>,
    /// What changes nothing and is there whole: evidence.
    taken: BTreeSet<ActionId>,
    pub(super) gone: Vec<ActionId>,
    answers: BTreeMap<CommandKey, CommandOutcome>,
    looks: BTreeMap<ActionId, u32>,
    undos: BTreeMap<ActionId, u32>,
    pub(super) commands: Vec<NodeCommand>,
}

pub(super) struct World {
    pub(super) run: Option<Run>,
    start: RunStart,
    pub(super) journal: Vec<Transition>,
    pub(super) node: Node,
    pub(super) faults: BTreeMap<&'static str, Fault>,
    /// Steps to which the person says no; to the others, yes.
    pub(super) refuses: BTreeSet<&'static str>,
    pub(super) answers_people: bool,
    pub(super) now: Timestamp,
    pub(super) notices: Vec<String>,
    pub(super) audit: Vec<AuditFact>,
    effects: VecDeque<Effect>,
    inbox: VecDeque<Input>,
    /// Effects carried out, all in all.
    pub(super) points: usize,
    /// The controller dies before these.
    pub(super) crashes: BTreeSet<usize>,
    /// For how long nobody is there after a crash.
    pub(super) downtime: Duration,
    /// Before these the wall clock is set by so much.
    pub(super) sets: BTreeMap<usize, i64>,
    /// See `pick`.
    pub(super) order: u64,
    /// What the sensors see once a step is watched: for its first way, its second, and so on.
    pub(super) sights: BTreeMap<&'static str, VecDeque<Vec<Sight>>>,
    /// Whether what was under way to the controller is lost with it.
    pub(super) loses_mail: bool,
}

pub(super) fn actor() -> Actor {
    Actor::new("user:ada")
}

pub(super) fn facts() -> Facts {
    Facts {
        incident: json!({ "id": "inc-1", "severity": "high", "techniques": [], "finding_count": 1 }),
        findings: json!([]),
        finding: json!({ "level": "high", "rule": "a-rule" }),
        process: json!({ "pid": 77, "start": 9, "exe": "/tmp/x" }),
        node: json!({ "name": "n1" }),
        subject: Subject {
            process: Some(ProcessKey { pid: Pid(77), start: BootNs(9) }),
            cgroup: Some((CgroupId(5), "/work.slice/job.service".into())),
            executable: Some(("/tmp/x".into(), 3, 4)),
            destination: Some([192, 0, 2, 1].into()),
            ..Subject::default()
        },
    }
}

pub(super) fn start(spec: PlaybookSpec, outcome: GateOutcome) -> RunStart {
    RunStart {
        run: RunId::new("run-1"),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("n1"),
        playbook: PlaybookName::new("test"),
        spec,
        decision: GateDecision { outcome, reasons: vec!["a test".into()], signals: Vec::new() },
        grants: Grants {
            standing: BTreeMap::new(),
            approvers: Vec::new(),
            approval_timeout_ms: 900_000,
            widest: Radius::Workload,
            protected: Protected::default(),
        },
        facts: facts(),
        reactions: Vec::new(),
    }
}

/// Read once: crash tests make the same world thousands of times.
pub(super) fn spec(yaml: &str) -> PlaybookSpec {
    static KNOWN: Mutex<BTreeMap<String, PlaybookSpec>> = Mutex::new(BTreeMap::new());
    if let Some(known) = KNOWN.lock().unwrap().get(yaml) {
        return known.clone();
    }
    let spec = read_spec(yaml);
    KNOWN.lock().unwrap().insert(yaml.into(), spec.clone());
    spec
}

fn read_spec(yaml: &str) -> PlaybookSpec {
    let text = format!(
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: test}}\nspec:\n  mode: Auto\n  trigger: \
         {{minimumLevel: low}}\n  steps:\n{yaml}"
    );
    let reading = crds::source::read("test", &text);
    let problems: Vec<String> = reading.problems.iter().map(ToString::to_string).collect();
    match reading.resources.into_iter().next() {
        Some(crds::source::Resource::Playbook(playbook)) => playbook.value.spec,
        _ => panic!("{problems:?}\n{text}"),
    }
}

impl World {
    pub(super) fn new(start: RunStart) -> Self {
        Self {
            run: None,
            start,
            journal: Vec::new(),
            node: Node::default(),
            faults: BTreeMap::new(),
            refuses: BTreeSet::new(),
            answers_people: true,
            now: Timestamp(1_000_000_000_000),
            notices: Vec::new(),
            audit: Vec::new(),
            effects: VecDeque::new(),
            inbox: VecDeque::new(),
            points: 0,
            crashes: BTreeSet::new(),
            downtime: Duration::ZERO,
            sets: BTreeMap::new(),
            order: 0,
            sights: BTreeMap::new(),
            loses_mail: true,
        }
    }

    pub(super) fn of(yaml: &str) -> Self {
        Self::new(start(spec(yaml), GateOutcome::Automatic))
    }

    pub(super) fn run(&self) -> &Run {
        self.run.as_ref().unwrap()
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.inbox.push_back(input);
    }

    /// Everything that a crash must not change.
    pub(super) fn end(&self) -> (RunState, BTreeSet<ActionId>, BTreeSet<ActionId>) {
        assert!(self.node.half.is_empty(), "half done and left so: {:?}", self.node.half);
        let gone: BTreeSet<_> = self.node.gone.iter().cloned().collect();
        assert_eq!(gone.len(), self.node.gone.len(), "I3: an irreversible action was done twice");
        (self.run().state(), self.node.in_force.iter().cloned().collect(), gone)
    }

    pub(super) fn play(&mut self) -> &mut Self {
        for _ in 0..20_000 {
            if self.run.is_none() {
                self.boot();
            }
            if let Some(by) = self.sets.remove(&self.points) {
                self.now = Timestamp(self.now.0 + by);
                self.feed(Input::ClockSet { by });
            }
            if let Some(effect) = self.effects.pop_front() {
                let point = self.points;
                self.points += 1;
                if self.crashes.remove(&point) {
                    self.die();
                    continue;
                }
                self.perform(effect);
            } else if !self.inbox.is_empty() {
                let at = self.pick(self.inbox.len());
                let input = self.inbox.remove(at).unwrap();
                self.feed(input);
            } else if self.run().is_over() {
                return self;
            } else {
                let due = self.run().next_deadline().expect("every state has a deadline");
                self.now = self.now.max(due);
                self.feed(Input::Tick);
            }
        }
        panic!("no end: {:#?}", self.journal.iter().rev().take(20).collect::<Vec<_>>());
    }

    /// The order in which answers come: 0 is as they were asked for, every other seed another one.
    fn pick(&mut self, of: usize) -> usize {
        if self.order == 0 {
            return 0;
        }
        // xorshift64, Marsaglia 2003
        self.order ^= self.order << 13;
        self.order ^= self.order >> 7;
        self.order ^= self.order << 17;
        usize::try_from(self.order % of as u64).unwrap()
    }

    fn feed(&mut self, input: Input) {
        let effects = self.run.as_mut().unwrap().step(self.now, input);
        self.effects.extend(effects);
    }

    fn boot(&mut self) {
        if self.journal.is_empty() {
            let (run, effects) = Run::begin(self.start.clone(), self.now).unwrap();
            self.run = Some(run);
            self.effects = effects.into();
        } else {
            let mut run = Run::replay(&self.journal).unwrap();
            self.effects = run.recover(self.now).into();
            self.run = Some(run);
        }
    }

    fn die(&mut self) {
        self.run = None;
        self.now = self.now.plus(self.downtime);
        self.effects.clear();
        if self.loses_mail {
            self.inbox.retain(|input| matches!(input, Input::Rollback { .. }));
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Journal(transition) => {
                assert_eq!(transition.seq, self.journal.len() as u64 + 1, "the journal has no gaps");
                // what is stored is text
                let text = serde_json::to_string(&transition).unwrap();
                self.journal.push(serde_json::from_str(&text).unwrap());
                assert_eq!(self.journal.last(), Some(&transition), "what is stored is what was meant");
                if let Change::Watching { action, .. } = &transition.change {
                    let step = action.as_str().rsplit('-').next().unwrap_or_default();
                    let seen = self.sights.get_mut(step).and_then(VecDeque::pop_front).unwrap_or_default();
                    // as a sensor's clock goes: the effect has been there for a while
                    let later = |sight: Sight| Sight { at: Timestamp(self.now.0 + sight.at.0), ..sight };
                    self.inbox.extend(seen.into_iter().map(|sight| Input::Sight(Box::new(later(sight)))));
                }
            }
            Effect::ReadBack { seq } => {
                let found = usize::try_from(seq - 1).ok().and_then(|at| self.journal.get(at)).cloned();
                self.inbox.push_back(Input::ReadBack { seq, found: found.map(Box::new) });
            }
            Effect::Send(command) => {
                self.assert_capture_first(&command);
                if let Some(outcome) = self.node_does(&command) {
                    self.inbox.push_back(Input::Outcome(Box::new(outcome)));
                }
            }
            Effect::AskApproval(request) => {
                if self.answers_people {
                    let by = actor();
                    self.inbox.push_back(if self.refuses.contains(request.step.as_str()) {
                        Input::Deny { step: request.step, by, groups: vec![], because: "no".into() }
                    } else {
                        Input::Approve { step: request.step, by, groups: vec![] }
                    });
                }
            }
            Effect::Audit(fact) => self.audit.push(fact),
            Effect::Notify(text) => self.notices.push(text),
        }
    }

    /// I4, as seen from outside: at the moment of an apply its rollback state is in the journal, and so is that it was read back.
    fn assert_capture_first(&self, command: &NodeCommand) {
        let Phase::Apply { rollback: given } = &command.phase else { return };
        let position = |wanted: &dyn Fn(&Change) -> bool| self.journal.iter().position(|t| wanted(&t.change));
        let captured = position(
            &|change| matches!(change, Change::Captured { action, rollback } if *action == command.action_id && rollback == given),
        );
        let prepared =
            position(&|change| matches!(change, Change::Prepared { action } if *action == command.action_id));
        let applying = position(
            &|change| matches!(change, Change::Applying { action, .. } if *action == command.action_id),
        );
        assert!(captured.is_some() && captured < prepared && prepared < applying, "I4: {command:?}");
    }

    fn node_does(&mut self, command: &NodeCommand) -> Option<CommandOutcome> {
        let node = &mut self.node;
        node.commands.push(command.clone());
        if let Some(known) = node.answers.get(&command.key) {
            return Some(known.clone());
        }
        let step = command.action_id.as_str().rsplit('-').next().unwrap_or_default().to_owned();
        let fault = self.faults.iter().find(|(name, _)| **name == step).map(|(_, fault)| *fault);
        let result = if command.deadline < self.now {
            Err(ActionFailure::Expired)
        } else {
            node.carry_out(command, fault)
        };
        let outcome = CommandOutcome {
            key: command.key.clone(),
            action_id: command.action_id.clone(),
            phase: command.phase.name().into(),
            at: self.now,
            result,
        };
        // as agent/src/contain: what came too late may be asked again
        if outcome.result != Err(ActionFailure::Expired) {
            node.answers.insert(command.key.clone(), outcome.clone());
        }
        let silent = fault == Some(Fault::Silent) && matches!(command.phase, Phase::Apply { .. });
        if silent {
            node.answers.remove(&command.key);
            return None;
        }
        Some(outcome)
    }
}

impl Node {
    fn carry_out(&mut self, command: &NodeCommand, fault: Option<Fault>) -> Result<PhaseDone, ActionFailure> {
        let id = command.action_id.clone();
        let io =
            || ActionFailure::Io { operation: "do".into(), object: "it".into(), because: "broken".into() };
        let exact = command.action.undo() == UndoClass::Exact;
        match &command.phase {
            Phase::Capture if fault == Some(Fault::Capture) => Err(io()),
            Phase::Capture => Ok(PhaseDone::Captured { rollback: capture(command) }),
            Phase::Apply { .. } if fault == Some(Fault::Gone) => {
                Err(ActionFailure::TargetGone { target: command.target.to_string() })
            }
            Phase::Apply { .. } if fault == Some(Fault::Unsupported) => {
                Err(ActionFailure::Unsupported { operation: "it".into(), because: "old".into() })
            }
            Phase::Apply { .. } if fault == Some(Fault::Half) => {
                if exact {
                    self.half.insert(id);
                }
                Err(io())
            }
            Phase::Apply { rollback } => {
                assert_eq!(*rollback, capture(command), "I4: applied with what was captured");
                if fault != Some(Fault::Nothing) && exact && !self.in_force.contains(&id) {
                    self.in_force.push(id);
                } else if fault != Some(Fault::Nothing) && matches!(command.action, NodeAction::Kill(_)) {
                    self.gone.push(id);
                } else if fault != Some(Fault::Nothing) && command.action.undo() == UndoClass::Nothing {
                    self.taken.insert(id);
                }
                let outputs = Outputs::from([("bundle".to_owned(), json!("evd-1"))]);
                Ok(PhaseDone::Applied { outputs })
            }
            Phase::Verify { .. } => {
                let looks = self.looks.entry(id.clone()).or_default();
                *looks += 1;
                let there =
                    self.in_force.contains(&id) || self.gone.contains(&id) || self.taken.contains(&id);
                let effect = if there && (fault != Some(Fault::Slow) || *looks > 1) {
                    Seen::InForce
                } else {
                    Seen::Missing { found: "nothing".into() }
                };
                Ok(PhaseDone::Verified { effect })
            }
            Phase::Revert { rollback, on_drift } => {
                assert_eq!(*rollback, capture(command), "undone with what was captured");
                assert!(exact, "I5: only what can be undone exactly is undone");
                let undos = self.undos.entry(id.clone()).or_default();
                *undos += 1;
                if fault == Some(Fault::Drift) && *on_drift == OnDrift::Ask {
                    return Ok(PhaseDone::Drifted { difference: "was a, ours b, now c".into() });
                }
                if fault == Some(Fault::UndoTwice) && *undos <= 2 {
                    return Err(io());
                }
                self.half.remove(&id);
                self.in_force.retain(|known| *known != id);
                Ok(PhaseDone::Reverted { detail: "as before".into() })
            }
        }
    }
}

/// Different for each action, so that one's cannot be taken for another's.
fn capture(command: &NodeCommand) -> RollbackState {
    if command.action.undo() == UndoClass::Exact {
        RollbackState::Network { pins: command.action_id.to_string(), cgroup: "/x".into() }
    } else {
        RollbackState::Nothing
    }
}

#[test]
fn a_run_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Run>();
    shared::<Arc<crate::plan::Plan>>();
}
