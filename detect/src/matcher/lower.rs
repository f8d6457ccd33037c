//! From the syntax of a rule to logic over interned predicates, for one category: fields that its events cannot have are
//! decided here and cost nothing later.

use std::{collections::HashMap, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::{
    predicate::{Anchor, Check, NumberKey, Predicate},
    program::Logic,
    required::required_literals,
};
use crate::{
    ast::{Case, Detection, Expr, Item, Join, Part, Pattern, Polarity, Quantifier, RegexTest, Search, Test},
    schema::{Category, Field, Kind},
    text::fold,
};

/// The predicates of one category, each once.
#[derive(Debug)]
pub(crate) struct Interner {
    category: Category,
    numbers: HashMap<Predicate, u32>,
    predicates: Vec<Predicate>,
    /// What must hold if the predicate holds, over predicates that an index can find; for those that none can.
    implied: HashMap<u32, Logic>,
}

impl Interner {
    /// Empty, for a category.
    pub(crate) fn new(category: Category) -> Self {
        Self { category, numbers: HashMap::new(), predicates: Vec::new(), implied: HashMap::new() }
    }

    /// By number.
    pub(crate) fn predicates(&self) -> &[Predicate] {
        &self.predicates
    }

    /// What must hold if predicate `number` holds; `None` where nothing follows from it.
    pub(crate) fn implied(&self, number: u32) -> Option<&Logic> {
        self.implied.get(&number)
    }

    /// The logic of a rule's detection.
    pub(crate) fn lower(&mut self, detection: &Detection) -> Logic {
        let searches: Vec<_> =
            detection.identifiers.iter().map(|identifier| self.search(&identifier.search)).collect();
        Logic::any(detection.conditions.iter().map(|condition| expression(&condition.expr, &searches)))
    }

    fn search(&mut self, search: &Search) -> Logic {
        match search {
            Search::Item(item) => self.item(item),
            Search::All(parts, _) if parts.is_empty() => Logic::Constant(false),
            Search::All(parts, _) => {
                Logic::all(parts.iter().map(|part| self.search(part)).collect::<Vec<_>>())
            }
            Search::Any(parts, _) => {
                Logic::any(parts.iter().map(|part| self.search(part)).collect::<Vec<_>>())
            }
        }
    }

    fn item(&mut self, item: &Item) -> Logic {
        let fields: Vec<Option<Field>> = match &item.field {
            Some(name) => vec![name.field],
            None => self.category.keyword_fields().map(Some).collect(),
        };
        let mut values = Vec::with_capacity(item.values.len());
        for value in &item.values {
            let mut tests = Vec::new();
            for field in &fields {
                for test in &value.tests {
                    tests.push(self.test(*field, test));
                }
            }
            values.push(Logic::any(tests));
        }
        let joined = match item.join {
            Join::Any => Logic::any(values),
            Join::All => Logic::all(values),
        };
        match item.polarity {
            Polarity::Must => joined,
            Polarity::MustNot => Logic::not(joined),
        }
    }

    fn test(&mut self, field: Option<Field>, test: &Test) -> Logic {
        let Some(field) = field.filter(|field| field.exists_in(self.category)) else {
            return Logic::Constant(matches!(test, Test::Null | Test::Exists(false)));
        };
        let check = match test {
            Test::Text { pattern, case } => match text_check(field.spec().kind, pattern, *case) {
                Some(check) => check,
                None => return Logic::Constant(false),
            },
            Test::Number(number) => Check::Number((*number).into()),
            Test::Bool(truth) => Check::Bool(*truth),
            Test::Null | Test::Exists(false) => Check::Absent,
            Test::Exists(true) => return Logic::not(self.holds(field, Check::Absent)),
            Test::Compare { how, than } => Check::Compare(*how, (*than).into()),
            Test::Regex(RegexTest { source, flags, .. }) => Check::Regex(source.as_str().into(), *flags),
            Test::Cidr(net) => Check::Net(net.trunc()),
            Test::FieldRef { field: other, how, case } => {
                match other.field.filter(|other| other.exists_in(self.category)) {
                    Some(other) => Check::Reference(other, *how, *case),
                    None => return Logic::Constant(false),
                }
            }
            Test::Time { part, how, than } => Check::Time(*part, *how, (*than).into()),
        };
        match always(self.category, field).and_then(|value| known(&check, value)) {
            Some(holds) => Logic::Constant(holds),
            None => self.holds(field, check),
        }
    }

    fn holds(&mut self, field: Field, check: Check) -> Logic {
        Logic::Holds(self.intern(field, check))
    }

    fn intern(&mut self, field: Field, check: Check) -> u32 {
        let predicate = Predicate { field, check };
        if let Some(number) = self.numbers.get(&predicate) {
            return *number;
        }
        let number = self.predicates.len() as u32;
        self.numbers.insert(predicate.clone(), number);
        self.predicates.push(predicate.clone());
        let implied = match &predicate.check {
            Check::Glob(pattern, case) => Some(self.implied_by_glob(field, pattern, *case)),
            Check::Regex(source, flags) => required_literals(source, *flags).map(|alternatives| {
                Logic::any(
                    alternatives
                        .into_iter()
                        .map(|literal| {
                            self.holds(
                                field,
                                Check::Literal(Anchor::Anywhere, literal.into(), Case::Insensitive),
                            )
                        })
                        .collect::<Vec<_>>(),
                )
            }),
            _ => None,
        };
        if let Some(implied) = implied {
            self.implied.insert(number, implied);
        }
        number
    }

    /// Each of its literals must be there: the first at the start, the last at the end, if no wildcard stands before or
    /// after it.
    fn implied_by_glob(&mut self, field: Field, pattern: &Pattern, case: Case) -> Logic {
        let last = pattern.parts.len().saturating_sub(1);
        let mut literals = Vec::new();
        for (position, part) in pattern.parts.iter().enumerate() {
            if let Part::Literal(text) = part {
                let anchor = match position {
                    0 => Anchor::Start,
                    p if p == last => Anchor::End,
                    _ => Anchor::Anywhere,
                };
                literals.push(self.holds(field, Check::Literal(anchor, text.as_str().into(), case)));
            }
        }
        Logic::all(literals)
    }
}

/// The text of a field that is the same in all events of a category: rules for several categories are told apart by such fields.
fn always(category: Category, field: Field) -> Option<&'static str> {
    Some(match (field, category) {
        (Field::Initiated, Category::NetworkConnection) => "true",
        (Field::Initiated, Category::NetworkAccept) => "false",
        (Field::FileOperation, Category::FileAccess) => "read",
        (Field::FileOperation, Category::FileDelete) => "delete",
        (Field::FileOperation, Category::FileRename) => "rename",
        (Field::FileOperation, Category::FileMode) => "chmod",
        (Field::FileOperation, Category::FileOwner) => "chown",
        _ => return None,
    })
}

/// Whether the check holds for this text of a text or truth field, where that is plain.
fn known(check: &Check, value: &str) -> Option<bool> {
    match check {
        Check::Literal(anchor, text, _) => {
            Some(super::check::literal(*anchor, value.as_bytes(), text.as_bytes()))
        }
        Check::Bool(truth) => Some(value == if *truth { "true" } else { "false" }),
        Check::Absent => Some(false),
        _ => None,
    }
}

fn expression(expr: &Expr, searches: &[Logic]) -> Logic {
    let named = |index: &usize| searches.get(*index).cloned().unwrap_or(Logic::Constant(false));
    match expr {
        Expr::Identifier { index, .. } => named(index),
        Expr::Of { quantifier, targets, .. } => {
            let targets = targets.iter().map(named).collect::<Vec<_>>();
            match quantifier {
                Quantifier::All => Logic::all(targets),
                Quantifier::AtLeast(count) => Logic::at_least(*count, targets),
            }
        }
        Expr::Not(inner, _) => Logic::not(expression(inner, searches)),
        Expr::And(parts, _) => Logic::all(parts.iter().map(|part| expression(part, searches))),
        Expr::Or(parts, _) => Logic::any(parts.iter().map(|part| expression(part, searches))),
    }
}

/// The check that a text pattern means for values of a kind; `None` if it can never hold.
fn text_check(kind: Kind, pattern: &Pattern, case: Case) -> Option<Check> {
    let folded = |text: &str| match case {
        Case::Insensitive => fold(text),
        Case::Sensitive => text.to_owned(),
    };
    let (anchor, text) = match pattern.parts.as_slice() {
        [] => (Anchor::Whole, String::new()),
        [Part::Literal(text)] => (Anchor::Whole, folded(text)),
        [Part::Literal(text), Part::AnyMany] => (Anchor::Start, folded(text)),
        [Part::AnyMany, Part::Literal(text)] => (Anchor::End, folded(text)),
        [Part::AnyMany, Part::Literal(text), Part::AnyMany] => (Anchor::Anywhere, folded(text)),
        [Part::AnyMany] => (Anchor::Anywhere, String::new()),
        parts => {
            let parts = parts.iter().map(|part| match part {
                Part::Literal(text) => Part::Literal(folded(text)),
                wildcard => wildcard.clone(),
            });
            return Some(Check::Glob(Pattern { parts: parts.collect() }, case));
        }
    };
    match (kind, anchor) {
        (Kind::Number, Anchor::Whole) => {
            let number = i64::from_str(&text).ok().filter(|number| number.to_string() == text)?;
            Some(Check::Number(NumberKey::Int(number)))
        }
        (Kind::Address, Anchor::Whole) => {
            let address = IpAddr::from_str(&text).ok().filter(|address| address.to_string() == text)?;
            Some(Check::Net(IpNet::from(address)))
        }
        (Kind::Address, Anchor::Start) => Some(match octets(&text) {
            Some(net) => Check::Net(net),
            None => Check::Literal(anchor, text.into(), case),
        }),
        _ => Some(Check::Literal(anchor, text.into(), case)),
    }
}

/// The network of addresses whose text begins with whole octets and a dot, for example `10.` or `192.168.`.
fn octets(prefix: &str) -> Option<IpNet> {
    let octets = prefix.strip_suffix('.')?.split('.').collect::<Vec<_>>();
    let mut address = [0_u8; 4];
    for (place, octet) in address.iter_mut().zip(&octets) {
        *place = u8::from_str(octet).ok().filter(|number| number.to_string() == *octet)?;
    }
    (octets.len() < 4).then(|| IpNet::new(IpAddr::from(address), 8 * octets.len() as u8).ok()).flatten()
}
