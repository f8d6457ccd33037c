//! `cargo xtask bench detect`: events a second on one core, beside rsigma-eval 0.23 in the same run on the same events.
//!
//! Arguments: `--quick` (under a minute), `--json` (one object a line). Ends with 1 if a target is missed. `--events` prints the
//! events alone.
//! Where valgrind is installed it also counts instructions, for a figure without noise (`--instructions` is its part).

mod events;
mod peer;
mod rules;
mod scaling;

use std::{collections::BTreeMap, hint::black_box, process::ExitCode, sync::Arc, time::Duration};

use hemostat_detect::{
    ast::Rule,
    matcher::{Matcher, Options, RuleCost, RuleIndex, RuleSet},
    schema::Category,
    source::SourceFile,
};
use model::Event;

use crate::{events::Strings, peer::Peer};

const SEED: u64 = 20_261_122;
const RULES: usize = 2800;
/// Evaluated over and over. So few that they fit into the processor's caches: on a node an event is evaluated right after it
/// was decoded, so fetching it from memory is not the engine's cost. Far more than any of the engine's caches can hold.
const EVENTS: usize = 8000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, Failure> {
    let arguments: Vec<_> = std::env::args().collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    if given("--instructions") {
        let rules = arguments.iter().find_map(|argument| argument.strip_prefix("--rules=")?.parse().ok());
        return instructions(
            rules.unwrap_or(RULES),
            if given("--unique") { Strings::Unique } else { Strings::Repeating },
        );
    }
    let rules = arguments.iter().find_map(|argument| argument.strip_prefix("--rules=")?.parse().ok());
    if given("--profile") {
        let only = arguments.iter().find_map(|argument| argument.strip_prefix("--only="));
        return profile(rules.unwrap_or(RULES), only);
    }
    if given("--record") {
        return record();
    }
    if given("--events") {
        return print_events();
    }
    if given("--growth") {
        return only_growth();
    }
    let time = if given("--quick") { Duration::from_millis(700) } else { Duration::from_secs(4) };
    let mut report = Report { json: given("--json"), lines: Vec::new() };
    run(time, &mut report)?;
    Ok(report.end())
}

#[expect(clippy::cast_precision_loss, reason = "counts for a table")]
fn run(time: Duration, report: &mut Report) -> Result<(), Failure> {
    let yaml = rules::yaml(RULES, SEED);
    let rules = load(RULES)?;
    let repeating = events::generate(EVENTS, SEED, Strings::Repeating);
    let unique = events::generate(EVENTS, SEED, Strings::Unique);
    let sample = events::generate(2000, SEED + 1, Strings::Repeating);
    let options = Options { sample: &sample, ..Options::default() };

    let three_thousand = load(3000)?;
    let start = cpu_time();
    let (set, _) = RuleSet::compile(&three_thousand, options);
    report.most("compile 3,000 rules", (cpu_time() - start).as_secs_f64(), "s", 1.0);
    report.most("tables of 3,000 rules", set.table_bytes() as f64 / 1048576.0, "MiB", 32.0);
    drop(set);

    let set = compile(&rules, options);
    let peer = Peer::new(&yaml)?;
    same_hits(&set, &peer, &repeating[..repeating.len().min(5000)], report)?;

    // Turn by turn, so that whatever else the machine does falls on both.
    let (mut ours, mut theirs, mut cold) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(rate(&set, &repeating, time / 3));
        theirs.push(peer_rate(&peer, &repeating, time / 3));
        cold.push(rate(&set, &unique, time / 3));
    }
    let (ours, theirs, cold) = (best(ours), best(theirs), best(cold));
    report.least("2,800 rules, one core", ours, "events/s", 1_000_000.0);
    report.note("rsigma-eval 0.23, the same", theirs, "events/s");
    report.least("ratio to rsigma-eval 0.23", ours / theirs, "x", 10.0);
    report.least("2,800 rules, every string unique", cold, "events/s", 600_000.0);
    let many_events = events::generate(5 * EVENTS, SEED, Strings::Repeating);
    report.note("2,800 rules, events fetched from memory", rate(&set, &many_events, time / 2), "events/s");
    drop(many_events);
    for (category, name) in [
        (Category::ProcessCreation, "exec"),
        (Category::NetworkConnection, "connect"),
        (Category::FileEvent, "file"),
    ] {
        let of_category: Vec<_> =
            repeating.iter().filter(|event| Category::of(event) == category).cloned().collect();
        report.note(&format!("one {name} event"), 1e9 / rate(&set, &of_category, time / 4), "ns");
    }

    check_instructions(report)?;

    let (few, many) = (load(100)?, load(10_000)?);
    let raw = growth(&few, &many, &repeating, options, time, ["100 rules", "10,000 rules"], report);
    report.most("growth from 100 to 10,000 rules", raw, "x", 2.0);
    let (few, many) = alike_in_hits(&repeating, options)?;
    let names = ["100 rules with 0.14 hits for an event", "10,000 rules with 0.14 hits for an event"];
    let alike = growth(&few, &many, &repeating, options, time, names, report);
    report.most("growth at public rules' share of hits", alike, "x", 2.0);

    let scaling = scaling::two_cores(time / 4, |time| average(&set, &repeating, time))?;
    let (one, other) = scaling.processors;
    report.note(
        &format!("a calculation on processors {one} and {other} against one"),
        scaling.calculation,
        "x",
    );
    report.least("two cores against one, the same two", scaling.asked, "x", 1.9);
    Ok(())
}

/// How much dearer an event is with `many` rules than with `few`: both turn by turn, so that whatever else the machine does
/// falls on both.
fn growth(
    few: &[Rule],
    many: &[Rule],
    events: &[Event],
    options: Options<'_>,
    time: Duration,
    names: [&str; 2],
    report: &mut Report,
) -> f64 {
    let (few, many) = (compile(few, options), compile(many, options));
    let (mut fast, mut slow) = (0.0_f64, 0.0_f64);
    for _ in 0..4 {
        fast = fast.max(rate(&few, events, time / 4));
        slow = slow.max(rate(&many, events, time / 4));
    }
    report.note(names[0], 1e9 / fast, "ns/event");
    report.note(names[1], 1e9 / slow, "ns/event");
    fast / slow
}

/// Hits for an event with public rules, by our research (27,156 of 200,000 events with 2,800 of them).
const PUBLIC_HITS: f64 = 0.14;

/// 100 and 10,000 rules with as many hits as public rules have. Of made-up rules each hundredth one hits, however many there
/// are, and with 10,000 most of an event's cost is telling its hits; of real ones those that hit all the time are mended. So both
/// have the same few rules that hit, and as many as are needed of those that never do on these events.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts for a table"
)]
fn alike_in_hits(events: &[Event], options: Options<'_>) -> Result<(Vec<Rule>, Vec<Rule>), Failure> {
    let all = load(12_000)?;
    let mut matcher = compile(&all, options).matcher();
    let mut hits = Vec::with_capacity(64);
    for event in events {
        hits.clear();
        matcher.evaluate(event, &mut hits);
    }
    let costs = matcher.costs();
    let (mut left, mut noisy, mut quiet) =
        ((PUBLIC_HITS * events.len() as f64) as u64, Vec::new(), Vec::new());
    for (position, rule) in all.into_iter().enumerate() {
        match costs.get(&RuleIndex(position as u32)).map_or(0, |cost| cost.matched) {
            0 => quiet.push(rule),
            matched if matched <= left && noisy.len() < 50 => {
                left -= matched;
                noisy.push(rule);
            }
            _ => {}
        }
    }
    let of = |count: usize| noisy.iter().chain(&quiet).take(count).cloned().collect::<Vec<_>>();
    let (few, many) = (of(100), of(10_000));
    if many.len() < 10_000 {
        return Err("too few rules that never hit".into());
    }
    Ok((few, many))
}

/// Rules through our own front end.
fn load(count: usize) -> Result<Vec<Rule>, Failure> {
    let text = rules::yaml(count, SEED);
    let documents: Vec<_> = text.split("---\n").collect();
    let files: Vec<_> = documents
        .chunks(500)
        .enumerate()
        .map(|(number, chunk)| SourceFile { name: format!("{number}.yml"), text: chunk.join("---\n") })
        .collect();
    let loaded = hemostat_detect::load::load(&files);
    if loaded.rules.len() != count {
        let why = hemostat_detect::diagnostic::render(&loaded.diagnostics[..1], &files, Default::default());
        return Err(format!("{} of {count} generated rules load: {why}", loaded.rules.len()).into());
    }
    Ok(loaded.rules)
}

fn compile(rules: &[Rule], options: Options<'_>) -> Arc<RuleSet> {
    Arc::new(RuleSet::compile(rules, options).0)
}

/// Time that this thread has been on a core: another program that takes the core away for a while does not count.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Events for each second of a core, from the fastest of many rounds for each slice of the events: the other rounds were slowed
/// by whatever else the machine does, which also takes the caches.
#[expect(clippy::cast_precision_loss, reason = "counts for a table")]
fn rate(set: &Arc<RuleSet>, events: &[Event], time: Duration) -> f64 {
    let mut rounds = Rounds::new(set);
    rounds.run(events, time);
    events.len() as f64 / rounds.fastest.iter().sum::<Duration>().as_secs_f64()
}

/// Events of a slice: fewer take less time than a program runs before another gets its core.
const SLICE: usize = 500;

/// Rounds of one matcher over the same events.
struct Rounds {
    matcher: Matcher,
    hits: Vec<RuleIndex>,
    /// For each slice.
    fastest: Vec<Duration>,
    count: u32,
    total: Duration,
}

impl Rounds {
    fn new(set: &Arc<RuleSet>) -> Self {
        Self {
            matcher: set.matcher(),
            hits: Vec::with_capacity(64),
            fastest: Vec::new(),
            count: 0,
            total: Duration::ZERO,
        }
    }

    /// At least two rounds, the first of which is not counted.
    fn run(&mut self, events: &[Event], time: Duration) {
        self.fastest = vec![Duration::MAX; events.len().div_ceil(SLICE)];
        events.iter().for_each(|event| self.evaluate(event));
        while self.total < time {
            for (number, slice) in events.chunks(SLICE).enumerate() {
                let start = cpu_time();
                slice.iter().for_each(|event| self.evaluate(event));
                let took = cpu_time() - start;
                self.fastest[number] = self.fastest[number].min(took);
                self.total += took;
            }
            self.count += 1;
        }
    }

    #[inline]
    fn evaluate(&mut self, event: &Event) {
        self.hits.clear();
        self.matcher.evaluate(event, &mut self.hits);
        black_box(&self.hits);
    }
}

/// The peer's rate, in the same way.
#[expect(clippy::cast_precision_loss, reason = "counts for a table")]
fn peer_rate(peer: &Peer, events: &[Event], time: Duration) -> f64 {
    let mut fastest = vec![Duration::MAX; events.len().div_ceil(SLICE)];
    let begin = cpu_time();
    while fastest.contains(&Duration::MAX) || cpu_time() - begin < time {
        for (number, slice) in events.chunks(SLICE).enumerate() {
            let start = cpu_time();
            slice.iter().for_each(|event| {
                black_box(peer.count(event));
            });
            fastest[number] = fastest[number].min(cpu_time() - start);
        }
    }
    events.len() as f64 / fastest.iter().sum::<Duration>().as_secs_f64()
}

/// Events for each second of a core over all rounds.
#[expect(clippy::cast_precision_loss, reason = "counts for a table")]
fn average(set: &Arc<RuleSet>, events: &[Event], time: Duration) -> f64 {
    let mut rounds = Rounds::new(set);
    rounds.run(events, time);
    f64::from(rounds.count) * events.len() as f64 / rounds.total.as_secs_f64()
}

/// Rule by rule the same number of hits, or the comparison means nothing.
#[expect(clippy::cast_precision_loss, reason = "counts for a table")]
fn same_hits(set: &Arc<RuleSet>, peer: &Peer, events: &[Event], report: &mut Report) -> Result<(), Failure> {
    let mut matcher = set.matcher();
    let (mut ours, mut theirs) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    let (mut hits, mut hit_events) = (Vec::<RuleIndex>::new(), 0_usize);
    for event in events {
        hits.clear();
        matcher.evaluate(event, &mut hits);
        hit_events += usize::from(!hits.is_empty());
        for rule in hits.iter().filter_map(|hit| set.rule(*hit)) {
            *ours.entry(rule.id.clone()).or_default() += 1;
        }
        for id in peer.evaluate(event) {
            *theirs.entry(id).or_default() += 1;
        }
    }
    let different: Vec<_> =
        ours.keys().chain(theirs.keys()).filter(|id| ours.get(*id) != theirs.get(*id)).take(5).collect();
    if !different.is_empty() {
        return Err(format!("hits differ from rsigma-eval's for rules {different:?}").into());
    }
    let looked_at: u64 = matcher.costs().values().map(|cost| cost.looked_at).sum();
    report.note("events with a hit", 100.0 * hit_events as f64 / events.len() as f64, "%");
    report.note("hits, the same as rsigma-eval's rule by rule", ours.values().sum::<usize>() as f64, "");
    report.note("hits for an event", ours.values().sum::<usize>() as f64 / events.len() as f64, "");
    report.note("rules that hit", ours.len() as f64, "");
    report.note("rules looked at for an event", looked_at as f64 / events.len() as f64, "");
    Ok(())
}

/// Instructions for one event as they were recorded (`--record` writes them): rules, strings, count.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
/// A count further from what was recorded is told: more is a regression, less is to be recorded.
const TOLERANCE: f64 = 0.03;

fn counted() -> [(usize, Strings, &'static str); 4] {
    [
        (100, Strings::Repeating, "instructions for one event, 100 rules"),
        (RULES, Strings::Repeating, "the same, 2,800 rules"),
        (10_000, Strings::Repeating, "the same, 10,000 rules"),
        (RULES, Strings::Unique, "2,800 rules, every string unique"),
    ]
}

fn check_instructions(report: &mut Report) -> Result<(), Failure> {
    let recorded = std::fs::read_to_string(RECORDED)?;
    for ((rules, strings, name), count) in counted().into_iter().zip(count_all()) {
        let key = format!("{rules} {strings:?} ");
        let before: f64 = recorded
            .lines()
            .find_map(|line| line.strip_prefix(&key)?.parse().ok())
            .ok_or_else(|| format!("{RECORDED} has no line `{key}`"))?;
        match count {
            Some(count) => report.near(name, count, before, TOLERANCE),
            None => report.skip(name, "valgrind is not installed"),
        }
    }
    Ok(())
}

/// All counts at once: they do not depend on what else the machine does.
fn count_all() -> Vec<Option<f64>> {
    std::thread::scope(|scope| {
        let counting =
            counted().map(|(rules, strings, _)| scope.spawn(move || instructions_per_event(rules, strings)));
        counting.into_iter().map(|one| one.join().ok().flatten()).collect()
    })
}

fn record() -> Result<ExitCode, Failure> {
    let mut lines =
        String::from("# Instructions for one event, by `bench_detect --record`: rules, strings, count.\n");
    for ((rules, strings, _), count) in counted().into_iter().zip(count_all()) {
        let count = count.ok_or("valgrind is not installed")?;
        lines.push_str(&format!("{rules} {strings:?} {count:.0}\n"));
    }
    std::fs::write(RECORDED, lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Events whose evaluation valgrind counts.
const COUNTED: usize = 2000;

/// Instructions for one event, counted by valgrind over the second round; `None` without valgrind.
#[expect(clippy::cast_precision_loss, reason = "counts for a table")]
fn instructions_per_event(rules: usize, strings: Strings) -> Option<f64> {
    let output = std::process::Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured_round*"])
        .arg(std::env::current_exe().ok()?)
        .args(["--instructions".to_owned(), format!("--rules={rules}")])
        .args((strings == Strings::Unique).then_some("--unique"))
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().parse::<u64>().ok()?;
    Some(collected as f64 / COUNTED as f64)
}

fn instructions(rules: usize, strings: Strings) -> Result<ExitCode, Failure> {
    let sample = events::generate(2000, SEED + 1, Strings::Repeating);
    let set = compile(&load(rules)?, Options { sample: &sample, ..Options::default() });
    let mut matcher = set.matcher();
    let mut hits = Vec::with_capacity(64);
    for event in &events::generate(EVENTS, SEED, strings) {
        matcher.evaluate(event, &mut hits);
        hits.clear();
    }
    measured_round(&mut matcher, &events::generate(COUNTED, SEED + 2, strings), &mut hits);
    Ok(ExitCode::SUCCESS)
}

#[inline(never)]
fn measured_round(matcher: &mut Matcher, events: &[Event], hits: &mut Vec<RuleIndex>) {
    for event in events {
        hits.clear();
        matcher.evaluate(event, hits);
        black_box(&hits);
    }
}

/// The growth alone, by category, for the one who works on it.
#[expect(clippy::print_stderr, reason = "a word for the one who profiles")]
fn only_growth() -> Result<ExitCode, Failure> {
    let sample = events::generate(2000, SEED + 1, Strings::Repeating);
    let options = Options { sample: &sample, ..Options::default() };
    let repeating = events::generate(EVENTS, SEED, Strings::Repeating);
    let unique = events::generate(EVENTS, SEED, Strings::Unique);
    let of = |category| {
        let chosen = repeating.iter().filter(move |event| Category::of(event) == category);
        chosen.cloned().collect::<Vec<_>>()
    };
    let (exec, connect, file) =
        (of(Category::ProcessCreation), of(Category::NetworkConnection), of(Category::FileEvent));
    let sets = [100, RULES, 10_000].map(|count| load(count).map(|rules| compile(&rules, options)));
    let mut best = [[0.0_f64; 5]; 3];
    for _ in 0..5 {
        for (set, best) in sets.iter().zip(&mut best) {
            let Ok(set) = set else { continue };
            for (events, best) in [&repeating, &exec, &connect, &file, &unique].into_iter().zip(best) {
                *best = best.max(rate(set, events, Duration::from_millis(150)));
            }
        }
    }
    eprintln!("{:>12} {:>8} {:>8} {:>8} {:>8} {:>8}", "rules", "all", "exec", "connect", "file", "unique");
    for (name, best) in ["100", "2800", "10000"].into_iter().zip(best) {
        let [all, exec, connect, file, unique] = best.map(|rate| 1e9 / rate);
        eprintln!("{name:>12} {all:>8.0} {exec:>8.0} {connect:>8.0} {file:>8.0} {unique:>8.0} ns/event");
    }
    eprintln!("{:>12} {:>8.2}", "growth", best[0][0] / best[2][0]);
    let (few, many) = alike_in_hits(&repeating, options)?;
    let mut report = Report { json: false, lines: Vec::new() };
    let names = ["100 rules with 0.14 hits for an event", "10,000 rules with 0.14 hits for an event"];
    let alike = growth(&few, &many, &repeating, options, Duration::from_millis(1500), names, &mut report);
    report.note("growth at public rules' share of hits", alike, "x");
    Ok(ExitCode::SUCCESS)
}

/// The events as JSON, one a line: for `hemostat rules bench --events`.
#[expect(clippy::print_stdout, reason = "a bench prints")]
fn print_events() -> Result<ExitCode, Failure> {
    for event in events::generate(EVENTS, SEED, Strings::Repeating) {
        println!("{}", serde_json::to_string(&event)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs for ten seconds, for a profiler.
#[expect(clippy::print_stderr, reason = "a word for the one who profiles")]
fn profile(rules: usize, only: Option<&str>) -> Result<ExitCode, Failure> {
    let sample = events::generate(2000, SEED + 1, Strings::Repeating);
    let set = compile(&load(rules)?, Options { sample: &sample, ..Options::default() });
    let mut events = events::generate(EVENTS, SEED, Strings::Repeating);
    events.retain(|event| only.is_none_or(|only| Category::of(event).name() == only));
    let mut rounds = Rounds::new(&set);
    rounds.run(&events, Duration::from_secs(10));
    let costs = rounds.matcher.costs();
    let evaluated = f64::from(rounds.count + 1) * events.len() as f64;
    let of = |count: &dyn Fn(&RuleCost) -> u64| costs.values().map(count).sum::<u64>() as f64 / evaluated;
    eprintln!(
        "{:.0} events/s; for an event {:.2} rules looked at, {:.2} match",
        evaluated / rounds.total.as_secs_f64(),
        of(&|cost| cost.looked_at),
        of(&|cost| cost.matched)
    );
    let mut dearest: Vec<_> = costs.iter().collect();
    dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.looked_at));
    for (rule, cost) in dearest.into_iter().take(12) {
        let share = |count: u64| count as f64 / evaluated;
        eprintln!(
            "rule {}: looked at {:.4}, matches {:.4} of the events",
            rule.0,
            share(cost.looked_at),
            share(cost.matched)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn best(values: Vec<f64>) -> f64 {
    values.into_iter().fold(0.0, f64::max)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Figures with their targets.
struct Report {
    json: bool,
    lines: Vec<Line>,
}

struct Line {
    metric: String,
    value: f64,
    unit: &'static str,
    target: Option<String>,
    ok: Option<bool>,
}

impl Report {
    fn least(&mut self, metric: &str, value: f64, unit: &'static str, least: f64) {
        self.add(metric, value, unit, Some(format!(">= {least}")), Some(value >= least));
    }

    fn most(&mut self, metric: &str, value: f64, unit: &'static str, most: f64) {
        self.add(metric, value, unit, Some(format!("< {most}")), Some(value < most));
    }

    fn near(&mut self, metric: &str, value: f64, recorded: f64, tolerance: f64) {
        let ok = (value / recorded - 1.0).abs() <= tolerance;
        let target = format!("{recorded:.0} +-{:.0} %", tolerance * 100.0);
        self.add(metric, value, "", Some(target), Some(ok));
    }

    fn note(&mut self, metric: &str, value: f64, unit: &'static str) {
        self.add(metric, value, unit, None, None);
    }

    #[expect(clippy::print_stderr, reason = "skipped aloud")]
    fn skip(&self, metric: &str, why: &str) {
        eprintln!("SKIPPED: {metric}: {why}");
    }

    #[expect(clippy::print_stdout, reason = "a bench prints its figures")]
    fn add(
        &mut self,
        metric: &str,
        value: f64,
        unit: &'static str,
        target: Option<String>,
        ok: Option<bool>,
    ) {
        let line = Line { metric: metric.to_owned(), value, unit, target, ok };
        if self.json {
            println!(
                "{}",
                serde_json::json!({
                    "bench": "detect", "metric": line.metric, "value": line.value, "unit": line.unit,
                    "target": line.target, "ok": line.ok,
                    "peer": line.metric.contains("rsigma").then_some("rsigma-eval 0.23.0"),
                })
            );
        } else {
            let verdict = match line.ok {
                Some(true) => "ok",
                Some(false) => "MISSED",
                None => "",
            };
            let target = line.target.as_deref().unwrap_or("");
            println!("{:<46} {:>12} {:<9} {target:<12} {verdict}", line.metric, rounded(value), line.unit);
        }
        self.lines.push(line);
    }

    fn end(&self) -> ExitCode {
        if self.lines.iter().any(|line| line.ok == Some(false)) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

fn rounded(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
