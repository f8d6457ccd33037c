//! CEL, bounded: what an expression may name is known when it is compiled, and how long it may take too.
//!
//! The `cel` crate bounds the depth of parsing but neither the steps nor the time of an evaluation. So every list that an
//! expression can see has at most [`MAX_LIST`] entries, and an expression whose loops could take more than [`MAX_COST`] steps
//! over such lists is refused when it is compiled. `matches` uses an automaton, linear in its input. The crate's Pratt parser is
//! used: its ANTLR parser needs some 180 KiB of stack for each bracket in a debug build and overflows before its own limit.

mod cost;
mod kind;
mod shape;
mod value;
mod walk;

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use cel::{Context, Env, IdedExpr, parser::PrattParser};
use serde_json::Value;
#[cfg(test)]
pub(crate) use shape::{Kind, variable};
pub use walk::{Fault, StepUse};

use crate::facts::MAX_LIST;

/// Steps of one evaluation, at most, by a sound estimate (I11).
pub const MAX_COST: u64 = 4_000_000;
/// Depth of one expression, at most (I11).
const MAX_DEPTH: u16 = 24;
/// Nodes of one expression, loops expanded, at most (I11).
const MAX_NODES: usize = 2000;
/// Loops within loops, at most.
pub const MAX_LOOPS: usize = 2;

/// CEL's own functions; making them anew takes longer than an evaluation.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// What an expression may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `incident`, `findings`, `finding`, `process`, `node`.
    Trigger,
    /// Those and `steps`.
    Step,
}

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A condition: it is true or false.
    Condition,
    /// To be the value of something.
    Value,
    /// To go on with a run that has begun. Its playbook was taken as it is: what only this version finds amiss must not keep what is in
    /// force from being brought to its end.
    Continuation,
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    root: Arc<IdedExpr>,
    uses: Vec<StepUse>,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// It failed.
    #[error("`{expression}`: {because}")]
    Failed {
        /// The expression.
        expression: String,
        /// What the evaluator says.
        because: String,
    },
    /// Its value is of another kind than needed.
    #[error("`{expression}`: expected {expected}, found {found}")]
    Kind {
        /// The expression.
        expression: String,
        /// What is needed.
        expected: &'static str,
        /// What it gave.
        found: String,
    },
}

impl Expression {
    /// Compiles `text`, or says everything that is wrong with it: what it names and is not there, what cannot be compared, and what is no
    /// condition where one is needed.
    ///
    /// # Errors
    /// Each fault with its place within the text.
    pub fn compile(text: &str, scope: Scope, purpose: Purpose) -> Result<Self, Vec<Fault>> {
        if text.len() > crds::Cel::MAX_LENGTH {
            let message = format!("longer than {} bytes", crds::Cel::MAX_LENGTH);
            return Err(vec![Fault { line: 1, column: 1, message, help: None }]);
        }
        let parser = PrattParser::new().max_recursion_depth(MAX_DEPTH).max_expression_node_count(MAX_NODES);
        let root = parser.parse(text).map_err(|errors| syntax(&errors.errors))?;
        let (mut faults, uses) = walk::check(&root, text, scope);
        cost::check(&root, &mut faults);
        if purpose != Purpose::Continuation {
            let (unfit, whole) = kind::check(&root, text);
            faults.extend(unfit);
            if purpose == Purpose::Condition {
                faults.extend(kind::no_condition(&root, whole, text));
            }
        }
        if faults.is_empty() {
            Ok(Self { text: text.into(), root: Arc::new(root), uses })
        } else {
            Err(faults)
        }
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The steps that it asks about.
    #[must_use]
    pub fn uses(&self) -> &[StepUse] {
        &self.uses
    }

    /// Names of the steps that it asks about.
    #[must_use]
    pub fn steps(&self) -> BTreeSet<&str> {
        self.uses.iter().map(|u| u.step.as_str()).collect()
    }

    /// Its value.
    ///
    /// # Errors
    /// The evaluator's word: a missing key, an operation that does not fit its operands.
    pub fn evaluate(&self, variables: &Variables) -> Result<Value, EvaluationError> {
        let failed = |because: String| EvaluationError::Failed { expression: self.text.clone(), because };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (name, value) in &variables.values {
            context.add_variable_from_value(*name, value.clone());
        }
        let result = context.resolve(&self.root).map_err(|error| failed(error.to_string()))?;
        result.json().map_err(|error| failed(error.to_string()))
    }

    /// Its value as true or false.
    ///
    /// # Errors
    /// As [`Self::evaluate`], and when the value is neither.
    pub fn holds(&self, variables: &Variables) -> Result<bool, EvaluationError> {
        match self.evaluate(variables)? {
            Value::Bool(value) => Ok(value),
            other => Err(self.kind("true or false", &other)),
        }
    }

    pub(crate) fn kind(&self, expected: &'static str, found: &Value) -> EvaluationError {
        let mut found = found.to_string();
        if found.len() > 80 {
            found.truncate(found.floor_char_boundary(80));
            found.push('…');
        }
        EvaluationError::Kind { expression: self.text.clone(), expected, found }
    }
}

/// What expressions are evaluated over; converted once, used for many.
#[derive(Debug, Clone)]
pub struct Variables {
    values: Vec<(&'static str, cel::Value)>,
}

impl Variables {
    /// Nothing, for what has no expressions.
    #[must_use]
    pub fn none() -> Self {
        Self { values: Vec::new() }
    }

    /// Those of a trigger.
    #[must_use]
    pub fn of(facts: &crate::facts::Facts) -> Self {
        let values = [
            ("incident", &facts.incident),
            ("findings", &facts.findings),
            ("finding", &facts.finding),
            ("process", &facts.process),
            ("node", &facts.node),
        ];
        Self { values: values.map(|(name, value)| (name, value::from_json(value))).to_vec() }
    }

    /// Those of a step: `steps` too.
    #[must_use]
    pub fn with_steps(facts: &crate::facts::Facts, steps: &Value) -> Self {
        let mut variables = Self::of(facts);
        variables.values.push(("steps", value::from_json(steps)));
        variables
    }
}

fn syntax(errors: &[cel::ParseError]) -> Vec<Fault> {
    let number = |n: isize| u32::try_from(n.max(1)).unwrap_or(1);
    let mut faults: Vec<Fault> = errors
        .iter()
        .map(|error| Fault {
            line: number(error.pos.0),
            column: number(error.pos.1),
            message: format!("no valid CEL: {}", error.msg),
            help: None,
        })
        .collect();
    if faults.is_empty() {
        faults.push(Fault { line: 1, column: 1, message: "no valid CEL".into(), help: None });
    }
    faults
}

/// Where `word` first stands in `text` as a word of its own and outside of quotes, in lines and characters from 1; the
/// beginning if it does not. The parser does not tell where a node of a valid expression stands.
fn position(text: &str, word: &str) -> (u32, u32) {
    let (mut line, mut column, mut quote, mut previous) = (1, 1, None, ' ');
    if word.is_empty() {
        return (line, column);
    }
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, c) in text.char_indices() {
        let rest = &text[at..];
        let ends = || !rest[word.len()..].starts_with(in_word);
        if quote.is_none() && !in_word(previous) && rest.starts_with(word) && ends() {
            return (line, column);
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open && previous != '\\' => quote = None,
            _ => {}
        }
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        previous = c;
    }
    (1, 1)
}

#[cfg(test)]
mod tests;
