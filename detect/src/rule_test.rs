//! Rule tests as data: events written down by their fields, beside the rule that they are for.
//!
//! `name.test.yml` tests the rules of `name.yml`. Each case runs through the compiled matcher and through the interpreter, which must
//! agree; the rule's filters and everything else that was loaded with it are in force. docs/rules.md describes the format.

mod format;

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use crate::{
    ast::Meta,
    correlation::{Correlator, Limits},
    diagnostic::{Code, Diagnostic},
    explain::{self, explain},
    load::{Loaded, Options, load_with},
    matcher::{self, Matcher, RuleIndex, RuleSet},
    reference,
    schema::{Drafted, Firing, Taxonomy},
    source::{FileId, SourceFile, Span},
};
use format::{Case, Expected, Subject, Written};

/// What came of a set of test files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// One per case, in the order of the files.
    pub results: Vec<CaseResult>,
    /// Mistakes in rule and test files. Their spans count the rule files first, then the test files ([`Report::files`]).
    pub diagnostics: Vec<Diagnostic>,
    /// Rules and correlations without a test that matches, or without one that does not: [`crate::ast::Rule::key`] and what is missing.
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
    /// [`crate::ast::Rule::key`].
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
    let mut runner = Runner {
        rules,
        loaded: &loaded,
        matcher: Arc::new(set).matcher(),
        report: Report::default(),
        seen: BTreeMap::new(),
    };
    runner.report.diagnostics = loaded.diagnostics.iter().cloned().chain(compiled).collect();
    runner.report.files = rules.iter().chain(tests).cloned().collect();
    for (position, file) in tests.iter().enumerate() {
        let id = FileId(u32::try_from(rules.len() + position).unwrap_or(u32::MAX));
        runner.file(id, file);
    }
    let metas =
        loaded.rules.iter().map(|rule| &rule.meta).chain(loaded.correlations.iter().map(|one| &one.meta));
    let missing = metas.filter_map(|meta| {
        let missing = match runner.seen.get(&meta.key).copied().unwrap_or_default() {
            (true, true) => return None,
            (false, false) => Missing::All,
            (false, true) => Missing::Match,
            (true, false) => Missing::NoMatch,
        };
        Some((meta.key.clone(), missing))
    });
    runner.report.untested = missing.collect();
    runner.report
}

/// The single events that test files write down, for whoever wants to make them happen. What is not understood is left out:
/// [`run_rule_tests`] names it.
#[must_use]
pub fn written_events(tests: &[SourceFile]) -> Vec<model::Event> {
    let mut unread = Vec::new();
    let cases = tests.iter().flat_map(|file| format::read(FileId(0), file, &mut unread));
    cases
        .filter_map(|case| match case.subject {
            Subject::Event(event) => Some(event.draft(Taxonomy::Sigma).ok()?.event().clone()),
            Subject::Sequence(_) => None,
        })
        .collect()
}

/// The sequences that test files write down for a correlation that must come true, each event as often as it is to happen.
#[must_use]
pub fn written_sequences(tests: &[SourceFile]) -> Vec<Vec<model::Event>> {
    let mut unread = Vec::new();
    let cases = tests.iter().flat_map(|file| format::read(FileId(0), file, &mut unread));
    cases
        .filter(|case| matches!(case.expected, Expected::Match))
        .filter_map(|case| match case.subject {
            Subject::Event(_) => None,
            Subject::Sequence(events) => {
                let mut whole = Vec::new();
                for event in &events {
                    let drafted = event.draft(Taxonomy::Sigma).ok()?;
                    whole.extend(event.times().map(|time| drafted.clone().at(time).event().clone()));
                }
                Some(whole)
            }
        })
        .collect()
}

struct Runner<'a> {
    rules: &'a [SourceFile],
    loaded: &'a Loaded,
    matcher: Matcher,
    report: Report,
    /// By the key of each rule and correlation: which kinds of cases there are.
    seen: BTreeMap<String, (bool, bool)>,
}

/// What a case is for: a position in what was loaded.
#[derive(Clone, Copy)]
enum Target {
    Rule(usize),
    Correlation(usize),
}

impl Runner<'_> {
    fn file(&mut self, id: FileId, file: &SourceFile) {
        let cases = format::read(id, file, &mut self.report.diagnostics);
        let beside = file.name.strip_suffix(".test.yml").map(|stem| format!("{stem}.yml"));
        let home = beside.and_then(|name| self.rules.iter().position(|rules| rules.name == name));
        for case in cases {
            let Some(target) = self.target(&case, home) else { continue };
            let outcome = match (&case.subject, target) {
                (Subject::Event(event), Target::Rule(position)) => self.one(position, event, &case),
                (Subject::Sequence(events), Target::Correlation(position)) => {
                    self.sequence(position, events, &case)
                }
                (Subject::Event(_), Target::Correlation(_)) => self.refuse(
                    case.span,
                    "a correlation is tested with `events`, a list",
                    "this has one `event`",
                ),
                (Subject::Sequence(_), Target::Rule(_)) => self.refuse(
                    case.span,
                    "a rule is tested with one `event`",
                    "this has a list, for a correlation",
                ),
            };
            let Some(outcome) = outcome else { continue };
            let rule = match target {
                Target::Rule(position) => self.loaded.rules[position].key().to_owned(),
                Target::Correlation(position) => self.loaded.correlations[position].meta.key.clone(),
            };
            let seen = self.seen.entry(rule.clone()).or_default();
            match case.expected {
                Expected::Match => seen.0 = true,
                Expected::NoMatch => seen.1 = true,
            }
            self.report.results.push(CaseResult {
                file: file.name.clone(),
                rule,
                case: case.name,
                span: case.span,
                outcome,
            });
        }
    }

    fn refuse(&mut self, span: Span, message: &str, label: &str) -> Option<Outcome> {
        self.report.diagnostics.push(Diagnostic::error(Code::BadValue, message, span, label));
        None
    }

    /// The rule or correlation that a case names, else the only one of its kind in the file beside it.
    fn target(&mut self, case: &Case, home: Option<usize>) -> Option<Target> {
        let (rules, correlations) = (&self.loaded.rules, &self.loaded.correlations);
        let all: Vec<(Target, &Meta)> = rules
            .iter()
            .enumerate()
            .map(|(position, rule)| (Target::Rule(position), &rule.meta))
            .chain(
                correlations
                    .iter()
                    .enumerate()
                    .map(|(position, one)| (Target::Correlation(position), &one.meta)),
            )
            .collect();
        if let Some(named) = &case.rule {
            let is_it = |meta: &Meta| {
                let names = [&meta.id, &meta.name];
                meta.key == named.value || names.into_iter().flatten().any(|name| name.value == named.value)
            };
            let found = all.iter().find(|(_, meta)| is_it(meta)).map(|(target, _)| *target);
            if found.is_none() {
                let message = format!("no loaded rule has the id or name `{}`", named.value);
                let known = all.iter().map(|(_, meta)| meta.key.as_str());
                self.report.diagnostics.push(
                    Diagnostic::error(Code::UnknownRule, message, named.span, "")
                        .did_you_mean(&named.value, known),
                );
            }
            return found;
        }
        let wanted = |target: &Target| match case.subject {
            Subject::Event(_) => matches!(target, Target::Rule(_)),
            Subject::Sequence(_) => matches!(target, Target::Correlation(_)),
        };
        let of_home = |meta: &Meta| home.is_some_and(|home| meta.span.file.0 as usize == home);
        let found: Vec<Target> = all
            .iter()
            .filter(|(target, meta)| wanted(target) && of_home(meta))
            .map(|(target, _)| *target)
            .collect();
        if let [only] = found.as_slice() {
            return Some(*only);
        }
        let (message, label) = match found.len() {
            0 => ("there is no rule to test", "this case has none"),
            _ => ("the file beside this one has several rules: which is meant?", "name it with `rule: <id>`"),
        };
        let help = "`name.test.yml` tests the rule of `name.yml` beside it; name another with `rule: <id>`";
        self.report
            .diagnostics
            .push(Diagnostic::error(Code::UnknownRule, message, case.span, label).help(help));
        None
    }

    fn draft(&mut self, event: &Written, taxonomy: Taxonomy) -> Option<Drafted> {
        event.draft(taxonomy).map_err(|diagnostic| self.report.diagnostics.push(*diagnostic)).ok()
    }

    fn one(&mut self, position: usize, event: &Written, case: &Case) -> Option<Outcome> {
        let rule = &self.loaded.rules[position];
        if let Firing::Cannot { why } = &rule.firing
            && case.expected == Expected::Match
        {
            let message = format!("no event can match this rule: {why}");
            return self.refuse(case.span, &message, "so this cannot pass");
        }
        let drafted = self.draft(event, rule.routing.taxonomy)?;
        let hits = self.hits(&drafted);
        let matched = match self.judge(position, &drafted, &hits) {
            Ok(matched) => matched,
            Err(outcome) => return Some(outcome),
        };
        Some(outcome(matched, case.expected, || explain::render(&explain(rule, &drafted.view()))))
    }

    /// Positions of the rules that the compiled matcher finds.
    fn hits(&mut self, drafted: &Drafted) -> Vec<RuleIndex> {
        let mut hits = vec![];
        self.matcher.evaluate_with(drafted.event(), drafted.context(), &mut hits);
        hits
    }

    /// What both engines say of one rule, or that they differ.
    fn judge(&self, position: usize, drafted: &Drafted, hits: &[RuleIndex]) -> Result<bool, Outcome> {
        let rule = &self.loaded.rules[position];
        let view = drafted.view();
        let plainly = reference::matches(rule, &view);
        let quickly = hits.contains(&RuleIndex(u32::try_from(position).unwrap_or(u32::MAX)));
        if plainly == quickly {
            return Ok(plainly);
        }
        Err(Outcome::EnginesDiffer { explanation: explain::render(&explain(rule, &view)) })
    }

    fn sequence(&mut self, position: usize, events: &[Written], case: &Case) -> Option<Outcome> {
        let mut drafts: Vec<Drafted> = vec![];
        for event in events {
            let drafted = self.draft(event, Taxonomy::Sigma)?;
            drafts.extend(event.times().map(|time| drafted.clone().at(time)));
        }
        drafts.sort_by_key(|drafted| drafted.event().time);
        let key = &self.loaded.correlations[position].meta.key;
        let limits = Limits { waiting: drafts.len() * (self.loaded.rules.len() + 1), ..Limits::default() };
        let (mut correlator, _) =
            Correlator::new(&self.loaded.correlations, &self.loaded.rules, limits, (0, 0));
        let mut told = vec![];
        let mut story = String::new();
        for (number, drafted) in drafts.iter().enumerate() {
            let hits = self.hits(drafted);
            for (position, rule) in self.loaded.rules.iter().enumerate() {
                match self.judge(position, drafted, &hits) {
                    Ok(true) => {
                        let _ =
                            writeln!(story, "  {} matches {}", drafted.event().time, rule.meta.title.value);
                        correlator.observe(rule.key(), &drafted.view(), number as u64, &mut told);
                    }
                    Ok(false) => {}
                    Err(outcome) => return Some(outcome),
                }
            }
        }
        correlator.finish(&mut told);
        for one in &told {
            let _ =
                writeln!(story, "  {} correlation {} is true, with {}", one.time, one.correlation, one.value);
        }
        if story.is_empty() {
            story.push_str("  no event matches any rule\n");
        }
        Some(outcome(told.iter().any(|one| one.correlation == *key), case.expected, || story))
    }
}

fn outcome(matched: bool, expected: Expected, explanation: impl FnOnce() -> String) -> Outcome {
    match expected {
        Expected::Match if !matched => Outcome::Failed { expected: "match", explanation: explanation() },
        Expected::NoMatch if matched => Outcome::Failed { expected: "no match", explanation: explanation() },
        _ => Outcome::Passed,
    }
}
