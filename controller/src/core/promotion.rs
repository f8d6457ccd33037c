//! How playbooks earn and lose their modes, durably: what each run did or would have done beside what the analysts did, and where each playbook
//! stands. What follows from it is decided in [`respond::gate::promotion`]; here it is kept, audited and shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use crds::Mode;
use model::{Actor, AuditKind, IncidentId, PlaybookName, RunId, Timestamp};
use respond::{
    action::describe,
    gate::{
        JudgedAs,
        promotion::{
            Comparison, Demotion, Moved, Score, Standing, Terms, begin_anew, content_of, load, missing,
            mode_hunk, patch, review, weeks,
        },
    },
    plan::Plan,
    run::{Change as RunChange, RunStart},
};

use super::{Core, ingest::controller, runs::RunRow, state::State, turn::Turn};
use crate::{
    api::{ApiError, ApiErrorKind, PatchView, PromotionView},
    audit::Draft,
    files::read_file,
    playbooks::Plans,
    store::{Batch, ReadBack, Store, StoreError, Table},
};

/// Runs kept of one playbook: the newest (I11).
const MAX_RUNS: usize = 500;
/// Playbooks of which a record is kept (I11).
const MAX_PLAYBOOKS: usize = 1024;
/// Days pass without anybody doing anything: the records are looked at that often.
const REVIEW: Duration = Duration::from_secs(3600);
/// Weeks and runs that are shown.
const SHOWN_WEEKS: usize = 26;
const SHOWN_RUNS: usize = 20;

/// What is recorded of playbooks.
#[derive(Debug, Default)]
pub(super) struct Promotions {
    books: BTreeMap<PlaybookName, Known>,
    /// Whose record a run is in.
    owners: BTreeMap<RunId, PlaybookName>,
    /// Whose records changed since they were looked at.
    changed: BTreeSet<PlaybookName>,
    reviewed: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Known {
    standing: Option<Standing>,
    runs: BTreeMap<RunId, Comparison>,
    order: BTreeSet<(Timestamp, RunId)>,
}

impl Promotions {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut this = Self::default();
        for (key, standing) in store.scan::<Standing>(Table::Promotion, b"s")? {
            let name = PlaybookName::new(String::from_utf8_lossy(&key[1..]).into_owned());
            this.books.entry(name).or_default().standing = Some(standing);
        }
        for (_, run) in store.scan::<Comparison>(Table::Promotion, b"c")? {
            this.owners.insert(run.run.clone(), run.playbook.clone());
            let known = this.books.entry(run.playbook.clone()).or_default();
            known.order.insert((run.began, run.run.clone()));
            known.runs.insert(run.run.clone(), run);
        }
        Ok(this)
    }

    /// Whether a playbook was taken back.
    pub(super) fn demotion(&self, playbook: &PlaybookName) -> Option<Demotion> {
        self.books.get(playbook)?.standing.as_ref()?.demoted.clone()
    }

    /// Playbooks whose next mode is proposed, and those that were taken back.
    pub(super) fn counts(&self) -> (usize, usize) {
        let standings = || self.books.values().filter_map(|known| known.standing.as_ref());
        let proposed = standings().filter(|standing| standing.proposed.is_some()).count();
        (proposed, standings().filter(|standing| standing.demoted.is_some()).count())
    }

    /// A run begins.
    fn begin(&mut self, run: Comparison, batch: &mut Batch) {
        let known = self.books.entry(run.playbook.clone()).or_default();
        batch.put(Table::Promotion, run_key(&run), &run, ReadBack::No);
        known.order.insert((run.began, run.run.clone()));
        self.owners.insert(run.run.clone(), run.playbook.clone());
        self.changed.insert(run.playbook.clone());
        known.runs.insert(run.run.clone(), run);
        while known.runs.len() > MAX_RUNS {
            let Some((_, oldest)) = known.order.pop_first() else { break };
            self.owners.remove(&oldest);
            if let Some(gone) = known.runs.remove(&oldest) {
                batch.remove(Table::Promotion, run_key(&gone));
            }
        }
        self.bound(batch);
    }

    /// Forgets the playbook that did nothing for longest, where there are too many; one that was taken back at the very last, since it would
    /// be trusted again.
    fn bound(&mut self, batch: &mut Batch) {
        while self.books.len() > MAX_PLAYBOOKS {
            let is_demoted = |known: &Known| known.standing.as_ref().is_some_and(|it| it.demoted.is_some());
            let last = |known: &Known| (is_demoted(known), known.order.last().map(|(at, _)| *at));
            let oldest = self.books.iter().min_by_key(|(_, known)| last(known)).map(|(name, _)| name.clone());
            let Some((name, known)) = oldest.and_then(|name| self.books.remove_entry(&name)) else { break };
            batch.remove(Table::Promotion, standing_key(&name));
            for run in known.runs.values() {
                self.owners.remove(&run.run);
                batch.remove(Table::Promotion, run_key(run));
            }
        }
    }

    /// Changes what is recorded of a run, if it is known; `change` tells whether anything did.
    pub(super) fn change(
        &mut self,
        run: &RunId,
        change: impl FnOnce(&mut Comparison) -> bool,
        batch: &mut Batch,
    ) {
        let Some(playbook) = self.owners.get(run) else { return };
        let known = self.books.get_mut(playbook).and_then(|known| known.runs.get_mut(run));
        if let Some(known) = known
            && change(known)
        {
            batch.put(Table::Promotion, run_key(known), known, ReadBack::No);
            self.changed.insert(playbook.clone());
        }
    }

    fn stand(&mut self, playbook: &PlaybookName, standing: Standing, batch: &mut Batch) {
        let known = self.books.entry(playbook.clone()).or_default();
        if known.standing.as_ref() != Some(&standing) {
            batch.put(Table::Promotion, standing_key(playbook), &standing, ReadBack::Yes);
            known.standing = Some(standing);
        }
    }
}

impl State {
    /// The playbooks in use, each in the mode that holds: what nodes may do by themselves goes by them.
    pub(super) fn plans_in_force(&self) -> Plans {
        let in_force = |plan: &Arc<Plan>| match self.promotions.demotion(plan.name()) {
            Some(demotion) if demotion.to < plan.spec().mode => Arc::new(plan.in_mode(demotion.to)),
            _ => Arc::clone(plan),
        };
        self.book.plans().map(in_force).collect()
    }
}

impl Core {
    /// A run of a playbook begins: what it does will stand beside what people do.
    pub(super) fn record_beside(&mut self, row: &RunRow, start: &RunStart, turn: &mut Turn) {
        if row.answers.is_none() || row.judged_as == JudgedAs::Exercises {
            return;
        }
        let beside = Comparison {
            playbook: start.playbook.clone(),
            run: row.run.clone(),
            incident: row.incident.clone(),
            began: row.began,
            mode: start.spec.mode,
            outcome: row.outcome,
            would: Vec::new(),
            did: Vec::new(),
            word: None,
            judged: None,
            end: None,
        };
        self.state.promotions.begin(beside, &mut turn.batch);
    }

    /// What a run does, or would do.
    pub(super) fn step_beside(&mut self, run: &RunId, change: &RunChange, turn: &mut Turn) {
        let line = match change {
            RunChange::Would { step, what } => format!("{step}: {what}"),
            RunChange::Planned { step, work, .. } => {
                format!("{step}: {}", describe(&work.action, &work.target))
            }
            _ => return,
        };
        self.state.promotions.change(run, |beside| beside.step(&line), &mut turn.batch);
    }

    /// What a person did about an incident.
    pub(super) fn deed_beside(
        &mut self,
        incident: &IncidentId,
        run: Option<&RunId>,
        by: &Actor,
        what: &str,
        turn: &mut Turn,
    ) {
        let runs = match run {
            Some(run) => vec![run.clone()],
            None => match self.state.incidents.get(&self.state.store, incident) {
                Ok(Some(whole)) => whole.row.incident.runs.iter().map(|run| run.id.clone()).collect(),
                // That it cannot be read is told where the incident is changed.
                _ => return,
            },
        };
        for run in runs {
            let deed = |beside: &mut Comparison| {
                beside.deed(turn.now, by, what);
                true
            };
            self.state.promotions.change(&run, deed, &mut turn.batch);
        }
    }

    /// Playbooks were read: what Git says of their modes now.
    pub(super) fn modes_of_git(&mut self, turn: &mut Turn) {
        let plans: Vec<_> = self.state.book.plans().cloned().collect();
        for plan in plans.into_iter().take(MAX_PLAYBOOKS) {
            let (name, spec) = (plan.name(), plan.spec());
            let known = self.state.promotions.books.get(name).and_then(|known| known.standing.as_ref());
            let (standing, moved) = load(known, spec.mode, &content_of(spec), turn.now);
            self.state.promotions.stand(name, standing, &mut turn.batch);
            self.tell_moved(name, &moved, turn);
        }
        self.state.promotions.bound(&mut turn.batch);
        self.plans.send_replace(self.state.plans_in_force());
    }

    /// Looks at the records that changed, and at all of them from time to time, since days pass by themselves.
    pub(super) fn review_promotions(&mut self, turn: &mut Turn) {
        let promotions = &mut self.state.promotions;
        let due = promotions.reviewed.is_none_or(|at| turn.now.since(at) >= REVIEW || turn.now < at);
        let mut names = std::mem::take(&mut promotions.changed);
        if due {
            promotions.reviewed = Some(turn.now);
            names = promotions.books.keys().cloned().collect();
        }
        for name in names {
            // Only what is in use can be promoted or taken back.
            if self.state.book.find(name.as_str()).is_none() {
                continue;
            }
            let Some(known) = self.state.promotions.books.get(&name) else { continue };
            let Some(standing) = &known.standing else { continue };
            let runs: Vec<&Comparison> = known.runs.values().collect();
            let (standing, moved) = review(&name, standing, &runs, &self.terms(&name), turn.now);
            self.state.promotions.stand(&name, standing, &mut turn.batch);
            self.tell_moved(&name, &moved, turn);
        }
    }

    /// What a playbook has to show, by the policies in force.
    fn terms(&self, playbook: &PlaybookName) -> Terms {
        Terms::of(playbook, self.state.book.policies().iter().map(|(_, policy)| policy))
    }

    /// A person said that what was recorded of it no longer counts; whether there was anything.
    pub(super) fn promotion_anew(&mut self, name: &str, by: &Actor, turn: &mut Turn) -> bool {
        let name = PlaybookName::new(name);
        let Some(known) = self.state.promotions.books.get(&name) else { return false };
        let Some(standing) = known.standing.as_ref() else { return false };
        let counted = known.runs.values().any(|run| run.word.is_some() && standing.counts(run));
        if !counted && standing.demoted.is_none() {
            return false;
        }
        let (standing, moved) = begin_anew(standing, by.as_str(), turn.now);
        self.state.promotions.stand(&name, standing, &mut turn.batch);
        self.tell_moved(&name, &moved, turn);
        true
    }

    fn tell_moved(&mut self, playbook: &PlaybookName, moved: &[Moved], turn: &mut Turn) {
        for moved in moved {
            match moved {
                Moved::Began { .. } => continue,
                Moved::Proposed(_) | Moved::Demoted(_) => {
                    tracing::warn!(%playbook, "playbook {moved}; `hemostat policy promotion {playbook}` shows it");
                }
                _ => tracing::info!(%playbook, "playbook {moved}"),
            }
            turn.audit(Draft {
                at: turn.now,
                actor: controller(),
                kind: AuditKind::Decision,
                incident: None,
                run: None,
                action: None,
                what: format!("playbook {playbook}: {moved}"),
            });
        }
        if moved.iter().any(|moved| matches!(moved, Moved::Demoted(_) | Moved::Lifted { .. })) {
            self.plans.send_replace(self.state.plans_in_force());
        }
    }

    /// Where playbooks stand; of one with its runs and the patch.
    pub(super) fn promotion(&self, name: Option<&str>) -> Result<Vec<PromotionView>, ApiError> {
        let now = (self.config.clock)();
        let mut views = Vec::new();
        for (playbook, known) in &self.state.promotions.books {
            let wanted = name.is_none_or(|name| name == playbook.as_str());
            let (true, Some(standing)) =
                (wanted && self.state.book.find(playbook.as_str()).is_some(), &known.standing)
            else {
                continue;
            };
            let mut runs: Vec<&Comparison> = known.runs.values().collect();
            runs.sort_by(|a, b| (b.began, &b.run).cmp(&(a.began, &a.run)));
            let one = name.is_some();
            views.push(PromotionView {
                playbook: playbook.clone(),
                mode: standing.mode,
                in_force: standing.in_force(),
                since: standing.since,
                demoted: standing.demoted.clone(),
                proposed: standing.proposed.clone(),
                missing: missing(playbook, standing, &runs, &self.terms(playbook), now),
                score: Score::of(runs.iter().copied().filter(|run| standing.counts(run))),
                weeks: weeks(&runs, SHOWN_WEEKS),
                runs: if one { runs.into_iter().take(SHOWN_RUNS).cloned().collect() } else { Vec::new() },
                patch: if one { self.patch_of(playbook, standing) } else { None },
            });
        }
        match name {
            Some(name) if views.is_empty() => {
                let what =
                    format!("there is no playbook {name} in use; `hemostat policy promotion` lists them");
                Err(ApiError::new(ApiErrorKind::Unknown, what))
            }
            _ => Ok(views),
        }
    }

    /// What is proposed, or what a demotion made of it, as a change for Git.
    fn patch_of(&self, playbook: &PlaybookName, standing: &Standing) -> Option<PatchView> {
        let (to, evidence) = match (&standing.proposed, &standing.demoted) {
            (Some(proposal), _) => (proposal.to, proposal.evidence.clone()),
            (None, Some(demotion)) => (demotion.to, vec![demotion.because.clone()]),
            (None, None) => return None,
        };
        let subject = format!("playbook {playbook}: mode {to:?}");
        let (_, file) = self.state.book.find(playbook.as_str())?;
        let (mut hunks, mut notes) = (Vec::new(), Vec::new());
        let (root, path) = place_of(file);
        match text_of(file).map(|text| mode_hunk(&path, &text, playbook.as_str(), false, to)) {
            Some(Ok(hunk)) => hunks.push(hunk),
            Some(Err(error)) => notes.push(format!("{file}: {error}")),
            None => {}
        }
        for (name, spec, policy) in self.state.book.policies_and_files() {
            let speaks = &spec.matches.playbooks;
            let of_it = speaks.is_empty() || speaks.iter().any(|one| one == playbook.as_str());
            let Some(mode) = spec.mode.filter(|mode| *mode < to && of_it) else { continue };
            // A policy that speaks of this playbook alone is changed with it; one that others rest on is a person's to look at.
            let alone = crds::Match { playbooks: vec![playbook.to_string()], ..crds::Match::default() };
            let (of, path) = place_of(policy);
            let text = text_of(policy).filter(|_| spec.matches == alone && of == root && policy != file);
            match text.map(|text| mode_hunk(&path, &text, name, true, to)) {
                Some(Ok(hunk)) => hunks.push(hunk),
                _ => notes.push(format!(
                    "policy {name} allows at most {mode:?} where it speaks; it is not changed"
                )),
            }
        }
        Some(if hunks.is_empty() {
            PatchView {
                text: object_patch(&subject, &evidence, to),
                apply: format!("kubectl patch playbook {playbook} --type merge --patch-file FILE"),
                notes,
            }
        } else {
            PatchView {
                text: patch(&subject, &evidence, &hunks),
                apply: format!("git -C {root} apply FILE"),
                notes,
            }
        })
    }
}

/// Where no file is known: the change of the object, which is also what a reviewer of another repository needs.
fn object_patch(subject: &str, evidence: &[String], to: Mode) -> String {
    let comment = |text: &str| format!("# {}\n", text.replace(|c: char| c.is_control(), " "));
    let mut out = comment(subject);
    out.extend(evidence.iter().map(|line| comment(&format!("- {line}"))));
    out + &format!("spec:\n  mode: {to:?}\n")
}

/// The text of a file of a folder; nothing of what came from the API server.
fn text_of(file: &str) -> Option<String> {
    let path = Path::new(file);
    let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    String::from_utf8(read_file(path).ok().filter(|_| is_yaml)?).ok()
}

/// The folder in which a patch of `file` is applied, and the file as seen from there: the repository's root, else the file's folder.
fn place_of(file: &str) -> (String, String) {
    let path = Path::new(file);
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let root = path.ancestors().skip(1).find(|folder| folder.join(".git").exists());
    let root = root.or_else(|| path.parent()).unwrap_or(&path);
    let within = path.strip_prefix(root).unwrap_or(&path);
    (root.display().to_string(), within.display().to_string())
}

fn standing_key(playbook: &PlaybookName) -> Vec<u8> {
    [b"s", playbook.as_str().as_bytes()].concat()
}

fn run_key(run: &Comparison) -> Vec<u8> {
    [b"c", run.playbook.as_str().as_bytes(), b"\0", run.run.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests;
