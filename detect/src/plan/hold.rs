//! Which execs the kernel stops before their first instruction, for rules with `reaction: stop`.

use std::collections::BTreeSet;

use model::{ExecTest, KernelTest, Reaction};

use super::tests_of::path_test;
use crate::{
    ast::Rule,
    diagnostic::{Code, Diagnostic},
    matcher::{Anchor, Check, Interner, Logic, Predicate, necessary},
    schema::{Category, Field},
};

/// Folders that most executables live in: a prefix of one of them selects nothing.
const ORDINARY_FOLDERS: [&str; 9] = [
    "/usr/bin/",
    "/usr/sbin/",
    "/bin/",
    "/sbin/",
    "/usr/lib/",
    "/usr/libexec/",
    "/usr/local/bin/",
    "/usr/local/sbin/",
    "/opt/",
];
/// A suffix shorter than this selects nothing.
const SHORTEST_SUFFIX: usize = 3;

/// Tests of which one holds for each exec that the rule matches; `Err` if there is no such set that would let ordinary
/// execs run unhindered.
pub(super) fn tests_of(logic: &Logic, interner: &Interner) -> Result<BTreeSet<ExecTest>, ()> {
    let test = |predicate: u32| test_of(&interner.predicates()[predicate as usize]);
    let share = |predicate: u32| {
        test(predicate).map(|test| match test {
            ExecTest::Unlinked => 0.01,
            ExecTest::ExeSuffix(text) => 1.0 / (1.0 + text.len() as f32),
            ExecTest::ExePrefix(text) => 1.5 / (1.0 + text.len() as f32),
        })
    };
    let set = necessary(logic, &share, &|predicate| interner.implied(predicate)).ok_or(())?;
    Ok(set.predicates.into_iter().filter_map(test).collect())
}

/// Why a rule that asks for `stop` cannot have it; `None` if it can or does not ask.
pub(super) fn refusal(rule: &Rule) -> Option<Diagnostic> {
    let reaction = rule.hemostat.reaction.as_ref().filter(|reaction| reaction.value == Reaction::Stop)?;
    let mut interner = Interner::new(Category::ProcessCreation);
    let logic = interner.lower(&rule.detection);
    let (message, label) =
        if !rule.routing.categories.contains(Category::ProcessCreation) || logic == Logic::Constant(false) {
            ("matches no process_creation event", "only an exec can be held before its first instruction")
        } else if tests_of(&logic, &interner).is_err() {
            (
                "has no test that the kernel could select execs by",
                "needs an end or a start of Image, or ExeBacking",
            )
        } else {
            return None;
        };
    Some(
        Diagnostic::warning(
            Code::Suspicious,
            format!("`reaction: stop` is refused: rule `{}` {message}; it freezes instead", rule.key()),
            reaction.span,
            label,
        )
        .help("every alternative of the condition must demand `Image|endswith` (3 characters or more), `Image|startswith` (outside the ordinary folders of programs), `Image`, or `ExeBacking: memfd` or `deleted`"),
    )
}

fn test_of(predicate: &Predicate) -> Option<ExecTest> {
    match (&predicate.check, predicate.field) {
        (Check::Literal(Anchor::Whole, text, _), Field::ExeBacking)
            if matches!(&**text, "memfd" | "deleted") =>
        {
            Some(ExecTest::Unlinked)
        }
        // A whole path is held by its end, which is narrower than its start.
        (Check::Literal(anchor, text, _), Field::Image) => {
            let anchor = if *anchor == Anchor::Whole { Anchor::End } else { *anchor };
            match path_test(anchor, text)? {
                KernelTest::PathSuffix(text) if text.len() >= SHORTEST_SUFFIX => {
                    Some(ExecTest::ExeSuffix(text))
                }
                KernelTest::PathPrefix(text)
                    if !ORDINARY_FOLDERS.iter().any(|folder| folder.starts_with(&text)) =>
                {
                    Some(ExecTest::ExePrefix(text))
                }
                _ => None,
            }
        }
        _ => None,
    }
}
