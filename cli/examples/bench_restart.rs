//! `cargo run --release -p hemostat --example bench_restart [-- --quick] [--json]`: a controller with a correlation of 24 hours over a
//! million live groups is stopped and started again; then every finding comes a second time, and of a thousand groups the finding that
//! makes them true. Ends with 1 if a target is missed.
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a bench prints its figures"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use controller::{Controller, ControllerConfig, ControllerHandle, client::Client, wall_clock};
use model::*;
use serde_json::json;
use wire::link::{AgentLink, in_process};

type Failed = Box<dyn std::error::Error>;

const RULES: &str = "title: One Command
id: one
logsource: {product: linux, category: process_creation}
detection: {s: {Image: /usr/bin/one}, condition: s}
level: medium
---
title: The Same Command Twice In A Day
id: twice
correlation: {type: event_count, rules: [one], group-by: [CommandLine], timespan: 24h, condition: {gte: 2}}
level: high
";
/// Groups that are made true after the restart.
const COMPLETED: u64 = 1_000;

fn main() -> Result<ExitCode, Failed> {
    let given = |name: &str| std::env::args().any(|word| word == name);
    let groups: u64 = if given("--quick") { 100_000 } else { 1_000_000 };
    let folder = std::env::temp_dir().join(format!("hemostat-bench-restart-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let done = measure(&folder, groups);
    fs::remove_dir_all(&folder)?;
    let lines = done?;
    for (metric, value, unit, target, ok) in &lines {
        if given("--json") {
            println!(
                "{}",
                json!({"bench": "correlate", "metric": metric, "value": value, "unit": unit, "target": target, "ok": ok, "peer": null})
            );
        } else {
            let target = target.map_or_else(|| "–".to_owned(), |target| format!("{target}"));
            println!(
                "{metric:<58} {value:>14.3} {unit:<10} {target:>12} {}",
                if *ok { "ok" } else { "MISS" }
            );
        }
    }
    Ok(if lines.iter().all(|line| line.4) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Line = (&'static str, f64, &'static str, Option<f64>, bool);

fn measure(folder: &Path, groups: u64) -> Result<Vec<Line>, Failed> {
    fs::create_dir(folder.join("rules"))?;
    fs::write(folder.join("rules/rules.yml"), RULES)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let base = wall_clock()();
        let handle = start(folder, groups).await?;
        let begun = Instant::now();
        tell(&handle, base, (0..groups).map(|n| (n, n)), 1).await?;
        let rate = groups as f64 / begun.elapsed().as_secs_f64();
        // What waits for its turn in the order of time has it.
        settle(folder, groups).await?;
        handle.shutdown().await;
        let size = fs::metadata(folder.join("state/journal.redb"))?.len() as f64 / 1e6;
        let begun = Instant::now();
        let handle = start(folder, groups).await?;
        let restored = begun.elapsed().as_secs_f64();
        let kept = live(folder).await?;
        // Again, as a node does whose acknowledgements were lost; its positions begin anew.
        tell(&handle, base, (0..groups).map(|n| (n, n)), groups + 1).await?;
        let doubled = live(folder).await? - kept;
        let client = Client::new(folder.join("controller.sock"));
        let early = client.incidents(10_000).await?.incidents.len();
        let step = groups / COMPLETED;
        tell(&handle, base, (0..COMPLETED).map(|n| (groups + n, n * step)), 2 * groups + 2).await?;
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until && (client.incidents(10_000).await?.incidents.len() as u64) < COMPLETED {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let found = client.incidents(10_000).await?.incidents.len();
        let last = client.incidents(1).await?.incidents;
        let evidence = match last.first() {
            Some(line) => client.incident(line.id.as_str()).await?.incident.findings.len(),
            None => 0,
        };
        handle.shutdown().await;
        Ok(vec![
            ("live groups after the restart", kept, "", Some(groups as f64), kept as u64 == groups),
            ("restored: from the start to its first answer", restored, "s", Some(5.0), restored < 5.0),
            ("journal", size, "MB", None, true),
            ("findings stored before, a second", rate, "findings/s", None, true),
            ("groups more when every finding came again", doubled, "", Some(0.0), doubled.abs() < 0.5),
            ("incidents when every finding came again", early as f64, "", Some(0.0), early == 0),
            (
                "incidents of the groups that were made true",
                found as f64,
                "",
                Some(COMPLETED as f64),
                found as u64 == COMPLETED,
            ),
            (
                "findings of such an incident: what came true, and both of its causes",
                evidence as f64,
                "",
                Some(3.0),
                evidence == 3,
            ),
        ])
    })
}

async fn start(folder: &Path, groups: u64) -> Result<ControllerHandle, Failed> {
    let mut config = ControllerConfig::in_folders(&folder.join("state"), folder);
    config.rules = vec![folder.join("rules")];
    let room = groups as usize + 10_000;
    config.correlation.groups = room;
    config.limits.fed = room;
    config.limits.seen = 4 * groups;
    config.limits.batch = 1024;
    config.limits.inbox = 4096;
    let socket: PathBuf = config.socket.clone();
    let handle = Controller::start(config).await?;
    Client::new(socket).status().await?;
    Ok(handle)
}

/// Tells findings as a node does, and waits until all of them are stored.
async fn tell(
    handle: &ControllerHandle,
    base: Timestamp,
    which: impl Iterator<Item = (u64, u64)>,
    first: u64,
) -> Result<(), Failed> {
    let (mut link, end): (AgentLink, _) = in_process(NodeId::new("n"), 4096);
    handle.attach(end);
    link.up.send(Up::Hello { node: NodeId::new("n"), epoch: AgentEpoch(1) }).await?;
    let process = Arc::new(process());
    let (mut seq, mut acked) = (first - 1, 0);
    for (number, group) in which {
        seq += 1;
        let report = Box::new(Report::Finding(finding(&process, base, number, group)));
        link.up.send(Up::Report { seq: Seq(seq), report }).await?;
        while let Ok(down) = link.down.try_recv() {
            if let Down::Ack { upto } = down {
                acked = upto.0;
            }
        }
    }
    while acked < seq {
        match link.down.recv().await {
            Some(Down::Ack { upto }) => acked = upto.0,
            Some(_) => {}
            None => return Err("the controller ended the link".into()),
        }
    }
    Ok(())
}

/// Waits until every hit has had its turn.
async fn settle(folder: &Path, groups: u64) -> Result<(), Failed> {
    let until = Instant::now() + Duration::from_secs(60);
    while (live(folder).await? as u64) < groups {
        if Instant::now() > until {
            return Err("the groups are never there".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Groups, by the controller's own count.
async fn live(folder: &Path) -> Result<f64, Failed> {
    let text = Client::new(folder.join("controller.sock")).metrics().await?;
    let line = text.lines().find(|line| line.starts_with("hemostat_controller_correlation_groups "));
    Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0))
}

fn process() -> Process {
    Process {
        key: ProcessKey { pid: Pid(77), start: BootNs(1) },
        parent: None,
        exe: "/usr/bin/one".into(),
        exe_file: ExeFile::default(),
        command_line: String::new(),
        args: vec![],
        args_truncated: Truncated::No,
        cwd: "/".into(),
        comm: "one".into(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(1),
        workload: Arc::new(Workload::Host { cgroup_path: "/".into() }),
        origin: ProcessOrigin::Exec,
        exit: None,
    }
}

fn finding(like: &Arc<Process>, base: Timestamp, number: u64, group: u64) -> Finding {
    let mut process = (**like).clone();
    process.key = ProcessKey { pid: Pid(1000 + (number % 4_000_000) as u32), start: BootNs(number) };
    process.command_line = format!("one --group {group}");
    let id = EventId { node: NodeId::new("n"), epoch: AgentEpoch(1), seq: Seq(number) };
    let time = Timestamp(base.0 + i64::try_from(number).unwrap_or(0) * 1000);
    Finding {
        id: FindingId::derive(&id, "one"),
        rule: RuleRef {
            id: "one".into(),
            title: "One Command".into(),
            level: Level::Medium,
            techniques: vec![],
            tactics: vec![],
            reaction: Reaction::None,
        },
        event: Event {
            id,
            time,
            process: Arc::new(process),
            parent: None,
            ancestors: Arc::new([]),
            exposure: Exposure::None,
            activity: Activity::Exec { requested: "/usr/bin/one".into() },
        },
        matched: std::collections::BTreeMap::new(),
        count: 1,
        first: time,
        last: time,
        ancestors: vec![],
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}
