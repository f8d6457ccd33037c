//! `cargo run --release -p hemostat --example bench_pipeline [-- --quick] [--json]`: 162,000 events a second of a mixed load go through a whole
//! controller, journal on disk, on two processors; the load is made on the others. Three times in a second one of them is an attack, and
//! it is measured when its incident can be seen over the control socket. Ends with 1 if a target is missed.
//!
//! The product is a child process of its own ([`product`]), so that processors and memory are counted apart from those of who makes the load:
//! nodes' events go to it through a pipe of its own only as a rate, since they are made where they are judged: on the node, which is
//! what the edge threads in that process stand for.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a bench prints its figures"
)]

mod load;
mod product;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use controller::{client::Client, ingest::Format};
use load::{ATTACKED, Maker, SEED, SHARES, Sensor};
use model::Timestamp;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

pub(crate) type Failed = Box<dyn std::error::Error>;

/// Events a second.
pub(crate) const RATE: u64 = 162_000;
/// Between two attacks: of each sensor fewer in 300 s than a rule tells apart in a source within a quarter of an hour (`detect::fold::Limits::RECORDS`), since
/// a flood beyond that is one incident.
const BETWEEN: Duration = Duration::from_millis(310);
/// Between two writes of the load.
const TICK: Duration = Duration::from_millis(10);
/// A log that is longer is rotated.
const ROTATE: u64 = 128 << 20;

fn main() -> Result<ExitCode, Failed> {
    let words: Vec<String> = std::env::args().collect();
    if let Some(folder) = words.iter().position(|word| word == "--product").and_then(|at| words.get(at + 1)) {
        return product::run(Path::new(folder)).map(|()| ExitCode::SUCCESS);
    }
    let given = |name: &str| words.iter().any(|word| word == name);
    let seconds = if given("--quick") { 20 } else { 300 };
    let root = PathBuf::from(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" })
        .join(format!("hemostat-bench-pipeline-{}", std::process::id()));
    let state = std::env::temp_dir().join(format!("hemostat-bench-pipeline-{}", std::process::id()));
    fs::create_dir(&root)?;
    fs::create_dir(&state)?;
    let done = measure(&root, &state, Duration::from_secs(seconds));
    let removed = fs::remove_dir_all(&root).and(fs::remove_dir_all(&state));
    let lines = done?;
    removed?;
    for (metric, value, unit, target, ok) in &lines {
        if given("--json") {
            println!(
                "{}",
                json!({"bench": "pipeline", "metric": metric, "value": value, "unit": unit, "target": target, "ok": ok, "peer": null})
            );
        } else {
            let target = target.map_or_else(|| "–".to_owned(), |target| format!("{target}"));
            println!(
                "{metric:<58} {value:>14.1} {unit:<10} {target:>12} {}",
                if *ok { "ok" } else { "MISS" }
            );
        }
    }
    Ok(if lines.iter().all(|line| line.4) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Line = (&'static str, f64, &'static str, Option<f64>, bool);

/// The product, ended when it is dropped.
struct Product(Child);

impl Drop for Product {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn measure(logs: &Path, state: &Path, long: Duration) -> Result<Vec<Line>, Failed> {
    fs::write(logs.join("bench.yml"), load::RULES)?;
    fs::write(state.join("logs"), logs.display().to_string())?;
    let processors = std::thread::available_parallelism()?.get();
    let mut product = Product(
        Command::new(std::env::current_exe()?)
            .arg("--product")
            .arg(state)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?,
    );
    let pid = product.0.id();
    // The load is made elsewhere, where there is an elsewhere.
    if processors > 2 {
        pin(2..processors)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(state.join("controller.sock"));
    runtime.block_on(ready(&client))?;
    let mut load = Load::new(logs)?;
    let mut seen = Seen::default();
    let mut edge = product.0.stdin.take().ok_or("no way to the edge")?;
    let begun = Instant::now();
    let cpu_before = processor_seconds(pid)?;
    let (mut ticks, mut next_attack, mut memory) = (0_u32, Duration::ZERO, Vec::new());
    let mut since = 0;
    while begun.elapsed() < long {
        let due = TICK * ticks;
        if let Some(wait) = due.checked_sub(begun.elapsed()) {
            // Whoever waits looks meanwhile what can be seen.
            let list = runtime.block_on(client.watch(since, wait.max(Duration::from_millis(1))))?;
            since = list.revision;
            seen.look(&list.incidents);
            continue;
        }
        ticks += 1;
        let attack = (begun.elapsed() >= next_attack).then(|| {
            next_attack += BETWEEN;
            seen.next()
        });
        load.tick(attack, &mut edge)?;
        if let Some(n) = attack {
            seen.began.insert(n, Instant::now());
        }
        if ticks.is_multiple_of(100) {
            memory.push(resident(pid)?);
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let cpu = (processor_seconds(pid)? - cpu_before) / took;
    // What was told last has its time, too.
    let until = Instant::now() + Duration::from_secs(20);
    while seen.began.len() > seen.latencies.len() && Instant::now() < until {
        let list = runtime.block_on(client.watch(since, Duration::from_millis(100)))?;
        since = list.revision;
        seen.look(&list.incidents);
    }
    if seen.began.len() > seen.latencies.len() {
        let of = |n: &u64| SHARES[(*n as usize) % SHARES.len()].0;
        let unseen: Vec<String> = seen
            .began
            .keys()
            .filter(|n| !seen.latencies.contains_key(n))
            .map(|n| format!("{n} ({:?})", of(n)))
            .collect();
        let known = runtime.block_on(client.incidents(1000))?.incidents;
        let targets: Vec<String> = known.iter().take(20).map(|one| one.target.clone()).collect();
        eprintln!("unseen: {}\nsome of {} incidents: {}", unseen.join(", "), known.len(), targets.join(", "));
    }
    std::thread::sleep(Duration::from_secs(3));
    let metrics = runtime.block_on(client.metrics())?;
    drop(edge);
    let count = |result: &str| metric(&metrics, result);
    let taken = count("taken")
        + fs::read_to_string(state.join("edge")).ok().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let lost = load.told.saturating_sub(taken) + count("refused") + count("gap");
    let rate = load.told as f64 / took;
    let mut latencies: Vec<f64> = seen.latencies.values().map(|d| d.as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        latencies.get(((latencies.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    };
    let unseen = seen.began.len() - seen.latencies.len();
    // The first fifth fills caches and windows.
    let early = memory.get(memory.len() / 5).copied().unwrap_or(0.0);
    let late = memory.last().copied().unwrap_or(0.0);
    Ok(vec![
        ("offered and taken", rate, "events/s", Some(RATE as f64 * 0.99), rate >= RATE as f64 * 0.99),
        ("of them records of logs, as lines", load.lines as f64 / took, "lines/s", None, true),
        ("events lost, refused or left out", lost as f64, "", Some(0.0), lost == 0),
        ("attacks without an incident", unseen as f64, "", Some(0.0), unseen == 0),
        ("attacks", seen.began.len() as f64, "", None, true),
        ("event to incident, p50", quantile(0.5), "ms", None, true),
        ("event to incident, p99", quantile(0.99), "ms", Some(250.0), quantile(0.99) < 250.0),
        ("processors used, of two", cpu, "", Some(2.0), cpu <= 2.05),
        ("resident after a fifth of the time", early, "MB", None, true),
        ("resident at the end", late, "MB", Some(early + 64.0), late <= early + 64.0),
    ])
}

async fn ready(client: &Client) -> Result<(), Failed> {
    let until = Instant::now() + Duration::from_secs(60);
    while client.status().await.is_err() {
        if Instant::now() > until {
            return Err("the controller does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Sources say hello.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// What the logs are written in.
pub(crate) fn format(sensor: Sensor) -> Option<Format> {
    match sensor {
        Sensor::Kernel => None,
        Sensor::Vpc => Some(Format::VpcFlow),
        Sensor::Hubble => Some(Format::Hubble),
        Sensor::Audit => Some(Format::KubernetesAudit),
        Sensor::Auth => Some(Format::Auth),
    }
}

/// Who tells, its share, what is owed of it, and the log with its length; nodes have none.
type Log = (Sensor, u64, u64, PathBuf, Option<(File, u64)>);

struct Load {
    maker: Maker,
    logs: Vec<Log>,
    told: u64,
    lines: u64,
    bytes: Vec<u8>,
}

impl Load {
    fn new(folder: &Path) -> Result<Self, Failed> {
        let mut logs = Vec::new();
        for (sensor, share) in SHARES {
            let path = folder.join(format(sensor).map_or("events", Format::name));
            let file = match format(sensor) {
                Some(_) => Some((File::options().append(true).open(&path)?, 0)),
                None => None,
            };
            logs.push((sensor, share, 0, path, file));
        }
        Ok(Self { maker: Maker::new(SEED), logs, told: 0, lines: 0, bytes: Vec::new() })
    }

    /// A hundredth of a second.
    fn tick(&mut self, attack: Option<u64>, edge: &mut impl std::io::Write) -> Result<(), Failed> {
        let each = RATE * TICK.as_millis() as u64;
        for (place, (sensor, share, owed, path, file)) in self.logs.iter_mut().enumerate() {
            *owed += each * *share;
            let count = *owed / 1_000_000;
            *owed %= 1_000_000;
            self.told += count;
            let mut own = attack.filter(|n| (*n as usize) % SHARES.len() == place);
            let Some((log, length)) = file else {
                writeln!(edge, "{count} {}", own.map_or(-1, |n| n as i64))?;
                continue;
            };
            self.bytes.clear();
            let now = now();
            for _ in 0..count {
                self.maker.line(*sensor, now, own.take(), &mut self.bytes);
            }
            self.lines += count;
            log.write_all(&self.bytes)?;
            *length += self.bytes.len() as u64;
            if *length > ROTATE {
                fs::rename(&*path, path.with_extension("1"))?;
                *log = File::options().create(true).append(true).open(&*path)?;
                *length = 0;
            }
        }
        Ok(())
    }
}

/// Attacks and when they could be seen.
#[derive(Default)]
struct Seen {
    numbers: u64,
    began: BTreeMap<u64, Instant>,
    latencies: BTreeMap<u64, Duration>,
}

impl Seen {
    fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn look(&mut self, incidents: &[controller::api::IncidentSummary]) {
        let now = Instant::now();
        for incident in incidents {
            if let Some(n) = number(&incident.target)
                && let Some(began) = self.began.get(&n)
            {
                self.latencies.entry(n).or_insert_with(|| now - *began);
            }
        }
    }
}

/// The attack that an incident is about.
fn number(target: &str) -> Option<u64> {
    let digits = |text: &str| -> Option<u64> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    if let Some(at) = target.find("attacker-") {
        return digits(&target[at + 9..]);
    }
    if let Some(rest) = target.strip_prefix("process ") {
        return digits(rest)?.checked_sub(10_000_000);
    }
    let (_, interface) = target.split_once("/eni-")?;
    u64::from_str_radix(interface, 16).ok()?.checked_sub(ATTACKED)
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// This thread, and those that it makes, on these processors.
pub(crate) fn pin(on: std::ops::Range<usize>) -> Result<(), Failed> {
    let mut set = CpuSet::new();
    on.for_each(|one| set.set(one));
    Ok(sched_setaffinity(None, &set)?)
}

/// Processor time of a process in seconds: fields 14 and 15 of /proc/PID/stat, in ticks of a hundredth.
fn processor_seconds(pid: u32) -> Result<f64, Failed> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    Ok(fields.iter().sum::<f64>() / 100.0)
}

/// Memory of a process in MB.
fn resident(pid: u32) -> Result<f64, Failed> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0)
}

/// All of one result, over all formats.
fn metric(text: &str, result: &str) -> u64 {
    let wanted = format!("result=\"{result}\"");
    text.lines()
        .filter(|line| line.starts_with("hemostat_controller_source_records_total") && line.contains(&wanted))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|n| n as u64)
        .sum()
}
