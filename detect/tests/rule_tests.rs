//! Rule tests as data: what passes, what fails and says why.

use hemostat_detect::{
    diagnostic::Code,
    load::Options,
    rule_test::{Missing, Outcome, Report, run_rule_tests},
    source::SourceFile,
};

const RULE: &str = "title: Downloads\nid: d\nlogsource: {product: linux, category: process_creation}\n\
    detection:\n  tool: {Image|endswith: [/curl, /wget]}\n  user: {User: root}\n  condition: tool and not user\n";

fn run(tests: &str) -> Report {
    let rules = [SourceFile { name: "a/d.yml".into(), text: RULE.into() }];
    let tests = [SourceFile { name: "a/d.test.yml".into(), text: tests.into() }];
    run_rule_tests(&rules, &tests, &Options::default())
}

fn case(event: &str, expect: &str) -> String {
    format!("  - name: c\n    event: {{category: process_creation, {event}}}\n    expect: {expect}\n")
}

#[test]
fn cases_pass_and_fail_with_the_reason() {
    let tests = [
        "tests:\n",
        &case("Image: /bin/curl", "match"),
        &case("Image: /bin/curl, User: root", "no match"),
        &case("Image: /bin/sh", "match"),
    ];
    let report = run(&tests.concat());
    assert_eq!(report.diagnostics, []);
    let outcomes: Vec<&Outcome> = report.results.iter().map(|result| &result.outcome).collect();
    assert_eq!(outcomes[..2], [&Outcome::Passed, &Outcome::Passed]);
    let Outcome::Failed { expected: "match", explanation } = outcomes[2] else { panic!("{:?}", outcomes[2]) };
    assert!(explanation.contains("Image one of   the event has `/bin/sh`"), "{explanation}");
    assert!(report.untested.is_empty() && !report.passed());
}

#[test]
fn missing_kinds_of_cases_are_told() {
    assert_eq!(run("tests: []\n").untested, [("d".to_owned(), Missing::All)]);
    let only = run(&["tests:\n", &case("Image: /bin/curl", "match")].concat());
    assert_eq!(only.untested, [("d".to_owned(), Missing::NoMatch)]);
    assert!(only.passed());
}

#[test]
fn mistakes_in_test_files_are_diagnosed() {
    let code = |event: &str| run(&["tests:\n", &case(event, "match")].concat()).diagnostics[0].code;
    assert_eq!(code("Imag: x"), Code::UnknownField);
    assert_eq!(code("TargetFilename: x"), Code::AbsentField);
    assert_eq!(code("ProcessId: x"), Code::BadValue);
    assert_eq!(code("AuditSuccess: 'no'"), Code::BadValue);
    assert_eq!(run("tests:\n  - {name: x, expect: maybe, event: {category: x}}\n").diagnostics.len(), 2);
    assert_eq!(
        run("rule: nope\ntests:\n  - {name: x, expect: match, event: {category: mount}}\n").diagnostics[0]
            .code,
        Code::UnknownRule
    );
}

#[test]
fn correlations_are_tested_with_sequences() {
    let rules = format!(
        "{RULE}---\ntitle: Many\nid: many\ncorrelation: {{type: event_count, rules: [d], group-by: [Uid], timespan: 1m, condition: {{gte: 3}}}}\n"
    );
    let tests = "tests:\n  - name: often\n    events:\n      - {times: 3, category: process_creation, Image: /bin/curl, Uid: 5}\n    expect: match\n\
        \x20 - name: too far apart\n    events:\n      - {times: 2, category: process_creation, Image: /bin/curl, Uid: 5}\n      - {at: 2m, category: process_creation, Image: /bin/curl, Uid: 5}\n    expect: no match\n\
        \x20 - name: fails\n    events: [{category: process_creation, Image: /bin/curl}]\n    expect: match\n";
    let rules = [SourceFile { name: "a/d.yml".into(), text: rules }];
    let tests = [SourceFile { name: "a/d.test.yml".into(), text: tests.into() }];
    let report = run_rule_tests(&rules, &tests, &Options::default());
    assert_eq!(report.diagnostics, []);
    let outcomes: Vec<&Outcome> = report.results.iter().map(|result| &result.outcome).collect();
    assert_eq!(outcomes[..2], [&Outcome::Passed, &Outcome::Passed]);
    assert!(
        matches!(outcomes[2], Outcome::Failed { explanation, .. } if explanation.contains("matches Downloads"))
    );
    assert_eq!(report.untested, [("d".to_owned(), Missing::All)]);
}
