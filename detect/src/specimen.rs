//! Events made from a rule, for whoever wants to try rules and has no recorded events: values that its detection asks for, as
//! far as they are literal. Nothing promises that the rule matches.

use std::collections::BTreeMap;

use crate::{
    ast::{Expr, Item, Join, Part, Polarity, Quantifier, Rule, Search, Test},
    schema::{DraftValue, Drafted, Field},
};

/// Most events of one rule and category.
const VARIANTS: usize = 4;

/// A few events for each category that the rule is for, each with other values of its lists.
#[must_use]
pub fn specimens(rule: &Rule) -> Vec<Drafted> {
    let mut made = Vec::new();
    for category in rule.routing.categories.iter() {
        for choice in 0..VARIANTS {
            let mut wanted = BTreeMap::new();
            for condition in rule.detection.conditions.iter().take(1) {
                satisfy(&condition.expr, rule, choice, &mut wanted);
            }
            let fields: Vec<_> = wanted
                .into_iter()
                .filter(|(field, _): &(Field, Wanted)| field.exists_in(category))
                .map(|(field, wanted)| (field, DraftValue::One(wanted.text())))
                .collect();
            // What is no value of its field is left out, one after another.
            let usable: Vec<_> = fields
                .into_iter()
                .filter(|one| Drafted::new(category, std::slice::from_ref(one)).is_ok())
                .collect();
            made.extend(Drafted::new(category, &usable).ok());
        }
    }
    made
}

/// What a text must begin with, contain and end with.
#[derive(Debug, Default)]
struct Wanted {
    whole: Option<String>,
    start: String,
    inside: Vec<String>,
    end: String,
}

impl Wanted {
    fn text(&self) -> String {
        self.whole.clone().unwrap_or_else(|| format!("{}{}{}", self.start, self.inside.concat(), self.end))
    }
}

fn satisfy(expr: &Expr, rule: &Rule, choice: usize, wanted: &mut BTreeMap<Field, Wanted>) {
    let mut of = |index: usize| {
        if let Some(identifier) = rule.detection.identifiers.get(index) {
            of_search(&identifier.search, choice, wanted);
        }
    };
    match expr {
        Expr::Identifier { index, .. } => of(*index),
        Expr::Of { quantifier: Quantifier::All, targets, .. } => targets.iter().for_each(|index| of(*index)),
        Expr::Of { quantifier: Quantifier::AtLeast(count), targets, .. } => {
            let chosen = targets.iter().cycle().skip(choice).take((*count as usize).min(targets.len()));
            chosen.for_each(|index| of(*index));
        }
        Expr::Not(..) => {}
        Expr::And(parts, _) => parts.iter().for_each(|part| satisfy(part, rule, choice, wanted)),
        Expr::Or(parts, _) => {
            if let Some(part) = parts.get(choice % parts.len().max(1)) {
                satisfy(part, rule, choice, wanted);
            }
        }
    }
}

fn of_search(search: &Search, choice: usize, wanted: &mut BTreeMap<Field, Wanted>) {
    match search {
        Search::Item(item) => of_item(item, choice, wanted),
        Search::All(parts, _) => parts.iter().for_each(|part| of_search(part, choice, wanted)),
        Search::Any(parts, _) => {
            if let Some(part) = parts.get(choice % parts.len().max(1)) {
                of_search(part, choice, wanted);
            }
        }
    }
}

fn of_item(item: &Item, choice: usize, wanted: &mut BTreeMap<Field, Wanted>) {
    let (Some(field), Polarity::Must) = (item.field.as_ref().and_then(|name| name.field), item.polarity)
    else {
        return;
    };
    let (skip, take) = match item.join {
        Join::All => (0, item.values.len()),
        Join::Any => (choice % item.values.len().max(1), 1),
    };
    for value in item.values.iter().skip(skip).take(take) {
        let of_field = wanted.entry(field).or_default();
        match value.tests.first() {
            Some(Test::Text { pattern, .. }) => {
                for (position, part) in pattern.parts.iter().enumerate() {
                    let Part::Literal(text) = part else { continue };
                    match (position == 0, position + 1 == pattern.parts.len()) {
                        (true, true) => of_field.whole = Some(text.clone()),
                        (true, false) => of_field.start.clone_from(text),
                        (false, true) => of_field.end.clone_from(text),
                        (false, false) => of_field.inside.push(text.clone()),
                    }
                }
            }
            Some(Test::Number(number)) => of_field.whole = Some(number.to_string()),
            Some(Test::Bool(truth)) => of_field.whole = Some(truth.to_string()),
            Some(Test::Cidr(net)) => of_field.whole = Some(net.network().to_string()),
            _ => {}
        }
    }
}
