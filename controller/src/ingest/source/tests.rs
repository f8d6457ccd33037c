//! One source over a link whose other end the test holds: what is written down when.

mod hostile;

use std::{
    fs::{OpenOptions, write},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use detect::{
    load::load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use model::{Down, Finding, Report, Seq, Up};
use wire::link::{ControllerLink, in_process};

use super::*;
use crate::ingest::{CUT_RULE, Start, Zone};

const RULES: &str = "title: Failed
id: failed
logsource: {product: linux, service: sshd}
detection: {s: {AuthOutcome: failure}, condition: s}
level: high
---
title: Evil Image
id: image
logsource: {product: kubernetes, service: audit}
detection: {s: {requestObject.spec.containers.image|contains: xmrig}, condition: s}
level: high
";

const NOW: Timestamp = Timestamp(1_795_359_845_000_000_000);

struct Bench {
    folder: tempfile::TempDir,
    config: IngestConfig,
    spec: SourceSpec,
}

impl Bench {
    fn new(format: Format, start: Start) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let loaded = load(&[SourceFile { name: "r".into(), text: RULES.into() }]);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let spec = SourceSpec::log(format, folder.path().join("log"));
        let config = IngestConfig {
            sources: vec![spec.clone()],
            state: folder.path().into(),
            start,
            rules: Arc::new(Swap::new(Arc::new(set))),
            clock: Arc::new(|| NOW),
            poll: Duration::from_millis(1),
            zone: Zone::UTC,
        };
        Self { folder, config, spec }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn append(&self, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.log()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn position(&self) -> Option<Position> {
        Source::new(&self.spec, &self.config).positions.load().unwrap()
    }
}

/// A source on a link; what a thread does in [`Source::follow`] is done step by step.
struct Running<'a> {
    source: Source<'a>,
    reporter: Reporter,
    tail: Tail,
    reader: Reader,
    end: ControllerLink,
}

impl<'a> Running<'a> {
    fn start(bench: &'a Bench) -> Self {
        let mut source = Source::new(&bench.spec, &bench.config);
        let resume = source.recall();
        let (link, end) = in_process(source.name.clone(), 4096);
        let seq = resume.as_ref().map_or(0, |position| position.seq);
        let reporter = Reporter::over(link, &source.name, seq).unwrap();
        let tail = Tail::new(&bench.log(), resume, bench.config.start);
        let reader = Reader::new(bench.spec.format, Zone::UTC);
        Self { source, reporter, tail, reader, end }
    }

    fn read(&mut self) {
        let mut lines = vec![];
        while !self.source.read(&mut self.tail, &mut self.reader, &mut self.reporter, &mut lines).unwrap() {}
    }

    fn tell(&mut self) {
        self.reporter.listen().unwrap();
        self.source.tell(&mut self.reporter, &self.tail).unwrap();
    }

    fn heard(&mut self) -> Vec<(u64, Report)> {
        let mut reports = vec![];
        while let Ok(up) = self.end.up.try_recv() {
            if let Up::Report { seq, report } = up {
                reports.push((seq.0, *report));
            }
        }
        reports
    }

    fn findings(&mut self) -> Vec<Finding> {
        let of = |(_, report)| if let Report::Finding(finding) = report { Some(finding) } else { None };
        self.heard().into_iter().filter_map(of).collect()
    }

    fn ack(&mut self, upto: u64) {
        self.end.down.try_send(Down::Ack { upto: Seq(upto) }).unwrap();
    }
}

fn failed(port: u16) -> String {
    format!("Nov 22 14:10:03 h sshd[1]: Failed password for root from 192.0.2.6 port {port} ssh2\n")
}

fn grow(path: &Path, lines: usize) -> u64 {
    write(path, (0..lines).map(|n| failed(n as u16)).collect::<String>()).unwrap();
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn i3_a_position_waits_for_the_repetitions_that_it_covers() {
    let bench = Bench::new(Format::Auth, Start::Beginning);
    let length = grow(&bench.log(), 1);
    let mut run = Running::start(&bench);
    run.read();
    let first = run.heard();
    assert_eq!(first.len(), 1);
    run.ack(first[0].0);
    run.tell();
    assert_eq!(bench.position().unwrap().offset, length);
    // Ten more of the same: nothing of them is reported until their count is.
    bench.append(&(0..10).map(failed).collect::<String>());
    run.read();
    assert_eq!(run.heard(), []);
    run.tell();
    let told = run.heard();
    assert!(matches!(&told[..], [(_, Report::Repeat { count: 11, .. })]), "{told:?}");
    run.tell();
    assert_eq!(bench.position().unwrap().offset, length, "the count is not stored yet");
    run.ack(told[0].0);
    run.tell();
    assert!(bench.position().unwrap().offset > length);
}

#[test]
fn i3_where_a_log_is_begun_is_written_down_before_its_first_line() {
    let bench = Bench::new(Format::Auth, Start::Now);
    let length = grow(&bench.log(), 3);
    let mut run = Running::start(&bench);
    run.read();
    assert_eq!(bench.position().unwrap().offset, length);
    // Killed; and something is written before the next start.
    drop(run);
    bench.append(&failed(9));
    let mut run = Running::start(&bench);
    run.read();
    assert_eq!(run.findings().len(), 1);
}

#[test]
fn i3_a_log_that_comes_while_nobody_looks_is_read_whole() {
    let bench = Bench::new(Format::Auth, Start::Now);
    let mut run = Running::start(&bench);
    run.read();
    assert!(bench.position().unwrap().file.is_none());
    assert!(run.source.blind.is_some());
    drop(run);
    grow(&bench.log(), 1);
    let mut run = Running::start(&bench);
    run.read();
    assert_eq!(run.findings().len(), 1);
    assert!(!bench.position().unwrap().file.is_none());
}

fn create(containers: impl IntoIterator<Item = serde_json::Value>) -> String {
    let containers: Vec<serde_json::Value> = containers.into_iter().collect();
    let event = serde_json::json!({
        "kind": "Event", "auditID": "a", "stage": "ResponseComplete", "verb": "create",
        "requestURI": "/api/v1/namespaces/pay/pods", "user": {"username": "eve"},
        "objectRef": {"resource": "pods", "namespace": "pay", "name": "x"}, "sourceIPs": ["192.0.2.9"],
        "requestReceivedTimestamp": "2026-11-22T14:10:03.000000Z",
        "requestObject": {"spec": {"containers": containers}},
    });
    format!("{event}\n")
}

#[test]
fn what_an_attacker_puts_in_front_hides_nothing() {
    let bench = Bench::new(Format::KubernetesAudit, Start::Beginning);
    let harmless = |n: usize| serde_json::json!({"name": format!("c{n}"), "image": "x".repeat(40)});
    let evil = serde_json::json!({"name": "z", "image": "registry/xmrig:1"});
    bench.append(&create((0..4000).map(harmless).chain([evil])));
    let mut run = Running::start(&bench);
    run.read();
    let findings = run.findings();
    assert_eq!(findings.len(), 1, "4001 containers are looked at");
    assert_eq!(findings[0].rule.id, "image");
    let kept = &findings[0].event.record().unwrap().facts;
    assert!(serde_json::to_vec(kept).unwrap().len() < 512 * 1024, "I11: what is kept with it is short");
}

#[test]
fn a_record_that_is_too_large_to_be_judged_whole_says_so() {
    let bench = Bench::new(Format::KubernetesAudit, Start::Beginning);
    let harmless = |n: usize| serde_json::json!({"name": format!("c{n}"), "image": "x"});
    let evil = serde_json::json!({"name": "z", "image": "registry/xmrig:1"});
    let large = create((0..6000).map(harmless).chain([evil]));
    bench.append(&large);
    bench.append(&large.replace("\"a\"", "\"b\""));
    let mut run = Running::start(&bench);
    run.read();
    let findings = run.findings();
    assert_eq!(findings.len(), 1, "twice the same cause is one finding");
    assert_eq!(findings[0].rule.id, CUT_RULE);
    assert!(
        findings[0].matched["cut"].contains("requestObject.spec.containers.image"),
        "{:?}",
        findings[0].matched
    );
    assert_eq!(findings[0].event.record().unwrap().principal.as_ref().unwrap().name, "eve");
    assert_eq!(run.source.judge.cut, 2);
    let said = run.source.degraded(NOW).join("\n");
    assert!(said.contains("2 records were too large to be judged whole"), "{said}");
}

#[test]
fn a_clock_or_zone_that_cannot_be_right_is_said() {
    let bench = Bench::new(Format::Auth, Start::Beginning);
    // NOW is 15:04:05: this one is an hour ahead.
    bench.append("Nov 22 16:04:05 h sshd[1]: Failed password for root from 192.0.2.6 port 1 ssh2\n");
    let mut run = Running::start(&bench);
    run.read();
    let said = run.source.degraded(NOW).join("\n");
    assert!(said.contains("59 min ahead") || said.contains("60 min ahead"), "{said}");
    run.source.skewed = None;
    bench.append("Nov 22 10:04:05 h sshd[1]: Failed password for root from 192.0.2.6 port 1 ssh2\n");
    run.read();
    let said = run.source.degraded(NOW).join("\n");
    assert!(said.contains("300 min before it was appended") && said.contains("--source-zone"), "{said}");
}

#[test]
fn a_gap_is_written_beside_the_refused_records() {
    let bench = Bench::new(Format::Auth, Start::Beginning);
    grow(&bench.log(), 3);
    let mut run = Running::start(&bench);
    run.read();
    write(bench.log(), "").unwrap();
    run.read();
    let letters = std::fs::read_to_string(run.source.dead.path()).unwrap();
    assert!(letters.contains("\"gap\":\"the log was cut"), "{letters}");
    assert!(bench.folder.path().exists());
}
