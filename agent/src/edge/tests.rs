use std::{
    collections::BTreeSet,
    sync::mpsc::{Receiver, sync_channel},
};

use detect::{
    fold, load,
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

/// What /proc says of every process, if anything.
#[derive(Default)]
struct FixedProc(Arc<Mutex<Option<ProcFacts>>>);

impl ProcSource for FixedProc {
    fn all(&mut self) -> Vec<ProcFacts> {
        Vec::new()
    }
    fn read(&mut self, key: ProcessKey) -> Option<ProcFacts> {
        self.0.lock().unwrap().clone().filter(|facts| facts.pid == key.pid)
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

type Standing = Arc<Mutex<BTreeSet<ProcessKey>>>;

/// How reactions come out.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Done,
    Protected,
    /// In a pod that so many tries find unknown; then it is done.
    Unattributed(u32),
    /// So many fail, then they are done.
    Busy(u32),
}

struct Watching {
    /// What was done and not lifted since.
    standing: Standing,
    log: Log,
    answer: Mutex<Answer>,
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
        let mut answer = self.answer.lock().unwrap();
        match &mut *answer {
            Answer::Protected => {
                return Err(ActionFailure::Protected { target: target.to_string(), because: "test".into() });
            }
            Answer::Unattributed(times) if *times > 0 => {
                *times -= 1;
                let because = "nobody told of its pod".into();
                return Err(ActionFailure::Unattributed { target: target.to_string(), because });
            }
            Answer::Busy(times) if *times > 0 => {
                *times -= 1;
                return Err(ActionFailure::Io {
                    operation: "freeze".into(),
                    object: target.to_string(),
                    because: "busy".into(),
                });
            }
            Answer::Busy(_) | Answer::Unattributed(_) | Answer::Done => {}
        }
        drop(answer);
        if let Target::Process { process } = &target {
            self.standing.lock().unwrap().insert(*process);
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

    fn stands(&self, process: ProcessKey) -> bool {
        self.standing.lock().unwrap().contains(&process)
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
    standing: Standing,
    drafts: Receiver<Draft>,
    counts: Arc<EdgeCounts>,
    proc: Arc<Mutex<Option<ProcFacts>>>,
}

fn rule(name: &str, level: &str, reaction: &str) -> SourceFile {
    let text = format!(
        "title: {name}\nid: {name}\nlogsource:\n  product: linux\n  category: process_creation\ndetection:\n  s:\n    \
         CommandLine|contains: {name}\n  condition: s\nlevel: {level}\nhemostat:\n  reaction: {reaction}\n"
    );
    SourceFile { name: format!("{name}.yml"), text }
}

fn bench(authority: Authority, answer: Answer, room: usize) -> Bench {
    let rules = [
        rule("freezeme", "critical", "freeze"),
        rule("stopme", "critical", "stop"),
        rule("worse", "critical", "freeze"),
        rule("tellme", "low", "none"),
    ];
    let loaded = load::load(&rules);
    assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let swap = Arc::new(Swap::new(Arc::new(set)));
    let log = Log::default();
    let standing = Standing::default();
    let (sender, drafts) = sync_channel(room);
    let counts = Arc::new(EdgeCounts::default());
    let proc = Arc::<Mutex<Option<ProcFacts>>>::default();
    let source = Box::new(FixedProc(Arc::clone(&proc)));
    let tree = ProcessTree::new(Limits::default(), source, Box::new(OneWorkload));
    let edge = Edge::new(EdgeParts {
        node: NodeId::new("n"),
        epoch: AgentEpoch(3),
        clock: Arc::new(Clock::new()),
        tree: Arc::new(Mutex::new(tree)),
        rules: swap.follow(),
        fold: Arc::new(Mutex::new(Fold::new(fold::Limits::NODE))),
        reactor: Arc::new(Watching {
            standing: Arc::clone(&standing),
            log: Arc::clone(&log),
            answer: Mutex::new(answer),
        }),
        holder: Box::new(Letting(Arc::clone(&log))),
        authority: Arc::new(RwLock::new(authority)),
        bounds: ReactionBounds::default(),
        drafts: sender,
        counts: Arc::clone(&counts),
    });
    Bench { edge, log, standing, drafts, counts, proc }
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
                Draft::Finding(finding, _) => Some(*finding),
                Draft::Reaction(_) => None,
            })
            .collect()
    }
}

/// What `pid` begins.
fn child(pid: u32, of: u32, at: u64, args: &[&str], held: Held) -> Record {
    let mut record = exec(pid, at, args, held);
    record.task.parent = process_key(of);
    record
}

fn on(pid: u32) -> String {
    Target::Process { process: process_key(pid) }.to_string()
}

#[test]
fn a_match_is_acted_on_before_it_is_told() {
    let mut bench = bench(Authority::React, Answer::Done, 16);
    bench.edge.take_in(exec(7, 1, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done(), [format!("node.freeze {}", on(7))]);
    let drafts: Vec<Draft> = bench.drafts.try_iter().collect();
    let [Draft::Finding(finding, _), Draft::Reaction(record)] = &drafts[..] else { panic!("{drafts:?}") };
    assert_eq!(finding.reactions, [ActionRecord::clone(record)]);
    assert_eq!((finding.rule.id.as_str(), finding.event.id.epoch), ("freezeme", AgentEpoch(3)));
    assert_eq!(finding.matched["CommandLine"], "x freezeme");
}

#[test]
fn a_held_process_is_always_answered_for() {
    let mut bench = bench(Authority::React, Answer::Done, 16);
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
    let mut bench = bench(Authority::React, Answer::Protected, 16);
    bench.edge.take_in(exec(9, 3, &["x", "stopme"], Held::Yes));
    assert_eq!(bench.done().last().unwrap(), "let go 9");
    assert_eq!(bench.counts.failed_reactions.load(Ordering::Relaxed), 2);
    let findings = bench.findings();
    let [told] = &findings[..] else { panic!("it is told all the same: {findings:?}") };
    let [refused] = &told.reactions[..] else { panic!("and so is the refusal: {told:?}") };
    assert_eq!((refused.state, refused.applied), (ActionState::Failed, None));
    assert!(refused.detail.contains("is protected: test"), "{}", refused.detail);
}

#[test]
fn i11_refusals_come_with_their_findings_and_are_bounded_as_these_are() {
    let mut bench = bench(Authority::React, Answer::Protected, 64);
    let (mut told, mut refused) = (0, 0);
    for pid in 10..1010 {
        bench.edge.take_in(exec(pid, SECOND, &["x", "freezeme"], Held::No));
        for draft in bench.drafts.try_iter() {
            let Draft::Finding(finding, _) = draft else { panic!("a refusal beside its finding") };
            told += 1;
            refused += finding.reactions.len();
        }
    }
    assert!(told <= 128 && refused == told, "{told} told, {refused} refused");
}

#[test]
fn i9_what_was_refused_because_its_pod_was_not_known_is_done_once_it_is() {
    let mut bench = bench(Authority::React, Answer::Unattributed(2), 16);
    bench.edge.take_in(exec(7, SECOND, &["x", "freezeme"], Held::No));
    assert_eq!(bench.findings()[0].reactions[0].state, ActionState::Failed);
    for tenth in 10..200 {
        bench.edge.try_again(BootNs(tenth * SECOND / 10));
    }
    let told: Vec<_> = bench.drafts.try_iter().collect();
    let [Draft::Reaction(done)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(done.state, ActionState::Applied);
    assert_eq!(bench.done().len(), 3);
}

#[test]
fn i8_an_observing_node_does_nothing_and_holds_nobody() {
    let mut bench = bench(Authority::Observe, Answer::Done, 16);
    bench.edge.take_in(exec(7, 1, &["x", "freezeme"], Held::No));
    bench.edge.take_in(exec(8, 2, &["x", "stopme"], Held::Yes));
    assert_eq!(bench.done(), ["let go 8"]);
    let findings = bench.findings();
    assert_eq!(findings.len(), 2);
    assert!(findings.iter().all(|finding| finding.reactions.is_empty()));
}

#[test]
fn a_process_is_reacted_to_once_while_the_reaction_stands() {
    let mut bench = bench(Authority::React, Answer::Done, 16);
    for at in 1..4 {
        bench.edge.take_in(exec(7, at, &["x", "freezeme"], Held::No));
    }
    bench.edge.take_in(exec(7, 5, &["x", "worse"], Held::No));
    assert_eq!(bench.done().len(), 1);
    bench.edge.take_in(exec(8, 9, &["x", "freezeme"], Held::No));
    assert_eq!(
        bench.done(),
        [format!("node.freeze {}", on(8))],
        "another process of the same cause is acted on"
    );
    bench.edge.take_in(child(9, 8, 10, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done(), [format!("node.freeze {}", on(9))], "and who got out of a tree that stands");
    let findings = bench.findings();
    assert_eq!(findings.len(), 4, "and told");
    assert!(
        findings
            .iter()
            .all(|finding| finding.event.process.key == process_key(7) || finding.reactions.len() == 1)
    );
}

/// From the process and from what it begins later; another rule, and a process that is no descendant, are something else.
#[test]
fn what_a_person_has_lifted_is_not_done_again() {
    let mut bench = bench(Authority::React, Answer::Done, 64);
    bench.edge.take_in(exec(7, 1, &["x", "freezeme"], Held::No));
    bench.edge.take_in(exec(6, 1, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done().len(), 2);
    bench.standing.lock().unwrap().clear();
    bench.edge.take_in(exec(7, 2, &["x", "freezeme"], Held::No));
    bench.edge.take_in(child(8, 7, 3, &["x", "freezeme"], Held::No));
    bench.edge.take_in(child(9, 8, 4, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done(), Vec::<String>::new());
    assert_eq!(bench.counts.lifted_before.load(Ordering::Relaxed), 3);
    assert!(bench.findings().len() >= 2, "told all the same");
    bench.edge.take_in(child(10, 7, 5, &["x", "freezeme"], Held::Yes));
    assert_eq!(bench.done(), ["let go 10"], "who is held is not left so");

    bench.edge.take_in(child(11, 1, 6, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done(), [format!("node.freeze {}", on(11))], "no descendant of it");
    bench.edge.take_in(child(12, 8, 7, &["x", "freezeme", "worse"], Held::No));
    assert_eq!(bench.done(), [format!("node.freeze {}", on(12))], "another rule, about which nobody decided");
    bench.edge.take_in(exec(7, 8, &["x", "worse"], Held::No));
    assert_eq!(bench.done(), [format!("node.freeze {}", on(7))]);
    bench.standing.lock().unwrap().clear();
    for rule in ["worse", "freezeme"] {
        bench.edge.take_in(child(13, 7, 9, &["x", rule], Held::No));
    }
    assert_eq!(bench.done(), Vec::<String>::new(), "both were lifted");
}

#[test]
fn a_finding_carries_what_the_process_did_before() {
    let mut bench = bench(Authority::React, Answer::Done, 16);
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
    let mut bench = bench(Authority::React, Answer::Done, 0);
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
    let mut bench = bench(Authority::React, Answer::Done, 64);
    for pid in 10..30 {
        bench.edge.take_in(exec(pid, u64::from(pid), &["x", "tellme", &pid.to_string()], Held::No));
    }
    let seqs: Vec<u64> = bench.findings().iter().map(|finding| finding.event.id.seq.0).collect();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn i11_a_flood_of_reacting_processes_is_bounded_and_every_reaction_is_told() {
    let mut bench = bench(Authority::React, Answer::Done, 64);
    let (mut told, mut reacted) = (0, 0);
    for pid in 10..10_010 {
        bench.edge.take_in(exec(pid, SECOND, &["x", "freezeme", &pid.to_string()], Held::No));
        for finding in bench.findings() {
            told += 1;
            reacted += finding.reactions.len();
        }
    }
    let bounds = ReactionBounds::default();
    assert_eq!((reacted, bench.done().len()), (bounds.by_rule, bounds.by_rule));
    assert_eq!(told, fold::Limits::NODE.variants + 1);
    assert_eq!(bench.counts.withheld_reactions.load(Ordering::Relaxed), 10_000 - bounds.by_rule as u64);
}

#[test]
fn reactions_are_bounded_by_rule_and_by_node_and_go_on_after_a_minute() {
    let mut bench = bench(Authority::React, Answer::Done, 256);
    bench.edge.budget = Budget::new(ReactionBounds { by_node: 5, by_rule: 3 });
    let mut frozen = |at: u64, what: &str, pids: std::ops::Range<u32>| {
        for pid in pids {
            bench.edge.take_in(exec(pid, at, &["x", what], Held::No));
        }
        assert_eq!(bench.findings().len(), 10, "each is told");
        bench.done().iter().filter(|line| line.starts_with("node.freeze")).count()
    };
    assert_eq!(frozen(SECOND, "freezeme", 10..20), 3);
    assert_eq!(frozen(2 * SECOND, "stopme", 20..30), 2);
    assert_eq!(frozen(60 * SECOND, "freezeme", 30..40), 0);
    assert_eq!(frozen(61 * SECOND + 1, "freezeme", 40..50), 3);
    // Withheld ones are not contained: what is held goes on.
    bench.edge.take_in(exec(99, 61 * SECOND + 2, &["x", "stopme"], Held::Yes));
    assert_eq!(bench.done(), ["let go 99"]);
}

#[test]
fn i8_only_permitted_rules_react_and_authority_can_be_taken_away() {
    let mut bench = bench(Authority::Only(BTreeSet::from(["freezeme".into()])), Answer::Done, 64);
    bench.edge.take_in(exec(7, 1, &["x", "freezeme"], Held::No));
    bench.edge.take_in(exec(8, 2, &["x", "stopme"], Held::Yes));
    // Both match: the one that may act, acts.
    bench.edge.take_in(exec(9, 3, &["x", "stopme", "freezeme"], Held::No));
    assert_eq!(
        bench.done(),
        [format!("node.freeze {}", on(7)), "let go 8".into(), format!("node.freeze {}", on(9))]
    );
    *bench.edge.parts.authority.write().unwrap() = Authority::Only(BTreeSet::new());
    bench.edge.take_in(exec(10, 4, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done(), Vec::<String>::new());
    let findings = bench.findings();
    assert_eq!(findings.len(), 5, "all are told");
    assert!(findings.last().unwrap().reactions.is_empty());
    assert_eq!(bench.counts.withheld_reactions.load(Ordering::Relaxed), 0);
}

#[test]
fn a_failed_reaction_is_tried_again_by_the_next_event_after_a_pause() {
    let mut bench = bench(Authority::React, Answer::Busy(1), 16);
    let at = SECOND;
    bench.edge.take_in(exec(7, at, &["x", "freezeme"], Held::No));
    bench.edge.take_in(exec(7, at + 1, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done().len(), 1, "not before the pause is over");
    bench.edge.take_in(exec(7, at + SECOND / 10, &["x", "freezeme"], Held::No));
    assert_eq!(bench.done().len(), 1);
    bench.edge.take_in(exec(7, at + 9 * SECOND, &["x", "freezeme"], Held::No));
    bench.edge.try_again(BootNs(at + 99 * SECOND));
    assert_eq!(bench.done().len(), 0, "done is done");
    let findings = bench.findings();
    assert_eq!(findings.iter().map(|finding| finding.reactions.len()).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_failed_reaction_is_tried_again_without_another_event() {
    let mut bench = bench(Authority::React, Answer::Busy(2), 16);
    bench.edge.take_in(exec(7, SECOND, &["x", "freezeme"], Held::No));
    let mut tries = Vec::new();
    for tenth in 10..200 {
        bench.edge.try_again(BootNs(tenth * SECOND / 10));
        if !bench.done().is_empty() {
            tries.push(tenth);
        }
    }
    assert_eq!(tries, [10, 11, 15], "the event's own, then after 0.1 s and 0.4 s");
    assert!(bench.drafts.try_iter().any(|draft| matches!(draft, Draft::Reaction(_))), "and it is told");
}

#[test]
fn i11_tries_are_bounded_and_a_refusal_is_not_tried_by_itself() {
    let mut busy = bench(Authority::React, Answer::Busy(u32::MAX), 16);
    busy.edge.take_in(exec(7, SECOND, &["x", "freezeme"], Held::No));
    for second in 2..1000 {
        busy.edge.try_again(BootNs(second * SECOND));
        busy.edge.take_in(exec(7, second * SECOND, &["x", "freezeme"], Held::No));
    }
    assert_eq!(busy.done().len(), Reacted::MAX_TRIES as usize);
    let mut refused = bench(Authority::React, Answer::Protected, 16);
    refused.edge.take_in(exec(7, SECOND, &["x", "freezeme"], Held::No));
    refused.edge.try_again(BootNs(999 * SECOND));
    assert_eq!(refused.done().len(), 1);
}

#[test]
fn a_held_process_whose_record_is_lost_is_judged_by_what_proc_says_now() {
    let mut bench = bench(Authority::React, Answer::Done, 16);
    let facts = |pid: u32, args: &[&str]| ProcFacts {
        pid: Pid(pid),
        exe: "/bin/x".into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..ProcFacts::default()
    };
    // Known as what it was before its exec, which no record told of.
    bench.edge.take_in(exec(7, 1, &["x", "innocent"], Held::No));
    *bench.proc.lock().unwrap() = Some(facts(7, &["x", "stopme"]));
    bench.edge.judge_held(process_key(7), BootNs(5));
    assert_eq!(
        bench.done(),
        [format!("node.stop {}", on(7)), format!("node.freeze {}", on(7)), "taken over 7".to_owned()]
    );
    assert_eq!(bench.findings().len(), 1);
    // The record comes after all: nobody is let go a second time.
    bench.edge.take_in(exec(7, 5, &["x", "innocent"], Held::Yes));
    assert_eq!(bench.done(), Vec::<String>::new());
    // A later exec of it is judged by its own record.
    bench.edge.take_in(exec(7, 6, &["x", "innocent"], Held::Yes));
    assert_eq!(bench.done(), ["let go 7"]);
    // Never seen, and innocent; and one that has ended meanwhile.
    *bench.proc.lock().unwrap() = Some(facts(8, &["x", "innocent"]));
    bench.edge.judge_held(process_key(8), BootNs(7));
    bench.edge.judge_held(process_key(9), BootNs(8));
    assert_eq!(bench.done(), ["let go 8", "let go 9"]);
}
