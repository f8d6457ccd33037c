//! Which variables, functions and steps an expression names, compared with what there is.

use cel::{
    IdedExpr,
    common::ast::{Expr, LiteralValue, operators},
};
use crds::nearest;

use super::{Scope, cost::children, position};

/// Something wrong in an expression, with its place within the text, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line within the expression.
    pub line: u32,
    /// Character within the line.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub help: Option<String>,
}

/// A step that an expression asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepUse {
    /// Its name.
    pub step: String,
    /// What of it: `state`, `succeeded`, `failed`, `outputs`, `observed`; `None` for the step as a whole.
    pub field: Option<String>,
    /// Line within the expression.
    pub line: u32,
    /// Character within the line.
    pub column: u32,
}

const ROOTS: [&str; 6] = ["incident", "findings", "finding", "process", "node", "steps"];
const TYPES: [&str; 10] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
const FUNCTIONS: [&str; 13] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bool",
    "bytes",
    "type",
    "dyn",
];
/// Faults, and the steps that are named.
pub(super) fn check(root: &IdedExpr, text: &str, scope: Scope) -> (Vec<Fault>, Vec<StepUse>) {
    let mut walk = Walk { text, scope, faults: Vec::new(), uses: Vec::new(), bound: Vec::new() };
    walk.node(root);
    (walk.faults, walk.uses)
}

struct Walk<'a> {
    text: &'a str,
    scope: Scope,
    faults: Vec<Fault>,
    uses: Vec<StepUse>,
    /// Variables of the loops around.
    bound: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn node(&mut self, node: &'a IdedExpr) {
        if let Some((root, path)) = dotted(node)
            && !self.bound.contains(&root)
        {
            return self.name(root, &path);
        }
        match &node.expr {
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
                if operator && [operators::OPT_INDEX, operators::OPT_SELECT].contains(&name) {
                    self.fault("?", "optional syntax is not supported".into(), Some("use has(…)".into()));
                } else if !operator && !FUNCTIONS.contains(&name) {
                    let help = nearest(name, FUNCTIONS).map(|n| format!("did you mean `{n}`?"));
                    self.fault(name, format!("unknown function `{name}`"), help);
                }
                self.all(children(node));
            }
            Expr::Comprehension(each) => {
                self.node(&each.iter_range);
                self.node(&each.accu_init);
                let depth = self.bound.len();
                self.bound.push(&each.iter_var);
                self.bound.push(&each.accu_var);
                self.bound.extend(each.iter_var2.as_deref());
                self.all(vec![&each.loop_cond, &each.loop_step, &each.result]);
                self.bound.truncate(depth);
            }
            Expr::Struct(structure) => {
                self.fault(&structure.type_name, format!("unknown type `{}`", structure.type_name), None);
            }
            _ => self.all(children(node)),
        }
    }

    fn all(&mut self, nodes: Vec<&'a IdedExpr>) {
        for node in nodes {
            self.node(node);
        }
    }

    /// `root.path…`, `root` being no loop's variable.
    fn name(&mut self, root: &'a str, path: &[&'a str]) {
        if root == "steps" && self.scope == Scope::Step {
            return self.step(path);
        }
        if TYPES.contains(&root) && path.is_empty() {
            return;
        }
        let known = if self.scope == Scope::Step { &ROOTS[..] } else { &ROOTS[..5] };
        if !known.contains(&root) {
            let help = nearest(root, known.iter().copied()).map(|n| format!("did you mean `{n}`?"));
            let message = format!("unknown variable `{root}`; there are {}", known.join(", "));
            self.fault(root, message, help);
        }
    }

    fn step(&mut self, path: &[&str]) {
        let Some(&step) = path.first() else {
            let help = Some("write steps.NAME".into());
            return self.fault("steps", "`steps` must be followed by the name of a step".into(), help);
        };
        let field = path.get(1).map(|f| (*f).to_owned());
        let (line, column) = position(self.text, step);
        self.uses.push(StepUse { step: step.into(), field, line, column });
    }

    fn fault(&mut self, word: &str, message: String, help: Option<String>) {
        let (line, column) = position(self.text, word);
        self.faults.push(Fault { line, column, message, help });
    }
}

/// `a.b.c` and `a["b"].c` as (a, [b, c]).
pub(super) fn dotted(node: &IdedExpr) -> Option<(&str, Vec<&str>)> {
    let (mut node, mut path) = (node, Vec::new());
    loop {
        match &node.expr {
            Expr::Ident(name) => {
                path.reverse();
                return Some((name, path));
            }
            Expr::Select(select) => {
                path.push(select.field.as_str());
                node = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX && call.args.len() == 2 => {
                let Expr::Literal(LiteralValue::String(key)) = &call.args[1].expr else { return None };
                path.push(key.inner());
                node = &call.args[0];
            }
            _ => return None,
        }
    }
}
