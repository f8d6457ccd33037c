//! Rule tests as data: events written down by their fields, beside the rule that they are for.
//!
//! `name.test.yml` tests the rules of `name.yml`. Each case runs through the compiled matcher and through the interpreter, which must
//! agree; the rule's filters and everything else that was loaded with it are in force. docs/rules.md describes the format.

mod format;

use std::sync::Arc;

use model::Reaction;

use crate::{
    ast::Rule,
    diagnostic::{Code, Diagnostic},
    explain::{self, explain},
    load::{Loaded, Options, load_with},
    matcher::{self, RuleIndex, RuleSet},
    reference,
    schema::{Drafted, Firing},
    source::{FileId, SourceFile, Span},
};
use format::{Case, Expected};

/// What came of a set of test files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// One per case, in the order of the files.
    pub results: Vec<CaseResult>,
    /// Mistakes in rule and test files. Their spans count the rule files first, then the test files ([`Report::files`]).
    pub diagnostics: Vec<Diagnostic>,
    /// Rules without a test that matches, or without one that does not: [`Rule::key`] and what is missing.
    pub untested: Vec<(String, Missing)>,
    /// What `diagnostics` point into.
    pub files: Vec<SourceFile>,
}

impl Report {
    /// Whether nothing is wrong with tests or rules; untested rules do not count.
    #[must_use]
    pub fn passed(&self) -> bool {
        let errors = self.diagnostics.iter().any(|one| one.severity == crate::diagnostic::Severity::Error);
        !errors && self.results.iter().all(|result| result.outcome == Outcome::Passed)
    }
}

/// One case and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseResult {
    /// The test file.
    pub file: String,
    /// [`Rule::key`].
    pub rule: String,
    /// The case's name.
    pub case: String,
    /// Where the case stands.
    pub span: Span,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed {
        /// What was expected.
        expected: &'static str,
        /// Predicate by predicate, what the rule found.
        explanation: String,
    },
    /// The compiled matcher and the interpreter differ: a mistake in this product, not in the rule.
    EnginesDiffer {
        /// What the interpreter says.
        explanation: String,
    },
}

/// What a rule's tests lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No test at all.
    All,
    /// No event that must match.
    Match,
    /// No event that must not.
    NoMatch,
}

/// Runs test files against rule files. Texts in, results out.
#[must_use]
pub fn run_rule_tests(rules: &[SourceFile], tests: &[SourceFile], options: &Options) -> Report {
    let loaded = load_with(rules, options);
    let (set, compiled) = RuleSet::compile(&loaded.rules, matcher::Options::default());
    let mut runner = Runner { rules, loaded: &loaded, set: Arc::new(set), report: Report::default() };
    runner.report.diagnostics = loaded.diagnostics.iter().cloned().chain(compiled).collect();
    runner.report.files = rules.iter().chain(tests).cloned().collect();
    let mut seen = vec![(false, false); loaded.rules.len()];
    for (position, file) in tests.iter().enumerate() {
        let id = FileId(u32::try_from(rules.len() + position).unwrap_or(u32::MAX));
        runner.file(id, file, &mut seen);
    }
    let missing = loaded.rules.iter().zip(seen).filter_map(|(rule, seen)| {
        let missing = match seen {
            (true, true) => return None,
            (false, false) => Missing::All,
            (false, true) => Missing::Match,
            (true, false) => Missing::NoMatch,
        };
        Some((rule.key().to_owned(), missing))
    });
    runner.report.untested = missing.collect();
    runner.report
}

struct Runner<'a> {
    rules: &'a [SourceFile],
    loaded: &'a Loaded,
    set: Arc<RuleSet>,
    report: Report,
}

impl Runner<'_> {
    fn file(&mut self, id: FileId, file: &SourceFile, seen: &mut [(bool, bool)]) {
        let cases = format::read(id, file, &mut self.report.diagnostics);
        if cases.is_empty() {
            return;
        }
        let beside = file.name.strip_suffix(".test.yml").map(|stem| format!("{stem}.yml"));
        let home = beside.and_then(|name| self.rules.iter().position(|rules| rules.name == name));
        for case in cases {
            let Some(position) = self.rule_of(&case, home) else { continue };
            let rule = &self.loaded.rules[position];
            let Some(drafted) = self.draft(&case, rule) else { continue };
            let tested = &mut seen[position];
            match case.expected {
                Expected::Match => tested.0 = true,
                Expected::NoMatch => tested.1 = true,
            }
            let outcome = self.judge(position, &drafted, case.expected);
            self.report.results.push(CaseResult {
                file: file.name.clone(),
                rule: rule.key().to_owned(),
                case: case.name,
                span: case.span,
                outcome,
            });
        }
    }

    /// Position of the rule that a case is for: the one it names, else the only one of the file beside it.
    fn rule_of(&mut self, case: &Case, home: Option<usize>) -> Option<usize> {
        let rules = &self.loaded.rules;
        if let Some(named) = &case.rule {
            let found = rules.iter().position(|rule| {
                let names = [&rule.meta.id, &rule.meta.name];
                rule.key() == named.value || names.into_iter().flatten().any(|name| name.value == named.value)
            });
            if found.is_none() {
                let message = format!("no loaded rule has the id or name `{}`", named.value);
                let known = rules.iter().map(Rule::key);
                self.report.diagnostics.push(
                    Diagnostic::error(Code::UnknownRule, message, named.span, "")
                        .did_you_mean(&named.value, known),
                );
            }
            return found;
        }
        let of_home = |rule: &Rule| home.is_some_and(|home| rule.meta.span.file.0 as usize == home);
        let mut found =
            rules.iter().enumerate().filter(|(_, rule)| of_home(rule)).map(|(position, _)| position);
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only),
            (None, _) => {
                let message = "there is no rule to test";
                let help =
                    "`name.test.yml` tests the rule of `name.yml` beside it; name another with `rule: <id>`";
                self.report.diagnostics.push(
                    Diagnostic::error(Code::UnknownRule, message, case.span, "this case has none").help(help),
                );
                None
            }
            (Some(_), Some(_)) => {
                let message = "the file beside this one has several rules: which is meant?";
                self.report.diagnostics.push(Diagnostic::error(
                    Code::UnknownRule,
                    message,
                    case.span,
                    "name it with `rule: <id>`",
                ));
                None
            }
        }
    }

    fn draft(&mut self, case: &Case, rule: &Rule) -> Option<Drafted> {
        if let Firing::Cannot { why } = &rule.firing
            && case.expected == Expected::Match
        {
            let message = format!("no event can match this rule: {why}");
            self.report.diagnostics.push(Diagnostic::error(
                Code::CannotFire,
                message,
                case.span,
                "so this cannot pass",
            ));
            return None;
        }
        match case.draft(rule.routing.taxonomy) {
            Ok(drafted) => Some(drafted),
            Err(diagnostic) => {
                self.report.diagnostics.push(*diagnostic);
                None
            }
        }
    }

    fn judge(&self, position: usize, drafted: &Drafted, expected: Expected) -> Outcome {
        let rule = &self.loaded.rules[position];
        let view = drafted.view();
        let plainly = reference::matches(rule, &view);
        let mut hits = vec![];
        self.set.matcher().evaluate_with(drafted.event(), drafted.context(), &mut hits);
        let quickly = hits.contains(&RuleIndex(u32::try_from(position).unwrap_or(u32::MAX)));
        let explanation = || explain::render(&explain(rule, &view));
        if plainly != quickly {
            return Outcome::EnginesDiffer { explanation: explanation() };
        }
        match expected {
            Expected::Match if !plainly => Outcome::Failed { expected: "match", explanation: explanation() },
            Expected::NoMatch if plainly => {
                Outcome::Failed { expected: "no match", explanation: explanation() }
            }
            _ => Outcome::Passed,
        }
    }
}

/// Whether a rule with a reaction of its own has tests of both kinds: such a rule acts without being asked.
#[must_use]
pub fn may_react(rule: &Rule, report: &Report) -> bool {
    rule.hemostat.reaction_or_default() == Reaction::None
        || !report.untested.iter().any(|(key, _)| key == rule.key())
}
