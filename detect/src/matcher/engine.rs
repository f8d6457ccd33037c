//! The compiled rules of one category, and how an event is run through them.

use std::{ops::Range, sync::Arc};

use model::Process;
use regex_automata::meta;

use super::{
    cache::{Lookup, MAX_IDS, Size},
    check::{self, Prepared},
    index::{self, FieldIndex},
    processes::{Known, Origin},
    program::{Programs, Question},
    ruleset::RuleIndex,
    scratch::{Numbers, Scratch},
    texts::Texts,
    triggers::Triggers,
    truth::Marks,
};
use crate::{
    ast::Case,
    schema::{Category, Field, FieldValue, Scratch as Room, View},
};

/// The compiled rules of one category.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(super) category: Category,
    pub(super) checks: Box<[(Field, Prepared)]>,
    pub(super) fields: Fields,
    pub(super) regexes: Box<[meta::Regex]>,
    /// For each predicate, the rules to look at when it holds.
    pub(super) triggers: Triggers,
    /// Rules to look at for every event.
    pub(super) always: Box<[u32]>,
    pub(super) programs: Programs,
    /// The rule set's numbers of the rules here.
    pub(super) rules: Box<[RuleIndex]>,
    /// Predicates whose literal must also be compared as it is.
    pub(super) sensitive: Bits,
}

/// Whether a busy machine has so many events of the category that what each costs matters.
pub(super) fn is_frequent(category: Category) -> bool {
    matches!(
        category,
        Category::ProcessCreation
            | Category::FileEvent
            | Category::FileAccess
            | Category::NetworkConnection
            | Category::HubbleFlow
            | Category::VpcFlow
            | Category::Flow
    )
}

/// The indexes of an engine's fields, ordered by what their values depend on.
#[derive(Debug)]
pub(crate) struct Fields {
    all: Box<[FieldIndex]>,
    of_process: Range<usize>,
    of_parent: Range<usize>,
    of_event: Range<usize>,
}

impl Fields {
    /// From indexes in the order of their origins.
    pub(crate) fn new(indexes: impl Iterator<Item = (Origin, FieldIndex)>) -> Self {
        let (origins, all): (Vec<_>, Vec<_>) = indexes.unzip();
        let before = |origin| origins.partition_point(|of| *of < origin);
        let (parent, event) = (before(Origin::Parent), before(Origin::Event));
        Self { of_process: 0..parent, of_parent: parent..event, of_event: event..all.len(), all: all.into() }
    }
}

/// One bit for each predicate, so that all of them stay in the cache nearest to the core.
#[derive(Debug)]
pub(crate) struct Bits(Box<[u64]>);

impl Bits {
    #[inline]
    fn get(&self, position: u32) -> bool {
        self.0.get(position as usize / 64).is_some_and(|word| word >> (position % 64) & 1 != 0)
    }
}

impl FromIterator<bool> for Bits {
    fn from_iter<T: IntoIterator<Item = bool>>(bits: T) -> Self {
        let mut words = Vec::new();
        for (position, bit) in bits.into_iter().enumerate() {
            if position % 64 == 0 {
                words.push(0);
            }
            if let Some(last) = words.last_mut() {
                *last |= u64::from(bit) << (position % 64);
            }
        }
        Self(words.into())
    }
}

impl Engine {
    /// How many predicates, rules, indexed fields and expressions it has.
    pub(crate) fn numbers(&self) -> Numbers<'_> {
        Numbers {
            predicates: self.checks.len(),
            rules: self.rules.len(),
            fields: self.fields.all.len(),
            regexes: &self.regexes,
            cache: if is_frequent(self.category) { Size::Large } else { Size::Small },
        }
    }

    /// The rule set's numbers of its rules, in the order of its own.
    pub(crate) fn rules(&self) -> &[RuleIndex] {
        &self.rules
    }

    /// Memory of its tables, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.checks)
            + self.checks.iter().map(|(_, check)| check.bytes()).sum::<usize>()
            + self.fields.all.iter().map(|field| size_of::<FieldIndex>() + field.bytes()).sum::<usize>()
            + self.regexes.iter().map(meta::Regex::memory_usage).sum::<usize>()
            + self.triggers.bytes()
            + self.programs.bytes()
            + size_of_val(&*self.rules)
    }

    /// Appends the numbers of the rules that match.
    pub(crate) fn evaluate(&self, view: &View<'_>, scratch: &mut Scratch, hits: &mut Vec<RuleIndex>) {
        scratch.begin();
        self.look_up_shared(Origin::Process, Some(&view.event().process), view, scratch);
        self.look_up_shared(Origin::Parent, view.event().parent.as_ref(), view, scratch);
        self.look_up_all(&self.fields.of_event, view, scratch);
        let Scratch { holding, certain, candidates, costs, .. } = scratch;
        for predicate in holding.members() {
            self.triggers.each(*predicate, |trigger| {
                if !trigger.certain {
                    candidates.insert(trigger.rule);
                } else if certain.insert_new(trigger.rule) {
                    costs[trigger.rule as usize].count(true);
                    hits.push(self.rules[trigger.rule as usize]);
                }
            });
        }
        self.always.iter().for_each(|rule| candidates.insert(*rule));
        for at in 0..scratch.candidates.members().len() {
            let rule = scratch.candidates.members()[at];
            if scratch.certain.contains(rule) {
                continue;
            }
            let matches = self.programs.run(rule, |question| self.holds(question, view, scratch));
            scratch.costs[rule as usize].count(matches);
            if matches {
                hits.push(self.rules[rule as usize]);
            }
        }
    }

    /// Predicates of rule `rule` that hold and speak for the match. Each is evaluated by itself: what a process in a loop meets is explained as
    /// often as it is met, so nothing here may be as large as the rules are many.
    pub(crate) fn explain(
        &self,
        rule: RuleIndex,
        view: &View<'_>,
        text_bytes: usize,
        mut tell: impl FnMut(Field),
    ) {
        let Some(rule) = self.rules.iter().position(|number| *number == rule) else { return };
        let mut texts = Texts::passing_by(text_bytes);
        for question in self.programs.positive(rule as u32) {
            let predicate = question.predicate();
            if self.evaluate_now(predicate, view, &mut texts, None) {
                tell(self.checks[predicate as usize].0);
            }
        }
    }

    /// Notes which predicates of a process's fields hold, from what is known of the process if it was seen before.
    #[inline]
    fn look_up_shared(
        &self,
        origin: Origin,
        process: Option<&Arc<Process>>,
        view: &View<'_>,
        scratch: &mut Scratch,
    ) {
        let fields = match origin {
            Origin::Process => &self.fields.of_process,
            Origin::Parent => &self.fields.of_parent,
            Origin::Event => &self.fields.of_event,
        };
        let Some(process) = process.filter(|_| !fields.is_empty()) else { return };
        let Scratch { own, parents, holding, texts, .. } = scratch;
        let known = if origin == Origin::Process { own } else { parents };
        let keep = match known.look_up(process) {
            Known::Hit(ids, truncated) => {
                ids.iter().for_each(|id| holding.insert(*id));
                texts.add_truncated(truncated);
                return;
            }
            Known::Keep(way) => Some(way),
            Known::Miss => None,
        };
        let (before, truncated_before) = (holding.members().len(), texts.take_truncated());
        self.look_up_all(fields, view, scratch);
        let Scratch { own, parents, holding, texts, .. } = scratch;
        // A predicate is of one field, so what is new here is all that these fields meet.
        if let (Some(way), Some(ids)) = (keep, holding.members().get(before..)) {
            let known = if origin == Origin::Process { own } else { parents };
            known.keep(way, process, ids, texts.truncated());
        }
        texts.add_truncated(truncated_before);
    }

    #[inline]
    fn look_up_all(&self, fields: &Range<usize>, view: &View<'_>, scratch: &mut Scratch) {
        for (position, field) in self.fields.all.iter().enumerate().take(fields.end).skip(fields.start) {
            self.look_up(position, field, view, scratch);
        }
    }

    /// Notes which predicates of a field hold, as far as the index answers for them.
    #[inline]
    fn look_up(&self, position: usize, field: &FieldIndex, view: &View<'_>, scratch: &mut Scratch) {
        match view.get(field.field) {
            FieldValue::Absent => {}
            FieldValue::Str(text) if field.has_texts() => {
                self.look_up_text(position, field, text, Whose::Field, scratch);
            }
            FieldValue::Num(number) => {
                field.number(number, &mut |id| scratch.holding.insert(id));
                if field.has_texts_of_numbers() {
                    self.look_up_passing(field, FieldValue::Num(number), scratch);
                }
            }
            FieldValue::Ip(address) => {
                field.address(address, &mut |id| scratch.holding.insert(id));
                if field.has_texts() {
                    self.look_up_passing(field, FieldValue::Ip(address), scratch);
                }
            }
            FieldValue::List(list) => {
                if field.has_texts() {
                    for text in list.iter() {
                        self.look_up_text(position, field, text, Whose::Element, scratch);
                    }
                }
            }
            other => self.look_up_passing(field, other, scratch),
        }
    }

    #[inline]
    fn look_up_text(
        &self,
        position: usize,
        field: &FieldIndex,
        text: &str,
        whose: Whose,
        scratch: &mut Scratch,
    ) {
        let Scratch { holding, caches, texts, .. } = scratch;
        let Some(cache) = caches.get_mut(position) else { return };
        let hash = index::hash(text.as_bytes());
        let keep = match cache.look_up(text.as_bytes(), hash) {
            Lookup::Hit(ids) => {
                ids.iter().for_each(|id| holding.insert(*id));
                return;
            }
            Lookup::Keep(way) => Some(way),
            Lookup::Miss => None,
        };
        let Some(way) = keep else {
            match whose {
                Whose::Field => self.found(field, texts.folded(field.field, text), text, holding),
                Whose::Element => texts.passing(text, |folded| self.found(field, folded, text, holding)),
            }
            return;
        };
        // Apart from what holds already: of a list another element may have met the same.
        let (mut ids, mut count) = ([0; MAX_IDS], 0);
        texts.passing(text, |folded| {
            self.each_found(field, folded, text, &mut |id| {
                holding.insert(id);
                if !ids.get(..count).unwrap_or(&[]).contains(&id) {
                    if let Some(place) = ids.get_mut(count) {
                        *place = id;
                    }
                    count += 1;
                }
            });
        });
        if let Some(ids) = ids.get(..count) {
            cache.keep(way, text.as_bytes(), hash, ids);
        }
    }

    /// For values that are no text, whose text is made for it.
    fn look_up_passing(&self, field: &FieldIndex, value: FieldValue<'_>, scratch: &mut Scratch) {
        let Scratch { holding, texts, .. } = scratch;
        if !field.has_texts() {
            return;
        }
        let mut room = Room::new();
        let Some(text) = value.text(&mut room) else { return };
        texts.passing(text, |folded| self.found(field, folded, text, holding));
    }

    #[inline]
    fn found(&self, field: &FieldIndex, folded: &[u8], text: &str, holding: &mut Marks) {
        self.each_found(field, folded, text, &mut |id| holding.insert(id));
    }

    #[inline]
    fn each_found(&self, field: &FieldIndex, folded: &[u8], text: &str, found: &mut impl FnMut(u32)) {
        field.text(folded, &mut |id| {
            if !self.sensitive.get(id) || self.literal_as_it_is(id, text.as_bytes()) {
                found(id);
            }
        });
    }

    fn literal_as_it_is(&self, predicate: u32, text: &[u8]) -> bool {
        match &self.checks[predicate as usize].1 {
            Prepared::Literal(anchor, literal, _) => check::literal(*anchor, text, literal),
            Prepared::Anywhere(finder, _) => finder.find(text).is_some(),
            _ => false,
        }
    }

    /// Whether a predicate holds: known from the indexes, from an earlier question, or evaluated now.
    #[inline]
    fn holds(&self, question: Question, view: &View<'_>, scratch: &mut Scratch) -> bool {
        let predicate = question.predicate();
        if scratch.holding.contains(predicate) {
            return true;
        }
        if question.is_indexed() || scratch.refuted.contains(predicate) {
            return false;
        }
        let Scratch { texts, regexes, .. } = scratch;
        let holds = self.evaluate_now(predicate, view, texts, Some(regexes));
        let answer = if holds { &mut scratch.holding } else { &mut scratch.refuted };
        answer.insert(predicate);
        holds
    }

    /// `caches` are those of the expressions; without them one is made where it is needed.
    #[inline(never)]
    fn evaluate_now(
        &self,
        predicate: u32,
        view: &View<'_>,
        texts: &mut Texts,
        caches: Option<&mut [meta::Cache]>,
    ) -> bool {
        let (field, check) = &self.checks[predicate as usize];
        let value = view.get(*field);
        match check {
            Prepared::Literal(anchor, literal, case) => {
                on_text(*field, value, *case, texts, |text| check::literal(*anchor, text, literal))
            }
            Prepared::Anywhere(finder, case) => {
                on_text(*field, value, *case, texts, |text| finder.find(text).is_some())
            }
            Prepared::Regex(position) => {
                let Some(regex) = self.regexes.get(*position) else { return false };
                let mut made;
                let cache = match caches {
                    Some(kept) => kept.get_mut(*position),
                    None => {
                        made = regex.create_cache();
                        Some(&mut made)
                    }
                };
                let Some(cache) = cache else { return false };
                value.any(|one| {
                    texts.of(one, Case::Sensitive, |text| {
                        regex
                            .search_half_with(cache, &regex_automata::Input::new(text).earliest(true))
                            .is_some()
                    })
                })
            }
            Prepared::Other(other) => check::other(other, value, view, texts),
        }
    }
}

/// Whether a text is all of a field's value.
#[derive(Debug, Clone, Copy)]
enum Whose {
    /// It is.
    Field,
    /// It is one of several.
    Element,
}

/// Calls `test` with the text of the value or of each element of a list, until it holds.
#[inline]
fn on_text(
    field: Field,
    value: FieldValue<'_>,
    case: Case,
    texts: &mut Texts,
    test: impl Fn(&[u8]) -> bool,
) -> bool {
    match (value, case) {
        (FieldValue::Absent, _) => false,
        (FieldValue::Str(text), Case::Insensitive) => test(texts.folded(field, text)),
        (FieldValue::Str(text), Case::Sensitive) => test(texts.limited(text).as_bytes()),
        (value, case) => value.any(|one| texts.of(one, case, |text| test(text.as_bytes()))),
    }
}
