//! `cargo run --release -p hemostat --example bench_replay [-- --quick] [--json]`: a recorded mixed load, from files, with the shipped rules and
//! playbooks, through `hemostat replay`'s own code. Ends with 1 if a target is missed.
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a bench prints its figures"
)]

#[path = "../bench_pipeline/load.rs"]
mod load;

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use controller::{
    ingest::{Format, Zone},
    replay::{Outcome, Recording, Setup, Surroundings, play},
};
use load::{Maker, SEED, SHARES, Sensor};
use model::{NodeId, Timestamp};
use serde_json::json;

type Failed = Box<dyn std::error::Error>;

/// Recorded over so long.
const SPAN: Duration = Duration::from_secs(30 * 86_400);
/// One event in so many is an attack: a thousand a day are 30,000 a month.
const ATTACKS: u64 = 2_000;
const TARGET: f64 = 500_000.0;

fn main() -> Result<ExitCode, Failed> {
    let given = |name: &str| std::env::args().any(|word| word == name);
    let events: u64 = if given("--quick") { 1_000_000 } else { 6_000_000 };
    let folder = PathBuf::from(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" })
        .join(format!("hemostat-bench-replay-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let done = measure(&folder, events);
    fs::remove_dir_all(&folder)?;
    let (outcome, same) = done?;
    let rate = outcome.read.events as f64 / outcome.read.seconds;
    let wrong = events - outcome.read.events + outcome.read.refused;
    let expected = events / ATTACKS;
    let lines = [
        (
            "events a second, read, judged, correlated, answered",
            rate,
            "events/s",
            Some(TARGET),
            rate >= TARGET,
        ),
        ("megabytes a second", outcome.read.bytes as f64 / 1e6 / outcome.read.seconds, "MB/s", None, true),
        ("events", outcome.read.events as f64, "", None, true),
        (
            "incidents of attacks",
            outcome.incidents.len() as f64,
            "",
            None,
            outcome.incidents.len() as u64 >= expected,
        ),
        ("events lost or refused", wrong as f64, "", Some(0.0), wrong == 0),
        ("differences when it is played again", f64::from(u8::from(!same)), "", Some(0.0), same),
    ];
    for (metric, value, unit, target, ok) in &lines {
        if given("--json") {
            println!(
                "{}",
                json!({"bench": "replay", "metric": metric, "value": value, "unit": unit, "target": target, "ok": ok, "peer": null})
            );
        } else {
            let target = target.map_or_else(|| "–".to_owned(), |target| format!("{target}"));
            println!(
                "{metric:<58} {value:>14.0} {unit:<10} {target:>12} {}",
                if *ok { "ok" } else { "MISS" }
            );
        }
    }
    Ok(if lines.iter().all(|line| line.4) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(folder: &Path, events: u64) -> Result<(Outcome, bool), Failed> {
    record(folder, events)?;
    fs::write(folder.join("bench.yml"), load::RULES)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let setup = Setup {
        name: "bench".into(),
        rules: vec![root.join("rules"), folder.join("bench.yml")],
        playbooks: vec![root.join("playbooks")],
        ..Setup::default()
    };
    let around = Surroundings { lateness: Duration::from_secs(120), ..Surroundings::default() };
    let run = || -> Result<Outcome, Failed> {
        Ok(play(recordings(folder)?, std::slice::from_ref(&setup), &around)?.remove(0))
    };
    let first = run()?;
    let mut again = run()?;
    let best = if again.read.seconds < first.read.seconds { again.clone() } else { first.clone() };
    again.read.seconds = first.read.seconds;
    Ok((best, again == first))
}

fn recordings(folder: &Path) -> Result<Vec<Recording>, Failed> {
    let log = |format: Format| {
        let path = folder.join(format.name());
        Recording::log(format, &[path], NodeId::new(format!("{}:bench", format.name())), &Zone::UTC)
    };
    Ok(vec![
        Recording::events(&[folder.join("events")], NodeId::new("events:bench"))?,
        log(Format::VpcFlow)?,
        log(Format::Hubble)?,
        log(Format::KubernetesAudit)?,
        log(Format::Auth)?,
    ])
}

fn record(folder: &Path, events: u64) -> Result<(), Failed> {
    let name = |sensor: Sensor| match sensor {
        Sensor::Kernel => "events",
        Sensor::Vpc => Format::VpcFlow.name(),
        Sensor::Hubble => Format::Hubble.name(),
        Sensor::Audit => Format::KubernetesAudit.name(),
        Sensor::Auth => Format::Auth.name(),
    };
    let mut files = Vec::new();
    for (sensor, share) in SHARES {
        files.push((
            sensor,
            share,
            BufWriter::with_capacity(1 << 20, File::create(folder.join(name(sensor)))?),
        ));
    }
    let mut maker = Maker::new(SEED);
    let begin = Timestamp(1_780_000_000_000_000_000);
    let step = SPAN.as_nanos() as i64 / events as i64;
    let mut line = Vec::new();
    let (mut number, mut owed) = (0_u64, [0_u64; SHARES.len()]);
    while number < events {
        for (place, (sensor, share, file)) in files.iter_mut().enumerate() {
            owed[place] += *share;
            while owed[place] >= 1000 && number < events {
                owed[place] -= 1000;
                number += 1;
                let at = Timestamp(begin.0 + number as i64 * step);
                let attack = number.is_multiple_of(ATTACKS).then_some(number / ATTACKS);
                line.clear();
                if *sensor == Sensor::Kernel {
                    serde_json::to_writer(&mut line, &maker.event(at, attack))?;
                    line.push(b'\n');
                } else {
                    maker.line(*sensor, at, attack, &mut line);
                }
                file.write_all(&line)?;
            }
        }
    }
    for (_, _, file) in &mut files {
        file.flush()?;
    }
    Ok(())
}
