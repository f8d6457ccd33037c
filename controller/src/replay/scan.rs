//! Recordings to what matched, in order of time: several threads read and judge, one puts together.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use detect::matcher::{Matcher, RuleIndex, RuleSet};
use model::{Event, FindingId, LossWindow, Moments, NodeId, Record, Timestamp, Truncated};

use super::{
    Recording, ReplayError, Surroundings,
    lines::Lines,
    outcome::Read,
    recording::{Block, Item, items_of_line},
    slots::Slots,
};
use crate::{
    attribute::fact::Fact,
    ingest::{
        judge::{Unnamed, cut_fields, matched_in, to_keep},
        read::{self, MAX_RECORD, Place, Reader, Rejected, Told},
        receive::split,
    },
};

/// Blocks of one recording that are read before their turn, beside two for each thread (I11).
const AHEAD: u64 = 4;

/// What matched and is given on together.
const BATCH: usize = 64;

/// Refused records of which the reason is told.
const MAX_TOLD: usize = 16;

/// Records dated so far ahead of what was read before do not move time on: a wrong clock in one record must not make all others late.
const LEAP: Duration = Duration::from_secs(24 * 3600);

/// Something that a setup looks at.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) at: Timestamp,
    /// Which recording tells of it.
    pub(super) recording: usize,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// An event that some setup has a rule for.
    Matched(Box<Matched>),
    /// A finding of then was seen again.
    Repeat { finding: FindingId, count: u64, last: Timestamp, moments: Moments },
    /// The audit log tells of a session in a pod.
    Heard(Box<Fact>),
}

#[derive(Debug)]
pub(super) struct Matched {
    pub(super) event: Event,
    pub(super) context: Vec<Event>,
    pub(super) loss: LossWindow,
    /// What matched, by setup.
    pub(super) hits: Vec<Vec<Hit>>,
}

/// A rule that matched, and the values that speak for it.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) rule: Which,
    pub(super) matched: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Rule(RuleIndex),
    /// The record was too large to be judged whole.
    Cut,
}

/// What matched, in order.
pub(super) type Batch = Arc<Vec<Candidate>>;

/// A block that was read and judged.
#[derive(Default)]
struct Judged {
    candidates: Vec<Candidate>,
    newest: Option<Timestamp>,
    oldest: Option<Timestamp>,
    read: Read,
    failed: Option<ReplayError>,
}

/// Reads all and gives what matched to `give`, until that says that nobody wants more.
pub(super) fn run(
    recordings: Vec<Recording>,
    sets: &[Arc<RuleSet>],
    around: &Surroundings,
    give: &mut dyn FnMut(Batch) -> bool,
) -> Result<Read, ReplayError> {
    let threads = match around.threads {
        0 => thread::available_parallelism().map_or(2, std::num::NonZero::get),
        threads => threads,
    };
    let ahead = AHEAD + 2 * threads as u64;
    let count = recordings.len();
    let slots = Slots::new(count, ahead);
    let names: Vec<NodeId> = recordings.iter().map(|one| one.name.clone()).collect();
    let capacity = count * usize::try_from(ahead).unwrap_or(usize::MAX);
    let (give_work, take_work) = mpsc::sync_channel::<(usize, u64, Block)>(capacity);
    let take_work = Mutex::new(take_work);
    let hears = !around.facts.is_empty();
    thread::scope(|scope| {
        let spawned = (|| {
            for (place, recording) in recordings.into_iter().enumerate() {
                let (give_work, slots) = (give_work.clone(), &slots);
                let read = move || read(place, recording, &give_work, slots);
                spawn(scope, format!("replay-read-{place}"), read)?;
            }
            for thread in 0..threads {
                let (take_work, slots, names) = (&take_work, &slots, &names);
                let judge = move || judge(take_work, slots, names, sets, hears);
                spawn(scope, format!("replay-judge-{thread}"), judge)?;
            }
            Ok(())
        })();
        drop(give_work);
        let merged = spawned.and_then(|()| merge(count, &slots, around.lateness, give));
        slots.close();
        merged
    })
}

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: String,
    work: impl FnOnce() + Send + 'scope,
) -> Result<(), ReplayError> {
    let made = thread::Builder::new().name(name).spawn_scoped(scope, work);
    made.map(drop).map_err(|error| ReplayError::Thread(format!("cannot be made: {error}")))
}

fn read(
    place: usize,
    recording: Recording,
    work: &mpsc::SyncSender<(usize, u64, Block)>,
    slots: &Slots<Judged>,
) {
    let mut number = 0;
    for block in recording.blocks {
        if slots.may_read(place, number).is_err() {
            return;
        }
        match block {
            Ok(block) => {
                if work.send((place, number, block)).is_err() {
                    return;
                }
            }
            Err(error) => slots.put(place, number, Judged { failed: Some(error), ..Judged::default() }),
        }
        number += 1;
    }
    slots.end(place, number);
}

/// Ends when no reader is left.
fn judge(
    work: &Mutex<mpsc::Receiver<(usize, u64, Block)>>,
    slots: &Slots<Judged>,
    names: &[NodeId],
    sets: &[Arc<RuleSet>],
    hears: bool,
) {
    let mut judge = Judge {
        matchers: sets.iter().map(RuleSet::matcher).collect(),
        told: Vec::new(),
        unnamed: Unnamed::default(),
        hits: Vec::new(),
        lines: Lines::default(),
        hears,
    };
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((place, number, block)) = next else { return };
        slots.put(place, number, judge.block(place, &names[place], block));
    }
}

/// One thread's.
struct Judge {
    matchers: Vec<Matcher>,
    told: Vec<Told>,
    unnamed: Unnamed,
    hits: Vec<RuleIndex>,
    lines: Lines,
    /// Whether somebody wants to hear of sessions in pods.
    hears: bool,
}

impl Judge {
    fn block(&mut self, place: usize, name: &NodeId, block: Block) -> Judged {
        let mut judged = Judged::default();
        match block {
            Block::Lines { mut reader, offset, written, text } => {
                judged.read.bytes = text.len() as u64;
                for (from, line) in lines(&text) {
                    let at = Place { offset: offset + from as u64, now: written };
                    self.line(place, name, &mut reader, line, at, &mut judged);
                }
            }
            Block::Events { offset, text } => {
                judged.read.bytes = text.len() as u64;
                for (from, line) in lines(&text) {
                    if let Some(event) = self.lines.event(line) {
                        self.event(place, event, Vec::new(), LossWindow::default(), &mut judged);
                        continue;
                    }
                    match items_of_line(line) {
                        Some(items) => {
                            items.into_iter().for_each(|item| self.item(place, item, &mut judged));
                        }
                        None if line.trim_ascii().is_empty() => {}
                        None => refuse(
                            &mut judged,
                            name,
                            offset + from as u64,
                            &"no event, finding or incident as JSON on one line",
                        ),
                    }
                }
            }
            Block::Items(items) => items.into_iter().for_each(|item| self.item(place, item, &mut judged)),
        }
        judged
    }

    fn line(
        &mut self,
        place: usize,
        name: &NodeId,
        reader: &mut Reader,
        line: &[u8],
        at: Place,
        judged: &mut Judged,
    ) {
        let format = reader.format();
        let outcome = if line.len() > MAX_RECORD && format.is_json() {
            // A whole file of records in one line: each is a record of its own, as where a folder is followed.
            split::split(format, line).and_then(|records| {
                let mut first = Ok(());
                for record in records {
                    let read = self.text(place, name, reader, record.get().as_bytes(), at, judged);
                    first = first.and(read);
                }
                first
            })
        } else {
            self.text(place, name, reader, line, at, judged)
        };
        if let Err(rejected) = outcome {
            let rejected: Rejected = rejected;
            refuse(judged, name, at.offset, &rejected);
        }
    }

    fn text(
        &mut self,
        place: usize,
        name: &NodeId,
        reader: &mut Reader,
        text: &[u8],
        at: Place,
        judged: &mut Judged,
    ) -> Result<(), Rejected> {
        let mut told = std::mem::take(&mut self.told);
        let outcome = reader.read_unnamed(text, at, &mut told);
        for (number, one) in told.drain(..).enumerate() {
            self.record(place, name, one, judged, |record| read::name(record, text, at, number));
        }
        self.told = told;
        outcome
    }

    /// `identify` is called only where it matters which record it is: most are of no interest.
    fn record(
        &mut self,
        place: usize,
        name: &NodeId,
        mut told: Told,
        judged: &mut Judged,
        identify: impl FnOnce(&mut Record),
    ) {
        judged.saw(told.time);
        let mut identify = Some(identify);
        if self.hears {
            identify.take().into_iter().for_each(|identify| identify(&mut told.record));
            if let Some(fact) = crate::attribute::session(&told.record, told.time) {
                let what = What::Heard(Box::new(fact));
                judged.candidates.push(Candidate { at: told.time, recording: place, what });
            }
        }
        let cut = told.record.facts.truncated() == Truncated::Yes;
        let event = self.unnamed.event(told.record, told.time);
        let Some(hits) = self.judge(&event, cut) else { return };
        let Some(mut record) = Unnamed::record(event) else { return };
        identify.into_iter().for_each(|identify| identify(&mut record));
        let event = record.into_event(name, told.time);
        let Some(record) = event.record() else { return };
        let matched = Matched {
            event: to_keep(record, &event),
            context: Vec::new(),
            loss: LossWindow::default(),
            hits,
        };
        let what = What::Matched(Box::new(matched));
        judged.candidates.push(Candidate { at: event.time, recording: place, what });
    }

    fn item(&mut self, place: usize, item: Item, judged: &mut Judged) {
        match item {
            Item::Event { event, context, loss } => self.event(place, *event, context, loss, judged),
            Item::Repeat { finding, count, last, moments } => {
                let what = What::Repeat { finding, count, last, moments };
                judged.candidates.push(Candidate { at: last, recording: place, what });
            }
        }
    }

    fn event(
        &mut self,
        place: usize,
        event: Event,
        context: Vec<Event>,
        loss: LossWindow,
        judged: &mut Judged,
    ) {
        judged.saw(event.time);
        let Some(hits) = self.judge(&event, false) else { return };
        let at = event.time;
        let what = What::Matched(Box::new(Matched { event, context, loss, hits }));
        judged.candidates.push(Candidate { at, recording: place, what });
    }

    /// What matches in each setup; nothing where nothing does in any.
    fn judge(&mut self, event: &Event, cut: bool) -> Option<Vec<Vec<Hit>>> {
        let mut all: Option<Vec<Vec<Hit>>> = None;
        let setups = self.matchers.len();
        for (setup, matcher) in self.matchers.iter_mut().enumerate() {
            self.hits.clear();
            let looked = matcher.evaluate(event, &mut self.hits);
            let is_cut = event.record().is_some() && (cut || looked.truncated == Truncated::Yes);
            if self.hits.is_empty() && !is_cut {
                continue;
            }
            let hit = |hit: &RuleIndex| Hit {
                rule: Which::Rule(*hit),
                matched: matched_in(matcher.rule_set(), *hit, event),
            };
            let mut hits: Vec<Hit> = self.hits.iter().map(hit).collect();
            if let Some(record) = event.record().filter(|_| is_cut) {
                let matched = BTreeMap::from([("cut".to_owned(), cut_fields(record))]);
                hits.push(Hit { rule: Which::Cut, matched });
            }
            all.get_or_insert_with(|| (0..setups).map(|_| Vec::new()).collect())[setup] = hits;
        }
        all
    }
}

impl Judged {
    fn saw(&mut self, at: Timestamp) {
        self.read.events += 1;
        self.newest = self.newest.max(Some(at));
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
    }
}

fn refuse(judged: &mut Judged, name: &NodeId, offset: u64, why: &dyn std::fmt::Display) {
    judged.read.refused += 1;
    if judged.read.refusals.len() < MAX_TOLD {
        judged.read.refusals.push(format!("{name}, byte {offset}: {why}"));
    }
}

/// The lines of a block, with where they begin in it.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut from = 0;
    let ends = memchr::memchr_iter(b'\n', text).chain(std::iter::once(text.len()));
    ends.filter_map(move |end| {
        let begin = std::mem::replace(&mut from, end + 1);
        text.get(begin..end).filter(|line| !line.is_empty()).map(|line| (begin, line))
    })
}

/// A candidate that waits for what may still come before it.
struct Waits {
    /// Time, recording, number: the order in which they are given on.
    order: (Timestamp, usize, u64),
    candidate: Candidate,
}

impl PartialEq for Waits {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Waits {}
impl PartialOrd for Waits {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waits {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

/// Takes the next block always of the recording that is furthest behind, so what is given on depends on the recordings alone.
fn merge(
    count: usize,
    slots: &Slots<Judged>,
    lateness: Duration,
    give: &mut dyn FnMut(Batch) -> bool,
) -> Result<Read, ReplayError> {
    let mut behind: Vec<Option<Timestamp>> = vec![Some(Timestamp(i64::MIN)); count];
    let mut waiting = BinaryHeap::new();
    let (mut all, mut number) = (Read::default(), 0);
    let mut batch = Vec::new();
    loop {
        let next = behind.iter().enumerate().filter_map(|(place, at)| Some((at.as_ref()?, place))).min();
        let next = next.map(|(_, place)| place);
        if let Some(place) = next {
            match slots.take(place) {
                None => behind[place] = None,
                Some(Judged { failed: Some(error), .. }) => return Err(error),
                Some(block) => {
                    all.add(block.read, block.oldest, block.newest);
                    if let (Some(at), Some(newest)) = (behind[place], block.newest) {
                        // One that is dated in the future does not make all that follow it late.
                        let limit = if at.0 == i64::MIN { newest } else { at.plus(LEAP) };
                        let leaps = newest > limit && block.oldest.is_some_and(|oldest| oldest <= limit);
                        behind[place] = Some(at.max(if leaps { at } else { newest }));
                    }
                    for candidate in block.candidates {
                        number += 1;
                        let order = (candidate.at, candidate.recording, number);
                        waiting.push(Reverse(Waits { order, candidate }));
                    }
                }
            }
        }
        let safe = behind.iter().flatten().min().map(|at| {
            let back = i64::try_from(lateness.as_nanos()).unwrap_or(i64::MAX);
            Timestamp(at.0.saturating_sub(back))
        });
        while waiting.peek().is_some_and(|Reverse(first)| safe.is_none_or(|safe| first.order.0 < safe)) {
            let Some(Reverse(first)) = waiting.pop() else { break };
            batch.push(first.candidate);
            if batch.len() >= BATCH && !give(Arc::new(std::mem::take(&mut batch))) {
                return Ok(all);
            }
        }
        if next.is_none() {
            break;
        }
    }
    if !batch.is_empty() {
        give(Arc::new(batch));
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
