//! Events to reports: every rule, and what was too large for the rules.

use std::{collections::BTreeMap, sync::Arc};

use detect::{
    fold::{self, Acted, Fold, Folded},
    matcher::{Follower, RuleIndex, Swap},
    schema::{Field, View},
};
use model::{
    Activity, AgentEpoch, Event, EventId, Exposure, Fact, Finding, FindingId, Level, LossWindow, NodeId,
    Process, Reaction, Record, Report, RuleRef, Seq, Timestamp, Truncated,
};

use super::{
    read::Told,
    report::{LinkLost, Reporter},
};

/// Id of the finding that tells of a record of which rules saw less than there was. No file has it: it cannot be left out.
pub const CUT_RULE: &str = "hemostat-record-cut";

/// The rules over one source.
pub(super) struct Judge {
    name: NodeId,
    rules: Follower,
    fold: Fold,
    fed: Option<u64>,
    hits: Vec<RuleIndex>,
    pub(super) findings: u64,
    /// Records of which rules saw less than there was, and the last such fields.
    pub(super) cut: u64,
    pub(super) last_cut: String,
}

impl Judge {
    pub(super) fn new(name: NodeId, rules: &std::sync::Arc<Swap>) -> Self {
        let rules = rules.follow();
        Self {
            name,
            rules,
            fold: Fold::new(fold::Limits::RECORDS),
            fed: None,
            hits: Vec::new(),
            findings: 0,
            cut: 0,
            last_cut: String::new(),
        }
    }

    /// As if nothing had been told: over a link that was lost it may not have been taken.
    pub(super) fn forget(&mut self) {
        self.fold = Fold::new(fold::Limits::RECORDS);
        self.fed = None;
    }

    /// How many rules there are.
    pub(super) fn rules(&mut self) -> u64 {
        self.rules.matcher().1.rule_set().len() as u64
    }

    /// Runs a record through the rules; reports what they find.
    pub(super) fn judge(&mut self, told: Told, reporter: &mut Reporter) -> Result<(), LinkLost> {
        let event = told.record.into_event(&self.name, told.time);
        let Some(record) = event.record() else { return Ok(()) };
        self.hits.clear();
        let (generation, matcher) = self.rules.matcher();
        let looked = matcher.evaluate(&event, &mut self.hits);
        let rules = std::sync::Arc::clone(matcher.rule_set());
        if self.fed != Some(generation) {
            self.fed = Some(generation);
            self.fold.feed(rules.fed().map(|rule| rule.id.clone()));
        }
        let is_cut = record.facts.truncated() == Truncated::Yes || looked.truncated == Truncated::Yes;
        for at in 0..self.hits.len() {
            let hit = self.hits[at];
            let Some(rule) = rules.rule(hit) else { continue };
            let matched = matched_in(&rules, hit, &event);
            self.found(rule, &event, matched, reporter)?;
        }
        if is_cut {
            self.cut += 1;
            self.last_cut = cut_fields(record);
            let matched = BTreeMap::from([("cut".to_owned(), self.last_cut.clone())]);
            self.found(&cut_rule(), &event, matched, reporter)?;
        }
        Ok(())
    }

    /// Counts of findings that have moved since this was last asked.
    pub(super) fn repeat(&mut self, reporter: &mut Reporter) -> Result<(), LinkLost> {
        for repeat in self.fold.due() {
            let detect::fold::Repeat { finding, count, last, moments, .. } = repeat;
            reporter.report(Report::Repeat { finding, count, last, moments })?;
        }
        Ok(())
    }

    fn found(
        &mut self,
        rule: &RuleRef,
        event: &Event,
        matched: BTreeMap<String, String>,
        reporter: &mut Reporter,
    ) -> Result<(), LinkLost> {
        let Some(record) = event.record() else { return Ok(()) };
        let id = FindingId::derive(&event.id, &rule.id);
        let (folded, matched) = self.fold.take_in(rule, event, &id, Acted::No, || matched);
        let Folded::First(_) = folded else { return Ok(()) };
        self.findings += 1;
        reporter.report(Report::Finding(finding_of(id, rule, to_keep(record, event), matched)))
    }
}

/// Events of records as rules see them, without what names them: that is computed from texts, and asked only of what matched. They share what
/// stands for the process that is not known. One thread's.
pub(crate) struct Unnamed(Event);

impl Default for Unnamed {
    fn default() -> Self {
        Self(Event {
            id: EventId { node: NodeId::new(""), epoch: AgentEpoch(0), seq: Seq(0) },
            time: Timestamp(0),
            process: Arc::new(Process::nobody(None, None)),
            parent: None,
            ancestors: Arc::new([]),
            exposure: Exposure::None,
            activity: Activity::IoUringSetup { entries: 0 },
        })
    }
}

impl Unnamed {
    /// What rules see of it is what they see of [`Record::into_event`].
    pub(crate) fn event(&self, record: Record, time: Timestamp) -> Event {
        Event { time, activity: Activity::Record(Arc::new(record)), ..self.0.clone() }
    }

    /// The record of an event that only its caller has.
    pub(crate) fn record(event: Event) -> Option<Record> {
        match event.activity {
            Activity::Record(record) => Some(Arc::unwrap_or_clone(record)),
            _ => None,
        }
    }
}

/// What of an event of a record is kept with a finding.
pub(crate) fn to_keep(record: &Record, event: &Event) -> Event {
    let kept = Record { facts: record.facts.to_keep(), ..record.clone() };
    Event { activity: Activity::Record(kept.into()), ..event.clone() }
}

/// What a rule says of an event, seen once.
pub(crate) fn finding_of(
    id: FindingId,
    rule: &RuleRef,
    event: Event,
    matched: BTreeMap<String, String>,
) -> Finding {
    Finding {
        id,
        rule: rule.clone(),
        matched,
        count: 1,
        first: event.time,
        last: event.time,
        ancestors: event.ancestors.to_vec(),
        event,
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}

/// The values that speak for a match on a record: how far the record can be believed belongs to what was found.
pub(crate) fn matched_in(
    rules: &detect::matcher::RuleSet,
    hit: RuleIndex,
    event: &Event,
) -> BTreeMap<String, String> {
    let mut matched = rules.matched_with(hit, &View::new(event));
    if let Some(Fact::Text(trust)) =
        event.record().and_then(|record| record.facts.get(Field::AuthTrust.name()))
    {
        matched.insert(Field::AuthTrust.name().to_owned(), trust.clone());
    }
    matched
}

pub(crate) fn cut_fields(record: &Record) -> String {
    let names = record.facts.cut().join(", ");
    if names.is_empty() { "a text longer than the rules compare".into() } else { names }
}

/// Whoever fills a record so that rules see only a part of it may be hiding the other part.
pub(crate) fn cut_rule() -> RuleRef {
    RuleRef {
        id: CUT_RULE.into(),
        title: "A Record Too Large To Be Judged Whole".into(),
        level: Level::Medium,
        techniques: vec!["T1562.006".into()],
        tactics: vec!["defense-evasion".into()],
        reaction: Reaction::None,
    }
}

#[cfg(test)]
mod tests {
    use detect::schema::RecordBuilder;
    use model::RecordKind;

    use super::*;

    #[test]
    fn rules_see_of_a_record_without_a_name_what_they_see_of_its_event() {
        let mut builder = RecordBuilder::new(RecordKind::Sshd);
        builder
            .id("one")
            .principal("host", "root")
            .text(Field::AuthUser, "root")
            .text(Field::Computer, "host");
        let (record, at) = (builder.build(), Timestamp(7));
        let named = record.clone().into_event(&NodeId::new("auth"), at);
        let unnamed = Unnamed::default().event(record.clone(), at);
        let mut seen = 0;
        for field in Field::ALL {
            let (one, other) = (View::new(&named).get(*field), View::new(&unnamed).get(*field));
            assert_eq!(format!("{other:?}"), format!("{one:?}"), "{}", field.name());
            seen += usize::from(!one.is_absent());
        }
        assert!(seen >= 4, "{seen}");
        assert_eq!(View::new(&unnamed).category(), View::new(&named).category());
        assert_eq!(Unnamed::record(unnamed), Some(record));
        assert_eq!(Unnamed::record(Unnamed::default().0), None);
    }
}
