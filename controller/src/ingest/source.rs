//! One source at work: lines in, reports out, one thread.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use detect::{
    matcher::{Follower, RuleIndex},
    schema::View,
};
use model::{Event, Finding, FindingId, LossWindow, NodeId, Report, Timestamp};

use super::{
    IngestConfig, SourceSpec,
    dead::DeadLetters,
    fold::{Fold, Folded},
    position::{Position, PositionFile},
    read::{MAX_RECORD, Place, Reader, Rejected, Told},
    report::{LinkLost, Reporter, State},
    tail::{Begins, Gap, Line, Tail},
};
use crate::{attribute::Pods, start::Attacher};

/// Lines taken at once; then acknowledgements, the position and the status have their turn.
const BATCH: usize = 256;

/// How long the status tells of a refused record or a gap.
const SHOWN: Duration = Duration::from_secs(600);

/// How often the status is told, counts of repeated findings and the position are written.
const TELL: Duration = Duration::from_secs(1);

/// How long acknowledgements are waited for at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Until it is told to stop. A link that breaks is made anew, and what was not acknowledged is read again.
pub(super) fn run(spec: &SourceSpec, config: &IngestConfig, controller: &Attacher, stop: &Receiver<()>) {
    let mut source = Source::new(spec, config);
    source.pods = controller.pods();
    tracing::info!(source = %source.name, "following a log");
    loop {
        match source.follow(controller, stop) {
            Ok(()) => break,
            Err(LinkLost) => {
                // An open channel without a message: not to stop yet.
                if !matches!(stop.recv_timeout(Duration::from_secs(1)), Err(RecvTimeoutError::Timeout)) {
                    break;
                }
            }
        }
    }
    tracing::info!(source = %source.name, records = source.counts.records, rejected = source.counts.rejected, "a log is left");
}

/// What was done since the start.
#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    records: u64,
    rejected: u64,
    findings: u64,
    gaps: u64,
}

struct Source<'a> {
    /// Told who opens sessions in pods.
    pods: Option<Pods>,
    spec: &'a SourceSpec,
    config: &'a IngestConfig,
    name: NodeId,
    positions: PositionFile,
    dead: DeadLetters,
    rules: Follower,
    fold: Fold,
    fed: Option<u64>,
    counts: Counts,
    /// The last refusal and the last gap, and when.
    refused: Option<(Timestamp, String)>,
    missed: Option<(Timestamp, String)>,
    /// What keeps the log or its position from being read or written.
    blind: Option<String>,
    broken: Option<String>,
    told: Vec<Told>,
    hits: Vec<RuleIndex>,
}

impl<'a> Source<'a> {
    fn new(spec: &'a SourceSpec, config: &'a IngestConfig) -> Self {
        let name = spec.name();
        // Paths may be long and hold anything: a file's name is the format and a digest.
        let digest = model::short_hash([name.as_str()], 6);
        let stem = config.state.join(format!("{}-{digest}", spec.format.name()));
        Self {
            pods: None,
            spec,
            config,
            name,
            positions: PositionFile::new(stem.with_extension("position")),
            dead: DeadLetters::new(stem.with_extension("dead.jsonl")),
            rules: config.rules.follow(),
            fold: Fold::default(),
            fed: None,
            counts: Counts::default(),
            refused: None,
            missed: None,
            blind: None,
            broken: None,
            told: Vec::new(),
            hits: Vec::new(),
        }
    }

    /// The life of one link.
    fn follow(&mut self, controller: &Attacher, stop: &Receiver<()>) -> Result<(), LinkLost> {
        // What was told over a link that was lost may not have been taken: it is read again and told again.
        self.fold = Fold::default();
        let resume = match self.positions.load() {
            Ok(position) => position,
            Err(error) => {
                self.broken = Some(format!("what was read before is not known: {error}"));
                None
            }
        };
        // Numbers never fall, even if the position was lost: a lower one would be taken for a repetition.
        let now = u64::try_from(self.now().0 / 1000).unwrap_or(0);
        let seq = resume.as_ref().map_or(0, |position| position.seq).max(now);
        let mut reporter = Reporter::connect(&self.name, controller, seq)?;
        let mut tail = Tail::new(&self.spec.path, resume, self.config.start);
        let mut reader = Reader::new(self.spec.format);
        let mut last = self.tell(&mut reporter, &tail)?;
        let mut lines = Vec::with_capacity(BATCH);
        loop {
            reporter.listen()?;
            let mut idle = true;
            if !reporter.is_full() {
                idle = self.read(&mut tail, &mut reader, &mut reporter, &mut lines)?;
            }
            if self.now().since(last) >= TELL || self.now() < last {
                last = self.tell(&mut reporter, &tail)?;
            }
            let wait = if idle { self.config.poll } else { Duration::ZERO };
            let wait = if reporter.waiting() > 0 { wait.min(Duration::from_millis(10)) } else { wait };
            match stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return self.finish(&mut reporter, &tail),
            }
        }
    }

    /// Takes a batch of lines; whether there was nothing.
    fn read(
        &mut self,
        tail: &mut Tail,
        reader: &mut Reader,
        reporter: &mut Reporter,
        lines: &mut Vec<Line>,
    ) -> Result<bool, LinkLost> {
        lines.clear();
        let outcome = tail.next(BATCH, lines);
        self.blind = outcome.err().map(|error| format!("{}: {error}", self.spec.path.display()));
        for gap in tail.gaps() {
            self.counts.gaps += 1;
            let what = match gap {
                Gap::Truncated => {
                    "the log was cut while it was read: what was written just before may be missing"
                }
                Gap::Vanished => {
                    "the file that was read last is gone or packed: what was added to it since is missing"
                }
            };
            tracing::warn!(source = %self.name, what);
            self.missed = Some((self.now(), what.into()));
        }
        let Some(file) = tail.identity().cloned().filter(|_| !lines.is_empty()) else { return Ok(true) };
        for line in lines.iter() {
            if line.begins == Begins::File && line.offset > 0 {
                match tail.first_line() {
                    Ok(first) => reader.first_line(&first),
                    Err(error) => self.blind = Some(error.to_string()),
                }
            } else if line.begins == Begins::File {
                reader.first_line(b"");
            }
            self.line(line, reader, reporter)?;
        }
        // All of them are dealt with; the last ones may have been the end of a file that was left.
        reporter.mark(Position { file, offset: tail.offset(), seq: 0 });
        Ok(false)
    }

    fn line(&mut self, line: &Line, reader: &mut Reader, reporter: &mut Reporter) -> Result<(), LinkLost> {
        self.counts.lines += 1;
        let mut told = std::mem::take(&mut self.told);
        told.clear();
        let outcome = if line.bytes > MAX_RECORD as u64 {
            let reason = format!("{} bytes, at most {MAX_RECORD}", line.bytes);
            Err(Rejected { place: "line".into(), reason })
        } else {
            reader.read(&line.text, Place { offset: line.offset, now: self.now() }, &mut told)
        };
        if let Err(rejected) = outcome {
            self.refuse(line, &rejected);
        }
        for one in told.drain(..) {
            self.counts.records += 1;
            if let Some(pods) = &self.pods {
                pods.heard(&one.record, one.time);
            }
            let event = one.record.into_event(&self.name, one.time);
            self.judge(&event, reporter)?;
        }
        self.told = told;
        Ok(())
    }

    fn refuse(&mut self, line: &Line, rejected: &Rejected) {
        let now = self.now();
        self.counts.rejected += 1;
        self.refused = Some((now, rejected.to_string()));
        let path = self.spec.path.display().to_string();
        if let Err(error) = self.dead.write(now, &path, line.offset, rejected, &line.text) {
            self.broken = Some(format!("dead letters cannot be written: {error}"));
        }
    }

    /// Runs an event through the rules; reports what they find.
    fn judge(&mut self, event: &Event, reporter: &mut Reporter) -> Result<(), LinkLost> {
        let Some(record) = event.record() else { return Ok(()) };
        self.hits.clear();
        let (generation, matcher) = self.rules.matcher();
        matcher.evaluate(event, &mut self.hits);
        let rules = std::sync::Arc::clone(matcher.rule_set());
        if self.fed != Some(generation) {
            self.fed = Some(generation);
            self.fold.feed(rules.fed().map(|rule| rule.id.clone()));
        }
        for hit in &self.hits {
            let Some(rule) = rules.rule(*hit) else { continue };
            let id = FindingId::derive(&event.id, &rule.id);
            let mut matched = rules.matched_with(*hit, &View::new(event));
            match self.fold.take_in(&rule.id, record, &matched, &id, event.time) {
                Folded::Again => continue,
                Folded::First => {}
                Folded::FirstOfMany => {
                    matched.insert(
                        Finding::MIXED.to_owned(),
                        "too many different ones to tell apart".to_owned(),
                    );
                }
            }
            self.counts.findings += 1;
            let finding = Finding {
                id,
                rule: rule.clone(),
                event: event.clone(),
                matched,
                count: 1,
                first: event.time,
                last: event.time,
                ancestors: vec![],
                context: vec![],
                reactions: vec![],
                loss: LossWindow::default(),
            };
            reporter.report(Report::Finding(finding))?;
        }
        Ok(())
    }

    /// Counts, position and status.
    fn tell(&mut self, reporter: &mut Reporter, tail: &Tail) -> Result<Timestamp, LinkLost> {
        let now = self.now();
        for repeat in self.fold.due() {
            let (finding, count, last) = (repeat.finding, repeat.count, repeat.last);
            reporter.report(Report::Repeat { finding, count, last })?;
        }
        self.keep(reporter);
        let recent = |what: &Option<(Timestamp, String)>| {
            what.as_ref().filter(|(at, _)| now.since(*at) < SHOWN).map(|(_, what)| what.clone())
        };
        let counts = &self.counts;
        let refused = recent(&self.refused).map(|why| {
            format!(
                "{} records refused, the last: {why} (see {})",
                counts.rejected,
                self.dead.path().display()
            )
        });
        let missed = recent(&self.missed).map(|what| format!("{} gaps, the last: {what}", counts.gaps));
        let state = State {
            format: self.spec.format.name(),
            rules: self.rules.matcher().1.rule_set().len() as u64,
            findings: counts.findings,
            summary: format!(
                "{} lines, {} records, {} refused, at byte {}",
                counts.lines,
                counts.records,
                counts.rejected,
                tail.offset()
            ),
            blind: self.blind.clone(),
            degraded: refused.into_iter().chain(missed).chain(self.broken.clone()).collect(),
        };
        reporter.status(now, state)?;
        Ok(now)
    }

    fn keep(&mut self, reporter: &mut Reporter) {
        let Some(position) = reporter.settled() else { return };
        match self.positions.save(&position) {
            Ok(()) => self.broken = None,
            Err(error) => {
                self.broken =
                    Some(format!("the position cannot be written, a restart will read again: {error}"));
            }
        }
    }

    /// Waits a little for what is not acknowledged; what stays so is read again at the next start.
    fn finish(&mut self, reporter: &mut Reporter, tail: &Tail) -> Result<(), LinkLost> {
        self.tell(reporter, tail)?;
        let until = std::time::Instant::now() + PATIENCE;
        while reporter.waiting() > 0 && std::time::Instant::now() < until {
            if reporter.listen().is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.keep(reporter);
        Ok(())
    }

    fn now(&self) -> Timestamp {
        (self.config.clock)()
    }
}
