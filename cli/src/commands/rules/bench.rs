//! `hemostat rules bench`: the user's own rules on this machine's processor.

use std::{
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use detect::{
    ast::Rule,
    load::load,
    matcher::{Matcher, Options, RuleIndex, RuleSet},
    rule_test::written_events,
    source::SourceFile,
    specimen::specimens,
};
use model::{Event, Finding, Incident};
use serde::Serialize;

use super::{is_test, read_rules};
use crate::{
    Shared,
    commands::files_below,
    exit::{Ended, Exit},
    render::{self, Column, Fit, Table, Window},
};

/// Largest file of events, and the most events taken from it: a recording of an hour is cut, not refused.
const MAX_FILE: u64 = 512 << 20;
const MAX_EVENTS: usize = 200_000;
/// Events between two looks at the clock.
const SLICE: usize = 500;

/// How much to measure and to show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub(super) top: usize,
    pub(super) time: Duration,
}

#[derive(Serialize)]
struct Benched {
    rules: usize,
    events: usize,
    /// Where the events are from: `recorded` or `made`.
    source: &'static str,
    /// On one core, with the processor to itself.
    events_per_second: f64,
    nanoseconds_per_event: f64,
    /// Rules whose whole condition was evaluated, and those that matched, for one event.
    candidates_per_event: f64,
    matches_per_event: f64,
    compile_seconds: f64,
    table_bytes: usize,
    /// The rules that were looked at most, first the one that was looked at most.
    slowest: Vec<Slow>,
}

#[derive(Serialize)]
struct Slow {
    rule: String,
    title: String,
    /// Share of the events for which its condition was evaluated, and that it matched.
    candidate_share: f64,
    match_share: f64,
    /// Time for one event with this rule alone.
    alone_nanoseconds: f64,
}

pub(super) fn run(shared: &Shared, paths: &[PathBuf], events: Option<&Path>, effort: Effort) -> Result<Exit> {
    let loaded = load(&read_rules(paths)?);
    if loaded.rules.is_empty() {
        return Err(Ended::with(Exit::Unknown, "there is no rule to measure".to_owned()));
    }
    let (source, events) = match events {
        Some(path) => ("recorded", recorded(path)?),
        None => ("made", made(paths, &loaded.rules)?),
    };
    if events.is_empty() {
        return Err(Ended::with(Exit::Unknown, "there is no event to measure with".to_owned()));
    }
    let benched = bench(&loaded.rules, &events, source, effort);
    render::print(shared.output, &benched, |window| page(&benched, window))?;
    Ok(Exit::Good)
}

#[expect(clippy::cast_precision_loss, reason = "counts for people")]
fn bench(rules: &[Rule], events: &[Event], source: &'static str, effort: Effort) -> Benched {
    let options =
        Options { sample: events.get(..events.len().min(4000)).unwrap_or(&[]), ..Options::default() };
    let begun = processor_time();
    let (set, _diagnostics) = RuleSet::compile(rules, options);
    let compile_seconds = (processor_time() - begun).as_secs_f64();
    let set = Arc::new(set);
    let (matcher, each) = measure(&set, events, effort.time);
    let costs = matcher.costs();
    let evaluated = events.len() as f64;
    let mut ranked: Vec<_> = costs.iter().collect();
    ranked.sort_by_key(|(index, cost)| (std::cmp::Reverse((cost.looked_at, cost.matched)), **index));
    let slowest = ranked
        .into_iter()
        .take(effort.top)
        .filter_map(|(RuleIndex(index), cost)| {
            let rule = rules.get(*index as usize)?;
            let alone = Arc::new(RuleSet::compile(std::slice::from_ref(rule), options).0);
            Some(Slow {
                rule: rule.key().to_owned(),
                title: rule.meta.title.value.clone(),
                candidate_share: cost.looked_at as f64 / evaluated,
                match_share: cost.matched as f64 / evaluated,
                alone_nanoseconds: measure(&alone, events, Duration::from_millis(30)).1,
            })
        })
        .collect();
    Benched {
        rules: rules.len(),
        events: events.len(),
        source,
        events_per_second: 1e9 / each,
        nanoseconds_per_event: each,
        candidates_per_event: costs.values().map(|cost| cost.looked_at).sum::<u64>() as f64 / evaluated,
        matches_per_event: costs.values().map(|cost| cost.matched).sum::<u64>() as f64 / evaluated,
        compile_seconds,
        table_bytes: set.table_bytes(),
        slowest,
    }
}

/// The matcher after one counted round, and nanoseconds for an event: for each slice the fastest of many rounds, so that what else
/// the machine does does not count.
#[expect(clippy::cast_precision_loss, reason = "counts for people")]
fn measure(set: &Arc<RuleSet>, events: &[Event], time: Duration) -> (Matcher, f64) {
    let (mut counted, mut matcher) = (set.matcher(), set.matcher());
    let mut hits = Vec::new();
    for event in events {
        hits.clear();
        counted.evaluate(event, &mut hits);
    }
    let mut fastest = vec![Duration::MAX; events.len().div_ceil(SLICE)];
    let begun = processor_time();
    // The first round warms the caches; the second is the least that is measured.
    for round in 0_usize.. {
        for (slice, fastest) in events.chunks(SLICE).zip(&mut fastest) {
            // A few events are done many times: the clock of a thread in a virtual machine may stand for microseconds.
            let times = SLICE / slice.len();
            let start = processor_time();
            for event in std::iter::repeat_n(slice, times).flatten() {
                hits.clear();
                matcher.evaluate(event, &mut hits);
                std::hint::black_box(&hits);
            }
            let took = (processor_time() - start) / u32::try_from(times).unwrap_or(u32::MAX);
            // What took no time was not measured.
            if !took.is_zero() {
                *fastest = (*fastest).min(took);
            }
        }
        let measured = fastest.iter().all(|fastest| *fastest < Duration::MAX);
        if round > 0 && measured && processor_time() - begun >= time {
            break;
        }
    }
    (counted, fastest.iter().sum::<Duration>().as_nanos() as f64 / events.len() as f64)
}

/// Time that this thread has been on a core.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn recorded(path: &Path) -> Result<Vec<Event>> {
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut events = Vec::new();
    for (number, line) in BufReader::new(file.take(MAX_FILE)).lines().enumerate() {
        let line = line.with_context(|| format!("read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        if events.len() >= MAX_EVENTS {
            break;
        }
        if let Ok(event) = serde_json::from_str::<Event>(&line) {
            events.push(event);
        } else if let Ok(finding) = serde_json::from_str::<Finding>(&line) {
            events.push(finding.event);
        } else if let Ok(incident) = serde_json::from_str::<Incident>(&line) {
            events.extend(incident.findings.into_iter().map(|finding| finding.event));
        } else {
            let message = format!(
                "{}, line {}: no event, finding or incident as JSON on one line",
                path.display(),
                number + 1
            );
            return Err(Ended::with(Exit::Unknown, message));
        }
    }
    Ok(events)
}

/// The events of the tests that stand beside the rules, and events made from the rules.
fn made(paths: &[PathBuf], rules: &[Rule]) -> Result<Vec<Event>> {
    let tests = files_below(paths, &[".yml", ".yaml"])?
        .into_iter()
        .filter(|path| is_test(path))
        .map(|path| {
            let bytes =
                std::fs::read(&path).with_context(|| format!("read the test file {}", path.display()))?;
            Ok(SourceFile {
                name: path.display().to_string(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut events = written_events(&tests);
    events.extend(rules.iter().flat_map(specimens).map(|drafted| drafted.event().clone()));
    events.truncate(MAX_EVENTS);
    Ok(events)
}

fn page(benched: &Benched, window: Window) -> String {
    let mut out = format!(
        "{} rules, {} {} events\n{:.0} events/s on one core, {:.0} ns an event\n{:.2} rules looked at and {:.2} matched for an event\n\
         compiled in {:.3} s, {:.1} MiB of tables\n\n",
        benched.rules,
        benched.events,
        benched.source,
        benched.events_per_second,
        benched.nanoseconds_per_event,
        benched.candidates_per_event,
        benched.matches_per_event,
        benched.compile_seconds,
        mebibytes(benched.table_bytes),
    );
    let mut table = Table::new(vec![
        Column { heading: "LOOKED AT", fit: Fit::Keep },
        Column { heading: "MATCHED", fit: Fit::Keep },
        Column { heading: "ALONE", fit: Fit::Keep },
        Column { heading: "RULE", fit: Fit::Drop(1) },
        Column { heading: "TITLE", fit: Fit::Shrink(20) },
    ]);
    for slow in &benched.slowest {
        table.row([
            format!("{:.2} %", slow.candidate_share * 100.0),
            format!("{:.2} %", slow.match_share * 100.0),
            format!("{:.0} ns", slow.alone_nanoseconds),
            slow.rule.clone(),
            slow.title.clone(),
        ]);
    }
    out.push_str(&table.render(window));
    out
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1_u32 << 20)
}
