//! How many records a second one core reads and judges: `cargo run --release -p hemostat-controller --example ingest_rate -- FORMAT LOG RULES…`.
//!
//! Every line of LOG is read again and again for about five seconds, first only read into records, then also run through the rules.
#![expect(clippy::print_stdout, reason = "its result")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use detect::{
    load::load,
    matcher::{Options, RuleSet},
    source::SourceFile,
};
use hemostat_controller::{
    ingest::{
        Format,
        read::{Place, Reader, Told, Zone},
    },
    wall_clock,
};
use model::NodeId;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut words = std::env::args().skip(1);
    let (Some(format), Some(log)) = (words.next(), words.next()) else {
        return Err("usage: ingest_rate FORMAT LOG RULES…".into());
    };
    let format = Format::from_name(&format).ok_or("unknown format")?;
    let text = std::fs::read(&log)?;
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let mut files = vec![];
    for folder in words {
        rules_below(Path::new(&folder), &mut files)?;
    }
    let loaded = load(&files);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let set = Arc::new(set);
    println!("{} lines, {} bytes, {} rules", lines.len(), text.len(), set.len());
    let source = NodeId::new("bench");
    let mut reader = Reader::new(format, Zone::UTC);
    let (rate, _) = measure(&lines, &mut reader, |told| told.clear());
    println!("read:           {rate:>10.0} lines/s");
    let (mut matcher, mut hits) = (set.matcher(), vec![]);
    let mut found = 0;
    let (rate, rounds) = measure(&lines, &mut reader, |told| {
        for one in told.drain(..) {
            hits.clear();
            matcher.evaluate(&one.record.into_event(&source, one.time), &mut hits);
            found += hits.len();
        }
    });
    println!("read and judge: {rate:>10.0} lines/s, {} matches in the log", found / rounds.max(1));
    Ok(())
}

/// Lines a second, and how often all of them were read.
fn measure(lines: &[&[u8]], reader: &mut Reader, mut take: impl FnMut(&mut Vec<Told>)) -> (f64, usize) {
    let (begun, now, mut told) = (Instant::now(), (wall_clock())(), vec![]);
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        for line in lines {
            // A line that is refused costs as well.
            drop(reader.read(line, Place { offset: 0, now }, &mut told));
            take(&mut told);
        }
        rounds += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 lines")]
    let rate = (rounds * lines.len()) as f64 / begun.elapsed().as_secs_f64();
    (rate, rounds)
}

fn rules_below(folder: &Path, files: &mut Vec<SourceFile>) -> Result<(), Failed> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let name = path.display().to_string();
        if path.is_dir() {
            rules_below(&path, files)?;
        } else if name.ends_with(".yml") && !name.ends_with(".test.yml") {
            files.push(SourceFile { text: std::fs::read_to_string(&path)?, name });
        }
    }
    Ok(())
}
