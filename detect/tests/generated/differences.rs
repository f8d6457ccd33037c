//! The differences from rsigma-eval 0.23 that docs/sigma.md lists, on both engines.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use hemostat_detect::{
    load::load,
    reference,
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};
use rsigma_eval::{Engine, JsonEvent};

/// (ours, rsigma's) answer to a detection about a command line.
fn both(detection: &str, line: &str) -> (bool, bool) {
    let text = format!(
        "title: t\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n  s:\n    {detection}\n  condition: s\n"
    );
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: text.clone() }]);
    let event =
        Drafted::new(Category::ProcessCreation, &[(Field::CommandLine, DraftValue::One(line.into()))])
            .unwrap();
    let ours = reference::matches(&loaded.rules[0], &event.view());
    let mut engine = Engine::new();
    engine.add_collection(&rsigma_parser::parse_sigma_yaml(&text).unwrap()).unwrap();
    let json = serde_json::json!({ "CommandLine": line });
    (ours, !engine.evaluate(&JsonEvent::borrow(&json)).is_empty())
}

#[test]
fn the_documented_differences_are_these() {
    // The shell's path, encoded with something before and after it.
    let encoded = "eC9iaW4vc2h5";
    assert_eq!(both("CommandLine|startswith: 'a*c'", "abcd"), (true, false));
    assert_eq!(both("CommandLine|endswith: 'b*d'", "abcd"), (true, false));
    assert_eq!(both("CommandLine|base64offset|contains: '/bin/sh'", encoded), (true, false));
    // `contains` is what looks anywhere; without it the whole field is compared.
    assert_eq!(both("CommandLine|base64offset: '/bin/sh'", "x L2Jpbi9za x"), (false, false));
    assert_eq!(both("CommandLine|base64offset: '/bin/sh'", "x L2Jpbi9zaA x"), (false, true));
    assert_eq!(both("CommandLine|base64offset|endswith: '/bin/sh'", "L2Jpbi9zaA x"), (false, true));
    assert_eq!(both("CommandLine|wide: ab", "a\0b\0"), (true, false));
    assert_eq!(both("CommandLine|wide: ab", "ab"), (false, true));
    assert_eq!(both("CommandLine|windash|contains: ' /x'", "a -x"), (true, false));
    assert_eq!(both("'|all': [ab, cd]", "abcd"), (true, false));
    assert_eq!(both("Tty|neq: x", "a"), (true, false));
    assert_eq!(both("CommandLine|contains: true", "x true x"), (true, false));
    assert_eq!(both("'|all': ['', a]", "a"), (true, false));
}

/// Keywords look into the declared text fields here, into every text there.
#[test]
fn keywords_look_into_the_texts_of_a_log_message() {
    let text = "title: t\nlogsource: {product: linux, category: process_creation}\ndetection: {k: [needle], condition: k}\n";
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: text.to_owned() }]);
    let event =
        Drafted::new(Category::ProcessCreation, &[(Field::Tty, DraftValue::One("needle".into()))]).unwrap();
    let mut engine = Engine::new();
    engine.add_collection(&rsigma_parser::parse_sigma_yaml(text).unwrap()).unwrap();
    let json = serde_json::json!({ "Tty": "a needle" });
    assert!(!reference::matches(&loaded.rules[0], &event.view()));
    assert!(!engine.evaluate(&JsonEvent::borrow(&json)).is_empty());
}

/// "An integer or float threshold".
#[test]
fn thresholds_of_correlations_may_have_fractions() {
    let text = "title: a\nname: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /a}, condition: s}\n---\n\
        title: c\nname: c\ncorrelation: {type: value_avg, rules: [a], group-by: [User], timespan: 60s, condition: {field: ProcessId, gte: 3.5}}\n";
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: text.to_owned() }]);
    assert_eq!((loaded.errors(), loaded.correlations[0].condition.bounds[0].than), (0, 3.5));
    let theirs = rsigma_parser::parse_sigma_yaml(text);
    assert!(
        theirs.is_err_and(|_| true)
            || rsigma_parser::parse_sigma_yaml(text).is_ok_and(|all| all.correlations.is_empty())
    );
}
