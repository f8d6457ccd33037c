//! The compiled rules of one category, and how an event is run through them.

use std::collections::{BTreeMap, HashMap};

use model::Event;
use regex_automata::{meta, util::syntax};

use super::{
    background::Background,
    cache::{Lookup, Size},
    check::{self, Prepared},
    index::{self, FieldIndex, indexable},
    lower::Interner,
    necessary::{Necessary, necessary},
    options::Options,
    predicate::{Anchor, Check, NumberKey},
    program::{Logic, Programs},
    ruleset::RuleIndex,
    scratch::{Numbers, Scratch},
    texts::Texts,
};
use crate::{
    ast::{Case, Rule},
    limits,
    schema::{Category, Field, FieldValue, Scratch as Room, View},
    text::fold,
};

/// A predicate that is looked up costs about ten nanoseconds where it holds, one that is not about thirty where a rule
/// asks for it: what is looked up is chosen by this ratio.
const ASK_TO_FIND: f32 = 3.0;

/// The compiled rules of one category.
#[derive(Debug)]
pub(crate) struct Engine {
    category: Category,
    checks: Box<[(Field, Prepared)]>,
    /// Whether the indexes answer for the predicate, so that it need not be evaluated.
    found: Bits,
    fields: Box<[FieldIndex]>,
    regexes: Box<[meta::Regex]>,
    /// For each predicate, the rules to look at when it holds: a range of `triggered`.
    triggers: Box<[(u32, u32)]>,
    triggered: Box<[u32]>,
    /// Rules to look at for every event.
    always: Box<[u32]>,
    programs: Programs,
    /// The rule set's numbers of the rules here.
    rules: Box<[RuleIndex]>,
    /// Predicates whose literal must also be compared as it is.
    sensitive: Bits,
}

/// One bit for each predicate, so that all of them stay in the cache nearest to the core.
#[derive(Debug)]
struct Bits(Box<[u64]>);

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

/// What was noticed while compiling.
#[derive(Debug, Default)]
pub(crate) struct Noticed {
    /// Rules that have to be looked at for every event of the category.
    pub(crate) always: Vec<RuleIndex>,
}

impl Engine {
    /// Compiles the rules of `category`.
    pub(crate) fn new(
        category: Category,
        rules: &[(RuleIndex, &Rule)],
        options: &Options,
        ordinary: &Background,
    ) -> (Self, Noticed) {
        let mut interner = Interner::new(category);
        let mut noticed = Noticed::default();
        let (mut numbers, mut logics) = (Vec::new(), Vec::new());
        for (number, rule) in rules {
            match interner.lower(&rule.detection) {
                Logic::Constant(false) => {}
                logic => {
                    numbers.push(*number);
                    logics.push(logic);
                }
            }
        }
        let predicates = interner.predicates();
        let sampled = sample(category, options.sample);
        let backgrounds: HashMap<Field, Background> =
            sampled.into_iter().map(|(field, texts)| (field, Background::new(texts))).collect();
        let background = |field: Field| backgrounds.get(&field).unwrap_or(ordinary);
        let shares: Vec<Option<f32>> = predicates
            .iter()
            .map(|predicate| {
                indexable(predicate).then(|| share(&predicate.check, background(predicate.field)))
            })
            .collect();

        let implied = |predicate: u32| interner.implied(predicate);
        let necessities: Vec<Option<Necessary>> = logics
            .iter()
            .map(|logic| necessary(logic, &|predicate| shares[predicate as usize], &implied))
            .collect();
        let found = choose(&logics, &necessities, &shares);

        let mut by_predicate = vec![Vec::new(); predicates.len()];
        let mut always = Vec::new();
        for (rule, necessity) in necessities.iter().enumerate() {
            match necessity {
                Some(set) => set.predicates.iter().for_each(|p| by_predicate[*p as usize].push(rule as u32)),
                None => {
                    always.push(rule as u32);
                    noticed.always.push(numbers[rule]);
                }
            }
        }
        let mut triggered = Vec::new();
        let triggers = by_predicate
            .into_iter()
            .map(|rules| {
                let start = triggered.len() as u32;
                triggered.extend(rules);
                (start, triggered.len() as u32)
            })
            .collect();

        let mut by_field = BTreeMap::<Field, Vec<(u32, &Check)>>::new();
        for (number, predicate) in predicates.iter().enumerate().filter(|(number, _)| found[*number]) {
            by_field.entry(predicate.field).or_default().push((number as u32, &predicate.check));
        }
        let fields = by_field
            .into_iter()
            .map(|(field, checks)| FieldIndex::new(field, &checks, background(field)))
            .collect();

        let mut programs = Programs::default();
        for logic in &logics {
            programs.push(logic, &|predicate| {
                let predicate = predicate as usize;
                if found[predicate] { 1 } else { cost(&predicates[predicate].check) }
            });
        }
        let mut regexes = Vec::new();
        let checks = predicates
            .iter()
            .map(|predicate| {
                let prepared = Prepared::new(&predicate.check, regexes.len());
                if let Check::Regex(source, flags) = &predicate.check {
                    // The front end has compiled it with the same limit, so it does not fail here; an expression that did
                    // would match nothing.
                    regexes.push(regex(source, *flags).unwrap_or_else(never));
                }
                (predicate.field, prepared)
            })
            .collect();
        let sensitive = predicates
            .iter()
            .map(|predicate| matches!(predicate.check, Check::Literal(_, _, Case::Sensitive)))
            .collect();
        let engine = Self {
            category,
            checks,
            found: found.iter().copied().collect(),
            fields,
            regexes: regexes.into(),
            triggers,
            triggered: triggered.into(),
            always: always.into(),
            programs,
            rules: numbers.into(),
            sensitive,
        };
        (engine, noticed)
    }

    /// How many predicates, rules, indexed fields and expressions it has.
    pub(crate) fn numbers(&self) -> Numbers<'_> {
        Numbers {
            predicates: self.checks.len(),
            rules: self.rules.len(),
            fields: self.fields.len(),
            regexes: &self.regexes,
            cache: match self.category {
                Category::ProcessCreation
                | Category::FileEvent
                | Category::FileAccess
                | Category::NetworkConnection => Size::Large,
                _ => Size::Small,
            },
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
            + self.fields.iter().map(|field| size_of::<FieldIndex>() + field.bytes()).sum::<usize>()
            + self.regexes.iter().map(meta::Regex::memory_usage).sum::<usize>()
            + size_of_val(&*self.triggers)
            + size_of_val(&*self.triggered)
            + self.programs.bytes()
            + size_of_val(&*self.rules)
    }

    /// Appends the numbers of the rules that match.
    pub(crate) fn evaluate(&self, view: &View<'_>, scratch: &mut Scratch, hits: &mut Vec<RuleIndex>) {
        scratch.begin();
        let mut candidates = std::mem::take(&mut scratch.candidates);
        for (position, field) in self.fields.iter().enumerate() {
            self.look_up(position, field, view, scratch);
        }
        for predicate in &scratch.holding {
            let (start, end) = self.triggers[*predicate as usize];
            for rule in &self.triggered[start as usize..end as usize] {
                let judged = &mut scratch.judged[*rule as usize];
                if *judged != scratch.epoch {
                    *judged = scratch.epoch;
                    candidates.push(*rule);
                }
            }
        }
        candidates.extend_from_slice(&self.always);
        for rule in &candidates {
            let matches = self.programs.run(*rule, |predicate| self.holds(predicate, view, scratch));
            scratch.count(*rule, matches);
            if matches {
                hits.push(self.rules[*rule as usize]);
            }
        }
        candidates.clear();
        scratch.candidates = candidates;
    }

    /// Predicates of rule `rule` (its number here) that hold and speak for the match.
    pub(crate) fn explain(
        &self,
        rule: RuleIndex,
        view: &View<'_>,
        scratch: &mut Scratch,
        mut tell: impl FnMut(Field),
    ) {
        let Some(rule) = self.rules.iter().position(|number| *number == rule) else { return };
        scratch.begin();
        for (position, field) in self.fields.iter().enumerate() {
            self.look_up(position, field, view, scratch);
        }
        for predicate in self.programs.positive(rule as u32) {
            if self.holds(predicate, view, scratch) {
                tell(self.checks[predicate as usize].0);
            }
        }
    }

    /// Notes which predicates of a field hold, as far as the index answers for them.
    #[inline]
    fn look_up(&self, position: usize, field: &FieldIndex, view: &View<'_>, scratch: &mut Scratch) {
        match view.get(field.field) {
            FieldValue::Absent => {}
            FieldValue::Str(text) if field.has_texts() => self.look_up_text(position, field, text, scratch),
            FieldValue::Num(number) => {
                let (epoch, truth, holding) = (scratch.epoch, &mut scratch.truth, &mut scratch.holding);
                field.number(number, &mut |id| note(id, epoch, truth, holding));
                if field.has_texts() {
                    self.look_up_passing(field, FieldValue::Num(number), scratch);
                }
            }
            FieldValue::Ip(address) => {
                let (epoch, truth, holding) = (scratch.epoch, &mut scratch.truth, &mut scratch.holding);
                field.address(address, &mut |id| note(id, epoch, truth, holding));
                if field.has_texts() {
                    self.look_up_passing(field, FieldValue::Ip(address), scratch);
                }
            }
            FieldValue::List(list) => {
                for text in list.iter() {
                    self.look_up_passing(field, FieldValue::Str(text), scratch);
                }
            }
            other => self.look_up_passing(field, other, scratch),
        }
    }

    #[inline]
    fn look_up_text(&self, position: usize, field: &FieldIndex, text: &str, scratch: &mut Scratch) {
        let Scratch { epoch, truth, holding, caches, texts, .. } = scratch;
        let Some(cache) = caches.get_mut(position) else { return };
        let hash = index::hash(text.as_bytes());
        let keep = match cache.look_up(text.as_bytes(), hash) {
            Lookup::Hit(ids) => {
                for id in ids {
                    note(*id, *epoch, truth, holding);
                }
                return;
            }
            Lookup::Keep(way) => Some(way),
            Lookup::Miss => None,
        };
        let before = holding.len();
        let folded = texts.folded(field.field, text);
        field.text(folded, &mut |id| {
            if !self.sensitive.get(id) || self.literal_as_it_is(id, text.as_bytes()) {
                note(id, *epoch, truth, holding);
            }
        });
        if let (Some(way), Some(ids)) = (keep, holding.get(before..)) {
            cache.keep(way, text.as_bytes(), hash, ids);
        }
    }

    /// For values that are not a field's only text: list elements, numbers.
    fn look_up_passing(&self, field: &FieldIndex, value: FieldValue<'_>, scratch: &mut Scratch) {
        let Scratch { epoch, truth, holding, texts, .. } = scratch;
        if !field.has_texts() {
            return;
        }
        let mut room = Room::new();
        let Some(text) = value.text(&mut room) else { return };
        texts.passing(text, |folded| {
            field.text(folded, &mut |id| {
                if !self.sensitive.get(id) || self.literal_as_it_is(id, text.as_bytes()) {
                    note(id, *epoch, truth, holding);
                }
            });
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
    fn holds(&self, predicate: u32, view: &View<'_>, scratch: &mut Scratch) -> bool {
        let known = scratch.truth[predicate as usize];
        if known == scratch.epoch {
            return true;
        }
        if known == scratch.epoch + 1 || self.found.get(predicate) {
            return false;
        }
        let holds = self.evaluate_now(predicate, view, scratch);
        scratch.truth[predicate as usize] = scratch.epoch + u32::from(!holds);
        holds
    }

    #[inline(never)]
    fn evaluate_now(&self, predicate: u32, view: &View<'_>, scratch: &mut Scratch) -> bool {
        let (field, check) = &self.checks[predicate as usize];
        let value = view.get(*field);
        match check {
            Prepared::Literal(anchor, literal, case) => {
                on_text(*field, value, *case, &mut scratch.texts, |text| {
                    check::literal(*anchor, text, literal)
                })
            }
            Prepared::Anywhere(finder, case) => {
                on_text(*field, value, *case, &mut scratch.texts, |text| finder.find(text).is_some())
            }
            Prepared::Regex(position) => {
                let (Some(regex), Some(cache)) =
                    (self.regexes.get(*position), scratch.regexes.get_mut(*position))
                else {
                    return false;
                };
                let texts = &mut scratch.texts;
                value.any(|one| {
                    texts.of(one, Case::Sensitive, |text| {
                        regex
                            .search_half_with(cache, &regex_automata::Input::new(text).earliest(true))
                            .is_some()
                    })
                })
            }
            Prepared::Other(other) => check::other(other, value, view, &mut scratch.texts),
        }
    }
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

#[inline]
fn note(predicate: u32, epoch: u32, truth: &mut [u32], holding: &mut Vec<u32>) {
    let known = &mut truth[predicate as usize];
    if *known != epoch {
        *known = epoch;
        holding.push(predicate);
    }
}

/// Which predicates the indexes shall find: those that make a rule be looked at, and those that would otherwise be
/// evaluated more often than they hold.
fn choose(logics: &[Logic], necessities: &[Option<Necessary>], shares: &[Option<f32>]) -> Vec<bool> {
    let mut found = vec![false; shares.len()];
    let mut asked = vec![0.0_f32; shares.len()];
    for (logic, necessity) in logics.iter().zip(necessities) {
        let looked_at = necessity.as_ref().map_or(1.0, |set| set.share.min(1.0));
        let mut predicates = Vec::new();
        logic.predicates(&mut predicates);
        predicates.into_iter().for_each(|p| asked[p as usize] += looked_at);
        for predicate in necessity.iter().flat_map(|set| &set.predicates) {
            found[*predicate as usize] = true;
        }
    }
    for (predicate, share) in shares.iter().enumerate() {
        if share.is_some_and(|share| share < ASK_TO_FIND * asked[predicate].min(1.0)) {
            found[predicate] = true;
        }
    }
    found
}

/// Estimated share of events for which the check holds.
fn share(check: &Check, background: &Background) -> f32 {
    match check {
        Check::Literal(anchor, text, _) => background.share(*anchor, fold(text).as_bytes()),
        Check::Number(NumberKey::Int(number)) => {
            background.share(Anchor::Whole, number.to_string().as_bytes()).max(0.001)
        }
        Check::Net(net) => 0.5_f32.powi(i32::from(net.prefix_len().min(16)) / 2).max(0.001),
        _ => 1.0,
    }
}

/// Relative cost of evaluating a check that no index finds.
fn cost(check: &Check) -> u32 {
    match check {
        Check::Absent | Check::Bool(_) | Check::Number(_) | Check::Compare(..) | Check::Net(_) => 2,
        Check::Literal(Anchor::Anywhere, ..) => 8,
        Check::Literal(..) => 3,
        Check::Time(..) => 10,
        Check::Glob(..) | Check::Reference(..) => 20,
        Check::Regex(..) => 100,
    }
}

/// Texts of the sampled events' fields, folded.
fn sample(category: Category, events: &[Event]) -> HashMap<Field, Vec<Box<[u8]>>> {
    const PER_FIELD: usize = 256;
    let mut texts = HashMap::<Field, Vec<Box<[u8]>>>::new();
    for event in events.iter().filter(|event| Category::of(event) == category).take(PER_FIELD) {
        let view = View::new(event);
        for field in category.fields() {
            let mut room = Room::new();
            if let Some(text) = view.get(field).text(&mut room) {
                texts.entry(field).or_default().push(fold(text).into_bytes().into());
            }
        }
    }
    // A handful says nothing of what is rare.
    texts.retain(|_, of_field| of_field.len() >= 32);
    texts
}

fn regex(source: &str, flags: crate::ast::RegexFlags) -> Option<meta::Regex> {
    let syntax = syntax::Config::new()
        .case_insensitive(flags.ignore_case)
        .multi_line(flags.multi_line)
        .dot_matches_new_line(flags.dot_all);
    let config =
        meta::Config::new().nfa_size_limit(Some(limits::REGEX_BYTES)).hybrid_cache_capacity(256 * 1024);
    meta::Builder::new().syntax(syntax).configure(config).build(source).ok()
}

fn never() -> meta::Regex {
    meta::Builder::new()
        .build_many::<&str>(&[])
        .unwrap_or_else(|_| unreachable!("no expression at all compiles"))
}
