//! The rules that we ship, against the interpreter: on the events that their own tests have written down (of every source: kernel, audit,
//! logins, flows, clouds), and on events made from each rule with its near misses.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::path::Path;

use hemostat_detect::{load::load, plan, rule_test::written_events, schema::Category, source::SourceFile};

use crate::{by_reference, compile, from_rule, hits};

#[test]
fn shipped_rules_find_what_the_interpreter_finds_on_written_and_made_events() {
    let (mut rules, mut tests) = (Vec::new(), Vec::new());
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules"), &mut rules, &mut tests);
    let loaded = load(&rules);
    assert_eq!(loaded.errors(), 0);
    let rules = loaded.rules;
    let set = compile(&rules);
    let mut matcher = set.matcher();
    let written = written_events(&tests);
    assert!(written.len() >= 1000, "only {} events are written down", written.len());
    let made = rules.iter().enumerate().flat_map(|(index, rule)| from_rule::events(rule, index as u64));
    let (mut events, mut hit, mut categories) = (0_usize, 0_usize, std::collections::BTreeSet::new());
    for event in written.into_iter().chain(made) {
        let expected = by_reference(&rules, &event);
        // The second time the caches answer.
        for _ in 0..2 {
            assert_eq!(hits(&mut matcher, &event), expected, "{event:#?}");
        }
        // I1: what comes from the kernel at all must come through its filter
        let filtered = Category::of(&event).class().is_some() && !plan::passes(set.plan(), &event);
        assert!(expected.is_empty() || !filtered, "not passed: {event:#?}");
        events += 1;
        hit += usize::from(!expected.is_empty());
        if !expected.is_empty() {
            categories.insert(format!("{:?}", Category::of(&event)));
        }
    }
    assert!(hit * 4 > events, "{hit} of {events} events hit");
    assert!(categories.len() >= 8, "only events of {categories:?} hit");
}

/// Rules and their tests.
fn collect(folder: &Path, rules: &mut Vec<SourceFile>, tests: &mut Vec<SourceFile>) {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, rules, tests);
        } else if name.ends_with(".yml") {
            let text = std::fs::read_to_string(&path).expect("a file");
            let list = if name.ends_with(".test.yml") { &mut *tests } else { &mut *rules };
            list.push(SourceFile { name, text });
        }
    }
}
