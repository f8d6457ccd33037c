//! I1 on the running kernel: what the shipped rules find does not depend on the filter. Two sets of probes see the same workload at the
//! same time, one with the rules' own plan and one with everything; the findings are the same, rule by rule and process by process, and so is what
//! the correlations make of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent::{
    probe::{Forms, OwnEvents, ProbeConfig},
    record::{Body, Record},
    tree::{Limits, ProcSource, ProcessTree, procfs::ProcFacts},
    workload::WorkloadSource,
};
use detect::{
    correlation::{Correlator, Limits as CorrelationLimits},
    load::Loaded,
    matcher::{Options, RuleSet},
    rule_test::{written_events, written_sequences},
    schema::{Category, Context, View},
    source::SourceFile,
};
use model::{
    Activity, AgentEpoch, CgroupId, Event, EventClass, EventId, FilterPlan, NodeId, Pid, ProcessKey, Seq,
    Timestamp, Workload,
};

use crate::{
    Check, Failure,
    accounting::Cgroup,
    guest,
    replay::{sequence, steps},
    scene::{NO_BUDGETS, Scene, Skip},
};

pub(crate) const CHECKS: &[Check] = &[Check {
    name: "differential: i1_the shipped rules find the same with the filter and without",
    run: same_findings,
}];

/// Rules that the workload must set off: with fewer, equality would prove little.
const ENOUGH_RULES: usize = 100;
/// Correlations that it must make true.
const ENOUGH_CORRELATIONS: usize = 3;
/// On a machine that is busy with something else, the probes that take everything may lose some of it.
const TRIES: usize = 3;

fn same_findings(scene: &mut Scene) -> Result<(), Failure> {
    let RuleFiles { rules, events: tests, sequences } = rule_files()?;
    // An emulated machine plays a part of them.
    let (every, enough) =
        if scene.quick || guest::is_init() { (3, ENOUGH_RULES / 2) } else { (1, ENOUGH_RULES) };
    let mut plays: Vec<_> = tests.iter().step_by(every).map(steps).collect();
    plays.extend(sequences.iter().flat_map(|events| sequence(events)));
    let loaded = detect::load::load(&rules);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let set = Arc::new(set);
    // What is held at its exec is another matter; here everybody runs.
    let plan = FilterPlan { hold: vec![], ..set.plan().clone() };
    let config = ProbeConfig {
        forms: Forms::Best,
        budgets: NO_BUDGETS,
        own_events: OwnEvents::LeftOut,
        // All that all programs of this machine do goes through it.
        bulk_ring: 64 << 20,
        critical_ring: 16 << 20,
        pins: format!("/sys/fs/bpf/hemostat-node-tests-{}-d", std::process::id()).into(),
        ..ProbeConfig::default()
    };
    let mut everything = Scene::with(&config, scene.quick)?;
    everything.all_of(&EventClass::ALL)?;
    scene.probes.apply_plan(&plan)?;
    for _ in 0..TRIES {
        let cgroup = Cgroup::new("differential")?;
        let before = (lost(scene)?, lost(&everything)?);
        for each in [&mut *scene, &mut everything] {
            each.only(Some(cgroup.id));
            each.settle()?;
            each.take();
        }
        cgroup.run_with_input(&["replay"], &serde_json::to_vec(&plays)?)?;
        scene.settle()?;
        everything.settle()?;
        let (mut some, mut all) = (scene.take(), everything.take());
        // The two rings are read by turns: how they mix is chance, and not the filter's doing.
        some.sort_by_key(|record| record.at);
        all.sort_by_key(|record| record.at);
        if (lost(scene)?, lost(&everything)?) != before {
            let losses = everything.probes.counts()?;
            let lossy: Vec<_> = losses.iter().filter(|(_, count)| count.lost() > 0).collect();
            println!("  once more: events were lost meanwhile: {lossy:?}");
            continue;
        }
        scene.only(None);
        let acts = (acts_in(&some, cgroup.id), acts_in(&all, cgroup.id));
        let (some, correlated) = findings(&set, &loaded, &some, cgroup.id);
        let (all, all_correlated) = findings(&set, &loaded, &all, cgroup.id);
        let rules: BTreeSet<&str> = all.keys().map(|(rule, ..)| rule.as_str()).collect();
        println!(
            "  {} findings of {} rules, and of {} correlations; {} acts with everything, {} with the rules' plan",
            all.values().sum::<usize>(),
            rules.len(),
            all_correlated.len(),
            acts.1,
            acts.0,
        );
        compare(&some, &all)?;
        if correlated != all_correlated {
            return Err(
                format!("correlations: {correlated:?} with the filter, {all_correlated:?} without").into()
            );
        }
        if rules.len() < enough {
            return Err(format!("only {} rules were set off: too few to prove anything", rules.len()).into());
        }
        if all_correlated.len() < ENOUGH_CORRELATIONS {
            return Err(format!("only {all_correlated:?} came true: too few to prove anything").into());
        }
        if acts.0 >= acts.1 {
            return Err("the filter let everything through".into());
        }
        return Ok(());
    }
    Err(Box::new(Skip("events were lost in every try: this machine is too busy".into())))
}

/// How often a rule matched what a process did.
type Findings = BTreeMap<(String, Pid, String), usize>;

/// What the rules find in the records, as the agent's own edge would, and which correlations come true of it, as in the controller.
fn findings(
    set: &Arc<RuleSet>,
    loaded: &Loaded,
    records: &[Record],
    cgroup: CgroupId,
) -> (Findings, BTreeSet<String>) {
    let limits = CorrelationLimits::default();
    let (mut correlator, _) = Correlator::new(&loaded.correlations, &loaded.rules, limits, (1, 2));
    let mut told = Vec::new();
    let mut tree = ProcessTree::new(Limits::default(), Box::new(NoProc), Box::new(OneWorkload));
    let mut matcher = set.matcher();
    let mut hits = Vec::new();
    let mut found = Findings::new();
    for (number, record) in (0_u64..).zip(records) {
        let view = tree.take_in(record);
        if record.task.cgroup != cgroup {
            continue;
        }
        let activity = match &record.body {
            Body::Exec(facts) => Activity::Exec { requested: facts.requested.clone() },
            Body::Fork { child, .. } => Activity::Fork { child: *child },
            Body::Exit(exit) => Activity::Exit(*exit),
            Body::Act(activity) => activity.clone(),
        };
        let target = match &activity {
            Activity::Ptrace { target, .. } | Activity::ProcessVmWrite { target } => {
                tree.process(*target).cloned()
            }
            _ => None,
        };
        let event = Event {
            id: EventId { node: NodeId::new("test"), epoch: AgentEpoch(1), seq: Seq(1) },
            time: Timestamp(i64::try_from(record.at.0).unwrap_or(0)),
            parent: view.ancestors.first().cloned(),
            process: view.process,
            ancestors: view.ancestors,
            exposure: view.exposure,
            activity,
        };
        hits.clear();
        matcher.evaluate_with(&event, Context { target: target.as_deref() }, &mut hits);
        for hit in &hits {
            let Some(rule) = set.rule(*hit) else { continue };
            let context = Context { target: target.as_deref() };
            correlator.observe(&rule.id, &View::with_context(&event, context), number, &mut told);
            let what = format!("{} {:?}: {:?}", event.process.exe, event.process.args, event.activity);
            *found.entry((rule.id.to_string(), record.task.key.pid, what)).or_default() += 1;
        }
    }
    correlator.finish(&mut told);
    (found, told.into_iter().map(|one| one.correlation).collect())
}

fn compare(some: &Findings, all: &Findings) -> Result<(), Failure> {
    let missing: Vec<_> = all.iter().filter(|(key, count)| some.get(key) != Some(count)).collect();
    let added: Vec<_> = some.keys().filter(|key| !all.contains_key(key)).collect();
    if missing.is_empty() && added.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} findings are missing with the filter, for example {:?}; {} are there only with it, for example {:?}",
        missing.len(),
        missing.iter().take(3).collect::<Vec<_>>(),
        added.len(),
        added.iter().take(3).collect::<Vec<_>>(),
    )
    .into())
}

fn lost(scene: &Scene) -> Result<u64, Failure> {
    Ok(scene.probes.counts()?.values().map(model::ClassCount::lost).sum())
}

fn acts_in(records: &[Record], cgroup: CgroupId) -> usize {
    records
        .iter()
        .filter(|record| record.task.cgroup == cgroup && matches!(record.body, Body::Act(_)))
        .count()
}

/// The rules that are shipped, and what happens in their tests.
pub(crate) struct RuleFiles {
    pub(crate) rules: Vec<SourceFile>,
    /// Each by itself.
    events: Vec<Event>,
    /// Those that make a correlation true, as far as the kernel sees them.
    sequences: Vec<Vec<Event>>,
}

pub(crate) fn rule_files() -> Result<RuleFiles, Failure> {
    // In the second kernel's guest they stand in the root folder.
    let guest = Path::new("/rules");
    let folder = match guest.is_dir() {
        true => guest.to_path_buf(),
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules"),
    };
    if !folder.is_dir() {
        return Err(Box::new(Skip(format!("no rules in {}", folder.display()))));
    }
    let (mut rules, mut tests) = (Vec::new(), Vec::new());
    let mut folders = vec![folder];
    while let Some(at) = folders.pop() {
        for path in
            fs::read_dir(at)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>, Failure>>()?
        {
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".test.yml") {
                tests.push(SourceFile { text: fs::read_to_string(&path)?, name });
            } else if name.ends_with(".yml") {
                rules.push(SourceFile { text: fs::read_to_string(&path)?, name });
            }
        }
    }
    rules.sort_by(|a, b| a.name.cmp(&b.name));
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    let mut sequences = written_sequences(&tests);
    sequences.retain(|events| events.iter().all(|event| Category::of(event).class().is_some()));
    Ok(RuleFiles { rules, events: written_events(&tests), sequences })
}

/// What is not in the records is not known, the same for both.
pub(crate) struct NoProc;

impl ProcSource for NoProc {
    fn all(&mut self) -> Vec<ProcFacts> {
        Vec::new()
    }
    fn read(&mut self, _: ProcessKey) -> Option<ProcFacts> {
        None
    }
    fn is_alive(&mut self, _: ProcessKey) -> bool {
        false
    }
}

pub(crate) struct OneWorkload;

impl WorkloadSource for OneWorkload {
    fn resolve(&mut self, _: CgroupId, _: Pid) -> Arc<Workload> {
        Arc::new(Workload::Host { cgroup_path: "/system.slice/app.service".into() })
    }
}
