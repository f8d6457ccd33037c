//! Sigma filters: which rules they reach, and what they do to them, on the interpreter and compiled.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use hemostat_detect::{
    diagnostic::{Code, Colour, Severity, render},
    load::{Loaded, load},
    matcher::{Options, RuleIndex, RuleSet},
    plan, reference,
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};

fn rule(id: &str, logsource: &str, detection: &str) -> String {
    format!(
        "title: {id}\nid: {id}\nname: name_of_{id}\nlogsource: {{{logsource}}}\ndetection: {{{detection}}}\n---\n"
    )
}

fn filter(id: &str, logsource: &str, body: &str) -> String {
    format!("title: {id}\nid: {id}\nlogsource: {{{logsource}}}\nfilter: {{{body}}}\n---\n")
}

const EXEC: &str = "product: linux, category: process_creation";
const NOT_ROOT: &str = "root: {User: root}, condition: not root";

fn read(texts: &[String]) -> Loaded {
    let files = [SourceFile { name: "rules/r.yml".into(), text: texts.concat() }];
    let loaded = load(&files);
    assert_eq!(loaded.errors(), 0, "{}", render(&loaded.diagnostics, &files, Colour::Plain));
    loaded
}

/// Ids of the rules that find an exec of this image by this user; both engines and the kernel's plan agree.
fn found(loaded: &Loaded, image: &str, user: &str) -> Vec<String> {
    let fields = [(Field::Image, image), (Field::User, user)];
    let fields = fields.map(|(field, text)| (field, DraftValue::One(text.to_owned())));
    let event = Drafted::new(Category::ProcessCreation, &fields).unwrap();
    let set = Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0);
    let mut hits = vec![];
    set.matcher().evaluate(event.event(), &mut hits);
    let plainly = |(_, rule): &(usize, &hemostat_detect::ast::Rule)| reference::matches(rule, &event.view());
    let wanted: Vec<RuleIndex> =
        loaded.rules.iter().enumerate().filter(plainly).map(|(at, _)| RuleIndex(at as u32)).collect();
    assert_eq!(hits, wanted);
    assert!(hits.is_empty() || plan::passes(set.plan(), event.event()), "I1");
    hits.iter().map(|hit| loaded.rules[hit.0 as usize].key().to_owned()).collect()
}

/// By id, by name, in a list, alone, or `any`: rules of its logsource or a narrower one.
#[test]
fn a_filter_reaches_the_rules_it_names_within_its_logsource() {
    let rules = [
        rule("exec", EXEC, "s: {Image: /a}, condition: s"),
        rule("all", "product: linux", "s: {Image: /a}, condition: s"),
        rule("audited", "product: linux, service: auditd", "s: {exe: /a}, condition: s"),
    ]
    .concat();
    for (logsource, targets, reached) in [
        (EXEC, "[exec]", &["exec"][..]),
        (EXEC, "exec", &["exec"]),
        (EXEC, "[name_of_exec]", &["exec"]),
        ("product: linux", "[exec, audited]", &["audited", "exec"]),
        ("product: linux", "any", &["all", "audited", "exec"]),
        ("product: LINUX", "ANY", &["all", "audited", "exec"]),
        (EXEC, "any", &["exec"]),
        ("product: linux, service: auditd", "any", &["audited"]),
        // Named, but its logsource is wider than the filter's: the filter's fields may mean something else there.
        (EXEC, "[all]", &[]),
        ("product: linux, category: file_event", "any", &[]),
    ] {
        let loaded = read(&[rules.clone(), filter("f", logsource, &format!("rules: {targets}, {NOT_ROOT}"))]);
        let mut filtered: Vec<&str> =
            loaded.rules.iter().filter(|rule| rule.filters == ["f"]).map(|rule| rule.key()).collect();
        filtered.sort_unstable();
        assert_eq!(filtered, reached, "{logsource} {targets}");
        // A rule that is named and not reached is told.
        let told = loaded
            .diagnostics
            .iter()
            .filter(|one| one.message.contains("does not reach the rule `all`"))
            .count();
        assert_eq!(
            (told, loaded.diagnostics.len()),
            (usize::from(targets == "[all]"), told),
            "{:?}",
            loaded.diagnostics
        );
        let mut left = found(&loaded, "/a", "root");
        left.sort_unstable();
        let wanted: Vec<&str> =
            ["all", "audited", "exec"].into_iter().filter(|id| !reached.contains(id)).collect();
        assert_eq!(left, wanted, "{logsource} {targets}");
        assert_eq!(found(&loaded, "/a", "1000").len(), 3);
        assert!(found(&loaded, "/b", "1000").is_empty());
    }
}

/// "Any" in a list is no wildcard but a name, and no rule has it.
#[test]
fn a_filter_of_an_unknown_rule_warns_and_reaches_the_others() {
    let text = rule("exec", EXEC, "s: {Image: /a}, condition: s")
        + &filter("f", EXEC, &format!("rules: [nobody, exec], {NOT_ROOT}"));
    let files = [SourceFile { name: "rules/r.yml".into(), text }];
    let loaded = load(&files);
    let [warning] = loaded.diagnostics.as_slice() else { panic!("{:?}", loaded.diagnostics) };
    assert_eq!((warning.code, warning.severity), (Code::UnknownRule, Severity::Warning));
    assert_eq!(warning.place(&files), Some(("rules/r.yml", 10, 18)));
    assert!(found(&loaded, "/a", "root").is_empty() && found(&loaded, "/a", "1") == ["exec"]);
}

/// Identifiers of a filter are its own: neither the rule's `of them` nor its patterns see them, nor the other way round.
#[test]
fn a_filters_identifiers_do_not_mix_with_the_rules() {
    let rules = rule("any", EXEC, "sel_a: {Image: /a}, sel_b: {Image: /b}, condition: 1 of sel*")
        + &rule("them", EXEC, "sel_a: {Image: /a}, other: {User: root}, condition: all of them")
        + &rule("either", EXEC, "sel_a: {Image: /a}, sel_b: {Image: /b}, condition: [sel_a, sel_b]");
    let filters =
        filter("f", EXEC, "rules: any, sel_a: {User: 65534}, sel_x: {Image: /x}, condition: not 1 of them")
            + &filter("g", EXEC, "rules: [either], sel_a: {User: 5}, condition: not sel_a");
    let loaded = read(&[rules, filters]);
    assert_eq!(found(&loaded, "/a", "root"), ["any", "them", "either"]);
    assert_eq!(found(&loaded, "/b", "5"), ["any"], "the second filter holds for each condition of its rule");
    assert_eq!(found(&loaded, "/b", "6"), ["any", "either"]);
    assert!(found(&loaded, "/a", "65534").is_empty());
    assert_eq!(loaded.rules[2].filters, ["f", "g"]);
}

/// Several conditions of a filter are alternatives, as those of a rule are.
#[test]
fn conditions_of_a_filter_are_alternatives() {
    let loaded = read(&[
        rule("t", EXEC, "s: {Image: /a}, condition: s"),
        filter("f", EXEC, "rules: [t], x: {User: 1}, y: {User: 2}, condition: [not x, y]"),
    ]);
    let of = |user: &str| found(&loaded, "/a", user).len();
    assert_eq!((of("1"), of("2"), of("3")), (0, 1, 1));
}

/// A filter that is wrong is refused with its place; rules and other filters load.
#[test]
fn a_wrong_filter_is_refused_alone() {
    for (body, code, said) in [
        (NOT_ROOT.to_owned(), Code::Missing, "`filter` has no `rules`"),
        ("rules: [t], root: {User: root}".to_owned(), Code::Missing, "`filter` has no `condition`"),
        ("rules: [t], root: {User: root}, condition: not toor".to_owned(), Code::UnknownIdentifier, "toor"),
        (format!("rules: [], {NOT_ROOT}"), Code::BadValue, "`rules` is empty"),
        (
            "rules: [t], root: {User|containz: root}, condition: not root".to_owned(),
            Code::UnknownModifier,
            "containz",
        ),
        (
            "rules: [t], root: {User|expand: '%nobody%'}, condition: not root".to_owned(),
            Code::UnknownPlaceholder,
            "nobody",
        ),
    ] {
        let text = rule("t", EXEC, "s: {Image: /a}, condition: s")
            + &filter("f", EXEC, &body)
            + &filter("g", EXEC, &format!("rules: [t], {NOT_ROOT}"));
        let files = [SourceFile { name: "rules/r.yml".into(), text }];
        let loaded = load(&files);
        assert_eq!(loaded.errors(), 1, "{body}: {}", render(&loaded.diagnostics, &files, Colour::Plain));
        let error = loaded.diagnostics.iter().find(|one| one.severity == Severity::Error).unwrap();
        assert!(error.code == code && error.message.contains(said), "{body}: {error:?}");
        assert_eq!(error.place(&files).map(|(_, line, _)| line), Some(10), "{body}");
        assert_eq!((loaded.rules.len(), loaded.filters.len()), (1, 1));
        assert!(found(&loaded, "/a", "root").is_empty(), "the other filter is in force");
    }
}
