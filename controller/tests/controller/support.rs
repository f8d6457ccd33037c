//! A node whose world is a file, so that it outlives the controller and every effect on it can be counted; and findings.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use model::*;
use serde::{Deserialize, Serialize};
use wire::link::{AgentLink, ControllerLink, in_process};

pub(crate) const NODE: &str = "node-1";

/// Everything about the node. Each change replaces the file in one step, so a SIGKILL leaves the state before or after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct World {
    /// Reports that are not acknowledged, with their position.
    pub(crate) spool: Vec<(u64, Report)>,
    pub(crate) acked: u64,
    /// Answers by command key: the same key is done once.
    pub(crate) answers: BTreeMap<String, CommandOutcome>,
    /// Every effect on the system, in order: "apply act-1".
    pub(crate) effects: Vec<String>,
    /// Actions in force.
    pub(crate) in_force: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct FileNode {
    path: PathBuf,
    world: World,
    /// Told of each command as it comes.
    pub(crate) trace: Trace,
}

/// What happened in one process, in order.
pub(crate) type Trace = Arc<Mutex<Vec<String>>>;

impl FileNode {
    pub(crate) fn open(path: &Path) -> Self {
        let world = fs::read(path).map(|b| serde_json::from_slice(&b).unwrap()).unwrap_or_default();
        Self { path: path.into(), world, trace: Trace::default() }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    pub(crate) fn spool(&mut self, report: Report) {
        self.spool_all([report]);
    }

    /// All in one step.
    pub(crate) fn spool_all(&mut self, reports: impl IntoIterator<Item = Report>) {
        for report in reports {
            let seq = self.world.spool.last().map_or(self.world.acked, |(seq, _)| *seq) + 1;
            self.world.spool.push((seq, report));
        }
        self.save();
    }

    /// As if no acknowledgement had ever arrived: positions begin anew.
    pub(crate) fn forget_acks(&mut self) {
        self.world.acked = 0;
        self.save();
    }

    pub(crate) fn is_new(&self) -> bool {
        self.world.acked == 0 && self.world.spool.is_empty()
    }

    /// Carries a command out, once per key.
    pub(crate) fn obey(&mut self, command: &NodeCommand) -> CommandOutcome {
        let phase = command.phase.name();
        self.trace.lock().unwrap().push(format!("{phase} {}", command.action_id));
        if let Some(known) = self.world.answers.get(command.key.as_str()) {
            return known.clone();
        }
        let id = command.action_id.to_string();
        let done = match &command.phase {
            Phase::Capture => Ok(PhaseDone::Captured { rollback: rollback_of(&command.action) }),
            Phase::Apply { rollback } => {
                assert_eq!(*rollback, rollback_of(&command.action), "I4: applied with what was captured");
                self.world.effects.push(format!("apply {} {id}", command.action.name()));
                if command.action.undo() == UndoClass::Exact {
                    self.world.in_force.insert(id, command.action.name().into());
                }
                Ok(PhaseDone::Applied { outputs: Outputs::new() })
            }
            Phase::Verify { .. } => {
                let applied = format!("apply {} {id}", command.action.name());
                let effect = if self.world.effects.contains(&applied) {
                    Effect::InForce
                } else {
                    Effect::Missing { found: "nothing of it".into() }
                };
                Ok(PhaseDone::Verified { effect })
            }
            Phase::Revert { rollback, .. } => {
                assert_eq!(*rollback, rollback_of(&command.action), "I5: undone with what was captured");
                self.world.effects.push(format!("revert {} {id}", command.action.name()));
                self.world.in_force.remove(&id);
                Ok(PhaseDone::Reverted { detail: "as before".into() })
            }
        };
        let outcome = CommandOutcome {
            key: command.key.clone(),
            action_id: command.action_id.clone(),
            phase: command.phase.name().into(),
            at: now(),
            result: done,
        };
        self.world.answers.insert(command.key.to_string(), outcome.clone());
        self.save();
        outcome
    }

    pub(crate) fn ack(&mut self, upto: Seq) {
        self.world.spool.retain(|(seq, _)| *seq > upto.0);
        self.world.acked = self.world.acked.max(upto.0);
        self.save();
    }

    fn save(&self) {
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&self.world).unwrap()).unwrap();
        fs::rename(&fresh, &self.path).unwrap();
    }
}

/// What a session of the node does when a command comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faint {
    /// Nothing: it obeys.
    Never,
    /// At the n-th command of this session, before it does it.
    Before(usize),
    /// At the n-th command of this session, after it did it and before it answers.
    After(usize),
}

/// One connection: says hello, delivers the spool, obeys, until the link ends or it faints. How many commands came.
pub(crate) async fn session(
    node: Arc<Mutex<FileNode>>,
    mut link: AgentLink,
    epoch: u64,
    faint: Faint,
) -> usize {
    let mut commands = 0;
    let hello = Up::Hello { node: NodeId::new(NODE), epoch: AgentEpoch(epoch) };
    if link.up.send(hello).await.is_err() {
        return commands;
    }
    let spool = node.lock().unwrap().world().spool.clone();
    for (seq, report) in spool {
        // At least once: everything is delivered twice.
        for _ in 0..2 {
            let report = Up::Report { seq: Seq(seq), report: Box::new(report.clone()) };
            if link.up.send(report).await.is_err() {
                return commands;
            }
        }
    }
    while let Some(down) = link.down.recv().await {
        match down {
            Down::Ack { upto } => node.lock().unwrap().ack(upto),
            Down::Rules(_) | Down::Guard(_) => {}
            Down::Command(command) => {
                commands += 1;
                if faint == Faint::Before(commands) {
                    return commands;
                }
                let outcome = node.lock().unwrap().obey(&command);
                if faint == Faint::After(commands) {
                    return commands;
                }
                // Answers are repeated, too.
                for _ in 0..2 {
                    if link.up.send(Up::Outcome(Box::new(outcome.clone()))).await.is_err() {
                        return commands;
                    }
                }
            }
        }
    }
    commands
}

pub(crate) fn link() -> (AgentLink, ControllerLink) {
    in_process(NodeId::new(NODE), 16)
}

pub(crate) fn now() -> Timestamp {
    (hemostat_controller::wall_clock())()
}

/// What the node captures: a function of the action alone, so that it can be checked later.
pub(crate) fn rollback_of(action: &NodeAction) -> RollbackState {
    match action.undo() {
        UndoClass::Exact => RollbackState::Network { pins: action.name().into(), cgroup: "/app".into() },
        _ => RollbackState::Nothing,
    }
}

pub(crate) fn process(pid: u32) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid) * 1000) },
        parent: Some(ProcessKey { pid: Pid(1), start: BootNs(1) }),
        exe: "/tmp/xmrig".into(),
        exe_file: ExeFile { inode: 42, device: 8 << 20 | 1, backing: Backing::File },
        command_line: "xmrig -o pool:3333".into(),
        args: vec!["xmrig".into(), "-o".into(), "pool:3333".into()],
        args_truncated: Truncated::No,
        cwd: "/tmp".into(),
        comm: "xmrig".into(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(77),
        workload: Arc::new(Workload::Host { cgroup_path: "/app".into() }),
        origin: ProcessOrigin::Exec,
        exit: None,
    })
}

pub(crate) fn finding(seq: u64, pid: u32, level: Level) -> Finding {
    let id = EventId { node: NodeId::new(NODE), epoch: AgentEpoch(1), seq: Seq(seq) };
    let at = now();
    Finding {
        id: FindingId::derive(&id, "rule-miner"),
        rule: RuleRef {
            id: "rule-miner".into(),
            title: "Cryptominer".into(),
            level,
            techniques: vec!["T1496".into()],
            tactics: vec!["impact".into()],
            reaction: Reaction::None,
        },
        event: Event {
            id,
            time: at,
            process: process(pid),
            parent: None,
            ancestors: Arc::new([]),
            exposure: Exposure::None,
            activity: Activity::Exec { requested: "./xmrig".into() },
        },
        matched: BTreeMap::new(),
        count: 1,
        first: at,
        last: at,
        ancestors: vec![],
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}

/// A process of a pod did something.
pub(crate) fn within(seq: u32, uid: &str) -> Finding {
    let mut within = finding(u64::from(seq), seq * 100, Level::High);
    let mut process = (*within.event.process).clone();
    process.cgroup = CgroupId(700 + u64::from(seq));
    process.workload = Arc::new(Workload::Container {
        runtime: Runtime::Containerd,
        container_id: format!("c-{uid}"),
        pod_uid: Some(uid.into()),
        cgroup_path: format!("/kubepods/pod{uid}/c-{uid}"),
    });
    within.event.process = Arc::new(process);
    within
}

/// What the node did by itself about `pid`.
pub(crate) fn reaction(id: &str, pid: u32) -> ActionRecord {
    let action = NodeAction::Freeze(FreezeScope::Subtree);
    ActionRecord {
        id: ActionId::new(id),
        incident: None,
        run: None,
        step: None,
        rollback: Some(rollback_of(&action)),
        action,
        target: Target::Process { process: process(pid).key },
        state: ActionState::Applied,
        planned: now(),
        applied: Some(now()),
        detail: "frozen at once".into(),
    }
}

pub(crate) fn playbook(mode: &str) -> String {
    format!(
        "apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata:
  name: miner
spec:
  description: Freeze it, cut it off, keep the evidence, then kill it once a person said yes.
  mode: {mode}
  trigger:
    rules: [rule-miner]
  blastRadius: {{ widest: Workload, maximumTargets: 4 }}
  steps:
    - name: freeze
      action: node.freeze
      target: {{ kind: Process }}
      with: {{ scope: Subtree }}
      timeout: 30s
    - name: isolate
      action: node.net-quarantine
      target: {{ kind: Cgroup }}
      timeout: 30s
    - name: evidence
      action: node.capture-evidence
      target: {{ kind: Process }}
      needs: [freeze]
      timeout: 30s
    - name: kill
      action: node.kill
      target: {{ kind: Process }}
      with: {{ scope: Subtree }}
      needs: [freeze, evidence]
      approval: Required
      timeout: 30s
"
    )
}
