//! What kind each part of an expression is, as far as that is known before it is evaluated: what cannot come true for any incident is told
//! when the playbook is checked, not when it is needed. What is not known is never complained about.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, operators},
};
use crds::nearest;

use super::{
    Fault, position,
    shape::{self, Kind, RECORDS, Record},
    walk::dotted,
};

/// Everything that does not fit, and what the whole is.
pub(super) fn check(root: &IdedExpr, text: &str) -> (Vec<Fault>, Kind) {
    let mut kinds = Kinds { text, faults: Vec::new(), bound: Vec::new() };
    let kind = kinds.of(root);
    (kinds.faults, kind)
}

/// What is wrong where `root`, which is `kind`, should be true or false.
pub(super) fn no_condition(root: &IdedExpr, kind: Kind, text: &str) -> Option<Fault> {
    let mut kinds = Kinds { text, faults: Vec::new(), bound: Vec::new() };
    kinds.truth(root, kind);
    kinds.faults.pop()
}

struct Kinds<'a> {
    text: &'a str,
    faults: Vec<Fault>,
    /// Variables of the loops around, the innermost last.
    bound: Vec<(&'a str, Kind)>,
}

impl<'a> Kinds<'a> {
    fn of(&mut self, node: &'a IdedExpr) -> Kind {
        match &node.expr {
            Expr::Ident(name) => {
                let bound = self.bound.iter().rev().find(|(known, _)| known == name);
                bound.map_or_else(|| shape::variable(name), |(_, kind)| *kind)
            }
            Expr::Literal(value) => match value {
                LiteralValue::Boolean(_) => Kind::Truth,
                LiteralValue::Bytes(_) => Kind::Bytes,
                LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Kind::Number,
                LiteralValue::Null => Kind::Null,
                LiteralValue::String(_) => Kind::Text,
            },
            Expr::Select(select) => {
                let of = self.of(&select.operand);
                let field = self.field(&select.operand, of, &select.field);
                if select.test { Kind::Truth } else { field }
            }
            Expr::List(list) => {
                let entries: Vec<Kind> = list.elements.iter().map(|entry| self.of(entry)).collect();
                Kind::List(lasting(entries.into_iter().fold(Kind::Nothing, join)))
            }
            Expr::Map(_) | Expr::Struct(_) => {
                for child in super::cost::children(node) {
                    self.of(child);
                }
                if matches!(node.expr, Expr::Map(_)) { Kind::Map(&Kind::Unknown) } else { Kind::Unknown }
            }
            Expr::Comprehension(each) => self.each(each),
            Expr::Call(call) => self.call(call),
            Expr::Unspecified => Kind::Unknown,
        }
    }

    fn field(&mut self, node: &IdedExpr, of: Kind, name: &str) -> Kind {
        match of {
            Kind::Record(record) => record.field(name).unwrap_or_else(|| {
                self.no_field(record, name);
                Kind::Unknown
            }),
            Kind::Map(value) => *value,
            Kind::Unknown | Kind::Nothing | Kind::Null => Kind::Unknown,
            other => {
                let message = format!("{} is {} and has no `{name}`", shown(node), called(other));
                self.fault(name, message, None);
                Kind::Unknown
            }
        }
    }

    fn no_field(&mut self, record: &Record, name: &str) {
        let names = record.names();
        let help = nearest(name, names.iter().copied()).map(|n| format!("did you mean `{n}`?"));
        self.fault(name, format!("{} has no `{name}`; it has {}", record.name, names.join(", ")), help);
    }

    fn each(&mut self, each: &'a ComprehensionExpr) -> Kind {
        let entry = match self.of(&each.iter_range) {
            Kind::List(entry) if each.iter_var2.is_none() => *entry,
            Kind::Map(_) | Kind::Record(_) if each.iter_var2.is_none() => Kind::Text,
            other @ (Kind::Text | Kind::OneOf(_) | Kind::Number | Kind::Truth | Kind::Bytes) => {
                let message =
                    format!("{} is {}, and no list to look through", shown(&each.iter_range), called(other));
                self.fault(&word(&each.iter_range), message, None);
                Kind::Unknown
            }
            _ => Kind::Unknown,
        };
        let start = self.of(&each.accu_init);
        let depth = self.bound.len();
        self.bound.push((&each.accu_var, start));
        let gathers = matches!(&each.result.expr, Expr::Ident(name) if *name == each.accu_var);
        self.bound.extend(each.iter_var2.as_deref().map(|name| (name, Kind::Unknown)));
        self.bound.push((&each.iter_var, entry));
        self.of(&each.loop_cond);
        let step = self.of(&each.loop_step);
        let result = if gathers { join(start, step) } else { self.of(&each.result) };
        self.bound.truncate(depth);
        result
    }

    fn call(&mut self, call: &'a CallExpr) -> Kind {
        let parts: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let kinds: Vec<Kind> = parts.iter().map(|part| self.of(part)).collect();
        match (call.func_name.as_str(), &parts[..], &kinds[..]) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, _, _) => {
                for (part, kind) in parts.iter().zip(&kinds) {
                    self.truth(part, *kind);
                }
                Kind::Truth
            }
            (operators::LOGICAL_NOT, [part], [kind]) => {
                self.truth(part, *kind);
                Kind::Truth
            }
            (operators::CONDITIONAL, [part, ..], [kind, yes, no]) => {
                self.truth(part, *kind);
                join(*yes, *no)
            }
            (operators::EQUALS | operators::NOT_EQUALS, [left, right], [of_left, of_right]) => {
                self.equal((left, *of_left), (right, *of_right));
                Kind::Truth
            }
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                [left, right],
                [of_left, of_right],
            ) => {
                self.ordered((left, *of_left), (right, *of_right));
                Kind::Truth
            }
            (operators::IN, [entry, list], [of_entry, of_list]) => {
                self.within((entry, *of_entry), (list, *of_list));
                Kind::Truth
            }
            (operators::INDEX, [of, key], [kind, of_key]) => self.index(of, *kind, key, *of_key),
            (operators::ADD, [left, right], [of_left, of_right]) => {
                self.sum((left, *of_left), (right, *of_right))
            }
            (
                operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO
                | operators::NEGATE,
                _,
                _,
            ) => {
                for (part, kind) in parts.iter().zip(&kinds) {
                    if is_known(*kind) && *kind != Kind::Number {
                        self.other(part, *kind, "a number");
                    }
                }
                Kind::Number
            }
            ("size", [part], [kind]) => {
                if matches!(kind, Kind::Truth | Kind::Number) {
                    self.other(part, *kind, "a text, a list or a mapping");
                }
                Kind::Number
            }
            ("startsWith" | "endsWith" | "matches" | "contains", _, _) => {
                for (part, kind) in parts.iter().zip(&kinds) {
                    if is_known(*kind) && !is_text(*kind) {
                        self.other(part, *kind, "a text");
                    }
                }
                Kind::Truth
            }
            ("string", ..) => Kind::Text,
            ("int" | "uint" | "double", ..) => Kind::Number,
            ("bool" | operators::NOT_STRICTLY_FALSE, ..) => Kind::Truth,
            ("bytes", ..) => Kind::Bytes,
            _ => Kind::Unknown,
        }
    }

    /// `node`, which is `kind`, stands where true or false must.
    fn truth(&mut self, node: &IdedExpr, kind: Kind) {
        let meant = match kind {
            Kind::Unknown | Kind::Nothing | Kind::Truth => return,
            Kind::Number => Some(format!("{} > 0", plain(node))),
            Kind::Text | Kind::OneOf(_) => Some(format!("{} != ''", plain(node))),
            Kind::List(_) | Kind::Map(_) => Some(format!("size({}) > 0", plain(node))),
            Kind::Bytes | Kind::Null | Kind::Record(_) => None,
        };
        let message = format!("{} is {}, where true or false is needed", shown(node), called(kind));
        let help =
            meant.filter(|meant| !meant.starts_with('…')).map(|meant| format!("did you mean `{meant}`?"));
        self.fault(&word(node), message, help);
    }

    fn other(&mut self, node: &IdedExpr, kind: Kind, needed: &str) {
        self.fault(
            &word(node),
            format!("{} is {}, where {needed} is needed", shown(node), called(kind)),
            None,
        );
    }

    fn equal(&mut self, (left, of_left): (&IdedExpr, Kind), (right, of_right): (&IdedExpr, Kind)) {
        if differ(of_left, of_right) {
            return self.unequal((left, of_left), (right, of_right), "so they are never equal");
        }
        for (choice, node) in [(of_left, right), (of_right, left)] {
            if let (Kind::OneOf(choices), Some(text)) = (choice, literal(node))
                && !choices.contains(&text)
            {
                let (line, column) = place_of_text(self.text, text);
                let help =
                    nearest(text, choices.iter().copied()).map(|near| format!("did you mean `'{near}'`?"));
                let of = if std::ptr::eq(node, right) { left } else { right };
                let message = format!("{} is never '{text}'; it is one of {}", shown(of), choices.join(", "));
                self.faults.push(Fault { line, column, message, help });
            }
        }
    }

    fn ordered(&mut self, (left, of_left): (&IdedExpr, Kind), (right, of_right): (&IdedExpr, Kind)) {
        for (node, kind) in [(left, of_left), (right, of_right)] {
            if matches!(kind, Kind::List(_) | Kind::Map(_) | Kind::Record(_) | Kind::Null) {
                return self.other(node, kind, "a number or a text");
            }
        }
        if differ(of_left, of_right) {
            self.unequal((left, of_left), (right, of_right), "so neither is greater");
        }
    }

    fn unequal(
        &mut self,
        (left, of_left): (&IdedExpr, Kind),
        (right, of_right): (&IdedExpr, Kind),
        so: &str,
    ) {
        let meant = [(left, of_right), (right, of_left)].into_iter().find_map(|(node, other)| match other {
            _ if dotted(node).is_some() => None,
            Kind::Number => literal(node).filter(|text| text.parse::<i64>().is_ok()).map(str::to_owned),
            Kind::Text | Kind::OneOf(_) => number(node).map(|number| format!("'{number}'")),
            _ => None,
        });
        let message = format!(
            "{} is {} and {} is {}, {so}",
            shown(left),
            called(of_left),
            shown(right),
            called(of_right)
        );
        let at = if dotted(left).is_some() { left } else { right };
        self.fault(&word(at), message, meant.map(|meant| format!("did you mean `{meant}`?")));
    }

    fn within(&mut self, (entry, of_entry): (&IdedExpr, Kind), (list, of_list): (&IdedExpr, Kind)) {
        match of_list {
            Kind::List(inner) if differ(of_entry, *inner) => {
                let message = format!(
                    "{} is {}, and each entry of {} is {}",
                    shown(entry),
                    called(of_entry),
                    shown(list),
                    called(*inner)
                );
                self.fault(&word(list), message, None);
            }
            Kind::Text | Kind::OneOf(_) => {
                let message = format!("{} is a text, and no list to look in", shown(list));
                let help = dotted(list)
                    .filter(|_| is_text(of_entry))
                    .map(|_| format!("did you mean `{}.contains({})`?", plain(list), plain(entry)));
                self.fault(&word(list), message, help);
            }
            Kind::Number | Kind::Truth | Kind::Bytes | Kind::Null => self.other(list, of_list, "a list"),
            _ => {}
        }
    }

    fn index(&mut self, node: &IdedExpr, kind: Kind, key: &IdedExpr, of_key: Kind) -> Kind {
        match kind {
            Kind::List(entry) => {
                if is_known(of_key) && of_key != Kind::Number {
                    self.other(key, of_key, "the number of an entry");
                }
                *entry
            }
            Kind::Record(_) | Kind::Map(_) => match literal(key) {
                Some(name) => self.field(node, kind, name),
                None => Kind::Unknown,
            },
            Kind::Unknown | Kind::Nothing | Kind::Null => Kind::Unknown,
            _ => {
                self.other(node, kind, "a list or a mapping");
                Kind::Unknown
            }
        }
    }

    fn sum(&mut self, (left, of_left): (&IdedExpr, Kind), (right, of_right): (&IdedExpr, Kind)) -> Kind {
        for (node, kind) in [(left, of_left), (right, of_right)] {
            if matches!(kind, Kind::Truth | Kind::Map(_) | Kind::Record(_) | Kind::Null) {
                self.other(node, kind, "a number, a text or a list");
                return Kind::Unknown;
            }
        }
        match (of_left, of_right) {
            (Kind::List(left), Kind::List(right)) => Kind::List(lasting(join(*left, *right))),
            (left_kind, right_kind) if differ(left_kind, right_kind) => {
                self.unequal((left, left_kind), (right, right_kind), "which cannot be put together");
                Kind::Unknown
            }
            (Kind::OneOf(_) | Kind::Text, _) => Kind::Text,
            (Kind::Number, _) => Kind::Number,
            _ => Kind::Unknown,
        }
    }

    fn fault(&mut self, word: &str, message: String, help: Option<String>) {
        let (line, column) = position(self.text, word);
        self.faults.push(Fault { line, column, message, help });
    }
}

fn is_known(kind: Kind) -> bool {
    !matches!(kind, Kind::Unknown | Kind::Nothing)
}

fn is_text(kind: Kind) -> bool {
    matches!(kind, Kind::Text | Kind::OneOf(_))
}

/// Whether no value can be of both. Null may stand for what is not there.
fn differ(left: Kind, right: Kind) -> bool {
    match (left, right) {
        (Kind::Unknown | Kind::Nothing | Kind::Null, _) | (_, Kind::Unknown | Kind::Nothing | Kind::Null) => {
            false
        }
        (Kind::List(left), Kind::List(right)) => differ(*left, *right),
        (Kind::Map(_) | Kind::Record(_), Kind::Map(_) | Kind::Record(_)) => false,
        (left, right) if is_text(left) => !is_text(right),
        (left, right) => left != right,
    }
}

/// What is either.
fn join(left: Kind, right: Kind) -> Kind {
    match (left, right) {
        (Kind::Nothing, kind) | (kind, Kind::Nothing) => kind,
        (left, right) if left == right => left,
        (left, right) if is_text(left) && is_text(right) => Kind::Text,
        (Kind::List(left), Kind::List(right)) => Kind::List(lasting(join(*left, *right))),
        _ => Kind::Unknown,
    }
}

/// The same as a constant; what is not among them is not known.
fn lasting(kind: Kind) -> &'static Kind {
    match kind {
        Kind::Nothing => &Kind::Nothing,
        Kind::Truth => &Kind::Truth,
        Kind::Number => &Kind::Number,
        Kind::Text | Kind::OneOf(_) => &Kind::Text,
        Kind::Record(_) => RECORDS.iter().find(|known| **known == kind).unwrap_or(&Kind::Unknown),
        _ => &Kind::Unknown,
    }
}

fn called(kind: Kind) -> &'static str {
    match kind {
        Kind::Unknown | Kind::Nothing => "anything",
        Kind::Truth => "true or false",
        Kind::Number => "a number",
        Kind::Text | Kind::OneOf(_) => "a text",
        Kind::Bytes => "bytes",
        Kind::Null => "null",
        Kind::List(_) => "a list",
        Kind::Map(_) | Kind::Record(_) => "a mapping",
    }
}

fn literal(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn number(node: &IdedExpr) -> Option<i64> {
    match &node.expr {
        Expr::Literal(LiteralValue::Int(number)) => Some(*number.inner()),
        _ => None,
    }
}

fn shown(node: &IdedExpr) -> String {
    let text = plain(node);
    if text.starts_with('…') { "this".into() } else { format!("`{text}`") }
}

/// As it was probably written; `…` where that is not told in a few words.
fn plain(node: &IdedExpr) -> String {
    if let Some((root, path)) = dotted(node) {
        return [&[root][..], &path].concat().join(".");
    }
    if let Some(text) = literal(node) {
        return format!("'{text}'");
    }
    if let Some(number) = number(node) {
        return number.to_string();
    }
    match &node.expr {
        Expr::Call(call) if call.func_name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            let args: Vec<String> = call.args.iter().map(plain).collect();
            let of = call.target.as_deref().map(|of| format!("{}.", plain(of))).unwrap_or_default();
            format!("{of}{}({})", call.func_name, args.join(", "))
        }
        _ => "…".into(),
    }
}

/// A word by which `node` can be found in the text.
fn word(node: &IdedExpr) -> String {
    if let Some((root, path)) = dotted(node) {
        return (*path.last().unwrap_or(&root)).to_owned();
    }
    match &node.expr {
        Expr::Call(call) if call.func_name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            call.func_name.clone()
        }
        Expr::Literal(_) => number(node).map(|number| number.to_string()).unwrap_or_default(),
        _ => super::cost::children(node).first().map(|child| word(child)).unwrap_or_default(),
    }
}

/// Where a quoted text stands, in lines and characters from 1; the beginning if it is written otherwise.
fn place_of_text(all: &str, text: &str) -> (u32, u32) {
    let found = ['\'', '"'].into_iter().find_map(|quote| all.find(&format!("{quote}{text}{quote}")));
    let before = &all[..found.unwrap_or(0)];
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let line = before.rsplit('\n').next().unwrap_or(before);
    (number(before.matches('\n').count() + 1), number(line.chars().count() + 1))
}
