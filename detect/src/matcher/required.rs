//! Literals without which a regular expression cannot match, so that it need not be run on every event.

use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind},
};

use crate::{ast::RegexFlags, text::fold_char};

/// Most alternatives that are followed; beyond it the expression is taken to require nothing.
const MAX_ALTERNATIVES: usize = 48;

/// Folded texts of which each match contains at least one; `None` if no such set was found. Each has at least two
/// bytes.
pub(crate) fn required_literals(source: &str, flags: RegexFlags) -> Option<Vec<String>> {
    let hir = ParserBuilder::new()
        .case_insensitive(flags.ignore_case)
        .multi_line(flags.multi_line)
        .dot_matches_new_line(flags.dot_all)
        .build()
        .parse(source)
        .ok()?;
    best_of(&hir).filter(|set| worth(set) >= 2)
}

/// Texts of which one occurs, and whether each is all that the expression matches (so that a neighbour can be joined).
#[derive(Debug, Clone)]
enum Texts {
    /// The match is exactly one of these.
    Exact(Vec<String>),
    /// The match contains one of these.
    Inside(Option<Vec<String>>),
}

/// The shortest text of a set decides how rare it is.
fn worth(set: &[String]) -> usize {
    set.iter().map(String::len).min().unwrap_or(0)
}

fn better(one: Option<Vec<String>>, other: Option<Vec<String>>) -> Option<Vec<String>> {
    match (one, other) {
        (Some(one), Some(other)) => {
            let key = |set: &[String]| (worth(set), usize::MAX - set.len());
            Some(if key(&one) >= key(&other) { one } else { other })
        }
        (one, other) => one.or(other),
    }
}

fn best_of(hir: &Hir) -> Option<Vec<String>> {
    match texts(hir) {
        Texts::Exact(set) => Some(set),
        Texts::Inside(set) => set,
    }
}

fn texts(hir: &Hir) -> Texts {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Texts::Exact(vec![String::new()]),
        HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
            Ok(text) => Texts::Exact(vec![text.chars().map(fold_char).collect()]),
            Err(_) => Texts::Inside(None),
        },
        HirKind::Class(class) => class_texts(class),
        HirKind::Capture(capture) => texts(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min == 0 => Texts::Inside(None),
        HirKind::Repetition(repetition) => {
            let once = texts(&repetition.sub);
            match (once, repetition.min, repetition.max) {
                (Texts::Exact(set), 1, Some(1)) => Texts::Exact(set),
                (Texts::Exact(set), ..) => Texts::Inside(Some(set)),
                (inside, ..) => inside,
            }
        }
        HirKind::Alternation(parts) => {
            let (mut set, mut exact) = (Vec::new(), true);
            for part in parts {
                match texts(part) {
                    Texts::Exact(more) => set.extend(more),
                    Texts::Inside(Some(more)) => {
                        exact = false;
                        set.extend(more);
                    }
                    Texts::Inside(None) => return Texts::Inside(None),
                }
                if set.len() > MAX_ALTERNATIVES {
                    return Texts::Inside(None);
                }
            }
            if exact { Texts::Exact(set) } else { Texts::Inside(Some(set)) }
        }
        HirKind::Concat(parts) => concatenation(parts),
    }
}

/// Runs of neighbours that are known exactly are multiplied out; the best run is what is required.
fn concatenation(parts: &[Hir]) -> Texts {
    let mut best = None;
    let mut run = vec![String::new()];
    let mut exact = true;
    for part in parts {
        match texts(part) {
            Texts::Exact(set) if run.len() * set.len() <= MAX_ALTERNATIVES => {
                run =
                    run.iter().flat_map(|head| set.iter().map(move |tail| format!("{head}{tail}"))).collect();
            }
            Texts::Exact(set) => {
                exact = false;
                best = better(best, Some(std::mem::replace(&mut run, set)));
            }
            Texts::Inside(inner) => {
                exact = false;
                best = better(best, Some(std::mem::replace(&mut run, vec![String::new()])));
                best = better(best, inner);
            }
        }
    }
    if exact { Texts::Exact(run) } else { Texts::Inside(better(best, Some(run))) }
}

/// A class of few characters, folded: `[Cc]` is one text, `[ab]` are two.
fn class_texts(class: &Class) -> Texts {
    let Class::Unicode(class) = class else { return Texts::Inside(None) };
    let mut set: Vec<String> = Vec::new();
    for range in class.iter() {
        if u32::from(range.end()) - u32::from(range.start()) > 4 {
            return Texts::Inside(None);
        }
        for c in range.start()..=range.end() {
            let text = fold_char(c).to_string();
            if !set.contains(&text) {
                set.push(text);
            }
        }
        if set.len() > 4 {
            return Texts::Inside(None);
        }
    }
    if set.is_empty() { Texts::Inside(None) } else { Texts::Exact(set) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::fold;

    fn of(source: &str) -> Option<Vec<String>> {
        required_literals(source, RegexFlags::default())
    }

    #[test]
    fn finds_what_every_match_contains() {
        assert_eq!(of(r"curl\s+-k"), Some(vec!["curl".into()]));
        assert_eq!(of(r"(?:nc|ncat)\s.*-e\b"), Some(vec!["-e".into()]));
        assert_eq!(of(r"(?:nc|ncat)\s.*e\b"), Some(vec!["nc".into(), "ncat".into()]));
        assert_eq!(of(r"/dev/(tcp|udp)/\d+"), Some(vec!["/dev/tcp/".into(), "/dev/udp/".into()]));
        assert_eq!(of(r"[Ww]get"), Some(vec!["wget".into()]));
        assert_eq!(of(r"\d+"), None);
        assert_eq!(of(r"(foo)?.*"), None);
        let flags = RegexFlags { ignore_case: true, ..RegexFlags::default() };
        assert_eq!(required_literals("WGET", flags), Some(vec!["wget".into()]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

        #[test]
        fn every_match_contains_one(
            pieces in prop::collection::vec(prop::sample::select(&[
                "a", "b", "[ab]", "[ABc]", "ab", "\\.", "b+", "a?", "(a|bc)", "(ab)?", "(?:ab|C)+", ".*", "\\s", "^", "$",
                "\\b", "a{2}", "(?:bc){2,3}", "k", "(?i:k)", "(?:)", "(ab|.)", "[^a]",
            ][..]), 1..6),
            ignore_case in any::<bool>(),
            text in "[abcABC. k\u{212a}]{0,8}",
        ) {
            let flags = RegexFlags { ignore_case, ..RegexFlags::default() };
            let source = pieces.concat();
            let regex = regex::RegexBuilder::new(&source).case_insensitive(ignore_case).build().expect("pieces of expressions");
            if let Some(set) = required_literals(&source, flags)
                && regex.is_match(&text)
            {
                prop_assert!(set.iter().any(|literal| fold(&text).contains(literal)), "{source} {text} {set:?}");
            }
        }
    }
}
