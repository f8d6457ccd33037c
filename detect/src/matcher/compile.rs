//! From the rules of one category to the engine that runs them.

use std::collections::{BTreeMap, HashMap};

use model::Event;
use regex_automata::{meta, util::syntax};

use super::{
    background::Background,
    check::Prepared,
    engine::{Engine, Fields},
    index::{FieldIndex, indexable},
    lower::Interner,
    necessary::{Necessary, necessary},
    options::Options,
    predicate::{Anchor, Check, NumberKey, Predicate},
    processes::Origin,
    program::{Logic, Programs},
    ruleset::RuleIndex,
    triggers::{Trigger, Triggers},
};
use crate::{
    ast::{Case, Rule},
    limits,
    schema::{Category, Field, Scratch as Room, View},
    text::fold,
};

/// A predicate that is looked up costs about ten nanoseconds where it holds, one that is not about thirty where a rule
/// asks for it: what is looked up is chosen by this ratio.
const ASK_TO_FIND: f32 = 3.0;

/// To look up a value of a field, whatever is found, costs so many times what asking for one predicate does.
const LOOK_UP_TO_ASK: f32 = 2.0;

/// The same against looking at one rule.
const LOOK_UP_TO_LOOK_AT: f32 = 1.3;

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

        // A field that has to be looked up for the sake of few rules makes each of them dear.
        let mut of_field = HashMap::<Field, u32>::new();
        for (predicate, share) in predicates.iter().zip(&shares) {
            *of_field.entry(predicate.field).or_default() += u32::from(share.is_some());
        }
        let price = |predicate: u32| {
            let field = predicates[predicate as usize].field;
            let look_up = match Origin::of(field, category) {
                Origin::Event => LOOK_UP_TO_LOOK_AT,
                Origin::Process | Origin::Parent => LOOK_UP_TO_LOOK_AT / 10.0,
            };
            let sharing = of_field.get(&field).copied().unwrap_or(0).max(1) as f32;
            shares[predicate as usize].map(|share| share + look_up / sharing)
        };
        let implied = |predicate: u32| interner.implied(predicate);
        let mut necessities: Vec<Option<Necessary>> =
            logics.iter().map(|logic| necessary(logic, &price, &implied)).collect();
        let Chosen { found, asked } = choose(category, &logics, &necessities, &shares, predicates);

        // What ordinary events meet gets neighbouring numbers, so that of every table by predicate or rule a few lines are in
        // use, however many rules there are that ordinary events never meet.
        let by_heat = hottest_first((0..predicates.len()).map(|p| match found[p] {
            true => shares[p].unwrap_or(1.0),
            false => asked[p],
        }));
        let mut new_number = vec![0; predicates.len()];
        by_heat.iter().enumerate().for_each(|(new, old)| new_number[*old] = new as u32);
        let found: Vec<bool> = by_heat.iter().map(|old| found[*old]).collect();
        let predicates: Vec<&Predicate> = by_heat.iter().map(|old| &predicates[*old]).collect();
        let rules_by_heat = hottest_first(necessities.iter().map(|necessity| looked_at(necessity, &shares)));
        let numbers: Vec<RuleIndex> = rules_by_heat.iter().map(|old| numbers[*old]).collect();
        logics.iter_mut().for_each(|logic| logic.renumber(&new_number));
        for necessity in necessities.iter_mut().flatten() {
            necessity.predicates.iter_mut().for_each(|p| *p = new_number[*p as usize]);
        }
        let logics: Vec<&Logic> = rules_by_heat.iter().map(|old| &logics[*old]).collect();
        let necessities: Vec<Option<&Necessary>> =
            rules_by_heat.iter().map(|old| necessities[*old].as_ref()).collect();

        let mut by_predicate = vec![Vec::new(); predicates.len()];
        let mut always = Vec::new();
        for (rule, necessity) in necessities.iter().enumerate() {
            match necessity {
                Some(set) => set.predicates.iter().for_each(|p| {
                    let certain = logics[rule].follows_from(*p);
                    by_predicate[*p as usize].push(Trigger { rule: rule as u32, certain });
                }),
                None => {
                    always.push(rule as u32);
                    noticed.always.push(numbers[rule]);
                }
            }
        }

        let mut by_field = BTreeMap::<(Origin, Field), Vec<(u32, &Check)>>::new();
        for (number, predicate) in predicates.iter().enumerate().filter(|(number, _)| found[*number]) {
            let place = (Origin::of(predicate.field, category), predicate.field);
            by_field.entry(place).or_default().push((number as u32, &predicate.check));
        }
        let fields =
            Fields::new(by_field.into_iter().map(|((origin, field), checks)| {
                (origin, FieldIndex::new(field, &checks, background(field)))
            }));

        let mut programs = Programs::default();
        for logic in &logics {
            programs.push(logic, &|predicate| {
                let predicate = predicate as usize;
                if found[predicate] { 0 } else { cost(&predicates[predicate].check) }
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
            fields,
            regexes: regexes.into(),
            triggers: Triggers::new(by_predicate),
            always: always.into(),
            programs,
            rules: numbers.into(),
            sensitive,
        };
        (engine, noticed)
    }
}

/// Which predicates the indexes shall find: those that make a rule be looked at, and those that would otherwise be
/// evaluated more often than they hold; but none of a field in which no rule depends on what is found, if to look its values
/// up is more than to ask now and then.
fn choose(
    category: Category,
    logics: &[Logic],
    necessities: &[Option<Necessary>],
    shares: &[Option<f32>],
    predicates: &[Predicate],
) -> Chosen {
    let mut necessary = vec![false; shares.len()];
    let mut asked = vec![0.0_f32; shares.len()];
    for (logic, necessity) in logics.iter().zip(necessities) {
        asks(logic, looked_at(necessity, shares), shares, &mut asked);
        for predicate in necessity.iter().flat_map(|set| &set.predicates) {
            necessary[*predicate as usize] = true;
        }
    }
    let worth = |predicate: usize| {
        shares[predicate].is_some_and(|share| share < ASK_TO_FIND * asked[predicate].min(1.0))
    };
    // For each field what asking instead would cost; without limit where rules depend on what is found.
    let mut instead = BTreeMap::<Field, f32>::new();
    for (number, predicate) in predicates.iter().enumerate() {
        let cost = match Origin::of(predicate.field, category) {
            _ if necessary[number] => f32::INFINITY,
            Origin::Event => asked[number].min(1.0) - shares[number].unwrap_or(0.0) / ASK_TO_FIND,
            // Mostly the answer for the whole process is known.
            Origin::Process | Origin::Parent => f32::INFINITY,
        };
        if worth(number) || necessary[number] {
            *instead.entry(predicate.field).or_default() += cost;
        }
    }
    let found = (0..predicates.len())
        .map(|number| {
            let field = instead.get(&predicates[number].field);
            necessary[number] || worth(number) && field.is_some_and(|cost| *cost > LOOK_UP_TO_ASK)
        })
        .collect();
    Chosen { found, asked }
}

/// What was chosen for each predicate.
struct Chosen {
    /// The indexes find it.
    found: Vec<bool>,
    /// How often rules ask for it, in shares of events.
    asked: Vec<f32>,
}

/// Share of events for which a rule is looked at, as estimated.
fn looked_at(necessity: &Option<Necessary>, shares: &[Option<f32>]) -> f32 {
    necessity
        .as_ref()
        .map_or(1.0, |set| set.predicates.iter().filter_map(|p| shares[*p as usize]).sum::<f32>().min(1.0))
}

/// Positions in the order of falling heat; of equal ones the first goes first.
fn hottest_first(heats: impl Iterator<Item = f32>) -> Vec<usize> {
    let heats: Vec<f32> = heats.collect();
    let mut order: Vec<usize> = (0..heats.len()).collect();
    order.sort_by(|one, other| heats[*other].total_cmp(&heats[*one]));
    order
}

/// Adds to each predicate's count how often it is asked for, if the logic is evaluated for a share `reached` of events. Of a
/// conjunction a part is asked for only where the others hold.
fn asks(logic: &Logic, reached: f32, shares: &[Option<f32>], asked: &mut [f32]) {
    match logic {
        Logic::Constant(_) => {}
        Logic::Holds(predicate) => asked[*predicate as usize] += reached,
        Logic::Not(inner) => asks(inner, reached, shares, asked),
        Logic::Any(parts) | Logic::AtLeast(_, parts) => {
            parts.iter().for_each(|part| asks(part, reached, shares, asked));
        }
        Logic::All(parts) => {
            for (at, part) in parts.iter().enumerate() {
                let others = parts.iter().enumerate().filter(|(other, _)| *other != at);
                let all_hold: f32 = others.map(|(_, other)| at_most(other, shares)).product();
                asks(part, reached.min(all_hold), shares, asked);
            }
        }
    }
}

/// Share of events for which the logic holds, not more than estimated.
fn at_most(logic: &Logic, shares: &[Option<f32>]) -> f32 {
    match logic {
        Logic::Holds(predicate) => shares[*predicate as usize].unwrap_or(1.0),
        Logic::All(parts) => parts.iter().map(|part| at_most(part, shares)).fold(1.0, f32::min),
        Logic::Any(parts) => parts.iter().map(|part| at_most(part, shares)).sum::<f32>().min(1.0),
        Logic::Constant(false) => 0.0,
        Logic::Constant(true) | Logic::Not(_) | Logic::AtLeast(..) => 1.0,
    }
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

/// Most events that are taken from a sample for a field.
const SAMPLED: usize = 1024;

/// Texts of the sampled events' fields, folded. Which programs do what differs from place to place and hour to hour, so what is
/// of a process is sampled from the events of all categories.
fn sample(category: Category, events: &[Event]) -> HashMap<Field, Vec<Box<[u8]>>> {
    let mut texts = HashMap::<Field, Vec<Box<[u8]>>>::new();
    let of_category = || events.iter().filter(|event| Category::of(event) == category).take(SAMPLED);
    for field in category.fields() {
        let own: &mut dyn Iterator<Item = &Event> = match Origin::of(field, category) {
            Origin::Process | Origin::Parent => &mut events.iter().take(SAMPLED),
            Origin::Event => &mut of_category(),
        };
        for event in own {
            View::new(event).get(field).any(|one| {
                let mut room = Room::new();
                if let Some(text) = one.text(&mut room) {
                    texts.entry(field).or_default().push(fold(text).into_bytes().into());
                }
                false
            });
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
