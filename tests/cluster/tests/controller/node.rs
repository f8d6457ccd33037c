//! A node as a controller meets it: it enrols by a token, connects with its certificate, tells of findings and does what it is told, all
//! in memory, so that every effect can be counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use model::*;
use tokio::task::JoinHandle;
use wire::{
    enrol::{Application, Enrolled},
    identity::Credentials as Keys,
    link::{ConnectConfig, Connection, LinkError, connect},
};

/// What happened to the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// In order: "apply node.freeze act-1".
    pub(crate) effects: Vec<String>,
    answers: BTreeMap<String, CommandOutcome>,
    /// Reports without an acknowledgement.
    spool: Vec<(u64, Report)>,
    last: u64,
    /// The digest of the rules that came, and how many files they are.
    pub(crate) rules: Option<RuleBundle>,
    /// What it is told to leave alone.
    pub(crate) guard: Option<NodeGuard>,
    coming: Vec<u8>,
}

pub(crate) struct Node {
    pub(crate) world: Arc<Mutex<World>>,
    news: Arc<tokio::sync::Notify>,
    connection: Connection,
    task: JoinHandle<()>,
}

/// Enrols: the certificate for a token.
pub(crate) async fn enrol(address: &str, authority: &str, token: &str) -> Result<Enrolled, LinkError> {
    let application = Application {
        address: address.into(),
        authority: authority.into(),
        step_limit: Duration::from_secs(10),
    };
    application.hand_in(token.into()).await
}

impl Node {
    pub(crate) fn connect(address: &str, name: &str, enrolled: Enrolled) -> Self {
        let credentials = Keys::Memory { own: enrolled.own, authority: enrolled.authority };
        let config = ConnectConfig {
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_millis(500),
            ..ConnectConfig::new(address, NodeId::new(name), credentials)
        };
        let (mut link, connection) = connect(config);
        let world = Arc::new(Mutex::new(World::default()));
        let news = Arc::new(tokio::sync::Notify::new());
        let (here, told, node) = (Arc::clone(&world), Arc::clone(&news), NodeId::new(name));
        let task = tokio::spawn(async move {
            let hello = Up::Hello { node: node.clone(), epoch: AgentEpoch(1) };
            if link.up.send(hello).await.is_err() {
                return;
            }
            let mut sent = 0;
            loop {
                let fresh: Vec<(u64, Report)> =
                    here.lock().unwrap().spool.iter().filter(|(seq, _)| *seq > sent).cloned().collect();
                for (seq, report) in fresh {
                    sent = seq;
                    if link.up.send(Up::Report { seq: Seq(seq), report: Box::new(report) }).await.is_err() {
                        return;
                    }
                }
                let down = tokio::select! {
                    () = told.notified() => continue,
                    down = link.down.recv() => down,
                };
                let Some(down) = down else { return };
                let answer = here.lock().unwrap().hear(down, &node);
                if let Some(up) = answer
                    && link.up.send(up).await.is_err()
                {
                    return;
                }
            }
        });
        Self { world, news, connection, task }
    }

    pub(crate) fn tell(&self, report: Report) {
        let mut world = self.world.lock().unwrap();
        world.last += 1;
        let seq = world.last;
        world.spool.push((seq, report));
        self.news.notify_one();
    }

    pub(crate) fn effects(&self) -> Vec<String> {
        self.world.lock().unwrap().effects.clone()
    }

    /// Whether everything that it told is acknowledged.
    pub(crate) fn is_told(&self) -> bool {
        self.world.lock().unwrap().spool.is_empty()
    }

    pub(crate) async fn close(self) {
        self.task.abort();
        self.connection.close().await;
    }
}

impl World {
    fn hear(&mut self, down: Down, node: &NodeId) -> Option<Up> {
        match down {
            Down::Ack { upto } => {
                self.spool.retain(|(seq, _)| *seq > upto.0);
                None
            }
            Down::Command(command) => Some(Up::Outcome(Box::new(self.obey(&command)))),
            Down::Guard(said) => {
                self.guard = Some(*said);
                None
            }
            Down::Rules(part) => {
                if part.part == 0 {
                    self.coming.clear();
                }
                self.coming.extend(&part.data);
                if part.part + 1 < part.parts {
                    return None;
                }
                let bundle: RuleBundle = serde_json::from_slice(&self.coming).unwrap();
                let loaded = Some(bundle.version.clone());
                self.rules = Some(bundle);
                Some(Up::Status(Box::new(status(node, loaded))))
            }
        }
    }

    /// Once for each key.
    fn obey(&mut self, command: &NodeCommand) -> CommandOutcome {
        if let Some(known) = self.answers.get(command.key.as_str()) {
            return known.clone();
        }
        let what = format!("{} {}", command.action.name(), command.action_id);
        let done = match &command.phase {
            Phase::Capture => PhaseDone::Captured { rollback: rollback_of(&command.action) },
            Phase::Apply { rollback } => {
                assert_eq!(*rollback, rollback_of(&command.action), "I4: applied with what was captured");
                self.effects.push(format!("apply {what}"));
                PhaseDone::Applied { outputs: Outputs::new() }
            }
            Phase::Verify { .. } => {
                let effect = if self.effects.contains(&format!("apply {what}")) {
                    Effect::InForce
                } else {
                    Effect::Missing { found: "nothing of it".into() }
                };
                PhaseDone::Verified { effect }
            }
            Phase::Revert { rollback, .. } => {
                assert_eq!(*rollback, rollback_of(&command.action), "I5: undone with what was captured");
                self.effects.push(format!("revert {what}"));
                PhaseDone::Reverted { detail: "as before".into() }
            }
        };
        let outcome = CommandOutcome {
            key: command.key.clone(),
            action_id: command.action_id.clone(),
            phase: command.phase.name().into(),
            at: now(),
            result: Ok(done),
        };
        self.answers.insert(command.key.to_string(), outcome.clone());
        outcome
    }
}

fn status(node: &NodeId, loaded: Option<RulesVersion>) -> NodeStatus {
    NodeStatus {
        node: node.clone(),
        epoch: AgentEpoch(1),
        at: now(),
        kernel: "none".into(),
        rules: 0,
        holding: vec![],
        loaded,
        hooks: vec![],
        counts: BTreeMap::new(),
        findings: 0,
        containments: 0,
        degraded: vec![],
    }
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}

fn rollback_of(action: &NodeAction) -> RollbackState {
    match action.undo() {
        UndoClass::Exact => RollbackState::Network { pins: action.name().into(), cgroup: "/app".into() },
        _ => RollbackState::Nothing,
    }
}

fn process(pid: u32) -> Arc<Process> {
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
        cgroup: CgroupId(u64::from(pid)),
        workload: Arc::new(Workload::Host { cgroup_path: format!("/app-{pid}") }),
        origin: ProcessOrigin::Exec,
        exit: None,
    })
}

/// A miner on `node`: of each `pid` an incident of its own.
pub(crate) fn miner(node: &str, pid: u32) -> Report {
    let id = EventId { node: NodeId::new(node), epoch: AgentEpoch(1), seq: Seq(u64::from(pid)) };
    let at = now();
    Report::Finding(Finding {
        id: FindingId::derive(&id, "rule-miner"),
        rule: RuleRef {
            id: "rule-miner".into(),
            title: "Cryptominer".into(),
            level: Level::Critical,
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
    })
}

/// As [`miner_in_pod`], in the container whose id is that letter again and again, of somebody who is logged in at a terminal.
pub(crate) fn miner_at_terminal(node: &str, pid: u32, (uid, container): (&str, &str)) -> Report {
    let Report::Finding(mut finding) = miner_in_pod(node, pid, uid) else {
        unreachable!("a miner is a finding")
    };
    let mut process = (*finding.event.process).clone();
    process.credentials.auid = Some(1000);
    process.tty = Some("pts/9".into());
    process.workload = Arc::new(Workload::Container {
        runtime: Runtime::Containerd,
        container_id: container.repeat(64),
        pod_uid: Some(uid.into()),
        cgroup_path: format!("/kubepods/pod{uid}/{container}"),
    });
    finding.event.process = Arc::new(process);
    Report::Finding(finding)
}

/// As [`miner`], in a container of a pod.
pub(crate) fn miner_in_pod(node: &str, pid: u32, uid: &str) -> Report {
    let Report::Finding(mut finding) = miner(node, pid) else { unreachable!("a miner is a finding") };
    let mut process = (*finding.event.process).clone();
    process.workload = Arc::new(Workload::Container {
        runtime: Runtime::Containerd,
        container_id: "c".repeat(64),
        pod_uid: Some(uid.into()),
        cgroup_path: format!("/kubepods/pod{uid}/c"),
    });
    finding.event.process = Arc::new(process);
    Report::Finding(finding)
}
