//! What people said of findings and runs, kept for the gate longer than the incidents themselves; and whether everything automatic is paused.
//!
//! A case is one incident for a rule and for an entity (who did it, and where), one run for a playbook. A later word on the same case takes the place of the earlier one, a verdict
//! that of an answer, and never the other way round.

use std::collections::{BTreeMap, BTreeSet};

use model::{IncidentId, PlaybookName, RunId, Timestamp, Verdict};
use respond::gate::{Cases, Paused, promotion};
use serde::{Deserialize, Serialize};

use crate::store::{Batch, ReadBack, Store, StoreError, Table};

/// Cases of one rule or playbook that count: the newest.
const MAX_CASES: usize = 1000;
/// Rules and playbooks of which cases are kept; the one of which nothing was said for longest is forgotten first.
const MAX_SUBJECTS: usize = 4096;
/// Entities of which cases are kept, likewise. Apart from the rules', so that many of them cannot have a rule forget.
const MAX_ENTITIES: usize = 4096;
/// Where the pause stands in [`Table::Meta`].
const PAUSED: &[u8] = b"paused";

/// What people said.
#[derive(Debug, Default)]
pub(super) struct Trust {
    ledgers: BTreeMap<Subject, Ledger>,
    paused: Option<Paused>,
}

/// What a case is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Rule(String),
    Playbook(String),
    /// Somebody or something that [`respond::gate::Want`] names.
    Entity(String),
}

#[derive(Debug, Default)]
struct Ledger {
    cases: BTreeMap<String, Case>,
    order: BTreeSet<(Timestamp, String)>,
    counts: Cases,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Case {
    subject: String,
    case: String,
    at: Timestamp,
    said: Said,
    /// Whether the playbook only said what it would have done.
    #[serde(default)]
    shadow: bool,
    /// Of an entity: the rules that found it and the playbooks that answered.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    because: BTreeSet<String>,
}

/// What was said of an entity.
#[derive(Debug, Clone)]
pub(super) struct Word {
    /// The verdict.
    pub(super) said: Said,
    /// Whether playbooks only said what they would have done.
    pub(super) shadow: bool,
    /// The rules that found it and the playbooks that answered: what was said because of one that was mended since counts no longer.
    pub(super) because: BTreeSet<String>,
}

/// What was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// A true positive.
    Right,
    /// A false positive.
    Wrong,
    /// Yes to a run.
    Agreed,
    /// No to a run.
    Refused,
}

impl From<Verdict> for Said {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::TruePositive => Self::Right,
            Verdict::FalsePositive => Self::Wrong,
        }
    }
}

impl From<Said> for promotion::Word {
    fn from(said: Said) -> Self {
        match said {
            Said::Right => Self::Right,
            Said::Wrong => Self::Wrong,
            Said::Agreed => Self::Agreed,
            Said::Refused => Self::Refused,
        }
    }
}

impl Case {
    fn new(subject: &str, case: &str, at: Timestamp, (said, shadow): (Said, bool)) -> Self {
        Self {
            subject: subject.to_owned(),
            case: case.to_owned(),
            at,
            said,
            shadow,
            because: BTreeSet::new(),
        }
    }
}

impl Said {
    fn is_verdict(self) -> bool {
        matches!(self, Self::Right | Self::Wrong)
    }
}

impl Trust {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut this = Self { paused: store.get(Table::Meta, PAUSED)?, ..Self::default() };
        for (key, case) in store.scan::<Case>(Table::Trust, b"")? {
            let subject = match key.first() {
                Some(b'r') => Subject::Rule(case.subject.clone()),
                Some(b'e') => Subject::Entity(case.subject.clone()),
                _ => Subject::Playbook(case.subject.clone()),
            };
            this.ledgers.entry(subject).or_default().put(case);
        }
        Ok(this)
    }

    pub(super) fn paused(&self) -> Option<&Paused> {
        self.paused.as_ref()
    }

    /// Pauses everything automatic, or lets it go on.
    pub(super) fn pause(&mut self, paused: Option<Paused>, batch: &mut Batch) {
        match &paused {
            Some(paused) => batch.put(Table::Meta, PAUSED.to_vec(), paused, ReadBack::Yes),
            None => batch.remove(Table::Meta, PAUSED.to_vec()),
        }
        self.paused = paused;
    }

    /// What was said of the findings of a rule.
    pub(super) fn of_rule(&self, rule: &str) -> Cases {
        self.of(&Subject::Rule(rule.to_owned()))
    }

    /// What was said of the runs of a playbook.
    pub(super) fn of_playbook(&self, playbook: &PlaybookName) -> Cases {
        self.of(&Subject::Playbook(playbook.as_str().to_owned()))
    }

    /// Whether something was said of a rule because of this incident.
    pub(super) fn has_case_of_rule(&self, rule: &str, incident: &IncidentId) -> bool {
        self.has_case(&Subject::Rule(rule.to_owned()), incident.as_str())
    }

    /// Whether something was said of this run of a playbook.
    pub(super) fn has_case_of_playbook(&self, playbook: &PlaybookName, run: &RunId) -> bool {
        self.has_case(&Subject::Playbook(playbook.as_str().to_owned()), run.as_str())
    }

    fn has_case(&self, subject: &Subject, case: &str) -> bool {
        self.ledgers.get(subject).is_some_and(|ledger| ledger.cases.contains_key(case))
    }

    /// What was said of what somebody or something did.
    pub(super) fn of_entity(&self, entity: &str) -> Cases {
        self.of(&Subject::Entity(entity.to_owned()))
    }

    /// Whether an incident other than this one was judged a false positive of this entity.
    pub(super) fn was_wrong_before(&self, entity: &str, incident: &IncidentId) -> bool {
        let ledger = self.ledgers.get(&Subject::Entity(entity.to_owned()));
        ledger.is_some_and(|ledger| {
            let here = ledger.cases.get(incident.as_str()).is_some_and(|case| case.said == Said::Wrong);
            ledger.counts.wrong > u32::from(here)
        })
    }

    fn of(&self, subject: &Subject) -> Cases {
        self.ledgers.get(subject).map(|ledger| ledger.counts).unwrap_or_default()
    }

    pub(super) fn say_of_rule(
        &mut self,
        rule: &str,
        incident: &IncidentId,
        (said, shadow): (Said, bool),
        at: Timestamp,
        batch: &mut Batch,
    ) {
        let case = Case::new(rule, incident.as_str(), at, (said, shadow));
        self.say(Subject::Rule(rule.to_owned()), case, batch);
    }

    pub(super) fn say_of_entity(
        &mut self,
        entity: &str,
        incident: &IncidentId,
        word: Word,
        at: Timestamp,
        batch: &mut Batch,
    ) {
        let case = Case::new(entity, incident.as_str(), at, (word.said, word.shadow));
        let case = Case { because: word.because, ..case };
        self.say(Subject::Entity(entity.to_owned()), case, batch);
    }

    pub(super) fn say_of_playbook(
        &mut self,
        playbook: &PlaybookName,
        run: &RunId,
        (said, shadow): (Said, bool),
        at: Timestamp,
        batch: &mut Batch,
    ) {
        let case = Case::new(playbook.as_str(), run.as_str(), at, (said, shadow));
        self.say(Subject::Playbook(playbook.as_str().to_owned()), case, batch);
    }

    /// Forgets what was said of a rule, playbook or entity, since it is another one now; how many cases that were.
    pub(super) fn begin_anew(&mut self, name: &str, batch: &mut Batch) -> usize {
        let mut gone = 0;
        for of in [Subject::Rule, Subject::Playbook, Subject::Entity] {
            let subject = of(name.to_owned());
            let Some(ledger) = self.ledgers.remove(&subject) else { continue };
            for case in ledger.cases.into_values() {
                batch.remove(Table::Trust, subject.key(&case.case));
                gone += 1;
            }
        }
        for (subject, ledger) in &mut self.ledgers {
            let of_it = |case: &&Case| case.because.contains(name);
            let cases: Vec<String> =
                ledger.cases.values().filter(of_it).map(|case| case.case.clone()).collect();
            for case in cases {
                ledger.remove(&case);
                batch.remove(Table::Trust, subject.key(&case));
            }
        }
        self.ledgers.retain(|_, ledger| !ledger.cases.is_empty());
        gone
    }

    fn say(&mut self, subject: Subject, case: Case, batch: &mut Batch) {
        let ledger = self.ledgers.entry(subject.clone()).or_default();
        let known = ledger.cases.get(&case.case);
        if known.is_some_and(|known| known.said.is_verdict() && !case.said.is_verdict()) {
            return;
        }
        let key = subject.key(&case.case);
        batch.put(Table::Trust, key, &case, ReadBack::No);
        for gone in ledger.put(case) {
            batch.remove(Table::Trust, subject.key(&gone));
        }
        let is_entity = |subject: &Subject| matches!(subject, Subject::Entity(_));
        let (kind, most) = if is_entity(&subject) { (true, MAX_ENTITIES) } else { (false, MAX_SUBJECTS) };
        while self.ledgers.keys().filter(|one| is_entity(one) == kind).count() > most {
            let last = |ledger: &Ledger| ledger.order.last().map(|(at, _)| *at);
            let oldest = self
                .ledgers
                .iter()
                .filter(|(one, _)| is_entity(one) == kind)
                .min_by_key(|(_, ledger)| last(ledger))
                .map(|(subject, _)| subject.clone());
            let Some((subject, ledger)) = oldest.and_then(|one| self.ledgers.remove_entry(&one)) else {
                break;
            };
            for case in ledger.cases.keys() {
                batch.remove(Table::Trust, subject.key(case));
            }
        }
    }
}

impl Subject {
    fn key(&self, case: &str) -> Vec<u8> {
        let (kind, name) = match self {
            Self::Rule(name) => (b'r', name),
            Self::Playbook(name) => (b'p', name),
            Self::Entity(name) => (b'e', name),
        };
        let mut key = vec![kind];
        key.extend(name.as_bytes());
        key.push(0);
        key.extend(case.as_bytes());
        key
    }
}

impl Ledger {
    /// Takes a case in; names of those that no longer count.
    fn put(&mut self, case: Case) -> Vec<String> {
        self.remove(&case.case);
        self.count(&case, |n| n + 1);
        self.order.insert((case.at, case.case.clone()));
        self.cases.insert(case.case.clone(), case);
        let mut gone = Vec::new();
        while self.cases.len() > MAX_CASES {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(case) = self.cases.remove(&oldest) {
                self.count(&case, |n| n.saturating_sub(1));
            }
            gone.push(oldest);
        }
        gone
    }

    fn remove(&mut self, case: &str) {
        if let Some(before) = self.cases.remove(case) {
            self.order.remove(&(before.at, before.case.clone()));
            self.count(&before, |n| n.saturating_sub(1));
        }
    }

    fn count(&mut self, case: &Case, change: impl Fn(u32) -> u32) {
        let place = match case.said {
            Said::Right => &mut self.counts.right,
            Said::Wrong => &mut self.counts.wrong,
            Said::Agreed => &mut self.counts.agreed,
            Said::Refused => &mut self.counts.refused,
        };
        *place = change(*place);
        if case.shadow && case.said.is_verdict() {
            self.counts.in_shadow = change(self.counts.in_shadow);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Actor;

    use super::*;

    fn open() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("j.redb")).unwrap();
        (dir, store)
    }

    fn word(said: Said) -> Word {
        Word { said, shadow: false, because: BTreeSet::from(["r".to_owned()]) }
    }

    fn say(trust: &mut Trust, store: &Store, case: usize, said: Said) {
        let mut batch = Batch::default();
        let at = Timestamp(case as i64);
        trust.say_of_rule("r", &IncidentId::new(format!("inc-{case}")), (said, false), at, &mut batch);
        trust.say_of_playbook(
            &PlaybookName::new("p"),
            &RunId::new(format!("run-{case}")),
            (said, true),
            at,
            &mut batch,
        );
        store.commit(&batch).unwrap();
    }

    #[test]
    fn a_case_counts_once_a_verdict_holds_over_an_answer_and_all_survives_a_restart() {
        let (_dir, store) = open();
        let mut trust = Trust::load(&store).unwrap();
        for said in [Said::Agreed, Said::Right, Said::Refused, Said::Wrong] {
            say(&mut trust, &store, 1, said);
        }
        say(&mut trust, &store, 2, Said::Right);
        let expected = Cases { right: 1, wrong: 1, ..Cases::default() };
        assert_eq!(trust.of_rule("r"), expected);
        let again = Trust::load(&store).unwrap();
        assert_eq!(again.of_rule("r"), expected);
        assert_eq!(again.of_playbook(&PlaybookName::new("p")), Cases { in_shadow: 2, ..expected });
        assert_eq!(again.of_rule("p"), Cases::default(), "a rule is no playbook");
        let mut batch = Batch::default();
        assert_eq!(trust.begin_anew("r", &mut batch), 2);
        store.commit(&batch).unwrap();
        assert_eq!(Trust::load(&store).unwrap().of_rule("r"), Cases::default());
    }

    #[test]
    fn i11_cases_are_bounded_and_the_newest_count() {
        let (_dir, store) = open();
        let mut trust = Trust::default();
        let mut batch = Batch::default();
        for case in 0..MAX_CASES + 10 {
            let said = if case < 10 { Said::Wrong } else { Said::Right };
            let id = IncidentId::new(format!("inc-{case}"));
            trust.say_of_rule("r", &id, (said, false), Timestamp(case as i64), &mut batch);
        }
        store.commit(&batch).unwrap();
        let expected = Cases { right: 1000, ..Cases::default() };
        assert_eq!((trust.of_rule("r"), Trust::load(&store).unwrap().of_rule("r")), (expected, expected));
        for rule in 0..MAX_SUBJECTS + 5 {
            let rule = format!("r{rule}");
            trust.say_of_rule(
                &rule,
                &IncidentId::new("i"),
                (Said::Right, false),
                Timestamp(9_000_000),
                &mut batch,
            );
        }
        assert!(trust.ledgers.len() <= MAX_SUBJECTS);
        let kept = trust.ledgers.len();
        for entity in 0..MAX_ENTITIES + 5 {
            let id = IncidentId::new("i");
            trust.say_of_entity(&format!("image {entity}"), &id, word(Said::Wrong), Timestamp(1), &mut batch);
        }
        assert_eq!(trust.ledgers.len(), kept + MAX_ENTITIES, "entities drive out no rule");
    }

    #[test]
    fn what_was_said_of_an_entity_survives_a_restart_and_is_told_apart_by_incident() {
        let (_dir, store) = open();
        let mut trust = Trust::load(&store).unwrap();
        let mut batch = Batch::default();
        let (one, other) = (IncidentId::new("inc-1"), IncidentId::new("inc-2"));
        assert!(!trust.was_wrong_before("image x", &one));
        trust.say_of_entity("image x", &one, word(Said::Wrong), Timestamp(1), &mut batch);
        store.commit(&batch).unwrap();
        let mut trust = Trust::load(&store).unwrap();
        assert!(!trust.was_wrong_before("image x", &one), "that is the same case");
        assert!(trust.was_wrong_before("image x", &other) && !trust.was_wrong_before("image y", &other));
        assert_eq!(trust.of_entity("image x"), Cases { wrong: 1, ..Cases::default() });
        assert_eq!(trust.of_rule("image x"), Cases::default(), "an entity is no rule");
        let mut batch = Batch::default();
        trust.say_of_entity("image x", &one, word(Said::Right), Timestamp(2), &mut batch);
        assert!(!trust.was_wrong_before("image x", &other), "the last word counts");
        assert_eq!(trust.begin_anew("image x", &mut batch), 1);
        // What was said because of a rule that was mended since.
        for (image, incident) in [("image x", &one), ("image y", &other)] {
            trust.say_of_entity(image, incident, word(Said::Wrong), Timestamp(3), &mut batch);
        }
        assert_eq!(trust.begin_anew("r", &mut batch), 0, "of the rule itself nothing was said");
        store.commit(&batch).unwrap();
        for trust in [trust, Trust::load(&store).unwrap()] {
            assert_eq!(trust.of_entity("image y"), Cases::default());
        }
    }

    #[test]
    fn a_pause_survives_a_restart() {
        let (_dir, store) = open();
        let mut batch = Batch::default();
        let paused = Paused { by: Actor::new("user:ada"), at: Timestamp(1), because: "x".into() };
        Trust::default().pause(Some(paused.clone()), &mut batch);
        store.commit(&batch).unwrap();
        let mut trust = Trust::load(&store).unwrap();
        assert_eq!(trust.paused(), Some(&paused));
        let mut batch = Batch::default();
        trust.pause(None, &mut batch);
        store.commit(&batch).unwrap();
        assert_eq!(Trust::load(&store).unwrap().paused(), None);
    }
}
