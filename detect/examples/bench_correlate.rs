//! `cargo run --release -p hemostat-detect --example bench_correlate [-- --quick] [--json]`: hits a second on one core through 100
//! correlation rules of all kinds with 100,000 live groups. Time is the thread's own (`/proc/thread-self/schedstat`), so that other
//! work on the machine does not count. Ends with 1 if a target is missed.

use std::process::ExitCode;

use hemostat_detect::{
    correlation::{Correlator, Limits},
    load::load,
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};
use model::Timestamp;

type Failure = Box<dyn std::error::Error>;

const KINDS: [&str; 8] = [
    "type: event_count, condition: {gte: 20}",
    "type: event_count, condition: {gte: 500}",
    "type: value_count, condition: {field: ProcessId, gte: 10}",
    "type: value_sum, condition: {field: ProcessId, gte: 3000.5}",
    "type: value_avg, condition: {field: ProcessId, gte: 40}",
    "type: value_percentile, condition: {field: ProcessId, percentile: 95, gte: 48}",
    "type: temporal",
    "type: temporal_ordered",
];
const RULES: usize = 100;
const GROUPS_EACH: usize = 1000;
const BEGIN: Timestamp = Timestamp(1_767_225_600_000_000_000);

fn main() -> Result<ExitCode, Failure> {
    let given = |name: &str| std::env::args().any(|argument| argument == name);
    let hits = if given("--quick") { 1_000_000 } else { 5_000_000 };
    let files = [SourceFile { name: "bench.yml".into(), text: rules() }];
    let loaded = load(&files);
    if loaded.errors() > 0 {
        return Err("the bench's rules do not load".into());
    }
    let (mut correlator, _) = Correlator::new(&loaded.correlations, &loaded.rules, Limits::default(), (1, 2));
    let names: Vec<String> = (0..RULES).map(|rule| format!("r{rule}")).collect();
    let mut events = (0..GROUPS_EACH).map(event).collect::<Result<Vec<Drafted>, Failure>>()?;
    let mut told = vec![];
    let mut alerts = 0;
    let before = thread_nanos()?;
    for n in 0..hits {
        let group = n / RULES % GROUPS_EACH;
        // 10,000 hits a second of event time; each group is hit every 10 s, in windows of a minute.
        if n % RULES == 0 {
            events[group] =
                events[group].clone().at(BEGIN.plus(std::time::Duration::from_micros(n as u64 * 100)));
        }
        let drafted = &events[group];
        correlator.observe(&names[n % RULES], &drafted.view(), n as u64, &mut told);
        if n % 1000 == 0 {
            correlator.advance(drafted.event().time, &mut told);
            alerts += told.len();
            told.clear();
        }
    }
    let nanos = thread_nanos()? - before;
    let figures = [
        ("hits a second on one core", hits as f64 / (nanos as f64 / 1e9), "hits/s", 1_000_000.0, true),
        ("live groups", correlator.groups() as f64, "groups", 100_000.0, true),
        ("memory of the groups", correlator.bytes() as f64 / 1e6, "MB", 256.0, false),
        ("told", alerts as f64, "", 0.0, true),
    ];
    let mut missed = false;
    for (metric, value, unit, target, at_least) in figures {
        let ok = if at_least { value >= target } else { value < target };
        missed |= !ok;
        print(metric, value, unit, target, ok, given("--json"));
    }
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn print(metric: &str, value: f64, unit: &str, target: f64, ok: bool, json: bool) {
    if json {
        let line = serde_json::json!({"bench": "correlate", "metric": metric, "value": value, "unit": unit, "target": target, "ok": ok, "peer": null});
        println!("{line}");
    } else {
        println!("{metric:<30} {value:>14.0} {unit:<8} {target:>12.0} {}", if ok { "ok" } else { "MISSED" });
    }
}

/// A hundred rules, and a correlation over each; the temporal ones over one rule and the next.
fn rules() -> String {
    let one = |n: usize| {
        let rules = match n % KINDS.len() {
            6 | 7 => format!("[r{n}, r{}]", (n + 1) % RULES),
            _ => format!("[r{n}]"),
        };
        format!(
            "title: r{n}\nname: r{n}\nlogsource: {{product: linux, category: process_creation}}\ndetection: {{s: {{Image: /a}}, condition: s}}\n\
             ---\ntitle: c{n}\nname: c{n}\ncorrelation: {{rules: {rules}, group-by: [User, Image], timespan: 60s, {}}}\n---\n",
            KINDS[n % KINDS.len()]
        )
    };
    (0..RULES).map(one).collect()
}

fn event(group: usize) -> Result<Drafted, Failure> {
    let fields = [
        (Field::Uid, (group + 1000).to_string()),
        (Field::Image, format!("/usr/lib/some/service-{group}/bin/worker")),
        (Field::ProcessId, (group % 50).to_string()),
    ];
    Ok(Drafted::new(Category::ProcessCreation, &fields.map(|(field, text)| (field, DraftValue::One(text))))?)
}

/// Nanoseconds that this thread has been on a processor.
fn thread_nanos() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().ok_or("no schedstat")?.parse()?)
}
