//! Any text as a test file for a fixed rule: never a panic.
#![no_main]

use detect::{load::Options, rule_test::run_rule_tests, source::SourceFile};
use libfuzzer_sys::fuzz_target;

const RULE: &str = "title: t\nid: t\nlogsource: {product: linux, category: process_creation}\n\
    detection: {s: {Image|endswith: /sh, CommandLine|contains: x}, condition: s}\n";

fuzz_target!(|text: &str| {
    let rules = [SourceFile { name: "r.yml".into(), text: RULE.into() }];
    let tests = [SourceFile { name: "r.test.yml".into(), text: text.into() }];
    let _ = run_rule_tests(&rules, &tests, &Options::default());
});
