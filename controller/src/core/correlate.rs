//! Correlations of what nodes find: findings in, in event time, and findings of their own out ([`detect::correlation`]).
//!
//! What a correlation counted is stored in the same transaction as the report that it was counted from, so a crash neither loses nor
//! doubles anything (I3, I7), and what it tells is stored with the state in which it has told it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Read as _,
    mem,
    time::Duration,
};

use detect::{
    ast::Correlation,
    correlation::{Correlated, Correlator, Counts, Folded, Row, Values},
    incident::incident_of,
    schema::View,
    tenant::Tenant,
};
use model::{Finding, FindingId, LossWindow, Moment, Moments, RuleRef, Timestamp, short_hash};

use super::{Core, ingest::controller, shares::Shares, turn::Turn};
use crate::{
    config::ControllerConfig,
    health::{HealthBoard, Part},
    metrics::{Metrics, kind},
    rules::RuleBook,
    start::StartError,
    store::{Batch, FedRow, ReadBack, Store, StoreError, Table},
};

/// Findings held in memory because they were counted lately.
const RECENT: usize = 256;

/// Moments of all findings that were counted. Beyond, further repetitions of those that are in no incident are only counted (I11).
const MAX_MOMENTS: usize = 65_536;

/// How long a node folds what repeats a finding into it (`detect::fold::Fold::EXPIRES`): so long it can be asked for.
const REPEATS_FOR: Duration = Duration::from_secs(15 * 60);

/// How long health tells of findings that were left out.
const LOSS_SHOWN: Duration = Duration::from_secs(600);

/// Events shown as the context of a correlated finding.
const MAX_CONTEXT: usize = 16;

/// Whether a finding stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reports {
    /// It does.
    ByItself,
    /// Its rule says that only correlations of it are told.
    ThroughCorrelations,
}

/// The correlations and what they look at.
pub(super) struct Correlations {
    book: RuleBook,
    engine: Correlator,
    seed: (u64, u64),
    /// What has come true and is not told yet.
    told: Vec<Correlated>,
    /// Findings that were counted, by reference.
    fed: BTreeMap<u64, FedRow>,
    shares: Shares,
    /// How many moments `fed` holds.
    moments: usize,
    /// Some of them as they came.
    recent: HashMap<u64, Finding>,
    /// Those that were forgotten although they could still be asked for.
    forgotten: u64,
    /// What was left out when health was last told, and when.
    said: (u64, Option<Timestamp>),
    /// What the gauges show: counts, forgotten, groups.
    gauged: Option<(Counts, u64, usize)>,
}

impl Correlations {
    pub(super) fn load(
        store: &Store,
        config: &ControllerConfig,
        health: &HealthBoard,
    ) -> Result<Self, StartError> {
        let seed = match store.get(Table::Meta, b"correlation_seed")? {
            Some(seed) => seed,
            None => {
                let seed = draw().map_err(|source| StartError::Random { source })?;
                let mut batch = Batch::default();
                batch.put(Table::Meta, b"correlation_seed".to_vec(), &seed, ReadBack::Yes);
                store.commit(&batch)?;
                seed
            }
        };
        let book = RuleBook::load(&config.rules, &[]);
        book.report(health);
        let rows = store.scan_all::<Row>(Table::Correlation)?;
        let engine = resume(&book, config, seed, rows, store.is_in_memory());
        let mut fed = BTreeMap::new();
        for (key, row) in store.scan_all::<FedRow>(Table::Fed)? {
            if let Some(reference) = key.first_chunk() {
                fed.insert(u64::from_be_bytes(*reference), row);
            }
        }
        let mut shares = Shares::default();
        fed.iter().for_each(|(reference, row)| shares.add(&row.tenant, row.at, *reference));
        let said = (engine.counts().left_out(), None);
        let (told, recent) = (Vec::new(), HashMap::new());
        let moments = fed.values().map(|row: &FedRow| row.moments.len()).sum();
        Ok(Self { book, engine, seed, told, fed, shares, moments, recent, forgotten: 0, said, gauged: None })
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.book.correlations().len()
    }

    /// Whether a finding is only there for correlations. What the node acted on is never only that.
    pub(super) fn is_quiet(&self, finding: &Finding) -> bool {
        finding.reactions.is_empty() && self.book.is_quiet(&finding.rule.id)
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.engine.next_due()
    }

    /// Puts what changed into the batch.
    pub(super) fn flush(&mut self, batch: &mut Batch) {
        for (key, row) in self.engine.changes() {
            match row {
                Some(row) => batch.put(Table::Correlation, key, &row, ReadBack::No),
                None => batch.remove(Table::Correlation, key),
            }
        }
    }

    pub(super) fn gauge(&mut self, metrics: &Metrics) {
        let now = (self.engine.counts(), self.forgotten, self.engine.groups());
        // Asked after every turn, and most change nothing.
        if self.gauged.replace(now) == Some(now) {
            return;
        }
        let Counts { seen, late, ahead, early, refused, folded, ungrouped, mixed } = now.0;
        for (name, value) in [
            ("seen", seen),
            ("late", late),
            ("ahead", ahead),
            ("early", early),
            ("refused", refused),
            ("folded", folded),
            ("ungrouped", ungrouped),
            ("mixed", mixed),
            ("forgotten", self.forgotten),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            metrics.correlation_hits.get_or_create(&kind(name)).set(value);
        }
        metrics.correlation_groups.set(i64::try_from(self.engine.groups()).unwrap_or(i64::MAX));
    }

    /// Counts `times` more of a finding at `at`.
    fn count(&mut self, reference: u64, finding: &Finding, at: Timestamp, times: u64, values: Values) {
        if times == 0 {
            return;
        }
        let mut event = finding.event.clone();
        event.time = at;
        event.ancestors = finding.ancestors.clone().into();
        let folded = Folded { reference, count: u32::try_from(times).unwrap_or(u32::MAX), values };
        self.engine.observe_folded(&finding.rule.id, &View::new(&event), folded, &mut self.told);
    }

    fn keep(&mut self, reference: u64, row: FedRow, batch: &mut Batch) {
        batch.put(Table::Fed, reference.to_be_bytes().to_vec(), &row, ReadBack::No);
        if let Some(before) = self.fed.get(&reference) {
            self.moments -= before.moments.len();
            self.shares.remove(&before.tenant, before.at, reference);
        }
        self.shares.add(&row.tenant, row.at, reference);
        self.moments += row.moments.len();
        self.fed.insert(reference, row);
    }

    /// Forgets what can no longer matter, and beyond `limit` what was counted longest ago of who has most.
    fn forget(&mut self, limit: usize, now: Timestamp, batch: &mut Batch) {
        let memory = self.engine.memory() + REPEATS_FOR;
        while let Some((oldest, reference)) = self.shares.oldest() {
            let matters = now.since(oldest) <= memory;
            if matters && self.fed.len() <= limit {
                break;
            }
            self.forgotten += u64::from(matters);
            let of_who_has_most = self.shares.oldest_of_who_has_most().filter(|_| matters);
            let reference = of_who_has_most.map_or(reference, |(_, reference)| reference);
            let Some(row) = self.fed.remove(&reference) else { break };
            self.shares.remove(&row.tenant, row.at, reference);
            self.moments -= row.moments.len();
            self.recent.remove(&reference);
            batch.remove(Table::Fed, reference.to_be_bytes().to_vec());
            batch.remove(Table::FedFindings, reference.to_be_bytes().to_vec());
        }
    }

    /// Lets go of what is stored. Only between turns, when all is.
    pub(super) fn evict(&mut self) {
        if self.recent.len() > RECENT {
            self.recent.clear();
        }
    }

    /// A finding as it was counted so far.
    fn finding(&self, reference: u64, store: &Store) -> Result<Option<Finding>, StoreError> {
        let found = match self.recent.get(&reference) {
            Some(finding) => Some(finding.clone()),
            None => store.get::<Finding>(Table::FedFindings, &reference.to_be_bytes())?,
        };
        let row = self.fed.get(&reference);
        Ok(found.map(|finding| match row {
            Some(row) => {
                Finding { count: row.count, last: row.last, moments: row.moments.clone(), ..finding }
            }
            None => finding,
        }))
    }
}

impl Core {
    /// Lets correlations look at a new finding.
    pub(super) fn feed(&mut self, finding: &Finding, turn: &mut Turn) -> Reports {
        let all = &mut self.state.correlations;
        if !all.engine.is_fed_by(&finding.rule.id) {
            return Reports::ByItself;
        }
        all.engine.tell_time(turn.now);
        let reference = reference_of(&finding.id);
        let mut kept = finding.clone();
        // Its own incident has these, if it has one.
        kept.context.clear();
        kept.reactions.clear();
        turn.batch.put(Table::FedFindings, reference.to_be_bytes().to_vec(), &kept, ReadBack::No);
        // The first at its own time and with its own values, whatever is folded into it already.
        all.count(reference, &kept, kept.event.time, 1, Values::Same);
        all.count(reference, &kept, kept.last, kept.count.saturating_sub(1), values_of(&kept));
        let (id, rule) = (finding.id.clone(), finding.rule.id.clone());
        let (count, last, at) = (finding.count.max(1), finding.last, turn.now);
        let moments = mem::take(&mut kept.moments);
        let tenant = Tenant::of(&finding.event);
        all.keep(reference, FedRow { id, rule, count, last, at, moments, tenant }, &mut turn.batch);
        all.recent.insert(reference, kept);
        if all.is_quiet(finding) { Reports::ThroughCorrelations } else { Reports::ByItself }
    }

    /// Lets correlations look at repetitions of a finding. They count at the time of the last one.
    pub(super) fn feed_again(
        &mut self,
        id: &FindingId,
        count: u64,
        last: Timestamp,
        moments: &Moments,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let all = &mut self.state.correlations;
        let reference = reference_of(id);
        let Some(row) = all.fed.get(&reference) else { return Ok(()) };
        let more = count.saturating_sub(row.count);
        if more == 0 || row.id != *id || !all.engine.is_fed_by(&row.rule) {
            return Ok(());
        }
        all.engine.tell_time(turn.now);
        let mut row = FedRow { count, last: row.last.max(last), at: turn.now, ..row.clone() };
        if all.moments < MAX_MOMENTS {
            row.moments.add_all(moments.iter().cloned(), count);
        }
        if let Some(finding) = all.finding(reference, &self.state.store)? {
            all.count(reference, &finding, last, more, values_of(&finding));
        }
        all.keep(reference, row, &mut turn.batch);
        Ok(())
    }

    /// Moves the correlations' clock, and puts what has come true in its place.
    pub(super) fn correlate(&mut self, turn: &mut Turn) {
        let all = &mut self.state.correlations;
        all.engine.advance(turn.now, &mut all.told);
        let mut told = mem::take(&mut all.told).into_iter();
        while let Some(one) = told.next() {
            if let Err(error) = self.correlated(&one, turn) {
                self.store_failed(&error);
                // Once more at the next look at the clock, with all that came after it.
                self.state.correlations.told = std::iter::once(one).chain(told).collect();
                break;
            }
        }
        let limit = self.config.limits.fed;
        self.state.correlations.forget(limit, turn.now, &mut turn.batch);
        self.say_what_was_left_out(turn.now);
    }

    /// The rules were changed: correlations that are still the same go on. How many there are.
    pub(super) fn reload_rules(&mut self, turn: &mut Turn) -> usize {
        let all = &mut self.state.correlations;
        all.flush(&mut turn.batch);
        all.book = RuleBook::reload(&self.config.rules, &self.state.sources.rules, &all.book);
        all.book.report(&self.health);
        let rows = all.engine.rows();
        all.engine = resume(&all.book, &self.config, all.seed, rows, self.state.store.is_in_memory());
        all.len()
    }

    fn correlated(&mut self, one: &Correlated, turn: &mut Turn) -> Result<(), StoreError> {
        let all = &self.state.correlations;
        if all.book.is_quiet(&one.correlation) {
            return Ok(());
        }
        let Some((correlation, rule)) = all.book.correlation(&one.correlation) else { return Ok(()) };
        let Some(trigger) = all.finding(one.trigger, &self.state.store)? else {
            tracing::error!(correlation = one.correlation, "what made it true is not remembered any more");
            self.state.correlations.forgotten += 1;
            return Ok(());
        };
        let mut evidence: Vec<Finding> = Vec::new();
        for reference in &one.evidence {
            // One that was counted several times is evidence once.
            let known = evidence.iter().any(|finding| reference_of(&finding.id) == *reference);
            if !known {
                evidence.extend(all.finding(*reference, &self.state.store)?);
            }
        }
        let what = line(correlation, one, &evidence);
        let value = format!("{} is {}", kind_of(correlation), one.value);
        let finding = made_of(one, correlation, rule, trigger, &evidence);
        let (id, name) = (finding.id.clone(), incident_of(&finding));
        tracing::info!(correlation = one.correlation, %id, value = one.value, "a correlation has come true");
        if self.is_seen(&id, turn)? {
            // The same cause has filled another window.
            if let Some(count) = self.counted(&id, turn)? {
                let moments = [Moment::new(count + 1, one.time, value)];
                self.repeated(&id, count + 1, one.time, moments.into_iter().collect(), turn)?;
            }
        } else {
            let mut homeless = Vec::new();
            for finding in evidence {
                if self.state.correlations.is_quiet(&finding) && self.place_of(&finding.id, turn)?.is_none() {
                    homeless.push(finding);
                }
            }
            self.found(finding, name, homeless, turn)?;
            self.remember(&id, turn)?;
        }
        if let Some((incident, _)) = self.place_of(&id, turn)? {
            let incident = self.root(&incident);
            if let Some(whole) = self.state.incidents.get(&self.state.store, &incident)? {
                whole.tell(one.time, &controller(), what);
            }
        }
        Ok(())
    }

    /// How often a finding was seen so far.
    fn counted(&mut self, id: &FindingId, turn: &Turn) -> Result<Option<u64>, StoreError> {
        let Some((incident, index)) = self.place_of(id, turn)? else { return Ok(None) };
        let whole = self.state.incidents.get(&self.state.store, &incident)?;
        Ok(whole.and_then(|whole| Some(whole.row.incident.findings.get(index as usize)?.count)))
    }

    /// What correlations could not count is said for a while (I2).
    fn say_what_was_left_out(&mut self, now: Timestamp) {
        let all = &mut self.state.correlations;
        let counts = all.engine.counts();
        let left_out = counts.left_out() + all.forgotten;
        let (said, at) = all.said;
        if left_out > said {
            if at.is_none_or(|at| now.since(at) > Duration::from_secs(10)) {
                all.said = (left_out, Some(now));
                let what = format!(
                    "correlations left findings out, so they may miss what these tell of: since the state was made {} came too \
                     late, {} were dated ahead, {} found no room, {} were folded with others of other values, {} were forgotten; \
                     look at the nodes' clocks and links, and for noise",
                    counts.late, counts.ahead, counts.refused, counts.mixed, all.forgotten
                );
                self.health.degraded(Part::Correlation, what);
            }
        } else if at.is_some_and(|at| now.since(at) > LOSS_SHOWN) {
            all.said = (said, None);
            self.health.restored(Part::Correlation);
        }
    }
}

fn resume(
    book: &RuleBook,
    config: &ControllerConfig,
    seed: (u64, u64),
    rows: Vec<(Vec<u8>, Row)>,
    ends_with_us: bool,
) -> Correlator {
    // What the diagnostics warn of was said when the rules were loaded.
    let (engine, _) = Correlator::resume(book.correlations(), book.rules(), config.correlation, seed, rows);
    if ends_with_us { engine.unwritten() } else { engine }
}

fn draw() -> std::io::Result<(u64, u64)> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let number = u128::from_be_bytes(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    Ok(((number >> 64) as u64, number as u64))
}

/// Whether what was folded into a finding has its values.
fn values_of(finding: &Finding) -> Values {
    if finding.is_mixed() { Values::Mixed } else { Values::Same }
}

/// A number that a finding is called by; a function of its id, so that hits of one time are taken in one order.
fn reference_of(id: &FindingId) -> u64 {
    u64::from_str_radix(&short_hash([id.as_str()], 8), 16).unwrap_or(0)
}

/// The finding that a correlation makes: about the event that made it true, with what it was made of.
fn made_of(
    one: &Correlated,
    correlation: &Correlation,
    rule: RuleRef,
    trigger: Finding,
    evidence: &[Finding],
) -> Finding {
    let mut event = trigger.event;
    event.time = one.time;
    let mut matched = BTreeMap::from([
        ("correlation".to_owned(), kind_of(correlation)),
        ("value".to_owned(), format!("{}", one.value)),
        ("within".to_owned(), format!("{:?}", correlation.timespan.value)),
    ]);
    for field in &correlation.group_by {
        let alias = correlation.aliases.iter().find(|alias| alias.name.value == field.value);
        let real = alias.and_then(|alias| {
            alias.fields.iter().find(|(of, _)| of.key == trigger.rule.id).map(|(_, field)| &field.value)
        });
        if let Some(value) = trigger.matched.get(real.unwrap_or(&field.value)) {
            matched.insert(field.value.clone(), value.clone());
        }
    }
    let ids: Vec<&str> = evidence.iter().map(|finding| finding.id.as_str()).collect();
    matched.insert("evidence".to_owned(), ids.join(", "));
    let mut context: Vec<_> = evidence
        .iter()
        .filter(|finding| finding.event.id != event.id)
        .map(|finding| finding.event.clone())
        .collect();
    context.sort_by_key(|event| event.time);
    let surplus = context.len().saturating_sub(MAX_CONTEXT);
    context.drain(..surplus);
    Finding {
        id: FindingId::derive(&event.id, &one.correlation),
        rule,
        event,
        matched,
        count: 1,
        first: one.time,
        last: one.time,
        ancestors: trigger.ancestors,
        context,
        reactions: Vec::new(),
        moments: Moments::default(),
        loss: lost(evidence, trigger.loss),
    }
}

/// Events lost around any of them (I2). Their windows overlap, so of each class the greatest number is taken.
fn lost(evidence: &[Finding], mut all: LossWindow) -> LossWindow {
    for loss in evidence.iter().map(|finding| &finding.loss).filter(|loss| !loss.lost.is_empty()) {
        if all.lost.is_empty() {
            all.from = loss.from;
        }
        all.from = all.from.min(loss.from);
        all.to = all.to.max(loss.to);
        for (class, lost) in &loss.lost {
            let most = all.lost.entry(*class).or_default();
            *most = (*most).max(*lost);
        }
    }
    all
}

fn line(correlation: &Correlation, one: &Correlated, evidence: &[Finding]) -> String {
    let ids: Vec<&str> = evidence.iter().map(|finding| finding.id.as_str()).collect();
    format!(
        "correlation {}: {} is {} within {:?} ({})",
        correlation.meta.title.value,
        kind_of(correlation),
        one.value,
        correlation.timespan.value,
        ids.join(", ")
    )
}

fn kind_of(correlation: &Correlation) -> String {
    correlation.kind.value.name().to_owned()
}
