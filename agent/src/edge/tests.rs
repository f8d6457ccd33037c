use std::sync::mpsc::{Receiver, sync_channel};

use detect::{
    load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use model::{
    ActionId, ActionState, CgroupId, Credentials, ExeFile, Exit, Namespaces, Pid, Stdio, Truncated,
    UndoClass, Workload,
};

use super::*;
use crate::{
    record::{ExecFacts, Task},
    test_data::process_key,
    tree::{Limits, ProcSource, procfs::ProcFacts},
    workload::WorkloadSource,
};

struct NoProc;

impl ProcSource for NoProc {
    fn all(&mut self) -> Vec<ProcFacts> {
        Vec::new()
    }
    fn read(&mut self, _: ProcessKey) -> Option<ProcFacts> {
        None
    }
    fn is_alive(&mut self, _: ProcessKey) -> bool {
        true
    }
}

struct OneWorkload;

impl WorkloadSource for OneWorkload {
    fn resolve(&mut self, _: CgroupId, _: Pid) -> Arc<Workload> {
        Arc::new(Workload::Host { cgroup_path: "/".into() })
    }
}

/// What was done, in order: reactions and judgements.
type Log = Arc<Mutex<Vec<String>>>;

struct Watching {
    log: Log,
    refuse: bool,
}

impl Reactor for Watching {
    fn react(
        &self,
        action: NodeAction,
        target: Target,
        now: Timestamp,
    ) -> Result<ActionRecord, ActionFailure> {
        assert_eq!(
            action.undo(),
            UndoClass::Exact,
            "a node may only do by itself what can be undone exactly (I5)"
        );
        self.log.lock().unwrap().push(format!("{} {target}", action.name()));
        if self.refuse {
            return Err(ActionFailure::Protected { target: target.to_string(), because: "test".into() });
        }
        Ok(ActionRecord {
            id: ActionId::new("act"),
            incident: None,
            run: None,
            step: None,
            action,
            target,
            state: ActionState::Applied,
            rollback: None,
            planned: now,
            applied: Some(now),
            detail: String::new(),
        })
    }
}

struct Letting(Log);

impl Holder for Letting {
    fn let_go(&mut self, process: ProcessKey) {
        self.0.lock().unwrap().push(format!("let go {}", process.pid));
    }
    fn taken_over(&mut self, process: ProcessKey) {
        self.0.lock().unwrap().push(format!("taken over {}", process.pid));
    }
}

struct Bench {
    edge: Edge,
    log: Log,
    drafts: Receiver<Draft>,
    counts: Arc<EdgeCounts>,
}

fn rule(name: &str, level: &str, reaction: &str) -> SourceFile {
    let text = format!(
        "title: {name}\nid: {name}\nlogsource:\n  product: linux\n  category: process_creation\ndetection:\n  s:\n    \
         CommandLine|contains: {name}\n  condition: s\nlevel: {level}\nhemostat:\n  reaction: {reaction}\n"
    );
    SourceFile { name: format!("{name}.yml"), text }
}

fn bench(authority: Authority, refuse: bool, room: usize) -> Bench {
    let rules = [
        rule("freezeme", "critical", "freeze"),
        rule("stopme", "critical", "stop"),
        rule("tellme", "low", "none"),
    ];
    let loaded = load::load(&rules);
    assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let swap = Arc::new(Swap::new(Arc::new(set)));
    let log = Log::default();
    let (sender, drafts) = sync_channel(room);
    let counts = Arc::new(EdgeCounts::default());
    let tree = ProcessTree::new(Limits::default(), Box::new(NoProc), Box::new(OneWorkload));
    let edge = Edge::new(EdgeParts {
        node: NodeId::new("n"),
        epoch: AgentEpoch(3),
        clock: Arc::new(Clock::new()),
        tree: Arc::new(Mutex::new(tree)),
        rules: swap.follow(),
        fold: Arc::default(),
        reactor: Arc::new(Watching { log: Arc::clone(&log), refuse }),
        holder: Box::new(Letting(Arc::clone(&log))),
        authority,
        drafts: sender,
        counts: Arc::clone(&counts),
    });
    Bench { edge, log, drafts, counts }
}

fn record(pid: u32, at: u64, body: Body) -> Record {
    let task = Task {
        key: process_key(pid),
        tid: pid,
        parent: process_key(1),
        cgroup: CgroupId(1),
        credentials: Credentials::default(),
        comm: "x".into(),
    };
    Record { at: BootNs(at), task, body }
}

fn exec(pid: u32, at: u64, args: &[&str], held: Held) -> Record {
    let facts = ExecFacts {
        requested: "./x".into(),
        exe: "/bin/x".into(),
        exe_file: ExeFile::default(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        args_truncated: Truncated::No,
        cwd: "/".into(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        held,
    };
    record(pid, at, Body::Exec(Box::new(facts)))
}

impl Bench {
    fn done(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn findings(&self) -> Vec<Finding> {
        self.drafts
            .try_iter()
            .filter_map(|draft| match draft {
                Draft::Finding(finding) => Some(*finding),
                Draft::Reaction(_) => None,
            })
            .collect()
    }
}

fn on(pid: u32) -> String {
    Target::Process { process: process_key(pid) }.to_string()
}

#[test]
fn a_match_is_acted_on_before_it_is_told() {
    let mut bench = bench(Authority::React, false, 16);
    bench.edge.take_in(exec(7, 1, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done(), [format!("node.freeze {}", on(7))]);
    let drafts: Vec<Draft> = bench.drafts.try_iter().collect();
    let [Draft::Finding(finding), Draft::Reaction(record)] = &drafts[..] else { panic!("{drafts:?}") };
    assert_eq!(finding.reactions, [ActionRecord::clone(record)]);
    assert_eq!((finding.rule.id.as_str(), finding.event.id.epoch), ("freezeme", AgentEpoch(3)));
    assert_eq!(finding.matched["CommandLine"], "x freezeme");
}

#[test]
fn a_held_process_is_always_answered_for() {
    let mut bench = bench(Authority::React, false, 16);
    bench.edge.take_in(exec(7, 1, &["x", "innocent"], Held::Yes));
    assert_eq!(bench.done(), ["let go 7"]);
    bench.edge.take_in(exec(8, 2, &["x", "tellme"], Held::Yes));
    assert_eq!(bench.done(), ["let go 8"], "a rule that asks for nothing holds nobody");
    bench.edge.take_in(exec(9, 3, &["x", "stopme"], Held::Yes));
    assert_eq!(
        bench.done(),
        [format!("node.stop {}", on(9)), format!("node.freeze {}", on(9)), "taken over 9".to_owned()]
    );
    // The same process again, held again: what is held must be answered for, also a second time.
    bench.edge.take_in(exec(9, 4, &["x", "stopme"], Held::Yes));
    assert_eq!(bench.done().last().unwrap(), "taken over 9");
}

#[test]
fn i9_a_refused_reaction_lets_a_held_process_go() {
    let mut bench = bench(Authority::React, true, 16);
    bench.edge.take_in(exec(9, 3, &["x", "stopme"], Held::Yes));
    assert_eq!(bench.done().last().unwrap(), "let go 9");
    assert_eq!(bench.counts.failed_reactions.load(Ordering::Relaxed), 2);
    assert_eq!(bench.findings().len(), 1, "it is told all the same");
}

#[test]
fn i8_an_observing_node_does_nothing_and_holds_nobody() {
    let mut bench = bench(Authority::Observe, false, 16);
    bench.edge.take_in(exec(7, 1, &["x", "freezeme"], Held::No));
    bench.edge.take_in(exec(8, 2, &["x", "stopme"], Held::Yes));
    assert_eq!(bench.done(), ["let go 8"]);
    let findings = bench.findings();
    assert_eq!(findings.len(), 2);
    assert!(findings.iter().all(|finding| finding.reactions.is_empty()));
}

#[test]
fn what_a_person_has_lifted_is_not_done_again_to_the_same_process() {
    let mut bench = bench(Authority::React, false, 16);
    for at in 1..4 {
        bench.edge.take_in(exec(7, at, &["x", "freezeme"], Held::No));
    }
    assert_eq!(bench.done().len(), 1);
    bench.edge.take_in(exec(8, 9, &["x", "freezeme"], Held::No));
    assert_eq!(
        bench.done(),
        [format!("node.freeze {}", on(8))],
        "another process of the same cause is acted on"
    );
    assert_eq!(bench.findings().len(), 1, "though it is told once");
}

#[test]
fn a_finding_carries_what_the_process_did_before() {
    let mut bench = bench(Authority::React, false, 16);
    bench.edge.take_in(exec(7, 1, &["x", "start"], Held::No));
    for n in 0..3 {
        bench.edge.take_in(record(
            7,
            2 + n,
            Body::Act(Activity::MemfdCreate { name: n.to_string(), flags: 0 }),
        ));
    }
    bench.edge.take_in(exec(7, 9, &["x", "tellme"], Held::No));
    let finding = bench.findings().pop().unwrap();
    assert_eq!(finding.context.len(), 4);
    assert!(matches!(finding.context[0].activity, Activity::Exec { .. }));
    bench.edge.take_in(record(7, 10, Body::Exit(Exit { code: 0, signal: 0, at: BootNs(10) })));
    assert_eq!(bench.edge.recent.of(process_key(7)), []);
}

#[test]
fn i11_a_low_finding_that_finds_no_room_is_counted_and_told_with_the_next() {
    let mut bench = bench(Authority::React, false, 0);
    bench.edge.take_in(exec(7, 1, &["x", "tellme"], Held::No));
    assert_eq!(bench.counts.given_up.load(Ordering::Relaxed), 1);
    assert_eq!(bench.counts.findings.load(Ordering::Relaxed), 0);
    let (sender, drafts) = sync_channel(4);
    bench.edge.parts.drafts = sender;
    bench.edge.take_in(exec(7, 2, &["x", "tellme"], Held::No));
    assert_eq!(drafts.try_iter().count(), 1);
}

#[test]
fn i3_event_ids_are_unique_and_grow() {
    let mut bench = bench(Authority::React, false, 64);
    for pid in 10..30 {
        bench.edge.take_in(exec(pid, u64::from(pid), &["x", "tellme", &pid.to_string()], Held::No));
    }
    let seqs: Vec<u64> = bench.findings().iter().map(|finding| finding.event.id.seq.0).collect();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
}
