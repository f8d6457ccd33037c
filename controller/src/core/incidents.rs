//! Incidents in memory: a line of each, and the whole of those in use.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use model::{
    ActionId, ActionRecord, ActionState, Actor, Entity, Finding, Incident, IncidentId, IncidentState, Level,
    Moments, TimelineEntry, Timestamp, UndoClass,
};

use crate::{
    api::{ApiError, ApiErrorKind, IncidentSummary},
    store::{Batch, IncidentRow, ReadBack, Rest, Store, StoreError, Table, Undone, Visibility, numbered_key},
};

/// Entities shown of one incident; more are left out (I11).
const MAX_ENTITIES: usize = 128;

/// Actions of one incident. Beyond, the oldest that the node did by itself and that is no longer in force is left out; if there is none, a
/// further reaction of the node stands beside the incident, where it can be undone all the same (I11).
pub(super) const MAX_ACTIONS: usize = 1024;

/// How long a decision holds about what an account did: the longest window of correlation.
const ACCOUNTS: Duration = Duration::from_secs(24 * 60 * 60);

/// So many characters after `inc-` are the least that may stand for an incident's id.
const LEAST_BEGINNING: usize = 4;

/// All incidents: the summaries of all, and a cache of whole ones.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    whole: HashMap<IncidentId, Whole>,
    /// Those that somebody had hold of since the last turn: no other can have changed.
    touched: BTreeSet<IncidentId>,
    /// Findings, and incidents, that are held as whole ones.
    held: usize,
    lines: BTreeMap<IncidentId, Line>,
    /// What people undid or refused, and in which incident.
    undone: BTreeMap<Undone, IncidentId>,
    revision: u64,
    uses: u64,
    /// Those that were stored since somebody asked, where somebody does: a replay.
    changed: Option<Vec<IncidentId>>,
}

/// One incident with its findings.
#[derive(Debug)]
pub(super) struct Whole {
    /// As stored, but with its findings.
    pub(super) row: IncidentRow,
    used: u64,
    /// What it counts for in [`Incidents::held`].
    weight: usize,
    dirty: Dirty,
    dirty_findings: BTreeSet<u32>,
}

#[derive(Debug)]
struct Line {
    summary: IncidentSummary,
    visibility: Visibility,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dirty {
    No,
    Yes,
}

impl Incidents {
    /// Reads the lines of all. `floor` is larger than any revision that an earlier life gave out.
    pub(super) fn load(store: &Store, floor: u64) -> Result<Self, StoreError> {
        let mut this = Self { revision: floor, ..Self::default() };
        let mut undone = Vec::new();
        for (_, row) in store.scan::<IncidentRow>(Table::Incidents, b"")? {
            let line = Line { summary: summary(&row), visibility: row.visibility };
            let id = row.incident.id.clone();
            undone.extend(row.undone.into_iter().map(|undone| (line.summary.updated, undone, id.clone())));
            this.lines.insert(id, line);
        }
        // What was decided twice holds as it was decided last.
        undone.sort_unstable();
        this.undone = undone.into_iter().map(|(_, undone, id)| (undone, id)).collect();
        Ok(this)
    }

    /// A new one.
    pub(super) fn open(&mut self, incident: Incident, visibility: Visibility) -> &mut Whole {
        let id = incident.id.clone();
        let row = IncidentRow {
            incident,
            visibility,
            stored: 0,
            merged_into: None,
            absorbed: Vec::new(),
            revision: 0,
            undone: Vec::new(),
            rest: Rest::default(),
        };
        let line = Line { summary: summary(&row), visibility };
        self.lines.insert(id.clone(), line);
        self.uses += 1;
        let whole =
            Whole { row, used: self.uses, weight: 0, dirty: Dirty::Yes, dirty_findings: BTreeSet::new() };
        self.touched.insert(id.clone());
        self.held -= self.whole.get(&id).map_or(0, |before| before.weight);
        self.whole.entry(id).insert_entry(whole).into_mut()
    }

    /// The whole of one, read from the store where it is not in memory.
    pub(super) fn get(&mut self, store: &Store, id: &IncidentId) -> Result<Option<&mut Whole>, StoreError> {
        self.uses += 1;
        if !self.whole.contains_key(id) {
            let Some(row) = load_row(store, id)? else { return Ok(None) };
            let whole =
                Whole { row, used: self.uses, weight: 0, dirty: Dirty::No, dirty_findings: BTreeSet::new() };
            self.whole.insert(id.clone(), whole);
        }
        if !self.touched.contains(id) {
            self.touched.insert(id.clone());
        }
        let whole = self.whole.get_mut(id);
        Ok(match whole {
            Some(whole) => {
                whole.used = self.uses;
                Some(whole)
            }
            None => None,
        })
    }

    /// Those that changed in this turn.
    pub(super) fn dirty_rows(&self) -> impl Iterator<Item = &IncidentRow> {
        let touched = self.touched.iter().filter_map(|id| self.whole.get(id));
        touched.filter(|whole| whole.dirty == Dirty::Yes).map(|whole| &whole.row)
    }

    /// Puts what changed into the batch.
    pub(super) fn flush(&mut self, batch: &mut Batch) {
        for id in &std::mem::take(&mut self.touched) {
            let Some(whole) = self.whole.get_mut(id) else { continue };
            let weight = whole.row.incident.findings.len() + 1;
            self.held = self.held + weight - std::mem::replace(&mut whole.weight, weight);
            if whole.dirty == Dirty::No {
                continue;
            }
            self.revision += 1;
            whole.row.revision = self.revision;
            if let Some(changed) = &mut self.changed {
                changed.push(id.clone());
            }
            for index in std::mem::take(&mut whole.dirty_findings) {
                if let Some(finding) = whole.row.incident.findings.get(index as usize) {
                    batch.put(Table::Findings, numbered_key(id.as_str(), index), finding, ReadBack::Yes);
                }
            }
            whole.row.stored = u32::try_from(whole.row.incident.findings.len()).unwrap_or(u32::MAX);
            let line = Line { summary: summary(&whole.row), visibility: whole.row.visibility };
            self.lines.insert(id.clone(), line);
            let findings = std::mem::take(&mut whole.row.incident.findings);
            batch.put(Table::Incidents, id.as_str().as_bytes().to_vec(), &whole.row, ReadBack::Yes);
            whole.row.incident.findings = findings;
            whole.dirty = Dirty::No;
        }
    }

    /// Lets go of what was used longest ago until at most `findings` are held. Only between turns, when all is stored.
    pub(super) fn evict(&mut self, findings: usize) {
        if self.held <= findings {
            return;
        }
        let mut by_use: Vec<(u64, IncidentId)> =
            self.whole.iter().map(|(id, whole)| (whole.used, id.clone())).collect();
        by_use.sort_unstable();
        // A tenth more than needed, so that it is not sorted again for each.
        for (_, oldest) in by_use {
            if self.held <= findings - findings / 10 {
                break;
            }
            self.held -= self.whole.remove(&oldest).map_or(0, |whole| whole.weight);
        }
    }

    /// Forgets the oldest that are over and have nothing in force, until `limit` are left; how many are too many still.
    pub(super) fn retire(&mut self, limit: usize, batch: &mut Batch) -> (Vec<IncidentId>, usize) {
        let excess = self.lines.len().saturating_sub(limit);
        if excess == 0 {
            return (Vec::new(), 0);
        }
        let mut over: Vec<(Timestamp, &IncidentId)> = self
            .lines
            .values()
            .filter(|line| line.visibility == Visibility::Dormant || is_over(&line.summary))
            .map(|line| (line.summary.updated, &line.summary.id))
            .collect();
        if over.len() > excess {
            over.select_nth_unstable(excess);
            over.truncate(excess);
        }
        over.sort_unstable();
        let ids: Vec<IncidentId> = over.into_iter().map(|(_, id)| id.clone()).collect();
        if !ids.is_empty() {
            self.undone.retain(|_, of| !ids.contains(of));
        }
        for id in &ids {
            self.lines.remove(id);
            self.held -= self.whole.remove(id).map_or(0, |whole| whole.weight);
            batch.remove(Table::Incidents, id.as_str().as_bytes().to_vec());
            batch.remove(Table::Groups, id.as_str().as_bytes().to_vec());
            for index in 0..Incident::MAX_FINDINGS {
                batch.remove(Table::Findings, numbered_key(id.as_str(), u32::try_from(index).unwrap_or(0)));
            }
        }
        let left = excess - ids.len();
        (ids, left)
    }

    /// A person undid or refused this: the machine does not do it again.
    pub(super) fn undid(&mut self, store: &Store, id: &IncidentId, what: Undone) -> Result<(), StoreError> {
        if self.undone.get(&what) == Some(id) {
            return Ok(());
        }
        if let Some(whole) = self.get(store, id)? {
            if !whole.row.undone.contains(&what) {
                whole.row.undone.push(what.clone());
                whole.dirty = Dirty::Yes;
            }
            self.undone.insert(what, id.clone());
        }
        Ok(())
    }

    /// In which incident a person undid or refused this. What no process did counts while something came to that incident within
    /// [`ACCOUNTS`].
    pub(super) fn undone_in(&self, what: &Undone, now: Timestamp) -> Option<&IncidentId> {
        let of = self.undone.get(what)?;
        let is_fresh = |line: &Line| now.since(line.summary.updated) <= ACCOUNTS;
        (what.process.pid.0 != 0 || self.lines.get(of).is_some_and(is_fresh)).then_some(of)
    }

    /// Names of those that were stored since this was last asked; the first time it only begins to be written down.
    pub(super) fn changed(&mut self) -> Vec<IncidentId> {
        let mut changed = self.changed.replace(Vec::new()).unwrap_or_default();
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn contains(&self, id: &IncidentId) -> bool {
        self.lines.contains_key(id)
    }

    /// All of them, those too that changed in this turn.
    pub(super) fn ids(&self) -> Vec<IncidentId> {
        self.lines.keys().cloned().collect()
    }

    /// Lines that people see.
    pub(super) fn visible(&self) -> impl Iterator<Item = &IncidentSummary> {
        self.lines.values().filter(|l| l.visibility == Visibility::Open).map(|l| &l.summary)
    }

    /// Lines that people see of incidents about the same thing.
    pub(super) fn about(&self, target: &str) -> impl Iterator<Item = &IncidentSummary> {
        self.visible().filter(move |line| !target.is_empty() && line.target == target)
    }

    /// The one incident that a word means: its whole id, or a beginning with at least [`LEAST_BEGINNING`] characters after `inc-` that fits no
    /// other. Less is never taken for one, however few incidents there are: an unset variable would decide about the only one.
    pub(super) fn meant(&self, word: &str) -> Result<IncidentId, ApiError> {
        let unknown = |what: String| ApiError::new(ApiErrorKind::Unknown, what);
        let list = "`hemostat incidents` lists them";
        let rest = word.strip_prefix("inc-").unwrap_or(word);
        if rest.trim().is_empty() {
            let what = format!("no incident is named: its id is needed, not {word:?}; {list}");
            return Err(ApiError::new(ApiErrorKind::Malformed, what));
        }
        for exact in [IncidentId::new(word), IncidentId::new(format!("inc-{rest}"))] {
            if self.lines.contains_key(&exact) {
                return Ok(exact);
            }
        }
        if rest.chars().count() < LEAST_BEGINNING {
            return Err(unknown(format!(
                "{word:?} is too short to mean an incident: at least {LEAST_BEGINNING} characters after `inc-` are needed; {list}"
            )));
        }
        let begins =
            |id: &&IncidentId| id.as_str().strip_prefix("inc-").unwrap_or(id.as_str()).starts_with(rest);
        let mut found = self.lines.keys().filter(begins);
        match (found.next(), found.count()) {
            (Some(one), 0) => Ok(one.clone()),
            (None, _) => Err(unknown(format!("there is no incident {word:?}; {list}"))),
            (Some(_), more) => {
                Err(unknown(format!("{word:?} is the beginning of {} incidents: write more of it", more + 1)))
            }
        }
    }
}

impl Whole {
    /// It changes at `now`.
    pub(super) fn touch(&mut self, now: Timestamp) {
        self.row.incident.updated = self.row.incident.updated.max(now);
        self.dirty = Dirty::Yes;
    }

    /// A line in its history, at its time: what a node did is told later than it was done. Beyond the limit the middle is
    /// dropped first.
    pub(super) fn tell(&mut self, at: Timestamp, actor: &Actor, what: impl Into<String>) {
        let timeline = &mut self.row.incident.timeline;
        if timeline.len() >= Incident::MAX_TIMELINE {
            timeline.remove(Incident::MAX_TIMELINE / 2);
        }
        let position = timeline.partition_point(|entry| entry.at <= at);
        timeline.insert(position, TimelineEntry { at, actor: actor.clone(), what: what.into() });
        self.touch(at);
    }

    /// Adds a finding, or counts it when there are too many. Its index, where it was kept.
    pub(super) fn add(&mut self, finding: Finding, entities: Vec<Entity>, now: Timestamp) -> Option<u32> {
        let incident = &mut self.row.incident;
        if finding.rule.level > incident.severity || incident.title.is_empty() {
            incident.severity = finding.rule.level;
            incident.title.clone_from(&finding.rule.title);
        }
        self.add_evidence(finding, entities, now)
    }

    /// As [`Whole::add`], for a finding that reports nothing by itself: it does not make the incident graver.
    pub(super) fn add_evidence(
        &mut self,
        finding: Finding,
        entities: Vec<Entity>,
        now: Timestamp,
    ) -> Option<u32> {
        self.touch(now);
        let incident = &mut self.row.incident;
        for technique in &finding.rule.techniques {
            if let Err(at) = incident.techniques.binary_search(technique) {
                incident.techniques.insert(at, technique.clone());
            }
        }
        incident.techniques.truncate(MAX_ENTITIES);
        for entity in entities {
            if incident.entities.len() < MAX_ENTITIES && !incident.entities.contains(&entity) {
                incident.entities.push(entity);
            }
        }
        incident.first_event = incident.first_event.min(finding.first);
        if incident.findings.len() >= Incident::MAX_FINDINGS {
            incident.findings_dropped += 1;
            return None;
        }
        let index = u32::try_from(incident.findings.len()).ok()?;
        incident.findings.push(finding);
        self.dirty_findings.insert(index);
        Some(index)
    }

    /// The incident as if `finding` were its only one; the others are counted. Without copying them.
    pub(super) fn header_with(&mut self, finding: Finding) -> Incident {
        let findings = std::mem::take(&mut self.row.incident.findings);
        let mut alone = self.row.incident.clone();
        alone.findings_dropped += (findings.len() as u64).saturating_sub(1);
        alone.findings.push(finding);
        self.row.incident.findings = findings;
        alone
    }

    /// The same cause again.
    pub(super) fn repeat(
        &mut self,
        index: u32,
        count: u64,
        last: Timestamp,
        moments: Moments,
        now: Timestamp,
    ) {
        if let Some(finding) = self.row.incident.findings.get_mut(index as usize)
            && count > finding.count
        {
            finding.count = count;
            finding.last = finding.last.max(last);
            finding.moments.add_all(moments, count);
            self.dirty_findings.insert(index);
            self.touch(now);
        }
    }

    /// Whether there is room for a reaction of the node; made by leaving out the oldest that is over, if need be.
    pub(super) fn takes(&mut self, id: &ActionId) -> bool {
        let actions = &mut self.row.incident.actions;
        if actions.len() < MAX_ACTIONS || actions.iter().any(|known| known.id == *id) {
            return true;
        }
        let over = actions.iter().position(|known| known.run.is_none() && !is_in_force(known));
        if let Some(over) = over {
            actions.remove(over);
        }
        over.is_some()
    }

    /// Puts an action's record in its place.
    pub(super) fn record(&mut self, record: &ActionRecord, now: Timestamp) {
        let actions = &mut self.row.incident.actions;
        match actions.iter_mut().find(|known| known.id == record.id) {
            Some(known) if known == record => return,
            Some(known) => known.clone_from(record),
            None => actions.push(record.clone()),
        }
        self.touch(now);
    }
}

/// An incident of which nothing is known yet but how it began.
pub(super) fn begun(
    id: &IncidentId,
    title: &str,
    severity: Level,
    first_event: Timestamp,
    now: Timestamp,
) -> Incident {
    Incident {
        id: id.clone(),
        title: title.to_owned(),
        severity,
        state: IncidentState::Open,
        entities: Vec::new(),
        pods: Vec::new(),
        sessions: Vec::new(),
        findings: Vec::new(),
        findings_dropped: 0,
        techniques: Vec::new(),
        first_event,
        opened: now,
        updated: now,
        contained: None,
        verdict: None,
        enrichment: model::Enrichment::default(),
        actions: Vec::new(),
        runs: Vec::new(),
        timeline: Vec::new(),
    }
}

/// Whether an action's effect is in force, or may be.
pub(crate) fn is_in_force(record: &ActionRecord) -> bool {
    record.action.undo() != UndoClass::Nothing
        && matches!(
            record.state,
            ActionState::Applying
                | ActionState::Applied
                | ActionState::Verified
                | ActionState::Unverified
                | ActionState::Reverting
                | ActionState::RevertBlocked
        )
        && (record.action.undo().has_undo() || record.state == ActionState::Applying)
}

/// Whether nothing more happens to an incident by itself.
pub(super) fn is_over(summary: &IncidentSummary) -> bool {
    summary.actions_in_force == 0
        && summary.waiting == 0
        && matches!(
            summary.state,
            IncidentState::Closed
                | IncidentState::Remediated
                | IncidentState::RolledBack
                | IncidentState::Failed
        )
}

fn load_row(store: &Store, id: &IncidentId) -> Result<Option<IncidentRow>, StoreError> {
    let Some(mut row) = store.get::<IncidentRow>(Table::Incidents, id.as_str().as_bytes())? else {
        return Ok(None);
    };
    for index in 0..row.stored {
        if let Some(finding) = store.get(Table::Findings, &numbered_key(id.as_str(), index))? {
            row.incident.findings.push(finding);
        }
    }
    Ok(Some(row))
}

fn summary(row: &IncidentRow) -> IncidentSummary {
    let incident = &row.incident;
    let kept =
        if incident.findings.is_empty() { u64::from(row.stored) } else { incident.findings.len() as u64 };
    IncidentSummary {
        id: incident.id.clone(),
        title: incident.title.clone(),
        severity: incident.severity,
        state: incident.state,
        target: incident.entities.first().map(ToString::to_string).unwrap_or_default(),
        findings: kept + incident.findings_dropped,
        playbooks: incident.runs.iter().map(|r| r.playbook.to_string()).collect(),
        actions_in_force: incident.actions.iter().filter(|a| is_in_force(a)).count() as u64,
        actions: incident.actions.len() as u64,
        waiting: incident.runs.iter().map(|r| r.waiting.len() as u64).sum(),
        first_event: incident.first_event,
        opened: incident.opened,
        updated: incident.updated,
        contained: incident.contained,
        verdict: incident.verdict,
        merged_into: row.merged_into.clone(),
        revision: row.revision,
    }
}

#[cfg(test)]
mod tests;
