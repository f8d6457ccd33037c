//! One source at work: lines in, reports out, one thread.

use std::{
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use model::{NodeId, Timestamp};

use super::{
    Door, IngestConfig, SourceSpec, Start,
    arrive::Arrivals,
    dead::DeadLetters,
    inbox::Envelope,
    judge::Judge,
    position::{Position, PositionFile},
    read::{Format, MAX_RECORD, Place, Reader, Rejected, Told},
    report::{LinkLost, Reporter, State},
    tail::{Begins, Gap, Line, Tail},
};
use crate::{attribute::Pods, metrics::format_result, start::Attacher};

/// Lines taken at once; then acknowledgements, the position and the status have their turn.
const BATCH: usize = 256;

/// How long the status tells of a refused record or a gap.
const SHOWN: Duration = Duration::from_secs(600);

/// How often the status is told, counts of repeated findings and the position are written.
const TELL: Duration = Duration::from_secs(1);

/// How long acknowledgements are waited for at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often an inbox is looked at that has nothing new: who posts waits for nobody, so what he posts should not either.
const ARRIVALS_POLL: Duration = Duration::from_millis(20);

/// How far a record may be dated ahead of this machine's clock before it is said.
const AHEAD: Duration = Duration::from_secs(120);

/// How far a line of syslog may be dated behind the moment it was appended before it is said: its zone may be another than is believed.
const BEHIND: Duration = Duration::from_secs(29 * 60);

/// Until it is told to stop. A link that breaks is made anew, and what was not acknowledged is read again.
pub(super) fn run(spec: &SourceSpec, config: &IngestConfig, controller: &Attacher, stop: &Receiver<()>) {
    let mut source = Source::new(spec, config);
    source.pods = controller.pods();
    if source.arrivals.is_none() && matches!(source.log.try_exists(), Ok(false)) {
        let log = source.log.display();
        tracing::warn!(source = %source.name, %log, "a source's log is not there yet; it is read from its beginning as soon as it is, and `hemostat status` tells of it until then");
    } else {
        tracing::info!(source = %source.name, "following a source");
    }
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
    tracing::info!(source = %source.name, records = source.counts.records, rejected = source.counts.rejected, "a source is left");
}

/// What was done since the start.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    lines: u64,
    records: u64,
    rejected: u64,
    gaps: u64,
}

struct Source<'a> {
    /// Told who opens sessions in pods.
    pods: Option<Pods>,
    spec: &'a SourceSpec,
    config: &'a IngestConfig,
    /// The log that is followed: the source's own, or the inbox of what comes to us.
    log: PathBuf,
    arrivals: Option<Arrivals>,
    name: NodeId,
    positions: PositionFile,
    dead: DeadLetters,
    judge: Judge,
    counts: Counts,
    /// What was counted when the metrics were last told.
    counted: (Counts, u64),
    /// How far the log is dealt with but for the repetitions that are not told yet.
    dealt: Option<Position>,
    /// Whether a position of the log is on disk.
    begun: Begun,
    /// Whether all that is read now has just been written.
    live: bool,
    refused: Noted,
    missed: Noted,
    cut: Noted,
    skewed: Noted,
    /// What keeps the log or its position from being read or written.
    blind: Option<String>,
    broken: Option<String>,
    /// What keeps dead letters from being written.
    unwritten: Option<String>,
    told: Vec<Told>,
}

/// The last of a kind, and when.
type Noted = Option<(Timestamp, String)>;

/// What is on disk of where the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    /// That there was none.
    Absent,
    Yes,
}

impl<'a> Source<'a> {
    fn new(spec: &'a SourceSpec, config: &'a IngestConfig) -> Self {
        let name = spec.name();
        // Paths may be long and hold anything: a file's name is the format and a digest.
        let digest = model::short_hash([name.as_str()], 6);
        let stem = config.state.join(format!("{}-{digest}", spec.format.name()));
        let inbox = stem.with_extension("inbox");
        let (log, arrivals) = match &spec.door {
            Door::Log(path) => (path.clone(), None),
            _ => (inbox.join("inbox.log"), Some(Arrivals::new(inbox))),
        };
        Self {
            pods: None,
            spec,
            config,
            log,
            arrivals,
            judge: Judge::new(name.clone(), &config.rules),
            name,
            positions: PositionFile::new(stem.with_extension("position")),
            dead: DeadLetters::new(stem.with_extension("dead.jsonl")),
            counts: Counts::default(),
            counted: (Counts::default(), 0),
            dealt: None,
            begun: Begun::No,
            live: false,
            refused: None,
            missed: None,
            cut: None,
            skewed: None,
            blind: None,
            broken: None,
            unwritten: None,
            told: Vec::new(),
        }
    }

    /// The life of one link.
    fn follow(&mut self, controller: &Attacher, stop: &Receiver<()>) -> Result<(), LinkLost> {
        // What was told over a link that was lost may not have been taken: it is read again and told again.
        let resume = self.recall();
        // Numbers never fall, even if the position was lost: a lower one would be taken for a repetition.
        let now = u64::try_from(self.now().0 / 1000).unwrap_or(0);
        let seq = resume.as_ref().map_or(0, |position| position.seq).max(now);
        let mut reporter = Reporter::connect(&self.name, controller, seq)?;
        let mut tail = self.tail(resume);
        let mut reader = Reader::new(self.spec.format, self.config.zone.clone());
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
                self.count(controller);
            }
            let poll =
                if self.arrivals.is_some() { self.config.poll.min(ARRIVALS_POLL) } else { self.config.poll };
            let wait = if idle { poll } else { Duration::ZERO };
            let wait = if reporter.waiting() > 0 { wait.min(Duration::from_millis(10)) } else { wait };
            match stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    self.finish(&mut reporter, &tail)?;
                    self.count(controller);
                    return Ok(());
                }
            }
        }
    }

    fn tail(&self, resume: Option<Position>) -> Tail {
        match self.arrivals {
            // Where what was there before is not wanted, it was not asked for.
            Some(_) => Tail::new(&self.log, resume, Start::Beginning).of_our_own(),
            None => Tail::new(&self.log, resume, self.config.start),
        }
    }

    /// What is on disk, and everything else forgotten.
    fn recall(&mut self) -> Option<Position> {
        self.judge.forget();
        self.dealt = None;
        self.live = false;
        let known = self.positions.load();
        self.begun = match &known {
            Ok(Some(position)) if !position.file.is_none() => Begun::Yes,
            Ok(Some(_)) => Begun::Absent,
            _ => Begun::No,
        };
        known.unwrap_or_else(|error| {
            self.broken = Some(format!("what was read before is not known: {error}"));
            None
        })
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
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.open(self.spec, self.config);
        }
        let opened = tail.begin();
        self.begin(&opened, tail, reporter);
        let outcome = opened.and_then(|()| tail.next(BATCH, lines));
        self.blind = outcome.err().map(|error| format!("{}: {error}", self.log.display()));
        self.note_gaps(tail);
        if lines.is_empty() {
            self.live = self.blind.is_none();
            return Ok(true);
        }
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
        self.dealt = Some(tail.position());
        Ok(false)
    }

    /// Writes down where a log is begun before its first line is read: what is written from now on is read also after a crash.
    fn begin(&mut self, opened: &io::Result<()>, tail: &Tail, reporter: &Reporter) {
        let found = match opened {
            Ok(()) => Begun::Yes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Begun::Absent,
            Err(_) => return,
        };
        let is_news = matches!((self.begun, found), (Begun::No, _) | (Begun::Absent, Begun::Yes));
        if is_news && self.save(&Position { seq: reporter.last(), ..tail.position() }) {
            self.begun = found;
        }
    }

    fn note_gaps(&mut self, tail: &mut Tail) {
        for gap in tail.gaps() {
            self.counts.gaps += 1;
            let what = match gap {
                Gap::Truncated => {
                    "the log was cut while it was read: what was written just before may be missing".into()
                }
                Gap::Vanished => {
                    "the file that was read last is gone or packed: what was added to it since is missing"
                        .into()
                }
                Gap::Packed(files) => {
                    format!("{files} rotated and packed before they were read: what they tell is missing")
                }
            };
            tracing::warn!(source = %self.name, what);
            let now = self.now();
            let written = self.dead.gap(now, &self.log.display().to_string(), &what);
            self.unwritten = written.err().map(|error| format!("dead letters cannot be written: {error}"));
            self.missed = Some((now, what));
        }
    }

    fn line(&mut self, line: &Line, reader: &mut Reader, reporter: &mut Reporter) -> Result<(), LinkLost> {
        self.counts.lines += 1;
        let now = self.now();
        let mut told = std::mem::take(&mut self.told);
        told.clear();
        let envelope = self.arrivals.as_ref().map(|_| Envelope::open(&line.text));
        let (text, from) = match &envelope {
            None => (Ok(line.text.as_slice()), None),
            Some(Some(envelope)) => (envelope.body.clone(), Some(envelope.from)),
            Some(None) => {
                let why =
                    Rejected { place: "line".into(), reason: "the inbox was changed from outside".into() };
                (Err((why, line.text.as_slice())), None)
            }
        };
        let outcome = text.and_then(|text| {
            if line.bytes > MAX_RECORD as u64 {
                let reason = format!("{} bytes, at most {MAX_RECORD}", line.bytes);
                return Err((Rejected { place: "line".into(), reason }, text));
            }
            reader.read(text, Place { offset: line.offset, now }, &mut told).map_err(|why| (why, text))
        });
        if let Err((rejected, text)) = outcome {
            self.refuse(line.offset, from, &rejected, text);
        }
        for one in told.drain(..) {
            self.counts.records += 1;
            if let Some(pods) = &self.pods {
                pods.heard(&one.record, one.time);
            }
            self.compare_clocks(one.time, now);
            let cut = self.judge.cut;
            self.judge.judge(one, reporter)?;
            if self.judge.cut > cut {
                self.cut = Some((now, self.judge.last_cut.clone()));
            }
        }
        self.told = told;
        Ok(())
    }

    /// Times are taken as the source tells them; a clock or a zone that cannot be right is said.
    fn compare_clocks(&mut self, time: Timestamp, now: Timestamp) {
        let lines_of_syslog = matches!(self.spec.format, Format::Auth | Format::Journal);
        if time > now && time.since(now) > AHEAD {
            let minutes = time.since(now).as_secs() / 60;
            self.skewed = Some((now, format!("dated {minutes} min ahead of this machine's clock")));
        } else if self.live && lines_of_syslog && now.since(time) > BEHIND {
            let minutes = now.since(time).as_secs() / 60;
            self.skewed = Some((now, format!("dated {minutes} min before it was appended")));
        }
    }

    fn refuse(&mut self, offset: u64, from: Option<&str>, rejected: &Rejected, text: &[u8]) {
        let now = self.now();
        self.counts.rejected += 1;
        self.refused = Some((now, rejected.to_string()));
        let path = from.map_or_else(|| self.log.display().to_string(), str::to_owned);
        let written = self.dead.write(now, &path, offset, rejected, text);
        self.unwritten = written.err().map(|error| format!("dead letters cannot be written: {error}"));
    }

    /// Counts, position and status. The position only goes as far as what it covers is reported, repetitions among it, and is written once
    /// all of that is acknowledged.
    fn tell(&mut self, reporter: &mut Reporter, tail: &Tail) -> Result<Timestamp, LinkLost> {
        let now = self.now();
        self.judge.repeat(reporter)?;
        if let Some(dealt) = self.dealt.take() {
            reporter.mark(dealt);
        }
        self.keep(reporter);
        let state = State {
            format: self.spec.format.name(),
            rules: self.judge.rules(),
            findings: self.judge.findings,
            summary: self.summary(tail),
            blind: self.blind.clone().or_else(|| self.arrivals.as_ref()?.why_blind()),
            degraded: self.degraded(now),
        };
        reporter.status(now, state)?;
        Ok(now)
    }

    fn summary(&self, tail: &Tail) -> String {
        let counts = &self.counts;
        let read = format!(
            "{} lines, {} records, {} refused, at byte {}",
            counts.lines,
            counts.records,
            counts.rejected,
            tail.offset()
        );
        match &self.arrivals {
            None => read,
            Some(arrivals) => format!("{}; {read}", arrivals.summary()),
        }
    }

    fn degraded(&self, now: Timestamp) -> Vec<String> {
        let recent = |noted: &Noted| {
            noted.as_ref().filter(|(at, _)| now.since(*at) < SHOWN).map(|(_, what)| what.clone())
        };
        let (counts, letters) = (&self.counts, self.dead.path().display());
        let refused = recent(&self.refused)
            .map(|why| format!("{} records refused, the last: {why} (see {letters})", counts.rejected));
        let missed = recent(&self.missed).map(|what| format!("{} gaps, the last: {what}", counts.gaps));
        let cut = recent(&self.cut).map(|fields| {
            format!("{} records were too large to be judged whole, the last in {fields}", self.judge.cut)
        });
        let skewed = recent(&self.skewed).map(|what| {
            format!("a record was {what}: set the source's clock, or --source-zone where lines name no zone")
        });
        let own = [refused, missed, cut, skewed, self.broken.clone(), self.unwritten.clone()];
        let arrivals = self.arrivals.iter().flat_map(|one| one.degraded(|at| now.since(at) < SHOWN));
        own.into_iter().flatten().chain(arrivals).collect()
    }

    /// Tells the metrics what has come since they were last told.
    fn count(&mut self, controller: &Attacher) {
        let (before, cut_before) = std::mem::replace(&mut self.counted, (self.counts, self.judge.cut));
        let (now, format) = (self.counts, self.spec.format.name());
        for (result, more) in [
            ("taken", now.records - before.records),
            ("refused", now.rejected - before.rejected),
            ("gap", now.gaps - before.gaps),
            ("cut", self.judge.cut - cut_before),
        ] {
            controller.metrics().source_records.get_or_create(&format_result(format, result)).inc_by(more);
        }
        for (what, more) in self.arrivals.iter().flat_map(Arrivals::news) {
            let result = format_result(format, what.name());
            controller.metrics().source_records.get_or_create(&result).inc_by(more);
        }
    }

    fn keep(&mut self, reporter: &mut Reporter) {
        if let Some(position) = reporter.settled()
            && self.save(&position)
            && let Some(arrivals) = &self.arrivals
        {
            arrivals.settled(&position);
        }
    }

    fn save(&mut self, position: &Position) -> bool {
        let saved = self.positions.save(position);
        self.broken = saved
            .as_ref()
            .err()
            .map(|error| format!("the position cannot be written, a restart will read again: {error}"));
        saved.is_ok()
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

#[cfg(test)]
mod tests;
