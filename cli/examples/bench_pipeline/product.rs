//! The product under measurement: a controller with its sources, and the edge of the nodes.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use controller::{
    Controller, ControllerConfig,
    config::rules_below,
    ingest::{self, IngestConfig, SourceSpec, Start, Zone},
    wall_clock,
};
use detect::{
    fold::{self, Acted, Fold, Folded},
    keep::{InForce, Kept},
    matcher::{Options, RuleSet, Swap},
};
use model::{AgentEpoch, Down, Finding, FindingId, LossWindow, NodeId, Report, Seq, Up};
use wire::link::{AgentLink, in_process};

use super::{
    Failed, format,
    load::{Maker, SEED, SHARES},
    now, pin,
};

/// Until its input ends.
pub(crate) fn run(state: &Path) -> Result<(), Failed> {
    agent::allocator::give_back_freed_memory();
    if std::thread::available_parallelism()?.get() > 2 {
        pin(0..2)?;
    }
    let logs = PathBuf::from(fs::read_to_string(state.join("logs"))?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rules = vec![root.join("rules"), logs.join("bench.yml")];
    let InForce { loaded, .. } = Kept::default().take(rules_below(&rules));
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let set = Arc::new(set.feeding(&loaded.correlations, &loaded.rules));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut config = ControllerConfig::in_folders(&state.join("state"), state);
    config.rules = rules;
    config.playbooks = vec![root.join("playbooks")];
    let controller = runtime.block_on(Controller::start(config))?;
    let mut sources = Vec::new();
    for (sensor, _) in SHARES {
        let Some(format) = format(sensor) else { continue };
        let path = logs.join(format.name());
        fs::write(&path, "")?;
        sources.push(SourceSpec::log(format, path));
    }
    let config = IngestConfig {
        sources,
        state: state.join("state/sources"),
        start: Start::Beginning,
        rules: Arc::new(Swap::new(Arc::clone(&set))),
        clock: wall_clock(),
        poll: Duration::from_millis(20),
        zone: Zone::UTC,
    };
    let entered = runtime.enter();
    let mut sources = ingest::start(&config, &controller.attacher())?;
    let (link, end) = in_process(NodeId::new("bench-node"), 256);
    controller.attach(end);
    drop(entered);
    let judged = AtomicU64::new(0);
    edge(&set, link, &judged, state)?;
    sources.stop();
    runtime.block_on(controller.shutdown());
    sources.join();
    Ok(())
}

/// Judges as many events as it is told to, as a node's agent does, and reports what matches; durable spools are measured elsewhere.
fn edge(set: &Arc<RuleSet>, mut link: AgentLink, judged: &AtomicU64, state: &Path) -> Result<(), Failed> {
    let mut maker = Maker::new(SEED + 1);
    let mut matcher = set.matcher();
    let mut fold = Fold::new(fold::Limits::NODE);
    fold.feed(set.fed().map(|rule| rule.id.clone()));
    let (mut hits, mut seq) = (Vec::new(), 0);
    let hello = Up::Hello { node: NodeId::new("bench-node"), epoch: AgentEpoch(1) };
    link.up.blocking_send(hello)?;
    for line in BufReader::new(std::io::stdin()).lines() {
        let line = line?;
        let mut words = line.split(' ');
        let count: u64 = words.next().unwrap_or_default().parse()?;
        let mut attack: Option<u64> = words.next().and_then(|n| n.parse().ok());
        for _ in 0..count {
            let event = maker.event(now(), attack.take());
            hits.clear();
            matcher.evaluate(&event, &mut hits);
            for hit in &hits {
                let Some(rule) = set.rule(*hit) else { continue };
                let id = FindingId::derive(&event.id, &rule.id);
                let values = || set.matched(*hit, &event);
                let (folded, matched) = fold.take_in(rule, &event, &id, Acted::No, values);
                let Folded::First(_) = folded else { continue };
                seq += 1;
                let finding = Finding {
                    id,
                    rule: rule.clone(),
                    matched,
                    count: 1,
                    first: event.time,
                    last: event.time,
                    event: event.clone(),
                    ancestors: vec![],
                    context: vec![],
                    reactions: vec![],
                    moments: model::Moments::default(),
                    loss: LossWindow::default(),
                };
                let report = Box::new(Report::Finding(finding));
                link.up.blocking_send(Up::Report { seq: Seq(seq), report })?;
            }
        }
        while let Ok(Down::Ack { .. } | Down::Command(_) | Down::Rules(_) | Down::Guard(_)) =
            link.down.try_recv()
        {}
        let all = judged.fetch_add(count, Ordering::Relaxed) + count;
        fs::write(state.join("edge"), all.to_string())?;
    }
    Ok(())
}
